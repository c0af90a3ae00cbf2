"""Probabilistic PCA: factor analysis with one noise for all features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.latent.factor_analysis import FactorAnalysis
from ppl_zoo.models.latent.factor_posterior import principal_factors

__all__ = ["PrincipalComponents", "ProbabilisticPCA"]


class PrincipalComponents(NamedTuple):
    """Maximum-likelihood parameters, in float64."""

    mean: Float[Tensor, " d"]
    loadings: Float[Tensor, "d k"]
    noise: Float[Tensor, ""]


class ProbabilisticPCA(FactorAnalysis):
    """Probabilistic principal component analysis.

    Generative model, for each row n::

        factors[n] ~ Normal(0, I)                                  (K,)
        x[n]       ~ Normal(mean + loadings factors[n], noise I)   (D,)

    The maximum-likelihood loadings are the K first principal axes, scaled by the sd along each
    beyond the noise; the noise is the mean variance of the other directions. Without missing
    values a fit starts there (``init="principal"``); EM converges to it from any start.

    Parameters
    ----------
    num_features, num_factors
        D and K < D.
    missing
        Whether NaN in x means "not observed"; such values are integrated out exactly.
    init
        "principal" (the maximum, in closed form) or "random".
    steps_per_pass
        Iterations of EM for each pass over the data, where nothing is missing.

    Attributes
    ----------
    mean, loadings, noise
        ``(D,)``, ``(D, K)`` and the variance, ``(D,)`` times the same. In units of x, and its
        square.

    References
    ----------
    Tipping & Bishop (1999), Probabilistic principal component analysis, JRSS B 61,
    https://doi.org/10.1111/1467-9868.00196.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(500, 1) * torch.tensor([3.0, 4.0]) + 0.1 * torch.randn(500, 2)
    >>> model = zoo.ProbabilisticPCA(num_features=2, num_factors=1)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> round((model.loadings[1] / model.loadings[0]).item(), 1)
    1.3
    """

    num_noises = 1

    def __init__(
        self,
        num_features: int,
        num_factors: int,
        missing: bool = False,
        init: str = "principal",
        steps_per_pass: int = 100,
    ) -> None:
        if not 1 <= num_factors < num_features:
            raise ValueError(f"num_factors: got {num_factors}, expected 1 to {num_features - 1}")
        super().__init__(num_features, num_factors, missing, init, steps_per_pass)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start at the maximum, or at random."""
        super().initialize(rows)
        self.least_noise.fill_(self.least_noise.mean())  # the noise is one for all features
        if self.init == "principal" and not self.allow_missing:
            mean, loadings, noise = self._maximum(rows)
            self.loc.copy_(mean)
            self.weight.copy_(loadings)
            self.log_noise.copy_(noise.log())

    @torch.no_grad()
    def closed_form(self, x: Array) -> PrincipalComponents:
        """Maximum-likelihood parameters, in float64.

        Raises
        ------
        DataError
            If values are missing: there is no closed form then.
        """
        rows = self.checked_rows(x)
        if any(chunk.isnan().any() for (chunk, *_) in rows.chunks(4096)):
            raise DataError("x: got missing values, expected none; fit with zoo.EM()")
        return self._maximum(rows)

    def _maximum(self, rows: Rows) -> PrincipalComponents:
        mean, covariance = moments(rows, matrix=True)
        return PrincipalComponents(mean, *principal_factors(covariance, self.num_factors))

    def _noise(self, residual: Tensor, counts: Tensor) -> Tensor:
        """Pool the noise over the features, each by the number of its values."""
        noise = residual.sum(0, keepdim=True) / counts.sum()
        return torch.maximum(noise, self.least_noise[0].to(residual))
