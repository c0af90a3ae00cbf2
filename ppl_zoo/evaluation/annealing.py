"""Annealed importance sampling and bridge sampling: integrals of unnormalised densities.

Plain tensors, no model: a density is a function of a batch of points. Particles are the first
dimension, whatever else is integrated apart from each other (rows of data) comes next, and the
coordinates of a point are the last: ``(particles, *batch, size)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Annealed", "Estimate", "anneal", "bridge", "log_mean"]

LogDensity = Callable[[Tensor], Tensor]


@runtime_checkable
class StartDistribution(Protocol):
    """Distribution of points, ``(*batch, size)``, as of torch: what annealing starts from."""

    def sample(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Independent points, ``(*sample_shape, *batch, size)``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each point, without the last dimension."""


class Estimate(NamedTuple):
    """Log of an integral and its standard error, in nats, ``(*batch)``."""

    value: Tensor
    error: Tensor


class Annealed(NamedTuple):
    """Result of annealing: log weights ``(particles, *batch)`` and the final particles."""

    log_weights: Tensor
    particles: Tensor
    acceptance: Tensor

    @property
    def estimate(self) -> Estimate:
        """Log of the integral."""
        return log_mean(self.log_weights)


def log_mean(log_weights: Tensor) -> Estimate:
    """Log of the mean weight over the first dimension; its error by the delta method.

    The mean of the weights is unbiased, so that its logarithm is a lower bound in expectation.
    """
    count = log_weights.shape[0]
    value = log_weights.logsumexp(0) - math.log(count)
    relative = (log_weights - value).exp().var(0) / count
    return Estimate(value, relative.sqrt())


