"""Bayesian linear regression with a conjugate prior: the smallest model, and the one to copy."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.regression.coefficients import (
    RegressionUnits,
    default_noise_rate,
    design_matrix,
    sample_regression,
)

__all__ = ["LinearRegression", "NormalInverseGamma"]


class NormalInverseGamma(NamedTuple):
    """Posterior of (coefficients, variance): Normal(mean, variance * scale), InverseGamma."""

    mean: Float[Tensor, " coefficients"]
    scale: Float[Tensor, "coefficients coefficients"]
    shape: Float[Tensor, ""]
    rate: Float[Tensor, ""]


class LinearRegression(Model):
    """Linear regression with a conjugate prior.

    Generative model::

        variance   ~ InverseGamma(noise_shape, noise_rate)
        weights    ~ Normal(0, prior_scale * sqrt(variance))    for each feature
        level      ~ Normal(0, prior_scale * sqrt(variance))
        y          ~ Normal(level + x . weights, sqrt(variance))       for each observation

    The priors are written for x and y in units of the mean and sd of the data, so that neither
    an offset (years count from 2,000) nor a unit changes the answer. What is drawn is in units
    of the data: ``variance``, ``weights``, and ``intercept``, the height of the line at x = 0.

    Parameters
    ----------
    num_features
        Number of columns of x.
    prior_scale
        Prior sd of the coefficients, in units of the noise's sd.
    noise_shape, noise_rate
        Prior of the noise's variance, in units of the variance of y.
    standardize
        False to take x and y as they are: priors of ``weights`` and ``intercept`` itself, and of
        the variance, in units of the data.

    References
    ----------
    Bishop 2006, Pattern Recognition and Machine Learning, section 3.3 and exercise 3.12.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> model = zoo.LinearRegression(num_features=1)
    >>> exact = model.closed_form(x, 2.0 + 3.0 * x[:, 0])
    >>> [round(v, 2) for v in exact.mean.tolist()]
    [2.0, 3.0]
    """

    integers_are_numbers = True
    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}
    default_solver = ("SVI", {"guide": "multivariate-normal"})
    event_dims = {"weights": ("feature",)}
    legacy_arguments = {"standardize": False}

    def __init__(
        self,
        num_features: int,
        prior_scale: float = 100.0,
        noise_shape: float = 1.0,
        noise_rate: float | None = None,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        if noise_rate is None:
            noise_rate = default_noise_rate(standardize)
        self.units = RegressionUnits(num_features) if standardize else None
        self.num_features = num_features
        self.register_buffer("prior_scale", torch.tensor(float(prior_scale)))
        self.register_buffer("noise_shape", torch.tensor(float(noise_shape)))
        self.register_buffer("noise_rate", torch.tensor(float(noise_rate)))

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Draw the coefficients, then y; ``x (n, num_features)``, ``y (n,)``."""
        units = self.units
        rate = self.noise_rate if units is None else self.noise_rate * units.y.spread**2
        variance = pyro.sample("variance", dist.InverseGamma(self.noise_shape, rate))
        sd = variance.sqrt()
        level_scale = self.prior_scale * sd
        scale = level_scale[..., None].expand(*sd.shape, self.num_features)
        if units is not None:
            loc = sample_regression(units, x, scale, level_scale)
        else:  # in the order of runs saved before there were units
            intercept = pyro.sample("intercept", dist.Normal(0.0, level_scale))
            weights = pyro.sample("weights", dist.Normal(0.0, scale).to_event(1))
            loc = intercept + (x * weights).sum(-1)  # broadcasts on the left: draws keep apart
        with self.observations("observations", x):
            return pyro.sample("y", dist.Normal(loc, sd), obs=y)

    def check_data(self, rows: Rows) -> None:
        """Refuse x and y of other shapes than ``(n, num_features)`` and ``(n,)``."""
        validation.check_features(rows, self.num_features, second="y")
        super().check_data(rows)

    def read_units(self, rows: Rows) -> None:
        """Take the units of the priors from the data."""
        if self.units is not None:
            self.units.read(rows)

    def initialize(self, rows: Rows) -> None:
        """Take the units of the priors from the data; the guide chooses the start."""
        self.read_units(rows)

    @torch.no_grad()
    def closed_form(self, x: Array, y: Array) -> NormalInverseGamma:
        """Exact posterior given these data, in float64.

        Returns
        -------
        NormalInverseGamma
            Coefficients are (intercept, weights...).
        """
        rows = Rows((x, y), self.device, torch.float64)
        self.check_data(rows)
        x, y = (t.double() for t in rows.all())
        if self.units is not None:
            units = RegressionUnits(self.num_features).to(x)
            units.read(rows)
            x, y = units.x.standardise(x), units.y.standardise(y)
        design = design_matrix(x)
        prior = torch.eye(design.shape[1], dtype=x.dtype, device=x.device)
        precision = design.T @ design + prior / self.prior_scale.double() ** 2
        mean = torch.linalg.solve(precision, design.T @ y)
        shape = self.noise_shape.double() + len(y) / 2
        rate = self.noise_rate.double() + 0.5 * (y @ y - mean @ precision @ mean)
        scale = torch.linalg.inv(precision)
        if self.units is not None:
            mean, move = units.coefficients(mean), units.coefficient_map()
            scale, rate = move @ scale @ move.mT, rate * units.y.spread**2
        return NormalInverseGamma(mean.roll(1), scale.roll((1, 1), (0, 1)), shape, rate)

    def predict(self, x: Array, num_samples: int = 1000) -> Float[Tensor, "..."]:
        """Posterior predictive draws of y at new inputs, ``(num_samples, n)``."""
        return self.sample(num_samples, given={"x": x})
