"""Plots of a model's density over its data: in two columns, in one, and of whole rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from torch import Tensor

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import as_doubles
from ppl_zoo.diagnostics.plots.components import gaussians
from ppl_zoo.diagnostics.plots.style import (
    COLOURS,
    DATA,
    MODEL,
    SMALL,
    DataDescription,
    column_label,
    figure,
    tidy,
    title_of,
)

__all__ = ["mass_levels", "plot_density_1d", "plot_density_2d", "plot_log_densities"]

#: shares of the model's mass inside the contours
CONTOUR_MASSES = (0.5, 0.8, 0.95)
#: least width of a histogram of log densities
MIN_WIDTH_NATS = 1e-6


def plot_density_2d(fit: FittedModel, x: Tensor, card: DataDescription | None) -> Figure:
    """Plot a scatter of two columns, regions of highest density, 2-sd ellipses of components."""
    points = as_doubles(x)
    points = points[np.isfinite(points).all(1)]
    fig, axes = figure(6.0, 5.0)
    ax = tidy(axes[0, 0])
    span = np.ptp(points, axis=0)
    low, high = points.min(0) - 0.2 * span, points.max(0) + 0.2 * span
    grid = [np.linspace(low[i], high[i], 120) for i in range(2)]
    across, up = np.meshgrid(*grid)
    where = torch.from_numpy(np.stack([across.ravel(), up.ravel()], 1)).to(x)
    density = np.exp(as_doubles(fit.model.log_prob(where))).reshape(across.shape)
    levels = mass_levels(density)
    ax.contourf(across, up, density, [*levels, np.inf], colors=("#DCEAF5", "#B4D2EA", "#8CBBDF"))
    ax.contour(across, up, density, levels, colors=MODEL, linewidths=0.8, alpha=0.6)
    ax.scatter(points[:, 0], points[:, 1], s=10, color=DATA, alpha=0.65, linewidth=0, zorder=3)
    handles = [
        Line2D([], [], color=DATA, marker="o", markersize=4, linestyle="", label="data"),
        Line2D([], [], color=MODEL, label="50, 80, 95 % of the model's mass"),
    ]
    parts = list(enumerate(gaussians(fit.model)))
    held = [part for part in parts if part[1][0] * len(points) >= 1.0]
    for k, (weight, mean, covariance) in held:
        values, vectors = np.linalg.eigh(covariance)
        colour = COLOURS[1:][k % (len(COLOURS) - 1)]
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        axis = 4.0 * np.sqrt(values)
        width = 0.8 + 2.4 * weight  # as thick as it is heavy
        ax.add_patch(
            Ellipse(mean, axis[1], axis[0], angle=angle, fill=False, color=colour, linewidth=width)
        )
        ax.plot(*mean, marker="+", color=colour, markersize=11, markeredgewidth=2.2, zorder=4)
        if k < 6:
            label = f"component {k} (weight {weight:.2f}), 2 sd"
            handles.append(Line2D([], [], color=colour, linewidth=width, label=label))
    if len(held) < len(parts):
        empty = f"{len(parts) - len(held)} of {len(parts)} components hold no row: not drawn"
        handles.append(Line2D([], [], linestyle="", label=empty))
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    name = fit.model.argument_names[0]
    ax.set_xlabel(column_label(fit, card, name, 0))
    ax.set_ylabel(column_label(fit, card, name, 1))
    thick = "; ellipses are thicker where they hold more rows" if held else ""
    fig.set_label(f"The data should fill the blue regions, darkest in their midst{thick}.")
    fig.suptitle(title_of(fit, card, "density and data"), fontsize=11)
    fig.legend(handles=handles, fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    return fig


def plot_density_1d(fit: FittedModel, x: Tensor, card: DataDescription | None) -> Figure:
    """Plot a histogram of one column and the model's density, or probabilities of integers."""
    values = as_doubles(x).ravel()
    fig, axes = figure(6.0, 3.6)
    ax = tidy(axes[0, 0])
    counts = np.unique(values)
    if np.all(counts == np.round(counts)) and len(counts) <= 50:
        grid = np.arange(counts.min(), counts.max() + 1)
        share = np.array([(values == v).mean() for v in grid])
        ax.bar(grid, share, width=0.8, color=DATA, alpha=0.35, label="data")
        style: dict[str, Any] = {"marker": "o", "linestyle": ""}
        ax.set_ylabel("probability")
    else:
        pad = 0.15 * np.ptp(values)
        grid = np.linspace(values.min() - pad, values.max() + pad, 300)
        ax.hist(values, bins=40, density=True, color=DATA, alpha=0.35, label="data")
        style = {"linewidth": 2.0}
        ax.set_ylabel("density")
    where = torch.from_numpy(grid).to(x).reshape(-1, *x.shape[1:])
    density = np.exp(as_doubles(fit.model.log_prob(where)))
    ax.plot(grid, density, color=MODEL, label="model", **style)
    ax.set_xlabel(column_label(fit, card, fit.model.argument_names[0]))
    fig.set_label("The line is the model, the bars are the data: it should follow them.")
    ax.set_title(title_of(fit, card, "density and data"), fontsize=11)
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def plot_log_densities(fit: FittedModel, x: Tensor, card: DataDescription | None) -> Figure:
    """Plot log densities of data and of the model's samples: equal where the model is true."""
    fig, axes = figure(6.0, 3.6)
    ax = tidy(axes[0, 0])
    data = as_doubles(fit.model.log_prob(x))
    with fit.seeded(0):
        new = fit.model.sample(len(data))
    new = as_doubles(fit.model.log_prob(new))
    low, high = np.quantile(np.concatenate([data, new]), [0.01, 0.99])
    if high - low < MIN_WIDTH_NATS:  # all rows may have one density
        low, high = low - MIN_WIDTH_NATS / 2, high + MIN_WIDTH_NATS / 2
    bins = np.linspace(low, high, 41)
    inside = [np.clip(v, low, high) for v in (data, new)]
    ax.hist(inside[0], bins, density=True, color=DATA, alpha=0.35, label="data")
    ax.hist(
        inside[1],
        bins,
        density=True,
        color=MODEL,
        histtype="step",
        linewidth=1.8,
        label="the model's samples",
    )
    ax.set_xlabel("log density of a row (nats)")
    ax.set_ylabel("density")
    ax.set_title(title_of(fit, card, "log density of data and samples"), fontsize=11)
    fig.set_label(
        "How likely the model finds the data, and rows that it draws itself: the two outlines "
        "agree where the model is right."
    )
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def mass_levels(density: np.ndarray) -> list[float]:
    """Densities above which 95, 80 and 50 % of the mass lie."""
    falling = np.sort(density.ravel())[::-1]
    share = np.cumsum(falling) / falling.sum()
    return [
        float(falling[np.searchsorted(share, mass)])
        for mass in sorted(CONTOUR_MASSES, reverse=True)
    ]
