"""The picture of a calibration: distribution functions of ranks, less the uniform one."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_zoo.diagnostics.style import COLOURS, SMALL, tidy

__all__ = ["plot_ranks"]


def plot_ranks(calibration: Any, columns: int = 4) -> Figure:
    """Draw a panel for each scalar; a curve outside its band is not calibrated.

    Parameters
    ----------
    calibration
        A :class:`ppl_zoo.calibration.Calibration`.
    columns
        Panels beside each other.
    """
    names = list(calibration.ranks)
    columns = min(columns, len(names))
    lines = -(-len(names) // columns)
    fig = Figure(figsize=(3.0 * columns, 2.3 * lines + 0.4), layout="constrained")
    axes = fig.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    band = calibration.band()
    for ax, name in zip(axes.flat, names, strict=False):
        tidy(ax)
        grid, curve = calibration.ecdf_difference(name)
        outside = (np.abs(curve) > band).any()
        ax.fill_between(grid, -band, band, color="0.9", linewidth=0)
        ax.plot(grid, curve, color=COLOURS[1] if outside else COLOURS[0], linewidth=1.5)
        ax.set_title(name, fontsize=SMALL)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    fig.supxlabel("rank of the truth among posterior draws", fontsize=SMALL)
    fig.supylabel("share below, less uniform", fontsize=SMALL)
    fig.suptitle("Calibration by simulation, with the band that holds 95 % of curves", fontsize=10)
    return fig
