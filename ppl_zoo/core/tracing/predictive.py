"""Predictive distribution: observed sites drawn anew, as replicates of rows or as new rows."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.tracing.sites import Program, base_of, describe, is_sample
from ppl_zoo.core.tracing.vectorize import over_draws

__all__ = ["predict", "simulate"]


class _Unobserve(Messenger):
    """Handler that samples observed sites; deterministic sites and factors stay as they are."""

    def _pyro_sample(self, msg: dict) -> None:
        kept = msg["infer"].get("_deterministic") or isinstance(msg["fn"], dist.Unit)
        if msg["is_observed"] and not kept:
            msg["infer"] = {**msg["infer"], "_resampled": True}
            msg["fn"] = _as_many(msg["fn"], msg["value"])
            msg.update(is_observed=False, value=None, done=False)


def _as_many(fn: Any, value: Any) -> Any:
    """Expand a distribution to the observations that it was broadcast to, outside of plates."""
    if not isinstance(value, Tensor):
        return fn
    own = value.shape[: value.ndim - len(fn.event_shape)]
    batch = torch.broadcast_shapes(own, fn.batch_shape)
    return fn if batch == fn.batch_shape else fn.expand(batch)


class _RefuseFlatPrior(Messenger):
    """Name the latent that is to be drawn from an improper prior; the outermost handler."""

    def _pyro_sample(self, msg: dict) -> None:
        if msg["value"] is None and isinstance(base_of(msg["fn"]), dist.ImproperUniform):
            raise QueryError(
                f"site {msg['name']!r}: got an improper prior ({msg['fn'].support}), which has no "
                "draws, expected a proper one for draws from the prior"
            )


@torch.no_grad()
def simulate(model: Program, data: tuple) -> dict[str, Tensor]:
    """Sample the joint distribution once: ``{site: value}``, observed sites included."""
    with poutine.block():
        trace = poutine.trace(_RefuseFlatPrior()(_Unobserve()(model))).get_trace(*data)
    return {name: torch.as_tensor(trace.nodes[name]["value"]) for name in describe(trace)}


@torch.no_grad()
def predict(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    data_plate: str | None = None,
    keep_local: bool = False,
    max_elements: int = 2**24,
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

    def run(given: dict[str, Tensor]) -> Trace:
        free = _Unobserve()(model)
        with torch.no_grad(), poutine.block():
            known = given
            if latents is None:
                drawn = poutine.trace(guide).get_trace(*data)
                known = {
                    name: node["value"]
                    for name, node in drawn.nodes.items()
                    if is_sample(node)
                    and (keep_local or all(f.name != data_plate for f in node["cond_indep_stack"]))
                }
            known = poutine.condition(free, data=known | held)
            return poutine.trace(_RefuseFlatPrior()(known)).get_trace(*data)

    first = run({k: v[0] for k, v in (latents or {}).items()})
    shapes = {
        name: tuple(torch.as_tensor(node["value"]).shape)
        for name, node in first.nodes.items()
        if is_sample(node)
        and not isinstance(node["fn"], dist.Unit)
        and (node["infer"].get("_resampled") or node["infer"].get("_deterministic"))
    }

    def single(given: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = run(given).nodes
        return {k: torch.as_tensor(nodes[k]["value"]).expand(shape) for k, shape in shapes.items()}

    per_draw = sum(torch.Size(describe(first)[k].shape).numel() for k in describe(first)) + 1
    block = max(2, min(num_draws, max_elements // per_draw))
    return over_draws(single, num_draws, block, latents)
