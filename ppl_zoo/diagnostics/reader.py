"""Posterior draws of a fit with log densities and replicates of chosen rows, chain by chain.

Three cases. With global latents each draw is scored on all rows. With local latents only, rows
are independent given the parameters, so that chosen rows suffice. Where no latent is drawn, the
model's own representation of a row takes the place of the draws.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.khat import KHAT_DRAWS, khat, khat_of_rows
from ppl_zoo.core.model import no_latents
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.tracing import Draws, Site, describe, draw, first_run, predict, trace_program
from ppl_zoo.core.tracing.sites import Program
from ppl_zoo.diagnostics.arrays import even_indices
from ppl_zoo.diagnostics.dims import has_plate, plate_axis

__all__ = ["ChainRecord", "Reader"]

#: bound on draws times numbers a draw that are held at once; a model may need many times that
MAX_NUMBERS_PER_BLOCK = 2**20
#: numbers of one chain's replicates that are kept; beyond it there are fewer draws of each row
MAX_REPLICATE_NUMBERS = 2**22
#: draws of the replicates of each row, at least
MIN_REPLICATES = 10
#: importance samples of a row's log density at most, where that is a bound
MAX_BOUND_SAMPLES = 1000
#: rows whose local latents are kept beside global ones, and without: 6 scalars are as many as
#: ArviZ 1.x puts into one pair plot
LOCAL_ROWS_BESIDE_GLOBAL, LOCAL_ROWS_ALONE = 100, 6
#: widest representation that is kept of a row
MAX_REPRESENTATION_WIDTH = 16


@dataclass
class ChainRecord:
    """Draws of one chain, each ``{name: (draw, ...)}``, and its Pareto k-hat.

    Attributes
    ----------
    posterior
        Latent and deterministic sites; local ones at the reader's ``local_rows``.
    stats
        Log densities of the draws, and a sampler's statistics.
    log_likelihood
        Log likelihood, or log density, of the ``observed_rows``.
    log_prior
        Log density of each latent site, given those before it.
    replicates
        Observed sites of the ``observed_rows``, drawn anew; fewer draws where they are large.
    khat
        NaN where there are no importance weights.
    """

    posterior: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    log_prior: dict[str, Tensor] = field(default_factory=dict)
    replicates: dict[str, Tensor] = field(default_factory=dict)
    khat: float = float("nan")


class Reader:
    """Reader of the posterior draws of one fit.

    Parameters
    ----------
    fit
        A fit that holds its data.
    num_samples
        Draws a chain.
    max_observations
        Rows whose log densities and replicates are read.
    max_local
        Rows whose local latents are kept; None for 100 beside global latents and 6 without.
    scored
        Whether to find the log density of rows, which takes long where it is a bound.
    replicated
        Whether to draw the observed sites anew.

    Attributes
    ----------
    sites
        Sites of the model at the observed rows.
    observed_rows, local_rows
        Indices of the rows that are read, and of those whose local latents are kept.
    local_sites, summed_out
        Names of the latents in the plate over the data, and of those that the guide does not draw.
    has_latents, has_global
        Whether any latent is drawn, and whether one of them is global.

    Raises
    ------
    QueryError
        If the fit was loaded without its data.
    """

    def __init__(
        self,
        fit: FittedModel,
        num_samples: int,
        max_observations: int,
        max_local: int | None,
        *,
        scored: bool = True,
        replicated: bool = True,
    ) -> None:
        self.fit, self.model = fit, fit.model
        self.num_samples, self.scored, self.replicated = num_samples, scored, replicated
        if fit.rows is None:
            fit.data()  # says what is missing
        self.rows = fit.rows
        with fit.seeded(0), self.model.defaults(), self.model.whole():
            self.plate = self.model.find_data_plate(self.rows)
            self.guide = no_latents if fit.guide is None else fit.guide
            sampled = fit.solution.draws is not None
            own = self.model.guide is not None and self.model.any_rows
            amortised = own and not isinstance(self.guide, AutoGuide)
            self.amortised = amortised and not sampled
            # all rows only where the guide has parameters for each of them
            probe = self.rows.head(1) if self.amortised else self.rows.all()
            names = set(fit.solution.draws) if sampled else self._guide_sites(probe)
            self.summed_out = tuple(
                s.name
                for s in self.model.sites(*self._first_rows()).values()
                if s.kind == "latent" and s.name not in names
            )
            if not names and self.summed_out and self.model.queries["encode"] == "exact":
                # the solver summed them out, and the model's own guide is their exact posterior
                self.guide, self.amortised, self.summed_out = self.model.guide, True, ()
                names = self._guide_sites(probe)
        if not self.model.any_rows:
            max_observations = len(self.rows)
        self.observed_rows = even_indices(len(self.rows), max_observations)
        with fit.seeded(0), self.model.whole():
            self.sites = self.model.sites(*self.data_at(self.observed_rows))
        latent = {s.name: s for s in self.sites.values() if s.name in names}
        self.local_sites = tuple(n for n, s in latent.items() if s.is_local(self.plate))
        self.has_latents, self.has_global = bool(latent), len(self.local_sites) < len(latent)
        # whether a draw is one of all rows together
        self._joint = self.has_global or (bool(self.local_sites) and not self.amortised)
        if max_local is None:
            max_local = LOCAL_ROWS_BESIDE_GLOBAL if self.has_global else LOCAL_ROWS_ALONE
        self.local_rows = self.observed_rows[even_indices(len(self.observed_rows), max_local)]

    def data_at(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Return the data of some rows; of all, where the program may take no others."""
        if not self.model.any_rows:
            return self.rows.all()
        return self.rows[torch.from_numpy(rows)]

    def _first_rows(self) -> tuple[Tensor, ...]:
        return self.rows.head(1) if self.model.any_rows else self.rows.all()

    def observed_values(self) -> dict[str, Tensor]:
        """Values of the observed sites at the observed rows."""
        with self.fit.seeded(0), self.model.defaults(), self.model.whole():
            nodes = first_run(self.model, self.data_at(self.observed_rows)).nodes
        names = (s.name for s in self.sites.values() if s.kind == "observed")
        return {name: torch.as_tensor(nodes[name]["value"]).detach() for name in names}

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model at the observed rows that no site observes."""
        observed = self.observed_values().values()
        arguments = zip(self.model.argument_names, self.data_at(self.observed_rows), strict=False)
        return {
            name: array
            for name, array in arguments
            if not any(_same(array, value) for value in observed)
        }

    @property
    def takes_new_rows(self) -> bool:
        """Whether the guide draws the local latents of rows that it was not fitted to."""
        return not (self._joint and self.local_sites)

    @property
    def num_replicates(self) -> int:
        """Draws of the replicates of each row."""
        if not self.replicated:
            return 0
        observed = (s for s in self.sites.values() if s.kind == "observed")
        size = sum(torch.Size(s.shape).numel() for s in observed)
        most = MAX_REPLICATE_NUMBERS // max(size, 1)
        return max(min(MIN_REPLICATES, self.num_samples), min(self.num_samples, most))

    def chains(self) -> Iterator[ChainRecord]:
        """Read all chains."""
        for index in range(len(self.fit.solution.stopped)):
            yield self.chain(index)

    def chain(self, index: int) -> ChainRecord:
        """Read one chain, with its own parameters and seed."""
        with self.fit.at(index), torch.no_grad():
            if self._joint:
                return self._read_joint(index)
            return self._read_local() if self.has_latents else self._read_representation()

    def prior(self) -> ChainRecord:
        """Draw from the prior: latents of the local rows, and new observed rows."""
        model = self.model
        program = poutine.block(model, hide_fn=lambda site: site.get("is_observed", False))
        out = ChainRecord()
        with self.fit.seeded(0), model.defaults(), model.whole(), torch.no_grad():
            data = self.data_at(self.local_rows)
            drawn = draw(model, program, data, self.num_samples, self.plate, MAX_NUMBERS_PER_BLOCK)
            out.posterior = drawn.values
            if not self.model.any_rows:
                out.posterior = {
                    name: self._rows_of(value, self.sites[name], self.local_rows)
                    for name, value in drawn.values.items()
                }
            data = self.data_at(self.observed_rows)
            new = predict(
                model,
                program,
                data,
                self.num_replicates,
                self.plate,
                False,
                MAX_NUMBERS_PER_BLOCK,
            )
            out.replicates = self._observed(new)
        return out

    # ---- draws of all rows together ---------------------------------------------------------

    def _read_joint(self, chain: int) -> ChainRecord:
        """Draws of all latents, scored on all rows in blocks; parts of a few rows are kept."""
        data = self.rows.all()
        stored, picked, latents = self.fit.solution.draws, None, None
        if stored is None:
            keep = self.num_samples
            # k-hat needs more draws than a plot; that of single rows comes from their own
            total = max(keep, KHAT_DRAWS) if self.has_global else keep
        else:
            latents = {k: v[chain] for k, v in stored.items() if self._is_latent(k)}
            available = len(next(iter(latents.values())))
            picked = torch.from_numpy(even_indices(available, self.num_samples))
            picked = picked.to(self.model.device)
            latents = {k: v.to(self.model.device)[picked] for k, v in latents.items()}
            total = keep = len(picked)
        sites = self.model.sites(*data)
        size = sum(torch.Size(s.shape).numel() for s in sites.values())
        block = max(2, min(total, 16 * MAX_NUMBERS_PER_BLOCK // (size + 1)))
        replayed = even_indices(keep, self.num_replicates)
        records: list[ChainRecord] = []
        replays: list[dict[str, Tensor]] = []
        log_weights = []
        for start in range(0, total, block):
            count = min(block, total - start)
            part = None
            if latents is not None:
                part = {k: v[start : start + count] for k, v in latents.items()}
            random_state = torch.get_rng_state()
            drawn = self._draw(self.model, data, count, part)
            log_weights.append(drawn.log_weight)
            kept = min(count, keep - start)
            if kept <= 0:
                continue
            record = self._block_record(drawn, sites, kept, sampled=stored is not None)
            if self.has_global:
                prior = self._local_log_prior(data, count, part, random_state)
                scores = self._log_likelihood(drawn, sites, prior)
                record.log_likelihood = {k: v[:kept] for k, v in scores.items()}
            records.append(record)
            here = replayed[(replayed >= start) & (replayed < start + kept)] - start
            replays.append(self._block_replay(drawn, sites, here))
        out = ChainRecord(
            _concatenate([r.posterior for r in records]),
            _concatenate([r.stats for r in records]),
            _concatenate([r.log_likelihood for r in records]),
            _concatenate([r.log_prior for r in records]),
            self._replicates(len(replayed), _concatenate(replays)),
        )
        if stored is not None:
            chosen = picked.cpu().numpy()
            for name, values in self.fit.solution.sample_stats.items():
                out.stats[name] = torch.from_numpy(values[chain][chosen])
        elif self.has_global:
            out.khat = khat(torch.cat(log_weights))
        if not self.has_global:
            out.log_likelihood = self._log_density()
        return out

    def _block_record(
        self, drawn: Draws, sites: dict[str, Site], kept: int, *, sampled: bool
    ) -> ChainRecord:
        """Posterior and log densities of the first draws of a block."""
        out = ChainRecord(stats={"lp": drawn.log_joint[:kept]})
        if not sampled:
            out.stats["log_q"] = drawn.log_guide[:kept]
            out.stats["log_weight"] = drawn.log_weight[:kept]
        out.log_prior = {name: value[:kept] for name, value in drawn.log_prior.items()}
        for name, value in drawn.values.items():
            out.posterior[name] = self._rows_of(value[:kept], sites[name], self.local_rows)
        return out

    def _block_replay(
        self, drawn: Draws, sites: dict[str, Site], index: np.ndarray
    ) -> dict[str, Tensor]:
        """Latents of the draws of a block that rows are replicated from."""
        picked = torch.from_numpy(index).to(drawn.log_joint.device)
        return {
            name: self._rows_of(value[picked], sites[name], self.observed_rows)
            for name, value in drawn.values.items()
            if sites[name].kind == "latent"
        }

    def _rows_of(self, value: Tensor, site: Site, rows: np.ndarray) -> Tensor:
        if not has_plate(site, self.plate):
            return value
        index = torch.from_numpy(rows).to(value.device)
        return value.index_select(1 + plate_axis(site, self.plate), index)

    def _local_log_prior(
        self,
        data: tuple[Tensor, ...],
        count: int,
        latents: dict[str, Tensor] | None,
        random_state: Tensor,
    ) -> Tensor | None:
        """Log p(local latents | globals) by row, ``(draw, rows)``, of the draws of a state.

        Only where latents are summed out: their rows have one factor, prior and likelihood.
        """
        if not (self.summed_out and self.local_sites):
            return None
        after = torch.get_rng_state()
        torch.set_rng_state(random_state)  # the same draws once more
        observed = [n for n, s in self.sites.items() if s.kind == "observed"]
        drawn = self._draw(poutine.block(self.model, hide=observed), data, count, latents)
        torch.set_rng_state(after)
        return drawn.log_joint_rows

    def _log_likelihood(
        self, drawn: Draws, sites: dict[str, Site], prior: Tensor | None
    ) -> dict[str, Tensor]:
        """Log likelihood of the observed rows given the draws; summed-out sites summed out."""
        observed = [s for s in sites.values() if s.kind == "observed" and s.is_local(self.plate)]
        if not observed or (not self.model.any_rows and drawn.log_likelihood):
            # of each observation: a function's own plates may cross that of the rows
            return drawn.log_likelihood
        name = observed[0].name if len(observed) == 1 else "joint"
        if len(observed) == 1 and len(observed[0].plates) > 1 and name in drawn.log_likelihood:
            axis = 1 + [plate for plate, _, _ in observed[0].plates].index(self.plate)
            index = torch.from_numpy(self.observed_rows)
            value = drawn.log_likelihood[name]
            return {name: value.index_select(axis, index.to(value.device))}
        if all(s.name in drawn.log_likelihood for s in observed):
            value = sum(self._by_row(drawn.log_likelihood[s.name], s) for s in observed)
        elif drawn.log_joint_rows is not None and not (self.local_sites and prior is None):
            value = drawn.log_joint_rows - (0.0 if prior is None else prior)
        else:
            return {}  # the rows do not factorise
        return {name: value[:, torch.from_numpy(self.observed_rows).to(value.device)]}

    def _by_row(self, value: Tensor, site: Site) -> Tensor:
        """Sum log densities ``(draw, *plates)`` over all plates but that of the rows."""
        axis = [name for name, _, _ in site.plates].index(self.plate) + 1
        others = [i for i in range(1, value.ndim) if i != axis]
        return value.sum(others) if others else value

    # ---- rows one by one --------------------------------------------------------------------

    def _read_local(self) -> ChainRecord:
        """Latents of chosen rows only: rows are independent given the parameters."""
        data = self.data_at(self.local_rows)
        drawn = self._draw(self.model, data, self.num_samples)
        out = ChainRecord(posterior=drawn.values, log_likelihood=self._log_density())
        out.stats = {
            "lp": drawn.log_joint,
            "log_q": drawn.log_guide,
            "log_weight": drawn.log_weight,
        }
        if self.model.queries["log_prob"] != "exact":
            weights = self._draw(self.model, data, KHAT_DRAWS).log_weight_rows
            if weights is not None:
                out.khat = khat_of_rows(weights)
        out.replicates = self._replicates(self.num_replicates)
        return out

    def _read_representation(self) -> ChainRecord:
        """Representation of chosen rows where nothing is drawn, and new rows of the model."""
        out = ChainRecord(log_likelihood=self._log_density())
        codes = self._representation()
        out.posterior = {k: v.expand(self.num_samples, *v.shape) for k, v in codes.items()}
        if out.log_likelihood:
            total = next(iter(out.log_likelihood.values())).sum(-1)
            out.stats = {"lp": total, "log_q": torch.zeros_like(total), "log_weight": total}
        out.replicates = self._new_rows(self.num_replicates)
        return out

    def _representation(self) -> dict[str, Tensor]:
        """Codes of the local rows, or their log density where the model has no codes."""
        data = self.data_at(self.local_rows)
        try:
            code = self.model.encode(*data)
        except (QueryError, TypeError):
            return {"log_density": self.model.log_prob(*data)}
        codes = code if isinstance(code, dict) else {"representation": code}
        out = {}
        for name, value in codes.items():
            flat = value.reshape(len(value), -1)
            columns = torch.from_numpy(even_indices(flat.shape[1], MAX_REPRESENTATION_WIDTH))
            out[name] = flat[:, columns.to(flat.device)] if value.ndim > 1 else value
        return out

    def _new_rows(self, num: int) -> dict[str, Tensor]:
        if num == 0:
            return {}
        names = [s.name for s in self.sites.values() if s.kind == "observed"]
        # of a model whose sites together make one array, only the program can tell which is which
        single = len(self.rows.arrays) == 1 and len(names) == 1
        if not (single and self.model.queries["sample"] == "exact"):
            return self._replicates(num)
        count = len(self.observed_rows)
        new = self.model.sample(num * count)
        values = new if isinstance(new, dict) else {names[0]: new}
        return {k: v.reshape(num, count, *v.shape[1:]) for k, v in values.items()}

    # ---- common to the three cases ----------------------------------------------------------

    def _guide_sites(self, data: tuple[Tensor, ...]) -> set[str]:
        """Names of the latents that the guide draws."""
        sites = describe(trace_program(self.guide, data)).values()
        return {s.name for s in sites if s.kind == "latent"}

    def _is_latent(self, name: str) -> bool:
        return name in self.sites and self.sites[name].kind == "latent"

    def _observed(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v for k, v in values.items() if self.sites[k].kind == "observed"}

    def _draw(
        self,
        program: Program,
        data: tuple[Tensor, ...],
        count: int,
        latents: dict[str, Tensor] | None = None,
    ) -> Draws:
        return draw(program, self.guide, data, count, self.plate, MAX_NUMBERS_PER_BLOCK, latents)

    def _replicates(
        self, count: int, latents: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Observed sites drawn anew, given the same local latents."""
        if count == 0:
            return {}
        new = predict(
            self.model,
            self.guide,
            self.data_at(self.observed_rows),
            count,
            self.plate,
            True,
            MAX_NUMBERS_PER_BLOCK,
            latents,
        )
        return self._observed(new)

    def _log_density(self) -> dict[str, Tensor]:
        """Log density of the observed rows at the fitted parameters, the same in every draw."""
        observed = [s for s in self.sites.values() if s.kind == "observed"]
        if not observed or not self.scored or self.model.queries["log_prob"] == "none":
            return {}
        name = observed[0].name if len(observed) == 1 else "joint"
        data = self.rows.all() if self._joint else self.data_at(self.observed_rows)
        taken = inspect.signature(self.model.log_prob).parameters
        options = {}
        if "num_samples" in taken:
            options["num_samples"] = min(taken["num_samples"].default, MAX_BOUND_SAMPLES)
        if not any(p.kind is p.VAR_POSITIONAL for p in taken.values()):
            named = [n for n, p in taken.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
            data = data[: len([n for n in named if n not in options])]
        try:
            value = self.model.log_prob(*data, **options)
        except QueryError:
            return {}
        if self._joint:
            value = value[torch.from_numpy(self.observed_rows).to(value.device)]
        return {name: value.expand(self.num_samples, -1)}


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the draws of blocks after one another."""
    return {name: torch.cat([p[name] for p in parts if name in p]) for name in parts[0]}


def _same(array: Tensor, value: Tensor) -> bool:
    """Whether two tensors are the same memory, or equal, NaN included."""
    if array.shape != value.shape:
        return False
    return array.data_ptr() == value.data_ptr() or torch.equal(
        torch.nan_to_num(array.double()), torch.nan_to_num(value.double())
    )
