"""Evidence: marginal likelihood of the data, all latents integrated out.

The difference of two models' log evidences is the log of their Bayes factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_zoo.core.display import html_table
from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.khat import khat
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.random import chain_seed, fork_generators, set_seed
from ppl_zoo.core.rows import evenly_spaced
from ppl_zoo.evaluation.annealing import anneal, bridge, log_mean
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["Evidence", "evidence"]

METHODS = ("elbo", "importance", "bridge", "annealed")


@dataclass(frozen=True)
class Evidence:
    """An estimate of log p(x).

    Attributes
    ----------
    value, error
        Log evidence and its standard error, in nats.
    method
        "elbo", "importance", "bridge" or "annealed".
    num_samples
        Number of draws or particles.
    khat
        Pareto k-hat of the importance weights: above 0.7 neither value nor error can be trusted.
        NaN where there are no weights, or they are all equal.
    """

    value: float
    error: float
    method: str
    num_samples: int
    khat: float

    def _repr_html_(self) -> str:
        """Show value, error and method."""
        return html_table("Evidence", {"log p(x)": str(self).partition(" = ")[2]})

    def __str__(self) -> str:
        warning = "" if not self.khat > 0.7 else f", k-hat {self.khat:.2f}: not to be trusted"
        return f"log p(x) = {self.value:.3f} +- {self.error:.3f} nats ({self.method}{warning})"


@one_at_a_time
def evidence(
    fit: FittedModel,
    method: str = "bridge",
    *,
    num_samples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> Evidence:
    """Estimate log p(x) of a fit's data.

    Parameters
    ----------
    fit
        Any fit of a model with latents; learned parameters are held at their values.
    method
        - "elbo": the mean of log p(x, z) - log q(z) over the guide; a lower bound.
        - "importance": the importance-weighted bound, with the guide as proposal.
        - "bridge": bridge sampling (Meng & Wong) between the posterior and a normal of the
          fit's mean and covariance, in unconstrained space. Posterior draws are those of the
          fit if it was sampled, else ends of annealing runs.
        - "annealed": annealed importance sampling from that normal to the posterior.
    num_samples
        Draws or particles.
    seed
        Of the draws; the caller's random state is left alone.
    **options
        Of :func:`ppl_zoo.evaluation.annealing.anneal`: ``num_steps``, ``num_leapfrog``.

    Returns
    -------
    Evidence

    Raises
    ------
    DataError
        If there is no such method.
    QueryError
        If the method needs a guide, or continuous latents, that the fit does not have.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.linspace(-1, 1, 20)[:, None]
    >>> fit = zoo.fit(zoo.LinearRegression(1), (x, 1.0 + x[:, 0]), progress=False)
    >>> zoo.evidence(fit, "importance").khat < 0.7
    True
    """
    if method not in METHODS:
        raise DataError(
            f"method: got {method!r}{did_you_mean(method, METHODS)}, expected one of {METHODS}"
        )
    if not num_samples > 1:
        raise DataError(f"num_samples: got {num_samples}, expected 2 or more")
    if method in ("elbo", "importance"):
        weights = fit.log_weights(num_samples)[fit.solution.best].double()
        if method == "elbo":
            value, error = weights.mean(), weights.std() / num_samples**0.5
        else:
            value, error = log_mean(weights)
        return Evidence(float(value), float(error), method, num_samples, khat(weights))
    with fork_generators(fit.model.device), fit.model.defaults():
        set_seed(chain_seed(seed, 0, -11), fit.model.device)
        return _integrate(fit, method, num_samples, options)


def _integrate(
    fit: FittedModel, method: str, num_samples: int, options: dict[str, Any]
) -> Evidence:
    """Estimate the evidence by bridge sampling or annealing, in unconstrained space."""
    problem = _unconstrained(fit)
    draws = _unconstrained_draws(fit, problem, num_samples)
    sampled = fit.solution.draws is not None
    # half of a sampler's draws fit the proposal, the other half are bridged to
    loc, scale = _moments(draws[::2] if sampled else draws)
    log_scale = scale.diagonal().log().sum()
    density = log_density(problem)

    def log_target(u: Tensor) -> Tensor:
        """Log joint density where the proposal is standard normal."""
        z = loc + u @ scale.mT
        return density(z.flatten(0, -2)).reshape(z.shape[:-1]) + log_scale

    normal = torch.distributions.Normal(torch.zeros_like(loc), 1.0)
    start = torch.distributions.Independent(normal, 1)
    if method == "bridge" and sampled:
        ends = torch.linalg.solve_triangular(scale, (draws[1::2] - loc).mT, upper=False).mT
        size = min(_effective_size(fit), 1.0) * len(ends)
    else:
        # the start is near the posterior: fewer temperatures than from a prior
        options = {"num_steps": 50} | options
        run = anneal(log_target, start, num_particles=num_samples, **options)
        ends, size = run.particles, float(num_samples)
        if method == "annealed":
            value, error = run.estimate
            return Evidence(float(value), float(error), method, num_samples, khat(run.log_weights))
    proposals = start.sample((num_samples,))
    with torch.no_grad():
        found = bridge(
            log_target(ends),
            start.log_prob(ends),
            log_target(proposals),
            start.log_prob(proposals),
            size,
        )
    return Evidence(float(found.value), float(found.error), method, num_samples, float("nan"))


def _unconstrained(fit: FittedModel) -> Unconstrained:
    """Posterior of a fit on the unconstrained scale."""
    rows = fit.model.rows_of(fit.data())
    try:
        return Unconstrained(fit.model, rows)
    except DataError as error:
        raise QueryError(f"{error}; use method='importance'") from error


def _unconstrained_draws(fit: FittedModel, problem: Unconstrained, count: int) -> Tensor:
    """Draws of the best chain (all chains of a sampler) as vectors, ``(draws, size)``."""
    if fit.solution.draws is None:
        drawn = fit.draws(max(count, 4 * problem.size))[fit.solution.best].values
    else:
        drawn = {k: v.flatten(0, 1) for k, v in fit.solution.draws.items()}
    total = len(next(iter(drawn.values())))
    wanted = min(total, max(2 * count, 4 * problem.size))
    picked = evenly_spaced(total, wanted)
    chosen = {k: drawn[k].to(problem.model.device)[picked] for k in problem.places}
    with pyro.validation_enabled(False), _DetachedData():
        return torch.func.vmap(problem.unconstrain, randomness="different")(chosen)


def _effective_size(fit: FittedModel) -> float:
    """Smallest effective sample size of the latents, a draw."""
    from pyro.ops.stats import effective_sample_size

    drawn = fit.solution.draws
    sizes = [
        effective_sample_size(v.double().flatten(2) if v.ndim > 2 else v.double()).min()
        for v in drawn.values()
    ]
    some = next(iter(drawn.values()))
    finite = [float(s) for s in sizes if s.isfinite()]
    return max(min(finite, default=1.0) / some.shape[:2].numel(), 1e-3)


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and Cholesky factor of the covariance with a small ridge."""
    loc = draws.mean(0)
    covariance = (draws - loc).mT @ (draws - loc) / (len(draws) - 1)
    ridge = 1e-6 * covariance.diagonal().clamp_min(1e-12).diag()
    return loc, torch.linalg.cholesky(covariance + ridge)


def log_density(problem: Unconstrained) -> Callable[[Tensor], Tensor]:
    """Log joint density of vectors, ``(n, size) -> (n,)``, differentiable.

    By ``vmap`` of the program; one by one where Pyro reads values while it runs.
    """
    data = problem.data

    def one(z: Tensor) -> Tensor:
        return -problem.energy(z, *data)

    def by_one(z: Tensor) -> Tensor:
        return torch.stack([one(row) for row in z])

    def vectorised(z: Tensor) -> Tensor:
        with pyro.validation_enabled(False), _DetachedData():
            return torch.func.vmap(one)(z)

    trial = 0.1 * torch.randn(3, problem.size, dtype=problem.model.dtype, device=data[0].device)
    try:
        same = torch.allclose(vectorised(trial), by_one(trial), rtol=1e-4, atol=1e-4)
    # what vmap and Pyro raise where a program cannot run for many vectors at once
    except (RuntimeError, NotImplementedError, ValueError):
        same = False
    return vectorised if same else by_one


class _DetachedData(TorchFunctionMode):
    """Replace ``tensor.data``, which vmap refuses, by a detached tensor; Pyro reads its shape."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if func == Tensor.data.__get__:
            return args[0].detach()
        return func(*args, **(kwargs or {}))
