"""Leave-one-out cross-validation of fits by importance sampling, and their comparison by it.

Without a refit: the draws of the posterior of all rows, weighted by one over a row's likelihood,
stand for the posterior of the others. Draws of a guide are weighted by their own importance on
top, so that an answer that is not the posterior does not pass for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.khat import KHAT_DRAWS, khat
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.posterior import FittedModel

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["compare", "loo"]

#: rows that a warning names
MAX_NAMED = 5
#: log densities below which ArviZ's stacking, which takes exponentials, has nothing left
MIN_LOG_DENSITY = -700.0
METHODS = ("stacking", "BB-pseudo-BMA", "pseudo-BMA")


def loo(
    fit: FittedModel,
    *,
    num_samples: int = KHAT_DRAWS,
    max_observations: int | None = None,
    var_name: str | None = None,
) -> Any:
    """Leave-one-out cross-validation of a fit by Pareto-smoothed importance sampling (PSIS-LOO).

    For draws of a sampler it is ``az.loo``. For those of a guide the weights are corrected by
    log p(x, z) - log q(z), as ``az.loo_approximate_posterior`` of ArviZ 1.x does; of several
    restarts the best is taken.

    Parameters
    ----------
    fit
        A fit that holds its data and has latents that all rows share.
    num_samples
        Draws a chain.
    max_observations
        Rows that are left out in turn, evenly spaced; all by default. Memory holds
        ``num_samples`` numbers for each.
    var_name
        Observed site, where there are several that are not one row's.

    Returns
    -------
    ELPDData
        ArviZ's own, pointwise: the expected log predictive density of a new row (``elpd_loo``;
        ``elpd`` on 1.x), its standard error, the effective number of parameters, and Pareto k
        by row. ``az.compare`` takes it.

    Raises
    ------
    QueryError
        If all latents belong to single rows (amortised or not): the parameters are then points
        that were fitted to the very row that is left out, and no weights undo that. Hold rows out
        and ask the model for their ``log_prob``. Or if the rows do not factorise, or the
        importance weights are not finite.

    Warns
    -----
    UserWarning
        Names the rows whose Pareto k is above ArviZ's limit, or the guide, where its own k-hat
        is: their estimate is then not to be trusted.

    References
    ----------
    Vehtari et al. 2017, Practical Bayesian model evaluation using leave-one-out cross-validation
    and WAIC, https://arxiv.org/abs/1507.04544. Magnusson et al. 2019, Bayesian leave-one-out
    cross-validation for large data, https://arxiv.org/abs/1904.10679.

    Notes
    -----
    Latents of single rows beside shared ones are held at draws that have seen their row: the
    likelihood is given them, and Pareto k tells where that is too much for the weights. Learned
    parameters stay at their values.
    """
    # ArviZ is imported on first use
    from ppl_zoo.diagnostics import arviz_compat, to_arviz

    rows = _num_rows(fit) if max_observations is None else max_observations
    groups = ("posterior", "sample_stats", "log_likelihood")
    data = to_arviz(fit, num_samples=num_samples, max_observations=rows, groups=groups)
    name = fit.model.model_name
    if "log_likelihood" not in arviz_compat.group_names(data):
        raise QueryError(f"{name}: its rows do not factorise, so that none can be left out")
    scores = arviz_compat.get_group(data, "log_likelihood")
    if var_name is None and _are_single(scores):
        scores = _of_single_sites(scores)
        data = arviz_compat.bundle(
            {
                "log_likelihood": scores,
                **{g: arviz_compat.get_group(data, g) for g in groups if g != "log_likelihood"},
            }
        )
    var_name = _chosen(name, tuple(scores.data_vars), var_name)
    sizes = dict(scores[var_name].sizes)
    if math.prod(n for dim, n in sizes.items() if dim not in ("chain", "draw")) == 1:
        raise QueryError(
            f"{name}: {var_name!r} is one observation, and nothing is left without it: expected "
            "several, in a plate (of a distribution with to_event the rows are one event)"
        )
    if scores[var_name].attrs["given"] != "the draw":
        raise QueryError(
            f"{name}: all its latents belong to single rows, and its parameters are points fitted "
            "to all of them: no row can be left out by weights. Hold rows out, and ask "
            "model.log_prob(rows)"
        )
    log_p = log_q = None
    if fit.solution.draws is None:
        kept = [fit.solution.best]
        stats = arviz_compat.get_group(data, "sample_stats").isel(chain=kept)
        data = arviz_compat.bundle(
            {g: arviz_compat.get_group(data, g).isel(chain=kept) for g in groups}
        )
        log_p, log_q = stats["lp"], stats["log_q"]
        bad = int((~np.isfinite(stats["log_weight"].values)).sum())
        if bad:
            raise QueryError(
                f"{name}: {bad} of {stats['log_weight'].size} importance weights are not finite; "
                "ask fit.check()"
            )
    found = arviz_compat.loo(data, var_name, log_p, log_q)
    _tell(found, None if log_p is None else stats["log_weight"].values)
    return found


def _are_single(scores: Any) -> bool:
    """Whether there are several sites of one observation each, as a loop makes them."""
    return len(scores.data_vars) > 1 and all(
        math.prod(n for dim, n in site.sizes.items() if dim not in ("chain", "draw")) == 1
        for site in scores.data_vars.values()
    )


def _of_single_sites(scores: Any) -> Any:
    """Observations of a loop as those of one site, ``(chain, draw, site)``."""
    from xarray import DataArray

    names = list(scores.data_vars)
    first = scores[names[0]]
    values = np.stack([scores[n].values.reshape(first.shape[:2]) for n in names], -1)
    joined = DataArray(
        values, {"site": names}, ("chain", "draw", "site"), "observations", first.attrs
    )
    return joined.assign_coords(chain=scores.chain, draw=scores.draw).to_dataset()


def _num_rows(fit: FittedModel) -> int:
    """Rows of a fit that holds its data."""
    if fit.rows is None:
        fit.data()  # says what is missing
    return len(fit.rows)


def _chosen(model: str, names: tuple[str, ...], var_name: str | None) -> str:
    """Observed site whose rows are left out."""
    if var_name is None and len(names) == 1:
        return names[0]
    if var_name not in names:
        raise QueryError(
            f"{model}: var_name={var_name!r}{did_you_mean(var_name, names)}, expected one of "
            f"{list(names)}"
        )
    return var_name


def _tell(found: Any, log_weights: np.ndarray | None) -> None:
    """Warn of rows whose Pareto k is above the limit."""
    beyond = found.pareto_k.where(found.pareto_k > found.good_k, drop=False)
    values = beyond.values.ravel()
    count = int(np.isfinite(values).sum())
    if not count:
        return
    limit = f"(above {found.good_k:.2f})"
    own = float("nan") if log_weights is None else khat(torch.from_numpy(log_weights.ravel()))
    if own > found.good_k:
        warnings.warn(
            f"k-hat of the guide is {own:.2f} {limit}: it is too far from the posterior for rows "
            "to be left out by weights; zoo.Auto() looks further",
            stacklevel=3,
        )
        return
    worst = np.argsort(-np.nan_to_num(values, nan=-np.inf))[: min(count, MAX_NAMED)]
    named = []
    for place in worst:
        index = np.unravel_index(place, beyond.shape)
        labels = (beyond[d].values[i] for d, i in zip(beyond.dims, index, strict=True))
        named.append(f"{', '.join(map(str, labels))} ({values[place]:.2f})")
    warnings.warn(
        f"Pareto k of {count} of {values.size} rows is high {limit}: {'; '.join(named)}"
        f"{'; ...' if count > len(named) else ''}; without such a row the posterior is another, "
        "and its log density left out is not to be trusted",
        stacklevel=3,
    )


def compare(
    fits: Mapping[str, FittedModel],
    *,
    method: str = "stacking",
    num_samples: int = KHAT_DRAWS,
    max_observations: int | None = None,
    var_name: str | None = None,
) -> DataFrame:
    """Compare fits to the same data by leave-one-out cross-validation, with a weight for each.

    Of models, or of solvers of one model: answers in different modes, say.

    Parameters
    ----------
    fits
        Fits by name, two or more.
    method
        "stacking", the weights whose mixture predicts left-out rows best; "BB-pseudo-BMA" or
        "pseudo-BMA", by the elpd of each alone.
    num_samples, max_observations, var_name
        As for :func:`loo`.

    Returns
    -------
    DataFrame
        That of ``az.compare``, the best first; not rounded.

    Raises
    ------
    DataError
        If the fits observe different data.
    QueryError
        As :func:`loo` does; or if a log density is too low for ArviZ's stacking.

    References
    ----------
    Yao et al. 2018, Using stacking to average Bayesian predictive distributions,
    https://arxiv.org/abs/1704.02030. Yao et al. 2022, Stacking for non-mixing Bayesian
    computations, https://arxiv.org/abs/2006.12335.
    """
    from ppl_zoo.diagnostics import arviz_compat

    if len(fits) < 2:
        raise DataError(f"compare: got {len(fits)} fits, expected two or more by name")
    if method not in METHODS:
        raise ValueError(f"compare: got method={method!r}, expected one of {METHODS}")
    first, *others = fits
    for name in others:
        if not _same_data(fits[first], fits[name]):
            raise DataError(
                f"compare: {name!r} and {first!r} observe different data; log densities of the "
                "same rows can be compared, in the same units"
            )
    options = {
        "num_samples": num_samples,
        "max_observations": max_observations,
        "var_name": var_name,
    }
    found = {name: loo(fit, **options) for name, fit in fits.items()}
    best = np.max([arviz_compat.elpd_of_rows(f).values.ravel() for f in found.values()], axis=0)
    if method == "stacking" and best.min() < MIN_LOG_DENSITY:
        raise QueryError(
            f"compare: a row has a log density of {best.min():.0f} nats by the best fit, too low "
            "for ArviZ's stacking; take method='BB-pseudo-BMA'"
        )
    return arviz_compat.compare(found, method)


def _same_data(a: FittedModel, b: FittedModel) -> bool:
    """Whether two fits observe the same values."""
    ours, theirs = (_observed(fit) for fit in (a, b))
    return len(ours) == len(theirs) and all(
        x.shape == y.shape and np.allclose(x, y, equal_nan=True)
        for x, y in zip(ours, theirs, strict=True)
    )


def _observed(fit: FittedModel) -> list[np.ndarray]:
    """Observed values, a site each."""
    from ppl_zoo.diagnostics.reader import Reader

    values = Reader(fit, 1, _num_rows(fit), 1, scored=False).observed_values()
    return [np.asarray(v.cpu(), float) for v in values.values()]
