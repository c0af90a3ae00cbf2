"""Plots of samples of a fitted model beside its data: images, points or histograms."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import even_indices
from ppl_zoo.diagnostics.plots.style import (
    DATA,
    MODEL,
    SMALL,
    DataDescription,
    axis_label,
    figure,
    image_grid,
    tidy,
    title_of,
)
from ppl_zoo.diagnostics.reader import Reader

__all__ = ["plot_samples"]


def plot_samples(fit: FittedModel, card: DataDescription | None = None, num: int = 36) -> Figure:
    """Plot samples of the fitted model beside the data.

    Parameters
    ----------
    fit
        A fit that holds its data.
    card
        The card of the data set: names, units, the shape of images.
    num
        Images in each grid.
    """
    reader = Reader(fit, 20, 1000, 1)
    given = reader.inputs()
    observed = [s.name for s in reader.sites.values() if s.kind == "observed"]
    name = observed[0]
    x = reader.observed_values()[name]
    if given or not reader.takes_new_rows or fit.model.queries["sample"] == "none":
        new = reader.chain(fit.solution.best).replicates[name].flatten(0, 1)
    else:
        with fit.chain(fit.solution.best), fit.seeded(0):
            new = fit.model.sample(max(len(x), num))
        new = new[name] if isinstance(new, dict) else new
    x, new = x.detach().cpu().double().numpy(), new.detach().cpu().double().numpy()
    image_shape = card.image_shape if card is not None else None
    if image_shape:
        fig, axes = figure(8.0, 4.4, 1, 2)
        limits = (float(np.quantile(x, 0.005)), float(np.quantile(x, 0.995)))
        fig.get_layout_engine().set(wspace=0.06)
        columns = int(np.ceil(np.sqrt(num)))
        pick = even_indices(len(x), num)
        for ax, rows, what in ((axes[0, 0], x[pick], "data"), (axes[0, 1], new[:num], "samples")):
            image_grid(ax, rows, image_shape, columns, limits)
            ax.set_title(what, fontsize=10)
    elif x.ndim == 2 and x.shape[1] == 2:
        fig, axes = figure(8.0, 4.0, 1, 2, sharex=True, sharey=True)
        rows = ((axes[0, 0], x, DATA, "data"), (axes[0, 1], new[: len(x)], MODEL, "samples"))
        for ax, points, colour, what in rows:
            tidy(ax).scatter(points[:, 0], points[:, 1], s=9, color=colour, alpha=0.6, linewidth=0)
            ax.set_title(f"{len(points)} {what}", fontsize=10)
            ax.set_xlabel(axis_label(card, 0, f"{name}[0]"))
        axes[0, 0].set_ylabel(axis_label(card, 1, f"{name}[1]"))
    else:
        x, new = x.reshape(len(x), -1), new.reshape(len(new), -1)
        # the card names the columns of all arguments, one after the other
        data = reader.data_at(reader.observed_rows)
        arguments = list(zip(fit.model.argument_names, data, strict=False))
        seen = [n for n, _ in arguments if n not in given]
        first = fit.model.argument_names.index(seen[0]) if seen else 0
        before = sum(int(np.prod(a.shape[1:])) for _, a in arguments[:first])
        width = min(x.shape[1], 6)
        columns = min(width, 3)
        lines = -(-width // columns)
        fig, axes = figure(max(6.0, 3.2 * columns), 3.4 * lines, lines, columns)
        for index, ax in enumerate(axes.flat):
            if index >= width:
                ax.set_axis_off()
                continue
            one = x.shape[1] == 1
            _histograms(tidy(ax), x[:, index], new[:, index])
            label = name if one else f"{name}[{index}]"
            ax.set_xlabel(axis_label(card, before + index, label))
        axes[0, 0].set_ylabel("share")
        axes[0, 0].legend(fontsize=SMALL, frameon=False)
    fig.suptitle(title_of(fit, card, "samples beside data"), fontsize=11)
    return fig


def _histograms(ax: Axes, data: np.ndarray, new: np.ndarray) -> None:
    values = np.unique(data)
    low, high = np.quantile(np.concatenate([data, new]), [0.002, 0.998])
    integers = all(np.all(v == np.round(v)) for v in (data, new))
    if len(values) <= 12 and integers:
        bins = np.arange(values.min() - 0.25, values.max() + 1.0, 0.5)
    else:
        bins = np.linspace(
            min(low, data.min()),
            max(high, data.max()),
            int(np.clip(1.8 * len(data) ** 0.5, 8, 31)),
        )
    for x, colour, label in ((data, DATA, "data"), (new, MODEL, "samples")):
        weights = np.full(len(x), 1.0 / len(x))
        kind = "stepfilled" if label == "data" else "step"
        alpha = 0.35 if label == "data" else 1.0
        ax.hist(
            x,
            bins=bins,
            weights=weights,
            histtype=kind,
            color=colour,
            alpha=alpha,
            linewidth=1.6,
            label=label,
        )
