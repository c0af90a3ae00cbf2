"""Pyro's normal autoguides: their families, and their parameters read and written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyro.infer import autoguide
from torch import Tensor
from torch.distributions import transform_to

from ppl_zoo.solvers.families import Family, FullRank, LowRank, MeanField
from ppl_zoo.solvers.laplace import Normal

__all__ = ["AUTONORMALS", "family_of", "location", "write"]

#: guides whose parameters a fit with fixed draws can set
AUTONORMALS = (
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
)


def family_of(guide: Any, start: Normal) -> Family:
    """Return the family of a guide."""
    if isinstance(guide, autoguide.AutoMultivariateNormal):
        return FullRank(start)
    if isinstance(guide, autoguide.AutoLowRankMultivariateNormal):
        return LowRank(start, guide.rank)
    return MeanField(start)


def location(guide: Any) -> np.ndarray:
    """Return the mean of a guide on the unconstrained scale, ``(size,)``."""
    if isinstance(guide, autoguide.AutoNormal):
        parts = [_parameter(guide.locs, name)[0].flatten() for name in _names(guide)]
        loc = torch.cat(parts)
    else:
        loc = guide.loc
    return loc.detach().cpu().double().numpy().copy()


@torch.no_grad()
def write(guide: Any, family: Family, theta: Tensor) -> None:
    """Set the parameters of a guide to those of its family's member ``theta``."""
    centre = family.centre(theta)
    if isinstance(guide, autoguide.AutoNormal):
        scales, first = family.scales(theta), 0
        for name in _names(guide):
            shape = _parameter(guide.locs, name)[0].shape
            piece = slice(first, first + shape.numel())
            _set(guide.locs, name, centre[piece].reshape(shape))
            _set(guide.scales, name, scales[piece].reshape(shape))
            first = piece.stop
        return
    guide.loc.copy_(centre)
    if isinstance(family, FullRank):
        factor = family.scale_tril(theta)
        scales = factor.diagonal()
        _set(guide, "scale_tril", factor / scales[:, None])
    else:
        scales = family.scales(theta)
    if isinstance(family, LowRank):
        guide.cov_factor.copy_(family.columns(theta))
    _set(guide, "scale", scales)


def _names(guide: Any) -> Iterator[str]:
    return (name for name, _ in guide.prototype_trace.iter_stochastic_nodes())


def _parameter(module: Any, name: str) -> tuple[Tensor, Any]:
    """Find the unconstrained parameter of a site, and its constraint."""
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    return getattr(module, f"{last}_unconstrained"), module._pyro_params[last][0]


def _set(module: Any, name: str, value: Tensor) -> None:
    parameter, constraint = _parameter(module, name)
    parameter.copy_(transform_to(constraint).inv(value))
