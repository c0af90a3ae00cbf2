"""Conditional distributions p(x_i | x_<i): Bernoulli, categorical, and mixtures.

An output turns ``num_parameters`` numbers of a net into a distribution of one variable: its
density, its draws, and the features of x_i that the net reads. All methods take a trailing
dimension of parameters and broadcast on the left. Draws are functions of uniform noise, so that
cached and naive sampling can be compared draw by draw.
"""

# ruff: noqa: D102 - the methods are documented in Output

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ppl_zoo.core.errors import DataError

__all__ = ["BernoulliOutput", "Output", "make_output"]


class Output:
    """Conditional distribution of one variable given those before it.

    Attributes
    ----------
    num_parameters
        P, outputs of the net for a variable.
    num_inputs
        I, features of a variable that the net reads.
    num_noise
        Uniform numbers that a draw takes.
    num_values
        Values of a discrete variable; None of a real one.
    """

    num_parameters: int = 1
    num_inputs: int = 1
    num_noise: int = 1
    num_values: int | None = None

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log probability of ``x (..., D)`` under ``parameters (..., D, num_parameters)``."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob; write one")

    def prepare(self, noise: Tensor) -> Tensor:
        """Transform uniform noise ``(..., num_noise, n)``, for all draws at once."""
        return noise

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Draw ``(n,)`` from ``parameters (n, num_parameters)`` and prepared noise."""
        raise NotImplementedError(f"{type(self).__name__} has no draw; write one")

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected value."""
        raise NotImplementedError(f"{type(self).__name__} has no mean; write one")

    def features(self, x: Tensor) -> Tensor:
        """Encode ``x (...)`` as inputs of the net, ``(..., num_inputs)``."""
        return x.unsqueeze(-1)

    def marginal(self, x: Tensor) -> Tensor:
        """Parameters ``(D, num_parameters)`` of the marginals of ``x (n, D)``, for a start."""
        raise NotImplementedError(f"{type(self).__name__} has no marginal; write one")

    def outside_support(self, x: Tensor) -> Tensor:
        """Which values are outside of the support, bool ``(...)``."""
        raise NotImplementedError(f"{type(self).__name__} has no outside_support; write one")

    @property
    def support(self) -> str:
        """The support in words, for error messages."""
        return f"integers from 0 to {(self.num_values or 0) - 1}"


class BernoulliOutput(Output):
    """Bernoulli distribution, from a logit."""

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

    def outside_support(self, x: Tensor) -> Tensor:
        return (x != 0) & (x != 1)


class CategoricalOutput(Output):
    """Categorical distribution of the values 0, 1, ..., from ``num_values`` logits."""

    def __init__(self, num_values: int) -> None:
        self.num_values = self.num_parameters = self.num_inputs = num_values

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        index = x.long().unsqueeze(-1)
        parameters, index = _broadcast(parameters, index)
        return parameters.log_softmax(-1).gather(-1, index).squeeze(-1)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        return _pick(parameters, noise[0]).to(parameters.dtype)

    def mean(self, parameters: Tensor) -> Tensor:
        values = torch.arange(self.num_values, dtype=parameters.dtype, device=parameters.device)
        return (parameters.softmax(-1) * values).sum(-1)

    def features(self, x: Tensor) -> Tensor:
        values = torch.arange(self.num_values, dtype=x.dtype, device=x.device)
        return (x.unsqueeze(-1) == values).to(x.dtype)

    def marginal(self, x: Tensor) -> Tensor:
        counts = self.features(x).sum(0) + 0.5
        return (counts / counts.sum(-1, keepdim=True)).log()

    def outside_support(self, x: Tensor) -> Tensor:
        return (x != x.round()) | (x < 0) | (x > self.num_values - 1)


