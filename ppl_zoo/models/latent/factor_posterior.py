"""Posterior of the factors of linear Gaussian models, and the sums that EM needs of it.

Normal factors seen through a linear map and independent noise: factor analysis, probabilistic PCA
and the Bayesian model. All is written for residuals ``r = x - mean`` with 0 where nothing is
observed, in float64: densities of nearly noise-free features cancel in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FactorPosterior",
    "em_on_covariance",
    "feature_variances",
    "infer_factors",
    "noise_terms",
    "principal_factors",
    "regression_statistics",
    "residuals",
]


class FactorPosterior(NamedTuple):
    """Posterior of the factors of each row, and the row's log density.

    Attributes
    ----------
    mean
        ``(n, K)``.
    precision_tril
        Cholesky factor of the precision, ``(K, K)`` or ``(n, K, K)``.
    log_density
        Log density of each row without the terms of :func:`noise_terms`, ``(n,)``.
    """

    mean: Tensor
    precision_tril: Tensor
    log_density: Tensor

    @property
    def covariance(self) -> Tensor:
        """Posterior covariance, ``(K, K)`` or ``(n, K, K)``."""
        return torch.cholesky_inverse(self.precision_tril)

    @property
    def scale_tril(self) -> Tensor:
        """Cholesky factor of the covariance."""
        return torch.linalg.cholesky(self.covariance)


def residuals(x: Tensor, mean: Tensor, missing: bool) -> tuple[Tensor, Tensor | None]:
    """Residuals in float64 with 0 for NaN, and the mask of what is observed (None: all)."""
    r = x.double() - mean.double()
    if not missing:
        return r, None
    observed = ~r.isnan()
    return torch.where(observed, r, torch.zeros_like(r)), observed.double()


def infer_factors(
    r: Tensor,
    observed: Tensor | None,
    weights: Tensor,
    precision: Tensor,
    spread: Tensor | None = None,
) -> FactorPosterior:
    """Posterior of the factors given residuals.

    Parameters
    ----------
    r
        Residuals ``(n, D)``.
    observed
        1 where observed, else 0; None for all.
    weights, precision
        Loadings ``(D, K)`` and precision of the noise ``(D,)``.
    spread
        Covariance of uncertain loadings, ``(D, K, K)``.
    """
    weighted = weights * precision[:, None]
    eye = torch.eye(weights.shape[1], dtype=r.dtype, device=r.device)
    if observed is None:
        inner = weighted.mT @ weights
        if spread is not None:
            inner = inner + (precision[:, None, None] * spread).sum(0)
    else:
        outer = weighted[:, :, None] * weights[:, None, :]
        if spread is not None:
            outer = outer + precision[:, None, None] * spread
        inner = (observed @ outer.flatten(1)).reshape(len(r), *outer.shape[1:])
    precision_tril = torch.linalg.cholesky(eye + inner)
    linear = r @ weighted
    columns = linear.mT if observed is None else linear[..., None]
    mean = torch.cholesky_solve(columns, precision_tril)
    mean = mean.mT if observed is None else mean[..., 0]
    log_det = precision_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return FactorPosterior(mean, precision_tril, 0.5 * (linear * mean).sum(-1) - log_det)


def noise_terms(
    r: Tensor, observed: Tensor | None, precision: Tensor, log_precision: Tensor
) -> Tensor:
    """Log density of the residuals as noise alone, ``(n,)``."""
    constant = 0.5 * (log_precision - math.log(2.0 * math.pi))
    counted = constant.sum() if observed is None else observed @ constant
    return counted - 0.5 * (r * r) @ precision


def regression_statistics(
    r: Tensor, observed: Tensor | None, factors: FactorPosterior
) -> dict[str, Tensor]:
    """Sum expected sufficient statistics of the regression of residuals on (factors, 1).

    "design" ``(D, K + 1, K + 1)`` (``(1, K + 1, K + 1)`` if nothing is missing), "cross"
    ``(D, K + 1)`` and "squares" ``(D,)``.
    """
    u = torch.cat([factors.mean, torch.ones_like(factors.mean[:, :1])], 1)
    pad = torch.nn.functional.pad
    if observed is None:
        spread = pad(factors.covariance, (0, 1, 0, 1))
        design = (u.mT @ u + len(u) * spread)[None]
    else:
        second = u[:, :, None] * u[:, None, :] + pad(factors.covariance, (0, 1, 0, 1))
        design = (observed.mT @ second.flatten(1)).reshape(-1, *second.shape[1:])
    return {"design": design, "cross": r.mT @ u, "squares": (r * r).sum(0)}


def em_on_covariance(
    covariance: Tensor,
    weight: Tensor,
    noise: Tensor,
    pool: Callable[[Tensor], Tensor],
    num_steps: int,
) -> tuple[Tensor, Tensor]:
    """EM on the covariance of x, without passes over the data (Rubin & Thayer 1982).

    Parameters
    ----------
    covariance
        Of x, ``(D, D)``.
    weight, noise
        Loadings ``(D, K)`` and variances of the noise ``(D,)`` or ``(1,)`` to start at.
    pool
        Makes the noise of the residual variances ``(D,)``.
    num_steps
        Most iterations; it stops where the noise does not change.

    Returns
    -------
    weight, noise
        As they came.
    """
    eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    for _ in range(num_steps):
        weighted = weight / noise[:, None]
        posterior = torch.linalg.inv(eye + weighted.mT @ weight)
        gain = weighted @ posterior  # factors given x have mean r @ gain
        cross = covariance @ gain
        weight = torch.linalg.solve(posterior + gain.mT @ cross, cross, left=False)
        before, noise = noise, pool(covariance.diagonal() - (weight * cross).sum(-1))
        if ((noise - before).abs() <= 1e-12 * noise).all():
            break
    return weight, noise


def feature_variances(mean: Tensor, variance: Tensor) -> Tensor:
    """Variances ``(D,)`` that give features their units.

    A constant feature, which has no unit of its own, gets a small part of the least variance.
    """
    # the mean of equal numbers is another number, by rounding
    varies = variance > (4.0 * torch.finfo(variance.dtype).eps * mean) ** 2
    least = torch.where(varies, variance, torch.inf).amin()
    return torch.where(varies, variance, 1e-10 * least)


def principal_factors(covariance: Tensor, num_factors: int) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood loadings ``(D, K)`` and noise ``()`` where all noise is equal.

    That is probabilistic PCA; the noise is the mean variance along the other directions.
    """
    values, vectors = torch.linalg.eigh(covariance)
    # eigenvectors come with any sign: the first entry that is not small is made positive
    large = vectors.abs() > 0.5 * vectors.abs().amax(0)
    first = vectors.gather(0, large.long().argmax(0, keepdim=True))
    vectors = vectors * first.sign()
    others = len(values) - num_factors
    noise = values[:others].mean() if others else values[0] * 0.0
    noise = noise.clamp_min(1e-6 * values.mean())
    lengths = (values[others:] - noise).clamp_min(0.0).sqrt()
    return (vectors[:, others:] * lengths).flip(1), noise
