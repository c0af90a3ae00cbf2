"""Predictive distribution: observed sites drawn anew, as replicates of rows or as new rows."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_zoo.core.tracing.sampling import Given
from ppl_zoo.core.tracing.sites import Program, describe, is_sample, nesting_of, trace_program
from ppl_zoo.core.tracing.vectorize import vectorised

__all__ = ["predict", "simulate"]


class _Unobserve(Messenger):
    """Handler that samples observed sites; deterministic sites and factors stay as they are."""

    def _pyro_sample(self, msg: dict) -> None:
        kept = msg["infer"].get("_deterministic") or isinstance(msg["fn"], dist.Unit)
        if msg["is_observed"] and not kept:
            msg["infer"] = {**msg["infer"], "_resampled": True}
            msg.update(is_observed=False, value=None, done=False)


@torch.no_grad()
def simulate(model: Program, data: tuple) -> dict[str, Tensor]:
    """Sample the joint distribution once: ``{site: value}``, observed sites included."""
    with poutine.block():
        trace = poutine.trace(_Unobserve()(model)).get_trace(*data)
    return {name: torch.as_tensor(trace.nodes[name]["value"]) for name in describe(trace)}


@torch.no_grad()
def predict(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    data_plate: str | None = None,
    keep_local: bool = False,
    max_elements: int = 2**25,
    latents: dict[str, Tensor] | None = None,
    fixed: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Sample the predictive distribution, with one draw of the global latents each.

    Parameters
    ----------
    model, guide, data, num_draws, data_plate, max_elements
        As for :func:`draw`.
    keep_local
        Whether local latents come from the guide as well (replicates of the same rows)
        or from the model (new rows).
    latents
        Draws to condition on instead of the guide's, ``{site: (num_draws, ...)}``; sites that
        are not among them come from the model.
    fixed
        Values to hold fixed in all draws, ``{site: value}``.

    Returns
    -------
    dict
        ``{site: (num_draws, ...)}`` of the observed and deterministic sites.
    """
    held = dict(fixed or {})

    def run(num: int | None, latents: dict[str, Tensor] | None = None) -> Trace:
        free, proposal = _Unobserve()(model), guide
        if num is not None:
            outer = pyro.plate("_draw", num, dim=-1 - nesting)
            free, proposal = outer(free), outer(guide)
        with torch.no_grad(), poutine.block():
            if latents is None:
                drawn = poutine.trace(proposal).get_trace(*data)
                latents = {
                    name: node["value"]
                    for name, node in drawn.nodes.items()
                    if is_sample(node)
                    and (keep_local or all(f.name != data_plate for f in node["cond_indep_stack"]))
                }
            known = poutine.condition(free, data=latents | held)
            return poutine.trace(known).get_trace(*data)

    def read(trace: Trace) -> dict[str, Tensor]:
        return {
            name: torch.as_tensor(node["value"])
            for name, node in trace.nodes.items()
            if is_sample(node) and not isinstance(node["fn"], dist.Unit)
        }

    nesting = 0
    given = None
    if latents is not None:
        given = Given(latents, describe(trace_program(model, data)))
    first = run(None, None if given is None else given.values(0))
    nesting = nesting_of(first)
    shapes = {name: tuple(v.shape) for name, v in read(first).items()}
    wanted = [
        name
        for name, node in first.nodes.items()
        if is_sample(node)
        and (node["infer"].get("_resampled") or node["infer"].get("_deterministic"))
    ]

    def several(start: int, num: int) -> dict[str, Tensor] | None:
        try:
            chosen = slice(start, start + num)
            trace = run(num, None if given is None else given.values(chosen, nesting))
            values = read(trace)
            out = {}
            for name, value in values.items():
                if value.numel() == num * torch.Size(shapes[name]).numel():
                    out[name] = value.reshape(num, *shapes[name])
                elif value.numel() == torch.Size(shapes[name]).numel():
                    out[name] = value.reshape(shapes[name]).expand(num, *shapes[name])
                else:
                    return None
            trace.compute_log_prob()
            together = sum(
                node["log_prob"].reshape(num, -1).sum(-1)
                for node in trace.nodes.values()
                if is_sample(node) and node["log_prob"].numel() % num == 0
            )
            for index in {0, num - 1}:
                latents = {k: v[index] for k, v in out.items()}
                with torch.no_grad(), poutine.block():
                    alone = poutine.trace(poutine.condition(model, data=latents)).get_trace(*data)
                if not torch.allclose(alone.log_prob_sum(), together[index], 1e-3, 1e-3):
                    return None
            return {k: out[k] for k in wanted}
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError):
            return None  # does not broadcast over draws; they run one by one

    def one(index: int) -> dict[str, Tensor]:
        values = read(run(None, None if given is None else given.values(index)))
        return {k: values[k][None] for k in wanted}

    def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {k: torch.cat([part[k] for part in parts]) for k in wanted}

    per_draw = sum(torch.Size(shape).numel() for shape in shapes.values()) + 1
    block = max(2, min(num_draws, max_elements // per_draw))
    return vectorised(num_draws, block, several, one, join)
