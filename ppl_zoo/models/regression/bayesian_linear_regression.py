"""Bayesian linear regression with automatic relevance determination."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.conjugate import LOG_2PI, expected_log_gamma, gamma_kl
from ppl_zoo.models.regression.coefficients import (
    RegressionUnits,
    default_noise_rate,
    design_matrix,
    sample_coefficients,
    sample_regression,
)

__all__ = ["BayesianLinearRegression"]

#: priors of the relevances: values of ``relevance``
RELEVANCES = ("each", "shared", "fixed")


class _Posterior(NamedTuple):
    """Posterior q: (weights..., intercept) ~ Normal(loc, (precision * noise precision)^-1)."""

    loc: Tensor
    precision: Tensor
    shape: Tensor
    rate: Tensor
    relevance_shape: Tensor
    relevance_rate: Tensor


class BayesianLinearRegression(Model):
    """Linear regression with unknown noise and unknown prior precisions (relevances).

    Generative model::

        precision     ~ Gamma(noise_shape, noise_rate)
        relevance[d]  ~ Gamma(relevance_shape, relevance_rate)     for each feature, or one for all
        weights[d]    ~ Normal(0, 1 / sqrt(precision * relevance[d]))
        level         ~ Normal(0, intercept_scale / sqrt(precision))
        y[n]          ~ Normal(level + x[n] . weights, 1 / sqrt(precision))

    The priors are written for x and y in units of the mean and sd of the data, so that neither
    an offset nor a unit changes the answer. What is drawn is in units of the data: ``precision``,
    ``weights``, and ``intercept``, the height of the plane at x = 0.

    q(weights, intercept, precision) q(relevance): a feature that the data do not support gets
    a large relevance, which shrinks its weight to 0 (automatic relevance determination). With
    fixed relevances there is one factor, CAVI converges in one step, and its bound is the log
    evidence.

    Parameters
    ----------
    num_features
        Number of columns of x.
    relevance
        "each", "shared" (one for all weights) or "fixed" (at its prior mean).
    noise_shape, noise_rate, relevance_shape, relevance_rate
        Priors. The defaults of the relevance make a weight Cauchy, of the noise's sd; smaller
        ones (0.01) shrink irrelevant features harder, and their prior draws overflow.
    intercept_scale
        Prior sd of the level, in units of the noise's sd.
    standardize
        False to take x and y as they are: priors of ``weights`` and ``intercept`` itself, and of
        the precision, in units of the data.

    References
    ----------
    Bishop 2006, Pattern Recognition and Machine Learning, section 10.3. Drugowitsch 2013,
    Variational Bayesian inference for linear and logistic regression,
    https://arxiv.org/abs/1310.5438.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(200, 3)
    >>> y = 2.0 + 3.0 * x[:, 0] + 0.1 * torch.randn(200)
    >>> model = zoo.BayesianLinearRegression(num_features=3)
    >>> fit = zoo.fit(model, (x, y), progress=False)
    >>> [round(w) for w in fit.posterior(1000)["weights"].mean((0, 1)).abs().tolist()]
    [3, 0, 0]
    """

    integers_are_numbers = True
    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}
    default_solver = ("CAVI", {})
    event_dims = {"weights": ("feature",), "relevance": ("feature",)}
    legacy_arguments = {"standardize": False}

    def __init__(
        self,
        num_features: int,
        relevance: str = "each",
        *,
        noise_shape: float = 1.0,
        noise_rate: float | None = None,
        relevance_shape: float = 0.5,
        relevance_rate: float = 0.5,
        intercept_scale: float = 100.0,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        if noise_rate is None:
            noise_rate = default_noise_rate(standardize)
        self.units = RegressionUnits(num_features) if standardize else None
        if relevance not in RELEVANCES:
            raise ValueError(
                f"relevance: got {relevance!r}{did_you_mean(relevance, RELEVANCES)}, "
                f"expected one of {RELEVANCES}"
            )
        prior = {
            "noise_shape": noise_shape,
            "noise_rate": noise_rate,
            "relevance_shape": relevance_shape,
            "relevance_rate": relevance_rate,
            "intercept_scale": intercept_scale,
        }
        for name, value in prior.items():
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected more than 0")
            self.register_buffer(name, torch.tensor(float(value)))
        self.num_features, self.relevance = num_features, relevance
        size = () if relevance == "shared" else (num_features,)
        self.register_buffer("q_loc", torch.zeros(num_features + 1))
        self.register_buffer("q_precision", torch.eye(num_features + 1))
        self.register_buffer("q_shape", self.noise_shape.clone())
        self.register_buffer("q_rate", self.noise_rate.clone())
        self.register_buffer("q_relevance_shape", self.relevance_shape.expand(size).clone())
        self.register_buffer("q_relevance_rate", self.relevance_rate.expand(size).clone())

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Draw the global latents, then y; ``x (n, num_features)``, ``y (n,)``."""
        precision = pyro.sample(
            "precision", dist.Gamma(self.noise_shape, self._in_y(self.noise_rate))
        )
        relevance = self.relevance_shape / self.relevance_rate
        if self.relevance != "fixed":
            prior = dist.Gamma(self.relevance_shape, self.relevance_rate)
            if self.relevance == "each":
                prior = prior.expand([self.num_features]).to_event(1)
            relevance = pyro.sample("relevance", prior)
        if self.relevance != "each":
            relevance = relevance[..., None].expand(*relevance.shape, self.num_features)
        sd = precision.rsqrt()
        scale = sd[..., None] * relevance.rsqrt()
        loc = sample_regression(self.units, x, scale, self.intercept_scale * sd)
        with self.observations("observations", x):
            return pyro.sample("y", dist.Normal(loc, sd), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw all global latents from q."""
        precision = pyro.sample("precision", dist.Gamma(self.q_shape, self._in_y(self.q_rate)))
        if self.relevance != "fixed":
            q = dist.Gamma(self.q_relevance_shape, self.q_relevance_rate)
            pyro.sample("relevance", q.to_event(1 if self.relevance == "each" else 0))
        factor = torch.linalg.cholesky(self._covariance())
        if self.units is not None:
            factor = self.units.coefficient_map() @ factor
        loc = self.coefficients.to(self.dtype)
        sample_coefficients(loc, factor.to(self.dtype), precision.rsqrt())

    def _in_y(self, rate: Tensor) -> Tensor:
        """Rate of a precision in units of y."""
        return rate if self.units is None else rate * self.units.y.spread**2

    @property
    def coefficients(self) -> Float[Tensor, " coefficients"]:
        """Posterior mean of (weights..., intercept), in units of the data, float64."""
        loc = self.q_loc.double()
        return loc if self.units is None else self.units.coefficients(loc)

    def _design(self, x: Tensor) -> Tensor:
        """Design matrix of q, ``(n, D + 1)``, float64."""
        return design_matrix(x if self.units is None else self.units.x.standardise(x.double()))

    def _response(self, y: Tensor) -> Tensor:
        """Response in the units of q, float64."""
        return y.double() if self.units is None else self.units.y.standardise(y.double())

    def _log_unit(self) -> Tensor:
        """Log unit of y: what a log density of y has less than that of the response."""
        return self.q_rate.new_zeros(()) if self.units is None else self.units.y.spread.log()

    # ---- CAVI -------------------------------------------------------------------------------

    def read_units(self, rows: Rows) -> None:
        """Take the units of the priors from the data."""
        if self.units is not None:
            self.units.read(rows)

    def initialize(self, rows: Rows) -> None:
        """Start at the prior, with weights 0 and the noise of y itself."""
        self.read_units(rows)
        x, y = rows.spread(1000)
        design, y = self._design(x), self._response(y)
        self.q_loc.zero_()
        self.q_loc[-1] = y.mean()
        self.q_precision.copy_(design.mT @ design * (len(rows) / len(y)))
        self.q_precision.diagonal().add_(1.0)
        self.q_shape.copy_(self.noise_shape)
        self.q_rate.copy_(self.q_shape * y.var(unbiased=False).clamp_min(1e-12))
        fixed = self.relevance == "fixed"
        self.q_relevance_shape.copy_(self.relevance_shape if fixed else 1.0)
        self.q_relevance_rate.copy_(self.relevance_rate if fixed else 1.0)

    def expected_statistics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Second moments of the features and of the residuals of ``q_loc``, ``(D + 1, ...)``."""
        q, design = self._posterior(), self._design(x)
        residual = self._response(y) - design @ q.loc
        gram, squares = design.mT @ design, residual.square().sum()
        noise = expected_log_gamma(q.shape, q.rate) - 2.0 * self._log_unit()
        scaled = q.shape / q.rate * squares + (gram * self._covariance()).sum()
        return {
            "log_likelihood": 0.5 * (len(y) * (noise - LOG_2PI) - scaled),
            "num": squares.new_tensor(len(y)),
            "gram": gram,
            "moments": design.mT @ residual,
            "squares": squares,
        }

    def update_posterior(self, statistics: dict[str, Tensor], step: float = 1.0) -> None:
        """Update q(weights, intercept, precision), then q(relevance)."""
        q, prior = self._posterior(), self._prior_precision()
        # natural parameters are written about the old loc, where nothing cancels
        precision = (1 - step) * q.precision + step * (prior.diag() + statistics["gram"])
        linear = step * (statistics["moments"] - prior * q.loc)
        shift = torch.cholesky_solve(linear[:, None], torch.linalg.cholesky(precision))[:, 0]
        target = self.noise_rate.double() + 0.5 * (
            statistics["squares"] + (prior * q.loc**2).sum()
        )
        shape = self.noise_shape.double() + 0.5 * statistics["num"]
        self.q_loc.copy_(q.loc + shift)
        self.q_precision.copy_(precision)
        self.q_shape.copy_((1 - step) * q.shape + step * shape)
        self.q_rate.copy_((1 - step) * q.rate + step * target - 0.5 * (linear * shift).sum())
        if self.relevance == "fixed":
            return
        squares = self._expected_squares()[:-1]
        squares = squares if self.relevance == "each" else squares.sum()
        count = 1 if self.relevance == "each" else self.num_features
        shape = self.relevance_shape.double() + 0.5 * count
        rate = self.relevance_rate.double() + 0.5 * squares
        self.q_relevance_shape.copy_((1 - step) * q.relevance_shape + step * shape)
        self.q_relevance_rate.copy_((1 - step) * q.relevance_rate + step * rate)

    def negative_kl(self) -> Float[Tensor, ""]:
        """-KL(q || p) of all global latents, in nats."""
        q = self._posterior()
        parts = (self.noise_shape.double(), self.noise_rate.double())
        value = -gamma_kl(q.shape, q.rate, *parts)
        prior = self._prior_precision()
        log_prior = prior.log()
        if self.relevance != "fixed":
            parts = (self.relevance_shape.double(), self.relevance_rate.double())
            value = value - gamma_kl(q.relevance_shape, q.relevance_rate, *parts).sum()
            log_prior[:-1] = expected_log_gamma(q.relevance_shape, q.relevance_rate)
        log_det = torch.linalg.cholesky(q.precision).diagonal().log().sum()
        expected = (prior * self._expected_squares()).sum()
        return value + 0.5 * (log_prior.sum() + len(q.loc) - expected) - log_det

    def _expected_squares(self) -> Tensor:
        """E[precision * coefficient^2] ``(D + 1,)``."""
        q = self._posterior()
        return q.shape / q.rate * q.loc**2 + self._covariance().diagonal()

    def _prior_precision(self) -> Tensor:
        q = self._posterior()
        relevance = (q.relevance_shape / q.relevance_rate).expand(self.num_features)
        return torch.cat([relevance, self.intercept_scale.double()[None] ** -2])

    def _covariance(self) -> Tensor:
        return torch.cholesky_inverse(torch.linalg.cholesky(self.q_precision.double()))

    def _posterior(self) -> _Posterior:
        return _Posterior(*(getattr(self, f"q_{name}").double() for name in _Posterior._fields))

    # ---- queries ----------------------------------------------------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x and y of other shapes than ``(n, num_features)`` and ``(n,)``."""
        validation.check_features(rows, self.num_features, second="y")
        super().check_data(rows)

    @torch.no_grad()
    def predictive(self, x: Array) -> dist.StudentT:
        """Return the distribution of y at new inputs, ``(n,)``: a Student t, float64."""
        (x,) = self.checked_rows(x).all()
        design, q = self._design(x), self._posterior()
        spread = 1.0 + ((design @ self._covariance()) * design).sum(-1)
        loc, scale = design @ q.loc, (spread * q.rate / q.shape).sqrt()
        if self.units is not None:
            loc, scale = self.units.y.restore(loc), scale * self.units.y.spread
        return dist.StudentT(2.0 * q.shape, loc, scale)

    @torch.no_grad()
    def log_prob(self, x: Array, y: Array) -> Float[Tensor, " n"]:
        """Log predictive density of each y under q, ``(n,)``."""
        x, y = self.checked_rows(x, y).all()
        return self.predictive(x).log_prob(y.double()).to(self.dtype)
