"""Checks of a fit: the rows and draws that are measured, and the reference beside them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError, DataError, QueryError
from ppl_zoo.core.functions import module_of
from ppl_zoo.core.model import Model
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.core.tracing import first_run
from ppl_zoo.diagnostics.check import Check, check_draws, refused_by_weights
from ppl_zoo.diagnostics.row_check import RowCheck
from ppl_zoo.diagnostics.row_check import check_rows as compare_rows
from ppl_zoo.diagnostics.verdicts import Drift, HeldOutScores, SolverDiagnostics
from ppl_zoo.evaluation.active_units import LatentUse, latent_use
from ppl_zoo.evaluation.short_chains import run_short_chains
from ppl_zoo.solvers.em import EM

__all__ = ["check", "check_rows"]

#: rows whose local latents are checked one by one, and rows that active units are counted on
NUM_CHECKED_ROWS, NUM_ROWS_FOR_ACTIVITY = 30, 2000
#: rows of the fit and held-out rows whose log density is taken, each; and the least rows of a
#: fit that is done again without a tenth of them
NUM_SCORED_ROWS, MIN_ROWS_TO_REFIT = 1000, 50
#: the same, where a log density is estimated by importance sampling
NUM_ESTIMATED_ROWS = 200
#: draws of the posterior predictive distribution for the predictive checks, at most and at least,
#: and the numbers that they may take; rows that are drawn anew of a model whose rows are
#: independent given its parameters
MAX_REPLICATES, MIN_REPLICATES, MAX_REPLICATE_NUMBERS = 1000, 200, 2**23
NUM_REPLICATED_ROWS = 300
#: asks a sampler for all the draws it has
ALL_DRAWS = 10**9

Reference = Solver | FittedModel | Mapping[str, Any] | None


def check(fit: FittedModel, reference: Reference, num_samples: int) -> Check:
    """Check a fit; see :meth:`ppl_zoo.Fit.check`."""
    restarts, found_it = len(fit.solution.stopped), fit.solution.num_at_best
    sampled = fit.solution.draws is not None
    points = not sampled and _has_points(fit)
    if points and restarts > 1:
        fit = fit.alone()
    rows, use = _checked_rows(fit, points)
    if isinstance(reference, Solver):
        fit.data()  # says what is missing where a run holds no data
        reference = fit.solved_by(reference, fit.rows if rows is None else rows)
    if isinstance(reference, FittedModel):
        reference = reference.posterior(ALL_DRAWS if reference.solution.draws else num_samples)
    chains = [] if sampled else fit.draws(num_samples, rows)
    if sampled:
        drawn = fit.posterior(num_samples)
    else:
        drawn = {k: torch.stack([d.values[k] for d in chains]) for k in chains[0].values}
    data = fit.data() if rows is None else rows.all()
    by_row = [d.log_weight_rows for d in chains]
    weights = [d.log_weight for d in chains]
    latent = bool(drawn) and not sampled
    drifts: Mapping[str, Drift] = {}
    if latent and use is None and len(weights) == 1 and refused_by_weights(weights[0]):
        drifts = run_short_chains(fit)
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
        drifts=drifts,
        mean_field=type(module_of(fit.guide)).__name__ == "AutoNormal",
        active=None if use is None else use.active.cpu().numpy(),
        constant=[n for n in varying if n in drawn and (drawn[n] == drawn[n][:1, :1]).all()],
        restarts=None if sampled or restarts == 1 else (found_it, restarts),
    )
    if points and fit.model.any_rows and len(fit.rows) > NUM_REPLICATED_ROWS:
        rows = fit.model.rows_of(fit.rows.spread(NUM_REPLICATED_ROWS))
        data = rows.all()
        with fit.model.defaults():
            nodes = first_run(fit.model, data).nodes
    numbers = sum(n["value"].numel() for n in nodes.values() if n.get("is_observed"))
    most = max(MIN_REPLICATES, min(MAX_REPLICATES, MAX_REPLICATE_NUMBERS // max(numbers, 1)))
    with fit.model.defaults():
        best = fit.replicates(min(num_samples, most), rows)[fit.solution.best]
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
        held_out=_held_out(fit),
    )


def _has_points(fit: FittedModel) -> bool:
    """Whether all latents are local, if there are any, so that the parameters are points."""
    if fit.rows is None:
        return False  # which is said where the data are asked for
    some = fit.rows.head(2) if fit.model.any_rows else fit.rows.all()
    sites, plate = fit.model.sites(*some).values(), fit.model.data_plate
    return all(s.is_local(plate) for s in sites if s.kind == "latent")


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


def _held_out(fit: FittedModel) -> HeldOutScores | None:
    """Score rows of the fit and rows that were held out of it; None where neither can be.

    Where none were held out and the fit is quickly done again, by EM, a fit to nine tenths of
    the rows is scored in its place.
    """
    model, rows, valid = fit.model, fit.rows, fit.valid
    if rows is None or not model.any_rows or model.data_plate is None:
        return None
    with fit.model.defaults():
        found = HeldOutScores(degenerate=model.degenerate(*rows.spread(NUM_SCORED_ROWS)))
    refitted = valid is None and isinstance(fit.solver, EM) and len(rows) >= MIN_ROWS_TO_REFIT
    scored = fit
    if refitted:
        rows, valid = rows.split(len(rows) // 10, fit.seed)
        try:
            scored = _refit(fit, rows)
        except (ConvergenceError, DataError):
            return found
    if valid is None:
        return found
    exact = model.queries["log_prob"] == "exact"
    num = NUM_SCORED_ROWS if exact else NUM_ESTIMATED_ROWS
    count = _num_density_arguments(model)
    with fork_generators(model.device):
        set_seed(fit.seed, model.device)
        try:
            train, held_out = (
                scored.model.log_prob(*part.spread(num)[:count]).detach().double().cpu().numpy()
                for part in (rows, valid)
            )
        except (QueryError, DataError):
            return found
    chosen = bool(np.isfinite(fit.solution.validation_score))
    return dataclasses.replace(
        found, train=train, held_out=held_out, chosen=chosen, refitted=refitted
    )


def _num_density_arguments(model: Model) -> int | None:
    """Count the arguments of the model that its density takes; None for all of them.

    A mixture's density takes rows and no sample weights.
    """
    taken = inspect.signature(model.log_prob).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in taken):
        return None
    return sum(p.name in model.argument_names for p in taken)


def _refit(fit: FittedModel, rows: Rows) -> FittedModel:
    """Fit a copy of the model to other rows, from its own start, by the same solver."""
    own = fit.model.fresh()
    own.check_data(rows)
    with fork_generators(own.device), own.defaults():
        set_seed(fit.seed, own.device)
        own.find_data_plate(rows)
        solution = fit.solver.solve(own, rows, FitContext(seed=fit.seed, progress=False))
    found = type(fit)(own, fit.solver, solution, rows, seed=fit.seed, seconds=0.0)
    found.show(solution.best)
    own.remember(rows, solution.guide)
    return found


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


def _checked_rows(fit: FittedModel, points: bool) -> tuple[Rows | None, LatentUse | None]:
    """Rows to check under the model's own guide, and the activity of amortised latents.

    Local latents do not depend on each other there, and there may be millions. None where the
    whole posterior is checked, or there is no activity to tell.
    """
    if fit.rows is None:
        return None, None  # a run without its data, which is said where they are asked for
    some = fit.model.rows_of(fit.rows.spread(NUM_CHECKED_ROWS))
    if not _is_amortised(fit, some):
        own = points and fit.model.any_rows and fit.model.guide is not None
        return some if own and fit.guide in (None, fit.model.guide) else None, None
    return some, latent_use(fit.model, *fit.rows.spread(NUM_ROWS_FOR_ACTIVITY))


def _arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v.cpu() if isinstance(v, Tensor) else v) for k, v in tensors.items()}
