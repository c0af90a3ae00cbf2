"""Validation of programs: what would end in a wrong number, refused or warned of before a fit."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.tracing.sites import Program, Site, describe, is_sample, trace_program

__all__ = ["refuse_broadcast", "refuse_outside_support", "refuse_unobserved", "validate_names"]

#: runs of a guide, and numbers in all of them, by which its draws are held against supports
MAX_GUIDE_RUNS, MAX_GUIDE_NUMBERS = 20, 20_000


def refuse_unobserved(trace: Trace, names: Sequence[str]) -> None:
    """Refuse a program that uses no data: no site is observed and there is no factor.

    Raises
    ------
    DataError
        Names the arguments that change nothing.
    """
    observed = any(
        node["is_observed"] and not node["infer"].get("_deterministic")
        for node in trace.nodes.values()
        if is_sample(node)
    )
    if names and not observed:
        raise DataError(
            f"the program observes nothing, so the data {', '.join(names)} change nothing: "
            "expected pyro.sample(name, distribution, obs=...) or pyro.factor"
        )


def refuse_broadcast(trace: Trace) -> None:
    """Refuse observations that are broadcast to more densities than there are plates for.

    ``y (n, 1)`` against a distribution of n rows has n x n densities, all of which would count.

    Raises
    ------
    DataError
        With the shapes of both.
    """
    for name, node in trace.nodes.items():
        if not is_sample(node) or not node["is_observed"] or node["infer"].get("_deterministic"):
            continue
        fn, value = node["fn"], node["value"]
        if not isinstance(value, Tensor):
            continue
        own = value.shape[: value.ndim - len(fn.event_shape)]
        batch = torch.broadcast_shapes(own, fn.batch_shape)
        plates = {f.dim: f for f in node["cond_indep_stack"] if f.vectorized}
        beyond = [d for d in range(-len(batch), 0) if batch[d] > 1 and d not in plates]
        if beyond and batch != own:
            inside = ", ".join(f"{f.name!r} of {f.size} at dim {d}" for d, f in plates.items())
            raise DataError(
                f"site {name!r}: got observations of shape {tuple(value.shape)} under a "
                f"distribution of batch shape {tuple(fn.batch_shape)}, which makes densities of "
                f"shape {tuple(batch)}, expected them within the plates ({inside or 'none'}); "
                "drop a dimension of size 1 (y[:, 0], or frame['y'] in the place of frame[['y']])"
            )


def validate_names(
    sites: Mapping[str, Site], drawn: Iterable[str], summed_out: Iterable[str]
) -> None:
    """Hold the sites that a guide draws against the model's latents.

    Warns of latents that the guide leaves out, as Pyro does: they are drawn from the prior.

    Raises
    ------
    DataError
        If the guide draws a site that is no latent of the model, which is then no bound.
    """
    drawn = set(drawn)
    latent = {s.name for s in sites.values() if s.kind == "latent"}
    unknown = sorted(drawn - latent)
    left_out = sorted(latent - drawn - set(summed_out))
    if unknown:
        hint = did_you_mean(unknown[0], left_out or sorted(latent))
        raise DataError(
            f"the guide draws {unknown}, expected latents of the model, {sorted(latent)}{hint} "
            "(infer={'is_auxiliary': True} marks others)"
        )
    if left_out:
        warnings.warn(
            f"the guide leaves out the latents {left_out}: they are drawn from the prior",
            stacklevel=2,
        )


@torch.no_grad()
def refuse_outside_support(model: Program, guide: Program, data: tuple) -> None:
    """Refuse a guide whose draws the model gives no density, by some runs of both.

    Raises
    ------
    DataError
        Names the site, a value, and the support.
    """
    first = describe(trace_program(guide, data))
    numbers = sum(torch.Size(s.shape).numel() for s in first.values()) + 1
    for _ in range(max(1, min(MAX_GUIDE_RUNS, MAX_GUIDE_NUMBERS // numbers))):
        drawn = trace_program(guide, data)
        with poutine.block():
            poutine.replay(_SupportCheck(first.keys())(model), trace=drawn)(*data)


class _SupportCheck(Messenger):
    """Hold the values of sites against the supports of their distributions."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_post_sample(self, msg: dict) -> None:
        if msg["name"] not in self.names or msg["is_observed"] or msg["infer"].get("enumerate"):
            return
        fn, value = msg["fn"], msg["value"]
        try:
            inside = fn.support.check(value)
        except (NotImplementedError, ValueError):
            return
        if not bool(inside.all()):
            shown = value[~inside].flatten()[0].item() if inside.shape == value.shape else value
            raise DataError(
                f"site {msg['name']!r}: the guide drew {shown}, outside of the support of the "
                f"model's distribution, {fn.support}; expected a guide on it, such as a LogNormal "
                "where values are positive"
            )
