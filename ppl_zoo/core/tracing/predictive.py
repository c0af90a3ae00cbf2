"""Observed sites drawn anew: replicates of the rows, or new ones."""

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

__all__ = ["predict", "simulate"]


class _Unobserve(Messenger):
    """Draw observed sites anew; deterministic sites and factors stay as they are."""

    def _pyro_sample(self, msg: dict) -> None:
        kept = msg["infer"].get("_deterministic") or isinstance(msg["fn"], dist.Unit)
        if msg["is_observed"] and not kept:
            msg["infer"] = {**msg["infer"], "_drawn_anew": True}
            msg.update(is_observed=False, value=None, done=False)


@torch.no_grad()
def simulate(model: Program, data: tuple) -> dict[str, Tensor]:
    """Draw everything once from the model itself: ``{site: value}``, observed sites included."""
    with poutine.block():
        trace = poutine.trace(_Unobserve()(model)).get_trace(*data)
    return {name: torch.as_tensor(trace.nodes[name]["value"]) for name in describe(trace)}


@torch.no_grad()
def predict(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    rows: str | None = None,
    keep_local: bool = False,
    max_elements: int = 2**25,
    latents: dict[str, Tensor] | None = None,
    fixed: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Draw the observed sites anew, one draw of the global latents each.

    Parameters
    ----------
    model, guide, data, num_draws, rows, max_elements
        As for :func:`draw`.
    keep_local
        Whether latents of single rows come from the guide as well (replicates of the same rows)
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
                    and (keep_local or all(f.name != rows for f in node["cond_indep_stack"]))
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
    first = run(None, given.values(0) if given else None)
    nesting = nesting_of(first)
    shapes = {name: tuple(v.shape) for name, v in read(first).items()}
    wanted = [
        name
        for name, node in first.nodes.items()
        if is_sample(node)
        and (node["infer"].get("_drawn_anew") or node["infer"].get("_deterministic"))
    ]

    def at_once(num: int, start: int) -> dict[str, Tensor] | None:
        try:
            chosen = slice(start, start + num)
            trace = run(num, given.values(chosen, nesting) if given else None)
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
            return out
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError):
            return None  # does not broadcast over draws; they run one by one

    per_draw = sum(torch.Size(shape).numel() for shape in shapes.values()) + 1
    block = max(2, min(num_draws, max_elements // per_draw))
    parts, left, vectorised = [], num_draws, num_draws > 1
    while left:
        count = min(block, left)
        start = num_draws - left
        part = at_once(count, start) if vectorised else None
        if part is None:
            vectorised = False
            singles = [
                read(run(None, given.values(start + i) if given else None)) for i in range(count)
            ]
            part = {k: torch.stack([s[k] for s in singles]) for k in singles[0]}
        parts.append({k: part[k] for k in wanted})
        left -= count
    return {k: torch.cat([p[k] for p in parts]) for k in wanted}
