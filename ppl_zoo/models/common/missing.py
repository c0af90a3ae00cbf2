"""Gaussian mixtures on rows with missing values: exact marginals and conditionals.

NaN means missing, and missing values are integrated out. A covariance whose rows and columns of
missing features are replaced by those of the identity has the Cholesky factor of the observed
block, and ones elsewhere; so one factorisation serves any pattern. E-step: Ghahramani & Jordan
(1994), Supervised learning from incomplete data via an EM approach, NeurIPS 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints

from ppl_zoo.models.mixtures.covariance import Kind

__all__ = ["MarginalNormal", "MissingScorer", "condition"]

LOG_2PI = math.log(2.0 * math.pi)


def marginal_factor(
    covariance: Float[Tensor, "*#batch d d"], observed: Bool[Tensor, "*#batch d"]
) -> Float[Tensor, "*batch d d"]:
    """Cholesky factor of the observed block, padded by the identity."""
    block = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    padding = (~observed).to(covariance.dtype).diag_embed()
    return torch.linalg.cholesky(torch.where(block, covariance, padding))


class MarginalNormal(dist.TorchDistribution):
    """Normal distribution whose density leaves out the features that are NaN.

    Parameters
    ----------
    loc
        Mean ``(..., d)``.
    scale
        Cholesky factor ``(..., d, d)``, or standard deviations ``(..., d)``.
    matrix
        Whether ``scale`` is a factor.
    """

    arg_constraints: dict = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(self, loc: Tensor, scale: Tensor, matrix: bool) -> None:
        self.loc, self.scale, self.matrix = loc, scale, matrix
        around = scale.shape[:-2] if matrix else scale.shape[:-1]
        batch = torch.broadcast_shapes(loc.shape[:-1], around)
        # NaN would fail torch's own check of values
        super().__init__(batch, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> MarginalNormal:
        """Return the same distribution with a larger batch shape."""
        scale = self.scale.shape[-2:] if self.matrix else self.scale.shape[-1:]
        return MarginalNormal(
            self.loc.expand(*batch_shape, *self.event_shape),
            self.scale.expand(*batch_shape, *scale),
            self.matrix,
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw whole rows."""
        if self.matrix:
            complete = dist.MultivariateNormal(self.loc, scale_tril=self.scale)
        else:
            complete = dist.Normal(self.loc, self.scale).to_event(1)
        return complete.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the observed features."""
        observed = ~value.isnan()
        filled = torch.where(observed, value, torch.zeros_like(value))
        difference = torch.where(observed, filled - self.loc, torch.zeros_like(self.loc))
        if not self.matrix:
            terms = (difference / self.scale) ** 2 + 2.0 * self.scale.log() + LOG_2PI
            return -0.5 * (terms * observed).sum(-1)
        factor = marginal_factor(self.scale @ self.scale.mT, observed)
        z = torch.linalg.solve_triangular(factor, difference.unsqueeze(-1), upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * ((z * z).sum(-1) + LOG_2PI * observed.sum(-1)) - log_det


class MissingScorer:
    """As ``Scorer``, for rows with NaN, in float64; rows of one pattern go together.

    Densities are those of x, where rows are x stretched by ``exp(log_stretch)`` ``(D,)``.
    """

    dtype = torch.float64

    def __init__(
        self,
        kind: Kind,
        log_weights: Tensor,
        means: Tensor,
        scale: Tensor,
        log_stretch: Tensor | None = None,
    ) -> None:
        self.log_stretch = torch.zeros_like(means[0]) if log_stretch is None else log_stretch
        self.kind, self.log_weights, self.means, self.scale = kind, log_weights, means, scale
        self.num_components, self.num_features = means.shape
        covariance = kind.covariances(scale)
        if kind.matrix:
            self.covariance = covariance.expand(self.num_components, -1, -1)
        else:
            self.variance = covariance.reshape(self.num_components, -1).expand_as(means)

    def chunk_size(self) -> int:
        """Rows in memory at once."""
        return max(16, 2**21 // (self.num_components * self.num_features))

    def zeros(self) -> dict[str, Tensor]:
        """Statistics of no rows."""
        new, k = self.means.new_zeros, self.num_components
        shape = (k, *self.covariance.shape[1:]) if self.kind.matrix else self.means.shape
        return {
            "log_likelihood": new(()),
            "num_rows": new(()),
            "counts": new(k),
            "sums": new(self.means.shape),
            "squares": new(shape),
        }

    def log_joint(self, y: Tensor) -> Tensor:
        """Log joint density ``(K, n)`` of rows ``(D, n)`` and assignments."""
        out = self.means.new_empty(self.num_components, y.shape[1])
        for rows, part, observed in self._patterns(y):
            out[:, rows] = self._score(part, observed)[0]
        return out

    def accumulate(self, y: Tensor, weight: Tensor | None, statistics: dict[str, Tensor]) -> None:
        """Add the expected statistics of rows ``(D, n)`` in place."""
        weight = y.new_ones(y.shape[1]) if weight is None else weight
        weight = weight.to(self.means.dtype)
        for rows, part, observed in self._patterns(y):
            joint, factor, z = self._score(part, observed)
            log_density = joint.logsumexp(0)
            r = (joint - log_density).exp() * weight[rows]
            statistics["log_likelihood"] += (log_density * weight[rows]).sum()
            statistics["num_rows"] += weight[rows].sum()
            statistics["counts"] += r.sum(1)
            filled, spread = self._complete(part, observed, r, factor, z)
            weighted = filled * r[:, None]
            statistics["sums"] += weighted.sum(-1)
            if self.kind.matrix:
                statistics["squares"] += weighted @ filled.mT + spread
            else:
                statistics["squares"] += (weighted * filled).sum(-1) + spread

    def finish(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring ``squares`` into the form that the M-step reads."""
        squares = statistics["squares"]
        if self.kind.name == "tied":
            squares = squares.sum(0)
        elif self.kind.name == "spherical":
            squares = squares.sum(-1)
        return statistics | {"squares": self.kind.pack(squares)}

    def _patterns(self, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, their values with 0 for NaN, and what is observed, ``(D, 1)`` or ``(D, n)``."""
        y = y.to(self.means.dtype)
        observed = ~y.isnan()
        y = torch.where(observed, y, torch.zeros_like(y))
        if not self.kind.matrix:
            yield torch.arange(y.shape[1], device=y.device), y, observed
            return
        patterns, index = observed.mT.unique(dim=0, return_inverse=True)
        for p, pattern in enumerate(patterns):
            rows = (index == p).nonzero()[:, 0]
            yield rows, y[:, rows], pattern[:, None]

    def _score(self, y: Tensor, observed: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        difference = torch.where(observed, y - self.means[:, :, None], self.means.new_zeros(()))
        if self.kind.matrix:
            factor = marginal_factor(self.covariance, observed[:, 0])
            z = torch.linalg.solve_triangular(factor, difference, upper=False)
            log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
        else:
            factor = None
            z = difference / self.variance.sqrt()[:, :, None]
            log_det = 0.5 * self.variance.log() @ observed.to(y.dtype)
        constant = 0.5 * LOG_2PI - self.log_stretch
        normaliser = constant @ observed.to(y.dtype) + log_det
        return self.log_weights[:, None] - 0.5 * (z * z).sum(1) - normaliser, factor, z

    def _complete(
        self, y: Tensor, observed: Tensor, r: Tensor, factor: Tensor | None, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean of the rows given what is observed ``(K, D, n)``, and their summed covariance."""
        means = self.means[:, :, None]
        if factor is None:
            filled = torch.where(observed, y, means)
            return filled, self.variance * (r @ (~observed).to(r.dtype).mT)
        across = torch.where(observed, self.covariance, self.covariance.new_zeros(()))
        across = torch.linalg.solve_triangular(factor, across, upper=False)
        filled = torch.where(observed, y, means + across.mT @ z)
        hidden = ~(observed | observed.mT)
        spread = torch.where(hidden, self.covariance - across.mT @ across, 0.0)
        return filled, spread * r.sum(1)[:, None, None]


def condition(
    drawn: Float[Tensor, "n d"], given: Float[Tensor, "n d"], covariance: Float[Tensor, "n d d"]
) -> Float[Tensor, "n d"]:
    """Turn draws of a normal into draws given the features that are not NaN.

    ``x_u + S_uo S_oo^-1 (given_o - x_o)`` has the conditional distribution (Matheron's rule;
    Doucet 2010), so that no conditional covariance has to be factorised.

    Parameters
    ----------
    drawn
        Draws from the joint distribution of each row.
    given
        Values to be held, NaN where free.
    covariance
        Covariance of each row.

    Returns
    -------
    Tensor
        ``(n, d)``.
    """
    observed = ~given.isnan()
    residual = torch.where(observed, given - drawn, torch.zeros_like(drawn))
    factor = marginal_factor(covariance, observed)
    gain = torch.cholesky_solve(residual.unsqueeze(-1), factor)
    shift = (covariance @ torch.where(observed.unsqueeze(-1), gain, 0.0)).squeeze(-1)
    return torch.where(observed, given, drawn + shift)
