"""Conjugate priors of a component's precision: Wishart for matrices, Gamma for numbers.

The posterior of one is held as its degrees of freedom ``nu`` and a scale: the square root of the
inverse of the mean precision, of the shape that the kind of covariance has.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from ppl_zoo.models.conjugate import gamma_kl
from ppl_zoo.models.mixtures.covariance import Kind
from ppl_zoo.models.mixtures.wishart import FactorNormal, WishartFactor, wishart_factor

__all__ = ["Precisions", "precisions"]


class Wisharts:
    """``factor factor' ~ Wishart(nu, W)``, one a component or (tied) one for all."""

    def __init__(self, kind: Kind, num_features: int) -> None:
        self.kind, self.num_features, self.tied = kind, num_features, kind.name == "tied"

    def root(self, scale: Tensor, nu: Tensor) -> Tensor:
        """Return what ``draw`` takes: the Cholesky factor of W."""
        return wishart_factor(scale.double(), nu.double())

    def draw(self, root: Tensor, nu: Tensor) -> Tensor:
        """Sample the Cholesky factors of precisions, ``(K, D, D)`` or ``(D, D)``."""
        q = WishartFactor(nu, root)
        return pyro.sample("factors", q if self.tied else q.to_event(1))

    def draw_means(self, loc: Tensor, strength: Tensor, drawn: Tensor) -> Tensor:
        """Sample the means ``(K, D)``, each known to ``strength`` times its precision."""
        factor = drawn.unsqueeze(-3) if self.tied else drawn
        factor = factor * strength[:, None, None].sqrt()
        return pyro.sample("means", FactorNormal(loc, factor).to_event(1))

    def covariances(self, drawn: Tensor) -> Tensor:
        """Covariances of factors."""
        eye = torch.eye(self.num_features, dtype=drawn.dtype, device=drawn.device)
        inverse = torch.linalg.solve_triangular(drawn, eye.expand_as(drawn), upper=False)
        return inverse.mT @ inverse

    def component(self, means: Tensor, drawn: Tensor, z: Tensor) -> dist.Distribution:
        """Return the distribution of x given its assignment."""
        factor = drawn if self.tied else Vindex(drawn)[..., z, :, :]
        return FactorNormal(Vindex(means)[..., z, :], factor)

    def correction(self, nu: Tensor) -> Tensor:
        """E[log|precision|] less log|mean precision|."""
        steps = torch.arange(self.num_features, dtype=nu.dtype, device=nu.device)
        half = 0.5 * nu
        spread = torch.digamma(half[..., None] - 0.5 * steps).sum(-1)
        return spread - self.num_features * half.log()

    def negative_kl(self, scale: Tensor, nu: Tensor, scale0: Tensor, nu0: Tensor) -> Tensor:
        """-KL(q || p) of each precision."""
        log_det = -2.0 * self.kind.log_det(scale, self.num_features)
        log_det0 = -2.0 * self.kind.log_det(scale0, self.num_features)
        expected = log_det + self.correction(nu)
        trace = nu0 * self.kind.trace(scale0 @ scale0.mT, scale)
        value = self._log_normaliser(log_det0, nu0) - self._log_normaliser(log_det, nu)
        return value + 0.5 * ((nu0 - nu) * expected - trace + nu * self.num_features)

    def predictive(self, strength: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
        """Degrees of freedom and squared stretch of the Student t of a component."""
        freedom = nu + 1.0 - self.num_features
        return freedom, (1.0 + 1.0 / strength) * nu / freedom

    def _log_normaliser(self, log_det: Tensor, nu: Tensor) -> Tensor:
        """Log normaliser of a Wishart whose mean has this log determinant."""
        half = 0.5 * nu
        value = -half * (log_det - self.num_features * half.log())
        return value - torch.special.multigammaln(half, self.num_features)


class Gammas:
    """``precision ~ Gamma(nu / 2, rate)``, for each feature; spherical: one, D times as sure."""

    tied = False

    def __init__(self, kind: Kind, num_features: int) -> None:
        self.kind, self.num_features = kind, num_features
        self.spherical = kind.name == "spherical"

    def root(self, scale: Tensor, nu: Tensor) -> Tensor:
        """Return what ``draw`` takes: the scale itself."""
        return scale.double()

    def draw(self, root: Tensor, nu: Tensor) -> Tensor:
        """Sample precisions ``(K, D)`` or ``(K,)``."""
        q = dist.Gamma(*self._gamma(root, nu))
        return pyro.sample("precisions", q.to_event(root.ndim))

    def draw_means(self, loc: Tensor, strength: Tensor, drawn: Tensor) -> Tensor:
        """Sample the means ``(K, D)``, each known to ``strength`` times its precision."""
        precision = drawn.unsqueeze(-1) if self.spherical else drawn
        scale = (precision * strength[:, None]).rsqrt()
        scale = scale.expand(*scale.shape[:-1], self.num_features)
        return pyro.sample("means", dist.Normal(loc, scale).to_event(2))

    def covariances(self, drawn: Tensor) -> Tensor:
        """Variances of precisions."""
        return 1.0 / drawn

    def component(self, means: Tensor, drawn: Tensor, z: Tensor) -> dist.Distribution:
        """Return the distribution of x given its assignment."""
        loc = Vindex(means)[..., z, :]
        precision = drawn.unsqueeze(-1) if self.spherical else drawn
        return dist.Normal(loc, Vindex(precision)[..., z, :].rsqrt().expand_as(loc)).to_event(1)

    def correction(self, nu: Tensor) -> Tensor:
        """E[log|precision|] less log|mean precision|."""
        half = 0.5 * nu * (self.num_features if self.spherical else 1)
        return self.num_features * (torch.digamma(half) - half.log())

    def negative_kl(self, scale: Tensor, nu: Tensor, scale0: Tensor, nu0: Tensor) -> Tensor:
        """-KL(q || p) of the precisions of each component."""
        kl = gamma_kl(*self._gamma(scale, nu), *self._gamma(scale0, nu0))
        return -kl if self.spherical else -kl.sum(-1)

    def predictive(self, strength: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
        """Degrees of freedom and squared stretch of the Student t of a component."""
        return nu * (self.num_features if self.spherical else 1), 1.0 + 1.0 / strength

    def _gamma(self, scale: Tensor, nu: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes and rates of precisions whose mean is ``scale^-2``."""
        half = 0.5 * nu * self.num_features if self.spherical else 0.5 * nu.unsqueeze(-1)
        half = half.expand(scale.shape)
        return half, half * scale**2


Precisions = Wisharts | Gammas


def precisions(kind: Kind, num_features: int) -> Precisions:
    """Return the prior of a kind of covariance."""
    return (Wisharts if kind.matrix else Gammas)(kind, num_features)
