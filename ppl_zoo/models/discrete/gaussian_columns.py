"""Gaussian columns of naive Bayes: means and precisions by class, or their posterior."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Gamma, kl_divergence

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.moments import column_moments

__all__ = ["GaussianColumns"]


class GaussianColumns(nn.Module):
    """Gaussian class-conditional parameters, in units of the data's mean and sd.

    With ``bayesian``, q(mean, precision) is Normal-Gamma: precision ~ Gamma(shape, rate), mean ~
    Normal(loc, 1 / sqrt(strength * precision)).

    Parameters
    ----------
    num_classes, num_features
        Shape of both.
    bayesian
        Whether means and precisions are latent variables.
    smoothing
        Added to every variance, in units of the variance of its column.
    """

    def __init__(
        self, num_classes: int, num_features: int, bayesian: bool, smoothing: float
    ) -> None:
        super().__init__()
        shape = (num_classes, num_features)
        self.bayesian, self.smoothing = bayesian, smoothing
        self.register_buffer("centre", torch.zeros(num_features))
        self.register_buffer("spread", torch.ones(num_features))
        self.register_buffer("floor", torch.zeros(num_features))
        self.loc = nn.Parameter(torch.zeros(shape))
        self.log_precision = nn.Parameter(torch.zeros(shape)) if not bayesian else None
        # strength, shape and rate: the prior is weak, a hundredth of a row about the mean
        if bayesian:
            self.register_buffer("prior", torch.tensor([0.01, 1.0, 1.0]))
            self.log_q = nn.Parameter(self.prior.log()[:, None, None].expand(3, *shape).clone())

    @torch.no_grad()
    def initialize(self, rows: Rows, columns: slice | list[int], scatter: bool) -> None:
        """Standardise by the data, every class alike; ``scatter`` makes the means random."""
        mean, variance = column_moments(chunk[0][..., columns] for chunk in rows.chunks(4096))
        self.centre.copy_(mean)
        self.spread.copy_(torch.where(variance > 0, variance, 1.0).sqrt())
        self.floor.fill_(self.smoothing)
        self.loc.zero_()
        if scatter:
            self.loc.normal_()
        if self.bayesian:
            self.log_q.copy_(self.prior.log()[:, None, None].expand_as(self.log_q))
        else:
            self.log_precision.zero_()

    def units(self) -> dict[str, Tensor]:
        """Units of the columns, for ``Features.log_densities``."""
        return {"centre": self.centre, "spread": self.spread}

    def natural_parameters(self, mean: Tensor, precision: Tensor) -> dict[str, Tensor]:
        """Natural parameters of given means and precisions."""
        linear = mean * precision
        constant = 0.5 * (precision.log() - linear * mean)
        return {"linear": linear, "precisions": precision, "constant": constant}

    def point_naturals(self) -> dict[str, Tensor]:
        """Natural parameters of the point estimate; at the posterior means, where ``bayesian``."""
        if not self.bayesian:
            return self.natural_parameters(self.loc, self.log_precision.exp())
        _, shape, rate = self.log_q.exp()
        return self.natural_parameters(self.loc, shape / rate)

    def expected_naturals(self) -> dict[str, Tensor]:
        """Natural parameters for the E-step: their mean under q.

        Without q, the smoothing enters the objective as noise variance of the rows: the smoothed
        variance is then its exact maximum, and EM is monotone.
        """
        if not self.bayesian:
            point = self.point_naturals()
            constant = point["constant"] - 0.5 * point["precisions"] * self.floor
            return {**point, "constant": constant}
        strength, shape, rate = self.log_q.exp()
        precision = shape / rate
        linear = self.loc * precision
        constant = 0.5 * (shape.digamma() - rate.log() - self.loc * linear - 1.0 / strength)
        return {"linear": linear, "precisions": precision, "constant": constant}

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: maximum likelihood, or the posterior."""
        count, total = statistics["constant"], statistics["linear"]
        square = -2.0 * statistics["precisions"]
        if self.bayesian:
            strength, shape, rate = self.prior.double()
            strength = strength + count
            mean = total / strength
            rate = (rate + 0.5 * (square - strength * mean**2)).clamp_min(rate * 1e-3)
            self.loc.copy_(mean)
            self.log_q.copy_(torch.stack([strength, shape + 0.5 * count, rate]).log())
            return
        some = count > 1e-10  # a class without rows keeps its parameters
        safe = torch.where(some, count, 1.0)
        mean = total / safe
        variance = (square / safe - mean**2).clamp_min(0.0) + self.floor.double()
        variance = variance.clamp_min(1e-12)
        self.loc.copy_(torch.where(some, mean, self.loc.double()))
        precision = torch.where(some, -variance.log(), self.log_precision.double())
        self.log_precision.copy_(precision)

    def sample_naturals(self, posterior: bool) -> dict[str, Tensor]:
        """Sample sites "precision" and "mean", of the prior or of q: natural parameters."""
        q = self.log_q.exp()
        strength, shape, rate = q if posterior else self.prior[:, None, None].expand_as(q)
        precision = pyro.sample("precision", dist.Gamma(shape, rate).to_event(2))
        loc = self.loc if posterior else torch.zeros_like(self.loc)
        sd = (strength * precision).rsqrt()
        mean = pyro.sample("mean", dist.Normal(loc, sd).to_event(2))
        return self.natural_parameters(mean, precision)

    def negative_kl(self) -> Tensor:
        """-KL(q || prior), in nats."""
        strength, shape, rate = self.log_q.exp()
        strength0, shape0, rate0 = self.prior
        ratio = strength0 / strength
        normal = 0.5 * (ratio - ratio.log() - 1.0 + strength0 * self.loc**2 * shape / rate)
        gamma = kl_divergence(Gamma(shape, rate), Gamma(shape0, rate0))
        return -(normal + gamma).sum()

    def log_predictive(self, x: Tensor) -> Tensor:
        """Log predictive density ``(n, C)``, a Student t: mean and precision integrated out."""
        known = ~x.isnan()
        y = ((torch.where(known, x, self.centre) - self.centre) / self.spread).unsqueeze(-2)
        strength, shape, rate = self.log_q.exp()
        scale = (rate * (strength + 1.0) / (shape * strength)).sqrt()
        log_density = dist.StudentT(2.0 * shape, self.loc, scale).log_prob(y)
        log_density = log_density - self.spread.log()
        return torch.where(known.unsqueeze(-2), log_density, 0.0).sum(-1)
