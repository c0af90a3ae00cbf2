"""Posterior of a fit: a fitted model, its draws and replicates, and draws as a guide."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_zoo.core.display import call_text
from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.khat import resample
from ppl_zoo.core.model import Model, no_latents
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.random import chain_seed, fork_generators, set_seed
from ppl_zoo.core.rows import Rows, evenly_spaced, split_indices
from ppl_zoo.core.solution import Solution, load_chain
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.core.tracing import Draws, describe, draw, draw_discrete, first_run, predict
from ppl_zoo.core.tracing.traceable import kept_statistics

__all__ = ["FittedModel", "PosteriorDraws"]


class FittedModel:
    """A model with what a solver found for it, and draws of its posterior.

    Attributes
    ----------
    model, guide
        The model with its best chain's parameters, and the guide (None if there is none).
    solver, seed
        What it was fitted with.
    solution
        The solver's record: parameters of all chains, objective, why each chain stopped.
    rows
        The data; None where a saved fit does not hold them.
    seconds
        Time spent fitting.
    valid
        Rows that were held out of the fit; None where there are none.
    num_split_off
        How many of the data ``zoo.fit`` itself held out; 0 where ``valid`` was given.
    """

    def __init__(
        self,
        model: Model,
        solver: Solver,
        solution: Solution,
        rows: Rows | None,
        *,
        seed: int,
        seconds: float,
        valid: Rows | None = None,
        num_split_off: int = 0,
    ) -> None:
        self.model, self.solver, self.solution = model, solver, solution
        self.rows, self.seed, self.seconds = rows, seed, seconds
        self.valid, self.num_split_off = valid, num_split_off

    @property
    def guide(self) -> Any:
        """The guide program; None where the fit has none."""
        return self.solution.guide

    @property
    def history(self) -> Mapping[str, np.ndarray]:
        """``{"objective": (chain, step)}`` in nats, NaN after the end of a chain."""
        return self.solution.history

    @property
    def objective(self) -> float:
        """Final objective of the best chain, in nats."""
        return float(self.solution.objective[self.solution.best])

    @property
    def stopped(self) -> str:
        """Why the best chain stopped: "converged", "max_steps" or "interrupted"."""
        return self.solution.stopped[self.solution.best]

    def __repr__(self) -> str:
        """Summarise in one line."""
        chains = len(self.solution.stopped)
        return (
            f"{type(self).__name__}({self.model.model_name}, {type(self.solver).__name__}"
            f"{' on XLA' if self.solution.engine == 'xla' else ''}, "
            f"objective={self.objective:.4f}, {self.stopped} after "
            f"{self.solution.steps[self.solution.best]} steps, {chains} "
            f"chain{'s' if chains > 1 else ''}, {self.seconds:.1f} s)"
        )

    @property
    def params(self) -> dict[str, Tensor]:
        """Learnt parameters by Pyro's names, on their constrained scale, of the best chain.

        As ``pyro.get_param_store()`` would hold them after Pyro's own SVI: of ``pyro.param``,
        modules (``net$$$weight``) and autoguides (``AutoNormal.locs.mu``).
        """
        data, found = self.data(), {}
        with self.at(self.solution.best), torch.no_grad(), poutine.block():
            for program in (self.guide, self.model):
                if program is not None and not isinstance(program, PosteriorDraws):
                    trace = poutine.trace(program).get_trace(*data)
                    found |= {
                        name: node["value"].detach().clone()
                        for name, node in trace.nodes.items()
                        if node["type"] == "param"
                    }
            declared = self.model.declared.values()
        # some are an estimator's own, as running averages of baselines
        return found | {k: v.clone() for k, v in declared.items() if k not in found}

    @property
    def row_numbers(self) -> np.ndarray:
        """Numbers of the fit's rows among those it was given, of which some may be held out."""
        rows, num = self.rows, self.num_split_off
        if rows is None or num == 0:
            return np.arange(0 if rows is None else len(rows))
        return split_indices(len(rows) + num, num, self.seed, rows.is_on_disk)[0].numpy()

    def data(self) -> tuple[Tensor, ...]:
        """Return the data of the fit.

        Raises
        ------
        QueryError
            If the fit was loaded from a run that does not hold them.
        """
        if self.rows is None:
            raise QueryError("this run holds no data: pass them, zoo.load(path, data=...)")
        return self.rows.all()

    # ---- one chain at a time ----------------------------------------------------------------

    def show(self, chain: int) -> None:
        """Put one chain's parameters into model and guide, components in canonical order."""
        load_chain(self.model, self.guide, self.solution.parameters, chain)
        with torch.no_grad():
            # after loading, so that the record keeps the order that the optimizer's state has
            self.model.relabel()

    @contextlib.contextmanager
    def chain(self, index: int) -> Iterator[FittedModel]:
        """Let model and guide have the parameters of one chain for a while."""
        self.show(index)
        try:
            yield self
        finally:
            self.show(self.solution.best)

    @contextlib.contextmanager
    def seeded(self, chain: int) -> Iterator[None]:
        """Draw from the chain's own seed, leaving the caller's random state alone."""
        with fork_generators(self.model.device):
            set_seed(chain_seed(self.seed, chain, -7), self.model.device)
            yield

    @contextlib.contextmanager
    def at(self, chain: int) -> Iterator[None]:
        """Be at one chain: its parameters, its seed, the model's dtype and device."""
        with (
            self.chain(chain),
            self.seeded(chain),
            self.model.defaults(),
            self.model.whole(),
            kept_statistics(),
        ):
            yield

    # ---- draws ------------------------------------------------------------------------------

    @one_at_a_time
    def draws(self, num_samples: int = 1000, rows: Rows | None = None) -> list[Draws]:
        """Scored draws of the guide, one :class:`Draws` a chain.

        Parameters
        ----------
        num_samples
            Draws a chain.
        rows
            Rows to draw the local latents of; those of the fit by default.
        """
        data = self.data() if rows is None else rows.all()
        guide = no_latents if self.guide is None else self.guide
        out = []
        for index in range(len(self.solution.stopped)):
            with self.at(index):
                plate = self.model.find_data_plate(data)
                given, num = self._sampled(index, num_samples)
                out.append(draw(self.model, guide, data, num, plate, latents=given))
        return out

    @one_at_a_time
    def replicates(
        self, num_samples: int = 1000, rows: Rows | None = None
    ) -> list[dict[str, Tensor]]:
        """Posterior predictive draws of the same rows, ``{site: (draw, ...)}`` a chain."""
        data = self.data() if rows is None else rows.all()
        guide = no_latents if self.guide is None else self.guide
        out = []
        for index in range(len(self.solution.stopped)):
            with self.at(index):
                plate = self.model.find_data_plate(data)
                given, num = self._sampled(index, num_samples)
                drawn = predict(self.model, guide, data, num, plate, True, latents=given)
                sites = describe(first_run(self.model, data))
            out.append({k: v for k, v in drawn.items() if sites[k].kind == "observed"})
        return out

    @one_at_a_time
    def posterior(self, num_samples: int = 1000, discrete: bool = False) -> dict[str, Tensor]:
        """Draw the latents from the fitted posterior.

        Parameters
        ----------
        num_samples
            Draws a chain.
        discrete
            Whether to draw the discrete latents that were summed out as well: exactly, given the
            others of each draw. Where the program does not broadcast over draws, as a hidden
            Markov model, that takes some milliseconds a draw.

        Returns
        -------
        dict
            ``{site: (chain, draw, ...)}``; deterministic sites included.
        """
        if self.solution.draws is not None:
            found = {k: v[:, :num_samples] for k, v in self.solution.draws.items()}
        else:
            parts = [d.values for d in self.draws(num_samples)]
            found = {name: torch.stack([p[name] for p in parts]) for name in parts[0]}
        names = [n for n in self.solution.summed_out if n not in found]
        return found | self._discrete(found, names) if discrete and names else found

    @one_at_a_time
    def log_weights(self, num_samples: int = 4000) -> Tensor:
        """Log importance weights of the guide's draws, ``(chain, draw)``.

        Raises
        ------
        QueryError
            If a sampler made the draws: they have no weights.
        """
        if self.solution.draws is not None:
            raise QueryError(
                f"{type(self.solver).__name__} draws from the posterior itself: there are no "
                "importance weights, look at R-hat and divergences"
            )
        return torch.stack([d.log_weight for d in self.draws(num_samples)])

    @one_at_a_time
    def resampled(
        self, drawn: Sequence[Draws], num_samples: int, num_chains: int = 1
    ) -> FittedModel:
        """Return the fit with draws resampled by importance in the place of its guide.

        By weights that are Pareto-smoothed (:func:`ppl_zoo.core.khat.resample`): the draws are
        those of the posterior where k-hat is small.

        Parameters
        ----------
        drawn
            Draws of the guide, one a chain: some times as many as are wanted.
        num_samples
            Draws a chain of the result.
        num_chains
            Chains that each chain's draws are dealt to.
        """
        picked, evidence = [], []
        for index, part in enumerate(drawn):
            rng = np.random.default_rng(chain_seed(self.seed, index, -9))
            chosen = resample(part.log_weight, num_chains * num_samples, rng)
            picked.append(chosen.reshape(num_chains, num_samples))
            total = float(part.log_weight.double().logsumexp(0))
            evidence += [total - float(np.log(len(part.log_weight)))] * num_chains
        draws = {
            name: torch.cat(
                [part.values[name].cpu()[at] for part, at in zip(drawn, picked, strict=True)]
            )
            for name in drawn[0].values
        }
        solution = Solution(
            parameters={
                name: value.repeat_interleave(num_chains, 0)
                for name, value in self.solution.parameters.items()
                if name.startswith("model.")
            },
            history={"objective": np.array(evidence)[:, None]},
            objective=np.array(evidence),
            stopped=("converged",) * len(evidence),
            guide=PosteriorDraws(self.model, draws, self.data()),
            summed_out=self.solution.summed_out,
            engine=self.solution.engine,
            draws=draws,
        )
        return type(self)(
            self.model, self.solver, solution, self.rows, seed=self.seed, seconds=self.seconds
        )

    def _discrete(self, found: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Draw sites that were summed out, given the draws of all others."""
        parts, data = [], self.data()
        for index in range(len(self.solution.stopped)):
            with self.at(index):
                own = {k: v[index].to(self.model.device) for k, v in found.items()}
                plate = self.model.find_data_plate(data)
                parts.append(draw_discrete(self.model, data, own, names, plate))
        return {name: torch.stack([p[name] for p in parts]) for name in names}

    def _sampled(self, chain: int, num_samples: int) -> tuple[dict[str, Tensor] | None, int]:
        """Draws of a sampler, evenly spaced, and their number; None where the guide draws."""
        draws = self.solution.draws
        if draws is None:
            return None, num_samples
        names = {n for n, s in self.model.sites(*self.data()).items() if s.kind == "latent"}
        picked = evenly_spaced(next(iter(draws.values())).shape[1], num_samples)
        kept = {k: v[chain][picked].to(self.model.device) for k, v in draws.items() if k in names}
        return kept, len(picked)

    # ---- the same model on other rows, or by another solver ---------------------------------

    def on(self, rows: Rows) -> FittedModel:
        """Return the same fit with other rows, for guides that take any."""
        return type(self)(
            self.model, self.solver, self.solution, rows, seed=self.seed, seconds=self.seconds
        )

    def alone(self) -> FittedModel:
        """Return the same fit as its best chain alone.

        Where the parameters are points, other chains are worse optima and no draws of a posterior:
        to compare them says nothing of the answer.
        """
        return type(self)(
            self.model,
            self.solver,
            self.solution.alone(self.solution.best),
            self.rows,
            seed=self.seed,
            seconds=self.seconds,
            valid=self.valid,
            num_split_off=self.num_split_off,
        )

    def solved_by(self, solver: Solver, rows: Rows) -> FittedModel:
        """Let another solver find the latents of some rows, at the same parameters."""
        own = self.model.fresh()
        own.load_state_dict(self.model.state_dict())
        own.remember(rows, self.guide)
        own.check_data(rows)
        started = time.perf_counter()
        with fork_generators(own.device), own.defaults():
            own.find_data_plate(rows)
            solution = solver.solve(own, rows, FitContext(seed=self.seed, progress=False))
        seconds = time.perf_counter() - started
        found = type(self)(own, solver, solution, rows, seed=self.seed, seconds=seconds)
        found.show(solution.best)
        own.remember(rows, solution.guide)
        return found


class PosteriorDraws:
    """Stored posterior draws as a guide, each with the same probability.

    All sites of a run come from one draw. Local latents are those of the fit's own rows; for
    other rows they come from the model's prior given the global latents.

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

    def __repr__(self) -> str:
        """Write the sites with the shapes of their draws."""
        return call_text(type(self).__name__, self.given)

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
        plate = self.model.find_data_plate(data)
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
        value = stored[self.index.flatten()][0]
        msg["fn"] = dist.Delta(value, event_dim=event_dim).mask(False)
