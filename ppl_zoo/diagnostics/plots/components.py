"""The Gaussian components of a model: read off it, and drawn where its rows are images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.diagnostics.arrays import as_doubles
from ppl_zoo.diagnostics.plots.style import SMALL, figure, title_of

__all__ = ["components", "gaussians"]


def components(fit: Any, image_shape: Sequence[int], card: Any, num: int = 8) -> Figure:
    """Heaviest components of images: mean, and leading eigenvectors of the covariance."""
    parts = list(gaussians(fit.model))
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


def gaussians(model: Any) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean and covariance of each component, where the model shows them."""
    found = [getattr(model, name, None) for name in ("weights", "means", "covariances")]
    if not all(isinstance(value, Tensor) for value in found):
        return
    weights, means, covariances = (as_doubles(value) for value in found)
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


def _kind(model: Any) -> str:
    """Guess the kind of covariances from the model's argument, or from their shape."""
    told = getattr(model, "config", {}).get("covariance")
    if isinstance(told, str):
        return told
    return {1: "spherical", 2: "diagonal", 3: "full"}.get(model.covariances.ndim, "full")


def _mean(ax: Any, mean: np.ndarray, shape: Sequence[int], limits: tuple[float, float]) -> None:
    ax.imshow(mean.reshape(shape), cmap="gray", vmin=limits[0], vmax=limits[1])
    _bare(ax)
    ax.spines[:].set_visible(True)  # a light mean would melt into the page
    ax.spines[:].set_color("#bbbbbb")


def _bare(ax: Any) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
