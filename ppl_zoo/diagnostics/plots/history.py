"""Plot of a fit's history: the objective by step, a line a chain.

A fit that validation rows have stopped is told by their score, nats a row; its curve, of the rows
of the fit, is then in nats a row too.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.plots.style import (
    COLOURS,
    GREY,
    SMALL,
    DataDescription,
    figure,
    tidy,
    title_of,
)

__all__ = ["plot_history"]

#: chains that each get a line in the legend
MAX_LEGEND_CHAINS = 4
#: why a chain stopped, in words
STOPPED = {"max_steps": "out of steps, not converged"}


def plot_history(fit: FittedModel, card: DataDescription | None = None) -> Figure:
    """Plot the objective of every chain against the step.

    The y-axis is scaled to the later steps; the rise at the start would dwarf them.

    Parameters
    ----------
    fit
        A fit.
    card
        The card of the data set, for the title.
    """
    fig, axes = figure(7.0, 3.6)
    ax = tidy(axes[0, 0])
    late = []
    solution = fit.solution
    held_out = solution.validation_score
    # under validation the objective is that score times the rows of the fit
    rows = fit.objective / held_out if np.isfinite(held_out) else 1.0
    unit = "nats" if rows == 1.0 else "nats a row"
    for chain, trace in enumerate(np.asarray(fit.history["objective"], float) / rows):
        steps = np.flatnonzero(np.isfinite(trace))
        if not len(steps):
            continue
        values, colour = trace[steps], COLOURS[chain % len(COLOURS)]
        best = " (best)" if chain == solution.best and len(solution.stopped) > 1 else ""
        label = f"chain {chain}{best}: "
        if rows == 1.0:
            label += f"{solution.objective[chain]:,.2f} nats, "
        else:
            label += "rows of the fit, "
        label += STOPPED.get(solution.stopped[chain], solution.stopped[chain])
        if len(solution.stopped) > MAX_LEGEND_CHAINS and not best:
            label = None  # the best one speaks for all; a legend of ten hides the curves
        skip = len(values) // 2 if len(values) > 50 else int(len(values) > 3)
        late.append(values[skip:])
        if len(values) <= 50:
            ax.plot(steps, values, color=colour, marker="o", markersize=4, label=label)
            continue
        ax.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
        ax.plot(steps, _running_median(values), color=colour, linewidth=1.6, label=label)
    if np.isfinite(held_out):
        late.append(np.array([held_out]))
        label = f"held-out rows, at their best: {held_out:,.2f} nats a row"
        ax.axhline(held_out, color=GREY, linewidth=1.4, linestyle="--", label=label)
    elif late and np.isfinite(fit.objective):
        late.append(np.array([fit.objective]))
    if late:
        everything = np.concatenate(late)
        # noise of the estimate has a long lower tail
        low, high = np.quantile(everything, 0.005), everything.max()
        low = min(low, late[-1].min())
        span = (high - low) or 1.0
        ax.set_ylim(low - 0.25 * span, high + 0.06 * span)
        ax.legend(fontsize=SMALL, frameon=False, loc="lower right")
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel(f"objective ({unit})")
    ax.set_title(title_of(fit, card, "objective by step"), fontsize=11)
    fig.set_label("The objective by step: it climbs, and levels off where the fit has converged.")
    return fig


def _running_median(values: np.ndarray) -> np.ndarray:
    width = max(5, len(values) // 50) | 1
    padded = np.pad(values, width // 2, mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=-1)
