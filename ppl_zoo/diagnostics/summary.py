"""Summary of what a fit learned, a line a scalar, the same on both generations of ArviZ.

Latents of a posterior with their means and 90 % intervals; where the parameters are points, these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arviz_compat import ess_and_rhat, get_group

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["summarise"]

#: numbers of a variable that are listed; a larger one is a matter for a picture
MAX_NUMBERS = 16


def summarise(fit: FittedModel, idata: Any, max_numbers: int | None = MAX_NUMBERS) -> DataFrame:
    """Summarise the posterior of a fit, or its parameters where they are points.

    Parameters
    ----------
    fit
        The fit.
    idata
        Its groups ``posterior`` and ``fit``, as :func:`ppl_zoo.diagnostics.to_arviz` makes them.
    max_numbers
        Numbers of a variable up to which it is listed; None to list all.

    Returns
    -------
    DataFrame
        A line a scalar, named by coordinates: ``means[0, waiting]``. Columns ``mean``, ``sd``,
        ``5 %`` and ``95 %`` of a posterior, with ``ess`` and ``r_hat`` of a sampler's draws;
        ``value`` of points. ``attrs["left_out"]``: shapes of variables that are too large.
    """
    import pandas as pd

    sampled = fit.solution.draws is not None
    posterior = get_group(idata, "posterior")
    latent = {s.name: s for s in fit.model.sites(*fit.data()).values() if s.kind == "latent"}
    plate = fit.model.data_plate
    points = not sampled and all(site.is_local(plate) for site in latent.values())
    rows: dict[str, dict[str, float]] = {}
    left_out: dict[str, tuple[int, ...]] = {}
    if points:
        group = get_group(idata, "fit")
        learned = {k: v for k, v in group.data_vars.items() if v.attrs.get("learned")}
        for name, variable in learned.items():
            values = variable.isel(chain=fit.solution.best)
            if max_numbers is not None and values.size > max_numbers:
                left_out[str(name)] = values.shape
                continue
            rows |= {label: {"value": float(v)} for label, v in _scalars(values, ())}
    else:
        if not sampled:
            posterior = posterior.isel(chain=[fit.solution.best])
        for name, variable in posterior.data_vars.items():
            if max_numbers is not None and variable[0, 0].size > max_numbers:
                left_out[str(name)] = variable.shape[2:]
                continue
            for label, drawn in _scalars(variable, ("chain", "draw")):
                low, high = np.quantile(drawn, [0.05, 0.95])
                rows[label] = {"mean": drawn.mean(), "sd": drawn.std(), "5 %": low, "95 %": high}
                if sampled:
                    rows[label]["ess"], rows[label]["r_hat"] = ess_and_rhat(drawn)
    table = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    table.attrs["left_out"] = left_out
    return table


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
