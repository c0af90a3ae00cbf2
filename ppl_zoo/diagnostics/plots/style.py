"""How figures look: colours that colour-blind readers can tell apart, and no global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "DATA",
    "GREY",
    "MODEL",
    "axis_label",
    "figure",
    "image_grid",
    "tidy",
    "title_of",
]

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/; without yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DATA, MODEL, GREY = "#444444", COLOURS[0], "#999999"
SMALL = 9


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Make a figure and its axes, ``(rows, columns)``, without pyplot."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False, **options)


def tidy(axes: Axes) -> Axes:
    """Leave two spines, small ticks and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


def title_of(fit: Any, card: Any, what: str) -> str:
    """Title of a figure: the model, the data where they are known, and what is seen."""
    name = type(fit.model).__name__
    lead = name if card is None else f"{name} on {card.name}"
    return f"{lead}: {what}" if len(lead) + len(what) < 56 else f"{lead}:\n{what}"


def axis_label(card: Any, index: int, fallback: str) -> str:
    """Name of a feature with its unit."""
    names = getattr(card, "feature_names", None)
    name = names[index] if names and index < len(names) else fallback
    units = getattr(card, "units", "") or ""
    return f"{name} ({units})" if 0 < len(units) <= 30 else name


def image_grid(
    axes: Axes,
    images: np.ndarray,
    shape: Sequence[int],
    columns: int,
    limits: tuple[float, float],
    cmap: str = "gray",
) -> Any:
    """Show rows of pixels as images in a grid with thin gaps.

    Parameters
    ----------
    axes
        Where to.
    images
        ``(count, pixels)``, raster order.
    shape
        Height and width.
    columns
        Images in a line.
    limits
        Values of the darkest and the lightest.
    cmap
        Colour map.
    """
    height, width = shape[:2]
    lines = -(-len(images) // columns)
    canvas = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image.reshape(height, width)
    shown = axes.imshow(canvas, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.set_axis_off()
    return shown
