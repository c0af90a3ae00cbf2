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
        intercept  ~ Normal(0, prior_scale * sqrt(variance))
        weights    ~ Normal(0, prior_scale * sqrt(variance))    for each feature
        y          ~ Normal(intercept + x . weights, sqrt(variance))   for each observation

    Parameters
    ----------
    num_features
        Number of columns of x.
    prior_scale
        Prior sd of the coefficients, in units of the noise's sd.
    noise_shape, noise_rate
        Prior of the noise's variance.

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

    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}
    default_solver = ("SVI", {"guide": "multivariate-normal"})
    event_dims = {"weights": ("feature",)}

    def __init__(
        self,
        num_features: int,
        prior_scale: float = 100.0,
        noise_shape: float = 1.0,
        noise_rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("prior_scale", torch.tensor(float(prior_scale)))
        self.register_buffer("noise_shape", torch.tensor(float(noise_shape)))
        self.register_buffer("noise_rate", torch.tensor(float(noise_rate)))

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Draw the coefficients, then y; ``x (n, num_features)``, ``y (n,)``."""
        variance = pyro.sample("variance", dist.InverseGamma(self.noise_shape, self.noise_rate))
        sd = variance.sqrt()
        intercept = pyro.sample("intercept", dist.Normal(0.0, self.prior_scale * sd))
        prior = dist.Normal(0.0, (self.prior_scale * sd)[..., None]).expand(
            [*sd.shape, self.num_features]
        )
        weights = pyro.sample("weights", prior.to_event(1))
        loc = intercept + (x * weights).sum(-1)  # broadcasts on the left, so draws keep apart
        with self.observations("observations", x):
            return pyro.sample("y", dist.Normal(loc, sd), obs=y)

    def check_data(self, rows: Rows) -> None:
        """Refuse x and y of other shapes than ``(n, num_features)`` and ``(n,)``."""
        validation.check_features(rows, self.num_features, second="y", integers=True)
        super().check_data(rows)

    @torch.no_grad()
    def closed_form(self, x: Array, y: Array) -> NormalInverseGamma:
        """Exact posterior, in float64.

        Returns
        -------
        NormalInverseGamma
            Coefficients are (intercept, weights...).
        """
        x, y = (t.double() for t in self.checked_rows(x, y).all())
        design = torch.cat([torch.ones_like(x[:, :1]), x], 1)
        prior = torch.eye(design.shape[1], dtype=x.dtype, device=x.device)
        precision = design.T @ design + prior / self.prior_scale.double() ** 2
        mean = torch.linalg.solve(precision, design.T @ y)
        shape = self.noise_shape.double() + len(y) / 2
        rate = self.noise_rate.double() + 0.5 * (y @ y - mean @ precision @ mean)
        return NormalInverseGamma(mean, torch.linalg.inv(precision), shape, rate)

    def predict(self, x: Array, num_samples: int = 1000) -> Float[Tensor, "..."]:
        """Posterior predictive draws of y at new inputs, ``(num_samples, n)``."""
        return self.sample(num_samples, given={"x": x})
