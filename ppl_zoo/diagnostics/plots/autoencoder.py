"""Plots for autoencoders: reconstructions, and a map of the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import even_indices
from ppl_zoo.diagnostics.plots.style import (
    COLOURS,
    MODEL,
    SMALL,
    DataDescription,
    figure,
    image_grid,
    tidy,
    title_of,
)

__all__ = ["Autoencoder", "plot_autoencoder"]

#: rows shown with their reconstructions
NUM_PAIRS = 32
#: classes that get a colour each
MAX_CLASSES = 20


@runtime_checkable
class Autoencoder(Protocol):
    """A model with codes of rows and reconstructions."""

    def encode(self, x: Tensor) -> Tensor:
        """Code of each row."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of each row given its code."""


def plot_autoencoder(
    fit: FittedModel,
    x: Tensor,
    image_shape: Sequence[int],
    card: DataDescription | None,
    labels: np.ndarray | None = None,
) -> Figure:
    """Plot images beside their reconstructions, and a map of their codes coloured by class.

    Parameters
    ----------
    fit
        A fit of an :class:`Autoencoder`.
    x
        Rows of pixels, ``(n, pixels)``.
    image_shape
        Height and width.
    card
        The card of the data set, for the title.
    labels
        Class of each row, ``(n,)``; only to colour by.
    """
    model, some = fit.model, torch.from_numpy(even_indices(len(x), NUM_PAIRS))
    with fit.chain(fit.solution.best), torch.no_grad():
        code = model.encode(x).double().cpu().numpy()
        back = model.reconstruct(x[some])
    pairs = torch.stack([x[some], back], 1).flatten(0, 1).double().cpu().numpy()
    fig, axes = figure(9.6, 4.6, 1, 2, width_ratios=(1.0, 1.1))
    limits = (float(x.min()), float(x.max()))
    image_grid(axes[0, 0], pairs, image_shape, 8, limits)
    axes[0, 0].set_title("rows, each with its reconstruction to the right", fontsize=10)
    ax = tidy(axes[0, 1])
    # of more than two latents those that move most with the data
    first, second = np.sort(np.argsort(-code.var(0))[:2]) if code.shape[1] > 1 else (0, None)
    across = code[:, first]
    up = code[:, second] if second is not None else np.zeros(len(code))
    classes = np.unique(labels) if labels is not None else np.array([])
    if 1 < len(classes) <= MAX_CLASSES:
        colours = _colours(len(classes))
        for value, colour in zip(classes, colours, strict=True):
            own = labels == value
            ax.scatter(across[own], up[own], s=11, color=colour, label=str(value), linewidth=0)
        ax.legend(
            fontsize=SMALL,
            frameon=False,
            title="class",
            title_fontsize=SMALL,
            markerscale=1.8,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            handletextpad=0.1,
        )
    else:
        ax.scatter(across, up, s=11, color=MODEL, linewidth=0)
    ax.set_xlabel(f"latent {first}")
    ax.set_ylabel("one latent only" if second is None else f"latent {second}")
    ax.set_title("map of the latents: mean of each row's guide", fontsize=10)
    fig.suptitle(title_of(fit, card, "codes and reconstructions"), fontsize=11)
    fig.set_label(
        "Left: rows, each beside what its code gives back. Right: the map that the model has made "
        "without being told the classes; those that look alike lie together."
    )
    return fig


def _colours(count: int) -> list[Any]:
    """Colours of classes, those of the style while they suffice."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps

    return [colormaps["tab10" if count <= 10 else "tab20"](i) for i in range(count)]
