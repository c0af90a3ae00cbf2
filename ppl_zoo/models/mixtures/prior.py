"""The conjugate prior of a Gaussian mixture, and the M-step that is its mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppl_zoo.models.mixtures.covariance import Kind
from ppl_zoo.models.mixtures.whitening import Whitening

__all__ = ["Prior", "posterior_mode"]

#: components of fewer rows than this keep their mean: the sums are rounding only
EMPTY = 1e-10
TINY = 1e-30
#: covariance_strength at which the prior only keeps covariances valid
NEGLIGIBLE = 1e-6


def posterior_mode(
    kind: Kind,
    statistics: Mapping[str, Tensor],
    means: Tensor,
    covariance: Tensor,
    strength: float,
    concentration: float = 1.0,
    mean: Tensor | float = 0.0,
    mean_strength: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mode of the parameters given expected statistics, all in the same coordinates, float64.

    Parameters
    ----------
    kind
        Kind of covariance.
    statistics
        "counts" ``(K,)``, "sums" ``(K, D)``, "squares" as the kind has them.
    means
        Means ``(K, D)`` that components without rows keep.
    covariance, strength
        Prior covariance, and the number of rows for which it stands.
    concentration
        Dirichlet parameter of the weights.
    mean, mean_strength
        Prior mean ``(D,)``, and the number of rows for which it stands.

    Returns
    -------
    tuple
        Log weights ``(K,)``, means ``(K, D)`` and scales.
    """
    counts, sums = statistics["counts"], statistics["sums"]
    num_features = sums.shape[1]
    weights = (counts + (concentration - 1.0)).clamp_min(TINY)
    log_weights = (weights / weights.sum()).log()
    alive = (counts + mean_strength > EMPTY)[:, None]
    divisor = torch.where(alive, (counts + mean_strength)[:, None], 1.0)
    means = torch.where(alive, (sums + mean_strength * mean) / divisor, means)

    def scales(counts: Tensor, sums: Tensor, squares: Tensor, means: Tensor) -> Tensor:
        rows = kind.strength(counts, strength, num_features)
        off = means - mean
        pull = kind.cross(mean_strength * torch.ones_like(counts), mean_strength * off, off)
        scatter = kind.unpack(squares, num_features) - kind.cross(counts, sums, means) + pull
        return kind.factor(scatter / rows, strength * kind.prior(covariance) / rows)

    squares = statistics["squares"]
    if kind.name == "tied":
        return log_weights, means, scales(counts, sums, squares, means)
    # a few components at a time, since each makes several matrices
    blocks = zip(*(t.split(8) for t in (counts, sums, squares, means)), strict=True)
    scale = torch.cat([scales(*block) for block in blocks])
    return log_weights, means, scale


class Prior(nn.Module):
    """Dirichlet on the weights, normal-inverse-Wishart on means and covariances.

    The formula stands in ``GaussianMixture``; ``mean`` and ``covariance`` are buffers in units
    of the data, taken from the data where they were not given.
    """

    def __init__(
        self,
        kind: Kind,
        num_features: int,
        concentration: float,
        mean: Any,
        mean_strength: float,
        covariance: Any,
        covariance_strength: float,
    ) -> None:
        super().__init__()
        self.kind, self.num_features = kind, num_features
        self.concentration, self.mean_strength = concentration, mean_strength
        self.strength = covariance_strength
        self.given = (mean is not None, covariance is not None)
        self.register_buffer("mean", torch.zeros(num_features))
        default = torch.eye(num_features) if kind.matrix else torch.ones(num_features)
        self.register_buffer("covariance", default)
        self.mean: Tensor
        self.covariance: Tensor
        if mean is not None:
            self.mean.copy_(torch.as_tensor(mean))
        if covariance is not None:
            covariance = torch.as_tensor(covariance)
            if kind.matrix and covariance.ndim < 2:
                covariance = covariance.expand(num_features).diag()
            self.covariance.copy_(covariance)

    @property
    def is_negligible(self) -> bool:
        """Whether the prior only keeps covariances valid, so that the fit is one of likelihood."""
        return (
            self.concentration == 1.0 and self.mean_strength == 0.0 and self.strength <= NEGLIGIBLE
        )

    def set_default(self, mean: Tensor, variance: Tensor) -> None:
        """Take what was not given from the data: their mean and variances ``(D,)``."""
        if not self.given[0]:
            self.mean.copy_(mean)
        if not self.given[1]:
            self.covariance.copy_(variance.diag() if self.kind.matrix else variance)

    def log_density(self, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Log density but for a constant, ``()``, in float64."""
        kind, off = self.kind, loc.double() - self.mean.double()
        scale, covariance = scale.double(), self.covariance.double()
        log_weights = logits.double().log_softmax(-1)
        value = (self.concentration - 1.0) * log_weights.sum(-1)
        log_det = 2.0 * kind.log_det(scale, self.num_features)
        spread = log_det + kind.trace(covariance, scale)
        value = value - 0.5 * self.strength * spread.sum()
        return value - 0.5 * self.mean_strength * kind.whitened(off, scale).square().sum((-1, -2))

    def _inside(self, coordinates: Whitening) -> tuple[Tensor, Tensor]:
        mean = coordinates.means_inside(self.mean[None])[0]
        return mean, coordinates.covariance_inside(self.covariance)

    def maximize(
        self, statistics: Mapping[str, Tensor], means: Tensor, coordinates: Whitening
    ) -> tuple[Tensor, Tensor, Tensor]:
        """M-step in the coordinates of the statistics; see :func:`posterior_mode`."""
        mean, covariance = self._inside(coordinates)
        return posterior_mode(
            self.kind,
            statistics,
            means,
            covariance,
            self.strength,
            self.concentration,
            mean,
            self.mean_strength,
        )

    def statistics(
        self,
        num_rows: Tensor,
        logits: Tensor,
        means: Tensor,
        scale: Tensor,
        coordinates: Whitening,
    ) -> dict[str, Tensor]:
        """Reverse :meth:`maximize`: statistics of which the parameters are the mode."""
        kind, (mean, covariance) = self.kind, self._inside(coordinates)
        extra = self.concentration - 1.0
        weights = logits.double().softmax(0)
        counts = (weights * (num_rows + len(weights) * extra) - extra).clamp_min(0.0)
        sums = means * (counts + self.mean_strength)[:, None] - self.mean_strength * mean
        one, off = self.mean_strength * torch.ones_like(counts), means - mean
        rows = kind.strength(counts, self.strength, self.num_features)
        scatter = kind.covariances(scale) * rows - self.strength * kind.prior(covariance)
        scatter = scatter + kind.cross(counts, sums, means)
        scatter = scatter - kind.cross(one, one[:, None] * off, off)
        return {"counts": counts, "sums": sums, "squares": kind.pack(scatter)}
