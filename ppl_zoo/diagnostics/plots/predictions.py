"""Plots of predictions beside observations: curves, points and group effects."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
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
    column_label,
    column_name,
    figure,
    is_binary,
    tidy,
    title_of,
)

__all__ = ["plot_group_effects", "plot_predicted", "plot_regression", "plot_shares"]

#: observations shown with their intervals
MAX_POINTS = 200
#: groups of rows whose share of ones is shown
NUM_SHARES = 10


def plot_regression(
    fit: FittedModel,
    x: Tensor,
    y: Tensor,
    replicates: Tensor,
    x_name: str,
    y_name: str,
    card: DataDescription | None,
) -> Figure:
    """Plot data over one input, predictive mean, and bands of 50 and 90 %.

    A target of 0 and 1 has its probability over the input instead, beside shares of the data.
    """
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
    fig, axes = figure(6.4, 4.4)
    ax = tidy(axes[0, 0])
    if is_binary(points):
        mean = [drawn[:, bins == b].mean() for b in used]
        ax.plot(centres, mean, color=MODEL, linewidth=2.0, label="predicted probability of 1")
        # equal shares of the rows, each with its share of ones
        parts = np.array_split(np.arange(len(points)), min(NUM_SHARES, len(points)))
        ones = np.array([points[p].sum() for p in parts])
        sizes = np.array([len(p) for p in parts])
        plot_shares(ax, np.array([across[p].mean() for p in parts]), ones, sizes - ones)
        ax.scatter(across, points, s=10, color=DATA, alpha=0.25, linewidth=0, label="data")
        ax.set_ylim(-0.05, 1.05)
        ax.set_ylabel(f"probability of {column_name(fit, card, y_name)}")
        fig.set_label(
            "The curve is the predicted probability; the intervals, shares of the data, should "
            "lie on it."
        )
    else:
        pooled = []
        for b, centre in zip(used, centres, strict=True):
            here = bins == b
            slope = _slope(across, drawn.mean(0)) if here.sum() > 1 else 0.0
            pooled.append((drawn[:, here] - slope * (across[here] - centre)).ravel())
        quantiles = np.array([np.quantile(p, [0.05, 0.25, 0.75, 0.95]) for p in pooled]).T
        name = column_name(fit, card, y_name)
        ax.fill_between(
            centres, quantiles[0], quantiles[3], color="#D3E5F2", label=f"90 % of new {name}"
        )
        ax.fill_between(centres, quantiles[1], quantiles[2], color="#9CC5E3", label="50 %")
        mean = [p.mean() for p in pooled]
        ax.plot(centres, mean, color=MODEL, linewidth=2.0, label="predictive mean")
        ax.scatter(
            across, points, s=12, color=DATA, alpha=0.7, linewidth=0, zorder=3, label="data"
        )
        ax.set_ylabel(column_label(fit, card, y_name))
        held = _covered(points, drawn)
        fig.set_label(
            f"One point in ten should lie outside of the light band: {100 * (1 - held):.0f} % of "
            f"{len(points)} do."
        )
    ax.set_xlabel(column_label(fit, card, x_name))
    ax.set_title(title_of(fit, card, "posterior prediction and data"), fontsize=11)
    where = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.1)} if is_binary(points) else {}
    ax.legend(fontsize=SMALL, frameon=False, **where)
    return fig


def plot_predicted(
    fit: FittedModel, y: Tensor, replicates: Tensor, name: str, card: DataDescription | None
) -> Figure:
    """Plot observed against predicted values, with 90 % intervals, for several inputs.

    A target of 0 and 1 has shares of ones against predicted probabilities instead.
    """
    observed, drawn = as_doubles(y), as_doubles(replicates)
    mean = drawn.mean(0)
    fig, axes = figure(5.4, 5.0)
    ax = tidy(axes[0, 0])
    if is_binary(observed):
        parts = np.array_split(np.argsort(mean, kind="stable"), min(NUM_SHARES, len(mean)))
        ones = np.array([observed[p].sum() for p in parts])
        sizes = np.array([len(p) for p in parts])
        plot_shares(ax, np.array([mean[p].mean() for p in parts]), ones, sizes - ones)
        column = column_name(fit, card, name)
        ax.plot([0, 1], [0, 1], color=MODEL, linewidth=1.4, label="share = probability")
        ax.set_xlabel(f"predicted probability of {column}")
        ax.set_ylabel(f"share of {column} in the data")
        what = "probabilities and shares of the data"
        fig.set_label("Shares of ones among rows of like probability should lie on the line.")
    else:
        keep = even_indices(len(observed), MAX_POINTS)
        low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
        covered = 100 * _covered(observed, drawn)
        ax.vlines(mean[keep], low[keep], high[keep], color="#9CC5E3", linewidth=1.2, label="90 %")
        ax.scatter(mean[keep], observed[keep], s=12, color=DATA, alpha=0.8, linewidth=0, zorder=3)
        ends = [min(mean.min(), observed.min()), max(mean.max(), observed.max())]
        ax.plot(ends, ends, color=MODEL, linewidth=1.4, label="observed = predicted")
        column = column_label(fit, card, name)
        ax.set_xlabel(f"predictive mean of {column}")
        ax.set_ylabel(f"observed {column}")
        what = f"prediction and data\n90 % intervals hold {covered:.0f} % of {len(observed)}"
        fig.set_label("The points should lie along the line, nine in ten within their interval.")
    ax.set_title(title_of(fit, card, what), fontsize=11)
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def plot_shares(ax: Axes, places: np.ndarray, ones: np.ndarray, rest: np.ndarray) -> None:
    """Plot shares of ones with 90 % intervals by Jeffreys' prior, Beta(1/2, 1/2)."""
    drawn = np.random.default_rng(0).beta(ones + 0.5, rest + 0.5, (4000, len(ones)))
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    ax.vlines(places, low, high, color=GREY, linewidth=1.6)
    label = "share in the data, 90 % interval"
    ax.scatter(places, ones / (ones + rest), s=26, color=DATA, zorder=3, label=label)


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
    fig.set_label(
        "Each estimate by itself (grey) and with the others (blue): the posterior is pulled "
        "towards the mean of all, the more the wider the estimate."
    )
    fig.suptitle(title_of(fit, card, "estimates, raw and pooled"), fontsize=11)
    fig.legend(fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    return fig


def _covered(observed: np.ndarray, drawn: np.ndarray) -> float:
    """Share of the observations within their 90 % predictive interval."""
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    return float(((observed >= low) & (observed <= high)).mean())


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else 0.0
