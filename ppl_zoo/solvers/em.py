"""Expectation maximisation, for models that offer statistics and their maximiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError, DataError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import Chain, climb, pad_history
from ppl_zoo.solvers.solution import (
    Solution,
    chain_seed,
    load_chain,
    read_parameters,
    set_seed,
    stack_chains,
)

__all__ = ["EM"]


@dataclass(frozen=True)
class EM:
    """Expectation maximisation (Dempster, Laird & Rubin 1977).

    Coordinate ascent on the evidence lower bound L(q, theta): q is the exact posterior of the
    local latents (E-step), theta a point (M-step). The model offers
    ``expected_statistics(*batch)``, additive over data, and ``maximize(statistics)``; with a
    prior it offers ``log_prior()`` too and the result is the posterior mode. The objective,
    log likelihood plus log prior, never decreases; an iteration that lowers it is an error.

    Parameters
    ----------
    max_steps
        Most iterations of one restart.
    tol
        Stop when the gain still to come, extrapolated from the rate of convergence (Aitken; as
        Boehning et al. 1994), is below ``tol`` nats an observation.
    restarts
        Number of starts; each is a chain, the best one becomes the model's parameters.
    batch_size
        Rows in memory at once. It changes the use of memory, never the result.
    initialize
        False to start from the parameters that the model has.
    """

    max_steps: int = 1000
    tol: float = 1e-6
    restarts: int = 1
    batch_size: int | None = None
    initialize: bool = True

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("max_steps", "restarts", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"EM: got {name}={value}, expected 1 or more")
        if not self.tol >= 0:
            raise ValueError(f"EM: got tol={self.tol}, expected 0 or more")

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
        for name in ("expected_statistics", "maximize"):
            if not hasattr(model, name):
                raise DataError(
                    f"{type(model).__name__} has no {name}(): EM needs it; use zoo.SVI()"
                )
        chains = self._start(model, rows, seed, resume)

        def solution() -> Solution:
            parameters = stack_chains([read_parameters(c.model, None) for c in chains])
            history = pad_history(chains)
            final = np.array([c.objective[-1] if c.objective else np.nan for c in chains])
            stopped = tuple(c.stopped or "interrupted" for c in chains)
            return Solution(
                parameters, {"objective": history}, final, stopped, getattr(model, "guide", None)
            )

        def advance(active: list[Chain]) -> int:
            for chain in active:
                self._advance(chain, rows)
            return 1

        with torch.no_grad():
            climb(
                chains,
                advance,
                solution,
                max_steps=self.max_steps + 1,  # the last objective takes an E-step of its own
                label=f"EM {type(model).__name__}",
                progress=progress,
                checkpoint=checkpoint,
                checkpoint_seconds=checkpoint_seconds,
            )
        return solution()

    def _start(self, model: Model, rows: Rows, seed: int, resume: Solution | None) -> list[Chain]:
        chains = []
        for index in range(self.restarts):
            set_seed(chain_seed(seed, index), rows.device)
            own = model if index == 0 else model.fresh()
            chain = Chain(index, own)
            if resume is not None:
                load_chain(own, None, resume.parameters, index)
                past = resume.history["objective"][index]
                chain.objective = past[np.isfinite(past)].tolist()
                if resume.stopped[index] == "converged":
                    chain.stopped = "converged"
                elif resume.stopped[index] == "max_steps":
                    chain.objective.pop()  # the E-step that comes first finds it again
            elif self.initialize:
                with torch.no_grad():
                    own.initialize(rows)
            elif index > 0:
                own.load_state_dict(model.state_dict())
            chains.append(chain)
        return chains

    def _advance(self, chain: Chain, rows: Rows) -> None:
        """E-step; then stop, or M-step. The last objective is always that of the parameters."""
        statistics = self._expect(chain.model, rows)
        value = float(statistics["log_likelihood"] + chain.model.log_prior())
        if not math.isfinite(value):
            raise ConvergenceError(
                f"EM: the objective became {value} at iteration {len(chain.objective)} "
                f"(restart {chain.index}); it was {chain.objective[-1:]}"
            )
        past = chain.objective
        eps = torch.finfo(rows.dtype).eps
        # sums of rounded terms move by this much without meaning anything
        noise = 32 * eps * (abs(value) + len(rows))
        if past and value < past[-1] - noise:
            raise ConvergenceError(
                f"EM: iteration {len(past)} lowered the objective from {past[-1]:.9g} to "
                f"{value:.9g}; expected_statistics and maximize do not belong together"
            )
        past.append(value)
        if self._converged(past, self.tol * len(rows), noise):
            chain.stopped = "converged"
        elif len(past) > self.max_steps:
            chain.stopped = "max_steps"
        else:
            chain.model.maximize(statistics)

    def _expect(self, model: Model, rows: Rows) -> dict[str, Tensor]:
        total: dict[str, Any] = {}
        for batch in rows.chunks(self.batch_size or 4096):
            for name, value in model.expected_statistics(*batch).items():
                total[name] = total[name] + value if name in total else value
        return total

    @staticmethod
    def _converged(past: list[float], tol: float, noise: float) -> bool:
        if len(past) < 3:
            return False
        before, last = past[-2] - past[-3], past[-1] - past[-2]
        if last <= noise and before <= noise:
            return True  # nothing left that the arithmetic could see
        if last <= 0 or before <= 0:
            return False
        rate = last / before
        return rate < 1 and last * rate / (1 - rate) <= tol and last <= 100 * tol
