"""Pictures of a model over its data, one function a kind of data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from torch import Tensor

from ppl_zoo.diagnostics.style import (
    COLOURS,
    DATA,
    GREY,
    MODEL,
    SMALL,
    axis_label,
    figure,
    tidy,
    title_of,
)

__all__ = [
    "components",
    "density_1d",
    "density_2d",
    "group_effects",
    "log_densities",
    "predicted",
    "regression",
]

MASSES = (0.5, 0.8, 0.95)


def density_2d(fit: Any, x: Tensor, card: Any) -> Figure:
    """Scatter of two columns, regions of highest density, 2-sd ellipses of components."""
    points = _numpy(x)
    points = points[np.isfinite(points).all(1)]
    fig, axes = figure(6.0, 5.0)
    ax = tidy(axes[0, 0])
    span = np.ptp(points, axis=0)
    low, high = points.min(0) - 0.2 * span, points.max(0) + 0.2 * span
    grid = [np.linspace(low[i], high[i], 120) for i in range(2)]
    across, up = np.meshgrid(*grid)
    where = torch.from_numpy(np.stack([across.ravel(), up.ravel()], 1)).to(x)
    density = np.exp(_numpy(fit.model.log_prob(where))).reshape(across.shape)
    levels = _mass_levels(density)
    ax.contourf(across, up, density, [*levels, np.inf], colors=("#DCEAF5", "#B4D2EA", "#8CBBDF"))
    ax.contour(across, up, density, levels, colors=MODEL, linewidths=0.8, alpha=0.6)
    ax.scatter(points[:, 0], points[:, 1], s=10, color=DATA, alpha=0.65, linewidth=0, zorder=3)
    handles = [
        Line2D([], [], color=DATA, marker="o", markersize=4, linestyle="", label="data"),
        Line2D([], [], color=MODEL, label="50, 80, 95 % of the model's mass"),
    ]
    for k, (weight, mean, covariance) in enumerate(_gaussians(fit.model)):
        values, vectors = np.linalg.eigh(covariance)
        colour = COLOURS[1:][k % (len(COLOURS) - 1)]
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        axis = 4.0 * np.sqrt(values)
        ax.add_patch(
            Ellipse(mean, axis[1], axis[0], angle=angle, fill=False, color=colour, linewidth=2.0)
        )
        ax.plot(*mean, marker="+", color=colour, markersize=11, markeredgewidth=2.2, zorder=4)
        if k < 6:
            label = f"component {k} (weight {weight:.2f}), 2 sd"
            handles.append(Line2D([], [], color=colour, linewidth=2.0, label=label))
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_xlabel(axis_label(card, 0, "x[0]"))
    ax.set_ylabel(axis_label(card, 1, "x[1]"))
    fig.suptitle(title_of(fit, card, "density and data"), fontsize=11)
    fig.legend(handles=handles, fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    return fig


def density_1d(fit: Any, x: Tensor, card: Any) -> Figure:
    """Histogram of one column and the model's density, or probabilities of whole numbers."""
    values = _numpy(x).ravel()
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
    density = np.exp(_numpy(fit.model.log_prob(where)))
    ax.plot(grid, density, color=MODEL, label="model", **style)
    ax.set_xlabel(axis_label(card, 0, fit.model.argument_names[0]))
    ax.set_title(title_of(fit, card, "density and data"), fontsize=11)
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


def regression(
    fit: Any, x: Tensor, y: Tensor, replicates: Tensor, x_name: str, y_name: str, card: Any
) -> Figure:
    """One input: data, predictive mean, and bands of 50 and 90 %."""
    order = np.argsort(_numpy(x))
    across, points, drawn = _numpy(x)[order], _numpy(y)[order], _numpy(replicates)[:, order]
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


def predicted(fit: Any, y: Tensor, replicates: Tensor, name: str, card: Any) -> Figure:
    """Several inputs: observed against predicted, with 90 % intervals."""
    observed, drawn = _numpy(y), _numpy(replicates)
    keep = np.linspace(0, len(observed) - 1, min(200, len(observed))).round().astype(int)
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


