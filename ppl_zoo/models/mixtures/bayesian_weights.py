"""Priors of a mixture's weights: Dirichlet, and the sticks of a truncated Dirichlet process.

Each q is conjugate, so that it is known from the expected number of rows of each component.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["WEIGHTS", "Dirichlet", "Sticks", "Weights"]


class Dirichlet:
    """``weights ~ Dirichlet(concentration, ..., concentration)``."""

    name = "dirichlet"

    def draw(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Sample the weights ``(K,)``; counts are 0 for the prior."""
        return pyro.sample("weights", dist.Dirichlet(concentration + counts))

    def weights(self, drawn: Tensor) -> Tensor:
        """Weights ``(..., K)`` of what was drawn."""
        return drawn

    def expected_log(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[log weights] ``(K,)``."""
        total = (concentration + counts).sum()
        return torch.digamma(concentration + counts) - torch.digamma(total)

    def mean(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[weights] ``(K,)``."""
        return (concentration + counts) / (concentration + counts).sum()

    def negative_kl(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """-KL(q || p)."""
        q = dist.Dirichlet(concentration + counts)
        return -torch.distributions.kl_divergence(q, dist.Dirichlet(concentration + 0.0 * counts))

    def order(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Return an order of the components under which the bound is no lower: all are equal."""
        return torch.arange(len(counts), device=counts.device)


class Sticks:
    """``weights[k] = sticks[k] prod_{j<k} (1 - sticks[j])``, ``sticks ~ Beta(1, concentration)``.

    The last component takes what is left (Blei & Jordan 2006).
    """

    name = "dirichlet-process"

    def draw(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Sample the K - 1 sticks; counts are 0 for the prior."""
        return pyro.sample("sticks", dist.Beta(*self._beta(concentration, counts)).to_event(1))

    def weights(self, drawn: Tensor) -> Tensor:
        """Weights ``(..., K)`` of what was drawn."""
        left = (1.0 - drawn).cumprod(-1)
        ones = torch.ones_like(drawn[..., :1])
        broken = torch.cat([drawn, ones], -1) * torch.cat([ones, left], -1)
        return pyro.deterministic("weights", broken, event_dim=1)

    def expected_log(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[log weights] ``(K,)``."""
        a, b = self._beta(concentration, counts)
        total = torch.digamma(a + b)
        taken, left = torch.digamma(a) - total, torch.digamma(b) - total
        zero = a.new_zeros(1)
        return torch.cat([taken, zero]) + torch.cat([zero, left.cumsum(0)])

    def mean(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[weights] ``(K,)``."""
        a, b = self._beta(concentration, counts)
        one = a.new_ones(1)
        return torch.cat([a / (a + b), one]) * torch.cat([one, (b / (a + b)).cumprod(0)])

    def negative_kl(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """-KL(q || p)."""
        q = dist.Beta(*self._beta(concentration, counts))
        prior = dist.Beta(*self._beta(concentration, torch.zeros_like(counts)))
        return -torch.distributions.kl_divergence(q, prior).sum()

    def order(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Return falling counts, the best order but where the truncation says otherwise."""
        same = torch.arange(len(counts), device=counts.device)
        sizes = counts.argsort(descending=True, stable=True)
        gain = self._evidence(concentration, counts[sizes]) - self._evidence(concentration, counts)
        return sizes if gain > 0 else same

    def _evidence(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Log probability of assignments with these counts, but for a constant."""
        a, b = self._beta(concentration, counts)
        return (torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)).sum()

    def _beta(self, concentration: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        after = counts.flip(0).cumsum(0).flip(0)[1:]
        return 1.0 + counts[:-1], concentration + after


Weights = Dirichlet | Sticks
WEIGHTS: dict[str, Weights] = {kind.name: kind for kind in (Dirichlet(), Sticks())}
