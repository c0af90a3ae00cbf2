"""Sampling from a guide, vectorised over draws, with the log densities of model and guide.

Model and guide run once under one outer plate ``_draw``; two of the draws are then verified by
runs of their own. A program that does not broadcast (``weights[0]``, ``x @ b``) is noticed and
run draw by draw instead of being silently wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_zoo.core.tracing.scoring import Draws, Scored
from ppl_zoo.core.tracing.sites import (
    Program,
    Site,
    describe,
    is_sample,
    nesting_of,
    trace_program,
    with_summed_out,
)
from ppl_zoo.core.tracing.vectorize import vectorised

__all__ = ["Given", "broadcasts", "draw", "draw_discrete"]

#: draws that are made at once to find out whether a program broadcasts
NUM_VERIFIED = 3


@torch.no_grad()
def draw(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    data_plate: str | None = None,
    max_elements: int = 2**25,
    latents: dict[str, Tensor] | None = None,
) -> Draws:
    """Draw the latents from the guide and score them by model and guide.

    Parameters
    ----------
    model, guide
        Pyro programs of the same arguments. Finite discrete sites of the model that the guide
        does not draw are summed out.
    data
        Arguments of both.
    num_draws
        Number of independent draws.
    data_plate
        Name of the plate over the data, if there is one.
    max_elements
        Bound on ``draws x numbers a draw`` held at once; more draws are made in parts.
    latents
        Draws to score instead of the guide's, ``{site: (num_draws, ...)}``; the guide then
        counts as 0.

    Returns
    -------
    Draws
    """
    given = None
    if latents is not None:
        given = Given(latents, describe(trace_program(model, data)))
        guide = given.program(0)
    first_guide = trace_program(guide, data)
    first_model = trace_program(poutine.replay(model, trace=first_guide), data)
    nesting = nesting_of(first_model, first_guide)
    sites = describe(first_model)

    def several(start: int, count: int) -> Draws | None:
        own = guide
        if given is not None:
            own = given.program(slice(start, start + count), nesting)
        return _block(model, own, guide, data, count, nesting, sites, first_guide, data_plate)

    def one(index: int) -> Draws:
        own = guide if given is None else given.program(index)
        return _single(model, own, data, nesting, sites, data_plate)

    per_draw = sum(max(1, torch.Size(site.shape).numel()) for site in sites.values()) + 1
    block = max(2, min(num_draws, max_elements // per_draw))
    return vectorised(num_draws, block, several, one, Draws.stack)


def _collect(run: Scored, sites: dict[str, Site], data_plate: str | None) -> Draws | None:
    """Collect a run's draws; None where a value has not the shape of ``num`` single ones."""
    lead = (1,) if run.num is None else (run.num,)
    values, likelihood = {}, {}
    for name, site in sites.items():
        node = run.model.nodes.get(name)
        if node is None:
            return None
        if node["infer"].get("_enumerate_dim") is not None:
            continue
        if site.kind == "observed":
            if not run.summed:
                kept = tuple(size for _, _, size in site.plates)
                log_prob = node["log_prob"]
                if log_prob.numel() == lead[0] * torch.Size(kept).numel():
                    likelihood[name] = log_prob.reshape(lead + kept)
            continue
        value = torch.as_tensor(node["value"])
        if value.numel() != lead[0] * torch.Size(site.shape).numel():
            if site.kind == "deterministic" and value.numel() == torch.Size(site.shape).numel():
                value = value.reshape(site.shape).expand(lead + site.shape)
            else:
                return None
        values[name] = value.reshape(lead + site.shape)
    log_joint, joint_rows, log_guide, guide_rows = run.factors(data_plate)
    if log_joint.shape != lead or log_guide.shape != lead:
        return None
    return Draws(values, log_joint, log_guide, joint_rows, guide_rows, likelihood)


def _single(
    model: Program,
    guide: Program,
    data: tuple,
    nesting: int,
    sites: dict[str, Site],
    data_plate: str | None,
    replay: Trace | None = None,
) -> Draws:
    result = _collect(Scored(model, guide, data, None, nesting, replay), sites, data_plate)
    if result is None:
        raise ValueError("the model's sites change their shapes from one run to the next")
    return result


