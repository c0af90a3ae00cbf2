"""What a fit knows of its data: draws, scores and replicates of chosen rows, chain by chain.

Three kinds of fit want three ways. With global latents every draw is scored on all data. With
latents of single rows only, rows are independent given the parameters, so chosen rows are
enough. With no latents that are drawn, there is the model's own representation of a row. The
first way is in ``whole_draws``, the others in ``row_draws``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ppl_zoo.diagnostics.dims import even
from ppl_zoo.diagnostics.records import BLOCK, ChainRecord
from ppl_zoo.diagnostics.row_draws import read_bare, read_local
from ppl_zoo.diagnostics.whole_draws import read_whole
from ppl_zoo.queries import no_latents
from ppl_zoo.tracing import describe, draw, predict, trace_program

__all__ = ["Reader"]

#: numbers of one chain's replicates that are kept; beyond it there are fewer draws of each row
REPLICATES = 2**22
MIN_REPLICATES = 10


class Reader:
    """Reads one fit.

    Parameters
    ----------
    fit
        A :class:`ppl_zoo.Fit` that holds its data.
    num_samples
        Draws a chain.
    max_observations
        Rows that are looked at one by one.
    max_local
        Rows whose latents are kept; None for 100 beside global latents and 6 without.
    scored
        Whether to find the log density of rows, which takes long where it is a bound.
    """

    def __init__(
        self,
        fit: Any,
        num_samples: int,
        max_observations: int,
        max_local: int | None,
        *,
        scored: bool = True,
    ) -> None:
        self.fit, self.model, self.num, self.scored = fit, fit.model, num_samples, scored
        if fit.rows is None:
            fit.data()  # says what is missing
        self.rows = fit.rows
        with fit._seeded(0), self.model.defaults():
            self.plate = self.model.find_rows(self.rows)
            self.guide = no_latents if fit.guide is None else fit.guide
            sampled = fit.solution.draws is not None
            amortised = self.model.guide is not None and not isinstance(self.guide, AutoGuide)
            self.own = amortised and not sampled
            # all rows only where the guide has parameters for each of them
            probe = self.rows.head(1) if self.own else self.rows.all()
            if fit.solution.draws is not None:
                names = set(fit.solution.draws)
            else:
                drawn = describe(trace_program(self.guide, probe)).values()
                names = {s.name for s in drawn if s.kind == "latent"}
            self.summed = tuple(
                s.name
                for s in self.model.sites(*self.rows.head(1)).values()
                if s.kind == "latent" and s.name not in names
            )
            if not names and self.summed and self.model.queries["encode"] == "exact":
                # the solver summed them out, and the model's own guide is their exact posterior
                self.guide, self.own, self.summed = self.model.guide, True, ()
                drawn = describe(trace_program(self.guide, probe)).values()
                names = {s.name for s in drawn if s.kind == "latent"}
        size = len(self.rows)
        self.shown = even(size, max_observations)
        with fit._seeded(0):
            self.sites = self.model.sites(*self.at(self.shown))
        latent = {s.name: s for s in self.sites.values() if s.name in names}
        self.local = tuple(n for n, s in latent.items() if s.is_local(self.plate))
        self.has_global = len(self.local) < len(latent)
        self.has_latents = bool(latent)
        self.whole = self.has_global or (bool(self.local) and not self.own)
        if max_local is None:
            # 6 scalars are as many as ArviZ 1.x puts into one pair plot
            max_local = 100 if self.has_global else 6
        self.chosen = self.shown[even(len(self.shown), max_local)]

    def at(self, index: np.ndarray) -> tuple[Tensor, ...]:
        """Return the data of some rows."""
        return self.rows[torch.from_numpy(index)]

    def is_latent(self, name: str) -> bool:
        """Whether a site is a latent one."""
        return name in self.sites and self.sites[name].kind == "latent"

    def observed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the observed sites among values."""
        return {k: v for k, v in values.items() if self.sites[k].kind == "observed"}

    @property
    def takes_new_rows(self) -> bool:
        """Whether the guide can be asked about rows that it was not fitted to."""
        return not (self.whole and self.local)

    @property
    def has_prior(self) -> bool:
        """Whether there is anything to draw before seeing data."""
        return self.has_latents

    @property
    def num_replicates(self) -> int:
        """Draws of the replicates of each row."""
        observed = (s for s in self.sites.values() if s.kind == "observed")
        size = sum(torch.Size(s.shape).numel() for s in observed)
        return max(min(MIN_REPLICATES, self.num), min(self.num, REPLICATES // max(size, 1)))

    def chains(self) -> Iterator[ChainRecord]:
        """Read all chains."""
        for index in range(len(self.fit.solution.stopped)):
            yield self.chain(index)

    def chain(self, index: int) -> ChainRecord:
        """Read one chain, with its own parameters and seed."""
        fit = self.fit
        with fit.chain(index), fit._seeded(index), self.model.defaults(), torch.no_grad():
            if self.whole:
                return read_whole(self, index)
            return read_local(self) if self.has_latents else read_bare(self)

    def prior(self) -> ChainRecord:
        """Draw before seeing data: latents of the chosen rows, and whole new shown rows."""
        model = self.model
        program = poutine.block(model, hide_fn=lambda site: site.get("is_observed", False))
        out = ChainRecord()
        with self.fit._seeded(0), model.defaults(), torch.no_grad():
            drawn = draw(model, program, self.at(self.chosen), self.num, self.plate, BLOCK)
            out.posterior = drawn.values
            new = predict(
                model, program, self.at(self.shown), self.num_replicates, self.plate, False, BLOCK
            )
            out.replicates = self.observed(new)
        return out
