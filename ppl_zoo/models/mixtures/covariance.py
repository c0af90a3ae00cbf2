"""Covariance types of a Gaussian mixture: full, tied, diagonal and spherical.

What each stores, how it enters the model, and its M-step. A type stores a scale (a Cholesky factor
or standard deviations), never a covariance, so that rounding cannot make it indefinite. Second
moments come in the smallest form that the type needs: ``squares`` is ``(K, D (D + 1) / 2)`` for
full, ``(D (D + 1) / 2,)`` for tied, ``(K, D)`` for diagonal and ``(K,)`` for spherical.
``matrix`` says whether the scale is a factor (full, tied) or holds standard deviations.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

__all__ = ["COVARIANCE_TYPES", "CovarianceType"]

#: smallest variance or eigenvalue that a scale is taken of
MIN_VARIANCE = 1e-30


class Full:
    """One covariance matrix a component; the scale is its Cholesky factor ``(K, D, D)``."""

    name = "full"
    constraint = constraints.lower_cholesky
    matrix = True

    def unit_scale(self, num_components: int, num_features: int) -> Tensor:
        """Scales of identity covariances."""
        return torch.eye(num_features).repeat(num_components, 1, 1)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        """Count the free parameters of the covariances."""
        return num_components * num_features * (num_features + 1) // 2

    def component(self, loc: Tensor, scale: Tensor, z: Tensor | int) -> Distribution:
        """Distribution of x given its component ``z``."""
        return dist.MultivariateNormal(loc[z], scale_tril=scale[z])

    def covariances(self, scale: Tensor) -> Tensor:
        """Covariances of scales."""
        return scale @ scale.mT

    def factor(self, scatter: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        """Scales of ``scatter + floor``; rounding may have made the scatter indefinite."""
        factor, info = torch.linalg.cholesky_ex(scatter + floor)
        if info.any():
            values, vectors = torch.linalg.eigh(scatter)
            eps = scatter.shape[-1] * torch.finfo(scatter.dtype).eps
            values = values.clamp_min(MIN_VARIANCE)
            values = torch.maximum(values, eps * values.amax(-1, keepdim=True))
            repaired = (vectors * values.unsqueeze(-2)) @ vectors.mT
            repaired = torch.linalg.cholesky(repaired + floor)
            factor = torch.where((info > 0)[..., None, None], repaired, factor)
        return factor

    def linear_map(self, whitener: Tensor, scale: Tensor, inverse: bool = False) -> Tensor:
        """Scales in whitened coordinates, or back."""
        if inverse:
            return torch.linalg.solve_triangular(whitener, scale, upper=False)
        return whitener @ scale

    def log_det(self, scale: Tensor, num_features: int) -> Tensor:
        """Half the log determinant of each covariance."""
        return scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whitened(self, difference: Tensor, scale: Tensor) -> Tensor:
        """Differences ``(..., D)`` in units of the scale."""
        return torch.linalg.solve_triangular(scale, difference.unsqueeze(-1), upper=False)[..., 0]

    def moments(
        self, weights: Tensor, means: Tensor, covariances: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)`` of the whole mixture."""
        mean = weights @ means
        within = (weights[:, None, None] * covariances).sum(0)
        return mean, within + (weights[:, None] * (means - mean)).mT @ (means - mean)

    def dense(self, covariances: Tensor, num_components: int, num_features: int) -> Tensor:
        """Covariance matrices ``(..., K, D, D)`` of covariances as the type has them."""
        return covariances

    # ---- the M-step -------------------------------------------------------------------------

    def pack(self, matrix: Tensor) -> Tensor:
        """Packed second moments: ``squares``."""
        rows, columns = torch.triu_indices(*matrix.shape[-2:], device=matrix.device)
        return matrix[..., rows, columns]

    def unpack(self, squares: Tensor, num_features: int) -> Tensor:
        """Inverse of :meth:`pack`."""
        rows, columns = torch.triu_indices(num_features, num_features, device=squares.device)
        out = squares.new_empty(*squares.shape[:-1], num_features, num_features)
        out[..., rows, columns] = squares
        out[..., columns, rows] = squares
        return out

    def cross_terms(self, counts: Tensor, sums: Tensor, means: Tensor) -> Tensor:
        """``s m' + m s' - N m m'``: second moments less this are the scatter around m."""
        half = (sums - 0.5 * counts[:, None] * means)[:, :, None] * means[:, None, :]
        return half + half.mT

    def effective_count(self, counts: Tensor, prior: float, num_features: int) -> Tensor:
        """Effective number of rows, the divisor of the scatter."""
        return (counts + prior)[:, None, None]

    def prior_scatter(self, covariance: Tensor) -> Tensor:
        """Prior covariance in the form of the scatter."""
        return covariance

    def trace(self, covariance: Tensor, scale: Tensor) -> Tensor:
        """Trace of ``covariance`` in units of each scale."""
        root = torch.linalg.cholesky(covariance)
        return torch.linalg.solve_triangular(scale, root, upper=False).square().sum((-1, -2))