def _block(
    model: Program,
    guide: Program,
    guide_of_one: Program,
    data: tuple,
    count: int,
    nesting: int,
    sites: dict[str, Site],
    first_guide: Trace,
    data_plate: str | None,
) -> Draws | None:
    """Make ``count`` draws at once; None where the program does not broadcast over draws."""
    try:
        run = Scored(model, guide, data, count, nesting)
        draws = _collect(run, sites, data_plate)
        if draws is None:
            return None
        for index in {0, count - 1}:
            fixed = {}
            for name, node in run.guide.nodes.items():
                if is_sample(node) and not node["is_observed"]:
                    shape = first_guide.nodes[name]["value"].shape
                    fixed[name] = node["value"].reshape(count, *shape)[index]
            alone = _single(
                model, guide_of_one, data, nesting, sites, data_plate, _fixed(first_guide, fixed)
            )
            for together, single in (
                (draws.log_joint[index], alone.log_joint[0]),
                (draws.log_guide[index], alone.log_guide[0]),
            ):
                if not torch.allclose(together, single, rtol=1e-3, atol=1e-3, equal_nan=True):
                    return None
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None  # a program that does not broadcast; each draw then runs by itself
    return draws


@torch.no_grad()
def broadcasts(model: Program, guide: Program, data: tuple, data_plate: str | None = None) -> bool:
    """Tell whether many draws at once score as each of them does alone."""
    first_guide = trace_program(guide, data)
    first_model = trace_program(poutine.replay(model, trace=first_guide), data)
    nesting, sites = nesting_of(first_model, first_guide), describe(first_model)
    block = _block(
        model, guide, guide, data, NUM_VERIFIED, nesting, sites, first_guide, data_plate
    )
    return block is not None


def _fixed(trace: Trace, values: dict[str, Tensor]) -> Trace:
    copy = trace.copy()
    for name, value in values.items():
        copy.nodes[name]["value"] = value
    return copy


class Given:
    """Stored draws as a guide: programs that return them, with log density 0."""

    def __init__(self, latents: dict[str, Tensor], sites: dict[str, Site]) -> None:
        self.latents, self.sites = latents, sites

    def values(self, index: int | slice, nesting: int = 0) -> dict[str, Tensor]:
        """Read one draw, or several with the dimension of ``_draw`` left of all plates."""
        out = {}
        for name, value in self.latents.items():
            chosen = value[index]
            if isinstance(index, slice):
                ones = (1,) * (nesting - self.sites[name].batch_ndim)
                chosen = chosen.reshape(chosen.shape[:1] + ones + chosen.shape[1:])
            out[name] = chosen
        return out

    def program(self, index: int | slice, nesting: int = 0) -> Program:
        """Make a guide that returns these draws, of log density 0."""
        values = self.values(index, nesting)

        def guide(*data: Any) -> None:
            plates: dict[str, pyro.plate] = {}
            for name, value in values.items():
                with contextlib.ExitStack() as stack:
                    for plate, dim, size in self.sites[name].plates:
                        if plate not in plates:
                            plates[plate] = pyro.plate(plate, size, dim=dim)
                        stack.enter_context(plates[plate])
                    point = dist.Delta(value, event_dim=self.sites[name].event_dim)
                    pyro.sample(name, point.mask(False))

        return guide


@torch.no_grad()
def draw_discrete(
    model: Program,
    data: tuple,
    latents: dict[str, Tensor],
    names: Iterable[str],
    data_plate: str | None = None,
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
    data_plate
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
        lead = 1 if count is None else count
        return {k: trace.nodes[k]["value"].reshape(lead, *sites[k].shape) for k in names}

    numbers = sum(max(1, torch.Size(sites[k].shape).numel()) for k in sites)
    states = max(len(first.nodes[k]["fn"].enumerate_support(expand=False)) for k in names)
    block = max(1, min(num, max_elements // (numbers * states)))

    def broadcasts_over_draws() -> bool:
        """Whether draws at once score as each does alone, by the first few."""
        few = min(num, NUM_VERIFIED)
        many, single = given.program(slice(0, few), nesting), given.program(0)
        first_guide = trace_program(single, data)
        scored = _block(model, many, single, data, few, nesting, sites, first_guide, data_plate)
        return scored is not None

    def several(start: int, count: int) -> dict[str, Tensor] | None:
        if start == 0 and not broadcasts_over_draws():
            return None
        return run(slice(start, start + count), count)

    def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {k: torch.cat([part[k] for part in parts]) for k in names}

    return vectorised(num, block, several, lambda index: run(index, None), join)
