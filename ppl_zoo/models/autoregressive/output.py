"""What one conditional p(x_i | x_<i) can be: its density, its draws, what the net sees of x_i.

An output turns ``num_parameters`` numbers of a net into a distribution of one variable. All
methods take a trailing dimension of parameters and broadcast on the left. Draws are functions of
uniform noise, so that two ways to sample can be held against each other.
"""

# ruff: noqa: D102 - what the methods do stands in Output

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Bernoulli", "Categorical", "Output", "pick"]


class Output:
    """Distribution of one variable given those before it."""

    num_parameters = 1  # numbers that the net gives for a variable
    num_inputs = 1  # numbers that the net sees of a variable
    num_noise = 1  # uniform numbers that a draw takes
    num_values: int | None = None  # of a discrete variable

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log probability of ``x (..., D)`` under ``parameters (..., D, num_parameters)``."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob; write one")

    def prepare(self, noise: Tensor) -> Tensor:
        """Do what can be done to uniform noise ``(..., num_noise, n)`` before the draws."""
        return noise

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Draw ``(n,)`` from ``parameters (n, num_parameters)`` and prepared noise."""
        raise NotImplementedError(f"{type(self).__name__} has no draw; write one")

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected value."""
        raise NotImplementedError(f"{type(self).__name__} has no mean; write one")

    def features(self, x: Tensor) -> Tensor:
        """Show the net ``x (...)`` as ``(..., num_inputs)``."""
        return x.unsqueeze(-1)

    def marginal(self, x: Tensor) -> Tensor:
        """Parameters ``(D, num_parameters)`` of independent variables ``x (n, D)``: a start."""
        raise NotImplementedError(f"{type(self).__name__} has no marginal; write one")

    def bad(self, x: Tensor) -> Tensor:
        """Tell which values are outside of the support."""
        raise NotImplementedError(f"{type(self).__name__} has no bad; write one")

    @property
    def support(self) -> str:
        """Name the support."""
        return f"whole numbers from 0 to {(self.num_values or 0) - 1}"


class Bernoulli(Output):
    """Zero or one, from a logit."""

    num_values = 2

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return F.logsigmoid((2.0 * x - 1.0) * parameters[..., 0])

    def prepare(self, noise: Tensor) -> Tensor:
        return noise.logit()

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return (noise[0] < parameters[:, 0]).to(parameters.dtype)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters[..., 0].sigmoid()

    def marginal(self, x: Tensor) -> Tensor:
        rate = (x.sum(0) + 0.5) / (len(x) + 1.0)
        return rate.logit().unsqueeze(-1)

    def bad(self, x: Tensor) -> Tensor:
        return (x != 0) & (x != 1)


class Categorical(Output):
    """One of ``num_values`` values 0, 1, ..., from as many logits."""

    def __init__(self, num_values: int) -> None:
        self.num_values = self.num_parameters = self.num_inputs = num_values

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        index = x.long().unsqueeze(-1)
        parameters, index = _aligned(parameters, index)
        return parameters.log_softmax(-1).gather(-1, index).squeeze(-1)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return pick(parameters, noise[0]).to(parameters.dtype)

    def mean(self, parameters: Tensor) -> Tensor:
        values = torch.arange(self.num_values, dtype=parameters.dtype, device=parameters.device)
        return (parameters.softmax(-1) * values).sum(-1)

    def features(self, x: Tensor) -> Tensor:
        values = torch.arange(self.num_values, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-1) == values).to(x.dtype)

    def marginal(self, x: Tensor) -> Tensor:
        counts = self.features(x).sum(0) + 0.5
        return (counts / counts.sum(-1, keepdim=True)).log()

    def bad(self, x: Tensor) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.num_values - 1)


def pick(logits: Tensor, u: Tensor) -> Tensor:
    """Choose an index by inverting the distribution function at ``u``."""
    below = logits.softmax(-1).cumsum(-1)[..., :-1]
    return (u.unsqueeze(-1) > below).sum(-1)


def _aligned(parameters: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(parameters.shape[:-1], index.shape[:-1])
    return (
        parameters.expand(*shape, parameters.shape[-1]),
        index.expand(*shape, 1),
    )
