"""Coefficients (weights..., intercept) of a Bayesian regression with a normal posterior."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["design_matrix", "sample_coefficients"]


def design_matrix(x: Tensor) -> Tensor:
    """Features with a column of ones last, ``(n, D + 1)``, float64."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1).double()


def sample_coefficients(loc: Tensor, factor: Tensor, sd: Tensor) -> None:
    """Sample "weights" and, given these, "intercept" from their joint normal distribution.

    Parameters
    ----------
    loc
        Means ``(D + 1,)``.
    factor
        Cholesky factor of the covariance ``(D + 1, D + 1)`` for sd = 1.
    sd
        Scale of all coefficients, ``(...)``.
    """
    inner = factor[:-1, :-1]
    q = dist.MultivariateNormal(loc[:-1], scale_tril=inner * sd[..., None, None])
    weights = pyro.sample("weights", q)
    across = torch.linalg.solve_triangular(inner.mT, factor[-1, :-1, None], upper=True)[:, 0]
    centre = loc[-1] + ((weights - loc[:-1]) * across).sum(-1)
    pyro.sample("intercept", dist.Normal(centre, factor[-1, -1] * sd))
