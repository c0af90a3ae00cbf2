"""Figures of a fit. Each function returns a ``matplotlib.figure.Figure``; none shows or saves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ppl_zoo.diagnostics.code_pictures import autoencoder
from ppl_zoo.diagnostics.dims import even, has_plate
from ppl_zoo.diagnostics.draws import Reader
from ppl_zoo.diagnostics.fit_pictures import (
    components,
    density_1d,
    density_2d,
    group_effects,
    log_densities,
    predicted,
    regression,
)
from ppl_zoo.diagnostics.posterior_pictures import codes, densities, responsibilities
from ppl_zoo.diagnostics.style import (
    COLOURS,
    DATA,
    MODEL,
    SMALL,
    axis_label,
    figure,
    image_grid,
    tidy,
    title_of,
)

__all__ = ["plot_fit", "plot_history", "plot_posterior", "plot_samples"]


#: chains that each get a line in the legend
MANY_CHAINS = 4


def plot_history(fit: Any, card: Any = None) -> Figure:
    """Objective of every chain against the step.

    The y-axis is that of the later steps, which the climb at the start would dwarf.

    Parameters
    ----------
    fit
        A :class:`ppl_zoo.Fit`.
    card
        The card of the data set, for the title.
    """
    fig, axes = figure(7.0, 3.6)
    ax = tidy(axes[0, 0])
    late = []
    for chain, trace in enumerate(np.asarray(fit.history["objective"], float)):
        steps = np.flatnonzero(np.isfinite(trace))
        if not len(steps):
            continue
        values, colour = trace[steps], COLOURS[chain % len(COLOURS)]
        best = " (best)" if chain == fit.solution.best and len(fit.solution.stopped) > 1 else ""
        label = f"chain {chain}{best}: {fit.solution.objective[chain]:,.2f} nats, "
        label += f"{fit.solution.stopped[chain].replace('_', ' ')}"
        if len(fit.solution.stopped) > MANY_CHAINS and not best:
            label = None  # the best one speaks for all; a legend of ten hides the curves
        skip = len(values) // 2 if len(values) > 50 else int(len(values) > 3)
        late.append(values[skip:])
        if len(values) <= 50:
            ax.plot(steps, values, color=colour, marker="o", markersize=4, label=label)
            continue
        ax.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
        ax.plot(steps, _running_median(values), color=colour, linewidth=1.6, label=label)
    if late:
        everything = np.concatenate(late)
        # noise of the estimate has a long lower tail
        low, high = np.quantile(everything, 0.005), everything.max()
        span = (high - low) or 1.0
        ax.set_ylim(low - 0.25 * span, high + 0.06 * span)
        ax.legend(fontsize=SMALL, frameon=False, loc="lower right")
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("objective (nats)")
    ax.set_title(title_of(fit, card, "objective by step"), fontsize=11)
    return fig


def plot_fit(fit: Any, card: Any = None, labels: Any = None) -> Figure:
    """Show the model over the data, in the way that suits them.

    Two columns: scatter, density and components. One input: data and predictive bands. Estimates
    with standard errors: posterior beside raw. Images: components, or reconstructions and a map
    of the codes. Anything else: log densities of the data and of the model's own samples.

    Parameters
    ----------
    fit
        A :class:`ppl_zoo.Fit` that holds its data.
    card
        The card of the data set: names, units, the shape of images.
    labels
        Class of each row of the data, ``(n,)``, to colour a map of codes by.
    """
    reader = Reader(fit, 1000, 1000, 100)
    data = reader.at(reader.shown)
    observed = [s for s in reader.sites.values() if s.kind == "observed"]
    image_shape = getattr(card, "image_shape", None)
    inputs = _inputs(reader, data)
    if not inputs and not reader.takes_new_rows:
        return plot_samples(fit, card)
    if not inputs:
        x = data[0]
        if image_shape and _has_moments(fit.model, x):
            return components(fit, image_shape, card)
        if image_shape and hasattr(fit.model, "reconstruct"):
            classes = None if labels is None else np.asarray(labels)[reader.shown]
            return autoencoder(fit, x, image_shape, card, classes)
        if x.ndim == 2 and x.shape[1] == 2 and not image_shape:
            return density_2d(fit, x, card)
        if x.ndim == 1 or x.shape[1:] == (1,):
            return density_1d(fit, x, card)
        return log_densities(fit, x, card)
    if len(observed) == 1 and len(observed[0].shape) == 1:
        name, y = observed[0].name, _observed_value(reader, data, observed[0].name)
        effect = _effect(reader, observed[0])
        (_, first), *others = inputs.items()
        record = reader.chain(fit.solution.best)
        if effect and first.ndim == 1 and not others:
            return group_effects(fit, y, first, record.posterior[effect], effect, card)
        if not others and (first.ndim == 1 or first.shape[1:] == (1,)):
            x = first.reshape(len(first))
            return regression(fit, x, y, record.replicates[name], list(inputs)[0], name, card)
        return predicted(fit, y, record.replicates[name], name, card)
    return log_densities(fit, data[0], card)


def plot_samples(fit: Any, card: Any = None, num: int = 36) -> Figure:
    """Show samples of the fitted model beside the data.

    Parameters
    ----------
    fit
        A :class:`ppl_zoo.Fit` that holds its data.
    card
        The card of the data set: names, units, the shape of images.
    num
        Images in each grid.
    """
    reader = Reader(fit, 20, 1000, 1)
    data = reader.at(reader.shown)
    inputs = _inputs(reader, data)
    observed = [s.name for s in reader.sites.values() if s.kind == "observed"]
    name = observed[0]
    x = _observed_value(reader, data, name)
    if inputs or not reader.takes_new_rows or fit.model.queries["sample"] == "none":
        new = reader.chain(fit.solution.best).replicates[name].flatten(0, 1)
    else:
        with fit.chain(fit.solution.best), fit._seeded(0):
            new = fit.model.sample(max(len(x), num))
        new = new[name] if isinstance(new, dict) else new
    x, new = x.detach().cpu().double().numpy(), new.detach().cpu().double().numpy()
    image_shape = getattr(card, "image_shape", None)
    if image_shape:
        fig, axes = figure(8.0, 4.4, 1, 2)
        limits = (float(np.quantile(x, 0.005)), float(np.quantile(x, 0.995)))
        fig.get_layout_engine().set(wspace=0.06)
        columns = int(np.ceil(np.sqrt(num)))
        pick = np.linspace(0, len(x) - 1, min(num, len(x))).round().astype(int)
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
        arguments = list(zip(fit.model.argument_names, data, strict=False))
        seen = [n for n, _ in arguments if n not in inputs]
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


def plot_posterior(fit: Any, card: Any = None, max_panels: int = 12) -> Figure:
    """Posterior of what is latent.

    Scalars as densities, a line a chain; vectors as intervals; discrete latents of single rows
    as the probabilities of their states. A model without latents shows its representation.

    Parameters
    ----------
    fit
        A :class:`ppl_zoo.Fit` that holds its data.
    card
        The card of the data set, for the title.
    max_panels
        Most variables shown.
    """
    reader = Reader(fit, 1000, 1000, None, scored=False)
    discrete = [n for n in reader.local if reader.sites[n].discrete]
    if not reader.has_global and discrete and fit.model.queries["encode"] == "exact":
        with fit.chain(fit.solution.best), torch.no_grad():
            code = fit.model.encode(reader.at(reader.shown)[0])
        if isinstance(code, Tensor) and code.ndim == 2:
            picked = _telling(code)
            return responsibilities(fit, code[picked], reader.shown[picked], discrete[0], card)
    records = list(reader.chains())
    if not reader.has_latents:
        return codes(fit, records[fit.solution.best].posterior, reader.chosen, card)
    panels = {}
    for name in records[0].posterior:
        values = np.stack([r.posterior[name].cpu().double().numpy() for r in records])
        local = name in reader.sites and has_plate(reader.sites[name], reader.plate)
        values = values.reshape(*values.shape[:2], -1)
        if 1 < values.shape[2] <= 4 and not local:
            for index in range(values.shape[2]):
                panels[f"{name}[{index}]"] = (values[:, :, index : index + 1], False)
        else:
            panels[name] = (values, local)
    # globals before the latents of single rows
    order = sorted(panels, key=lambda name: panels[name][1])[:max_panels]
    return densities(
        fit,
        {name: panels[name][0] for name in order},
        reader.chosen,
        {name for name in order if panels[name][1]},
        card,
    )


# ---- small things -----------------------------------------------------------------------------


def _running_median(values: np.ndarray) -> np.ndarray:
    width = max(5, len(values) // 50) | 1
    padded = np.pad(values, width // 2, mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=-1)


def _telling(code: Tensor, count: int = 6) -> np.ndarray:
    """Choose rows: some at even distances, then the least certain ones."""
    some = even(len(code), count)
    certainty = code.max(-1).values.cpu().numpy().astype(float)
    certainty[some] = np.inf
    return np.concatenate([some, np.argsort(certainty)[: min(count, len(code) - len(some))]])


def _inputs(reader: Reader, data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Arguments of rows that the model does not observe."""
    from ppl_zoo.diagnostics.arviz import data_groups
    from ppl_zoo.diagnostics.dims import Names

    names = Names([], {})
    _, constant = data_groups(reader, names)
    arguments = dict(zip(reader.model.argument_names, data, strict=False))
    return {k: v for k, v in arguments.items() if names.variable(k) in constant.data_vars}


def _observed_value(reader: Reader, data: tuple[Tensor, ...], name: str) -> Tensor:
    from ppl_zoo.tracing import trace_program

    with reader.fit._seeded(0), reader.model.defaults():
        return torch.as_tensor(trace_program(reader.model, data).nodes[name]["value"]).detach()


def _effect(reader: Reader, observed: Any) -> str | None:
    """Name of the latent that stands behind each observed number, if one does."""
    plausible = [
        s
        for s in reader.sites.values()
        if s.kind in ("deterministic", "latent")
        and not s.discrete
        and s.shape == observed.shape
        and has_plate(s, reader.plate)
    ]
    plausible.sort(key=lambda s: s.kind != "deterministic")
    return plausible[0].name if plausible else None


def _has_moments(model: Any, x: Tensor) -> bool:
    means = getattr(model, "means", None)
    return isinstance(means, Tensor) and means.ndim == 2 and means.shape[1] == x.shape[1]


def _histograms(ax: Any, data: np.ndarray, new: np.ndarray) -> None:
    values = np.unique(data)
    low, high = np.quantile(np.concatenate([data, new]), [0.002, 0.998])
    whole = all(np.all(v == np.round(v)) for v in (data, new))
    if len(values) <= 12 and whole:
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
