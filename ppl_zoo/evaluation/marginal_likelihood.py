"""How probable rows are under a model with latent variables of each row, honestly measured.

Four estimates of log p(x), each row by itself, with parameters held at their fitted values: by
draws of the prior (which shows why that fails), by importance sampling with the guide, the bound
that IWAE reports, and annealed importance sampling between two sides. Each comes with its standard
error and the effective size of its sample. Beside them, what the latents carry.

References: Burda, Grosse & Salakhutdinov 2016 (https://arxiv.org/abs/1509.00519), Wu et al. 2017
(https://arxiv.org/abs/1611.04273), Grosse, Ancha & Roy 2016 (https://arxiv.org/abs/1606.02275).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.tracing import draw
from ppl_zoo.evaluation.annealing import anneal
from ppl_zoo.evaluation.local_density import (
    LocalDensity,
    prior_program,
    simulate_rows,
    uniform_program,
)

__all__ = [
    "RowEstimate",
    "Sandwich",
    "annealed",
    "importance_sampling",
    "iwae_bound",
    "prior_sampling",
    "sandwich",
    "uniform_sampling",
]

#: draws times rows that are weighed at once
BLOCK = 2**16


class RowEstimate(NamedTuple):
    """An estimate of log p(x), each field ``(n,)``.

    Attributes
    ----------
    value
        In nats; in expectation a lower bound.
    error
        Standard error of ``value``, by the delta method; not to be trusted where ``ess`` is
        small.
    ess
        Effective number of samples, (sum w)^2 / sum w^2.
    """

    value: Tensor
    error: Tensor
    ess: Tensor

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over the rows and the standard error that the sampling leaves in it, nats a row."""
        n = len(self.value)
        return float(self.value.mean()), float(self.error.square().sum().sqrt()) / n


class Sandwich(NamedTuple):
    """Log p(x) of simulated rows from below and above, ``(n,)`` both, in nats."""

    lower: Tensor
    upper: Tensor

    @property
    def gap(self) -> float:
        """Mean of upper - lower: twice the error that annealing leaves, at most."""
        return float((self.upper - self.lower).mean())


def importance_sampling(
    model: Model, *data: Any, num_samples: int = 5000, proposal: Any = None
) -> RowEstimate:
    """Estimate log p(x) with the guide as proposal.

    Parameters
    ----------
    model
        A model whose latents all belong to single rows.
    *data
        As for ``model.model``, ``(n, ...)``.
    num_samples
        Draws of each row; weights are streamed, so that memory does not grow with them.
    proposal
        Another program of the same arguments to draw from; the fitted guide by default.

    Returns
    -------
    RowEstimate
    """
    guide = model.proposal() if proposal is None else proposal
    parts = _parts(model, data)
    return _join([_estimate(_weights(model, guide, part, num_samples)) for part in parts])


def prior_sampling(model: Model, *data: Any, num_samples: int = 5000) -> RowEstimate:
    """Estimate log p(x) as the mean of p(x | z) over draws of the prior.

    Unbiased on the scale of p(x), and useless in practice: hardly a draw explains a given row,
    which the effective size shows.
    """
    return importance_sampling(
        model, *data, num_samples=num_samples, proposal=prior_program(model)
    )


def uniform_sampling(
    model: Model, *data: Any, num_samples: int = 5000, limit: float = 4.0
) -> RowEstimate:
    """Estimate log p(x) by integrating over a box, ``-limit`` to ``limit`` in each latent.

    The textbook's first idea; worse than the prior by far in more than a few dimensions.
    """
    box = uniform_program(model, limit)
    return importance_sampling(model, *data, num_samples=num_samples, proposal=box)


def iwae_bound(
    model: Model, *data: Any, num_particles: int = 50, num_repeats: int = 20
) -> RowEstimate:
    """Mean of the importance-weighted bound with ``num_particles`` draws.

    With one particle it is the ELBO; it rises with their number towards log p(x).
    """
    guide, out = model.proposal(), []
    for part in _parts(model, data):
        weights = _weights(model, guide, part, num_particles * num_repeats)
        log_weights = torch.cat(list(weights)).unflatten(0, (num_repeats, num_particles))
        bounds = log_weights.logsumexp(1) - math.log(num_particles)
        error = bounds.std(0) / math.sqrt(num_repeats)
        ess = torch.full_like(error, num_repeats)
        out.append(RowEstimate(bounds.mean(0), error, ess))
    return _join(out)


