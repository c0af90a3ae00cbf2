"""Posterior draws as a guide, so that a model's queries work after sampling."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model

__all__ = ["PosteriorDraws"]


class PosteriorDraws:
    """A guide that hands out stored draws, each with the same probability.

    All sites of a run come from one draw. Latents of single rows are those of the fit's own
    rows; for other rows they come from the model's prior given the global latents.

    Parameters
    ----------
    model
        The model.
    draws
        ``{site: (chain, draw, ...)}``.
    data
        The rows that the draws belong to; None if they are not known.
    """

    def __init__(
        self, model: Model, draws: dict[str, Tensor], data: tuple[Tensor, ...] | None
    ) -> None:
        self.model, self.given, self.data = model, draws, data
        self.draws = {k: v.flatten(0, 1) for k, v in draws.items()}

    @property
    def num_draws(self) -> int:
        """Draws of all chains."""
        return len(next(iter(self.draws.values())))

    def knows(self, *data: Tensor) -> bool:
        """Whether these are the rows of the fit."""
        return (
            self.data is not None
            and len(data) == len(self.data)
            and all(torch.equal(a, b) for a, b in zip(data, self.data, strict=True))
        )

    def for_new_rows(self) -> PosteriorDraws:
        """Return the guide that takes all rows as new ones."""
        return PosteriorDraws(self.model, self.given, None)

    def __call__(self, *data: Any) -> None:
        """Run as a Pyro program."""
        if self.num_draws == 0:
            raise QueryError("the fit holds no draws: it was interrupted while warming up")
        seen = self.knows(*data)
        sites = self.model.sites(*data)
        plate = self.model.data_plate
        latent = [s for s in sites.values() if s.kind == "latent" and not s.discrete]
        held = {
            s.name: self.draws[s.name].to(self.model.device)
            for s in latent
            if s.name in self.draws and (seen or not s.is_local(plate))
        }
        # masked: which draw it is has no density of its own
        place = pyro.sample(
            "_which", dist.Uniform(0.0, 1.0).mask(False), infer={"is_auxiliary": True}
        )
        index = (place * self.num_draws).long().clamp(max=self.num_draws - 1)
        program = _Held(held, index, {s.name: s.event_dim for s in latent})(self.model)
        poutine.block(program, expose=[s.name for s in latent])(*data)


class _Held(Messenger):
    """Put draws in the place of latents."""

    def __init__(self, draws: dict[str, Tensor], index: Tensor, event_dims: dict) -> None:
        super().__init__()
        self.draws, self.index, self.event_dims = draws, index, event_dims

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.draws:
            return
        stored, event_dim = self.draws[msg["name"]], self.event_dims[msg["name"]]
        value = stored[self.index.flatten()]
        if self.index.ndim == 0:
            value = value[0]
        else:
            # the index lies left of all plates, the stored batch dimensions take their places
            batch = stored.ndim - 1 - event_dim
            lead = self.index.shape[: self.index.ndim - batch]
            value = value.reshape(*lead, *stored.shape[1:])
        msg["fn"] = dist.Delta(value, event_dim=event_dim).mask(False)
