"""The coordinates in which a Gaussian mixture is estimated: data centred and whitened once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.mixtures.covariance import Kind

__all__ = ["Whitening", "moments"]

Moments = tuple[Float[Tensor, " d"], Float[Tensor, "..."]]


class Whitening(nn.Module):
    """``y = W (x - c)``: W lower triangular for matrices, else one number a feature.

    Single precision is enough for the E-step only if features have like scales and little
    correlation. Rows with missing values can only be scaled, so W is diagonal for them.
    """

    def __init__(self, kind: Kind, num_features: int, missing: bool) -> None:
        super().__init__()
        self.kind, self.missing = kind, missing
        whitener = torch.eye(num_features) if kind.matrix else torch.ones(num_features)
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("whitener", whitener)
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        self.centre: Tensor
        self.whitener: Tensor
        self.known: Bool[Tensor, ""]

    def take(self, mean: Tensor, covariance: Tensor) -> None:
        """Centre on a mean ``(D,)`` and whiten by a covariance ``(D, D)``, or variances."""
        variance = covariance.diagonal() if self.kind.matrix else covariance
        whitener = variance.rsqrt()
        if self.kind.matrix and self.missing:
            whitener = whitener.diag()
        elif self.kind.matrix:  # nearly collinear features must not blow up
            factor = self.kind.factor(covariance, 1e-6 * variance.diag())
            eye = torch.eye(len(mean), dtype=factor.dtype, device=factor.device)
            whitener = torch.linalg.solve_triangular(factor, eye, upper=False)
        elif self.kind.name == "spherical":
            whitener = variance.mean().rsqrt().expand_as(variance)
        self.centre.copy_(mean)
        self.whitener.copy_(whitener)
        self.known.fill_(True)

    def rows(self, x: Tensor) -> Tensor:
        """Rows ``(n, D)`` of data as whitened columns ``(D, n)``."""
        centred = (x - self.centre).mT
        if self.kind.matrix and not self.missing:
            return self.whitener.to(x.dtype) @ centred
        return centred * self._diagonal()[:, None]

    def standardised(self, x: Tensor) -> Tensor:
        """Rows with mean 0 and standard deviation 1 by feature, ``(n, D)``; 0 for missing."""
        if self.kind.matrix:
            inverse = torch.linalg.inv(self.whitener.double())
            x = (x - self.centre) / inverse.norm(dim=1).to(x.dtype)
        else:
            x = (x - self.centre) * self.whitener
        return x.nan_to_num(0.0)

    def means_inside(self, loc: Tensor) -> Tensor:
        """Means ``(K, D)`` in these coordinates, float64."""
        whitener, loc = self.whitener.double(), loc.double() - self.centre.double()
        return loc @ whitener.mT if self.kind.matrix else loc * whitener

    def inside(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(K, D)`` and scales in these coordinates, float64."""
        scale = self.kind.linear_map(self.whitener.double(), scale.double())
        return self.means_inside(loc), scale

    def outside(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Reverse :meth:`inside`."""
        whitener = self.whitener.double()
        if self.kind.matrix:
            loc = torch.linalg.solve_triangular(whitener, loc.mT, upper=False).mT
        else:
            loc = loc / whitener
        scale = self.kind.linear_map(whitener, scale, inverse=True)
        return loc + self.centre.double(), scale

    def covariance_inside(self, covariance: Tensor) -> Tensor:
        """Covariance ``(D, D)``, or variances, in these coordinates, float64."""
        whitener, covariance = self.whitener.double(), covariance.double()
        if self.kind.matrix:
            return whitener @ covariance @ whitener.mT
        return covariance * whitener**2

    def log_stretch(self) -> Tensor:
        """Log diagonal of W ``(D,)``; its sum is what a log density gains on the way to x."""
        return self._diagonal().double().log()

    def _diagonal(self) -> Tensor:
        return self.whitener.diagonal() if self.kind.matrix else self.whitener


def moments(rows: Rows, matrix: bool) -> Moments:
    """Weighted mean and covariance (or variances) of the observed data, float64, in one pass.

    With missing values, means and variances are those of the observed values of each feature,
    and covariances are left at zero.
    """
    shift = total = first = second = None
    for x, *rest in rows.chunks(4096):
        x, seen = x.double(), (~x.isnan()).double()
        weight = seen * rest[0].double()[:, None] if rest else seen
        if shift is None:  # squares around a typical value do not cancel
            shift = (x.nan_to_num(0.0) * seen).sum(0) / seen.sum(0).clamp_min(1.0)
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
