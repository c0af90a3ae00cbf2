"""What a fit knows of its data: draws, scores and replicates of chosen rows, chain by chain.

Three kinds of fit want three ways. With global latents every draw is scored on all data. With
latents of single rows only, rows are independent given the parameters, so chosen rows are
enough. With no latents that are drawn, there is the model's own representation of a row. The
first way is in ``whole_draws``, the others in ``row_draws``.
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

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import no_latents
from ppl_zoo.core.tracing import Draws, Site, describe, draw, predict, trace_program
from ppl_zoo.diagnostics.dims import even, has_plate, plate_axis
from ppl_zoo.diagnostics.khat import khat

__all__ = [
    "BLOCK",
    "KHAT_DRAWS",
    "ChainRecord",
    "Reader",
    "likelihood",
    "marginal",
    "prior_of_rows",
    "read_bare",
    "read_local",
    "read_whole",
]

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
        with fit.seeded(0), self.model.defaults():
            self.plate = self.model.find_data_plate(self.rows)
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
        with fit.seeded(0):
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
        with fit.chain(index), fit.seeded(index), self.model.defaults(), torch.no_grad():
            if self.whole:
                return read_whole(self, index)
            return read_local(self) if self.has_latents else read_bare(self)

    def prior(self) -> ChainRecord:
        """Draw before seeing data: latents of the chosen rows, and whole new shown rows."""
        model = self.model
        program = poutine.block(model, hide_fn=lambda site: site.get("is_observed", False))
        out = ChainRecord()
        with self.fit.seeded(0), model.defaults(), torch.no_grad():
            drawn = draw(model, program, self.at(self.chosen), self.num, self.plate, BLOCK)
            out.posterior = drawn.values
            new = predict(
                model, program, self.at(self.shown), self.num_replicates, self.plate, False, BLOCK
            )
            out.replicates = self.observed(new)
        return out


# ---- One chain as it is read from a fit, and how much is read at once.

#: draws that k-hat is estimated from, at least; with fewer it moves by 0.2
KHAT_DRAWS = 4000
#: bound on what the model holds at once; it may need many times that inside
BLOCK = 2**20


@dataclass
class ChainRecord:
    """One chain: posterior ``{site: (draw, ...)}`` with local sites of the ``local`` rows."""

    posterior: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    replicates: dict[str, Tensor] = field(default_factory=dict)
    khat: float = float("nan")


# ---- The draws of a fit that cannot be read by chosen rows alone: every draw is of all rows.


def read_whole(reader: Any, chain: int) -> ChainRecord:
    """Draws of everything, scored on all rows; parts of a few rows are kept."""
    model, data, plate = reader.model, reader.rows.all(), reader.plate
    given = reader.fit.solution.draws
    if given is not None:
        latents = {k: v[chain] for k, v in given.items() if reader.is_latent(k)}
        available = len(next(iter(latents.values())))
        picked = torch.from_numpy(even(available, reader.num)).to(model.device)
        latents = {k: v.to(model.device)[picked] for k, v in latents.items()}
        total = keep = len(picked)
    else:
        latents, keep = None, reader.num
        # k-hat needs more draws than a plot; single rows' k-hat comes from the rows' own
        total = max(keep, KHAT_DRAWS) if reader.has_global else keep
    sites = model.sites(*data)
    observed = [s for s in sites.values() if s.kind == "observed"]
    numbers = sum(torch.Size(s.shape).numel() for s in sites.values())
    block = max(2, min(total, 16 * BLOCK // (numbers + 1)))
    out, weights = ChainRecord(), []
    replayed = even(keep, reader.num_replicates)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, total, block):
        count = min(block, total - start)
        part = None
        if latents is not None:
            part = {k: v[start : start + count] for k, v in latents.items()}
        state = torch.get_rng_state()
        drawn = draw(model, reader.guide, data, count, plate, BLOCK, part)
        weights.append(drawn.log_weight)
        kept = min(count, keep - start)
        if kept <= 0:
            continue
        score = None
        if reader.has_global:
            prior = None
            if reader.summed and reader.local:
                after = torch.get_rng_state()
                torch.set_rng_state(state)  # the same draws once more
                prior = prior_of_rows(reader, data, count, part)
                torch.set_rng_state(after)
            score = likelihood(reader, drawn, observed, prior)
        parts.append(_cut(reader, drawn, score, sites, kept, start, replayed, given is None))
    joined = {k: torch.cat([p[k] for p in parts if k in p]) for k in parts[0]}
    for name, value in joined.items():
        kind, name = name.split(":", 1)
        if kind == "replay":
            continue
        getattr(out, kind)[name] = value
    replay = {k.split(":", 1)[1]: v for k, v in joined.items() if k.startswith("replay:")}
    new = predict(
        model, reader.guide, reader.at(reader.shown), len(replayed), plate, True, BLOCK, replay
    )
    out.replicates = reader.observed(new)
    if given is not None:
        stats = reader.fit.solution.sample_stats.items()
        chosen = picked.cpu().numpy()
        out.stats |= {k: torch.from_numpy(v[chain][chosen]) for k, v in stats}
    if given is None and reader.has_global:
        out.khat = khat(torch.cat(weights))
    if not reader.has_global:
        out.log_likelihood = marginal(reader)
    return out


def _cut(
    reader: Any,
    drawn: Draws,
    score: dict[str, Tensor] | None,
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
        out[f"posterior:{name}"] = _rows_of(reader, value[:kept], site, reader.chosen)
        if site.kind == "latent":
            out[f"replay:{name}"] = _rows_of(reader, value[pick], site, reader.shown)
    for name, value in (score or {}).items():
        out[f"log_likelihood:{name}"] = value[:kept]
    return out


def _rows_of(reader: Any, value: Tensor, site: Site, index: np.ndarray) -> Tensor:
    if not has_plate(site, reader.plate):
        return value
    rows = torch.from_numpy(index).to(value.device)
    return value.index_select(1 + plate_axis(site, reader.plate), rows)


# ---- The draws of a fit whose rows stand alone: latents of chosen rows, or their representation.

#: widest representation that is kept of a row
MAX_WIDTH = 16


def read_local(reader: Any) -> ChainRecord:
    """Latents of chosen rows only: rows are independent given the parameters."""
    model, plate = reader.model, reader.plate
    drawn = draw(model, reader.guide, reader.at(reader.chosen), reader.num, plate, BLOCK)
    out = ChainRecord(posterior=drawn.values, log_likelihood=marginal(reader))
    out.stats = {
        "lp": drawn.log_joint,
        "log_q": drawn.log_guide,
        "log_weight": drawn.log_weight,
    }
    if model.queries["log_prob"] != "exact":
        # rows are separate problems, so the largest of their k-hats
        more = draw(model, reader.guide, reader.at(reader.chosen), KHAT_DRAWS, plate, BLOCK)
        if more.log_joint_rows is not None and more.log_guide_rows is not None:
            by_row = more.log_joint_rows - more.log_guide_rows
            values = [khat(w) for w in by_row.unbind(-1)]
            out.khat = max(values, key=lambda v: -np.inf if np.isnan(v) else v)
    shown = reader.at(reader.shown)
    new = predict(model, reader.guide, shown, reader.num_replicates, plate, True, BLOCK)
    out.replicates = reader.observed(new)
    return out


def read_bare(reader: Any) -> ChainRecord:
    """Nothing is drawn: the representation of chosen rows, and new rows of the model."""
    out = ChainRecord(log_likelihood=marginal(reader))
    code = _representation(reader)
    out.posterior = {k: v.expand(reader.num, *v.shape) for k, v in code.items()}
    if out.log_likelihood:
        total = next(iter(out.log_likelihood.values())).sum(-1)
        out.stats = {"lp": total, "log_q": torch.zeros_like(total), "log_weight": total}
    out.replicates = _new_rows(reader, reader.num_replicates)
    return out


def _representation(reader: Any) -> dict[str, Tensor]:
    data = reader.at(reader.chosen)
    try:
        code = reader.model.encode(*data)
    except (QueryError, TypeError):
        return {"log_density": reader.model.log_prob(*data)}
    codes = code if isinstance(code, dict) else {"representation": code}
    out = {}
    for name, value in codes.items():
        flat = value.reshape(len(value), -1)
        columns = torch.from_numpy(even(flat.shape[1], MAX_WIDTH)).to(flat.device)
        out[name] = flat[:, columns] if value.ndim > 1 else value
    return out


def _new_rows(reader: Any, num: int) -> dict[str, Tensor]:
    model, shown = reader.model, reader.at(reader.shown)
    names = [s.name for s in reader.sites.values() if s.kind == "observed"]
    # a model whose sites together make one array says so by sample(): only the program can
    # tell which is which
    if len(reader.rows.arrays) == 1 and len(names) == 1 and model.queries["sample"] == "exact":
        new = model.sample(num * len(reader.shown))
        values = new if isinstance(new, dict) else {names[0]: new}
        return {k: v.reshape(num, len(reader.shown), *v.shape[1:]) for k, v in values.items()}
    new = predict(model, reader.guide, shown, num, reader.plate, True, BLOCK)
    return reader.observed(new)


# ---- Log densities of single rows: given each draw, or at the fitted parameters.

#: importance samples of a row's log density at most, where that is a bound
BOUND_DRAWS = 1000


def prior_of_rows(
    reader: Any, data: tuple, count: int, latents: dict[str, Tensor] | None
) -> Tensor | None:
    """Log p(local latents | globals) of each row, for the draws of the present seed."""
    names = {n for n, s in reader.sites.items() if s.kind == "observed"}
    bare = poutine.block(reader.model, hide=list(names))
    return draw(bare, reader.guide, data, count, reader.plate, BLOCK, latents).log_joint_rows


def likelihood(
    reader: Any, drawn: Draws, observed: list[Site], prior: Tensor | None
) -> dict[str, Tensor]:
    """Log likelihood of each shown row given the draws; summed-out sites summed out."""
    in_rows = [s for s in observed if s.is_local(reader.plate)]
    if not in_rows:
        return drawn.log_likelihood
    name = in_rows[0].name if len(in_rows) == 1 else "joint"
    if all(s.name in drawn.log_likelihood for s in in_rows):
        value = sum(_by_row(drawn.log_likelihood[s.name], s, reader.plate) for s in in_rows)
    elif drawn.log_joint_rows is not None and not (reader.local and prior is None):
        value = drawn.log_joint_rows - (0.0 if prior is None else prior)
    else:
        return {}  # the rows do not factorise
    index = torch.from_numpy(reader.shown).to(value.device)
    return {name: value[:, index]}


def _by_row(value: Tensor, site: Site, plate: str | None) -> Tensor:
    axis = [name for name, _, _ in site.plates].index(plate) + 1
    others = [i for i in range(1, value.ndim) if i != axis]
    return value.sum(others) if others else value


def marginal(reader: Any) -> dict[str, Tensor]:
    """Log density of each shown row at the fitted parameters, the same in every draw."""
    observed = [s for s in reader.sites.values() if s.kind == "observed"]
    if not observed or not reader.scored or reader.model.queries["log_prob"] == "none":
        return {}
    name = observed[0].name if len(observed) == 1 else "joint"
    data = reader.rows.all() if reader.whole else reader.at(reader.shown)
    taken = inspect.signature(reader.model.log_prob).parameters
    options = {}
    if "num_samples" in taken:
        options["num_samples"] = min(taken["num_samples"].default, BOUND_DRAWS)
    places = [n for n, p in taken.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if not any(p.kind is p.VAR_POSITIONAL for p in taken.values()):
        data = data[: len([name for name in places if name not in options])]
    try:
        value = reader.model.log_prob(*data, **options)
    except QueryError:
        return {}
    if reader.whole:
        value = value[torch.from_numpy(reader.shown).to(value.device)]
    return {name: value.expand(reader.num, -1)}
