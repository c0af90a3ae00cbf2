"""Checks of a fit: the rows and draws that are measured, and the reference beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.functions import module_of
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solver import Solver
from ppl_zoo.core.tracing import first_run
from ppl_zoo.diagnostics.check import Check, SolverDiagnostics, check_draws
from ppl_zoo.diagnostics.row_check import RowCheck
from ppl_zoo.diagnostics.row_check import check_rows as compare_rows
from ppl_zoo.evaluation.active_units import LatentUse, latent_use

__all__ = ["check", "check_rows"]

#: rows whose local latents are checked one by one, and rows that active units are counted on
NUM_CHECKED_ROWS, NUM_ROWS_FOR_ACTIVITY = 30, 2000
#: draws of the posterior predictive distribution for the predictive checks
MAX_REPLICATES = 1000
#: asks a sampler for all the draws it has
ALL_DRAWS = 10**9

Reference = Solver | FittedModel | Mapping[str, Any] | None


def check(fit: FittedModel, reference: Reference, num_samples: int) -> Check:
    """Check a fit; see :meth:`ppl_zoo.Fit.check`."""
    rows, use = _checked_rows(fit)
    if isinstance(reference, Solver):
        fit.data()  # says what is missing where a run holds no data
        reference = fit.solved_by(reference, fit.rows if rows is None else rows)
    if isinstance(reference, FittedModel):
        reference = reference.posterior(ALL_DRAWS if reference.solution.draws else num_samples)
    sampled = fit.solution.draws is not None
    chains = [] if sampled else fit.draws(num_samples, rows)
    if sampled:
        drawn = fit.posterior(num_samples)
    else:
        drawn = {k: torch.stack([d.values[k] for d in chains]) for k in chains[0].values}
    data = fit.data() if rows is None else rows.all()
    by_row = [d.log_weight_rows for d in chains]
    weights = [d.log_weight for d in chains]
    latent = bool(drawn) and not sampled
    with fit.model.defaults():
        nodes = first_run(fit.model, data).nodes
    varying = [
        name
        for name, site in fit.model.sites(*data).items()
        if site.kind == "latent" and not site.discrete and not _is_point(nodes[name])
    ]
    solver = SolverDiagnostics(
        stopped=fit.solution.stopped,
        converges=not sampled,
        log_weights=torch.stack(weights) if latent and use is None else None,
        row_log_weights=[w for w in by_row if w is not None] if use is not None else (),
        diverging=fit.solution.sample_stats.get("diverging"),
        mean_field=type(module_of(fit.guide)).__name__ == "AutoNormal",
        active=None if use is None else use.active.cpu().numpy(),
        constant=[n for n in varying if n in drawn and (drawn[n] == drawn[n][:1, :1]).all()],
    )
    with fit.model.defaults():
        best = fit.replicates(min(num_samples, MAX_REPLICATES), rows)[fit.solution.best]
    observed = {
        name: nodes[name]["value"]
        for name, site in fit.model.sites(*data).items()
        if site.kind == "observed"
    }
    return check_draws(
        _arrays(drawn),
        solver,
        reference=None if reference is None else _arrays(reference),
        replicates=_arrays(best),
        observed=_arrays(observed),
    )


def _is_point(node: Mapping[str, Any]) -> bool:
    """Whether the prior of a latent is a point itself."""
    prior = node["fn"]
    while hasattr(prior, "base_dist"):
        prior = prior.base_dist
    return isinstance(prior, dist.Delta)


def check_rows(
    fit: FittedModel, data: tuple[Any, ...], reference: Solver | None, num_samples: int
) -> RowCheck:
    """Check the guide's posterior of rows against a sampler's; see :meth:`Fit.check_rows`."""
    rows = fit.model.checked_rows(*data)
    if not _is_amortised(fit, rows):
        raise QueryError(
            f"{fit.model.model_name}: its guide draws no continuous latents of rows that "
            "it is shown; check() looks at those of the fit"
        )
    sampled = None if reference is None else fit.solved_by(reference, rows)
    return compare_rows(fit.on(rows), sampled, num_samples)


def _is_amortised(fit: FittedModel, rows: Rows) -> bool:
    """Whether the guide takes any rows, and draws continuous local latents of each alone."""
    guide = fit.model.guide
    if guide is None or fit.guide != guide or fit.solution.draws is not None:
        return False
    sites = fit.model.sites(*rows.all()).values()
    latent = [s for s in sites if s.kind == "latent"]
    plate = fit.model.data_plate
    local = latent and all(s.is_local(plate) and not s.discrete for s in latent)
    return bool(local) and not fit.solution.summed_out


def _checked_rows(fit: FittedModel) -> tuple[Rows | None, LatentUse | None]:
    """Rows to check under an amortised guide, and the activity of their latents.

    Local latents do not depend on each other there, and there may be millions. None where the
    whole posterior is checked.
    """
    if fit.rows is None:
        return None, None  # a run without its data, which is said where they are asked for
    some = fit.model.rows_of(fit.rows.spread(NUM_CHECKED_ROWS))
    if not _is_amortised(fit, some):
        return None, None
    return some, latent_use(fit.model, *fit.rows.spread(NUM_ROWS_FOR_ACTIVITY))


def _arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v.cpu() if isinstance(v, Tensor) else v) for k, v in tensors.items()}
