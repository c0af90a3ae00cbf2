"""Stochastic gradient Langevin dynamics, with an RMSprop preconditioner (pSGLD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.posterior import FittedModel, PosteriorDraws
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.solvers.loop import (
    Chain,
    pack_chains,
    pad_history,
    repeat_parameters,
    run_chains,
)
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["SGLD"]

#: added to the root mean square gradient that steps are divided by
PRECONDITIONER_FLOOR = 1e-5


@options(burn_in="num_warmup", num_draws="num_samples")
@dataclass(frozen=True, repr=False)
class SGLD(Solver):
    """Stochastic gradient Langevin dynamics, for models of very many latents.

    Each step moves by half a step size along the gradient of the log joint density and adds
    normal noise of the step size's variance. Without a Metropolis correction the draws have a
    bias that grows with the step size; ``zoo.NUTS`` has none, where it can be afforded. Finite
    discrete latents are summed out.

    Parameters
    ----------
    steps
        Steps of each chain after the burn-in.
    num_warmup
        Steps before draws are kept.
    step_size
        Step size: the variance of a step's noise, in units of the preconditioner.
    decay
        Step t has ``step_size * (1 + t / num_warmup) ** -decay``; 0 for a constant step size.
    memory
        Decay of the moving mean square gradient whose root preconditions the steps (pSGLD); None
        for no preconditioner.
    num_samples
        Draws of each chain that are kept, evenly spaced.
    batch_size
        Rows in a minibatch, drawn anew each step; None for all. Not for local latents.
    num_chains
        Number of chains.
    init
        A fit whose draws the chains start from; None for a draw of the model's own guide, or
        from the middle of the unconstrained scale where it has none.

    References
    ----------
    Welling & Teh (2011), Bayesian learning via stochastic gradient Langevin dynamics, ICML; Li,
    Chen, Carlson & Carin (2016), Preconditioned stochastic gradient Langevin dynamics for deep
    neural networks, AAAI, https://arxiv.org/abs/1512.07666.
    """

    steps: int = 2000
    num_warmup: int = 500
    step_size: float = 1e-2
    decay: float = 0.0
    memory: float | None = 0.99
    num_samples: int = 100
    batch_size: int | None = None
    num_chains: int = 1
    init: FittedModel | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("steps", "num_samples", "num_chains"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if not self.step_size > 0:
            raise DataError(f"step_size: got {self.step_size}, expected more than 0")
        if self.memory is not None and not 0 < self.memory < 1:
            raise DataError(f"memory: got {self.memory}, expected between 0 and 1, or None")

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw from the posterior of ``model``; see :func:`ppl_zoo.fit`."""
        seed = context.seed
        problem = Unconstrained(model, rows)
        local = [
            n for n in problem.places if model.sites(*problem.data)[n].is_local(model.data_plate)
        ]
        if self.batch_size is not None and local:
            raise DataError(f"batch_size: got {self.batch_size} with local latents {local}")
        chains = []
        for index in range(self.num_chains):
            set_seed(chain_seed(seed, index), rows.device)
            start = torch.empty(0) if context.resume else self._start(problem, rows, index)
            chains.append(
                SGLDChain(
                    index, model, problem=problem, options=self, rows=rows, seed=seed, z=start
                )
            )
            if context.resume is not None:
                chains[-1].restore(context.resume)

        def advance(active: Sequence[SGLDChain]) -> int:
            for chain in active:
                chain.step()
            return 1

        def solution() -> Solution:
            return _solution(problem, chains)

        run_chains(
            chains,
            advance,
            solution,
            max_steps=self.num_warmup + self.steps,
            label=f"SGLD {model.model_name}",
            context=context,
            runs_to_the_end=True,
        )
        return solution()

    @torch.no_grad()
    def _start(self, problem: Unconstrained, rows: Rows, chain: int) -> Tensor:
        """Choose the first point of a chain, ``(size,)``."""
        model = problem.model
        if self.init is not None:
            drawn = self.init.posterior(self.num_chains)
            values = {k: v.flatten(0, 1)[chain].to(model.device) for k, v in drawn.items()}
        elif model.guide is not None:
            if chain == 0:  # all chains share one model: it is initialised once
                model.initialize(rows)
            nodes = trace_program(model.guide, problem.data).nodes
            values = {k: nodes[k]["value"] for k in problem.places}
        else:
            return torch.zeros(problem.size, dtype=model.dtype, device=model.device)
        return problem.unconstrain(values).to(model.dtype).clone()


