"""Variational posterior of a Bayesian mixture of Gaussians, its prior and predictive density.

All of q follows from the expected rows of each component, ``counts``, its mean ``loc`` and the
``scale`` of its covariance: concentrations, strengths and degrees of freedom are those of the
prior plus counts. Natural parameters are the prior's plus statistics, so that a natural
gradient step is an average of statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_zoo.core.options import did_you_mean
from ppl_zoo.models.mixtures.covariance import CovarianceType
from ppl_zoo.models.mixtures.em_statistics import BufferPool, Scorer
from ppl_zoo.models.mixtures.precision_priors import make_precision_prior
from ppl_zoo.models.mixtures.prior import ConjugateMixturePrior
from ppl_zoo.models.mixtures.whitening import Whitening

__all__ = ["VariationalPosterior"]


#: of the correlations of the data, where they are taken as a prior
MIN_EIGENVALUE = 1e-6


class VariationalPosterior(nn.Module):
    """Posterior q(weights) q(means, precisions) and its prior, of ``BayesianGaussianMixture``."""

    def __init__(
        self,
        covariance_type: CovarianceType,
        num_components: int,
        num_features: int,
        weights: str,
        concentration: float,
        mean_prior: Any,
        mean_strength: float,
        covariance_prior: Any,
        degrees_of_freedom: float,
    ) -> None:
        super().__init__()
        if weights not in _WEIGHT_PRIORS:
            raise ValueError(
                f"weights: got {weights!r}{did_you_mean(weights, _WEIGHT_PRIORS)}, "
                f"expected one of {tuple(_WEIGHT_PRIORS)}"
            )
        for name, value, least in (
            ("weight_concentration", concentration, 0.0),
            ("mean_strength", mean_strength, 0.0),
            (
                "degrees_of_freedom",
                degrees_of_freedom,
                num_features - 1.0 if covariance_type.matrix else 0.0,
            ),
        ):
            if not value > least:
                raise ValueError(f"{name}: got {value}, expected more than {least:g}")
        self.covariance_type, self.num_features = covariance_type, num_features
        self.weights = _WEIGHT_PRIORS[weights]
        self.precisions = make_precision_prior(covariance_type, num_features)
        self._buffer_pool = BufferPool()
        nu = degrees_of_freedom
        # the M-step of EM with this prior gives the posterior's parameters
        given = None if covariance_prior is None else torch.as_tensor(covariance_prior) / nu
        self.prior = ConjugateMixturePrior(
            covariance_type, num_features, 1.0, mean_prior, mean_strength, given, nu
        )
        self.coordinates = Whitening(covariance_type, num_features, missing=False)
        self.register_buffer("concentration", torch.tensor(float(concentration)))
        self.register_buffer("strength", torch.tensor(float(mean_strength)))
        self.register_buffer("freedom", torch.tensor(float(nu)))
        self.register_buffer(
            "prior_root", covariance_type.unit_scale(num_components, num_features)
        )
        self.register_buffer("counts", torch.ones(num_components))
        self.register_buffer("loc", torch.zeros(num_components, num_features))
        self.register_buffer("scale", covariance_type.unit_scale(num_components, num_features))
        self._set_root()

    # ---- Pyro programs ----------------------------------------------------------------------

    def draw_prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sample weights (or sticks), means and precisions from the prior."""
        none = torch.zeros_like(self.counts)
        nu = self.freedom if self.precisions.tied else self.freedom.expand(none.shape)
        drawn = self.weights.draw(self.concentration, none)
        precision = self.precisions.draw(self.prior_root, nu)
        strength = self.strength.expand(none.shape)
        means = self.precisions.draw_means(
            self.prior.mean.expand_as(self.loc), strength, precision
        )
        return drawn, means, precision

    def draw_posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the same sites from q."""
        drawn = self.weights.draw(self.concentration, self.counts)
        strength, nu = self.strength + self.counts, self._nu(self.counts)
        root = self.precisions.root(self.scale, nu).to(self.scale)
        precision = self.precisions.draw(root, nu)
        return drawn, self.precisions.draw_means(self.loc, strength, precision), precision

    # ---- CAVI -------------------------------------------------------------------------------

    def whiten_by(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the whitening, and priors that were not given, from the moments of data."""
        self.coordinates.fit(mean, covariance)
        if not self.prior.given[0]:
            self.prior.mean.copy_(mean)
        if not self.prior.given[1]:
            if self.covariance_type.matrix:
                covariance = _full_rank(covariance)
            self.prior.covariance.copy_(covariance / self.freedom.double())
        self._set_root()

    def update(self, statistics: Mapping[str, Tensor], step: float) -> None:
        """Move natural parameters towards prior + statistics."""
        whitening, means = self.coordinates, self.coordinates.whiten_means(self.loc)
        if step < 1:
            parameters = whitening.whiten_parameters(self.loc, self.scale)
            counts = self.counts.double()
            old = self.prior.statistics_at_mode(
                counts.sum(), counts.clamp_min(1e-30).log(), *parameters, whitening
            )
            statistics = {k: (1 - step) * old[k] + step * statistics[k] for k in old}
        _, means, scale = self.prior.maximize(statistics, means, whitening)
        counts = statistics["counts"]
        self.assign(counts, *whitening.unwhiten_parameters(means, scale))
        self.reorder(self.weights.order(self.concentration.double(), counts))

    def assign(self, counts: Tensor, loc: Tensor, scale: Tensor) -> None:
        """Set q, in units of x."""
        self.counts.copy_(counts)
        self.loc.copy_(loc)
        self.scale.copy_(scale)

    def reorder(self, order: Tensor) -> None:
        """Permute the components."""
        for buffer in (self.counts, self.loc) + (() if self.precisions.tied else (self.scale,)):
            buffer.copy_(buffer[order].clone())

    def copy_from(self, other: VariationalPosterior, chosen: Tensor) -> None:
        """Copy the prior of another mixture, and q of some of its components."""
        state = other.state_dict()
        tied = () if self.precisions.tied else ("scale", "prior_root")
        for name in ("counts", "loc", *tied):
            state[name] = state[name][chosen]
        self.load_state_dict(state)

    def scorer(self, dtype: torch.dtype) -> Scorer:
        """E-step by E[log p(x, assignment | theta)]: a Gaussian's, shifted by component."""
        counts = self.counts.double()
        log_weights = self.weights.expected_log(self.concentration.double(), counts)
        correction = self.precisions.correction(self._nu(counts))
        known = self.num_features / (self.strength.double() + counts)
        log_weights = log_weights + 0.5 * (correction - known)
        parameters = self.coordinates.whiten_parameters(self.loc, self.scale)
        jacobian = self.coordinates.log_jacobian()
        return Scorer(
            self.covariance_type, log_weights, *parameters, jacobian, dtype, self._buffer_pool
        )

    def negative_kl(self) -> Tensor:
        """-KL(q || p), float64."""
        counts, loc, scale = self.counts.double(), self.loc.double(), self.scale.double()
        value = self.weights.negative_kl(self.concentration.double(), counts)
        strength = self.strength.double()
        share = strength / (strength + counts)
        off = self.covariance_type.whitened(loc - self.prior.mean.double(), scale).square().sum(-1)
        means = self.num_features * (share.log() - share + 1.0) - strength * off
        nu0 = self.freedom.double()
        scale0 = self._prior_scale()
        nu0 = nu0 if self.precisions.tied else nu0.expand(len(counts))
        covariances = self.precisions.negative_kl(scale, self._nu(counts), scale0, nu0)
        return value + 0.5 * means.sum() + covariances.sum()

    # ---- posterior predictive ---------------------------------------------------------------

    def mean_weights(self) -> Tensor:
        """E[weights] ``(K,)``, float64."""
        return self.weights.mean(self.concentration.double(), self.counts.double())

    def predictive(self) -> _StudentTMixture:
        """Return the predictive density, a mixture of Student t."""
        counts = self.counts.double()
        nu = self._nu(counts).expand(len(counts))
        freedom, stretch = self.precisions.predictive(self.strength.double() + counts, nu)
        weights = self.mean_weights().clamp_min(1e-300).log()
        loc, scale = self.loc.double(), self.scale.double()
        return _StudentTMixture(self.covariance_type, weights, freedom, stretch, loc, scale)

    def _nu(self, counts: Tensor) -> Tensor:
        freedom = self.freedom.to(counts.dtype)
        return freedom + counts.sum() if self.precisions.tied else freedom + counts

    def _prior_scale(self) -> Tensor:
        """Scale of one component of the prior, expanded as those of q are, float64."""
        covariance_type, whitening = self.covariance_type, self.coordinates
        covariance = whitening.whiten_covariance(self.prior.covariance)
        if covariance_type.name == "spherical":
            covariance = covariance.mean()
        scale = covariance_type.factor(covariance).expand(self.scale.shape)
        return covariance_type.linear_map(whitening.whitener.double(), scale, inverse=True)

    def _set_root(self) -> None:
        scale = self._prior_scale()
        nu = self.freedom.double().expand(() if self.precisions.tied else scale.shape[:1])
        self.prior_root.copy_(self.precisions.root(scale, nu))