@torch.no_grad()
def anneal(
    log_target: LogDensity,
    start: StartDistribution,
    *,
    num_particles: int = 256,
    num_steps: int = 200,
    num_leapfrog: int = 5,
    step_size: float = 0.5,
    target_accept: float = 0.65,
    backward_from: Tensor | None = None,
) -> Annealed:
    """Annealed importance sampling with Hamiltonian moves (Neal 2001).

    Particles go from ``start`` to the target through densities ``start^(1-b) target^b``, b on
    a sigmoid (Wu et al. 2017). The step of each temperature is found by a pilot run of its own
    and then held, so that the mean of the weights is unbiased.

    Parameters
    ----------
    log_target
        ``(particles, *batch, size) -> (particles, *batch)``, differentiable, unnormalised.
    start
        A torch distribution of points, batch shape ``batch``, event shape ``(size,)``: the
        prior, or a distribution close to the target.
    num_particles, num_steps, num_leapfrog
        Particles, temperatures, and steps of each move.
    step_size, target_accept
        First step, and the rate of accepted moves that the pilot aims at.
    backward_from
        Exact draws of the target, ``(num_particles, *batch, size)``: go from them back to
        ``start``. Then ``-log mean exp(-log_weights)`` bounds the log of the integral from
        above (Grosse, Ancha & Roy 2016, https://arxiv.org/abs/1606.02275).

    Returns
    -------
    Annealed

    References
    ----------
    Neal 2001, Annealed importance sampling, https://arxiv.org/abs/physics/9803008. Wu, Burda,
    Salakhutdinov & Grosse 2017, On the quantitative analysis of decoder-based generative
    models, https://arxiv.org/abs/1611.04273.
    """
    path = _AnnealingPath(log_target, start, num_leapfrog)
    ends = torch.sigmoid(torch.tensor([-4.0, 4.0], dtype=torch.float64))
    betas = torch.linspace(-4.0, 4.0, num_steps + 1, dtype=torch.float64).sigmoid()
    betas = ((betas - ends[0]) / (ends[1] - ends[0])).tolist()
    betas[0], betas[-1] = 0.0, 1.0
    pilot = start.sample((max(16, num_particles // 4),))
    steps = path.tune(pilot, betas, step_size, target_accept)
    forward = backward_from is None
    z = start.sample((num_particles,)) if forward else backward_from
    log_weights, rates = torch.zeros_like(start.log_prob(z)), []
    schedule = list(zip(betas[:-1], betas[1:], steps, strict=True))
    for before, beta, step in schedule if forward else reversed(schedule):
        if forward:
            log_weights = log_weights + (beta - before) * path.log_ratio(z)
        z, rate = path.move(z, beta, step)
        if not forward:  # the same chain run the other way: it moves first
            log_weights = log_weights + (beta - before) * path.log_ratio(z)
        rates.append(rate)
    return Annealed(log_weights, z, torch.stack(rates).mean(0))


class _AnnealingPath:
    """Geometric path from start to target, and HMC moves that leave each density invariant."""

    def __init__(
        self, log_target: LogDensity, start: StartDistribution, num_leapfrog: int
    ) -> None:
        self.log_target, self.start, self.num_leapfrog = log_target, start, num_leapfrog

    def log_ratio(self, z: Tensor) -> Tensor:
        """Log of target / start; -inf where the target is NaN: no weight."""
        value = self.log_target(z) - self.start.log_prob(z)
        return torch.where(value.isnan(), -torch.inf, value)

    def log_density_and_gradient(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """Log density ``start^(1-beta) target^beta``, and its gradient."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = (1.0 - beta) * self.start.log_prob(z) + beta * self.log_target(z)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        value = value.detach()
        return torch.where(value.isnan(), -torch.inf, value), gradient

    def move(self, z: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor]:
        """HMC move of each particle, and the acceptance rate; ``step (*batch)``."""
        log_density, gradient = self.log_density_and_gradient(z, beta)
        momentum = torch.randn_like(z)
        jitter = 0.9 + 0.2 * torch.rand_like(log_density)
        step = (step * jitter)[..., None]
        energy = log_density - 0.5 * (momentum**2).sum(-1)
        new, value, diverged = z, log_density, torch.zeros_like(log_density, dtype=torch.bool)
        momentum = momentum + 0.5 * step * gradient
        for index in range(self.num_leapfrog):
            new = new + step * momentum
            # a diverging trajectory stays at its start and is rejected below
            diverged = diverged | ~new.isfinite().all(-1)
            new = torch.where(diverged[..., None], z, new)
            value, gradient = self.log_density_and_gradient(new, beta)
            last = index == self.num_leapfrog - 1
            momentum = momentum + (0.5 if last else 1.0) * step * gradient
        gain = value - 0.5 * (momentum**2).sum(-1) - energy
        accept = torch.where(diverged | gain.isnan(), -torch.inf, gain).clamp_max(0.0).exp()
        accepted = torch.rand_like(accept) < accept
        return torch.where(accepted[..., None], new, z), accept.mean(0)

    def tune(self, z: Tensor, betas: list[float], first: float, target: float) -> list[Tensor]:
        """Adapt the step size of each temperature, ``(*batch)`` each."""
        step = torch.full_like(self.start.log_prob(z)[0], first)
        for _ in range(10):  # at the start, where the scale is not known yet
            z, rate = self.move(z, betas[1], step)
            step = step * (1.5 * (rate - target)).exp()
        steps = []
        for beta in betas[1:]:
            steps.append(step)
            z, rate = self.move(z, beta, step)
            step = step * (0.5 * (rate - target)).exp()
        return steps


def bridge(
    target_at_draws: Tensor,
    proposal_at_draws: Tensor,
    target_at_proposals: Tensor,
    proposal_at_proposals: Tensor,
    effective_size: float | None = None,
) -> Estimate:
    """Bridge sampling with the optimal bridge (Meng & Wong 1996).

    Parameters
    ----------
    target_at_draws, proposal_at_draws
        Log densities (target unnormalised, proposal normalised) at draws of the target,
        ``(draws,)``.
    target_at_proposals, proposal_at_proposals
        The same at draws of the proposal.
    effective_size
        Effective sample size of the draws of the target, if they are correlated.

    Returns
    -------
    Estimate
        Log integral of the target. The error is that of Fruehwirth-Schnatter (2004).

    References
    ----------
    Meng & Wong 1996, Simulating ratios of normalizing constants, Statistica Sinica 6. Gronau
    et al. 2017, A tutorial on bridge sampling, https://arxiv.org/abs/1703.05984.
    """
    at_draws = (target_at_draws - proposal_at_draws).double()
    at_proposals = (target_at_proposals - proposal_at_proposals).double()
    at_proposals = torch.where(at_proposals.isnan(), -torch.inf, at_proposals)
    size = float(len(at_draws)) if effective_size is None else effective_size
    log_share = math.log(size / (size + len(at_proposals)))
    log_rest = math.log(len(at_proposals) / (size + len(at_proposals)))
    value = at_draws.median()
    for _ in range(1000):
        before = value
        above = at_proposals - torch.logaddexp(at_proposals + log_share, value + log_rest)
        below = -torch.logaddexp(at_draws + log_share, value + log_rest)
        value = above.logsumexp(0) - math.log(len(above))
        value = value - below.logsumexp(0) + math.log(len(below))
        if (value - before).abs() <= 1e-10 * (1.0 + value.abs()):
            break
    first = (above - above.max()).exp()
    second = (below - below.max()).exp()
    variance = first.var() / first.mean() ** 2 / len(first)
    variance = variance + second.var() / second.mean() ** 2 / size
    return Estimate(value, variance.sqrt())
