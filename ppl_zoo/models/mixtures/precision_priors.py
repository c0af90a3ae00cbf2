"""Conjugate priors of a component's precision: Wishart for matrices, Gamma for numbers.

The posterior of one is held as its degrees of freedom ``nu`` and a scale: the square root of the
inverse of the mean precision, of the shape that the covariance type has. Then the distributions
of Cholesky factors of precision matrices that the programs draw from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from ppl_zoo.models.common.conjugate import LOG_2PI, gamma_kl
from ppl_zoo.models.mixtures.covariance import CovarianceType

__all__ = ["FactorNormal", "PackedCholesky", "WishartFactor", "make_precision_prior"]


class WishartPrior:
    """Wishart prior ``factor factor' ~ Wishart(nu, W)`` of each precision, or of the tied one."""

    def __init__(self, covariance_type: CovarianceType, num_features: int) -> None:
        self.covariance_type, self.num_features = covariance_type, num_features
        self.tied = covariance_type.name == "tied"

    def root(self, scale: Tensor, nu: Tensor) -> Tensor:
        """Argument ``root`` of :meth:`draw`: the Cholesky factor of W."""
        scale, nu = scale.double(), nu.double()
        # the mean precision nu W is (scale scale')^-1
        return torch.linalg.cholesky(torch.cholesky_inverse(scale) / nu[..., None, None])

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
        """Distribution of x given its component ``z``."""
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
        log_det = -2.0 * self.covariance_type.log_det(scale, self.num_features)
        log_det0 = -2.0 * self.covariance_type.log_det(scale0, self.num_features)
        expected = log_det + self.correction(nu)
        trace = nu0 * self.covariance_type.trace(scale0 @ scale0.mT, scale)
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


class GammaPrior:
    """Gamma prior ``precision ~ Gamma(nu / 2, rate)`` of each feature.

    Spherical: of all features, with D times the shape.
    """

    tied = False

    def __init__(self, covariance_type: CovarianceType, num_features: int) -> None:
        self.covariance_type, self.num_features = covariance_type, num_features
        self.spherical = covariance_type.name == "spherical"

    def root(self, scale: Tensor, nu: Tensor) -> Tensor:
        """Argument ``root`` of :meth:`draw`: the scale itself."""
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
        """Distribution of x given its component ``z``."""
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


def make_precision_prior(
    covariance_type: CovarianceType, num_features: int
) -> WishartPrior | GammaPrior:
    """Return the prior of the precisions of a covariance type."""
    cls = WishartPrior if covariance_type.matrix else GammaPrior
    return cls(covariance_type, num_features)


# ---- distributions by the Cholesky factors of precision matrices ----------------------------


