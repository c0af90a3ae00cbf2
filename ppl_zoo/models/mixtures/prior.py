"""Conjugate prior of a Gaussian mixture, and the M-step: the mode of the posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ppl_zoo.models.mixtures.covariance import CovarianceType
from ppl_zoo.models.mixtures.whitening import Whitening

__all__ = ["ConjugateMixturePrior", "posterior_mode"]

#: components of fewer rows keep their mean: their sums are rounding only
MIN_ROWS = 1e-10
#: smallest unnormalised weight of a component
MIN_WEIGHT = 1e-30
#: covariance_strength up to which the prior only keeps covariances valid
NEGLIGIBLE_STRENGTH = 1e-6


def posterior_mode(
    covariance_type: CovarianceType,
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
    covariance_type
        Of the mixture.
    statistics
        "counts" ``(K,)``, "sums" ``(K, D)``, "squares" as the type has them.
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
    weights = (counts + (concentration - 1.0)).clamp_min(MIN_WEIGHT)
    log_weights = (weights / weights.sum()).log()
    alive = (counts + mean_strength > MIN_ROWS)[:, None]
    divisor = torch.where(alive, (counts + mean_strength)[:, None], 1.0)
    means = torch.where(alive, (sums + mean_strength * mean) / divisor, means)

    def scales(counts: Tensor, sums: Tensor, squares: Tensor, means: Tensor) -> Tensor:
        rows = covariance_type.effective_count(counts, strength, num_features)
        off = means - mean
        pull = covariance_type.cross_terms(
            mean_strength * torch.ones_like(counts), mean_strength * off, off
        )
        scatter = (
            covariance_type.unpack(squares, num_features)
            - covariance_type.cross_terms(counts, sums, means)
            + pull
        )
        return covariance_type.factor(
            scatter / rows, strength * covariance_type.prior_scatter(covariance) / rows
        )

    squares = statistics["squares"]
    if covariance_type.name == "tied":
        return log_weights, means, scales(counts, sums, squares, means)
    # a few components at a time, since each makes several matrices
    blocks = zip(*(t.split(8) for t in (counts, sums, squares, means)), strict=True)
    scale = torch.cat([scales(*block) for block in blocks])
    return log_weights, means, scale


class ConjugateMixturePrior(nn.Module):
    """Dirichlet prior of the weights, normal-inverse-Wishart of means and covariances.

    The formula stands in ``GaussianMixture``.

    Parameters
    ----------
    covariance_type, num_features
        Of the mixture.
    concentration
        Of the symmetric Dirichlet.
    mean, mean_strength
        Prior mean ``(D,)``, None to take that of the data, and the number of rows for which it
        stands.
    covariance, covariance_strength
        Prior covariance ``(D, D)`` or its diagonal ``(D,)``, None to take the variances of the
        data, and the number of rows for which it stands.

    Attributes
    ----------
    mean, covariance
        Buffers in units of x, and its square.
    given
        Whether each of the two was given.
    """

    def __init__(
        self,
        covariance_type: CovarianceType,
        num_features: int,
        concentration: float,
        mean: Any,
        mean_strength: float,
        covariance: Any,
        covariance_strength: float,
    ) -> None:
        super().__init__()
        self.covariance_type, self.num_features = covariance_type, num_features
        self.concentration, self.mean_strength = concentration, mean_strength
        self.strength = covariance_strength
        self.given = (mean is not None, covariance is not None)
        self.register_buffer("mean", torch.zeros(num_features))
        default = torch.eye(num_features) if covariance_type.matrix else torch.ones(num_features)
        self.register_buffer("covariance", default)
        self.mean: Tensor
        self.covariance: Tensor
        if mean is not None:
            self.mean.copy_(torch.as_tensor(mean))
        if covariance is not None:
            covariance = torch.as_tensor(covariance)
            if covariance_type.matrix and covariance.ndim < 2:
                covariance = covariance.expand(num_features).diag()
            self.covariance.copy_(covariance)

    @property
    def is_negligible(self) -> bool:
        """Whether it only keeps covariances valid, so that a fit is of maximum likelihood."""
        return (
            self.concentration == 1.0
            and self.mean_strength == 0.0
            and self.strength <= NEGLIGIBLE_STRENGTH
        )

    def set_default(self, mean: Tensor, variance: Tensor) -> None:
        """Take what was not given from the data: their mean and variances ``(D,)``."""
        if not self.given[0]:
            self.mean.copy_(mean)
        if not self.given[1]:
            self.covariance.copy_(variance.diag() if self.covariance_type.matrix else variance)

    def log_density(self, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Log density but for a constant, ``()``, in float64."""
        covariance_type, off = self.covariance_type, loc.double() - self.mean.double()
        scale, covariance = scale.double(), self.covariance.double()
        log_weights = logits.double().log_softmax(-1)
        value = (self.concentration - 1.0) * log_weights.sum(-1)
        log_det = 2.0 * covariance_type.log_det(scale, self.num_features)
        spread = log_det + covariance_type.trace(covariance, scale)
        value = value - 0.5 * self.strength * spread.sum()
        return value - 0.5 * self.mean_strength * covariance_type.whitened(
            off, scale
        ).square().sum((-1, -2))

    def _whitened(self, whitening: Whitening) -> tuple[Tensor, Tensor]:
        mean = whitening.whiten_means(self.mean[None])[0]
        return mean, whitening.whiten_covariance(self.covariance)

    def maximize(
        self, statistics: Mapping[str, Tensor], means: Tensor, whitening: Whitening
    ) -> tuple[Tensor, Tensor, Tensor]:
        """M-step in whitened coordinates, as the statistics are; see :func:`posterior_mode`."""
        mean, covariance = self._whitened(whitening)
        return posterior_mode(
            self.covariance_type,
            statistics,
            means,
            covariance,
            self.strength,
            self.concentration,
            mean,
            self.mean_strength,
        )

    def statistics_at_mode(
        self,
        num_rows: Tensor,
        logits: Tensor,
        means: Tensor,
        scale: Tensor,
        whitening: Whitening,
    ) -> dict[str, Tensor]:
        """Inverse of :meth:`maximize`: statistics of which the parameters are the mode."""
        covariance_type, (mean, covariance) = self.covariance_type, self._whitened(whitening)
        extra = self.concentration - 1.0
        weights = logits.double().softmax(0)
        counts = (weights * (num_rows + len(weights) * extra) - extra).clamp_min(0.0)
        sums = means * (counts + self.mean_strength)[:, None] - self.mean_strength * mean
        one, off = self.mean_strength * torch.ones_like(counts), means - mean
        rows = covariance_type.effective_count(counts, self.strength, self.num_features)
        scatter = covariance_type.covariances(
            scale
        ) * rows - self.strength * covariance_type.prior_scatter(covariance)
        scatter = scatter + covariance_type.cross_terms(counts, sums, means)
        scatter = scatter - covariance_type.cross_terms(one, one[:, None] * off, off)
        return {"counts": counts, "sums": sums, "squares": covariance_type.pack(scatter)}
