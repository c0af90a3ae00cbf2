"""Plots of predictions beside observations: curves, points and group effects."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import as_doubles, even_indices
from ppl_zoo.diagnostics.plots.style import (
    DATA,
    GREY,
    MODEL,
    SMALL,
    DataDescription,
    axis_label,
    figure,
    tidy,
    title_of,
)

__all__ = ["plot_group_effects", "plot_predicted", "plot_regression"]

#: observations shown with their intervals
MAX_POINTS = 200


def plot_regression(
    fit: FittedModel,
    x: Tensor,
    y: Tensor,
    replicates: Tensor,
    x_name: str,
    y_name: str,
    card: DataDescription | None,
) -> Figure:
    """Plot data over one input, predictive mean, and bands of 50 and 90 %."""
    order = np.argsort(as_doubles(x))
    across, points, drawn = (
        as_doubles(x)[order],
        as_doubles(y)[order],
        as_doubles(replicates)[:, order],
    )
    # equal inputs share a distribution; a smooth band needs their draws together
    knots = np.unique(np.quantile(across, np.linspace(0, 1, 40)))
    edges = np.concatenate([[-np.inf], (knots[1:] + knots[:-1]) / 2, [np.inf]])
    bins = np.digitize(across, edges) - 1
    used = np.unique(bins)
    centres = np.array([across[bins == b].mean() for b in used])
    pooled = []
    for b, centre in zip(used, centres, strict=True):
        here = bins == b
        slope = _slope(across, drawn.mean(0)) if here.sum() > 1 else 0.0
        pooled.append((drawn[:, here] - slope * (across[here] - centre)).ravel())
    quantiles = np.array([np.quantile(p, [0.05, 0.25, 0.75, 0.95]) for p in pooled]).T
    fig, axes = figure(6.4, 4.4)
    ax = tidy(axes[0, 0])
    ax.fill_between(centres, quantiles[0], quantiles[3], color="#D3E5F2", label="90 % of new y")
    ax.fill_between(centres, quantiles[1], quantiles[2], color="#9CC5E3", label="50 %")
    mean = [p.mean() for p in pooled]
    ax.plot(centres, mean, color=MODEL, linewidth=2.0, label="predictive mean")
    ax.scatter(across, points, s=12, color=DATA, alpha=0.7, linewidth=0, zorder=3, label="data")
    ax.set_xlabel(axis_label(card, 0, x_name))
    ax.set_ylabel(axis_label(card, 1, y_name))
    ax.set_title(title_of(fit, card, "posterior prediction and data"), fontsize=11)
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def plot_predicted(
    fit: FittedModel, y: Tensor, replicates: Tensor, name: str, card: DataDescription | None
) -> Figure:
    """Plot observed against predicted values, with 90 % intervals, for several inputs."""
    observed, drawn = as_doubles(y), as_doubles(replicates)
    keep = even_indices(len(observed), MAX_POINTS)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    covered = float(((observed >= low) & (observed <= high)).mean())
    mean = drawn.mean(0)
    fig, axes = figure(5.4, 5.0)
    ax = tidy(axes[0, 0])
    ax.vlines(mean[keep], low[keep], high[keep], color="#9CC5E3", linewidth=1.2, label="90 %")
    ax.scatter(mean[keep], observed[keep], s=12, color=DATA, alpha=0.8, linewidth=0, zorder=3)
    ends = [min(mean.min(), observed.min()), max(mean.max(), observed.max())]
    ax.plot(ends, ends, color=MODEL, linewidth=1.4, label="observed = predicted")
    ax.set_xlabel(f"predictive mean of {name}")
    ax.set_ylabel(f"observed {name}")
    what = f"prediction and data\n90 % intervals hold {100 * covered:.0f} % of {len(observed)}"
    ax.set_title(title_of(fit, card, what), fontsize=11)
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def plot_group_effects(
    fit: FittedModel,
    y: Tensor,
    sigma: Tensor,
    draws: Tensor,
    name: str,
    card: DataDescription | None,
) -> Figure:
    """Plot estimates with their standard errors, and the posterior beside them."""
    raw, error, drawn = as_doubles(y), as_doubles(sigma), as_doubles(draws)
    order = np.argsort(raw)
    places = np.arange(len(raw))
    fig, axes = figure(6.4, max(3.0, 0.42 * len(raw) + 1.4))
    ax = tidy(axes[0, 0])
    ax.errorbar(
        raw[order],
        places + 0.16,
        xerr=1.645 * error[order],
        fmt="o",
        color=GREY,
        markersize=5,
        linewidth=1.4,
        label="estimate, 90 % by its standard error",
    )
    low, first, mid, third, high = np.quantile(drawn, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    ax.hlines(places - 0.16, low[order], high[order], color=MODEL, linewidth=1.4)
    ax.hlines(places - 0.16, first[order], third[order], color=MODEL, linewidth=4.5)
    ax.plot(
        mid[order],
        places - 0.16,
        "o",
        color="white",
        markeredgecolor=MODEL,
        markersize=6,
        label=f"posterior of {name}: median, 50 and 90 %",
    )
    ax.axvline(drawn.mean(), color=MODEL, linewidth=0.9, linestyle=":", label="mean of all")
    plate = fit.model.data_plate or "row"
    ax.set_yticks(places, [str(i) for i in order])
    ax.set_ylabel(f"{plate.rstrip('s')}, by estimate")
    units = card.units if card is not None else ""
    ax.set_xlabel(f"effect ({units})" if units else "effect")
    fig.suptitle(title_of(fit, card, "estimates, raw and pooled"), fontsize=11)
    fig.legend(fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    return fig


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else 0.0