@dataclass(kw_only=True)
class SGLDChain(Chain):
    """Chain of SGLD.

    Attributes
    ----------
    problem, rows
        The density, and the data that minibatches are drawn from.
    options, seed
        Of the fit.
    z
        Position on the unconstrained scale, ``(size,)``.
    mean_square
        Moving mean of the squared gradient, ``(size,)``; None before the first step.
    draws
        Draws that are kept, by site.
    """

    problem: Unconstrained
    options: SGLD
    rows: Rows
    seed: int
    z: Tensor
    mean_square: Tensor | None = None
    draws: list[dict[str, Tensor]] = field(default_factory=list)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Position and preconditioner; the draws are the solution's own."""
        tensors = {"z": self.z.detach().clone()}
        if self.mean_square is not None:
            tensors["mean_square"] = self.mean_square
        return tensors, {}

    def restore(self, resume: Solution) -> None:
        """Go on from where a solution stands.

        Raises
        ------
        DataError
            If it holds no position.
        """
        tensors, _ = self.load_solution(resume)
        if "z" not in tensors:
            raise DataError(
                "resume: got a fit by SGLD of an earlier version, which holds no position; start "
                "a new one with init=fit"
            )
        self.z, self.mean_square = tensors["z"], tensors.get("mean_square")
        own = {name: value[self.index] for name, value in resume.draws.items()}
        count = len(next(iter(own.values())))
        self.draws = [{name: value[i] for name, value in own.items()} for i in range(count)]

    def step(self) -> None:
        """Take a step, and keep it as a draw if one is due.

        Raises
        ------
        ConvergenceError
            If the log density is not finite.
        """
        options, problem, step = self.options, self.problem, len(self.objective)
        data = problem.data
        set_seed(chain_seed(self.seed, self.index, step), data[0].device)
        if options.batch_size is not None and options.batch_size < len(self.rows):
            picked = torch.randperm(len(self.rows), device="cpu")[: options.batch_size]
            data = self.rows[picked]
        z = self.z.requires_grad_()
        with torch.enable_grad(), problem.model.scaled_to(len(self.rows)):
            energy = problem.energy(z, *data)
            (gradient,) = torch.autograd.grad(energy, z)
        value = -float(energy.detach())
        if not math.isfinite(value):
            raise ConvergenceError(
                f"SGLD: the log density is {value} at step {step}; take a smaller step_size, "
                f"now {options.step_size}"
            )
        self.objective.append(value)
        size = options.step_size * (1.0 + step / max(1, options.num_warmup)) ** -options.decay
        with torch.no_grad():
            self.z = z.detach().clone()
            noise = torch.randn_like(self.z)
            if options.memory is None:
                self.z.sub_(gradient, alpha=0.5 * size).add_(noise, alpha=size**0.5)
            else:
                self._update_preconditioner(gradient)
                scale = size / (self.mean_square.sqrt() + PRECONDITIONER_FLOOR)
                self.z.addcmul_(scale, gradient, value=-0.5).addcmul_(scale.sqrt_(), noise)
        self._keep_if_due(step + 1 - options.num_warmup)
        if step + 1 == options.num_warmup + options.steps:
            self.stopped = "max_steps"

    def _update_preconditioner(self, gradient: Tensor) -> None:
        if self.mean_square is None:
            self.mean_square = gradient.square()
        self.mean_square.lerp_(gradient.square(), 1.0 - self.options.memory)

    @torch.no_grad()
    def _keep_if_due(self, steps_done: int) -> None:
        """Keep a draw where one is due, by the steps since the burn-in."""
        options = self.options
        due = steps_done * options.num_samples // options.steps
        if steps_done > 0 and due > len(self.draws):
            found = self.problem.values(self.z, *self.problem.data)
            self.draws.append({k: v.clone() for k, v in found.items()})


def _solution(problem: Unconstrained, chains: Sequence[SGLDChain]) -> Solution:
    """Solution of the chains as they stand."""
    count = min(len(c.draws) for c in chains)
    draws = {
        name: torch.stack([torch.stack([d[name] for d in c.draws[:count]]) for c in chains])
        if count
        else torch.zeros(len(chains), 0, *shape)
        for name, shape in problem.shapes.items()
    }
    objective = pad_history(chains)
    tensors, values = pack_chains(chains)
    tail = objective[:, -max(1, objective.shape[1] // 4) :]
    return Solution(
        parameters=repeat_parameters(problem.model, len(chains)),
        history={"objective": objective},
        objective=np.nanmean(tail, 1) if objective.size else np.full(len(chains), np.nan),
        stopped=tuple(c.stopped or "interrupted" for c in chains),
        guide=PosteriorDraws(problem.model, draws, problem.data),
        summed_out=problem.summed_out,
        draws=draws,
        state_tensors=tensors,
        state_values=values,
    )
