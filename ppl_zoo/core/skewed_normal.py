"""Skewed normals, and mixtures of them, as a Pyro distribution.

A normal whose leading directions are skewed, have heavy tails, and move and scale all the others:
the posterior of a hierarchy along the logarithms of its scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import pad

__all__ = ["MAX_DIRECTIONS", "SkewedComponent", "SkewedNormal", "acting"]

#: leading directions of a component, at most
MAX_DIRECTIONS = 3
#: leading coordinates act on the others up to about here, in sds: no tail blows a scale up
SATURATION = 4.0
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass
class SkewedComponent:
    """One skewed normal over ``(D,)``, of K leading directions.

    A vector is ``x = loc + factor @ rotation @ y``. The leading K of ``y`` come one after the
    other, ``y_k = shift + slopes f(y_<k) + exp(log_scale + scale_slopes f(y_<k)) v`` with
    ``v = sinh(b u) / b``, ``u = asinh(e) + skew`` of a standard normal ``e``, with one weight
    ``b = exp(log_tail)`` of the tail on each side (after Jones & Pewsey 2009,
    https://doi.org/10.1093/biomet/asp053): the logarithm of a scale has a long tail to the left.
    The others are normal given these, of correlated ``v``. ``f`` are the functions of
    :func:`acting`, two of each coordinate.

    Attributes
    ----------
    loc, factor, rotation
        ``(D,)``, lower triangular ``(D, D)``, orthogonal ``(D, D)``.
    shift, log_scale, slopes, scale_slopes
        ``(D,)`` twice and ``(D, 2 K)`` twice; of a leading row only what comes before it counts.
    skew, log_tail
        ``(K,)``, and ``(K, 2)`` for the left and the right.
    mixing
        ``(D - K, D - K)``, lower triangular of unit diagonal.
    """

    loc: Tensor
    factor: Tensor
    rotation: Tensor
    shift: Tensor
    log_scale: Tensor
    slopes: Tensor
    scale_slopes: Tensor
    skew: Tensor
    log_tail: Tensor
    mixing: Tensor

    @classmethod
    def of_normal(
        cls, loc: Tensor, factor: Tensor, rotation: Tensor, num_directions: int
    ) -> SkewedComponent:
        """Return the normal of a mean and a lower triangular factor."""
        size, k = len(loc), num_directions
        zeros = loc.new_zeros
        return cls(
            *(loc, factor, rotation, zeros(size), zeros(size)),
            *(zeros(size, 2 * k), zeros(size, 2 * k)),
            *(zeros(k), zeros(k, 2), torch.eye(size - k, dtype=loc.dtype).to(loc.device)),
        )

    @property
    def num_directions(self) -> int:
        """Leading directions, K."""
        return len(self.skew)

    def transform(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws ``(..., D)`` of standard normals ``(..., D)``, and their log density."""
        k = self.num_directions
        leading, log_prob = normals[..., :0], -self.factor.diagonal().log().sum()
        for i in range(k):
            centre, log_scale = self._given(i, leading)
            u = normals[..., i].asinh() + self.skew[i]
            tail = self._tail(i, u)
            value = centre + log_scale.exp() * (tail * u).sinh() / tail
            leading = torch.cat([leading, value.unsqueeze(-1)], -1)
            log_prob = log_prob + _leading_log_prob(normals[..., i], tail * u) - log_scale
        rest = normals[..., k:]
        others, log_scale = self.others(leading, rest)
        log_prob = log_prob - (log_scale + 0.5 * rest.square() + LOG_SQRT_2PI).sum(-1)
        return self.vectors(torch.cat([leading, others], -1)), log_prob

    def others(self, leading: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the other coordinates given the leading ones; return their log scales as well."""
        k, act = self.num_directions, acting(leading)
        log_scale = self.log_scale[k:] + act @ self.scale_slopes[k:].mT
        others = self.shift[k:] + act @ self.slopes[k:].mT
        return others + log_scale.exp() * (normals @ self.mixing.mT), log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density ``(...)`` at vectors ``(..., D)``."""
        y = self.coordinates(x)
        k = self.num_directions
        log_prob = -self.factor.diagonal().log().sum()
        for i in range(k):
            log_prob = log_prob + self.leading_log_prob(i, y[..., :k])
        act = acting(y[..., :k])
        log_scale = self.log_scale[k:] + act @ self.scale_slopes[k:].mT
        moved = (y[..., k:] - self.shift[k:] - act @ self.slopes[k:].mT) * (-log_scale).exp()
        rest = _solve_lower(self.mixing, moved)
        return log_prob - (log_scale + 0.5 * rest.square() + LOG_SQRT_2PI).sum(-1)

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the coordinates ``y`` of vectors ``x``."""
        return _solve_lower(self.factor, x - self.loc) @ self.rotation

    def vectors(self, y: Tensor) -> Tensor:
        """Return the vectors ``x`` of coordinates ``y``."""
        return self.loc + y @ self.rotation.mT @ self.factor.mT

    def leading_log_prob(self, i: int, leading: Tensor) -> Tensor:
        """Log density of a leading coordinate given those before it; ``leading (..., K)``."""
        centre, log_scale = self._given(i, leading)
        v = (leading[..., i] - centre) * (-log_scale).exp()
        tail = self._tail(i, v)
        u = (tail * v).asinh() / tail
        return _leading_log_prob((u - self.skew[i]).sinh(), tail * u) - log_scale

    def _given(self, i: int, leading: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and log scale of a leading coordinate given those before it."""
        act = acting(leading[..., :i])
        log_scale = self.log_scale[i] + act @ self.scale_slopes[i, : 2 * i]
        return self.shift[i] + act @ self.slopes[i, : 2 * i], log_scale

    def _tail(self, i: int, side: Tensor) -> Tensor:
        """Weight of a leading coordinate's tail on the side of a number's sign."""
        return torch.where(side < 0, self.log_tail[i, 0], self.log_tail[i, 1]).exp()


class SkewedNormal(dist.TorchDistribution):
    """Mixture of skewed normals over ``(D,)``; see :class:`SkewedComponent`.

    Parameters
    ----------
    logits
        Of the components' weights, ``(C,)``.
    num_directions
        Leading directions of each, ``(C,)``, at most :data:`MAX_DIRECTIONS`.
    stacked
        The fields of :class:`SkewedComponent`, each with the C components in front and room for
        the most leading directions, so that the shapes do not depend on how many there are.
    """

    arg_constraints: dict = {}

    def __init__(self, logits: Tensor, num_directions: Tensor, stacked: SkewedComponent) -> None:
        self.logits, self.num_directions, self.stacked = logits, num_directions, stacked
        self.components = [
            SkewedComponent(*_cut([getattr(stacked, f.name)[c] for f in fields(stacked)], k))
            for c, k in enumerate(num_directions.tolist())
        ]
        super().__init__(torch.Size(), stacked.loc.shape[1:], validate_args=False)

    @classmethod
    def of(cls, components: Sequence[SkewedComponent], logits: Tensor) -> SkewedNormal:
        """Return the mixture of some components."""
        names = [f.name for f in fields(SkewedComponent)]
        whole = [_whole([getattr(c, name) for name in names]) for c in components]
        stacked = SkewedComponent(*(torch.stack(each) for each in zip(*whole, strict=True)))
        return cls(logits, torch.tensor([c.num_directions for c in components]), stacked)

    def padded(self, num_components: int) -> SkewedNormal:
        """Return the same mixture with components of no weight behind it."""
        extra = num_components - len(self.components)
        nothing = self.logits.new_full((extra,), -math.inf)
        logits = torch.cat([self.logits, nothing])
        return SkewedNormal.of([*self.components, *[self.components[0]] * extra], logits)

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return constraints.real_vector

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """``(*sample_shape, D)``."""
        loc = self.stacked.loc
        normals = torch.randn(*sample_shape, *self.event_shape, dtype=loc.dtype, device=loc.device)
        with torch.no_grad():
            drawn = self.components[0].transform(normals)[0]
            if len(self.components) > 1:
                place = torch.rand(*sample_shape, 1, dtype=loc.dtype, device=loc.device)
                below = self.logits.softmax(0).cumsum(0)
                for c, component in enumerate(self.components[1:]):
                    other = component.transform(normals)[0]
                    drawn = torch.where(place > below[c], other, drawn)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """``(..., D)`` to ``(...)``."""
        each = torch.stack([c.log_prob(value) for c in self.components], -1)
        return (each + self.logits.log_softmax(0)).logsumexp(-1)


def _whole(held: list[Tensor]) -> list[Tensor]:
    """Fill the fields of a component up to the most leading directions."""
    *vectors, slopes, scale_slopes, skew, log_tail, mixing = held
    size, extra = len(vectors[0]), MAX_DIRECTIONS - len(skew)
    filled = torch.eye(size, dtype=mixing.dtype, device=mixing.device)
    filled[: len(mixing), : len(mixing)] = mixing
    wide = [pad(t, (0, 2 * extra)) for t in (slopes, scale_slopes)]
    return [*vectors, *wide, pad(skew, (0, extra)), pad(log_tail, (0, 0, 0, extra)), filled]


def _cut(held: list[Tensor], k: int) -> list[Tensor]:
    """Cut the fields of a component to its leading directions."""
    *vectors, slopes, scale_slopes, skew, log_tail, mixing = held
    rest = len(vectors[0]) - k
    wide = (slopes[:, : 2 * k], scale_slopes[:, : 2 * k])
    return [*vectors, *wide, skew[:k], log_tail[:k], mixing[:rest, :rest]]


def acting(leading: Tensor) -> Tensor:
    """Functions of leading coordinates ``(..., K)`` that act on the others, ``(..., 2 K)``.

    Of each a straight one and one bent at 0, ``sqrt(1 + f^2) - 1``, so that a scale may settle on
    one side; both saturate some sds out.
    """
    straight = SATURATION * (leading / SATURATION).tanh()
    bent = (1 + straight.square()).sqrt() - 1
    return torch.stack([straight, bent], -1).flatten(-2)


def _leading_log_prob(e: Tensor, scaled: Tensor) -> Tensor:
    """Log density of ``v = sinh(b u) / b`` by its normal ``e`` and ``scaled = b u``."""
    return -0.5 * e.square() - LOG_SQRT_2PI - _log_cosh(scaled) + 0.5 * e.square().log1p()


def _log_cosh(u: Tensor) -> Tensor:
    return u.abs() + (-2 * u.abs()).exp().log1p() - math.log(2)


def _solve_lower(factor: Tensor, value: Tensor) -> Tensor:
    """Solve ``factor @ z = value`` over the last dimension of ``value (..., D)``."""
    if value.dim() < 2:
        return torch.linalg.solve_triangular(factor, value.unsqueeze(-1), upper=False).squeeze(-1)
    return torch.linalg.solve_triangular(factor, value.mT, upper=False).mT
