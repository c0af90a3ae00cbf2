"""Marginal likelihood log p(x) of single rows under a model with local latents.

Four estimates, with parameters held at their fitted values: importance sampling with the prior
(which shows why that fails) and with the guide, the bound of IWAE, and annealed importance
sampling, which bidirectional Monte Carlo bounds from both sides. Each comes with its standard
error and the effective size of its sample.

References: Burda, Grosse & Salakhutdinov 2016 (https://arxiv.org/abs/1509.00519), Wu et al. 2017
(https://arxiv.org/abs/1611.04273), Grosse, Ancha & Roy 2016 (https://arxiv.org/abs/1606.02275).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_zoo.core.display import call_text
from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.tracing import draw
from ppl_zoo.core.tracing.sites import Program
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

#: draws times rows whose weights are computed at once
MAX_WEIGHTS_PER_BLOCK = 2**16
#: rows that are evaluated at once
MAX_ROWS_PER_BATCH = 256


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

    def __repr__(self) -> str:
        """Write the shapes of the fields."""
        return call_text(type(self).__name__, self._asdict())

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over the rows and the standard error that the sampling leaves in it, nats a row."""
        n = len(self.value)
        return float(self.value.mean()), float(self.error.square().sum().sqrt()) / n


class Sandwich(NamedTuple):
    """Lower and upper bound of log p(x) of simulated rows, ``(n,)`` both, in nats."""

    lower: Tensor
    upper: Tensor

    def __repr__(self) -> str:
        """Write the shapes of the fields."""
        return call_text(type(self).__name__, self._asdict())

    @property
    def gap(self) -> float:
        """Mean of upper - lower: twice the error that annealing leaves, at most."""
        return float((self.upper - self.lower).mean())


def importance_sampling(
    model: Model, *data: Any, num_samples: int = 5000, proposal: Program | None = None
) -> RowEstimate:
    """Estimate log p(x) with the guide as proposal.

    Parameters
    ----------
    model
        A model whose latents are all local.
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
    return _join(
        [
            _estimate(_weights(model, proposal or model.proposal(*batch), batch, num_samples))
            for batch in _batches(model, data)
        ]
    )


def prior_sampling(model: Model, *data: Any, num_samples: int = 5000) -> RowEstimate:
    """Estimate log p(x) as the mean of p(x | z) over draws of the prior.

    Unbiased on the scale of p(x), but its variance is huge: hardly a draw explains a given row,
    which the effective sample size shows.
    """
    return importance_sampling(
        model, *data, num_samples=num_samples, proposal=prior_program(model)
    )


def uniform_sampling(
    model: Model, *data: Any, num_samples: int = 5000, limit: float = 4.0
) -> RowEstimate:
    """Estimate log p(x) by uniform draws from a box, ``-limit`` to ``limit`` in each latent.

    Monte-Carlo integration as in a textbook; far worse than the prior in more than a few
    dimensions.
    """
    box = uniform_program(model, limit)
    return importance_sampling(model, *data, num_samples=num_samples, proposal=box)


def iwae_bound(
    model: Model, *data: Any, num_particles: int = 50, num_repeats: int = 20
) -> RowEstimate:
    """Estimate the importance-weighted bound (IWAE) with ``num_particles`` draws.

    With one particle it is the ELBO; it rises with their number towards log p(x).
    """
    out = []
    for batch in _batches(model, data):
        weights = _weights(model, model.proposal(*batch), batch, num_particles * num_repeats)
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

    Needs no guide, and so does not depend on how good it is.
    """
    out = []
    for batch in _batches(model, data):
        density = LocalDensity(model, batch)
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
    """Bound log p(x) of simulated rows from both sides (bidirectional Monte Carlo).

    Annealing forwards from the prior bounds it from below. Backwards from the latents that
    generated the row, an exact draw of its posterior, it bounds it from above (Grosse et al.
    2016). The gap between them says how accurate :func:`annealed` is on data.
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


def _batches(model: Model, data: tuple) -> Iterator[tuple[Tensor, ...]]:
    """Batches of rows, evaluated in the model's dtype and on its device."""
    rows = model.checked_rows(*data)
    with model.defaults():
        model.find_data_plate(rows)
        yield from rows.chunks(MAX_ROWS_PER_BATCH)


@torch.no_grad()
def _weights(
    model: Model, proposal: Program, data: tuple[Tensor, ...], num_samples: int
) -> Iterator[Tensor]:
    """Log importance weights log p(x, z) - log q(z) in blocks of draws, ``(draws, n)``."""
    block = max(2, MAX_WEIGHTS_PER_BLOCK // len(data[0]))
    for start in range(0, num_samples, block):
        count = min(block, num_samples - start)
        draws = draw(model, proposal, data, count, model.data_plate)
        if draws.log_weight_rows is None:
            raise QueryError(
                f"{model.model_name}: its rows share latents; there is no density of each by "
                "itself"
            )
        yield draws.log_weight_rows


def _estimate(weights: Iterable[Tensor]) -> RowEstimate:
    """Estimate of streamed log weights, ``(draws, n)`` each."""
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
    """Concatenate the estimates of batches."""
    return RowEstimate(*(torch.cat(field) for field in zip(*parts, strict=True)))
