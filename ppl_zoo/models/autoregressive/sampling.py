"""Sampling of autoregressive models: ancestral, by importance resampling, and by Gibbs sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_zoo.models.autoregressive.outputs import Output

__all__ = ["SequentialModel", "SequentialSampler", "draw", "draw_in_order", "gibbs"]


@runtime_checkable
class SequentialSampler(Protocol):
    """Sampler of n rows, variable by variable; keeps what the next conditional needs."""

    def parameters(self, place: int) -> Tensor:
        """Parameters of the conditional at a place of the order, ``(n, num_parameters)``."""

    def observe(self, place: int, value: Tensor) -> None:
        """Condition on the values ``(n,)`` at a place."""

    def select(self, rows: Tensor) -> None:
        """Replace the rows by those at these indices ``(n,)``."""


@runtime_checkable
class SequentialModel(Protocol):
    """Autoregressive model, as far as sampling needs it."""

    output: Output
    num_features: int
    event_shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""

    def order_of(self, member: int) -> Tensor:
        """Order of one member of the mixture, ``(D,)``: the variable at each place."""

    def sampler(self, num_rows: int, member: int = 0) -> SequentialSampler:
        """Sampler of one member of the mixture, with nothing observed yet."""

    def score(self, x: Tensor) -> Tensor:
        """Log probability of rows ``(n, *event_shape)``, ``(n,)``."""


def draw(
    model: SequentialModel,
    num_rows: int,
    member: int = 0,
    held: Tensor | None = None,
    particles: int = 1,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw rows from one member of the mixture, in its order.

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
        Particles a row, of which one is returned.
    noise
        Uniform ``(D, num_noise, num_rows * particles)``, by place.

    Returns
    -------
    x
        ``(num_rows, D)``.
    evidence
        Estimated log probability of what is held, ``(num_rows,)``.
    """
    total = num_rows * particles
    like = {"dtype": model.dtype, "device": model.device}
    if total == 0:
        return torch.zeros(0, model.num_features, **like), torch.zeros(num_rows, **like)
    if noise is None:
        noise = torch.rand(model.num_features, model.output.num_noise, total, **like)
    sampler = model.sampler(total, member)
    return draw_in_order(sampler, model.output, model.order_of(member), noise, held)


def draw_in_order(
    sampler: SequentialSampler,
    output: Output,
    order: Tensor,
    noise: Tensor,
    held: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw rows by a sampler, from the first place of its order to the last.

    Parameters
    ----------
    sampler
        Of ``num_rows * particles`` rows, with nothing observed yet.
    output
        Family of the conditionals.
    order
        The variable at each place, ``(D,)``.
    noise
        Uniform ``(D, num_noise, num_rows * particles)``, by place.
    held
        Values to hold ``(num_rows, D)``, NaN where free.

    Returns
    -------
    x
        ``(num_rows, D)``.
    evidence
        Estimated log probability of what is held, ``(num_rows,)``.
    """
    prepared = output.prepare(noise).unbind(0)
    if held is None:
        placed = _draw_free(sampler, output, prepared)
        evidence = torch.zeros_like(placed[:, 0])
    else:
        placed, evidence = _draw_given(sampler, output, prepared, held[:, order])
    return torch.empty_like(placed).index_copy_(1, order, placed), evidence


def _draw_free(sampler: SequentialSampler, output: Output, noise: Sequence[Tensor]) -> Tensor:
    """Ancestral sampling, ``(n, D)`` by place."""
    placed = []
    for place, own in enumerate(noise):
        value = output.draw(sampler.parameters(place), own)
        placed.append(value)
        sampler.observe(place, value)
    return torch.stack(placed, -1)


def _draw_given(
    sampler: SequentialSampler, output: Output, noise: Sequence[Tensor], held: Tensor
) -> tuple[Tensor, Tensor]:
    """Sequential importance resampling, ``(num_rows, D)`` by place, and its evidence.

    Free variables come from their conditionals, those held weight their particle; rows whose
    effective sample size falls below half of their particles are resampled.
    """
    num_rows, size = held.shape
    particles = noise[0].shape[-1] // num_rows
    held = held.repeat_interleave(particles, 0)
    evidence = held.new_zeros(num_rows)
    weight = held.new_zeros(num_rows, particles)
    x = torch.empty_like(held)
    for place, own in enumerate(noise):
        parameters = sampler.parameters(place)
        value = output.draw(parameters, own)
        known = ~held[:, place].isnan()
        value = torch.where(known, held[:, place], value)
        terms = output.log_prob(parameters.unsqueeze(1), value.unsqueeze(1))[:, 0]
        terms = torch.where(known, terms, torch.zeros_like(terms))
        x[:, place] = value
        sampler.observe(place, value)
        weight = weight + terms.reshape(num_rows, particles)
        if particles == 1 or place == size - 1:
            continue
        poor = 1.0 / weight.softmax(-1).square().sum(-1) < 0.5 * particles
        if poor.any():
            rows = _resample(weight, poor)
            evidence = evidence + torch.where(poor, _log_mean(weight), 0.0)
            weight = torch.where(poor[:, None], torch.zeros_like(weight), weight)
            x = x[rows]
            sampler.select(rows)
    evidence = evidence + _log_mean(weight)
    one = torch.multinomial(weight.softmax(-1), 1)[:, 0]
    rows = torch.arange(num_rows, device=x.device)
    return x.reshape(num_rows, particles, size)[rows, one], evidence


def _log_mean(weight: Tensor) -> Tensor:
    return weight.logsumexp(-1) - torch.log(torch.full_like(weight[:, 0], weight.shape[-1]))


def _resample(weight: Tensor, poor: Tensor) -> Tensor:
    """Systematic resampling of the rows that are poor; indices of particles."""
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


def gibbs(model: SequentialModel, x: Tensor, free: Tensor, num_sweeps: int) -> Tensor:
    """Gibbs sampling of the free variables, each given all others.

    p(x_i | all others) is in proportion to p(x), so that a variable takes a pass for each of its
    values; a sweep leaves the distribution of what is free given what is held invariant.

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
