"""Guides on other rows than their own: shared latents of the guide, local ones of the prior.

A mean-field or full-rank guide has a factor for the local latents of each row that it was fitted
to, and says nothing of another row, though it runs on any data of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_zoo.core.tracing import describe, first_run
from ppl_zoo.core.tracing.sites import Program

__all__ = ["SharedLatents", "is_of_other_rows"]


def is_of_other_rows(guide: Program, data: tuple) -> bool:
    """Whether a guide was set up on other rows than these."""
    trace = getattr(guide, "prototype_trace", None)
    if not isinstance(guide, AutoGuide) or trace is None:
        return False
    own = trace.nodes["_INPUT"]["args"]
    return len(own) != len(data) or not all(map(_same, own, data))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one.to(other.device), other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return one is other or (type(one) is type(other) and bool(one == other))


class SharedLatents:
    """Guide of other rows: shared latents of a guide at its own rows, local ones of the prior.

    Local latents then keep their density given the shared ones, which a proposal of importance
    samples needs; the shared ones count as draws of the posterior, without a density.

    Parameters
    ----------
    model, guide
        Pyro programs of the same arguments.
    data_plate
        Name of the plate over the data.
    """

    def __init__(self, model: Program, guide: AutoGuide, data_plate: str | None) -> None:
        self.model, self.guide, self.data_plate = model, guide, data_plate

    def __call__(self, *data: Any) -> None:
        """Run as a Pyro program."""
        own = self.guide.prototype_trace.nodes["_INPUT"]
        with poutine.block():
            drawn = poutine.trace(self.guide).get_trace(*own["args"], **own["kwargs"]).nodes
        sites = describe(first_run(self.model, data)).values()
        latent = [s for s in sites if s.kind == "latent" and not s.discrete]
        shared = {
            s.name: drawn[s.name]["value"]
            for s in latent
            if s.name in drawn and not s.is_local(self.data_plate)
        }
        program = _Held(shared)(self.model)
        poutine.block(program, expose=[s.name for s in latent])(*data)


class _Held(Messenger):
    """Put values in the place of latents, without a density of their own."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] in self.values:
            value = self.values[msg["name"]]
            msg["fn"] = Delta(value, event_dim=msg["fn"].event_dim).mask(False)
