"""Coefficients (weights..., intercept) of a Bayesian regression, and the units of its data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.units import Units

__all__ = ["RegressionUnits", "default_noise_rate", "design_matrix", "sample_coefficients"]


class RegressionUnits(nn.Module):
    """Units of the features and of a real response.

    Parameters
    ----------
    num_features
        D.

    Attributes
    ----------
    x, y
        Units of a row of features ``(D,)`` and of a response ``()``.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.x, self.y = Units([num_features]), Units([])

    def read(self, rows: Rows) -> None:
        """Take mean and sd of x, and of y where there is one that is real."""
        self.x.read(chunk[0] for chunk in rows.chunks(4096))
        if len(rows.arrays) > 1:
            self.y.read(chunk[1] for chunk in rows.chunks(4096))

    def coefficient_map(self) -> Tensor:
        """Map M ``(D + 1, D + 1)``, lower triangular, of coefficients in units of the data.

        They are ``(0, ..., 0, mean of y) + sd of y * M @ standardised ones``, float64.
        """
        centre, spread = self.x.centre.double(), self.x.spread.double()
        out = torch.cat([spread, torch.ones_like(spread[:1])]).reciprocal().diag()
        out[-1, :-1] = -centre / spread
        return out

    def coefficients(self, standardised: Tensor) -> Tensor:
        """Coefficients ``(D + 1,)`` in units of the data, float64."""
        out = self.y.spread.double() * (self.coefficient_map() @ standardised.double())
        out[-1] += self.y.centre
        return out


def default_noise_rate(standardize: bool) -> float:
    """Rate of the prior of the noise: 1, or next to nothing in units of the variance of y.

    There 1 would say that the features explain about half of the variance.
    """
    return 1e-3 if standardize else 1.0


def design_matrix(x: Tensor) -> Tensor:
    """Features with a column of ones last, ``(n, D + 1)``, float64."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1).double()


def sample_regression(
    units: RegressionUnits | None, x: Tensor, scale: Tensor, level_scale: Tensor
) -> Tensor:
    """Sample "weights" and "intercept" from their prior, and return the regression function.

    Parameters
    ----------
    units
        Of the prior; None for those of the data, and a prior of the intercept itself.
    x
        Features ``(n, D)``.
    scale, level_scale
        Prior sds of the weights ``(..., D)`` and of the level ``(...)``, a standardised x and
        units of y.

    Returns
    -------
    Tensor
        ``(..., n)``.
    """
    if units is not None:
        scale = scale / units.x.spread
    weights = pyro.sample("weights", dist.Normal(0.0, scale).to_event(1))
    if units is None:
        intercept = pyro.sample("intercept", dist.Normal(0.0, level_scale))
        return intercept + (x * weights).sum(-1)  # broadcasts on the left: draws keep apart
    across = (weights * units.x.centre).sum(-1)
    intercept = pyro.sample("intercept", dist.Normal(units.y.centre - across, level_scale))
    return (intercept + across) + ((x - units.x.centre) * weights).sum(-1)


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