class Tied(Full):
    """One covariance matrix for all components; the scale is its Cholesky factor ``(D, D)``."""

    name = "tied"

    def unit_scale(self, num_components: int, num_features: int) -> Tensor:
        """Scales of identity covariances."""
        return torch.eye(num_features)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        """Count the free parameters of the covariances."""
        return num_features * (num_features + 1) // 2

    def component(self, loc: Tensor, scale: Tensor, z: Tensor | int) -> Distribution:
        """Distribution of x given its component ``z``."""
        return dist.MultivariateNormal(loc[z], scale_tril=scale)

    def dense(self, covariances: Tensor, num_components: int, num_features: int) -> Tensor:
        """Covariance matrices ``(..., K, D, D)``, all the same."""
        size = (num_components, num_features, num_features)
        return covariances.unsqueeze(-3).expand(*covariances.shape[:-2], *size)

    def cross_terms(self, counts: Tensor, sums: Tensor, means: Tensor) -> Tensor:
        """Those of full, summed over components."""
        half = (sums - 0.5 * counts[:, None] * means).mT @ means
        return half + half.mT

    def effective_count(self, counts: Tensor, prior: float, num_features: int) -> Tensor:
        """Effective number of rows, the divisor of the scatter."""
        return counts.sum() + prior


class Diagonal:
    """Independent features; the scale is their standard deviations ``(K, D)``."""

    name = "diagonal"
    constraint = constraints.positive
    matrix = False

    def unit_scale(self, num_components: int, num_features: int) -> Tensor:
        """Scales of identity covariances."""
        return torch.ones(num_components, num_features)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        """Count the free parameters of the covariances."""
        return num_components * num_features

    def component(self, loc: Tensor, scale: Tensor, z: Tensor | int) -> Distribution:
        """Distribution of x given its component ``z``."""
        return dist.Normal(loc[z], scale[z]).to_event(1)

    def covariances(self, scale: Tensor) -> Tensor:
        """Variances of standard deviations."""
        return scale**2

    def factor(self, scatter: Tensor, floor: Tensor | float = 0.0) -> Tensor:
        """Scales of ``scatter + floor``; rounding may have made the scatter negative."""
        return (scatter.clamp_min(0.0) + floor).clamp_min(MIN_VARIANCE).sqrt()

    def linear_map(self, whitener: Tensor, scale: Tensor, inverse: bool = False) -> Tensor:
        """Scales in whitened coordinates, or back."""
        return scale / whitener if inverse else scale * whitener

    def log_det(self, scale: Tensor, num_features: int) -> Tensor:
        """Half the log determinant of each covariance."""
        return scale.log().sum(-1)

    def whitened(self, difference: Tensor, scale: Tensor) -> Tensor:
        """Differences ``(..., D)`` in units of the scale."""
        return difference / scale

    def moments(
        self, weights: Tensor, means: Tensor, covariances: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and variances ``(D,)`` of the whole mixture."""
        mean = weights @ means
        within = covariances.reshape(len(means), -1).expand_as(means)
        return mean, weights @ (within + (means - mean) ** 2)

    def dense(self, covariances: Tensor, num_components: int, num_features: int) -> Tensor:
        """Covariance matrices ``(..., K, D, D)`` of variances ``(..., K, D)``."""
        return covariances.diag_embed()

    # ---- the M-step -------------------------------------------------------------------------

    def pack(self, matrix: Tensor) -> Tensor:
        """Packed second moments: ``squares``."""
        return matrix

    def unpack(self, squares: Tensor, num_features: int) -> Tensor:
        """Inverse of :meth:`pack`."""
        return squares

    def cross_terms(self, counts: Tensor, sums: Tensor, means: Tensor) -> Tensor:
        """``2 s m - N m^2``: second moments less this are the scatter around m."""
        return (2.0 * sums - counts[:, None] * means) * means

    def effective_count(self, counts: Tensor, prior: float, num_features: int) -> Tensor:
        """Effective number of rows, the divisor of the scatter."""
        return (counts + prior)[:, None]

    def prior_scatter(self, covariance: Tensor) -> Tensor:
        """Prior covariance in the form of the scatter."""
        return covariance

    def trace(self, covariance: Tensor, scale: Tensor) -> Tensor:
        """Trace of ``covariance`` in units of each scale."""
        return (covariance / scale**2).sum(-1)


class Spherical(Diagonal):
    """One variance for all features; the scale is a standard deviation ``(K,)``."""

    name = "spherical"

    def unit_scale(self, num_components: int, num_features: int) -> Tensor:
        """Scales of identity covariances."""
        return torch.ones(num_components)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        """Count the free parameters of the covariances."""
        return num_components

    def component(self, loc: Tensor, scale: Tensor, z: Tensor | int) -> Distribution:
        """Distribution of x given its component ``z``."""
        return dist.Normal(loc[z], scale[z].unsqueeze(-1)).to_event(1)

    def linear_map(self, whitener: Tensor, scale: Tensor, inverse: bool = False) -> Tensor:
        """Scales in whitened coordinates, or back; the whitener repeats one number."""
        return scale / whitener[0] if inverse else scale * whitener[0]

    def log_det(self, scale: Tensor, num_features: int) -> Tensor:
        """Half the log determinant of each covariance."""
        return num_features * scale.log()

    def whitened(self, difference: Tensor, scale: Tensor) -> Tensor:
        """Differences ``(..., D)`` in units of the scale."""
        return difference / scale.unsqueeze(-1)

    def dense(self, covariances: Tensor, num_components: int, num_features: int) -> Tensor:
        """Covariance matrices ``(..., K, D, D)`` of variances ``(..., K)``."""
        return covariances.unsqueeze(-1).expand(*covariances.shape, num_features).diag_embed()

    def cross_terms(self, counts: Tensor, sums: Tensor, means: Tensor) -> Tensor:
        """Those of diagonal, summed over features."""
        return super().cross_terms(counts, sums, means).sum(-1)

    def effective_count(self, counts: Tensor, prior: float, num_features: int) -> Tensor:
        """Effective number of values, the divisor of the scatter."""
        return (counts + prior) * num_features

    def prior_scatter(self, covariance: Tensor) -> Tensor:
        """Prior variance, summed over features as the scatter is."""
        return covariance.sum(-1)

    def trace(self, covariance: Tensor, scale: Tensor) -> Tensor:
        """Trace of ``covariance`` in units of each scale."""
        return covariance.sum(-1) / scale**2


CovarianceType = Full | Diagonal
#: by the name that the ``covariance`` argument of a mixture takes
COVARIANCE_TYPES: dict[str, CovarianceType] = {
    each.name: each for each in (Full(), Tied(), Diagonal(), Spherical())
}