def annealed(
    model: Model,
    *data: Any,
    num_particles: int = 64,
    num_steps: int = 200,
    num_leapfrog: int = 5,
) -> RowEstimate:
    """Estimate log p(x) by annealed importance sampling from the prior (Neal 2001).

    Needs no guide, so that it is fair to models whose guide is poor.
    """
    out = []
    for part in _parts(model, data):
        density = LocalDensity(model, part)
        run = anneal(
            density.log_joint,
            density.prior,
            num_particles=num_particles,
            num_steps=num_steps,
            num_leapfrog=num_leapfrog,
        )
        out.append(_estimate([run.log_weights]))
    return _join(out)


def sandwich(
    model: Model,
    num_rows: int = 50,
    *,
    num_particles: int = 16,
    num_steps: int = 500,
    num_leapfrog: int = 5,
) -> Sandwich:
    """Log p(x) of rows that the model itself drew, between two bounds.

    Annealing forwards from the prior bounds it from below. Backwards from the latents that made
    the row, an exact draw of its posterior, it bounds it from above (Grosse et al. 2016). What
    lies between tells how far to trust :func:`annealed` on data.
    """
    data, latents = simulate_rows(model, num_rows)
    density = LocalDensity(model, data)
    options = {
        "num_particles": num_particles,
        "num_steps": num_steps,
        "num_leapfrog": num_leapfrog,
    }
    forward = anneal(density.log_joint, density.prior, **options)
    points = density.flatten(latents).expand(num_particles, -1, -1)
    backward = anneal(density.log_joint, density.prior, backward_from=points, **options)
    log_num = math.log(num_particles)
    lower = forward.log_weights.double().logsumexp(0) - log_num
    upper = log_num - (-backward.log_weights.double()).logsumexp(0)
    return Sandwich(lower, upper)


def _parts(model: Model, data: tuple) -> Iterator[tuple[Tensor, ...]]:
    """Cut the data into parts of some rows."""
    rows = model.as_rows(data)
    model.check_data(rows)
    with model.defaults():
        model.find_data_plate(rows)
        yield from rows.chunks(256)


@torch.no_grad()
def _weights(
    model: Model, proposal: Any, data: tuple[Tensor, ...], num_samples: int
) -> Iterator[Tensor]:
    """Yield log p(x, z) - log q(z), ``(draws, n)``, ``num_samples`` draws in all."""
    block = max(2, BLOCK // len(data[0]))
    for start in range(0, num_samples, block):
        count = min(block, num_samples - start)
        draws = draw(model, proposal, data, count, model.data_plate)
        if draws.log_joint_rows is None or draws.log_guide_rows is None:
            raise QueryError(
                f"{type(model).__name__}: its rows share latents; there is no density of each by "
                "itself"
            )
        yield draws.log_joint_rows - draws.log_guide_rows


def _estimate(weights: Iterable[Tensor]) -> RowEstimate:
    """Add up streamed log weights, ``(draws, n)`` each."""
    first = second = None
    count = 0
    for part in weights:
        part = part.double()
        count += len(part)
        one, two = part.logsumexp(0), (2 * part).logsumexp(0)
        first = one if first is None else torch.logaddexp(first, one)
        second = two if second is None else torch.logaddexp(second, two)
    # (mean w)^2 / mean w^2, at most 1
    share = (2 * first - second - math.log(count)).exp().clamp_max(1.0)
    error = ((1 / share - 1).clamp_min(0.0) / max(count - 1, 1)).sqrt()
    return RowEstimate(first - math.log(count), error, share * count)


def _join(parts: Iterable[RowEstimate]) -> RowEstimate:
    return RowEstimate(*(torch.cat(field) for field in zip(*parts, strict=True)))
