"""Stochastic variational inference: climb the evidence lower bound by stochastic gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor, nn

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import Chain, climb, pad_history
from ppl_zoo.solvers.elbos import (
    ELBOS,
    estimate_and_differentiate,
    ignore_nan_warnings,
    make_elbo,
)
from ppl_zoo.solvers.guides import Pair, copy_guide, make_pair
from ppl_zoo.solvers.optimizer_state import pack_optimizer, unpack_optimizer
from ppl_zoo.solvers.solution import (
    Solution,
    chain_seed,
    load_chain,
    read_parameters,
    set_seed,
    stack_chains,
)
from ppl_zoo.solvers.stopping import Plateau
from ppl_zoo.tracing import trace_program

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI:
    """Stochastic variational inference (Hoffman et al. 2013; Ranganath et al. 2014).

    Maximises the evidence lower bound over the parameters of the guide and of the model
    together. A model without latent variables is fitted by maximum likelihood. Finite discrete
    latents are summed out (exactly, by ``TraceEnum_ELBO``).

    Parameters
    ----------
    steps
        Most steps of a chain. Chains stop earlier once they have converged.
    elbo
        "auto", "trace", "mean-field" (analytic KL), "enum", "graph", "importance", or any ELBO
        object of Pyro.
    num_particles
        Draws of the guide in each step's estimate.
    guide
        None for the model's own guide, or a mean-field normal where it has none; "normal",
        "multivariate-normal", "low-rank", "delta"; an autoguide class of Pyro; or a guide program
        with the model's arguments.
    optimizer
        Called with the parameters; returns a torch optimizer. ``torch.optim.Adam`` by default.
    learning_rate
        Of the default optimizer, or passed as ``lr`` to an optimizer class.
    schedule
        None to divide the learning rate whenever the ELBO has come to a plateau; "constant"; or
        called with the optimizer, returns a torch learning-rate schedule, stepped every step.
    batch_size
        Rows in a minibatch, drawn without replacement in each pass over the data and scaled by
        N / batch_size, so that gradients stay unbiased. None for all rows.
    restarts
        Number of chains, run side by side from different starts; the best one becomes the
        model's parameters.
    clip_norm
        Bound on the norm of the gradient, None for none.
    window, tol, parameter_tol
        Every ``window`` steps the median ELBO and the parameters are compared with those of
        windows before. A chain is at a plateau when the ELBO gained less than its own noise plus
        ``tol`` relative, and has converged when that holds at the smallest learning rate and the
        parameters moved by less than ``parameter_tol`` relative.
    initialize
        False to start from the parameters that the model has.
    """

    steps: int = 20_000
    elbo: Any = "auto"
    num_particles: int = 1
    guide: Any = None
    optimizer: Any = torch.optim.Adam
    learning_rate: float = 0.02
    schedule: Any = None
    batch_size: int | None = None
    restarts: int = 1
    clip_norm: float | None = None
    window: int = 100
    tol: float = 1e-6
    parameter_tol: float = 1e-2
    initialize: bool = True

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("steps", "num_particles", "restarts", "window", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"SVI: got {name}={value}, expected 1 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"SVI: got learning_rate={self.learning_rate}, expected more than 0")
        known = ("auto", *ELBOS)
        if isinstance(self.elbo, str) and self.elbo not in known:
            raise ValueError(f"SVI: got elbo={self.elbo!r}, expected one of {known} or an ELBO")

    def solve(
        self,
        model: Model,
        rows: Rows,
        *,
        seed: int = 0,
        progress: bool = True,
        resume: Solution | None = None,
        checkpoint: Callable[[Solution], object] | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        chains = [self._chain(model, rows, seed, index, resume) for index in range(self.restarts)]
        batch = self.batch_size if self.batch_size and self.batch_size < len(rows) else None

        def solution() -> Solution:
            return self._solution(chains)

        def advance(chain: _SVIChain) -> None:
            step = len(chain.objective)
            data = rows[_batch(seed, chain.index, step, batch, len(rows))] if batch else full
            set_seed(chain_seed(seed, chain.index, step), rows.device)
            chain.objective.append(chain.step(data, len(rows), self.clip_norm))
            if chain.plateau.review(chain.objective, chain.optimizer, chain.parameters):
                chain.stopped = "converged"
            elif len(chain.objective) >= self.steps:
                chain.stopped = "max_steps"

        full = rows.all() if batch is None else ()
        climb(
            chains,
            advance,
            solution,
            max_steps=self.steps,
            label=f"SVI {type(model).__name__}",
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
        )
        return solution()

    def pair(self, model: Model, rows: Rows) -> Pair:
        """Model and guide as programs; the guide's parameters are made."""
        return make_pair(model, self.guide, rows, self.batch_size)

    def _chain(
        self, model: Model, rows: Rows, seed: int, index: int, resume: Solution | None
    ) -> _SVIChain:
        set_seed(chain_seed(seed, index), rows.device)
        own = model if index == 0 else model.fresh()
        if resume is None and self.initialize:
            with torch.no_grad():
                own.initialize(rows)
        elif index > 0:
            own.load_state_dict(model.state_dict())
        given = self.guide
        guide = copy_guide(given) if index > 0 and not isinstance(given, (str, type)) else given
        pair = make_pair(own, guide, rows, self.batch_size, index)
        chain = _SVIChain(
            index, own, pair.guide, pair=pair, elbo=make_elbo(self.elbo, pair, self.num_particles)
        )
        modules = [m for m in (own, pair.guide) if isinstance(m, nn.Module)]
        unique = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
        chain.parameters = list(unique.values())
        if not chain.parameters:
            raise ConvergenceError(
                f"{type(model).__name__} and its guide have no parameter to fit"
            )
        chain.optimizer = self._make_optimizer(chain.parameters)
        if callable(self.schedule):
            chain.schedule = self.schedule(chain.optimizer)
        chain.plateau = Plateau(
            self.window, self.tol, self.parameter_tol, decay=self.schedule is None
        )
        if resume is not None:
            self._restore(chain, resume)
        return chain

    def _make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        if isinstance(self.optimizer, type):
            return self.optimizer(parameters, lr=self.learning_rate)
        return self.optimizer(parameters)

    def _solution(self, chains: list[_SVIChain]) -> Solution:
        tensors, values = {}, {}
        for chain in chains:
            packed, plain = pack_optimizer(chain.optimizer)
            tensors |= {f"{chain.index}.{k}": v for k, v in packed.items()}
            schedule = getattr(chain, "schedule", None)
            values[str(chain.index)] = {
                "optimizer": plain,
                "plateau": chain.plateau.state(),
                "schedule": _plain_state(schedule),
            }
            if chain.plateau.before is not None:
                tensors[f"{chain.index}.plateau"] = chain.plateau.before
        last = [c.objective[-self.window :] for c in chains]
        return Solution(
            parameters=stack_chains([read_parameters(c.model, c.guide) for c in chains]),
            history={"objective": pad_history(chains)},
            objective=np.array([np.median(tail) if tail else np.nan for tail in last]),
            stopped=tuple(c.stopped or "interrupted" for c in chains),
            guide=chains[0].model.guide if self._own_guide(chains[0]) else chains[0].guide,
            summed_out=chains[0].pair.summed_out,
            state_tensors=tensors,
            state_values=values,
        )

    def _own_guide(self, chain: _SVIChain) -> bool:
        return self.guide is None and chain.model.guide is not None

    def _restore(self, chain: _SVIChain, resume: Solution) -> None:
        load_chain(chain.model, chain.guide, resume.parameters, chain.index)
        past = resume.history["objective"][chain.index]
        chain.objective = past[np.isfinite(past)].tolist()
        if resume.stopped[chain.index] == "converged":
            chain.stopped = "converged"
        prefix = f"{chain.index}."
        tensors = {
            k.removeprefix(prefix): v
            for k, v in resume.state_tensors.items()
            if k.startswith(prefix)
        }
        values = resume.state_values[str(chain.index)]
        unpack_optimizer(chain.optimizer, tensors, values["optimizer"])
        chain.plateau.restore(values["plateau"], tensors.get("plateau"))
        if chain.schedule is not None and values["schedule"] is not None:
            chain.schedule.load_state_dict(values["schedule"])


