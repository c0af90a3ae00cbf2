"""Whitening of the data of a Gaussian mixture: centred and decorrelated once, before EM."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from ppl_zoo.models.mixtures.covariance import CovarianceType

__all__ = ["Whitening"]


class Whitening(nn.Module):
    """Whitening ``y = W (x - c)``: W lower triangular for matrices, else one number a feature.

    Single precision is enough for the E-step only if features have like scales and little
    correlation. Rows with missing values can only be scaled, so W is diagonal for them.

    Attributes
    ----------
    centre, whitener
        c ``(D,)``; W ``(D, D)``, or its diagonal ``(D,)``.
    known
        Whether they have been taken from data; c = 0 and W = 1 before.
    """

    def __init__(self, covariance_type: CovarianceType, num_features: int, missing: bool) -> None:
        super().__init__()
        self.covariance_type, self.missing = covariance_type, missing
        self.matrix = covariance_type.matrix
        whitener = torch.eye(num_features) if self.matrix else torch.ones(num_features)
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("whitener", whitener)
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))
        self.centre: Tensor
        self.whitener: Tensor
        self.known: Bool[Tensor, ""]

    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Centre on a mean ``(D,)`` and whiten by a covariance ``(D, D)``, or variances."""
        variance = covariance.diagonal() if self.matrix else covariance
        whitener = variance.rsqrt()
        if self.matrix and self.missing:
            whitener = whitener.diag()
        elif self.matrix:  # nearly collinear features must not blow up
            factor = self.covariance_type.factor(covariance, 1e-6 * variance.diag())
            eye = torch.eye(len(mean), dtype=factor.dtype, device=factor.device)
            whitener = torch.linalg.solve_triangular(factor, eye, upper=False)
        elif self.covariance_type.name == "spherical":
            whitener = variance.mean().rsqrt().expand_as(variance)
        self.centre.copy_(mean)
        self.whitener.copy_(whitener)
        self.known.fill_(True)

    def whiten(self, x: Tensor) -> Tensor:
        """Whitened columns ``(D, n)`` of rows ``(n, D)``."""
        centred = (x - self.centre).mT
        if self.matrix and not self.missing:
            return self.whitener.to(x.dtype) @ centred
        return centred * self._diagonal()[:, None]

    def standardise(self, x: Tensor) -> Tensor:
        """Rows with mean 0 and standard deviation 1 by feature, ``(n, D)``; 0 for missing."""
        if self.matrix:
            inverse = torch.linalg.inv(self.whitener.double())
            x = (x - self.centre) / inverse.norm(dim=1).to(x.dtype)
        else:
            x = (x - self.centre) * self.whitener
        return x.nan_to_num(0.0)

    def whiten_means(self, loc: Tensor) -> Tensor:
        """Whitened means ``(K, D)``, float64."""
        whitener, loc = self.whitener.double(), loc.double() - self.centre.double()
        return loc @ whitener.mT if self.matrix else loc * whitener

    def whiten_parameters(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened means ``(K, D)`` and scales, float64."""
        scale = self.covariance_type.linear_map(self.whitener.double(), scale.double())
        return self.whiten_means(loc), scale

    def unwhiten_parameters(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`whiten_parameters`."""
        whitener = self.whitener.double()
        if self.matrix:
            loc = torch.linalg.solve_triangular(whitener, loc.mT, upper=False).mT
        else:
            loc = loc / whitener
        scale = self.covariance_type.linear_map(whitener, scale, inverse=True)
        return loc + self.centre.double(), scale

    def whiten_covariance(self, covariance: Tensor) -> Tensor:
        """Whitened covariance ``(D, D)``, or variances ``(D,)``, float64."""
        whitener, covariance = self.whitener.double(), covariance.double()
        if self.matrix:
            return whitener @ covariance @ whitener.mT
        return covariance * whitener**2

    def log_jacobian(self) -> Tensor:
        """Log diagonal of W ``(D,)``; its sum log|W| takes log densities of y to those of x."""
        return self._diagonal().double().log()

    def _diagonal(self) -> Tensor:
        return self.whitener.diagonal() if self.matrix else self.whitener
