"""What a fit knows of its data: draws, scores and replicates of chosen rows, chain by chain.

Three kinds of fit want three ways. With global latents every draw is scored on all data. With
latents of single rows only, rows are independent given the parameters, so chosen rows are
enough. With no latents that are drawn, there is the model's own representation of a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ppl_zoo.diagnostics.dims import even, has_plate, plate_axis
from ppl_zoo.diagnostics.khat import khat
from ppl_zoo.errors import QueryError
from ppl_zoo.queries import no_latents
from ppl_zoo.tracing import Draws, Site, describe, draw, predict, trace_program

__all__ = ["ChainRecord", "Reader"]

#: draws that k-hat is estimated from, at least; with fewer it moves by 0.2
KHAT_DRAWS = 4000
#: importance samples of a row's log density at most, where that is a bound
BOUND_DRAWS = 1000
#: numbers of one chain's replicates that are kept; beyond it there are fewer draws of each row
REPLICATES = 2**22
MIN_REPLICATES = 10
#: bound on what the model holds at once; it may need many times that inside
BLOCK = 2**20
#: widest representation that is kept of a row
MAX_WIDTH = 16


@dataclass
class ChainRecord:
    """One chain: posterior ``{site: (draw, ...)}`` with local sites of the ``local`` rows."""

    posterior: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    replicates: dict[str, Tensor] = field(default_factory=dict)
    khat: float = float("nan")


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
                return self._whole(index)
            return self._local() if self.has_latents else self._bare()

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
            out.replicates = self._observed(new)
        return out

    # ---- the three ways ---------------------------------------------------------------------

    def _whole(self, chain: int) -> ChainRecord:
        """Draws of everything, scored on all rows; parts of a few rows are kept."""
        model, data, plate = self.model, self.rows.all(), self.plate
        given = self.fit.solution.draws
        if given is not None:
            latents = {k: v[chain] for k, v in given.items() if self._is_latent(k)}
            available = len(next(iter(latents.values())))
            picked = torch.from_numpy(even(available, self.num)).to(model.device)
            latents = {k: v.to(model.device)[picked] for k, v in latents.items()}
            total = keep = len(picked)
        else:
            latents, keep = None, self.num
            # k-hat needs more draws than a plot; single rows' k-hat comes from the rows' own
            total = max(keep, KHAT_DRAWS) if self.has_global else keep
        sites = model.sites(*data)
        observed = [s for s in sites.values() if s.kind == "observed"]
        numbers = sum(torch.Size(s.shape).numel() for s in sites.values())
        block = max(2, min(total, 16 * BLOCK // (numbers + 1)))
        out, weights = ChainRecord(), []
        replayed = even(keep, self.num_replicates)
        parts: list[dict[str, Tensor]] = []
        for start in range(0, total, block):
            count = min(block, total - start)
            part = None
            if latents is not None:
                part = {k: v[start : start + count] for k, v in latents.items()}
            state = torch.get_rng_state()
            drawn = draw(model, self.guide, data, count, plate, BLOCK, part)
            weights.append(drawn.log_weight)
            kept = min(count, keep - start)
            if kept <= 0:
                continue
            likelihood = None
            if self.has_global:
                prior = None
                if self.summed and self.local:
                    after = torch.get_rng_state()
                    torch.set_rng_state(state)  # the same draws once more
                    prior = self._prior_of_rows(data, count, part)
                    torch.set_rng_state(after)
                likelihood = self._likelihood(drawn, observed, prior)
            parts.append(self._cut(drawn, likelihood, sites, kept, start, replayed, given is None))
        joined = {k: torch.cat([p[k] for p in parts if k in p]) for k in parts[0]}
        for name, value in joined.items():
            kind, name = name.split(":", 1)
            if kind == "replay":
                continue
            getattr(out, kind)[name] = value
        replay = {k.split(":", 1)[1]: v for k, v in joined.items() if k.startswith("replay:")}
        new = predict(
            model, self.guide, self.at(self.shown), len(replayed), plate, True, BLOCK, replay
        )
        out.replicates = self._observed(new)
        if given is not None:
            stats = self.fit.solution.sample_stats.items()
            chosen = picked.cpu().numpy()
            out.stats |= {k: torch.from_numpy(v[chain][chosen]) for k, v in stats}
        if given is None and self.has_global:
            out.khat = khat(torch.cat(weights))
        if not self.has_global:
            out.log_likelihood = self._marginal()
        return out

    def _cut(
        self,
        drawn: Draws,
        likelihood: dict[str, Tensor] | None,
        sites: dict[str, Site],
        kept: int,
        start: int,
        replayed: np.ndarray,
        scored: bool,
    ) -> dict[str, Tensor]:
        """Keep what the groups need of one block of draws."""
        out = {"stats:lp": drawn.log_joint[:kept]}
        if scored:
            out["stats:log_q"] = drawn.log_guide[:kept]
            out["stats:log_weight"] = drawn.log_weight[:kept]
        here = replayed[(replayed >= start) & (replayed < start + kept)] - start
        pick = torch.from_numpy(here).to(drawn.log_joint.device)
        for name, value in drawn.values.items():
            site = sites[name]
            out[f"posterior:{name}"] = self._rows_of(value[:kept], site, self.chosen)
            if site.kind == "latent":
                out[f"replay:{name}"] = self._rows_of(value[pick], site, self.shown)
        for name, value in (likelihood or {}).items():
            out[f"log_likelihood:{name}"] = value[:kept]
        return out

    def _rows_of(self, value: Tensor, site: Site, index: np.ndarray) -> Tensor:
        if not has_plate(site, self.plate):
            return value
        rows = torch.from_numpy(index).to(value.device)
        return value.index_select(1 + plate_axis(site, self.plate), rows)

    def _local(self) -> ChainRecord:
        """Latents of chosen rows only: rows are independent given the parameters."""
        model, plate = self.model, self.plate
        drawn = draw(model, self.guide, self.at(self.chosen), self.num, plate, BLOCK)
        out = ChainRecord(posterior=drawn.values, log_likelihood=self._marginal())
        out.stats = {
            "lp": drawn.log_joint,
            "log_q": drawn.log_guide,
            "log_weight": drawn.log_weight,
        }
        if model.queries["log_prob"] != "exact":
            # rows are separate problems, so the largest of their k-hats
            more = draw(model, self.guide, self.at(self.chosen), KHAT_DRAWS, plate, BLOCK)
            if more.log_joint_rows is not None and more.log_guide_rows is not None:
                by_row = more.log_joint_rows - more.log_guide_rows
                values = [khat(w) for w in by_row.unbind(-1)]
                out.khat = max(values, key=lambda v: -np.inf if np.isnan(v) else v)
        shown = self.at(self.shown)
        new = predict(model, self.guide, shown, self.num_replicates, plate, True, BLOCK)
        out.replicates = self._observed(new)
        return out

    def _bare(self) -> ChainRecord:
        """Nothing is drawn: the representation of chosen rows, and new rows of the model."""
        out = ChainRecord(log_likelihood=self._marginal())
        code = self._representation()
        out.posterior = {k: v.expand(self.num, *v.shape) for k, v in code.items()}
        if out.log_likelihood:
            total = next(iter(out.log_likelihood.values())).sum(-1)
            out.stats = {"lp": total, "log_q": torch.zeros_like(total), "log_weight": total}
        out.replicates = self._new_rows(self.num_replicates)
        return out

    # ---- pieces -----------------------------------------------------------------------------

    def _is_latent(self, name: str) -> bool:
        return name in self.sites and self.sites[name].kind == "latent"

    def _observed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in values.items() if self.sites[k].kind == "observed"}

    def _prior_of_rows(
        self, data: tuple, count: int, latents: dict[str, Tensor] | None
    ) -> Tensor | None:
        """Log p(local latents | globals) of each row, for the draws of the present seed."""
        names = {n for n, s in self.sites.items() if s.kind == "observed"}
        bare = poutine.block(self.model, hide=list(names))
        return draw(bare, self.guide, data, count, self.plate, BLOCK, latents).log_joint_rows

    def _likelihood(
        self, drawn: Draws, observed: list[Site], prior: Tensor | None
    ) -> dict[str, Tensor]:
        """Log likelihood of each shown row given the draws; summed-out sites summed out."""
        in_rows = [s for s in observed if s.is_local(self.plate)]
        if not in_rows:
            return drawn.log_likelihood
        name = in_rows[0].name if len(in_rows) == 1 else "joint"
        if all(s.name in drawn.log_likelihood for s in in_rows):
            value = sum(self._by_row(drawn.log_likelihood[s.name], s) for s in in_rows)
        elif drawn.log_joint_rows is not None and not (self.local and prior is None):
            value = drawn.log_joint_rows - (0.0 if prior is None else prior)
        else:
            return {}  # the rows do not factorise
        index = torch.from_numpy(self.shown).to(value.device)
        return {name: value[:, index]}

    def _by_row(self, value: Tensor, site: Site) -> Tensor:
        axis = [name for name, _, _ in site.plates].index(self.plate) + 1
        others = [i for i in range(1, value.ndim) if i != axis]
        return value.sum(others) if others else value

    def _marginal(self) -> dict[str, Tensor]:
        """Log density of each shown row at the fitted parameters, the same in every draw."""
        observed = [s for s in self.sites.values() if s.kind == "observed"]
        if not observed or not self.scored or self.model.queries["log_prob"] == "none":
            return {}
        name = observed[0].name if len(observed) == 1 else "joint"
        data = self.rows.all() if self.whole else self.at(self.shown)
        taken = inspect.signature(self.model.log_prob).parameters
        options = {}
        if "num_samples" in taken:
            options["num_samples"] = min(taken["num_samples"].default, BOUND_DRAWS)
        places = [n for n, p in taken.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        if not any(p.kind is p.VAR_POSITIONAL for p in taken.values()):
            data = data[: len([name for name in places if name not in options])]
        try:
            value = self.model.log_prob(*data, **options)
        except QueryError:
            return {}
        if self.whole:
            value = value[torch.from_numpy(self.shown).to(value.device)]
        return {name: value.expand(self.num, -1)}

    def _representation(self) -> dict[str, Tensor]:
        data = self.at(self.chosen)
        try:
            code = self.model.encode(*data)
        except (QueryError, TypeError):
            return {"log_density": self.model.log_prob(*data)}
        codes = code if isinstance(code, dict) else {"representation": code}
        out = {}
        for name, value in codes.items():
            flat = value.reshape(len(value), -1)
            columns = torch.from_numpy(even(flat.shape[1], MAX_WIDTH)).to(flat.device)
            out[name] = flat[:, columns] if value.ndim > 1 else value
        return out

    def _new_rows(self, num: int) -> dict[str, Tensor]:
        model, shown = self.model, self.at(self.shown)
        names = [s.name for s in self.sites.values() if s.kind == "observed"]
        # a model whose sites together make one array says so by sample(): only the program can
        # tell which is which
        if len(self.rows.arrays) == 1 and len(names) == 1 and model.queries["sample"] == "exact":
            new = model.sample(num * len(self.shown))
            values = new if isinstance(new, dict) else {names[0]: new}
            return {k: v.reshape(num, len(self.shown), *v.shape[1:]) for k, v in values.items()}
        new = predict(model, self.guide, shown, num, self.plate, True, BLOCK)
        return self._observed(new)
