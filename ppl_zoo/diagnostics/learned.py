"""Summary of what a fit learned, a line a scalar, the same on both generations of ArviZ.

Latents of a posterior with their means and 90 % intervals; where the parameters are points, these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.tracing import Site
from ppl_zoo.diagnostics.arviz_compat import ess_and_rhat, get_group

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["summarise"]

#: numbers of a variable that are listed, and of all; a larger one is a matter for a picture
MAX_NUMBERS, MAX_IN_ALL = 16, 18


def summarise(fit: FittedModel, idata: Any) -> DataFrame:
    """Summarise the posterior of a fit, or its parameters where they are points.

    Variables are listed whole, those of a few numbers; layers of nets are not.

    Parameters
    ----------
    fit
        The fit.
    idata
        Its groups ``posterior`` and ``fit``, as :func:`ppl_zoo.diagnostics.to_arviz` makes them.

    Returns
    -------
    DataFrame
        A line a scalar, named by coordinates: ``means[0, waiting]``. Columns ``mean``, ``sd``,
        ``5 %`` and ``95 %`` of a posterior, with ``ess`` and ``r_hat`` of a sampler's draws;
        ``value`` of points. ``attrs["left_out"]``: shapes of variables that are not listed.
    """
    import pandas as pd

    sampled = fit.solution.draws is not None
    sites, plate = fit.model.sites(*fit.data()), fit.model.data_plate
    latent = [site for site in sites.values() if site.kind == "latent"]
    if not sampled and all(site.is_local(plate) for site in latent):
        group = get_group(idata, "fit").isel(chain=fit.solution.best)
        found = {n: v for n, v in group.data_vars.items() if v.attrs.get("learned")}
        lead: tuple[str, ...] = ()
    else:
        group = get_group(idata, "posterior")
        group = group if sampled else group.isel(chain=[fit.solution.best])
        found, lead = dict(group.data_vars), ("chain", "draw")
        # what a program computes of its latents says more than they do: effects, not their
        # standard scores; weights, not sticks
        computed = {s.shape for s in sites.values() if s.kind == "deterministic"}
        scores = {s.name for s in latent if s.is_local(plate) and s.shape in computed}
        found = {n: v for n, v in found.items() if n not in scores}
        found = dict(sorted(found.items(), key=lambda pair: _rank(sites.get(pair[0]))))
    rows: dict[str, dict[str, float]] = {}
    left_out: dict[str, tuple[int, ...]] = {}
    for name, variable in found.items():
        shape = variable.shape[len(lead) :]
        size = int(np.prod(shape))
        if "." in str(name) or size > min(MAX_NUMBERS, MAX_IN_ALL - len(rows)):
            left_out[str(name)] = shape
            continue
        for label, values in _scalars(variable, lead):
            if not lead:
                rows[label] = {"value": float(values)}
                continue
            low, high = np.quantile(values, [0.05, 0.95])
            rows[label] = {"mean": values.mean(), "sd": values.std(), "5 %": low, "95 %": high}
            if sampled:
                rows[label]["ess"], rows[label]["r_hat"] = ess_and_rhat(values)
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    table.attrs["left_out"] = left_out
    return table


def _rank(site: Site | None) -> tuple[bool, int]:
    """Place of a variable in the table: what is computed before what is drawn, small first."""
    if site is None:
        return (True, 0)
    return (site.kind == "latent", int(np.prod(site.shape)))


def _scalars(variable: xr.DataArray, lead: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Scalars of a variable with their names, each with the leading dimensions."""
    dims = [dim for dim in variable.dims if dim not in lead]
    values = np.asarray(variable.values, float)
    for index in np.ndindex(values.shape[len(lead) :]):
        labels = [
            str(variable.coords[dim].values[i]) if dim in variable.coords else str(i)
            for dim, i in zip(dims, index, strict=True)
        ]
        name = f"{variable.name}[{', '.join(labels)}]" if labels else str(variable.name)
        yield name, values[(..., *index)] if index else values
