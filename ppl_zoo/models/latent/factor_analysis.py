"""Factor analysis: common factors of many features, and the noise of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.missing import MarginalNormal
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.common.validation import check_features, check_spread, read_given
from ppl_zoo.models.latent.factor_posterior import (
    FactorPosterior,
    em_on_covariance,
    feature_variances,
    infer_factors,
    noise_terms,
    principal_factors,
    regression_statistics,
    residuals,
)

__all__ = ["FactorAnalysis"]

#: noise of a feature over its least, up to which it counts as none
HEYWOOD_MARGIN = 1.01


class FactorAnalysis(Model):
    """Factor analysis.

    Generative model, for each row n::

        factors[n] ~ Normal(0, I)                                      (K,)
        x[n]       ~ Normal(mean + loadings factors[n], diag(noise))   (D,)

    so that ``x ~ Normal(mean, loadings loadings' + diag(noise))``. The factors are
    identified up to rotation: fits are rotated so that they are independent given x, the best
    determined first.

    Parameters
    ----------
    num_features, num_factors
        D and K.
    missing
        Whether NaN in x means "not observed"; such values are integrated out exactly.
    init
        Start of a fit: "principal" (closed form, for equal noise of all features) or
        "random".
    steps_per_pass
        Iterations of EM for each pass over the data, where nothing is missing: these need the
        covariance of x only. 1 for EM as in the textbook, iteration by iteration.

    Attributes
    ----------
    mean, loadings, noise
        ``(D,)``, ``(D, K)`` and variances ``(D,)``. In units of x, and its square.

    References
    ----------
    Rubin & Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47,
    https://doi.org/10.1007/BF02293851. Bishop (2006), Pattern Recognition and Machine Learning,
    section 12.2.4.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> common = torch.randn(500, 1)
    >>> x = common * torch.tensor([1.0, 2.0, 3.0]) + 0.1 * torch.randn(500, 3)
    >>> model = zoo.FactorAnalysis(num_features=3, num_factors=1)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.log_prob(x).shape, model.encode(x).shape, model.sample(5).shape
    (torch.Size([500]), torch.Size([500, 1]), torch.Size([5, 3]))
    """

    integers_are_numbers = True
    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {})
    event_dims = {
        "factors": ("factor",),
        "x": ("feature",),
        "mean": ("feature",),
        "loadings": ("feature", "factor"),
        "noise": ("feature",),
    }
    #: parameters of the noise; None for one a feature
    num_noises: int | None = None

    def __init__(
        self,
        num_features: int,
        num_factors: int,
        missing: bool = False,
        init: str = "principal",
        steps_per_pass: int = 100,
    ) -> None:
        super().__init__()
        if not 1 <= num_factors <= num_features:
            raise ValueError(f"num_factors: got {num_factors}, expected 1 to {num_features}")
        if init not in ("principal", "random"):
            raise ValueError(f"init: got {init!r}, expected 'principal' or 'random'")
        self.num_features, self.num_factors = num_features, num_factors
        if steps_per_pass < 1:
            raise ValueError(f"steps_per_pass: got {steps_per_pass}, expected 1 or more")
        self.allow_missing, self.init = missing, init
        self.steps_per_pass = steps_per_pass
        self.loc = nn.Parameter(torch.zeros(num_features))
        self.weight = nn.Parameter(torch.randn(num_features, num_factors))
        self.log_noise = nn.Parameter(torch.zeros(self.num_noises or num_features))
        # a feature that the factors explain wholly would have no noise, and an unbounded density
        self.register_buffer("least_noise", torch.full((num_features,), 1e-8))

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of x."""
        return self.loc

    @property
    def loadings(self) -> Float[Tensor, "d k"]:
        """Change of each feature by a unit of each factor."""
        return self.weight

    @property
    def noise(self) -> Float[Tensor, " d"]:
        """Variance of each feature's own noise."""
        return self.log_noise.exp().expand(self.num_features)

    def distribution(self) -> dist.LowRankMultivariateNormal:
        """Distribution of a row."""
        return dist.LowRankMultivariateNormal(self.loc, self.weight, self.noise)

    # ---- model and exact posterior ----------------------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw the factors of each row, then the row."""
        with self.observations("observations", x):
            shape = [self.num_factors]
            z = pyro.sample("factors", dist.Normal(self.loc.new_zeros(shape), 1.0).to_event(1))
            loc, sd = self.loc + z @ self.weight.mT, self.noise.sqrt()
            normal = dist.Normal(loc, sd).to_event(1)
            row = MarginalNormal(loc, sd, False) if self.allow_missing else normal
            pyro.sample("x", row, obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw factors from their exact posterior."""
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            factors = self._infer(x)[0]
        with self.observations("observations", x):
            scale = factors.scale_tril.to(x.dtype)
            posterior = dist.MultivariateNormal(factors.mean.to(x.dtype), scale_tril=scale)
            pyro.sample("factors", posterior)

    def _infer(self, x: Tensor) -> tuple[FactorPosterior, Tensor]:
        """Posterior of the factors, and the log density of each row, in float64."""
        r, observed = residuals(x, self.loc, self.allow_missing)
        noise = self.noise.double()
        factors = infer_factors(r, observed, self.weight.double(), 1.0 / noise)
        alone = noise_terms(r, observed, 1.0 / noise, -noise.log())
        return factors, factors.log_density + alone

    # ---- EM ---------------------------------------------------------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape than ``(n, num_features)``, and what is not finite."""
        check_features(rows, self.num_features)
        super().check_data(rows)

    @torch.no_grad()
    def degenerate(self, *batch: Tensor) -> tuple[str, ...]:
        """Name features that the factors explain wholly (Heywood cases), in words."""
        at_floor = self.noise <= HEYWOOD_MARGIN * self.least_noise
        return tuple(
            f"feature {i} has no noise left (a Heywood case): the factors explain it wholly, and "
            "its density has no bound; take fewer factors, or drop a feature that repeats others"
            for i in at_floor.nonzero()[:, 0].tolist()
        )

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from principal components of the standardised features, or at random."""
        check_spread(rows, some_constant=True)
        mean, covariance = moments(rows, matrix=not self.allow_missing)
        variance = covariance if self.allow_missing else covariance.diagonal()
        variance = feature_variances(mean, variance)
        sd = variance.sqrt()
        self.least_noise.copy_(1e-6 * variance)
        if self.allow_missing or self.init == "random":
            weight = sd[:, None] * torch.randn_like(self.weight) / self.num_factors**0.5
            noise = variance
        else:
            weight, share = principal_factors(covariance / torch.outer(sd, sd), self.num_factors)
            weight, noise = sd[:, None] * weight, share * variance
        self.loc.copy_(mean)
        self.weight.copy_(weight)
        self.log_noise.copy_(self._noise(noise, torch.ones_like(noise)).log())

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: additive sums, in float64.

        Without missing values the moments of x are sufficient; with them, sums over rows of the
        factors, their products and those with x.
        """
        r, observed = residuals(batch[0], self.loc, self.allow_missing)
        factors, log_density = self._infer(batch[0])
        statistics = {"log_likelihood": log_density.sum()}
        if self.allow_missing:
            return statistics | regression_statistics(r, observed, factors)
        count = r.new_tensor(float(len(r)))
        return statistics | {"count": count, "first": r.sum(0), "second": r.mT @ r}

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: regress each feature on the factors; the residual is noise.

        The E-step needs only the moments of x: ``steps_per_pass`` iterations.
        """
        if not self.allow_missing:
            self._maximize_by_moments(**{k: statistics[k] for k in ("count", "first", "second")})
            return
        design, cross = statistics["design"], statistics["cross"]
        # a feature that was never observed keeps its mean and has no loadings
        ridge = 1e-12 * torch.eye(design.shape[-1], dtype=design.dtype, device=design.device)
        coefficients = torch.linalg.solve(design + ridge, cross[..., None])[..., 0]
        residual = statistics["squares"] - (coefficients * cross).sum(-1)
        counts = design[:, -1, -1].clamp_min(1e-30)
        self.loc.add_(coefficients[:, -1])
        self.weight.copy_(coefficients[:, :-1])
        self.log_noise.copy_(self._noise(residual, counts).log())

    def _maximize_by_moments(self, count: Tensor, first: Tensor, second: Tensor) -> None:
        shift = first / count
        covariance = second / count - torch.outer(shift, shift)
        ones = torch.ones_like(shift)
        weight, noise = em_on_covariance(
            covariance,
            self.weight.double(),
            self.log_noise.double().exp(),
            lambda residual: self._noise(residual, ones),
            self.steps_per_pass,
        )
        self.loc.add_(shift)
        self.weight.copy_(weight)
        self.log_noise.copy_(noise.log())

    def _noise(self, residual: Tensor, counts: Tensor) -> Tensor:
        """Variance of the noise from residual sums of squares and their counts, ``(D,)`` each."""
        return torch.maximum(residual / counts, self.least_noise.to(residual))

    @torch.no_grad()
    def relabel(self) -> None:
        """Rotate the factors: independent given x, the best determined first, signs fixed."""
        sd = self.noise.double().sqrt()[:, None]
        u, s, _ = torch.linalg.svd(self.weight.double() / sd, full_matrices=False)
        rotated = sd * u * s
        largest = rotated.gather(0, rotated.abs().argmax(0, keepdim=True))
        self.weight.copy_(rotated * torch.where(largest < 0, -1.0, 1.0))

    # ---- queries ----------------------------------------------------------------------------

    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([self._infer(part)[1] for (part,) in self.batches(x)]).to(self.dtype)

    def encode(self, x: Array) -> Float[Tensor, "n k"]:
        """Posterior mean of the factors, ``(n, K)``."""
        return torch.cat([self._infer(part)[0].mean for (part,) in self.batches(x)]).to(self.dtype)

    @torch.no_grad()
    def sample(
        self, num_samples: int, given: Array | Mapping[str, Any] | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw rows, all anew or with some features held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(D,)`` or ``(num_samples, D)``: values to be held, NaN where free; the free ones
            are drawn from their exact conditional distribution. Or ``{column: value}``, after a
            fit to a data frame.

        Returns
        -------
        Tensor
            ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` has another shape.
        """
        held = self.loc.new_full((num_samples, self.num_features), torch.nan)
        if given is not None:
            given = self.coded("x", given)
            held = read_given(given, num_samples, (self.num_features,), self.loc)
        r, observed = residuals(held, self.loc, True)
        factors = infer_factors(r, observed, self.weight.double(), 1.0 / self.noise.double())
        z = factors.mean + (factors.scale_tril @ torch.randn_like(factors.mean)[..., None])[..., 0]
        x = self.loc + z.to(self.dtype) @ self.weight.mT
        x = x + self.noise.sqrt() * torch.randn_like(x)
        return torch.where(held.isnan(), x, held)
