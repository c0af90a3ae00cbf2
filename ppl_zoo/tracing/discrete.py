"""Discrete latents that were summed out, drawn again given the continuous ones."""

from __future__ import annotations

from collections.abc import Iterable

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from ppl_zoo.tracing.drawing import _block
from ppl_zoo.tracing.given import Given
from ppl_zoo.tracing.sites import (
    Program,
    describe,
    nesting_of,
    trace_program,
    with_summed_out,
)

__all__ = ["draw_discrete"]


@torch.no_grad()
def draw_discrete(
    model: Program,
    data: tuple,
    latents: dict[str, Tensor],
    names: Iterable[str],
    rows: str | None = None,
    max_elements: int = 2**22,
) -> dict[str, Tensor]:
    """Draw exactly from p(discrete | continuous, data), once for each draw of the continuous.

    Parameters
    ----------
    model, data
        A Pyro program and its arguments.
    latents
        Draws of the continuous latents, ``{site: (num_draws, ...)}``.
    names
        The discrete sites; ``pyro.markov`` keeps chains of them cheap.
    rows
        Name of the plate over the data, if there is one.
    max_elements
        Bound on ``draws x numbers a draw`` held at once.

    Returns
    -------
    dict
        ``{site: (num_draws, ...)}``.
    """
    names = tuple(names)
    first = trace_program(model, data)
    sites, nesting = describe(first), nesting_of(first)
    latents = {k: v for k, v in latents.items() if k in sites and sites[k].kind == "latent"}
    num = len(next(iter(latents.values())))
    given = Given(latents, sites)
    program = with_summed_out(model, names)

    def run(index: int | slice, count: int | None) -> dict[str, Tensor]:
        known, outer = poutine.condition(program, given.values(index, nesting)), 0
        if count is not None:
            known, outer = pyro.plate("_draw", count, dim=-1 - nesting)(known), 1
        drawn = infer_discrete(known, first_available_dim=-1 - nesting - outer)
        with poutine.block():
            trace = poutine.trace(drawn).get_trace(*data)
        return {k: trace.nodes[k]["value"] for k in names}

    numbers = sum(max(1, torch.Size(sites[k].shape).numel()) for k in sites)
    states = max(len(first.nodes[k]["fn"].enumerate_support(expand=False)) for k in names)
    block = max(1, min(num, max_elements // (numbers * states)))
    few = min(num, 3)
    several = (given.program(slice(0, few), nesting), given.program(0))
    guide = trace_program(several[1], data)
    scored = _block(model, *several, data, few, nesting, sites, guide, rows) if num > 1 else None
    if scored is None:  # many draws at once would not score as each of them does
        found = [run(i, None) for i in range(num)]
        return {k: torch.stack([f[k].reshape(sites[k].shape) for f in found]) for k in names}
    parts = []
    for start in range(0, num, block):
        count = min(block, num - start)
        part = run(slice(start, start + count), count)
        parts.append({k: part[k].reshape(count, *sites[k].shape) for k in names})
    return {k: torch.cat([p[k] for p in parts]) for k in names}
