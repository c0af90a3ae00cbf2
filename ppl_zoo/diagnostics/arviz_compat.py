"""The two generations of ArviZ: 0.23 (InferenceData) and 1.x (DataTree). Only this file branches.

Everything else builds and reads ``xarray.Dataset`` by name of the group and never meets the
container that ArviZ puts around them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ppl_zoo.core.khat import psis_weights

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "bundle",
    "compare",
    "elpd_of_rows",
    "from_netcdf",
    "get_group",
    "group_names",
    "loo",
    "max_rhat",
    "rhat",
    "summary",
    "to_netcdf",
]

#: the engine that is a dependency; ArviZ and xarray would pick whichever is installed
ENGINE = "h5netcdf"


@functools.cache
def is_classic() -> bool:
    """Whether the installed ArviZ is older than 1.0."""
    return int(version("arviz").split(".")[0]) < 1


def _arviz() -> Any:
    with warnings.catch_warnings():
        # 0.23 announces 1.0 once a day at import; nothing that a user of the zoo has to act on
        warnings.filterwarnings("ignore", category=FutureWarning)
        import arviz
    return arviz


def bundle(groups: Mapping[str, xr.Dataset], attrs: Mapping[str, Any] | None = None) -> Any:
    """Put groups into what ArviZ calls its own.

    Parameters
    ----------
    groups
        A dataset for each group, by its name in ArviZ's schema.
    attrs
        Attributes of the whole.

    Returns
    -------
    InferenceData or DataTree
    """
    if is_classic():
        return _arviz().InferenceData(attrs=dict(attrs or {}), **groups)
    tree = xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})
    tree.attrs.update(attrs or {})
    return tree


def group_names(idata: Any) -> tuple[str, ...]:
    """Names of the groups of an InferenceData or DataTree."""
    return tuple(idata.groups() if is_classic() else idata.children)


def get_group(idata: Any, name: str) -> xr.Dataset:
    """Read one group as a dataset.

    Raises
    ------
    KeyError
        If there is no such group.
    """
    if name not in group_names(idata):
        raise KeyError(f"no group {name!r}; there are {group_names(idata)}")
    return idata[name] if is_classic() else idata[name].to_dataset()


def to_netcdf(idata: Any, path: str | Path) -> Path:
    """Write all groups to one netCDF file, replacing one that is there."""
    path = Path(path)
    idata.to_netcdf(str(path), engine=ENGINE)
    return path


def from_netcdf(path: str | Path) -> Any:
    """Read what :func:`to_netcdf` wrote; the file is closed afterwards.

    Returns
    -------
    InferenceData or DataTree
    """
    if is_classic():
        return _arviz().from_netcdf(str(path), engine=ENGINE).load()
    with xr.open_datatree(path, engine=ENGINE) as tree:
        return tree.load()


def summary(idata: Any, **options: Any) -> DataFrame:
    """``arviz.summary`` of the posterior, in numbers that are not rounded to strings.

    Parameters
    ----------
    idata
        InferenceData or DataTree.
    **options
        As for ``arviz.summary``: ``var_names=[...]``, ``kind="stats"``.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # a constant (an assignment that is certain) has no R-hat: NaN says so
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        return _arviz().summary(idata, **({"round_to": "none"} | options))


