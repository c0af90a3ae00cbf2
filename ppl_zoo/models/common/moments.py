"""Weighted mean and covariance of the data of a fit, in one pass."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.rows import Rows

__all__ = ["column_moments", "moments"]


def moments(rows: Rows, matrix: bool) -> tuple[Float[Tensor, " d"], Float[Tensor, "..."]]:
    """Weighted mean and covariance, or variances, of the observed data, float64.

    With missing values, means and variances are those of the observed values of each feature,
    and covariances are left at zero.

    Parameters
    ----------
    rows
        x ``(n, D)``, NaN where missing, and perhaps sample weights ``(n,)``.
    matrix
        Whether the covariance ``(D, D)`` is wanted, not the variances ``(D,)`` alone.

    Returns
    -------
    tuple
        Mean ``(D,)`` and covariance ``(D, D)`` or variances ``(D,)``.
    """
    shift = total = first = second = None
    for x, *rest in rows.chunks(4096):
        x, observed = x.double(), (~x.isnan()).double()
        weight = observed * rest[0].double()[:, None] if rest else observed
        if shift is None:  # squares around a typical value do not cancel
            shift = (x.nan_to_num(0.0) * observed).sum(0) / observed.sum(0).clamp_min(1.0)
            total = first = second = 0.0
        x = (x - shift).nan_to_num(0.0)
        total, first = total + weight.sum(0), first + (weight * x).sum(0)
        second = second + ((weight * x).mT @ x if matrix else (weight * x * x).sum(0))
    total = total.clamp_min(1e-30)
    mean = first / total
    if not matrix:
        return shift + mean, second / total - mean**2
    if (total != total[0]).any():
        return shift + mean, (second.diagonal() / total - mean**2).diag()
    return shift + mean, second / total[0] - torch.outer(mean, mean)


def column_moments(
    chunks: Iterable[Float[Tensor, "n ..."]],
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Mean and variance of each column over the values that are not NaN, float64.

    Parameters
    ----------
    chunks
        Rows ``(n, ...)``, chunk by chunk.

    Returns
    -------
    tuple
        Means and variances ``(...)``; the variance of a constant column is exactly 0.
    """
    count = total = square = 0.0
    shift: Tensor | None = None
    for chunk in chunks:
        x = chunk.double()
        known = ~x.isnan()
        if shift is None:  # squares around a typical value do not cancel
            shift = torch.where(known, x, 0.0).sum(0) / known.sum(0).clamp_min(1)
        x = torch.where(known, x - shift, 0.0)
        count, total, square = count + known.sum(0), total + x.sum(0), square + (x * x).sum(0)
    count = count.clamp_min(1)
    mean = shift + total / count
    variance = square / count - (total / count) ** 2
    # the mean of equal numbers is another number, by rounding
    rounding = 4.0 * torch.finfo(torch.float64).eps * mean.abs()
    return mean, torch.where(variance > rounding**2, variance, 0.0)