class MixtureOutput(Output):
    """Mixture density output: normal, Laplace or logistic components, heteroscedastic.

    Parameters of a variable are K logits, K locations and K raw scales; a scale is ``min_scale +
    softplus(raw)``, so that no component can collapse onto a point.

    Parameters
    ----------
    family
        Of the components: "normal", "laplace" or "logistic".
    num_components
        K.
    min_scale
        Smallest scale, in units of the sd of x.
    num_values
        None for real x. Otherwise x is one of ``0, ..., num_values - 1`` and has the probability
        of the unit interval around it, the tails counted to the first and the last (Salimans et
        al. 2017, https://arxiv.org/abs/1701.05517); the mixture then lives on x scaled to
        [-1, 1].
    """

    num_noise = 2

    def __init__(
        self,
        family: str,
        num_components: int,
        min_scale: float = 1e-3,
        num_values: int | None = None,
    ) -> None:
        if num_values is not None and family != "logistic":
            raise DataError(f"output: got {family!r} with num_values, expected 'logistic'")
        self.family, self.num_components, self.min_scale = family, num_components, min_scale
        self.num_parameters, self.num_values = 3 * num_components, num_values

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split the outputs of the net into ``(logits, locations, scales)``."""
        logits, loc, raw = parameters.chunk(3, -1)
        return logits, loc, self.min_scale + F.softplus(raw)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits, loc, scale = self.split(parameters)
        x = self.features(x)
        inner = (
            self._log_bin(x, loc, scale)
            if self.num_values
            else self._log_density((x - loc) / scale) - scale.log()
        )
        return (logits.log_softmax(-1) + inner).logsumexp(-1)

    def _log_density(self, z: Tensor) -> Tensor:
        if self.family == "normal":
            return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi)
        if self.family == "laplace":
            return -z.abs() - math.log(2.0)
        return -z - 2.0 * F.softplus(-z)

    def _log_bin(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Log probability of a bin under a logistic, without a difference of sigmoids."""
        half = 1.0 / (self.num_values - 1)
        above, below = (x + half - loc) / scale, (x - half - loc) / scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        width = (above - below).expand_as(above)
        inside = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log(-torch.expm1(-width))
        lowest, highest = x < -1.0 + half, x > 1.0 - half
        inside = torch.where(highest, F.logsigmoid(-below), inside)
        return torch.where(lowest, F.logsigmoid(above), inside)

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        logits, loc, scale = self.split(parameters)
        index = _pick(logits, noise[0]).unsqueeze(-1)
        loc, scale = loc.gather(-1, index)[:, 0], scale.gather(-1, index)[:, 0]
        x = loc + scale * noise[1]
        if self.num_values is None:
            return x
        levels = self.num_values - 1
        return ((x + 1.0) * (0.5 * levels)).round().clamp(0.0, levels)

    def prepare(self, noise: Tensor) -> Tensor:
        tiny = torch.finfo(noise.dtype).eps
        u = noise[..., 1, :].clamp(tiny, 1.0 - tiny)
        if self.family == "normal":
            z = torch.special.ndtri(u)
        elif self.family == "laplace":
            z = -(u - 0.5).sign() * torch.log1p(-2.0 * (u - 0.5).abs() + tiny)
        else:
            z = u.logit()
        return torch.stack([noise[..., 0, :], z], -2)

    def mean(self, parameters: Tensor) -> Tensor:
        """Mean of the mixture; of discrete x that of the underlying density."""
        logits, loc, _ = self.split(parameters)
        mean = (logits.softmax(-1) * loc).sum(-1)
        return mean if self.num_values is None else (mean + 1.0) * (0.5 * (self.num_values - 1))

    def features(self, x: Tensor) -> Tensor:
        if self.num_values is not None:
            x = x * (2.0 / (self.num_values - 1)) - 1.0
        return x.unsqueeze(-1)

    def marginal(self, x: Tensor) -> Tensor:
        x = self.features(x)[..., 0]
        probs = (torch.arange(self.num_components, dtype=x.dtype, device=x.device) + 0.5) / (
            self.num_components
        )
        loc = torch.quantile(x, probs, dim=0).T
        spread = x.std(0, correction=0) / math.sqrt(self.num_components)
        spread = spread.clamp(min=2.0 * self.min_scale) - self.min_scale
        raw = spread + torch.log(-torch.expm1(-spread))  # inverse of softplus
        raw = raw.unsqueeze(-1).expand_as(loc)
        return torch.cat([torch.zeros_like(loc), loc, raw], -1)

    def outside_support(self, x: Tensor) -> Tensor:
        if self.num_values is None:
            return ~x.isfinite()
        return (x != x.round()) | (x < 0) | (x > self.num_values - 1)

    @property
    def support(self) -> str:
        return "finite numbers" if self.num_values is None else super().support


def make_output(
    output: str, num_components: int, num_values: int | None, min_scale: float
) -> Output:
    """Build the output of a name.

    Parameters
    ----------
    output
        "bernoulli", "categorical", "normal", "laplace" or "logistic".
    num_components
        Components of a mixture.
    num_values
        Values of a discrete variable; needed by "categorical", optional for "logistic".
    min_scale
        Smallest scale of a component, in units of the sd of x.

    Raises
    ------
    DataError
        If there is no such output or an option is out of range.
    """
    if num_components < 1:
        raise DataError(f"num_components: got {num_components}, expected 1 or more")
    if num_values is not None and num_values < 2:
        raise DataError(f"num_values: got {num_values}, expected 2 or more")
    if not min_scale > 0:
        raise DataError(f"min_scale: got {min_scale}, expected more than 0")
    if output == "bernoulli":
        return BernoulliOutput()
    if output == "categorical":
        if num_values is None:
            raise DataError("num_values: got None, expected the number of values of x")
        return CategoricalOutput(num_values)
    if output in ("normal", "laplace", "logistic"):
        return MixtureOutput(output, num_components, min_scale, num_values)
    raise DataError(
        f"output: got {output!r}, expected 'bernoulli', 'categorical', 'normal', 'laplace' or "
        "'logistic'"
    )


def _pick(logits: Tensor, u: Tensor) -> Tensor:
    """Draw an index by inversion of the distribution function at ``u``."""
    below = logits.softmax(-1).cumsum(-1)[..., :-1]
    return (u.unsqueeze(-1) > below).sum(-1)


def _broadcast(parameters: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(parameters.shape[:-1], index.shape[:-1])
    return (
        parameters.expand(*shape, parameters.shape[-1]),
        index.expand(*shape, 1),
    )
