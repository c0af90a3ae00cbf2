"""Stochastic variational inference: climb the evidence lower bound by stochastic gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import climb, pad_history
from ppl_zoo.solvers.elbos import ELBOS, make_elbo
from ppl_zoo.solvers.engines import Interpreted, Minibatches, choose_engine, window_of
from ppl_zoo.solvers.guides import Pair, copy_guide, make_pair
from ppl_zoo.solvers.solution import (
    Solution,
    chain_seed,
    read_parameters,
    set_seed,
    stack_chains,
)
from ppl_zoo.solvers.stopping import Plateau
from ppl_zoo.solvers.svi_chain import SVIChain

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
        Every ``window`` steps (100, or 1,000 where steps are compiled) the median ELBO and the
        parameters are compared with those of windows before. A chain is at a plateau when the
        ELBO gained less than its own noise plus ``tol`` relative, and has converged when that
        holds at the smallest learning rate and the parameters moved by less than
        ``parameter_tol`` relative.
    initialize
        False to start from the parameters that the model has.
    compile
        "xla" to capture the programs as one tensor graph and run blocks of steps in XLA, False to
        interpret them with Pyro, "auto" to compile where that pays. Both fit alike, from
        different noise.
    """

    steps: int = 50_000
    elbo: Any = "auto"
    num_particles: int = 1
    guide: Any = None
    optimizer: Any = torch.optim.Adam
    learning_rate: float = 0.02
    schedule: Any = None
    batch_size: int | None = None
    restarts: int = 1
    clip_norm: float | None = None
    window: int | None = None
    tol: float = 1e-6
    parameter_tol: float = 1e-2
    initialize: bool = True
    compile: Any = "auto"

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("steps", "num_particles", "restarts", "window", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"SVI: got {name}={value}, expected 1 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"SVI: got learning_rate={self.learning_rate}, expected more than 0")
        if self.compile not in ("auto", "xla", False):
            raise ValueError(f"SVI: got compile={self.compile!r}, expected 'auto', 'xla' or False")
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
        batches = Minibatches(seed, self.batch_size, len(rows))
        engine = choose_engine(
            self.compile,
            chains,
            Interpreted(rows, batches, seed, self.clip_norm),
            self.steps,
            self.window,
        )
        for chain in chains:
            chain.plateau.window = self.window or window_of(engine.name, self.steps)

        def solution() -> Solution:
            engine.sync()
            return self._solution(chains, engine.name)

        def advance(active: Sequence[SVIChain]) -> int:
            count = engine.advance(active, self.steps)
            for chain in active:
                if chain.stopped == "diverged":
                    continue
                if chain.plateau.review(
                    chain.objective, chain.optimizer, partial(engine.vector, chain)
                ):
                    chain.stopped = "converged"
                elif len(chain.objective) >= self.steps:
                    chain.stopped = "max_steps"
            return count

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
        result = solution()
        lost = [chain for chain in chains if chain.error is not None]
        if len(lost) == len(chains):
            lost[0].error.solution = result  # so that nothing is lost
            raise lost[0].error
        for chain in lost:
            warnings.warn(f"{chain.error}; the other chains went on", stacklevel=3)
        return result

    def pair(self, model: Model, rows: Rows) -> Pair:
        """Model and guide as programs; the guide's parameters are made."""
        return make_pair(model, self.guide, rows, self.batch_size)

    def _chain(
        self, model: Model, rows: Rows, seed: int, index: int, resume: Solution | None
    ) -> SVIChain:
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
        chain = SVIChain(
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
            self.window or 0, self.tol, self.parameter_tol, decay=self.schedule is None
        )
        if resume is not None:
            chain.restore(resume)
        return chain

    def _make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        if isinstance(self.optimizer, type):
            return self.optimizer(parameters, lr=self.learning_rate)
        return self.optimizer(parameters)

    def _solution(self, chains: list[SVIChain], engine: str) -> Solution:
        tensors, values = {}, {}
        for chain in chains:
            packed, values[str(chain.index)] = chain.pack()
            tensors |= {f"{chain.index}.{k}": v for k, v in packed.items()}
        last = [c.objective[-100:] for c in chains]
        return Solution(
            parameters=stack_chains([read_parameters(c.model, c.guide) for c in chains]),
            history={"objective": pad_history(chains)},
            objective=np.array(
                [
                    np.median(tail) if tail and chain.error is None else np.nan
                    for chain, tail in zip(chains, last, strict=True)
                ]
            ),
            stopped=tuple(c.stopped or "interrupted" for c in chains),
            guide=chains[0].model.guide if self._own_guide(chains[0]) else chains[0].guide,
            summed_out=chains[0].pair.summed_out,
            engine=engine,
            state_tensors=tensors,
            state_values=values,
        )

    def _own_guide(self, chain: SVIChain) -> bool:
        return self.guide is None and chain.model.guide is not None
