"""Posterior mean and mode of rows whose linear filters have Laplace outputs, under noise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gibbs_mean", "sparse_mode"]

SMALLEST = 1e-6  # of a source, as a divisor


def sparse_mode(y: Tensor, filters: Tensor, variance: float, num_steps: int = 200) -> Tensor:
    """Mode: the x that minimises ``|x - y|^2 / (2 variance) + sum_d |filters_d . x|``.

    By the alternating direction method of multipliers: a linear solve for x, a soft threshold
    for the sources (Boyd et al. 2011, https://doi.org/10.1561/2200000016).

    Parameters
    ----------
    y
        Noisy rows without the mean, ``(n, D)``.
    filters
        ``(D, D)``.
    variance
        Of the noise.
    num_steps
        Of the method.
    """
    gram = filters.mT @ filters
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    # each source's own weight, so that its two terms count alike
    weight = 1.0 / (variance * filters.square().sum(-1)).clamp(1e-4, 1e8)
    inverse = torch.linalg.inv(eye / variance + (filters.mT * weight) @ filters)
    x, sources, dual = y, y @ filters.mT, torch.zeros_like(y)
    for _ in range(num_steps):
        x = (y / variance + ((sources - dual) * weight) @ filters) @ inverse.mT
        code = x @ filters.mT + dual
        sources = code.sign() * (code.abs() - 1.0 / weight).clamp_min(0.0)
        dual = code - sources
    return x


def gibbs_mean(
    y: Tensor, filters: Tensor, variance: float, num_draws: int = 60, burn_in: int = 20
) -> Tensor:
    """Posterior mean, from a Gibbs sampler between rows and the variances of their sources.

    Given variances t_d of the sources, a row is normal; given the row, 1 / t_d is inverse
    Gaussian with mean 1 / |source| and shape 1 (Park & Casella 2008,
    https://doi.org/10.1198/016214508000000337). What is averaged are the conditional means.

    Parameters
    ----------
    y, filters, variance
        As for :func:`sparse_mode`.
    num_draws, burn_in
        Sweeps that count, and sweeps before them.
    """
    # float64: precisions of sources near 0 are large
    dtype, y, filters = y.dtype, y.double(), filters.double()
    total = torch.zeros_like(y)
    for part, out in zip(y.split(512), total.split(512), strict=True):
        eye = torch.eye(len(filters), dtype=y.dtype, device=y.device) / variance
        x = part
        for sweep in range(burn_in + num_draws):
            precision = _inverse_gaussian(1.0 / (x @ filters.mT).abs().clamp_min(SMALLEST))
            matrix = eye + (filters.mT * precision[:, None]) @ filters
            factor = torch.linalg.cholesky(matrix)
            mean = torch.cholesky_solve(part[..., None] / variance, factor)
            noise = torch.randn_like(part)[..., None]
            x = (mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True))[..., 0]
            if sweep >= burn_in:
                out += mean[..., 0]
    return (total / num_draws).to(dtype)


def _inverse_gaussian(mean: Tensor) -> Tensor:
    """Draw inverse Gaussian variables of shape 1 (Michael, Schucany & Haas 1976)."""
    chi = torch.randn_like(mean).square()
    half = 0.5 * mean * chi
    # the smaller root, in the form that does not cancel
    root = mean / (1.0 + half + (half * (half + 2.0)).sqrt())
    return torch.where(torch.rand_like(mean) * (mean + root) <= mean, root, mean * mean / root)
