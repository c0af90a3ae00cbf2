"""Stochastic gradient Langevin dynamics, with an RMSprop preconditioner (pSGLD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.posterior import FittedModel, PosteriorDraws
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.solvers.loop import Chain, pad_history, run_chains
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["SGLD"]

#: keeps the preconditioner finite where a gradient is 0
FLOOR = 1e-5


@dataclass(frozen=True)
class SGLD(Solver):
    """Stochastic gradient Langevin dynamics, for models of very many latents.

    Each step moves by half a step size along the gradient of the log joint density and adds
    normal noise of the step size's variance. Without a Metropolis test the draws are of the
    posterior up to an error that grows with the step size; ``zoo.NUTS`` is exact where it can be
    afforded. Finite discrete latents are summed out.

    Parameters
    ----------
    steps
        Steps of each chain after the burn-in.
    burn_in
        Steps before draws are kept.
    step_size
        Variance of a step's noise, in units of the preconditioner.
    decay
        Step t has ``step_size * (1 + t / burn_in) ** -decay``; 0 for steps of one size.
    memory
        Decay of the mean square gradient whose root the steps are divided by (pSGLD); None for
        steps of one size in all directions.
    num_draws
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
    burn_in: int = 500
    step_size: float = 1e-2
    decay: float = 0.0
    memory: float | None = 0.99
    num_draws: int = 100
    batch_size: int | None = None
    num_chains: int = 1
    init: FittedModel | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("steps", "num_draws", "num_chains"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if not self.step_size > 0:
            raise DataError(f"step_size: got {self.step_size}, expected more than 0")
        if self.memory is not None and not 0 < self.memory < 1:
            raise DataError(f"memory: got {self.memory}, expected between 0 and 1, or None")

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw from the posterior of ``model``; see :func:`ppl_zoo.fit`."""
        seed = context.seed
        if context.resume is not None:
            raise DataError("resume: SGLD cannot go on; start a new one with init=fit")
        problem = Unconstrained(model, rows)
        local = [
            n for n in problem.places if model.sites(*problem.data)[n].is_local(model.data_plate)
        ]
        if self.batch_size is not None and local:
            raise DataError(f"batch_size: got {self.batch_size} with local latents {local}")
        chains = []
        for index in range(self.num_chains):
            set_seed(chain_seed(seed, index), rows.device)
            chains.append(
                SGLDChain(index, model, problem=problem, options=self, rows=rows, seed=seed)
            )
            chains[-1].z = self._start(problem, rows, index)

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
            max_steps=self.burn_in + self.steps,
            label=f"SGLD {type(model).__name__}",
            context=context,
        )
        return solution()

    @torch.no_grad()
    def _start(self, problem: Unconstrained, rows: Rows, chain: int) -> Tensor:
        model = problem.model
        if self.init is not None:
            drawn = self.init.posterior(self.num_chains)
            values = {k: v.flatten(0, 1)[chain].to(model.device) for k, v in drawn.items()}
        elif model.guide is not None:
            if chain == 0:  # what belongs to the model and not to a chain may change with it
                model.initialize(rows)
            nodes = trace_program(model.guide, problem.data).nodes
            values = {k: nodes[k]["value"] for k in problem.places}
        else:
            return torch.zeros(problem.size, dtype=model.dtype, device=model.device)
        return problem.unconstrain(values).to(model.dtype).clone()


@dataclass
class SGLDChain(Chain):
    """One chain: its position, preconditioner and kept draws."""

    problem: Unconstrained | None = None
    options: SGLD | None = None
    rows: Rows | None = None
    seed: int = 0
    z: Tensor | None = None
    square: Tensor | None = None
    draws: list[dict[str, Tensor]] = field(default_factory=list)

    def step(self) -> None:
        """Take a step; keep it if it is the turn of one."""
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
        size = options.step_size * (1.0 + step / max(1, options.burn_in)) ** -options.decay
        with torch.no_grad():
            self.z = z.detach().clone()
            noise = torch.randn_like(self.z)
            if options.memory is None:
                self.z.sub_(gradient, alpha=0.5 * size).add_(noise, alpha=size**0.5)
            else:
                self._precondition(gradient, step)
                scale = size / (self.square.sqrt() + FLOOR)
                self.z.addcmul_(scale, gradient, value=-0.5).addcmul_(scale.sqrt_(), noise)
        self._keep(step + 1 - options.burn_in)
        if step + 1 == options.burn_in + options.steps:
            self.stopped = "max_steps"

    def _precondition(self, gradient: Tensor, step: int) -> None:
        if self.square is None:
            self.square = gradient.square()
        self.square.lerp_(gradient.square(), 1.0 - self.options.memory)

    @torch.no_grad()
    def _keep(self, done: int) -> None:
        """Keep a draw whenever one more is due."""
        options = self.options
        if done > 0 and done * options.num_draws // options.steps > len(self.draws):
            found = self.problem.values(self.z, *self.problem.data)
            self.draws.append({k: v.clone() for k, v in found.items()})


def _solution(problem: Unconstrained, chains: Sequence[SGLDChain]) -> Solution:
    """Make the plain record."""
    count = min(len(c.draws) for c in chains)
    draws = {
        name: torch.stack([torch.stack([d[name] for d in c.draws[:count]]) for c in chains])
        if count
        else torch.zeros(len(chains), 0, *shape)
        for name, shape in problem.shapes.items()
    }
    objective = pad_history(chains)
    parameters = read_parameters(problem.model, None)
    tail = objective[:, -max(1, objective.shape[1] // 4) :]
    return Solution(
        parameters={k: v.expand(len(chains), *v.shape) for k, v in parameters.items()},
        history={"objective": objective},
        objective=np.nanmean(tail, 1) if objective.size else np.full(len(chains), np.nan),
        stopped=tuple(c.stopped or "interrupted" for c in chains),
        guide=PosteriorDraws(problem.model, draws, problem.data),
        summed_out=problem.summed_out,
        draws=draws,
    )
