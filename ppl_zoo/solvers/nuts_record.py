"""What the chains of NUTS have drawn so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ppl_zoo.errors import DataError
from ppl_zoo.solvers.drawn import PosteriorDraws
from ppl_zoo.solvers.solution import Solution, read_parameters
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["Record"]


class Record:
    """What the chains have drawn so far."""

    def __init__(self, problem: Unconstrained, engine: Any, options: Any) -> None:
        self.problem, self.engine, self.options = problem, engine, options
        self.draws = {
            name: torch.zeros(options.num_chains, 0, *shape)
            for name, shape in problem.shapes.items()
        }
        self.stats: dict[str, np.ndarray] = {}
        self.waiting: list[dict[str, np.ndarray]] = []
        #: log densities of all iterations, warm-up included; NaN where they were not kept
        self.trace = np.zeros((options.num_chains, 0))

    def add(self, found: dict[str, np.ndarray]) -> None:
        """Take a block; it is put on the model's scale when the record is asked for."""
        self.waiting.append(found)

    def _settle(self) -> None:
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        found = {k: np.concatenate([w[k] for w in waiting], 1) for k in waiting[0]}
        new = self.engine.constrain(found.pop("z"))
        started = next(iter(self.draws.values())).shape[1] > 0
        self.draws = {
            k: torch.cat([self.draws[k].to(v.dtype), v.cpu()], 1) if started else v.cpu()
            for k, v in new.items()
        }
        steps = found["n_steps"].astype(np.int64)
        found["n_steps"] = steps
        found["tree_depth"] = np.floor(np.log2(np.maximum(steps, 1))).astype(np.int64) + 1
        if self.stats:
            found = {k: np.concatenate([self.stats[k], v], 1) for k, v in found.items()}
        self.stats = found

    def restore(self, before: Solution) -> None:
        """Go on from a solution.

        Raises
        ------
        DataError
            If it has other chains or another warm-up, or its state was not kept.
        """
        options, values = self.options, before.state_values
        asked = {"num_chains": options.num_chains, "num_warmup": options.num_warmup}
        held = {k: values.get(k) for k in asked}
        if held != asked:
            raise DataError(f"resume: got a fit with {held}, expected {asked}")
        z = torch.zeros(options.num_chains, self.problem.size, dtype=self.problem.model.dtype)
        self.engine.unpack(before.state_tensors, z, values["iteration"])
        if before.draws is not None:
            self.draws = before.draws
        self.stats = dict(before.sample_stats)
        trace = before.history["objective"]
        early = np.full((options.num_chains, min(values["iteration"], options.num_warmup)), np.nan)
        self.trace = np.concatenate([early, trace], 1)

    def solution(self, stopped: tuple[str, ...]) -> Solution:
        """Return the record as a solution; the guide hands out its draws."""
        self._settle()
        problem, chains = self.problem, self.options.num_chains
        lp = self.stats.get("lp", np.zeros((chains, 0))).astype(np.float64)
        parameters = read_parameters(problem.model, None)
        return Solution(
            parameters={k: v.expand(chains, *v.shape) for k, v in parameters.items()},
            history={"objective": lp},
            objective=lp.mean(1) if lp.shape[1] else np.full(chains, np.nan),
            stopped=stopped,
            guide=PosteriorDraws(problem.model, self.draws, problem.data),
            summed_out=problem.summed_out,
            engine=self.engine.name,
            draws=self.draws,
            sample_stats=self.stats,
            state_tensors=self.engine.pack(),
            state_values={
                "iteration": self.engine.iteration,
                "num_chains": chains,
                "num_warmup": self.options.num_warmup,
            },
        )
