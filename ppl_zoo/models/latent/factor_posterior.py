"""What factor models share: normal factors seen through a linear map and independent noise.

Written for residuals ``r = x - mean`` with 0 where nothing is observed, in float64: densities of
nearly noise-free features cancel in single precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows

__all__ = [
    "Factors",
    "check_rows",
    "infer",
    "iterate",
    "noise_terms",
    "principal",
    "residuals",
    "sums",
]


class Factors(NamedTuple):
    """Posterior of the factors of each row, and what the row says of the model.

    ``mean (n, K)``; ``factor`` is the Cholesky factor of the precision, ``(K, K)`` or ``(n, K,
    K)``; ``log_density (n,)`` lacks the terms of the noise alone.
    """

    mean: Tensor
    factor: Tensor
    log_density: Tensor

    @property
    def covariance(self) -> Tensor:
        """Posterior covariance, ``(K, K)`` or ``(n, K, K)``."""
        return torch.cholesky_inverse(self.factor)

    @property
    def scale_tril(self) -> Tensor:
        """Cholesky factor of the covariance."""
        return torch.linalg.cholesky(self.covariance)


def check_rows(rows: Rows, num_features: int) -> None:
    """Refuse x of another shape than ``(n, num_features)``, or whole numbers."""
    shape = rows.sizes()[0]
    if len(shape) != 2 or shape[1] != num_features:
        raise DataError(f"x: got shape {shape}, expected ({len(rows)}, {num_features})")
    if not rows.head(1)[0].is_floating_point():
        raise DataError(f"x: got dtype {rows.arrays[0].dtype}, expected floating point")


def residuals(x: Tensor, mean: Tensor, missing: bool) -> tuple[Tensor, Tensor | None]:
    """Residuals in float64 with 0 for NaN, and what is observed (None: everything)."""
    r = x.double() - mean.double()
    if not missing:
        return r, None
    observed = ~r.isnan()
    return torch.where(observed, r, torch.zeros_like(r)), observed.double()


def infer(
    r: Tensor,
    observed: Tensor | None,
    weights: Tensor,
    precision: Tensor,
    spread: Tensor | None = None,
) -> Factors:
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
    factor = torch.linalg.cholesky(eye + inner)
    linear = r @ weighted
    columns = linear.mT if observed is None else linear[..., None]
    mean = torch.cholesky_solve(columns, factor)
    mean = mean.mT if observed is None else mean[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Factors(mean, factor, 0.5 * (linear * mean).sum(-1) - log_det)


def noise_terms(
    r: Tensor, observed: Tensor | None, precision: Tensor, log_precision: Tensor
) -> Tensor:
    """Log density of the residuals as noise alone, ``(n,)``."""
    constant = 0.5 * (log_precision - math.log(2.0 * math.pi))
    counted = constant.sum() if observed is None else observed @ constant
    return counted - 0.5 * (r * r) @ precision


def sums(r: Tensor, observed: Tensor | None, factors: Factors) -> dict[str, Tensor]:
    """Sum what the regression of residuals on (factors, 1) needs, in expectation.

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


def iterate(
    covariance: Tensor,
    weight: Tensor,
    noise: Tensor,
    pool: Callable[[Tensor], Tensor],
    num_steps: int,
) -> tuple[Tensor, Tensor]:
    """EM for the covariance of x (Rubin & Thayer 1982): loadings, and noise ``(D,)`` or ``(1,)``.

    ``pool`` makes the noise of the variances ``(D,)`` that the factors leave.
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


def principal(covariance: Tensor, num_factors: int) -> tuple[Tensor, Tensor]:
    """Return loadings ``(D, K)`` and noise ``()`` of the likeliest model of equal noise.

    The noise is the average of the variances that the K first directions leave.
    """
    values, vectors = torch.linalg.eigh(covariance)
    left = len(values) - num_factors
    noise = values[:left].mean() if left else values[0] * 0.0
    noise = noise.clamp_min(1e-6 * values.mean())
    kept = (values[left:] - noise).clamp_min(0.0).sqrt()
    return (vectors[:, left:] * kept).flip(1), noise