class PackedCholesky(Transform):
    """Bijection of vectors ``(..., d (d + 1) / 2)`` to Cholesky factors ``(..., d, d)``.

    The log diagonal comes first, then the triangle below, row by row. Samplers need it: torch's
    own transform of such factors takes d^2 numbers and is no bijection.
    """

    domain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        size = _size(x.shape[-1])
        parts = [x[..., :size].exp(), x[..., size:], torch.zeros_like(x[..., :1])]
        return torch.cat(parts, -1)[..., self._gather_index(size, x)].unflatten(-1, (size, size))

    def _inverse(self, y: Tensor) -> Tensor:
        size = y.shape[-1]
        below = torch.tril_indices(size, size, -1, device=y.device)
        return torch.cat([y.diagonal(dim1=-2, dim2=-1).log(), y[..., below[0], below[1]]], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Log determinant of the Jacobian, that of the diagonal's exponential."""
        return x[..., : y.shape[-1]].sum(-1)

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """Shape of the factors."""
        size = _size(shape[-1])
        return torch.Size((*shape[:-1], size, size))

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        """Shape of the vectors."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))

    @staticmethod
    def _gather_index(size: int, like: Tensor) -> Tensor:
        """Index ``(d * d,)`` of each entry of the matrix in the vector; that of 0 is the last."""
        length = size * (size + 1) // 2
        rows = torch.arange(size, device=like.device)[:, None]
        columns = rows.mT
        below = size + rows * (rows - 1) // 2 + columns
        index = torch.where(rows > columns, below, torch.full_like(below, length))
        return torch.where(rows == columns, rows, index).flatten()


def _size(length: int) -> int:
    """Rows d of the factor of a packed vector of ``length`` d (d + 1) / 2."""
    return round((math.sqrt(8 * length + 1) - 1) / 2)


class _CholeskyFactor(type(constraints.lower_cholesky)):
    """Constraint to lower Cholesky factors, whose bijection is :class:`PackedCholesky`."""


_cholesky_factor = _CholeskyFactor()
PackedCholesky.codomain = _cholesky_factor


@biject_to.register(_CholeskyFactor)
def _packed(constraint: _CholeskyFactor) -> PackedCholesky:
    return PackedCholesky()


class FactorNormal(dist.TorchDistribution):
    """Normal distribution by the Cholesky factor of its precision; its density takes no solve.

    Parameters
    ----------
    loc
        Mean ``(..., d)``.
    factor
        Lower triangular L ``(..., d, d)``, precision ``L L'``.
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        self.loc, self.factor = loc, factor
        batch = torch.broadcast_shapes(loc.shape[:-1], factor.shape[:-2])
        super().__init__(batch, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> FactorNormal:
        """Return the same distribution with a larger batch shape."""
        size = self.event_shape
        return FactorNormal(
            self.loc.expand(*batch_shape, *size), self.factor.expand(*batch_shape, *size, *size)
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw rows."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        factor = self.factor.mT.expand(*shape, shape[-1])
        scaled = torch.linalg.solve_triangular(factor, noise[..., None], upper=True)
        return self.loc + scaled[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        z = ((value - self.loc).unsqueeze(-1) * self.factor).sum(-2)  # L' (x - loc)
        log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det - 0.5 * ((z * z).sum(-1) + LOG_2PI * self.event_shape[0])


class WishartFactor(dist.TorchDistribution):
    """Distribution of the Cholesky factor L of ``L L' ~ Wishart(df, W)`` (Bartlett: ``L = T A``).

    ``W = T T'``; A is lower triangular with ``A_ii^2 ~ Chi2(df - i)`` and standard normals below.

    Parameters
    ----------
    df
        Degrees of freedom ``(...)``, more than d - 1.
    scale_tril
        Cholesky factor T of the scale ``(..., d, d)``.

    References
    ----------
    Smith & Hocking 1972, Algorithm AS 53: Wishart variate generator,
    https://doi.org/10.2307/2346290.
    """

    arg_constraints: dict = {}
    support = _cholesky_factor

    def __init__(self, df: Tensor, scale_tril: Tensor) -> None:
        self.df, self.scale_tril = df, scale_tril
        batch = torch.broadcast_shapes(df.shape, scale_tril.shape[:-2])
        super().__init__(batch, scale_tril.shape[-2:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> WishartFactor:
        """Return the same distribution with a larger batch shape."""
        return WishartFactor(
            self.df.expand(*batch_shape), self.scale_tril.expand(*batch_shape, *self.event_shape)
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw factors."""
        shape = self._extended_shape(torch.Size(sample_shape))
        freedom = self._freedom().expand(shape[:-1])
        noise = torch.randn(shape, dtype=freedom.dtype, device=freedom.device).tril(-1)
        diagonal = (2.0 * torch._standard_gamma(0.5 * freedom)).sqrt()
        return self.scale_tril @ (noise + diagonal.diag_embed())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the factor, in the coordinates of its lower triangle."""
        a = torch.linalg.solve_triangular(self.scale_tril, value, upper=False)
        size, freedom = self.event_shape[0], self._freedom()
        log_a = a.diagonal(dim1=-2, dim2=-1).log()
        log_t = self.scale_tril.diagonal(dim1=-2, dim2=-1).log()
        rank = torch.arange(1, size + 1, dtype=freedom.dtype, device=freedom.device)
        # chi densities on the diagonal, normal ones below, and the stretch of L = T A
        value = ((freedom - 1.0) * log_a).sum(-1) - 0.5 * (a * a).sum((-1, -2))
        constant = (0.5 * freedom - 1.0) * math.log(2.0) + torch.lgamma(0.5 * freedom)
        value = value - constant.sum(-1) - 0.25 * size * (size - 1) * LOG_2PI
        return value - (rank * log_t).sum(-1)

    def _freedom(self) -> Tensor:
        size = self.scale_tril.shape[-1]
        steps = torch.arange(size, dtype=self.scale_tril.dtype, device=self.scale_tril.device)
        return self.df[..., None] - steps
