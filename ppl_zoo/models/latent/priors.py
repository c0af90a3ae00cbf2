"""Priors of the latents of a VAE: standard normal, mixture, VampPrior or flow."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_zoo.core.display import Sized
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.flows import FlowPrior
from ppl_zoo.core.options import did_you_mean

__all__ = ["StandardNormalPrior", "VampPrior", "make_prior"]

PRIORS = ("normal", "mixture", "vamp", "flow")


class StandardNormalPrior(Sized, nn.Module):
    """Standard normal prior; the KL of a normal guide from it is in closed form."""

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(num_latents))
        self.register_buffer("scale", torch.ones(num_latents))

    def forward(self) -> Distribution:
        """Return the distribution over ``(num_latents,)``."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class MixturePrior(Sized, nn.Module):
    """Learned mixture of normals with diagonal covariances."""

    def __init__(self, num_latents: int, num_components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, num_latents))
        self.log_scale = nn.Parameter(torch.zeros(num_components, num_latents))

    def forward(self) -> Distribution:
        """Return the distribution over ``(num_latents,)``."""
        return _mixture(self.logits, self.loc, self.log_scale.exp())


class VampPrior(Sized, nn.Module):
    """VampPrior: mixture of the encoder's posteriors at learned pseudo-inputs.

    References
    ----------
    Tomczak & Welling (2018), VAE with a VampPrior, AISTATS, https://arxiv.org/abs/1705.07120.
    """

    def __init__(self, num_features: int, num_components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.inputs = nn.Parameter(torch.rand(num_components, num_features))

    def start(self, x: Tensor) -> None:
        """Start at rows of the data: random inputs have nearly the same posterior."""
        chosen = torch.randint(len(x), (len(self.inputs),), device=x.device)
        with torch.no_grad():
            self.inputs.copy_(x[chosen].to(self.inputs))

    def forward(self, encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Distribution:
        """Return the distribution over ``(num_latents,)``; ``encode`` gives mean and sd."""
        return _mixture(self.logits, *encode(self.inputs))


def _mixture(logits: Tensor, loc: Tensor, scale: Tensor) -> Distribution:
    parts = dist.Normal(loc, scale).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), parts)


def make_prior(name: str, num_features: int, num_latents: int, num_components: int) -> nn.Module:
    """Return the prior that a name stands for.

    Raises
    ------
    DataError
        If there is none of that name.
    """
    if name == "normal":
        return StandardNormalPrior(num_latents)
    if name == "mixture":
        return MixturePrior(num_latents, num_components)
    if name == "vamp":
        return VampPrior(num_features, num_components)
    if name == "flow":
        return FlowPrior(num_latents)
    raise DataError(
        f"prior: got {name!r}{did_you_mean(name, PRIORS)}, expected one of {', '.join(PRIORS)}"
    )
