"""Kullback-Leibler divergence of the guide of a latent from its prior, by dimension."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_zoo.core.tracing.sites import is_sample

__all__ = ["kl_by_dimension"]


def kl_by_dimension(model: Trace, guide: Trace, name: str) -> Tensor | None:
    """KL of a latent's guide from its prior, event dimensions kept.

    In closed form where there is one and it may be taken; else log q(z) - log p(z) at the
    guide's draw, of the same mean.

    The closed form averages over z with the prior held. It may not be taken where the prior
    follows something that the guide guesses from z: upper layers of latents, which the model
    draws first and the guide last.

    Parameters
    ----------
    model, guide
        Traces of one run, the model replayed.
    name
        Of a latent site.

    Returns
    -------
    Tensor or None
        None where the dimensions do not come apart.
    """
    q, p = (without_events(trace.nodes[name]["fn"]) for trace in (guide, model))
    if q.event_shape or p.event_shape:
        return None
    if _drawn_before(model, name) <= _drawn_before(guide, name):
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            pass
    value = guide.nodes[name]["value"]
    return q.log_prob(value) - p.log_prob(value)


def without_events(fn: Any) -> Any:
    """Take the event dimensions of a distribution apart where they are independent."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def _drawn_before(trace: Trace, name: str) -> set[str]:
    """Names of the latents that a program draws before this one."""
    latents = [n for n, s in trace.nodes.items() if is_sample(s) and not s["is_observed"]]
    return set(latents[: latents.index(name)])
