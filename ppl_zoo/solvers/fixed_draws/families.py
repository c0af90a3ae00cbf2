"""Families of q over an unconstrained vector, in coordinates that a start has evened out.

A family is a function of its parameters and of fixed standard normals; the coordinates are scaled
so that the start is at 0 and a step of 1 is a natural one. Scaling changes the path of an
optimiser and nothing else: mean field stays diagonal in the model's own coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyro.infer import autoguide
from torch import Tensor
from torch.distributions import transform_to

from ppl_zoo.solvers.fixed_draws.laplace import Normal

__all__ = [
    "AUTONORMALS",
    "Family",
    "FullRank",
    "LowRank",
    "MeanField",
    "family_of",
    "location",
    "write",
]

ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


class Family:
    """A family of densities; see the subclasses.

    Parameters
    ----------
    start
        A normal close to the posterior.

    Attributes
    ----------
    size
        Dimensions of the vector.
    num_normals
        Standard normals that a draw takes.
    """

    def __init__(self, start: Normal) -> None:
        # copies, since how products round depends on where arrays begin in memory: a fit that
        # is resumed shall go the same way
        self.mean = torch.from_numpy(start.mean).clone()
        self.factor = torch.from_numpy(start.factor).clone()
        self.size = len(self.mean)
        self.num_normals = self.size

    def start(self) -> Tensor:
        """Return the parameters at the start."""
        raise NotImplementedError(f"{type(self).__name__} has no start; write one")

    def draw(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(n, size)`` and the entropy, in nats."""
        raise NotImplementedError(f"{type(self).__name__} has no draw; write one")

    def centre(self, theta: Tensor) -> Tensor:
        """Mean of the density: the first parameters, in units of the start's factor."""
        return self.mean + self.factor @ theta[: self.size]


class MeanField(Family):
    """Independent normals: means and log scales."""

    def __init__(self, start: Normal) -> None:
        super().__init__(start)
        inverse = torch.linalg.solve_triangular(
            self.factor, torch.eye(self.size, dtype=torch.float64), upper=False
        )
        # the best diagonal normal for a Gaussian has the precision's diagonal
        self.scale = inverse.square().sum(0).rsqrt()

    def start(self) -> Tensor:
        """Return the parameters at the start."""
        return torch.zeros(2 * self.size, dtype=torch.float64)

    def scales(self, theta: Tensor) -> Tensor:
        """Return the standard deviations, ``(size,)``."""
        return self.scale * theta[self.size : 2 * self.size].exp()

    def draw(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(n, size)`` and the entropy, in nats."""
        scales = self.scales(theta)
        return self.centre(theta) + scales * normals, scales.log().sum() + self.size * ENTROPY


class FullRank(Family):
    """One normal with any covariance: a mean and a lower triangular factor."""

    def __init__(self, start: Normal) -> None:
        super().__init__(start)
        self.rows, self.columns = torch.tril_indices(self.size, self.size, -1)

    def start(self) -> Tensor:
        """Return the parameters at the start."""
        return torch.zeros(2 * self.size + len(self.rows), dtype=torch.float64)

    def inner(self, theta: Tensor) -> Tensor:
        """Return the factor in the start's coordinates."""
        lower = theta.new_zeros(self.size, self.size)
        lower = lower.index_put((self.rows, self.columns), theta[2 * self.size :])
        return lower + theta[self.size : 2 * self.size].exp().diag()

    def scale_tril(self, theta: Tensor) -> Tensor:
        """Lower triangular factor of the covariance."""
        return self.factor @ self.inner(theta)

    def draw(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(n, size)`` and the entropy, in nats."""
        entropy = theta[self.size : 2 * self.size].sum() + self.factor.diagonal().log().sum()
        draws = self.centre(theta) + normals @ self.scale_tril(theta).T
        return draws, entropy + self.size * ENTROPY


class LowRank(MeanField):
    """A normal of covariance ``S (I + F F') S``: means, log scales S, and columns F."""

    def __init__(self, start: Normal, rank: int) -> None:
        super().__init__(start)
        self.rank = rank
        self.num_normals = self.size + rank

    def start(self) -> Tensor:
        """Return the parameters at the start, F from the largest directions of its covariance."""
        root = self.factor / self.scale[:, None]
        values, vectors = torch.linalg.eigh(root @ root.T)
        columns = vectors[:, -self.rank :] * (values[-self.rank :] - 1).clamp(min=0.01).sqrt()
        return torch.cat([torch.zeros(2 * self.size, dtype=torch.float64), columns.flatten()])

    def columns(self, theta: Tensor) -> Tensor:
        """Return F, ``(size, rank)``."""
        return theta[2 * self.size :].reshape(self.size, self.rank)

    def draw(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(n, size)`` and the entropy, in nats."""
        scales, columns = self.scales(theta), self.columns(theta)
        mixed = normals[:, : self.size] + normals[:, self.size :] @ columns.T
        inner = torch.eye(self.rank, dtype=theta.dtype) + columns.T @ columns
        entropy = scales.log().sum() + 0.5 * torch.linalg.slogdet(inner)[1]
        return self.centre(theta) + scales * mixed, entropy + self.size * ENTROPY


# ---- Pyro's normal autoguides: their families, and their parameters read and written.

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