def _full_rank(covariance: Tensor) -> Tensor:
    """Covariance of data as a prior, which has to have full rank; features may be collinear."""
    sd = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(sd, sd)
    if torch.linalg.eigvalsh(correlation)[0] > MIN_EIGENVALUE:
        return covariance
    return covariance + MIN_EIGENVALUE * (sd * sd).diag()


class _StudentTMixture:
    """Mixture of Student t distributions ``(freedom, loc, stretch * covariance)``, float64."""

    def __init__(
        self,
        covariance_type: CovarianceType,
        log_weights: Tensor,
        freedom: Tensor,
        stretch: Tensor,
        loc: Tensor,
        scale: Tensor,
    ) -> None:
        self.covariance_type, self.log_weights = covariance_type, log_weights
        self.freedom, self.loc = freedom, loc
        num_components, self.num_features = loc.shape
        root = stretch.sqrt()
        if covariance_type.matrix:
            scale = scale.expand(num_components, -1, -1) * root[:, None, None]
            eye = torch.eye(self.num_features).to(scale).expand_as(scale)
            self.units = torch.linalg.solve_triangular(scale, eye, upper=False)
            self.log_det = scale.diagonal(dim1=1, dim2=2).log().sum(-1)
        else:
            scale = scale.reshape(num_components, -1).expand_as(loc) * root[:, None]
            self.units, self.log_det = 1.0 / scale, scale.log().sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of rows ``(n, D)``."""
        x = x.double()
        return torch.stack([self._joint(x, k) for k in range(len(self.loc))]).logsumexp(0)

    def _joint(self, x: Tensor, k: int) -> Tensor:
        z, freedom = x - self.loc[k], self.freedom[k]
        z = z @ self.units[k].mT if self.covariance_type.matrix else z * self.units[k]
        if self.covariance_type.name == "diagonal":  # each feature has a precision of its own
            log_density = dist.StudentT(freedom).log_prob(z).sum(-1)
        else:
            half, size = 0.5 * (freedom + self.num_features), 0.5 * self.num_features
            constant = torch.lgamma(half) - torch.lgamma(0.5 * freedom)
            constant = constant - size * (freedom.log() + math.log(math.pi))
            log_density = constant - half * (z.square().sum(-1) / freedom).log1p()
        return self.log_weights[k] + log_density - self.log_det[k]

    def sample(self, num_samples: int) -> Tensor:
        """Draw rows ``(num_samples, D)``."""
        z = torch.multinomial(self.log_weights.exp(), num_samples, replacement=True)
        freedom = self.freedom[z, None]
        if self.covariance_type.name == "diagonal":
            freedom = freedom.expand(-1, self.num_features)
        wide = (0.5 * freedom / torch._standard_gamma(0.5 * freedom)).sqrt()
        noise = torch.randn(num_samples, self.num_features).to(wide) * wide
        out = torch.empty_like(noise)
        for k in z.unique().tolist():
            own = z == k
            if self.covariance_type.matrix:
                shift = torch.linalg.solve_triangular(self.units[k], noise[own].mT, upper=False).mT
            else:
                shift = noise[own] / self.units[k]
            out[own] = self.loc[k] + shift
        return out


# ---- priors of the weights: each q is conjugate, known from the expected rows of each component


class _DirichletWeights:
    """Symmetric Dirichlet prior ``weights ~ Dirichlet(concentration, ..., concentration)``."""

    name = "dirichlet"

    def draw(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Sample the weights ``(K,)``; counts are 0 for the prior."""
        return pyro.sample("weights", dist.Dirichlet(concentration + counts))

    def weights(self, drawn: Tensor) -> Tensor:
        """Weights ``(..., K)`` of what was drawn."""
        return drawn

    def expected_log(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[log weights] ``(K,)``."""
        total = (concentration + counts).sum()
        return torch.digamma(concentration + counts) - torch.digamma(total)

    def mean(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[weights] ``(K,)``."""
        return (concentration + counts) / (concentration + counts).sum()

    def negative_kl(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """-KL(q || p)."""
        q = dist.Dirichlet(concentration + counts)
        return -torch.distributions.kl_divergence(q, dist.Dirichlet(concentration + 0.0 * counts))

    def order(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Return an order of the components under which the bound is no lower: all are equal."""
        return torch.arange(len(counts), device=counts.device)


class Beta(dist.Beta):
    """Beta distribution whose draws are below 1 in any dtype.

    Where the concentration is small, those of empty components round to 1, where the density has
    no bound.
    """

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        value = super().rsample(sample_shape)
        return value.clamp(max=1.0 - torch.finfo(value.dtype).eps)


class _StickBreakingWeights:
    """Truncated stick-breaking prior of a Dirichlet process (Blei & Jordan 2006).

    ``weights[k] = sticks[k] prod_{j<k} (1 - sticks[j])``, ``sticks ~ Beta(1, concentration)``; the
    last component takes what is left.
    """

    name = "dirichlet-process"

    def draw(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Sample the K - 1 sticks; counts are 0 for the prior."""
        a, b = self._beta(concentration, counts)
        if not len(a):  # one component takes all: no site of no numbers
            return a
        return pyro.sample("sticks", Beta(a, b).to_event(1))

    def weights(self, drawn: Tensor) -> Tensor:
        """Weights ``(..., K)`` of what was drawn."""
        left = (1.0 - drawn).cumprod(-1)
        ones = drawn.new_ones(*drawn.shape[:-1], 1)
        broken = torch.cat([drawn, ones], -1) * torch.cat([ones, left], -1)
        return pyro.deterministic("weights", broken, event_dim=1)

    def expected_log(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[log weights] ``(K,)``."""
        a, b = self._beta(concentration, counts)
        total = torch.digamma(a + b)
        taken, left = torch.digamma(a) - total, torch.digamma(b) - total
        zero = a.new_zeros(1)
        return torch.cat([taken, zero]) + torch.cat([zero, left.cumsum(0)])

    def mean(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """E[weights] ``(K,)``."""
        a, b = self._beta(concentration, counts)
        one = a.new_ones(1)
        return torch.cat([a / (a + b), one]) * torch.cat([one, (b / (a + b)).cumprod(0)])

    def negative_kl(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """-KL(q || p)."""
        if len(counts) == 1:
            return counts.new_zeros(())
        q = dist.Beta(*self._beta(concentration, counts))
        prior = dist.Beta(*self._beta(concentration, torch.zeros_like(counts)))
        return -torch.distributions.kl_divergence(q, prior).sum()

    def order(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Return falling counts, the best order unless the truncation favours the present one."""
        same = torch.arange(len(counts), device=counts.device)
        sizes = counts.argsort(descending=True, stable=True)
        gain = self._evidence(concentration, counts[sizes]) - self._evidence(concentration, counts)
        return sizes if gain > 0 else same

    def _evidence(self, concentration: Tensor, counts: Tensor) -> Tensor:
        """Log probability of assignments with these counts, but for a constant."""
        a, b = self._beta(concentration, counts)
        return (torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)).sum()

    def _beta(self, concentration: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        after = counts.flip(0).cumsum(0).flip(0)[1:]
        return 1.0 + counts[:-1], concentration + after


_WEIGHT_PRIORS: dict[str, _DirichletWeights | _StickBreakingWeights] = {
    prior.name: prior for prior in (_DirichletWeights(), _StickBreakingWeights())
}
