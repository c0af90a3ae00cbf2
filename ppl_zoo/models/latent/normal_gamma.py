"""Normal with unknown mean and precision: mean field beside the exact posterior."""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.conjugate import LOG_2PI, expected_log_gamma, gamma_kl, gauss_hermite

__all__ = ["NormalGamma", "NormalGammaPosterior"]


class NormalGammaPosterior(NamedTuple):
    """Normal-gamma posterior and log evidence.

    ``precision ~ Gamma(shape, rate)``, ``mean ~ Normal(loc, (strength precision)^-1/2)``.
    """

    loc: Float[Tensor, ""]
    strength: Float[Tensor, ""]
    shape: Float[Tensor, ""]
    rate: Float[Tensor, ""]
    log_evidence: Float[Tensor, ""]


class NormalGamma(Model):
    """A normal whose mean and precision are unknown.

    Generative model::

        precision ~ Gamma(prior_shape, prior_rate)
        mean      ~ Normal(prior_mean, 1 / sqrt(prior_strength * precision))
        x[n]      ~ Normal(mean, 1 / sqrt(precision))       for each observation

    The posterior is known in closed form, so that CAVI can be held against it. The factorised
    q(mean) q(precision) of the textbook leaves out that a small precision makes the mean
    uncertain: with few data its variance of the mean is too small.

    Parameters
    ----------
    factorised
        True for q(mean) q(precision); False for q(mean, precision), which holds the posterior
        itself, so that CAVI converges in one step and its bound is the log evidence.
    prior_mean, prior_strength
        Prior mean of the mean, and the number of observations that it counts for.
    prior_shape, prior_rate
        Of the precision, which is in units of 1 / x squared.

    References
    ----------
    Bishop 2006, Pattern Recognition and Machine Learning, sections 2.3.6 and 10.1.3.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.tensor([1.2, 0.7, 1.9, 1.4, 0.8])
    >>> fit = zoo.fit(zoo.NormalGamma(factorised=False), x, progress=False)
    >>> exact = fit.model.closed_form(x)
    >>> round(fit.objective, 4) == round(exact.log_evidence.item(), 4)
    True
    """

    integers_are_numbers = True
    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "none"}
    default_solver = ("CAVI", {})

    def __init__(
        self,
        factorised: bool = True,
        *,
        prior_mean: float = 0.0,
        prior_strength: float = 0.01,
        prior_shape: float = 1.0,
        prior_rate: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("prior_strength", prior_strength),
            ("prior_shape", prior_shape),
            ("prior_rate", prior_rate),
        ):
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected more than 0")
        self.factorised = factorised
        self.register_buffer("prior_mean", torch.tensor(float(prior_mean)))
        self.register_buffer("prior_strength", torch.tensor(float(prior_strength)))
        self.register_buffer("prior_shape", torch.tensor(float(prior_shape)))
        self.register_buffer("prior_rate", torch.tensor(float(prior_rate)))
        # q: mean ~ Normal(loc, spread^-1/2), in units of the precision unless factorised
        self.register_buffer("loc", self.prior_mean.clone())
        self.register_buffer("spread", self.prior_strength.clone())
        self.register_buffer("shape", self.prior_shape.clone())
        self.register_buffer("rate", self.prior_rate.clone())

    def model(self, x: Tensor) -> Tensor:
        """Draw precision and mean, then the observations ``x (n,)``."""
        precision = pyro.sample("precision", dist.Gamma(self.prior_shape, self.prior_rate))
        scale = (self.prior_strength * precision).rsqrt()
        mean = pyro.sample("mean", dist.Normal(self.prior_mean, scale))
        with self.observations("observations", x):
            return pyro.sample("x", dist.Normal(mean, precision.rsqrt()), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw mean and precision from q."""
        precision = pyro.sample("precision", dist.Gamma(self.shape, self.rate))
        scale = self.spread if self.factorised else self.spread * precision
        pyro.sample("mean", dist.Normal(self.loc, scale.rsqrt()))

    # ---- CAVI -------------------------------------------------------------------------------

    def initialize(self, rows: Rows) -> None:
        """Start at the mean and precision of some rows."""
        x = rows.spread(1000)[0].double()
        self._set(x.mean(), self.prior_strength, self.prior_shape, self.prior_rate)
        off = (x - x.mean()).square().mean()
        self.rate.copy_(self.shape * off.clamp_min(1e-30))

    def expected_statistics(self, x: Tensor) -> dict[str, Tensor]:
        """Sum x and its squares about ``loc``, and ``E[log p(x | mean, precision)]``."""
        loc, _, shape, rate = self._posterior()
        off = x.double() - loc
        num, squares = off.new_tensor(len(off)), off.square().sum()
        scaled = shape / rate * squares + num * self._scaled_variance()
        value = 0.5 * (num * (expected_log_gamma(shape, rate) - LOG_2PI) - scaled)
        return {"log_likelihood": value, "num": num, "sums": off.sum(), "squares": squares}

    def update_posterior(self, statistics: dict[str, Tensor], step: float = 1.0) -> None:
        """Update q(mean), then q(precision); both at once if they are joint."""
        loc, spread, shape, rate = self._posterior()
        prior_mean, strength, prior_shape, prior_rate = self._prior()
        num, sums, squares = (statistics[name] for name in ("num", "sums", "squares"))
        off = prior_mean - loc  # all is relative to the old loc: no cancellation
        units = shape / rate if self.factorised else 1.0
        new_spread = (1 - step) * spread + step * units * (strength + num)
        shift = step * units * (strength * off + sums) / new_spread
        target = prior_shape + 0.5 * (num + self.factorised)
        new_shape = (1 - step) * shape + step * target
        around = squares + strength * off**2
        if self.factorised:
            around = around - 2.0 * shift * (sums + strength * off)
            around = around + (strength + num) * (shift**2 + 1.0 / new_spread)
            new_rate = (1 - step) * rate + step * (prior_rate + 0.5 * around)
        else:  # the natural parameter beside the precision is rate + spread loc^2 / 2
            natural = (1 - step) * rate + step * (prior_rate + 0.5 * around)
            new_rate = natural - 0.5 * new_spread * shift**2
        self._set(loc + shift, new_spread, new_shape, new_rate)

    def negative_kl(self) -> Float[Tensor, ""]:
        """-KL(q(mean, precision) || p(mean, precision)), in nats."""
        loc, spread, shape, rate = self._posterior()
        prior_mean, strength, prior_shape, prior_rate = self._prior()
        scaled = shape / rate * (loc - prior_mean) ** 2 + self._scaled_variance()
        units = expected_log_gamma(shape, rate) if self.factorised else 0.0
        value = 0.5 * (strength.log() + units - spread.log() + 1.0 - strength * scaled)
        return value - gamma_kl(shape, rate, prior_shape, prior_rate)

    def _scaled_variance(self) -> Tensor:
        """E[precision (mean - loc)^2]."""
        _, spread, shape, rate = self._posterior()
        return shape / rate / spread if self.factorised else 1.0 / spread

    def _posterior(self) -> tuple[Tensor, ...]:
        return tuple(t.double() for t in (self.loc, self.spread, self.shape, self.rate))

    def _prior(self) -> tuple[Tensor, ...]:
        prior = (self.prior_mean, self.prior_strength, self.prior_shape, self.prior_rate)
        return tuple(t.double() for t in prior)

    def _set(self, *values: Tensor) -> None:
        for buffer, value in zip(
            (self.loc, self.spread, self.shape, self.rate), values, strict=True
        ):
            buffer.copy_(value)

    # ---- queries ----------------------------------------------------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape than ``(n,)``."""
        if rows.sizes()[0] != (len(rows),):
            raise DataError(f"x: got shape {rows.sizes()[0]}, expected ({len(rows)},)")
        super().check_data(rows)

    @torch.no_grad()
    def log_prob(self, x: Array, num_nodes: int = 64) -> Float[Tensor, " n"]:
        """Log predictive density under q, in nats, ``(n,)``: a Student t or a mixture of them."""
        rows = self.checked_rows(x)
        x, (loc, spread, shape, rate) = rows.all()[0].double(), self._posterior()
        if not self.factorised:
            scale = (rate * (1.0 + 1.0 / spread) / shape).sqrt()
            return dist.StudentT(2.0 * shape, loc, scale).log_prob(x).to(self.dtype)
        nodes, log_weights = gauss_hermite(loc, num_nodes)
        t = dist.StudentT(2.0 * shape, loc + nodes * spread.rsqrt(), (rate / shape).sqrt())
        return (t.log_prob(x[:, None]) + log_weights).logsumexp(-1).to(self.dtype)

    @torch.no_grad()
    def closed_form(self, x: Array) -> NormalGammaPosterior:
        """Exact posterior and log evidence, in float64."""
        rows = self.checked_rows(x)
        x, (prior_mean, strength, prior_shape, prior_rate) = rows.all()[0].double(), self._prior()
        num, centre = len(x), x.mean()
        loc = (strength * prior_mean + num * centre) / (strength + num)
        shape = prior_shape + num / 2
        between = strength * num * (centre - prior_mean) ** 2 / (strength + num)
        rate = prior_rate + 0.5 * ((x - centre).square().sum() + between)
        evidence = torch.lgamma(shape) - torch.lgamma(prior_shape) - 0.5 * num * LOG_2PI
        evidence = evidence + prior_shape * prior_rate.log() - shape * rate.log()
        evidence = evidence + 0.5 * (strength.log() - (strength + num).log())
        return NormalGammaPosterior(loc, strength + num, shape, rate, evidence)

    def posterior_draws(self, x: Array, num_samples: int = 4000) -> dict[str, Tensor]:
        """Draws from the exact posterior, ``{site: (1, num_samples)}``, for ``fit.check``."""
        exact = self.closed_form(x)
        precision = dist.Gamma(exact.shape, exact.rate).sample((1, num_samples))
        mean = dist.Normal(exact.loc, (exact.strength * precision).rsqrt()).sample()
        return {"mean": mean.to(self.dtype), "precision": precision.to(self.dtype)}
