"""Plots of checks: errors of scalars, local latents by row, ranks of a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from matplotlib.figure import Figure

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arviz_compat import get_group
from ppl_zoo.diagnostics.plots.style import COLOURS, SMALL, figure, tidy, title_of

__all__ = ["plot_check", "plot_ranks", "plot_row_check"]

#: scalars shown; those with the largest errors if there are more
MAX_SCALARS = 40
#: panels and intervals of a row check
MAX_ROWS, MAX_LATENTS = 6, 16


@runtime_checkable
class CheckResult(Protocol):
    """:class:`ppl_zoo.diagnostics.check.Check`, as far as it is plotted."""

    lines: Sequence[Any]
    draws: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray] | None
    verdict: Sequence[str]
    limits: Mapping[str, float]


@runtime_checkable
class RowCheckResult(Protocol):
    """:class:`ppl_zoo.diagnostics.row_check.RowCheck`, as far as it is plotted."""

    khat: np.ndarray
    mean_error: Mapping[str, np.ndarray]
    guide: Any
    reference: Any
    fit: FittedModel


@runtime_checkable
class Ranks(Protocol):
    """:class:`ppl_zoo.fitting.calibration.Calibration`, as far as it is plotted."""

    ranks: Mapping[str, np.ndarray]

    def ecdf_difference(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Grid on (0, 1), and the distribution function of the ranks minus it."""

    def band(self) -> np.ndarray:
        """Half width of the band that a uniform curve lies in."""


def plot_check(check: CheckResult) -> Figure:
    """Plot posterior intervals, beside the reference's and the errors where there is one."""
    lines = list(check.lines)
    against = check.reference is not None
    if len(lines) > MAX_SCALARS:
        lines.sort(key=lambda line: -max(abs(line.mean_error), abs(line.sd_error)))
        lines = lines[:MAX_SCALARS]
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
            ("error of the mean, in reference sds", "mean_error", check.limits["mean"]),
            ("relative error of the sd", "sd_error", check.limits["sd"]),
        )
        for ax, (title, name, limit) in zip(axes[1:], panels, strict=True):
            tidy(ax)
            values = np.array([getattr(line, name) for line in lines])
            colours = [COLOURS[1] if abs(v) > limit else COLOURS[0] for v in values]
            ax.axvspan(-limit, limit, color="0.92", zorder=0)
            ax.hlines(places, 0, values, color=colours, linewidth=2)
            ax.scatter(values, places, color=colours, s=22, zorder=3)
            ax.set_xlabel(title, fontsize=SMALL)
    title = "; ".join(check.verdict) or "nothing measured is beyond its limit"
    fig.suptitle(title if len(title) < 90 else title[:87] + "...", fontsize=10)
    return fig


def plot_row_check(check: RowCheckResult) -> Figure:
    """Plot 90 % intervals of the latents of a panel a row, guide and reference side by side."""
    sources = [("guide", get_group(check.guide, "posterior"))]
    if check.reference is not None:
        sources.append(("reference", get_group(check.reference, "posterior")))
    names = list(check.mean_error) or list(sources[0][1].data_vars)
    drawn = {
        what: np.concatenate([_flat(group[name].values) for name in names], -1)
        for what, group in sources
    }
    num_rows, size = drawn["guide"].shape[1:]
    num_rows, size = min(num_rows, MAX_ROWS), min(size, MAX_LATENTS)
    columns = min(3, num_rows)
    lines = -(-num_rows // columns)
    height = (0.24 * size + 0.9) * lines + 0.7
    fig, axes = figure(3.1 * columns + 0.4, height, lines, columns, sharex=True, sharey=True)
    places = np.arange(size)
    for row, ax in enumerate(axes.flat):
        if row >= num_rows:
            ax.set_axis_off()
            continue
        tidy(ax)
        for index, (what, _) in enumerate(sources):
            values, shift = drawn[what][:, row, :size], 0.26 * index - 0.13 * len(sources[1:])
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
            colour, shifted = COLOURS[index], places + shift
            ax.hlines(shifted, low, high, color=colour, linewidth=2, label=what)
            ax.plot(middle, shifted, "o", color="white", markeredgecolor=colour, markersize=4)
        known = np.isfinite(check.khat[row])
        ax.set_title(
            f"row {row}" + (f", k-hat {check.khat[row]:.2f}" if known else ""), fontsize=10
        )
        ax.set_yticks(places)
        ax.set_xlabel("90 % interval" if row >= num_rows - columns else "", fontsize=SMALL)
    axes[0, 0].set_ylim(size - 0.4, -0.6)
    for ax in axes[:, 0]:
        ax.set_ylabel("latent", fontsize=SMALL)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    fig.suptitle(title_of(check.fit, None, "local latents"), fontsize=11)
    return fig


def plot_ranks(calibration: Ranks, columns: int = 4) -> Figure:
    """Plot the distribution functions of ranks, less the uniform one, a panel a scalar.

    A curve outside of its band is not calibrated.

    Parameters
    ----------
    calibration
        Ranks of a simulation-based calibration.
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


def _flat(values: np.ndarray) -> np.ndarray:
    """``(chain, draw, row, ...)`` to ``(draws, row, size)``."""
    return values.reshape(values.shape[0] * values.shape[1], values.shape[2], -1)
