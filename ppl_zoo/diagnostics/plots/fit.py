"""The figures of a fit, chosen by its data. Each function returns one; none shows or saves it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_zoo.diagnostics.arviz import inputs, observed_value
from ppl_zoo.diagnostics.dims import even, has_plate
from ppl_zoo.diagnostics.plots.autoencoder import autoencoder
from ppl_zoo.diagnostics.plots.components import components
from ppl_zoo.diagnostics.plots.densities import density_1d, density_2d, log_densities
from ppl_zoo.diagnostics.plots.history import plot_history
from ppl_zoo.diagnostics.plots.posterior import codes, densities, responsibilities
from ppl_zoo.diagnostics.plots.predictions import group_effects, predicted, regression
from ppl_zoo.diagnostics.plots.samples import plot_samples
from ppl_zoo.diagnostics.reader import Reader

__all__ = ["plot_fit", "plot_history", "plot_posterior", "plot_samples"]


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
    given = inputs(reader, data)
    if not given and not reader.takes_new_rows:
        return plot_samples(fit, card)
    if not given:
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
        name, y = observed[0].name, observed_value(reader, data, observed[0].name)
        effect = _effect(reader, observed[0])
        (_, first), *others = given.items()
        record = reader.chain(fit.solution.best)
        if effect and first.ndim == 1 and not others:
            return group_effects(fit, y, first, record.posterior[effect], effect, card)
        if not others and (first.ndim == 1 or first.shape[1:] == (1,)):
            x = first.reshape(len(first))
            return regression(fit, x, y, record.replicates[name], list(given)[0], name, card)
        return predicted(fit, y, record.replicates[name], name, card)
    return log_densities(fit, data[0], card)


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


def _telling(code: Tensor, count: int = 6) -> np.ndarray:
    """Choose rows: some at even distances, then the least certain ones."""
    some = even(len(code), count)
    certainty = code.max(-1).values.cpu().numpy().astype(float)
    certainty[some] = np.inf
    return np.concatenate([some, np.argsort(certainty)[: min(count, len(code) - len(some))]])


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
