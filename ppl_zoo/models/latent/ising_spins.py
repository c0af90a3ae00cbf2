"""Distributions of spins on a grid: independent ones, and ones that agree with neighbours."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ppl_zoo.models.latent import ising_grid as grid

__all__ = ["Prior", "Spins"]


class Spins(dist.TorchDistribution):
    """Independent spins of given means, events ``(height, width)``."""

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, mean: Tensor) -> None:
        self.mean_ = mean
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Spins:
        """Return the same distribution with a larger batch shape."""
        return Spins(self.mean_.expand(*batch_shape, *self.event_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw spins."""
        mean = self.mean_.expand(self._extended_shape(torch.Size(sample_shape)))
        up = torch.rand_like(mean) < 0.5 * (1.0 + mean)
        return torch.where(up, 1.0, -1.0).to(mean.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of spins."""
        chance = 0.5 * (1.0 + value * self.mean_)
        return chance.clamp_min(torch.finfo(chance.dtype).tiny).log().sum((-2, -1))


class Prior(dist.TorchDistribution):
    """Spins that agree with their neighbours; drawn exactly on narrow grids, else by Gibbs."""

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 2)
    num_sweeps = 500

    def __init__(
        self, shape: tuple[int, ...], coupling: Tensor, log_z: float, batch: Any = ()
    ) -> None:
        self.coupling, self.log_z = coupling, log_z
        super().__init__(torch.Size(batch), torch.Size(shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Prior:
        """Return the same distribution with a larger batch shape."""
        return Prior(tuple(self.event_shape), self.coupling, self.log_z, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw spins."""
        field = self.coupling.new_zeros(self._extended_shape(torch.Size(sample_shape)))
        if min(self.event_shape) <= grid.NARROW:
            return grid.exact_draws(field, self.coupling)
        s = torch.where(torch.rand_like(field) < 0.5, 1.0, -1.0).to(field.dtype)
        for _ in range(self.num_sweeps):
            s, _ = grid.gibbs_sweep(s, field, self.coupling)
        return s

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of spins."""
        return self.coupling * grid.interaction(value) - self.log_z
