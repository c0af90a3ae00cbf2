"""Sampling from a guide, vectorised over draws, with the log densities of model and guide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ppl_zoo.core.tracing.scoring import Draws, Scored
from ppl_zoo.core.tracing.sites import (
    Program,
    Site,
    describe,
    first_run,
    nesting_of,
    trace_program,
    with_summed_out,
)
from ppl_zoo.core.tracing.vectorize import over_draws, vmapped

__all__ = ["Given", "draw", "draw_discrete", "vectorises"]

#: draws that are made at once to find out whether a program vectorises
NUM_VERIFIED = 3


@torch.no_grad()
def draw(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    data_plate: str | None = None,
    max_elements: int = 2**24,
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
        Bound on ``draws x numbers a draw`` held at once, those of its sites or of its largest
        tensor; more draws are made in parts.
    latents
        Draws to score instead of the guide's, ``{site: (num_draws, ...)}``; the guide then
        counts as 0.

    Returns
    -------
    Draws
    """
    given = None
    if latents is not None:
        given = Given(describe(first_run(model, data)))
        guide = given.program({name: value[0] for name, value in latents.items()})
    with _Largest() as largest:
        first_guide = trace_program(guide, data)
        first_model = trace_program(poutine.replay(model, trace=first_guide), data)
    sites = describe(first_model)
    nesting = max([nesting_of(first_model, first_guide), *(s.batch_ndim for s in sites.values())])

    def single(values: dict[str, Tensor]) -> dict[str, Tensor]:
        own = guide if given is None else given.program(values)
        return _collect(Scored(model, own, data, nesting), sites, data_plate)

    per_draw = sum(max(1, torch.Size(site.shape).numel()) for site in sites.values()) + 1
    block = max(2, min(num_draws, max_elements // max(per_draw, largest.numbers)))
    found = over_draws(single, num_draws, block, latents)
    parts: dict[str, dict[str, Tensor]] = {"value": {}, "likelihood": {}, "prior": {}, "log": {}}
    for name, value in found.items():
        kind, _, key = name.partition(":")
        parts[kind][key] = value
    own = parts["log"]
    return Draws(
        values=parts["value"],
        log_joint=own["joint"],
        log_guide=own["guide"],
        log_joint_rows=own.get("joint_rows"),
        log_guide_rows=own.get("guide_rows"),
        log_likelihood=parts["likelihood"],
        log_prior=parts["prior"],
    )


class _Largest(TorchDispatchMode):
    """Count the numbers of the largest tensor that a run makes: a site may hold far fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return result


def _collect(run: Scored, sites: dict[str, Site], data_plate: str | None) -> dict[str, Tensor]:
    """Collect a run's values and log densities, as ``KIND:NAME``."""
    out: dict[str, Tensor] = {}
    for name, site in sites.items():
        node = run.model.nodes.get(name)
        if node is None:
            raise ValueError("the model's sites change from one run to the next")
        if node["infer"].get("_enumerate_dim") is not None:
            continue
        if site.kind == "observed":
            if not run.summed:
                out[f"likelihood:{name}"] = _pointwise(node["log_prob"], site)
            continue
        if site.kind == "latent" and not run.summed:
            out[f"prior:{name}"] = node["log_prob"].sum()
        value = torch.as_tensor(node["value"])
        if value.numel() == torch.Size(site.shape).numel():
            out[f"value:{name}"] = value.reshape(site.shape)
        elif site.kind != "deterministic":  # these may depend on what is summed out
            raise ValueError(f"site {name!r} changes its shape from one run to the next")
    found = zip(
        ("joint", "joint_rows", "guide", "guide_rows"), run.factors(data_plate), strict=True
    )
    return out | {f"log:{key}": value for key, value in found if value is not None}


def _pointwise(log_prob: Tensor, site: Site) -> Tensor:
    """Log density of each observation: by plate, and by batch dimension without a plate."""
    plates = {dim for _, dim, _ in site.plates}
    kept = [
        log_prob.shape[d] for d in range(-log_prob.ndim, 0) if d in plates or log_prob.shape[d] > 1
    ]
    return log_prob.reshape(kept)


@torch.no_grad()
def vectorises(model: Program, guide: Program, data: tuple) -> bool:
    """Tell whether many draws can be made in one run."""
    first = trace_program(guide, data)
    nesting = nesting_of(trace_program(poutine.replay(model, trace=first), data), first)

    def single(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"log_joint": Scored(model, guide, data, nesting).factors(None)[0]}

    return vmapped(single, {}, NUM_VERIFIED) is not None


class Given:
    """Stored draws as a guide: programs that return them, with log density 0."""

    def __init__(self, sites: dict[str, Site]) -> None:
        self.sites = sites

    def program(self, values: dict[str, Tensor]) -> Program:
        """Make a guide that returns these values, of log density 0."""

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
    first = first_run(model, data)
    sites, nesting = describe(first), nesting_of(first)
    latents = {k: v for k, v in latents.items() if k in sites and sites[k].kind == "latent"}
    num = len(next(iter(latents.values())))
    program = with_summed_out(model, names)

    def single(values: dict[str, Tensor]) -> dict[str, Tensor]:
        known = poutine.condition(program, values)
        with poutine.block():
            drawn = infer_discrete(known, first_available_dim=-1 - nesting)
            trace = poutine.trace(drawn).get_trace(*data)
        return {k: trace.nodes[k]["value"].reshape(sites[k].shape) for k in names}

    numbers = sum(max(1, torch.Size(sites[k].shape).numel()) for k in sites)
    states = max(len(first.nodes[k]["fn"].enumerate_support(expand=False)) for k in names)
    block = max(1, min(num, max_elements // (numbers * states)))
    return over_draws(single, num, block, latents)
