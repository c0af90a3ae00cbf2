"""Checks of a fit: which rows and draws are looked at, and what a reference is run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import Draws, trace_program
from ppl_zoo.diagnostics.check import Check, check_draws
from ppl_zoo.diagnostics.khat import khat
from ppl_zoo.diagnostics.row_check import RowCheck
from ppl_zoo.diagnostics.row_check import check_rows as compare_rows
from ppl_zoo.evaluation.active_units import LatentUse, latent_use
from ppl_zoo.fitting import run as fitting
from ppl_zoo.fitting.result import Fit

__all__ = ["check", "check_rows"]

#: rows that are looked at one by one where each has latents of its own
LOOKED_AT = 30


def check(fit: Fit, reference: Any, num_samples: int) -> Check:
    """Measure how good the answer is; see :meth:`Fit.check`."""
    rows, use = _looked_at(fit)
    if hasattr(reference, "solve"):
        reference = _solved_by(fit, reference, fit.data() if rows is None else rows.all())
    if isinstance(reference, Fit):
        reference = reference.posterior(10**9 if reference.solution.draws else num_samples)
    if use is None:
        drawn, data = fit.posterior(num_samples), fit.data()
        sampled = fit.solution.draws is not None
        khats = [np.nan] * len(fit.solution.stopped) if sampled else fit.khat(num_samples)
    else:
        chains = fit.draws(num_samples, rows)
        drawn = {k: torch.stack([d.values[k] for d in chains]) for k in chains[0].values}
        khats, data = [_khat_of_rows(d) for d in chains], rows.all()
    sites = fit.model.sites(*data)
    observed = {
        name: trace_program(fit.model, data).nodes[name]["value"]
        for name, site in sites.items()
        if site.kind == "observed"
    }
    with fit.model.defaults():
        best = fit.replicates(min(num_samples, 1000), rows)[fit.solution.best]
    guide = type(fit.guide).__name__
    return check_draws(
        _arrays(drawn),
        khat=khats,
        num_weights=num_samples,
        reference=None if reference is None else _arrays(reference),
        replicates=_arrays(best),
        observed=_arrays(observed),
        mean_field=guide == "AutoNormal",
        active=None if use is None else use.active.cpu().numpy(),
    )


def check_rows(fit: Fit, data: tuple, reference: Any, num_samples: int) -> RowCheck:
    """Hold the guide's posterior of rows against a sampler's; see :meth:`Fit.check_rows`."""
    rows = fit.model.as_rows(data)
    fit.model.check_data(rows)
    if not _guesses_rows(fit, rows):
        raise QueryError(
            f"{type(fit.model).__name__}: its guide draws no continuous latents of rows that "
            "it is shown; check() looks at those of the fit"
        )
    chosen = Fit(fit.model, fit.solver, fit.solution, rows, seed=fit.seed, seconds=fit.seconds)
    sampled = None if reference is None else _solved_by(fit, reference, rows.all())
    return compare_rows(chosen, sampled, num_samples)


def _solved_by(fit: Fit, solver: Any, data: tuple[Tensor, ...]) -> Fit:
    """Let another solver find the latents of some rows, at the same parameters."""
    own = fit.model.fresh()
    own.load_state_dict(fit.model.state_dict())
    own.remember(fit.model.as_rows(data), fit.guide)
    return fitting.fit(own, data, solver, device=fit.model.device, seed=fit.seed, progress=False)


def _guesses_rows(fit: Fit, rows: Rows) -> bool:
    """Whether the guide takes any rows, and draws continuous latents of each by itself."""
    guide = fit.model.guide
    if guide is None or fit.guide != guide or fit.solution.draws is not None:
        return False
    sites = fit.model.sites(*rows.all()).values()
    latent = [s for s in sites if s.kind == "latent"]
    plate = fit.model.data_plate
    local = latent and all(s.is_local(plate) and not s.discrete for s in latent)
    return bool(local) and not fit.solution.summed_out


def _looked_at(fit: Fit) -> tuple[Rows | None, LatentUse | None]:
    """Choose rows to check, and what their latents carry, under a guide that takes any rows.

    Latents of single rows do not depend on each other there, and there may be millions.
    """
    if fit.rows is None:
        return None, None  # a run without its data, which is said where they are asked for
    some = fit.model.as_rows(fit.rows.spread(LOOKED_AT))
    if not _guesses_rows(fit, some):
        return None, None
    return some, latent_use(fit.model, *fit.rows.spread(2000))


def _khat_of_rows(draws: Draws) -> float:
    """Pareto k-hat that nine of ten rows are below."""
    if draws.log_joint_rows is None or draws.log_guide_rows is None:
        return np.nan
    each = [khat(w) for w in (draws.log_joint_rows - draws.log_guide_rows).mT]
    return float(np.nanquantile(each, 0.9)) if np.isfinite(each).any() else np.nan


def _arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v.cpu() if isinstance(v, Tensor) else v) for k, v in tensors.items()}