def rhat(idata: Any) -> xr.Dataset:
    """Rank-normalised split R-hat of each posterior variable; NaN for constants."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        out = _arviz().rhat(get_group(idata, "posterior"))
    return out if isinstance(out, xr.Dataset) else out.to_dataset()


def ess_and_rhat(values: np.ndarray) -> tuple[float, float]:
    """Bulk effective sample size and R-hat of one scalar; NaN where they mean nothing.

    Parameters
    ----------
    values
        ``(chain, draw)``.
    """
    several = len(values) > 1  # of one chain ArviZ logs a warning
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        if is_classic():
            ess = _arviz().ess(values)
            rhat = _arviz().rhat(values) if several else np.nan
        else:
            from arviz_stats.base import array_stats

            ess = array_stats.ess(values, chain_axis=0, draw_axis=1)
            rhat = array_stats.rhat(values, chain_axis=0, draw_axis=1) if several else np.nan
    return float(ess), float(rhat)


def max_rhat(idata: Any) -> float:
    """Largest R-hat over the posterior; NaN where there is one chain, or only constants.

    Chains of a variational fit are its restarts: a large value says that they ended in different
    places.
    """
    if get_group(idata, "posterior").sizes["chain"] < 2:
        return float("nan")
    values = [np.asarray(v.values, float).ravel() for v in rhat(idata).data_vars.values()]
    everything = np.concatenate(values) if values else np.array([])
    return float(np.nanmax(everything)) if np.isfinite(everything).any() else float("nan")


def loo(idata: Any, var_name: str, log_p: xr.DataArray | None, log_q: xr.DataArray | None) -> Any:
    """PSIS-LOO of one variable of ``log_likelihood``, pointwise, in nats.

    Parameters
    ----------
    idata
        With groups ``posterior`` and ``log_likelihood``.
    var_name
        Variable of ``log_likelihood``.
    log_p, log_q
        Log joint density and log density of the guide that drew, ``(chain, draw)``; both None for
        draws of the posterior itself.

    Returns
    -------
    ELPDData
        That of the installed ArviZ. ``p_loo`` (``p`` on 1.x) is against the log predictive
        density under the same weights, which ArviZ's own leaves out.

    References
    ----------
    Magnusson et al. 2019, Bayesian leave-one-out cross-validation for large data,
    https://arxiv.org/abs/1904.10679.
    """
    az = _arviz()
    with warnings.catch_warnings():
        # the caller tells which rows are above the limit
        warnings.filterwarnings("ignore", message="Estimated shape parameter of Pareto")
        if log_p is None:
            options = {"scale": "log"} if is_classic() else {}
            return az.loo(idata, pointwise=True, var_name=var_name, **options)
        scores = get_group(idata, "log_likelihood")[var_name].stack(__sample__=("chain", "draw"))
        ratios = (log_p - log_q).astype(float).stack(__sample__=("chain", "draw"))
        weights = xr.zeros_like(ratios) + psis_weights(torch.from_numpy(ratios.values)).numpy()
        predictive = float(_log_sum(scores + np.log(weights)).sum())
        if not is_classic():
            out = az.loo_approximate_posterior(
                idata, log_p, log_q, pointwise=True, var_name=var_name
            )
            out.p = predictive - float(out.elpd)
            return out
        smoothed, khats = az.psislw(-scores + ratios)
    rows = _log_sum(smoothed + scores)
    size, good = scores.sizes["__sample__"], min(1 - 1 / np.log10(scores.sizes["__sample__"]), 0.7)
    values = {
        "elpd_loo": float(rows.sum()),
        "se": float((rows.size * np.var(rows.values)) ** 0.5),
        "p_loo": predictive - float(rows.sum()),
        "n_samples": size,
        "n_data_points": rows.size,
        "warning": bool((khats > good).any()),
        "loo_i": rows.rename("loo_i"),
        "pareto_k": khats,
        "scale": "log",
        "good_k": good,
    }
    return az.stats.stats_utils.ELPDData(data=list(values.values()), index=list(values))


def _log_sum(values: xr.DataArray) -> xr.DataArray:
    """Log of the sum of exponentials over the draws."""
    return values.reduce(np.logaddexp.reduce, dim="__sample__")


def elpd_of_rows(elpd: Any) -> xr.DataArray:
    """Log predictive density of each row left out, of an ELPDData."""
    return elpd.loo_i if is_classic() else elpd.elpd_i


def compare(elpds: Mapping[str, Any], method: str) -> DataFrame:
    """``arviz.compare`` of the results of :func:`loo`, in numbers that are not rounded.

    Parameters
    ----------
    elpds
        ELPDData by name.
    method
        "stacking", "BB-pseudo-BMA" or "pseudo-BMA", the way to weights.
    """
    own = {"ic": "loo", "scale": "log", "seed": 0} if is_classic() else {"round_to": "none"}
    with warnings.catch_warnings():
        # pandas' to ArviZ 0.23; nothing that a user of the zoo has to act on
        warnings.filterwarnings("ignore", message="The inplace keyword")
        return _arviz().compare(dict(elpds), method=method, **own)
