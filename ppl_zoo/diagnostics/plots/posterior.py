"""Plots of posteriors: densities, intervals, responsibilities, codes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import even_indices
from ppl_zoo.diagnostics.plots.style import COLOURS, SMALL, DataDescription, figure, tidy, title_of

__all__ = ["plot_codes", "plot_densities", "plot_responsibilities"]

#: intervals of a vector, evenly spaced over its entries
MAX_INTERVALS = 20
#: states of a discrete latent with a colour of their own
MAX_STATES = 6


def plot_densities(
    fit: FittedModel,
    values: Mapping[str, np.ndarray],
    rows: np.ndarray,
    local: Collection[str],
    card: DataDescription | None,
) -> Figure:
    """Plot scalars as densities, a line a chain, and vectors as intervals.

    Parameters
    ----------
    fit, card
        For the title.
    values
        ``{variable: (chain, draw, size)}``.
    rows
        Which rows the local variables belong to.
    local
        Names of the variables in the plate over the data.
    """
    columns = min(3, len(values))
    lines = -(-len(values) // columns)
    longest = max(min(v.shape[2], MAX_INTERVALS) for v in values.values())
    fig, axes = figure(
        3.4 * columns + 0.4, (2.6 if longest < 6 else 3.4) * lines + 0.5, lines, columns
    )
    for ax in axes.flat[len(values) :]:
        ax.set_axis_off()
    for ax, (name, drawn) in zip(axes.flat, values.items(), strict=False):
        tidy(ax)
        if drawn.shape[2] == 1:
            _density(ax, drawn[:, :, 0])
            ax.set_xlabel(name)
            ax.set_ylabel(ax.get_ylabel() or "density")
        else:
            labels = rows if name in local and len(rows) == drawn.shape[2] else None
            _intervals(ax, drawn, labels)
            ax.set_xlabel(f"{name} (50 and 90 %)")
            ax.set_ylabel("row of the data" if labels is not None else f"entry of {name}")
    chains = len(next(iter(values.values())))
    if chains > 1:
        handles = [
            axes[0, 0].plot([], [], color=COLOURS[c % len(COLOURS)], label=f"chain {c}")[0]
            for c in range(min(chains, len(COLOURS)))
        ]
        fig.legend(
            handles=handles, fontsize=SMALL, frameon=False, loc="outside lower center", ncols=7
        )
    fig.suptitle(title_of(fit, card, "posterior"), fontsize=11)
    fig.set_label(
        "The posterior of what was not observed: narrow where the data tell much"
        + (", the same for all chains where they agree." if chains > 1 else ".")
    )
    return fig


def plot_responsibilities(
    fit: FittedModel, code: Tensor, rows: np.ndarray, name: str, card: DataDescription | None
) -> Figure:
    """Plot the probabilities of the states of a discrete local latent, a bar a row."""
    shares = code.detach().cpu().double().numpy()
    top = np.argsort(-shares.mean(0))[:MAX_STATES]
    fig, axes = figure(6.4, 0.42 * len(shares) + 1.6)
    ax = tidy(axes[0, 0])
    left = np.zeros(len(shares))
    places = np.arange(len(shares))
    for index, state in enumerate(sorted(top)):
        colour = COLOURS[1:][index % (len(COLOURS) - 1)]
        label = str(state)
        ax.barh(places, shares[:, state], left=left, height=0.7, color=colour, label=label)
        left += shares[:, state]
    if shares.shape[1] > len(top):
        ax.barh(places, 1.0 - left, left=left, height=0.7, color="#dddddd", label="others")
    ax.set_yticks(places, [str(row) for row in rows])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_ylabel("row of the data")
    ax.set_xlabel("posterior probability")
    fig.suptitle(title_of(fit, card, f"{name}, of six rows and of the least certain"), fontsize=11)
    fig.set_label("Which component a row comes from: one colour where it is certain.")
    fig.legend(
        fontsize=SMALL,
        frameon=False,
        loc="outside lower center",
        ncols=8,
        title=name,
        title_fontsize=SMALL,
    )
    return fig


def plot_codes(
    fit: FittedModel,
    posterior: Mapping[str, Tensor],
    rows: np.ndarray,
    card: DataDescription | None,
) -> Figure:
    """Plot the representation of chosen rows as a heat map."""
    name, values = next(iter(posterior.items()))
    code = values[0].detach().cpu().double().numpy().reshape(len(rows), -1)
    fig, axes = figure(6.4, 0.4 * len(rows) + 1.6)
    ax = axes[0, 0]
    shown = ax.imshow(code, aspect="auto", cmap="viridis", interpolation="nearest")
    ax.set_yticks(range(len(rows)), [str(row) for row in rows], fontsize=SMALL)
    ax.set_ylabel("row of the data")
    ax.set_xlabel("feature of the representation")
    if code.shape[1] == 1:
        ax.set_xticks([0])
    fig.set_label("What the model makes of some rows, a line each.")
    fig.colorbar(shown, ax=ax, label=name.replace("_", " "))
    fig.suptitle(title_of(fit, card, f"{name.replace('_', ' ')} of chosen rows"), fontsize=11)
    return fig


def _density(ax: Axes, drawn: np.ndarray) -> None:
    low, high = np.quantile(drawn, [0.002, 0.995])
    if high <= low:
        ax.axvline(low, color=COLOURS[0])
        return
    if np.all(drawn == np.round(drawn)) and len(np.unique(drawn)) <= 20:
        states = np.unique(drawn)
        width = 0.8 / len(drawn)
        for chain, values in enumerate(drawn):
            share = [(values == s).mean() for s in states]
            ax.bar(states + width * chain, share, width, color=COLOURS[chain % len(COLOURS)])
        ax.set_ylabel("probability")
        return
    grid = np.linspace(low, high, 200)
    for chain, values in enumerate(drawn):
        # Silverman's rule; reflected at the ends, where a bounded variable may pile up
        spread = min(values.std(), np.subtract(*np.quantile(values, [0.75, 0.25])) / 1.34)
        width = 0.9 * (spread or values.std() or 1.0) * len(values) ** -0.2
        ends = values.min(), values.max()
        points = np.concatenate([values, 2 * ends[0] - values, 2 * ends[1] - values])
        kernel = np.exp(-0.5 * ((grid[:, None] - points) / width) ** 2).sum(1)
        kernel[(grid < ends[0]) | (grid > ends[1])] = 0.0
        kernel /= len(values) * width * np.sqrt(2 * np.pi)
        colour = COLOURS[chain % len(COLOURS)]
        ax.plot(grid, kernel, color=colour, linewidth=1.7)
        ax.fill_between(grid, kernel, color=colour, alpha=0.12, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.set_yticks([])


def _intervals(ax: Axes, drawn: np.ndarray, labels: np.ndarray | None) -> None:
    size = drawn.shape[2]
    picked = even_indices(size, MAX_INTERVALS)
    places = np.arange(len(picked))
    for chain, values in enumerate(drawn[:, :, picked]):
        shift = 0.6 * ((chain + 0.5) / len(drawn) - 0.5)
        low, first, mid, third, high = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
        colour = COLOURS[chain % len(COLOURS)]
        ax.hlines(places + shift, low, high, color=colour, linewidth=1.2)
        ax.hlines(places + shift, first, third, color=colour, linewidth=3.2)
        ax.plot(mid, places + shift, "o", color="white", markeredgecolor=colour, markersize=4)
    names = picked if labels is None else labels[picked]
    ax.set_yticks(places, [str(n) for n in names])
    ax.invert_yaxis()
