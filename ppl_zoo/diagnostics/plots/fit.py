"""Plots of a fit, chosen by its data. Each function returns a figure; none shows or saves it."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.core.model import Model
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.tracing import Site
from ppl_zoo.diagnostics.arrays import even_indices
from ppl_zoo.diagnostics.dims import has_plate
from ppl_zoo.diagnostics.plots.autoencoder import Autoencoder, plot_autoencoder
from ppl_zoo.diagnostics.plots.components import plot_components
from ppl_zoo.diagnostics.plots.densities import (
    plot_density_1d,
    plot_density_2d,
    plot_log_densities,
)
from ppl_zoo.diagnostics.plots.history import plot_history
from ppl_zoo.diagnostics.plots.posterior import (
    plot_codes,
    plot_densities,
    plot_responsibilities,
)
from ppl_zoo.diagnostics.plots.predictions import (
    plot_group_effects,
    plot_predicted,
    plot_regression,
)
from ppl_zoo.diagnostics.plots.samples import plot_samples
from ppl_zoo.diagnostics.plots.style import DataDescription, column_name
from ppl_zoo.diagnostics.reader import Reader

__all__ = ["plot_fit", "plot_history", "plot_posterior", "plot_samples"]


def plot_fit(
    fit: FittedModel, card: DataDescription | None = None, labels: np.ndarray | None = None
) -> Figure:
    """Plot the model over the data, in the way that suits them.

    Two columns: scatter, density and components. One input: data and predictive bands. Estimates
    with standard errors: posterior beside raw. Images: components, or reconstructions and a map
    of the codes. Anything else: log densities of the data and of the model's own samples; with
    inputs, data and predictions.

    Parameters
    ----------
    fit
        A fit that holds its data.
    card
        The card of the data set: names, units, the shape of images.
    labels
        Class of each row of the data, ``(n,)``, held-out ones too, to colour a map of codes by.
    """
    reader = Reader(fit, 1000, 1000, 100)
    data = reader.data_at(reader.observed_rows)
    observed = [s for s in reader.sites.values() if s.kind == "observed"]
    image_shape = card.image_shape if card is not None else None
    given = reader.inputs()
    if not given and (not reader.takes_new_rows or fit.model.queries["log_prob"] == "none"):
        return plot_samples(fit, card)
    if not given:
        x = data[0]
        if image_shape and _has_component_means(fit.model, x):
            return plot_components(fit, image_shape, card)
        if image_shape and isinstance(fit.model, Autoencoder):
            shown = fit.row_numbers[reader.observed_rows]
            classes = None if labels is None else np.asarray(labels)[shown]
            return plot_autoencoder(fit, x, image_shape, card, classes)
        # states have no density between them
        states = np.any(fit.model.num_states_of(fit.model.argument_names[0]) or 0)
        if x.ndim == 2 and x.shape[1] == 2 and not image_shape and not states:
            return plot_density_2d(fit, x, card)
        if x.ndim == 1 or x.shape[1:] == (1,):
            return plot_density_1d(fit, x, card)
        return plot_log_densities(fit, x, card)
    if len(observed) == 1 and len(observed[0].shape) == 1:
        name = observed[0].name
        y = reader.observed_values()[name]
        effect = _effect(reader, observed[0])
        (_, first), *others = given.items()
        record = reader.chain(fit.solution.best)
        if effect and first.ndim == 1 and not others:
            return plot_group_effects(fit, y, first, record.posterior[effect], effect, card)
        if not others and (first.ndim == 1 or first.shape[1:] == (1,)):
            x = first.reshape(len(first))
            return plot_regression(fit, x, y, record.replicates[name], list(given)[0], name, card)
        return plot_predicted(fit, y, record.replicates[name], name, card)
    return plot_samples(fit, card)


def plot_posterior(
    fit: FittedModel, card: DataDescription | None = None, max_panels: int = 12
) -> Figure:
    """Plot the posterior of the latents.

    Scalars as densities, a line a chain; vectors as intervals; discrete local latents as the
    probabilities of their states. A model without latents shows its representation.

    Parameters
    ----------
    fit
        A fit that holds its data.
    card
        The card of the data set, for the title.
    max_panels
        Most variables shown.
    """
    reader = Reader(fit, 1000, 1000, None, scored=False)
    discrete = [n for n in reader.local_sites if reader.sites[n].discrete]
    if not reader.has_global and discrete and fit.model.queries["encode"] == "exact":
        with fit.chain(fit.solution.best), torch.no_grad():
            code = fit.model.encode(reader.data_at(reader.observed_rows)[0])
        if isinstance(code, Tensor) and code.ndim == 2:
            picked = _rows_by_certainty(code)
            return plot_responsibilities(
                fit, code[picked], reader.observed_rows[picked], discrete[0], card
            )
    if fit.solution.draws is None and not reader.has_global:
        records = [reader.chain(fit.solution.best)]  # other restarts are worse optima
    else:
        records = list(reader.chains())
    if not reader.has_latents:
        return plot_codes(fit, records[0].posterior, reader.local_rows, card)
    panels = {}
    for name in records[0].posterior:
        values = np.stack([r.posterior[name].cpu().double().numpy() for r in records])
        local = name in reader.sites and has_plate(reader.sites[name], reader.plate)
        values = values.reshape(*values.shape[:2], -1)
        features = fit.model.event_dims.get(name, ()) == ("feature",)
        argument = fit.model.argument_names[0]
        if local or not (1 < values.shape[2] <= 4 or (features and values.shape[2] == 1)):
            panels[name] = (values, local)
            continue
        for index in range(values.shape[2]):
            label = column_name(fit, card, argument, index) if features else index
            panels[f"{name}[{label}]"] = (values[:, :, index : index + 1], False)
    # global latents before local ones
    order = sorted(panels, key=lambda name: panels[name][1])[:max_panels]
    return plot_densities(
        fit,
        {name: panels[name][0] for name in order},
        reader.local_rows,
        {name for name in order if panels[name][1]},
        card,
    )


def _rows_by_certainty(code: Tensor, count: int = 6) -> np.ndarray:
    """Rows to plot: some evenly spaced, then those of the least certain states."""
    some = even_indices(len(code), count)
    certainty = code.max(-1).values.cpu().numpy().astype(float)
    certainty[some] = np.inf
    return np.concatenate([some, np.argsort(certainty)[: min(count, len(code) - len(some))]])


def _effect(reader: Reader, observed: Site) -> str | None:
    """Name of the site with one value for each observed one, such as a group effect."""
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


def _has_component_means(model: Model, x: Tensor) -> bool:
    """Whether the model has means of components with the features of the data."""
    means = getattr(model, "means", None)
    return isinstance(means, Tensor) and means.ndim == 2 and means.shape[1] == x.shape[1]
