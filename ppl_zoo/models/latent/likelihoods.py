"""Likelihoods of a decoder: Bernoulli, Gaussian or categorical features."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_zoo.core.display import Sized
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.models.common.units import Units

__all__ = ["Likelihood", "make_likelihood"]

LIKELIHOODS = ("bernoulli", "gaussian", "gaussian-per-pixel", "categorical")


class Likelihood(Sized, nn.Module):
    """Distribution of a row given the outputs of a decoder, independent over features.

    Attributes
    ----------
    per_feature
        Outputs of the decoder for a feature.
    """

    per_feature: int = 1

    def forward(self, outputs: Tensor) -> Distribution:
        """Distribution over ``(..., D)`` of outputs ``(..., D * per_feature)``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward; write one")

    def mean(self, outputs: Tensor) -> Tensor:
        """Mean of the features, ``(..., D)``."""
        raise NotImplementedError(f"{type(self).__name__} has no mean; write one")

    #: states of a feature; None where it is a number
    num_states: int | None = None

    def check(self, x: Tensor) -> None:
        """Refuse values outside of the support."""

    def degenerate(self) -> tuple[str, ...]:
        """Say, in words, where the density has collapsed."""
        return ()

    def read_units(self, chunks: Iterable[Tensor]) -> None:
        """Take the units of real features from the data, ``(n, D)`` chunk by chunk."""

    def standardise(self, x: Tensor) -> Tensor:
        """Rows as the nets see them."""
        return x

    def start(self, x: Tensor) -> Tensor:
        """Return outputs at the mean of standardised rows ``x (n, D)``, for a start.

        ``(D,)`` or ``(D, P)``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no start; write one")


class BernoulliLikelihood(Likelihood):
    """Bernoulli features, 0 or 1; the outputs are logits. Grey values have no density."""

    num_states = 2

    def forward(self, outputs: Tensor) -> Distribution:
        """``(..., D)`` to a distribution over ``(..., D)``."""
        return dist.Bernoulli(logits=outputs).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the probability of 1, ``(..., D)``."""
        return outputs.sigmoid()

    def check(self, x: Tensor) -> None:
        """Refuse other values than 0 and 1."""
        bad = (x != 0) & (x != 1)
        if bad.any():
            raise DataError(
                f"x: got {x[bad][0].item():.4g}, expected 0 or 1: a Bernoulli on grey values is "
                "no density; binarise x or take likelihood='gaussian'"
            )

    def start(self, x: Tensor) -> Tensor:
        """Choose outputs that give the mean of these rows."""
        rate = (x.sum(0) + 0.5) / (len(x) + 1)
        return rate.logit()


class GaussianLikelihood(Likelihood):
    """Gaussian features about the outputs; the sd is learned, one for all or one a feature.

    The nets see x in units of the data: its mean and sd by feature; one sd for all where the
    noise is one for all.
    """

    floor = 1e-3  # of the sd: the density of a row that is decoded exactly would be unbounded

    def __init__(self, num_features: int, per_pixel: bool = False) -> None:
        super().__init__()
        self.per_pixel, self.units = per_pixel, Units([num_features])
        self.log_scale = nn.Parameter(torch.zeros(num_features if per_pixel else 1))

    def read_units(self, chunks: Iterable[Tensor]) -> None:
        """Take the units of the features from the data."""
        self.units.read(chunks, shared=not self.per_pixel)

    def standardise(self, x: Tensor) -> Tensor:
        """Rows in these units."""
        return self.units.standardise(x)

    @property
    def scale(self) -> Tensor:
        """Sd of the features, ``(D,)``, in units of x."""
        return (self.log_scale.exp() + self.floor) * self.units.spread

    def degenerate(self) -> tuple[str, ...]:
        """Say where the sd has fallen to its floor."""
        at_floor = int((self.log_scale < math.log(self.floor)).sum())
        if not at_floor:
            return ()
        return (
            f"{at_floor} of {self.log_scale.numel()} sds of the decoded features have fallen to "
            f"their floor ({self.floor} of the data's): the density has no bound there; add noise "
            "to features of few values, or take fewer latents",
        )

    def forward(self, outputs: Tensor) -> Distribution:
        """``(..., D)`` to a distribution over ``(..., D)``."""
        return dist.Normal(self.units.restore(outputs), self.scale).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the mean, ``(..., D)``."""
        return self.units.restore(outputs)

    def start(self, x: Tensor) -> Tensor:
        """Choose outputs that give the mean of these rows; the sd starts at theirs."""
        with torch.no_grad():
            variance = x.var(0, correction=min(1, len(x) - 1))  # that of a single row is 0
            sd = variance.sqrt() if self.log_scale.numel() > 1 else variance.mean().sqrt()
            self.log_scale.copy_(sd.clamp_min(10 * self.floor).log().reshape(-1))
        return x.mean(0)


class CategoricalLikelihood(Likelihood):
    """Categorical features, states 0, 1, ...; the outputs are logits, feature by feature."""

    def __init__(self, num_features: int, num_states: int) -> None:
        super().__init__()
        self.per_feature = self.num_states = num_states

    def forward(self, outputs: Tensor) -> Distribution:
        """``(..., D * states)`` to a distribution over ``(..., D)``."""
        logits = outputs.unflatten(-1, (-1, self.num_states))
        return dist.Categorical(logits=logits).to_event(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the most probable state, ``(..., D)``: states have no mean."""
        return outputs.unflatten(-1, (-1, self.num_states)).argmax(-1)

    def check(self, x: Tensor) -> None:
        """Refuse values that are no state."""
        bad = (x < 0) | (x >= self.num_states) | (x != x.round())
        if bad.any():
            raise DataError(
                f"x: got {x[bad][0].item():.4g}, expected a state, 0 to {self.num_states - 1}"
            )

    def start(self, x: Tensor) -> Tensor:
        """Choose outputs that give the frequencies of these rows."""
        counts = nn.functional.one_hot(x.long(), self.num_states).sum(0) + 0.5
        return (counts / (len(x) + 0.5 * self.num_states)).log().to(torch.get_default_dtype())


def make_likelihood(name: str, num_features: int, num_states: int | None) -> Likelihood:
    """Return the likelihood that a name stands for.

    Raises
    ------
    DataError
        If there is none of that name, or states are asked for or missing.
    """
    if name not in LIKELIHOODS:
        raise DataError(
            f"likelihood: got {name!r}{did_you_mean(name, LIKELIHOODS)}, "
            f"expected one of {', '.join(LIKELIHOODS)}"
        )
    if (name == "categorical") != (num_states is not None):
        raise DataError(f"num_states: got {num_states} with likelihood={name!r}")
    if name == "bernoulli":
        return BernoulliLikelihood()
    if name == "categorical":
        return CategoricalLikelihood(num_features, num_states)
    return GaussianLikelihood(num_features, per_pixel=name == "gaussian-per-pixel")
