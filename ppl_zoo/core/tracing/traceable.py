"""Traceable programs: densities, samplers and nets that run without a look at values.

They can be recorded as a graph, or run for many draws at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pyro
import torch
from pyro.distributions import stable_log_prob as stable
from torch import Tensor, nn

__all__ = ["kept_statistics", "traceable"]

#: proposals of a rejection sampler that must not look at values
NUM_PROPOSALS = 20


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Let distributions run without a look at values: recorded as a graph, or vectorised.

    Validation is off, and samplers that go by values have others in their place.
    """
    before = torch.distributions.Distribution._validate_args
    try:
        with (
            pyro.validation_enabled(False),
            mock.patch("pyro.util.torch_isnan", lambda x: False),
            mock.patch("pyro.util.torch_isinf", lambda x: False),
            # of distributions that were made before, which keep the setting of then
            mock.patch.object(
                torch.distributions.Distribution, "_validate_sample", lambda *_: None
            ),
            mock.patch("torch.distributions.dirichlet._Dirichlet.apply", _dirichlet_of_gammas),
            mock.patch("torch.distributions.von_mises._rejection_sample", _von_mises),
            mock.patch("pyro.distributions.stable._stable_log_prob", _stable_log_prob),
            kept_statistics(),
        ):
            torch.distributions.Distribution.set_default_validate_args(False)
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def kept_statistics() -> contextlib.AbstractContextManager[Any]:
    """Let batch normalisation go by its batch, and leave its running statistics as they are."""
    return mock.patch.object(nn.modules.batchnorm._BatchNorm, "forward", _normalise_batch)


_FORWARD = nn.modules.batchnorm._BatchNorm.forward


def _normalise_batch(self: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    if not self.training:
        return _FORWARD(self, x)
    self._check_input_dim(x)
    rest = [d for d in range(x.dim()) if d != 1]
    shape = [-1 if d == 1 else 1 for d in range(x.dim())]
    variance, mean = torch.var_mean(x, rest, correction=0, keepdim=True)
    scaled = (x - mean) * (variance + self.eps).rsqrt()
    if self.weight is None:
        return scaled
    return scaled * self.weight.reshape(shape) + self.bias.reshape(shape)


def _dirichlet_of_gammas(concentration: Tensor) -> Tensor:
    """Draw as torch does, with the gradient of normalised gammas."""
    gammas = torch._standard_gamma(concentration)
    return gammas / gammas.sum(-1, keepdim=True)


@torch.no_grad()
def _von_mises(loc: Tensor, concentration: Tensor, proposal: Tensor, x: Tensor) -> Tensor:
    """Best & Fisher's rejection sampler with a fixed number of proposals, the first accepted.

    Each is accepted with a probability of .66 or more, so that none of 20 is with 4e-10.
    """
    u1, u2, u3 = torch.rand((3, NUM_PROPOSALS, *x.shape), dtype=loc.dtype, device=loc.device)
    z = torch.cos(math.pi * u1)
    f = (1 + proposal * z) / (proposal + z)
    c = concentration * (proposal - f)
    accepted = ((c * (2 - c) - u2) > 0) | ((c / u2).log() + 1 - c >= 0)
    first = accepted.to(torch.uint8).argmax(0, keepdim=True)
    angle = ((u3 - 0.5).sign() * f.clamp(-1, 1).acos()).gather(0, first)[0]
    return (angle + math.pi + loc) % (2 * math.pi) - math.pi


def _stable_log_prob(alpha: Tensor, beta: Tensor, value: Tensor, coords: str) -> Tensor:
    """Pyro's log density of a stable distribution, interpolated at every value where it may be."""
    if coords == "S":
        value = torch.where(alpha == 1, value, value - beta * (math.pi / 2 * alpha)).tan()
    width = stable.alpha_near_one_tolerance
    near = (alpha - 1).abs() < width
    above = _stable_away_from_one(torch.where(near, 1 + width, alpha), beta, value)
    below = _stable_away_from_one(torch.full_like(alpha, 1 - width), beta, value)
    return _interpolated(near, (alpha - 1) / (2 * width) + 0.5, above, below)


def _stable_away_from_one(alpha: Tensor, beta: Tensor, value: Tensor) -> Tensor:
    value = value + beta * (math.pi / 2 * alpha).tan()
    at_zero = stable._unsafe_alpha_stable_log_prob_at_zero(alpha, 0).exp().reciprocal()
    width = stable.value_near_zero_tolerance_alpha * alpha / (1 - alpha).abs()
    width = torch.minimum(width, stable.value_near_zero_tolerance_density * at_zero)
    near = value.abs() < width
    above = stable._unsafe_stable_log_prob(alpha, beta, torch.where(near, width, value))
    below = stable._unsafe_stable_log_prob(alpha, beta, -width)
    return _interpolated(near, value / (2 * width) + 0.5, above, below)


def _interpolated(near: Tensor, weight: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Mix two densities where ``near``; ``above`` elsewhere."""
    weight = torch.where(near, weight, 0.5)
    pair = torch.stack([above + weight.log(), below + (1 - weight).log()])
    return torch.where(near, pair.logsumexp(0), above)
