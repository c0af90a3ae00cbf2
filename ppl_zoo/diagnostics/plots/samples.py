"""Plots of samples of a fitted model: beside its data, and of what is hidden of a row."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.arrays import even_indices
from ppl_zoo.diagnostics.plots.style import (
    DATA,
    MODEL,
    SMALL,
    DataDescription,
    column_label,
    column_name,
    figure,
    image_grid,
    is_binary,
    tidy,
    title_of,
)
from ppl_zoo.diagnostics.reader import Reader

__all__ = ["plot_completions", "plot_samples"]


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
    seen = [n for n in fit.model.argument_names if n not in given] or [name]
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
            ax.set_xlabel(column_label(fit, card, seen[0], 0))
            ax.set_ylabel(column_label(fit, card, seen[0], 1))
    else:
        x, new = x.reshape(len(x), -1), new.reshape(len(new), -1)
        width = min(x.shape[1], 6)
        columns = min(width, 3)
        lines = -(-width // columns)
        fig, axes = figure(max(6.0, 3.2 * columns), 3.4 * lines, lines, columns)
        for index, ax in enumerate(axes.flat):
            if index >= width:
                ax.set_axis_off()
                continue
            _histograms(tidy(ax), x[:, index], new[:, index])
            if is_binary(x[:, index]):
                ax.set_xticks([0, 1])
                ax.set_xlabel(column_name(fit, card, seen[0], index))
            else:
                ax.set_xlabel(column_label(fit, card, seen[0], index))
            ax.set_ylabel("share of the rows")
        axes[0, 0].legend(fontsize=SMALL, frameon=False)
    fig.suptitle(title_of(fit, card, "samples beside data"), fontsize=11)
    fig.set_label("Data, and rows that the model draws anew: where it is good they look alike.")
    return fig


def plot_completions(
    fit: FittedModel, card: DataDescription, rows: Tensor, num: int = 10, draws: int = 4
) -> Figure:
    """Plot images whose lower half is hidden, and what the model draws in its place.

    Parameters
    ----------
    fit
        A fit of a model whose ``sample`` takes ``given``.
    card
        The card of the data set, with the shape of its images.
    rows
        Images that the fit has not seen, ``(n, pixels)`` or ``(n, height, width)``.
    num
        Images, a column each.
    draws
        Completions of each.
    """
    truth = rows[torch.from_numpy(even_indices(len(rows), num))].to(fit.model.device)
    flat = truth.flatten(1)
    given = flat.clone()
    given[:, flat.shape[1] // 2 :] = torch.nan
    given = given.reshape(truth.shape)
    with fit.chain(fit.solution.best), fit.seeded(0):
        new = [fit.model.sample(len(truth), given).flatten(1) for _ in range(draws)]
    shown = [given.flatten(1), *new, flat]
    names = ["given", *(f"draw {i + 1}" for i in range(draws)), "truth"]
    fig, axes = figure(0.62 * len(truth) + 0.7, 0.62 * len(shown) + 0.5, len(shown), 1)
    for ax, images, what in zip(axes[:, 0], shown, names, strict=True):
        # what is hidden is grey
        values = images.nan_to_num(0.5 * float(flat.max())).detach().cpu().double().numpy()
        image_grid(ax, values, card.image_shape, len(truth), (0.0, float(flat.max())))
        # a label beside the images; the axis itself is off
        ax.text(-0.01, 0.5, what, transform=ax.transAxes, ha="right", va="center", fontsize=SMALL)
    fig.suptitle(title_of(fit, card, "the lower half, drawn given the upper"), fontsize=11)
    fig.set_label(
        "Digits that the net has not seen. It is given the upper half (first line) and draws the "
        "lower one anew in each line; the truth is in the last."
    )
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
