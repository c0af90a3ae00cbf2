"""Sampling: from the first variable to the last, keeping what the next conditional needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_zoo.models.autoregressive.base import AutoregressiveModel

__all__ = ["SequentialSampler", "draw", "gibbs"]


@runtime_checkable
class SequentialSampler(Protocol):
    """State of n rows on their way through the order."""

    def parameters(self, place: int) -> Tensor:
        """Parameters of the conditional at a place, ``(n, num_parameters)``."""

    def observe(self, place: int, value: Tensor) -> None:
        """Take note of the values ``(n,)`` at a place."""

    def select(self, rows: Tensor) -> None:
        """Go on with other rows in the places of these, ``(n,)`` indices."""


def draw(
    model: AutoregressiveModel,
    num_rows: int,
    member: int = 0,
    held: Tensor | None = None,
    particles: int = 1,
    noise: Tensor | None = None,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw rows by one member's walk.

    Parameters
    ----------
    model
        The model.
    num_rows
        Rows to return.
    member
        Member of the mixture.
    held
        Values to hold ``(num_rows, D)``, NaN where free.
    particles
        Walks a row, of which one is returned.
    noise
        Uniform ``(D, num_noise, num_rows * particles)``, by place.
    order
        Of a model that can go by any; that of the member by default.

    Returns
    -------
    x
        ``(num_rows, D)``.
    evidence
        Estimated log probability of what is held, ``(num_rows,)``.
    """
    output, size = model.output, model.num_features
    own = order is None
    order = model.orders[member] if own else order
    total = num_rows * particles
    like = {"dtype": model.dtype, "device": model.device}
    if noise is None:
        noise = torch.rand(size, output.num_noise, total, **like)
    evidence = torch.zeros(num_rows, **like)
    if total == 0:
        return torch.zeros(0, size, **like), evidence
    walk, chosen = (model.walk(total, member) if own else model.walk(total, order=order)), []
    prepared = output.prepare(noise).unbind(0)
    if held is None:
        for place in range(size):
            value = output.draw(walk.parameters(place), prepared[place])
            chosen.append(value)
            walk.observe(place, value)
        placed = torch.stack(chosen, -1)
        if not (model.natural and own):
            placed = torch.empty_like(placed).index_copy_(1, order, placed)
        return placed, evidence
    held = held[:, order].repeat_interleave(particles, 0)
    weight = torch.zeros(num_rows, particles, **like)
    x = torch.empty(total, size, **like)
    for place in range(size):
        parameters = walk.parameters(place)
        value = output.draw(parameters, prepared[place])
        known = ~held[:, place].isnan()
        value = torch.where(known, held[:, place], value)
        terms = output.log_prob(parameters.unsqueeze(1), value.unsqueeze(1))[:, 0]
        terms = torch.where(known, terms, torch.zeros_like(terms))
        x[:, place] = value
        walk.observe(place, value)
        weight = weight + terms.reshape(num_rows, particles)
        if particles == 1 or place == size - 1:
            continue
        poor = 1.0 / weight.softmax(-1).square().sum(-1) < 0.5 * particles
        if poor.any():
            rows = _resample(weight, poor)
            evidence = evidence + torch.where(poor, _log_mean(weight), 0.0)
            weight = torch.where(poor[:, None], torch.zeros_like(weight), weight)
            x = x[rows]
            walk.select(rows)
    evidence = evidence + _log_mean(weight)
    one = torch.multinomial(weight.softmax(-1), 1)
    x = x.reshape(num_rows, particles, size)[torch.arange(num_rows, device=x.device), one[:, 0]]
    return torch.empty_like(x).index_copy_(1, order, x), evidence


def _log_mean(weight: Tensor) -> Tensor:
    return weight.logsumexp(-1) - torch.log(torch.full_like(weight[:, 0], weight.shape[-1]))


def _resample(weight: Tensor, poor: Tensor) -> Tensor:
    """Resample the rows that are poor, systematically; indices of walks."""
    num_rows, particles = weight.shape
    steps = torch.arange(particles, dtype=weight.dtype, device=weight.device)
    points = (steps + torch.rand(num_rows, 1, dtype=weight.dtype, device=weight.device)) / (
        particles
    )
    picked = torch.searchsorted(weight.softmax(-1).cumsum(-1), points).clamp(max=particles - 1)
    own = torch.arange(particles, device=weight.device).expand_as(picked)
    picked = torch.where(poor[:, None], picked, own)
    first = torch.arange(num_rows, device=weight.device)[:, None] * particles
    return (first + picked).flatten()


# ---- Gibbs sampling of some variables given the others, by the exact log probability.


def gibbs(model: AutoregressiveModel, x: Tensor, free: Tensor, num_sweeps: int) -> Tensor:
    """Draw free variables anew, one after another, each given all others.

    p(x_i | all others) is in proportion to p(x), so that a variable takes a pass for each of its
    values; a sweep leaves the distribution of what is free given what is held as it is.

    Parameters
    ----------
    model
        A model of discrete variables.
    x
        Rows ``(n, D)`` to start at.
    free
        Which variables are drawn, ``(n, D)`` bool.
    num_sweeps
        Times that every free variable is drawn, each time in another order.

    Returns
    -------
    Tensor
        ``(n, D)``.
    """
    x, count = x.clone(), model.output.num_values
    values = torch.arange(count, dtype=x.dtype, device=x.device)
    somewhere = free.any(0).nonzero()[:, 0]
    for _ in range(num_sweeps):
        for i in somewhere[torch.randperm(len(somewhere), device=x.device)].tolist():
            rows = free[:, i].nonzero()[:, 0]
            tried = x[rows].repeat(count, 1)
            tried[:, i] = values.repeat_interleave(len(rows))
            scores = model.score(tried.reshape(-1, *model.event_shape)).reshape(count, -1)
            x[rows, i] = values[torch.multinomial(scores.T.softmax(-1), 1)[:, 0]]
    return x
