"""Draws that are there already, handed out as a guide would draw them."""

from __future__ import annotations

import contextlib
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from ppl_zoo.tracing.sites import Program, Site

__all__ = ["Given"]


class Given:
    """Draws that are there already, handed out as a guide would draw them."""

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
