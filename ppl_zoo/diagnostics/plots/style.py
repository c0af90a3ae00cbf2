"""Style of figures: a colour-blind palette, axes, titles, image grids; no global state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ppl_zoo.core.posterior import FittedModel

__all__ = [
    "COLOURS",
    "DATA",
    "GREY",
    "MODEL",
    "SMALL",
    "DataDescription",
    "column_label",
    "column_name",
    "figure",
    "image_grid",
    "is_binary",
    "tidy",
    "title_of",
]

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color/; without yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DATA, MODEL, GREY = "#444444", COLOURS[0], "#999999"
#: font size of labels and legends, points
SMALL = 9
#: longest description of units that stands on an axis
MAX_UNITS = 30


@runtime_checkable
class DataDescription(Protocol):
    """:class:`ppl_zoo.data.DataCard`, as far as figures use it."""

    name: str
    units: str
    feature_names: tuple[str, ...] | None
    image_shape: tuple[int, ...] | None


def figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, np.ndarray]:
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


def title_of(fit: FittedModel, card: DataDescription | None, what: str) -> str:
    """Title of a figure: the model, the data set where it is known, and what is plotted."""
    name = fit.model.model_name
    lead = name if card is None else f"{name} on {card.name}"
    return f"{lead}: {what}" if len(lead) + len(what) < 56 else f"{lead}:\n{what}"


def column_name(
    fit: FittedModel, card: DataDescription | None, argument: str, column: int = 0
) -> str:
    """Name of a column of an argument: the frame's that was fitted, or else the card's.

    A card names the columns of all arguments, one after the other; where it names more or fewer,
    the argument itself is named.
    """
    own = fit.model.data_names.get(argument)
    if own is not None and column < len(own.columns):
        return str(own.columns[column])
    arrays = () if fit.rows is None else fit.rows.arrays
    widths = {
        name: int(np.prod(array.shape[1:]))
        for name, array in zip(fit.model.argument_names, arrays, strict=False)
    }
    names = (card.feature_names if card is not None else None) or ()
    if argument in widths and len(names) == sum(widths.values()):
        before = list(widths).index(argument)
        return names[sum(list(widths.values())[:before]) + column]
    return argument if widths.get(argument, 1) == 1 else f"{argument}[{column}]"


def column_label(
    fit: FittedModel, card: DataDescription | None, argument: str, column: int = 0
) -> str:
    """Name of a column with its unit."""
    name, units = column_name(fit, card, argument, column), card.units if card is not None else ""
    known = 0 < len(units) <= MAX_UNITS and not units.startswith("none")
    return f"{name} ({units})" if known else name


def is_binary(values: np.ndarray) -> bool:
    """Whether all values are 0 or 1, and both occur."""
    return set(np.unique(values)) == {0.0, 1.0}


def image_grid(
    axes: Axes,
    images: np.ndarray,
    shape: Sequence[int],
    columns: int,
    limits: tuple[float, float],
    cmap: str = "gray",
) -> AxesImage:
    """Show rows of pixels as images in a grid with thin gaps.

    Parameters
    ----------
    axes
        Axes to draw into.
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
