"""Normal families of q: densities of fixed standard normals, and Pyro's autoguides of each.

A family is a function of its parameters and of fixed standard normals. Its coordinates are scaled
by a normal approximation of the posterior (the start), so that the start is at 0 and 1 is a
natural step in each. Scaling changes the path of an optimizer and nothing else: mean field stays
diagonal in the model's own coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from pyro.infer import autoguide
from torch import Tensor, nn
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from ppl_zoo.solvers.fixed_draws.laplace import NormalApproximation

__all__ = [
    "AUTONORMALS",
    "Family",
    "NormalGuide",
    "family_of",
    "read_location",
    "read_scales",
    "site_names",
    "write_parameters",
]

#: guides whose parameters a fit with fixed draws can set
AUTONORMALS = (
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
)
NormalGuide = (
    autoguide.AutoNormal
    | autoguide.AutoDiagonalNormal
    | autoguide.AutoMultivariateNormal
    | autoguide.AutoLowRankMultivariateNormal
)

#: entropy of a standard normal, in nats per dimension
ENTROPY_PER_DIMENSION = 0.5 * math.log(2 * math.pi * math.e)


class Family:
    """A family of normal densities; see the subclasses.

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

    def __init__(self, start: NormalApproximation) -> None:
        # copies, since how products round depends on the alignment of arrays in memory: a resumed
        # fit has to take the same path
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
    """Mean field: independent normals, by means and log scales."""

    def __init__(self, start: NormalApproximation) -> None:
        super().__init__(start)
        inverse = torch.linalg.solve_triangular(
            self.factor, torch.eye(self.size, dtype=torch.float64), upper=False
        )
        # KL(q | p) to a Gaussian is least for the diagonal normal with its precisions' diagonal
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
        entropy = scales.log().sum() + self.size * ENTROPY_PER_DIMENSION
        return self.centre(theta) + scales * normals, entropy


class FullRank(Family):
    """Full rank: a normal with any covariance, by a mean and a lower triangular factor."""

    def __init__(self, start: NormalApproximation) -> None:
        super().__init__(start)
        self.rows, self.columns = torch.tril_indices(self.size, self.size, -1)

    def start(self) -> Tensor:
        """Return the parameters at the start."""
        return torch.zeros(2 * self.size + len(self.rows), dtype=torch.float64)

    def scaled_factor(self, theta: Tensor) -> Tensor:
        """Lower triangular factor in the start's coordinates."""
        lower = theta.new_zeros(self.size, self.size)
        lower = lower.index_put((self.rows, self.columns), theta[2 * self.size :])
        return lower + theta[self.size : 2 * self.size].exp().diag()

    def scale_tril(self, theta: Tensor) -> Tensor:
        """Lower triangular factor of the covariance."""
        return self.factor @ self.scaled_factor(theta)

    def draw(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(n, size)`` and the entropy, in nats."""
        entropy = theta[self.size : 2 * self.size].sum() + self.factor.diagonal().log().sum()
        draws = self.centre(theta) + normals @ self.scale_tril(theta).T
        return draws, entropy + self.size * ENTROPY_PER_DIMENSION


class LowRank(MeanField):
    """Low rank: a normal of covariance ``S (I + F F') S``, by means, log scales S and F."""

    def __init__(self, start: NormalApproximation, rank: int) -> None:
        super().__init__(start)
        self.rank = rank
        self.num_normals = self.size + rank

    def start(self) -> Tensor:
        """Return the parameters at the start, F from the leading directions of its covariance."""
        root = self.factor / self.scale[:, None]
        values, vectors = torch.linalg.eigh(root @ root.T)
        columns = vectors[:, -self.rank :] * (values[-self.rank :] - 1).clamp(min=0.01).sqrt()
        return torch.cat([torch.zeros(2 * self.size, dtype=torch.float64), columns.flatten()])

    def cov_factor(self, theta: Tensor) -> Tensor:
        """Return F, ``(size, rank)``."""
        return theta[2 * self.size :].reshape(self.size, self.rank)

    def draw(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(n, size)`` and the entropy, in nats."""
        scales, factor = self.scales(theta), self.cov_factor(theta)
        mixed = normals[:, : self.size] + normals[:, self.size :] @ factor.T
        # the matrix determinant lemma: |I + F F'| = |I + F' F|
        capacitance = torch.eye(self.rank, dtype=theta.dtype) + factor.T @ factor
        entropy = scales.log().sum() + 0.5 * torch.linalg.slogdet(capacitance)[1]
        return self.centre(theta) + scales * mixed, entropy + self.size * ENTROPY_PER_DIMENSION


# ---- Pyro's normal autoguides: their families, and their parameters read and written ----------


def family_of(guide: NormalGuide, start: NormalApproximation) -> Family:
    """Return the family of a guide, in the coordinates of a start."""
    if isinstance(guide, autoguide.AutoMultivariateNormal):
        return FullRank(start)
    if isinstance(guide, autoguide.AutoLowRankMultivariateNormal):
        return LowRank(start, guide.rank)
    return MeanField(start)


def read_location(guide: NormalGuide) -> np.ndarray:
    """Return the mean of a guide on the unconstrained scale, ``(size,)``."""
    if isinstance(guide, autoguide.AutoNormal):
        parts = [_parameter(guide.locs, name)[0].flatten() for name in site_names(guide)]
        loc = torch.cat(parts)
    else:
        loc = guide.loc
    return loc.detach().cpu().double().numpy().copy()


def read_scales(guide: autoguide.AutoNormal | autoguide.AutoDiagonalNormal) -> np.ndarray:
    """Return the standard deviations of a mean-field guide, ``(size,)``, as its location."""
    if isinstance(guide, autoguide.AutoDiagonalNormal):
        return guide.scale.detach().cpu().double().numpy()
    parts = [guide._get_loc_and_scale(name)[1].detach().flatten() for name in site_names(guide)]
    return torch.cat(parts).cpu().double().numpy()


@torch.no_grad()
def write_parameters(guide: NormalGuide, family: Family, theta: Tensor) -> None:
    """Set the parameters of a guide to those of its family's member ``theta``."""
    centre = family.centre(theta)
    if isinstance(guide, autoguide.AutoNormal):
        scales, first = family.scales(theta), 0
        for name in site_names(guide):
            shape = _parameter(guide.locs, name)[0].shape
            own = slice(first, first + shape.numel())
            _set(guide.locs, name, centre[own].reshape(shape))
            _set(guide.scales, name, scales[own].reshape(shape))
            first = own.stop
        return
    guide.loc.copy_(centre)
    if isinstance(family, FullRank):
        factor = family.scale_tril(theta)
        scales = factor.diagonal()
        _set(guide, "scale_tril", factor / scales[:, None])
    else:
        scales = family.scales(theta)
    if isinstance(family, LowRank):
        guide.cov_factor.copy_(family.cov_factor(theta))
    _set(guide, "scale", scales)


def site_names(guide: NormalGuide) -> Iterator[str]:
    """Names of the latents of a guide, in the order of its vector."""
    return (name for name, _ in guide.prototype_trace.iter_stochastic_nodes())


def _parameter(module: nn.Module, name: str) -> tuple[Tensor, Constraint]:
    """Find the unconstrained parameter of a site, and its constraint."""
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    return getattr(module, f"{last}_unconstrained"), module._pyro_params[last][0]


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    """Set a parameter through its constraint."""
    parameter, constraint = _parameter(module, name)
    parameter.copy_(transform_to(constraint).inv(value))
