"""Normal distributions with missing values: exact marginals and conditionals.

NaN means missing, and missing values are integrated out. A covariance whose rows and columns of
missing features are replaced by those of the identity has the Cholesky factor of the observed
block, and ones elsewhere; so one factorisation serves any pattern.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints

from ppl_zoo.models.common.conjugate import LOG_2PI

__all__ = ["MarginalNormal", "condition", "marginal_factor"]


class MarginalNormal(dist.TorchDistribution):
    """Normal distribution of the observed features, those that are not NaN.

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

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> MarginalNormal:
        """Return the same distribution with a larger batch shape."""
        scale = self.scale.shape[-2:] if self.matrix else self.scale.shape[-1:]
        return MarginalNormal(
            self.loc.expand(*batch_shape, *self.event_shape),
            self.scale.expand(*batch_shape, *scale),
            self.matrix,
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
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


def condition(
    drawn: Float[Tensor, "n d"], given: Float[Tensor, "n d"], covariance: Float[Tensor, "n d d"]
) -> Float[Tensor, "n d"]:
    """Condition draws of a normal on the features that are not NaN.

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


def marginal_factor(
    covariance: Float[Tensor, "*#batch d d"], observed: Bool[Tensor, "*#batch d"]
) -> Float[Tensor, "*batch d d"]:
    """Cholesky factor of the covariance of the observed features, padded by the identity."""
    block = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    padding = (~observed).to(covariance.dtype).diag_embed()
    return torch.linalg.cholesky(torch.where(block, covariance, padding))
