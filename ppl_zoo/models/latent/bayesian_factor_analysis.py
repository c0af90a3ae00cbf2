"""Bayesian factor analysis with automatic relevance determination."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.conjugate import expected_log_gamma, gamma_kl
from ppl_zoo.models.common.missing import MarginalNormal
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.common.validation import check_features, check_spread
from ppl_zoo.models.latent.factor_posterior import (
    FactorPosterior,
    feature_variances,
    infer_factors,
    noise_terms,
    principal_factors,
    regression_statistics,
    residuals,
)

__all__ = ["BayesianFactorAnalysis"]


class BayesianFactorAnalysis(Model):
    """Factor analysis with automatic relevance determination.

    Generative model::

        relevance[k]   ~ Gamma(prior_shape, prior_rate)              of each factor
        precision[d]   ~ Gamma(prior_shape, prior_rate)              of each feature's noise
        loc[d]         ~ Normal(mean of the data, loc_scale)
        loadings[d, k] ~ Normal(0, 1 / sqrt(relevance[k]))
        factors[n]     ~ Normal(0, I)                                for each row
        x[n]           ~ Normal(loc + loadings factors[n], 1 / sqrt(precision))

    A factor that the data do not need gets a large ``relevance`` (a precision), and loadings of
    zero: K is an upper bound. The guide q factorises over these lines; it keeps the covariance of
    the loadings of a feature, and of the factors of a row. The priors are written for x in units
    of its sd over the data, feature by feature ("isotropic": one for all), so that neither an
    offset nor a unit changes the answer; what is drawn is in units of x.

    Parameters
    ----------
    num_features, num_factors
        D and K.
    noise
        "diagonal", or "isotropic" for one precision of all features: Bayesian PCA.
    missing
        Whether NaN in x means "not observed"; such values are integrated out.
    prior_shape, prior_rate
        Of the precisions, that of the noise times the variance of x.
    loc_scale
        Prior sd of the mean, in units of the sd of x.
    standardize
        False for priors in units of x itself.

    Attributes
    ----------
    mean, loadings, noise
        Estimates under q: ``(D,)``, ``(D, K)`` and variances ``(D,)``; in units of x, and its
        square.

    References
    ----------
    Bishop (1999), Variational principal components, ICANN,
    https://doi.org/10.1049/cp:19991160. Bishop (2006), Pattern Recognition and Machine
    Learning, section 12.2.3.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(300, 2) @ torch.randn(2, 8) + 0.3 * torch.randn(300, 8)
    >>> model = zoo.BayesianFactorAnalysis(num_features=8, num_factors=6)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.num_relevant()
    2
    """

    integers_are_numbers = True
    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "estimate"}
    default_solver = ("CAVI", {})
    event_dims = {
        "factors": ("factor",),
        "x": ("feature",),
        "loc": ("feature",),
        "loadings": ("feature", "factor"),
        "relevance": ("factor",),
        "precision": ("feature",),
    }
    legacy_arguments = {"standardize": False}

    def __init__(
        self,
        num_features: int,
        num_factors: int,
        noise: str = "diagonal",
        missing: bool = False,
        *,
        prior_shape: float = 1e-3,
        prior_rate: float = 1e-3,
        loc_scale: float = 1000.0,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        if not 1 <= num_factors <= num_features:
            raise ValueError(f"num_factors: got {num_factors}, expected 1 to {num_features}")
        if noise not in ("diagonal", "isotropic"):
            raise ValueError(f"noise: got {noise!r}, expected 'diagonal' or 'isotropic'")
        for name, value in (
            ("prior_shape", prior_shape),
            ("prior_rate", prior_rate),
            ("loc_scale", loc_scale),
        ):
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected more than 0")
        self.num_features, self.num_factors = num_features, num_factors
        self.allow_missing, self.isotropic = missing, noise == "isotropic"
        d, k, t = num_features, num_factors, 1 if self.isotropic else num_features
        for name, value in (
            ("prior_shape", torch.tensor(float(prior_shape))),
            ("prior_rate", torch.tensor(float(prior_rate))),
            ("loc_scale", torch.tensor(float(loc_scale))),
            ("centre", torch.zeros(d)),
            # q, in natural parameters: precision, and precision times mean
            ("loadings_precision", torch.eye(k).expand(d, k, k).clone()),
            ("loadings_linear", torch.randn(d, k)),
            ("loc_precision", torch.ones(d)),
            ("loc_linear", torch.zeros(d)),
            ("noise_shape", torch.ones(t)),
            ("noise_rate", torch.ones(t)),
            ("relevance_shape", torch.ones(k)),
            ("relevance_rate", torch.ones(k)),
        ):
            self.register_buffer(name, value)
        self.standardize = standardize
        # the unit of each feature, in which q is
        self.register_buffer("spread", torch.ones(d), persistent=standardize)

    def model(self, x: Tensor) -> None:
        """Draw the parameters, then factors and rows; ``x (n, D)``."""
        d, k = self.num_features, self.num_factors
        gamma = dist.Gamma(self.prior_shape, self.prior_rate)
        relevance = pyro.sample("relevance", gamma.expand([k]).to_event(1))
        noise = dist.Gamma(self.prior_shape, self.prior_rate * self._noise_unit())
        precision = pyro.sample("precision", noise.to_event(1))
        loc_scale = self.loc_scale * self.spread
        loc = pyro.sample("loc", dist.Normal(self.centre, loc_scale).to_event(1))
        scale = relevance.rsqrt().unsqueeze(-2).expand(*relevance.shape[:-1], d, k)
        scale = scale * self.spread.unsqueeze(-1)
        loadings = pyro.sample("loadings", dist.Normal(torch.zeros_like(scale), scale).to_event(2))
        with self.observations("observations", x):
            z = pyro.sample("factors", dist.Normal(self.centre.new_zeros(k), 1.0).to_event(1))
            mean = loc + (loadings @ z.unsqueeze(-1)).squeeze(-1)
            sd = precision.rsqrt().expand(mean.shape)
            row = MarginalNormal(mean, sd, False)
            pyro.sample(
                "x", row if self.allow_missing else dist.Normal(mean, sd).to_event(1), obs=x
            )

    def guide(self, x: Tensor) -> None:
        """Draw from q."""
        relevance = dist.Gamma(self.relevance_shape, self.relevance_rate)
        pyro.sample("relevance", relevance.to_event(1))
        noise = dist.Gamma(self.noise_shape, self.noise_rate * self._noise_unit())
        pyro.sample("precision", noise.to_event(1))
        unit = self.spread.double()
        loc, variance = self._loc()
        moved, sd = (self.centre + unit * loc).to(self.dtype), unit * variance.sqrt()
        pyro.sample("loc", dist.Normal(moved, sd.to(self.dtype)).to_event(1))
        weights, spread = self._loadings()
        tril = unit[:, None, None] * torch.linalg.cholesky(spread)
        weights = (unit[:, None] * weights).to(self.dtype)
        loadings = dist.MultivariateNormal(weights, scale_tril=tril.to(self.dtype))
        pyro.sample("loadings", loadings.to_event(1))
        factors = self._infer(x)[0]
        with self.observations("observations", x):
            tril = factors.scale_tril.to(self.dtype)
            local = dist.MultivariateNormal(factors.mean.to(self.dtype), scale_tril=tril)
            pyro.sample("factors", local)

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Posterior mean of loc, in units of x."""
        return (self.centre + self.spread.double() * self._loc()[0]).to(self.dtype)

    @property
    def loadings(self) -> Float[Tensor, "d k"]:
        """Posterior mean of the loadings, in units of x."""
        return (self.spread.double()[:, None] * self._loadings()[0]).to(self.dtype)

    @property
    def noise(self) -> Float[Tensor, " d"]:
        """Variance of each feature's noise: the inverse of its precision's posterior mean."""
        return (self.spread.double() ** 2 / self._noise()[0]).to(self.dtype)

    # ---- expectations under q, in float64 ---------------------------------------------------

    def _noise_unit(self) -> Tensor:
        """Variance in whose units the noise's precision is, as many as there are precisions."""
        return self.spread[: len(self.noise_rate)] ** 2

    def _loadings(self) -> tuple[Tensor, Tensor]:
        """Mean ``(D, K)`` and covariances ``(D, K, K)`` of the loadings."""
        covariance = torch.linalg.inv(self.loadings_precision.double())
        covariance = 0.5 * (covariance + covariance.mT)
        return (covariance @ self.loadings_linear.double()[..., None])[..., 0], covariance

    def _loc(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of loc less the centre."""
        precision = self.loc_precision.double()
        return self.loc_linear.double() / precision, 1.0 / precision

    def _noise(self) -> tuple[Tensor, Tensor]:
        """Mean and mean logarithm of the noise's precision, ``(D,)``."""
        shape, rate = self.noise_shape.double(), self.noise_rate.double()
        both = shape / rate, expected_log_gamma(shape, rate)
        return both[0].expand(self.num_features), both[1].expand(self.num_features)

    def _infer(self, x: Tensor) -> tuple[FactorPosterior, Tensor, Tensor, Tensor | None]:
        """Return q of the factors, each row's part of the ELBO, residuals and observation mask."""
        (weights, spread), (loc, variance) = self._loadings(), self._loc()
        precision, log_precision = self._noise()
        unit = self.spread.double()
        r, observed = residuals(x, self.centre.double() + unit * loc, self.allow_missing)
        r = r / unit
        factors = infer_factors(r, observed, weights, precision, spread)
        share = factors.log_density + noise_terms(r, observed, precision, log_precision)
        loose = 0.5 * precision * variance + unit.log()
        share = share - (loose.sum() if observed is None else observed @ loose)
        return factors, share, r, observed

    # ---- CAVI -------------------------------------------------------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape than ``(n, num_features)``, and what is not finite."""
        check_features(rows, self.num_features)
        super().check_data(rows)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from principal components; at random where values are missing."""
        check_spread(rows, some_constant=True)
        mean, covariance = moments(rows, matrix=not self.allow_missing)
        if self.standardize:
            variance = covariance if self.allow_missing else covariance.diagonal()
            if self.isotropic:
                variance = variance.mean().expand_as(variance)
            self.spread.copy_(feature_variances(mean, variance).sqrt())
            unit = self.spread.double()
            covariance = covariance / (unit**2 if self.allow_missing else torch.outer(unit, unit))
        if self.allow_missing:
            variance = covariance.clamp_min(1e-10)
            weights = torch.randn_like(self.loadings_linear).double() * variance.sqrt()[:, None]
            noise = variance
        else:
            weights, noise = principal_factors(covariance, self.num_factors)
            noise = noise.expand_as(mean)
        d, n = self.num_features, float(len(rows))
        self.centre.copy_(mean)
        precision = 1.0 + n / noise
        eye = torch.eye(self.num_factors, dtype=precision.dtype, device=precision.device)
        self.loadings_precision.copy_(precision[:, None, None] * eye)
        self.loadings_linear.copy_(precision[:, None] * weights)
        self.loc_precision.copy_(n / noise)
        self.loc_linear.zero_()
        self.noise_shape.copy_(self.prior_shape + 0.5 * n)
        self.noise_rate.copy_(self.noise_shape * (noise.mean() if self.isotropic else noise))
        self.relevance_shape.copy_(self.prior_shape + 0.5 * d)
        self.relevance_rate.copy_(self.prior_rate + 0.5 * (weights**2).sum(0))

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """Sum the statistics of x and of the factors' optimal q, in float64."""
        factors, share, r, observed = self._infer(batch[0])
        return {"log_likelihood": share.sum(), **regression_statistics(r, observed, factors)}

    @torch.no_grad()
    def update_posterior(self, statistics: Mapping[str, Tensor], step: float = 1.0) -> None:
        """Update q of loadings, loc, precision and relevance, one after the other."""
        design, cross, squares = (statistics[k] for k in ("design", "cross", "squares"))
        zz, z, count = design[:, :-1, :-1], design[:, :-1, -1], design[:, -1, -1]
        xz, total = cross[:, :-1], cross[:, -1]
        precision = self._noise()[0]
        relevance = self.relevance_shape.double() / self.relevance_rate.double()
        self._move("loadings_precision", precision[:, None, None] * zz + relevance.diag(), step)
        self._move("loadings_linear", precision[:, None] * xz, step)
        weights, spread = self._loadings()

        before = self._loc()[0]
        away = total + count * before - (weights * z).sum(-1)
        prior = 1.0 / self.loc_scale.double() ** 2
        self._move("loc_precision", prior + precision * count, step)
        self._move("loc_linear", precision * away, step)
        loc, variance = self._loc()

        shift, second = loc - before, spread + weights[:, :, None] * weights[:, None, :]
        residual = squares - 2.0 * ((weights * xz).sum(-1) + shift * total)
        residual = residual + (zz * second).sum((-2, -1)) + 2.0 * shift * (weights * z).sum(-1)
        residual, count = residual + count * (shift**2 + variance), count.expand_as(residual)
        if self.isotropic:
            residual, count = residual.sum(0, keepdim=True), count.sum(0, keepdim=True)
        self._move("noise_shape", self.prior_shape.double() + 0.5 * count, step)
        self._move("noise_rate", self.prior_rate.double() + 0.5 * residual, step)

        power = second.diagonal(dim1=-2, dim2=-1).sum(0)
        shape = self.prior_shape.double() + 0.5 * self.num_features
        self._move("relevance_shape", shape.expand_as(power), step)
        self._move("relevance_rate", self.prior_rate.double() + 0.5 * power, step)

    def _move(self, name: str, target: Tensor, step: float) -> None:
        own = getattr(self, name)
        own.copy_((1.0 - step) * own.double() + step * target)

    def negative_kl(self) -> Float[Tensor, ""]:
        """-KL(q || p) of loadings, loc, precision and relevance, in nats."""
        weights, spread = self._loadings()
        shape, rate = self.relevance_shape.double(), self.relevance_rate.double()
        power = (weights**2 + spread.diagonal(dim1=-2, dim2=-1)).sum(0)
        value = 0.5 * self.num_features * expected_log_gamma(shape, rate).sum()
        value = value - 0.5 * (shape / rate * power).sum()
        value = value + 0.5 * (torch.logdet(spread).sum() + weights.numel())
        loc, variance = self._loc()
        scaled = variance / self.loc_scale.double() ** 2
        moved = loc**2 / self.loc_scale.double() ** 2
        value = value + 0.5 * (scaled.log() + 1.0 - scaled - moved).sum()
        prior = self.prior_shape.double(), self.prior_rate.double()
        value = value - gamma_kl(shape, rate, *prior).sum()
        own = self.noise_shape.double(), self.noise_rate.double()
        return value - gamma_kl(*own, *prior).sum()

    @torch.no_grad()
    def relabel(self) -> None:
        """Order the factors by rising precision of their loadings: the most relevant first."""
        order = (self.relevance_rate / self.relevance_shape).argsort(descending=True, stable=True)
        for name in ("relevance_shape", "relevance_rate"):
            getattr(self, name).copy_(getattr(self, name)[order].clone())
        self.loadings_linear.copy_(self.loadings_linear[:, order].clone())
        self.loadings_precision.copy_(self.loadings_precision[:, order][:, :, order].clone())

    # ---- queries ----------------------------------------------------------------------------

    def num_relevant(self, share: float = 1e-3) -> int:
        """Count the factors with more than this share of the squared loadings."""
        power = (self._loadings()[0] ** 2).sum(0)
        return int((power > share * power.sum()).sum())

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n k"]:
        """Posterior mean of the factors under q, ``(n, K)``."""
        parts = [self._infer(part)[0].mean for (part,) in self.batches(x)]
        return torch.cat(parts).to(self.dtype)