@dataclass
class _SVIChain(Chain):
    """A chain of SVI: programs, optimizer and stopping rule."""

    pair: Pair | None = None
    elbo: Any = None
    parameters: list[Tensor] = field(default_factory=list)
    optimizer: Any = None
    schedule: Any = None
    plateau: Any = None
    skipped: int = 0

    def step(self, data: tuple[Tensor, ...], total: int, clip_norm: float | None) -> float:
        """Take one step and return the estimate of the ELBO before it, in nats."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.model.scaled_to(total):
            value = estimate_and_differentiate(self.elbo, self.pair, data, self.parameters)
        finite = math.isfinite(value)
        if finite:
            norm = nn.utils.clip_grad_norm_(
                self.parameters, math.inf if clip_norm is None else clip_norm
            )
            finite = bool(norm.isfinite())
        if finite:
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            self.skipped = 0
            return -value
        # a rare overflow of a heavy tail is stepped over; a run of them is an error
        self.skipped += 1
        if self.skipped > 20 or not self.objective:
            self._explain(data, value)
        return self.objective[-1]

    def _explain(self, data: tuple[Tensor, ...], value: float) -> None:
        """Raise, naming the sites that are not finite."""
        guide = trace_program(self.pair.guide, data)
        model = trace_program(poutine.replay(self.model, trace=guide), data)
        with ignore_nan_warnings():
            model.compute_log_prob()
        bad = [
            name
            for name, node in model.nodes.items()
            if node["type"] == "sample" and not bool(torch.isfinite(node["log_prob"]).all())
        ]
        what = f"the log density of {bad} is not finite" if bad else "the gradient is not finite"
        raise ConvergenceError(
            f"SVI: the objective was {-value} at step {len(self.objective)} (chain {self.index}) "
            f"and for {self.skipped} steps in a row: {what}; check the scale of the data and the "
            "support of the model, or lower learning_rate"
        )


def _batch(seed: int, chain: int, step: int, size: int, total: int) -> Tensor:
    """Rows of one minibatch: a slice of the pass's own permutation."""
    per_pass = math.ceil(total / size)
    number, place = divmod(step, per_pass)
    generator = torch.Generator().manual_seed(chain_seed(seed, chain, -2 - number) ^ 0x5EED)
    return torch.randperm(total, generator=generator)[place * size : (place + 1) * size]


def _plain_state(schedule: Any) -> dict | None:
    if schedule is None:
        return None
    plain = (int, float, str, bool, type(None), list)

    def keep(items: Iterable[tuple[str, Any]]) -> dict:
        return {k: v for k, v in items if isinstance(v, plain)}

    return keep(schedule.state_dict().items())