def group_effects(
    fit: Any, y: Tensor, sigma: Tensor, draws: Tensor, name: str, card: Any
) -> Figure:
    """Estimates with their standard errors, and the posterior beside them."""
    raw, error, drawn = _numpy(y), _numpy(sigma), _numpy(draws)
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
    plate = fit.model.rows_plate or "row"
    ax.set_yticks(places, [str(i) for i in order])
    ax.set_ylabel(f"{plate.rstrip('s')}, by estimate")
    units = getattr(card, "units", "")
    ax.set_xlabel(f"effect ({units})" if units else "effect")
    fig.suptitle(title_of(fit, card, "estimates, raw and pooled"), fontsize=11)
    fig.legend(fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    return fig


def components(fit: Any, image_shape: Sequence[int], card: Any, num: int = 8) -> Figure:
    """Heaviest components of images: mean, and leading eigenvectors of the covariance."""
    parts = list(_gaussians(fit.model))
    parts.sort(key=lambda part: -part[0])
    dense = getattr(fit.model, "covariances", None)
    dense = isinstance(dense, Tensor) and _kind(fit.model) in ("full", "tied")
    means = np.stack([mean for _, mean, _ in parts])
    limits = float(means.min()), float(means.max())
    if not dense:
        shown = parts[:24]
        columns = min(8, len(shown))
        lines = -(-len(shown) // columns)
        fig, axes = figure(1.15 * columns + 0.3, 1.35 * lines + 0.6, lines, columns)
        for ax, part in zip(axes.flat, [*shown, *[None] * (lines * columns)], strict=False):
            if part is None:
                ax.set_axis_off()
            else:
                _mean(ax, part[1], image_shape, limits)
                ax.set_title(f"{part[0]:.3f}", fontsize=SMALL)
        what = f"means of {len(shown)} of {len(parts)} components, with weights"
        fig.suptitle(title_of(fit, card, what), fontsize=11)
        return fig
    shown, width = parts[:num], 7
    fig, axes = figure(0.95 * (width + 1) + 0.7, 0.98 * len(shown) + 0.9, len(shown), width + 1)
    for line, (weight, mean, covariance) in enumerate(shown):
        values, vectors = np.linalg.eigh(covariance)
        _mean(axes[line, 0], mean, image_shape, limits)
        axes[line, 0].set_ylabel(f"{weight:.3f}", fontsize=SMALL)
        for j in range(min(width, len(values))):
            vector = vectors[:, -1 - j]
            top = np.abs(vector).max()
            ax = axes[line, j + 1]
            ax.imshow(vector.reshape(image_shape), cmap="PuOr", vmin=-top, vmax=top)
            ax.set_xlabel(f"sd {np.sqrt(max(values[-1 - j], 0.0)):.2g}", fontsize=7, labelpad=1)
    for ax in axes[:, 1:].flat:
        _bare(ax)
    axes[0, 0].set_title("mean", fontsize=SMALL)
    for j in range(width):
        axes[0, j + 1].set_title(f"eigenv. {j + 1}", fontsize=SMALL)
    what = f"the {len(shown)} heaviest of {len(parts)} components, with weights"
    fig.suptitle(title_of(fit, card, what), fontsize=11)
    return fig


def log_densities(fit: Any, x: Tensor, card: Any) -> Figure:
    """Log density of the data and of the model's own samples: equal where the model is true."""
    fig, axes = figure(6.0, 3.6)
    ax = tidy(axes[0, 0])
    data = _numpy(fit.model.log_prob(x))
    with fit._seeded(0):
        new = fit.model.sample(len(data))
    new = _numpy(fit.model.log_prob(new))
    low, high = np.quantile(np.concatenate([data, new]), [0.01, 0.99])
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
    ax.legend(fontsize=SMALL, frameon=False)
    return fig


# ---- small things -----------------------------------------------------------------------------


def _bare(ax: Any) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _mean(ax: Any, mean: np.ndarray, shape: Sequence[int], limits: tuple[float, float]) -> None:
    ax.imshow(mean.reshape(shape), cmap="gray", vmin=limits[0], vmax=limits[1])
    _bare(ax)
    ax.spines[:].set_visible(True)  # a light mean would melt into the page
    ax.spines[:].set_color("#bbbbbb")


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy()


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else 0.0


def _mass_levels(density: np.ndarray) -> list[float]:
    """Densities above which the given shares of the mass lie, rising."""
    falling = np.sort(density.ravel())[::-1]
    share = np.cumsum(falling) / falling.sum()
    return [float(falling[np.searchsorted(share, mass)]) for mass in sorted(MASSES, reverse=True)]


def _kind(model: Any) -> str:
    """Guess the kind of covariances from the model's argument, or from their shape."""
    told = getattr(model, "config", {}).get("covariance")
    if isinstance(told, str):
        return told
    return {1: "spherical", 2: "diagonal", 3: "full"}.get(model.covariances.ndim, "full")


def _gaussians(model: Any) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean and covariance of each component, where the model shows them."""
    found = [getattr(model, name, None) for name in ("weights", "means", "covariances")]
    if not all(isinstance(value, Tensor) for value in found):
        return
    weights, means, covariances = (_numpy(value) for value in found)
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        return
    size, kind = means.shape[1], _kind(model)
    for k in range(len(weights)):
        if kind == "tied":
            covariance = covariances
        elif kind == "diagonal":
            covariance = np.diag(covariances[k])
        elif kind == "spherical":
            covariance = covariances[k] * np.eye(size)
        else:
            covariance = covariances[k]
        yield float(weights[k]), means[k], covariance
