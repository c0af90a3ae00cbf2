"""A mixture of Gaussians over patches in cosine coordinates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.imaging.patches import cosine_basis
from ppl_zoo.models.images.noisy_mixture import NoisyMixture

__all__ = ["PatchMixture"]

#: noise levels whose constants are kept, some 10 MB each; restoration passes through ten
KEPT = 24


class PatchMixture:
    """A mixture over square patches in orthonormal cosine coordinates.

    Parameters
    ----------
    weights, means, covariances
        ``(K,)``, ``(K, D)``, ``(K, D, D)``. D is ``size^2`` for patches as they are, or
        ``size^2 - 1`` where the mean of a patch is left free: it is then taken off before and
        put back after, as for a prior of texture alone.

    Attributes
    ----------
    size
        Rows and columns of a patch.
    free_mean
        Whether the mean of a patch is free.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        num_features = means.shape[1]
        self.size = math.isqrt(num_features + 1)
        self.free_mean = self.size**2 == num_features + 1
        if not self.free_mean:
            self.size = math.isqrt(num_features)
        if self.size**2 - self.free_mean != num_features or self.size < 2:
            raise DataError(
                f"prior: got {num_features} features, expected size^2 (the pixels of a patch) or "
                "size^2 - 1 (its cosine coefficients without the mean)"
            )
        self.weights, self.means = weights.double(), means.double()
        weights, means, covariances = self.weights, self.means, covariances.double()
        self.covariances = covariances
        self.centred = not bool(means.any())
        variance = (weights[:, None] * (covariances.diagonal(dim1=1, dim2=2) + means**2)).sum(0)
        #: coefficients by falling variance
        self.order = variance.argsort(descending=True)
        self._eigen: tuple[Tensor, Tensor] | None = None
        self._noisy: dict[tuple, NoisyMixture] = {}

    @classmethod
    def of(cls, prior: Any) -> PatchMixture:
        """Read a ``zoo.GaussianMixture`` (any kind of covariance) as a mixture over patches.

        A mixture of ``size^2`` features is one of pixels, row by row; one of ``size^2 - 1`` is
        one of cosine coefficients without the first (see
        :func:`ppl_zoo.imaging.cosine_basis`).

        Raises
        ------
        DataError
            If it is something else, or its size is not that of a patch.
        """
        if isinstance(prior, PatchMixture):
            return prior
        if not all(hasattr(prior, name) for name in ("weights", "means", "covariances", "kind")):
            raise DataError(
                f"prior: got {type(prior).__name__}, expected a zoo.GaussianMixture over patches "
                "or the name of a pretrained one"
            )
        weights, means, covariances = (
            t.double() for t in (prior.weights, prior.means, prior.covariances)
        )
        count, num_features = means.shape
        if prior.kind.name == "diagonal":
            covariances = torch.diag_embed(covariances)
        elif prior.kind.name == "spherical":
            eye = torch.eye(num_features, dtype=means.dtype, device=means.device)
            covariances = covariances[:, None, None] * eye
        covariances = covariances.expand(count, num_features, num_features)
        size = math.isqrt(num_features)
        if size**2 == num_features:
            basis = cosine_basis(size, dtype=means.dtype, device=means.device)
            means, covariances = means @ basis.mT, basis @ covariances @ basis.mT
        return cls(weights, means, covariances)

    def to(self, device: torch.device) -> PatchMixture:
        """Return the mixture on a device: itself where it is there."""
        if self.means.device == device:
            return self
        parts = (self.weights, self.means, self.covariances)
        return PatchMixture(*(t.to(device) for t in parts))

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(K, D)`` and eigenvectors ``(K, D, D)``, found once."""
        if self._eigen is None:
            values, vectors = torch.linalg.eigh(self.covariances)
            self._eigen = values.clamp_min(0.0), vectors
        return self._eigen

    def under_noise(
        self, variance: float, block: int | None = None, dtype: torch.dtype = torch.float32
    ) -> NoisyMixture:
        """Return the constants for one noise level, from the last ones used where they are.

        Parameters
        ----------
        variance
            Of the noise of a pixel.
        block
            Coefficients whose products the score keeps; None for all.
        dtype
            Of the patches to come.
        """
        key = (float(variance), block, dtype)
        if key not in self._noisy:
            while len(self._noisy) >= KEPT:
                self._noisy.pop(next(iter(self._noisy)))
            self._noisy[key] = NoisyMixture(self, float(variance), block, dtype)
        return self._noisy[key]
