"""Plots of the components of a Gaussian mixture whose rows are images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import as_doubles
from ppl_zoo.diagnostics.plots.style import SMALL, DataDescription, figure, title_of

__all__ = ["gaussians", "plot_components"]

#: components whose means are shown
MAX_MEANS = 24
#: leading eigenvectors that are shown of a component
NUM_EIGENVECTORS = 7


def plot_components(
    fit: FittedModel, image_shape: Sequence[int], card: DataDescription | None, num: int = 8
) -> Figure:
    """Plot the heaviest components: mean, and leading eigenvectors of the covariance."""
    parts = list(gaussians(fit.model))
    parts.sort(key=lambda part: -part[0])
    means = np.stack([mean for _, mean, _ in parts])
    limits = float(means.min()), float(means.max())
    if not _has_matrices(fit.model):
        shown = parts[:MAX_MEANS]
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
        fig.set_label("The mean of each component, with its weight: what kinds of row there are.")
        return fig
    shown, width = parts[:num], NUM_EIGENVECTORS
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
    fig.set_label(
        "Each line is a component: its weight, its mean, and the directions in which its rows "
        "vary most. Look for edges of several angles and for flat patches."
    )
    return fig


def gaussians(model: Any) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Weight, mean ``(D,)`` and covariance ``(D, D)`` of each component of a Gaussian mixture.

    None for a model without ``weights`` ``(K,)``, ``means`` ``(K, D)`` and ``covariances``: those
    of its ``covariance_type``, or ``(K, D, D)`` where it has none.
    """
    if not isinstance(model, _Mixture):
        return
    weights, means, covariances = model.weights, model.means, model.covariances
    if not all(isinstance(value, Tensor) for value in (weights, means, covariances)):
        return
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        return
    if isinstance(model, _TypedMixture):
        covariances = model.covariance_type.dense(covariances, *means.shape)
    if covariances.shape != (*means.shape, means.shape[1]):
        return
    weights, means, covariances = (as_doubles(t) for t in (weights, means, covariances))
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        yield float(weight), mean, covariance


class _CovarianceType(Protocol):
    """Covariance type of a mixture, as in ``models.mixtures.covariance``."""

    matrix: bool

    def dense(self, covariances: Tensor, num_components: int, num_features: int) -> Tensor:
        """Covariance matrices ``(K, D, D)``."""
        ...


@runtime_checkable
class _Mixture(Protocol):
    """Model with the parameters of a Gaussian mixture."""

    weights: Any
    means: Any
    covariances: Any


@runtime_checkable
class _TypedMixture(Protocol):
    """Mixture whose covariances are those of a covariance type."""

    covariance_type: _CovarianceType


def _has_matrices(model: Any) -> bool:
    """Whether covariances are matrices, whose eigenvectors say more than the axes."""
    return model.covariance_type.matrix if isinstance(model, _TypedMixture) else True


def _mean(ax: Axes, mean: np.ndarray, shape: Sequence[int], limits: tuple[float, float]) -> None:
    ax.imshow(mean.reshape(shape), cmap="gray", vmin=limits[0], vmax=limits[1])
    _bare(ax)
    ax.spines[:].set_visible(True)  # a light mean would melt into the page
    ax.spines[:].set_color("#bbbbbb")


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
