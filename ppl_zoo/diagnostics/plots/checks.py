"""The picture of a check: every scalar's error in mean and sd against the limits."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_zoo.diagnostics.check import LIMITS
from ppl_zoo.diagnostics.plots.style import COLOURS, SMALL, tidy

__all__ = ["plot_check", "plot_ranks"]

#: scalars shown; the worst ones if there are more
MOST = 40


def plot_check(check: Any) -> Figure:
    """Draw posterior intervals, beside the reference's and the errors where there is one.

    Parameters
    ----------
    check
        A :class:`ppl_zoo.diagnostics.check.Check`.
    """
    lines = list(check.lines)
    against = check.reference is not None
    if len(lines) > MOST:
        lines.sort(key=lambda line: -max(abs(line.mean_error), abs(line.sd_error)))
        lines = lines[:MOST]
    places = np.arange(len(lines))[::-1]
    height = 1.2 + 0.32 * max(len(lines), 3)
    fig = Figure(figsize=(9.0 if against else 5.5, height), layout="constrained")
    axes = fig.subplots(1, 3 if against else 1, sharey=True, squeeze=False)[0]
    ax = tidy(axes[0])
    sources = [("fit", check.draws, COLOURS[0], 0.12)]
    if against:
        sources.append(("reference", check.reference, COLOURS[1], -0.12))
    for label, draws, colour, shift in sources:
        for place, line in zip(places, lines, strict=True):
            if line.name not in draws:
                continue
            middle, spread = np.mean(draws[line.name]), np.std(draws[line.name])
            scale = np.std(check.draws[line.name]) or 1.0
            origin = np.mean(check.draws[line.name])
            z, half = (middle - origin) / scale, spread / scale
            ax.plot([z - half, z + half], [place + shift] * 2, color=colour, linewidth=3)
            ax.plot(z, place + shift, "o", color="white", markeredgecolor=colour, markersize=5)
        ax.plot([], [], color=colour, linewidth=3, label=f"{label}: mean and 1 sd")
    ax.set_yticks(places, [line.name for line in lines])
    ax.set_xlabel("in sds of the fit, from its mean", fontsize=SMALL)
    fig.legend(fontsize=SMALL, frameon=False, loc="outside lower left", ncols=2)
    if against:
        panels = (
            ("error of the mean, in reference sds", "mean_error", LIMITS["mean"]),
            ("relative error of the sd", "sd_error", LIMITS["sd"]),
        )
        for ax, (title, name, limit) in zip(axes[1:], panels, strict=True):
            tidy(ax)
            values = np.array([getattr(line, name) for line in lines])
            colours = [COLOURS[1] if abs(v) > limit else COLOURS[0] for v in values]
            ax.axvspan(-limit, limit, color="0.92", zorder=0)
            ax.hlines(places, 0, values, color=colours, linewidth=2)
            ax.scatter(values, places, color=colours, s=22, zorder=3)
            ax.set_xlabel(title, fontsize=SMALL)
    words = "; ".join(check.verdict) if check.verdict else "nothing wrong was found"
    fig.suptitle(words if len(words) < 90 else words[:87] + "...", fontsize=10)
    return fig


# ---- The picture of a calibration: distribution functions of ranks, less the uniform one.


def plot_ranks(calibration: Any, columns: int = 4) -> Figure:
    """Draw a panel for each scalar; a curve outside its band is not calibrated.

    Parameters
    ----------
    calibration
        A :class:`ppl_zoo.fitting.calibration.Calibration`.
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
