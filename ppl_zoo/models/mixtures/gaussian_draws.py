"""Rows of a Gaussian mixture drawn from their components, some features held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_zoo.models.mixtures.missing import condition

__all__ = ["draw_rows"]


def draw_rows(model: Any, z: Tensor, held: Tensor | None) -> Tensor:
    """Draw a row of each component that ``z`` names, ``(n, D)``.

    Parameters
    ----------
    model
        A ``GaussianMixture``.
    z
        Components, ``(n,)``.
    held
        ``(n, D)``: values to be held, NaN where free; the free ones are drawn given these.
    """
    noise = torch.randn(len(z), model.num_features, dtype=model.dtype, device=model.device)
    x = model.loc[z].detach().clone()
    for k in z.unique().tolist():
        rows, scale = (z == k).nonzero()[:, 0], model.scale
        scale = scale if model.kind.name == "tied" else scale[k]
        shift = noise[rows] @ scale.mT if model.kind.matrix else noise[rows] * scale
        x[rows] += shift
    if held is None or not model.kind.matrix:
        return x if held is None else torch.where(held.isnan(), x, held)
    covariances, parts = model.covariances.double(), []
    for rows in torch.arange(len(z), device=x.device).split(1024):
        own = covariances if model.kind.name == "tied" else covariances[z[rows]]
        own = own.expand(len(rows), -1, -1)
        parts.append(condition(x[rows].double(), held[rows].double(), own).to(x))
    return torch.cat(parts)
