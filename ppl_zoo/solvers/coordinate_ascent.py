"""Coordinate ascent on the evidence lower bound L(q): the algorithm of EM and CAVI.

With local latents z and parameters theta, and q(z, theta) = q(z) q(theta), the best q_j given
the other is ``exp E_{-j} log p``. The model takes both steps, the loop sums over rows:

* ``expected_statistics(*batch)``: q(z) given q(theta), and what q(theta) needs of it, additive
  over rows; "log_likelihood" is the batch's ``E[log p(x, z | theta)] + H[q(z)]``.
* the update of q(theta) from the statistics of all rows, and theta's own share of the bound.

For EM q(theta) is a point mass at theta: the update is ``maximize`` and the share is
``log_prior()``. For CAVI it is a conjugate density: ``update_posterior`` and ``negative_kl()``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.solvers.loop import Chain, pack_chains, pad_history, run_chains

__all__ = ["ConjugateUpdate", "CoordinateAscent", "MaximizationStep", "Statistics"]

Statistics = dict[str, Tensor]

#: rows in memory at once where ``batch_size`` is None
DEFAULT_CHUNK_ROWS = 4096
#: what rounding may take of a row's log density beside, in nats, where noise is next to nothing
MAX_ROUNDING_NATS = {torch.float32: 1e-5, torch.float64: 1e-8}
#: times that the state is moved by a unit in its last place, to see what its rounding does
NUM_ROUNDINGS = 5
#: a fall of the objective is put down to rounding up to this many times the largest move of these
ROUNDING_MARGIN = 10.0
#: largest such move, in nats a row, with which a fit still means something
MAX_COARSENESS = 0.01


@runtime_checkable
class ExpectationStep(Protocol):
    """A model with the E-step of EM and CAVI."""

    def expected_statistics(self, *batch: Tensor) -> Statistics:
        """Statistics of a batch under q(z), additive over rows."""


@runtime_checkable
class MaximizationStep(Protocol):
    """A model with the M-step of EM: q(theta) is a point."""

    def maximize(self, statistics: Statistics) -> None:
        """Set theta to its optimum given the statistics of all rows."""


@runtime_checkable
class ConjugateUpdate(Protocol):
    """A model with the global update of CAVI: q(theta) is a conjugate density."""

    def update_posterior(self, statistics: Statistics, step: float = 1.0) -> None:
        """Move the natural parameters of q(theta) towards their optimum."""


@runtime_checkable
class GlobalDivergence(Protocol):
    """A model that knows theta's own share of the bound."""

    def negative_kl(self) -> Tensor:
        """``-KL(q(theta) || p(theta))``, ``()``."""


#: what a model offers, by the method that a user writes
STEPS: dict[str, type] = {
    "expected_statistics": ExpectationStep,
    "maximize": MaximizationStep,
    "update_posterior": ConjugateUpdate,
    "negative_kl": GlobalDivergence,
}


@dataclass
class CoordinateChain(Chain):
    """Restart of coordinate ascent.

    Attributes
    ----------
    valid
        Validation rows of early stopping; None for none.
    scores
        Their mean log likelihood before each update, in nats.
    kept
        Parameters of the best score; None without validation rows.
    """

    valid: Rows | None = None
    scores: list[float] = field(default_factory=list)
    kept: dict[str, Tensor] | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that resuming takes, beside the parameters."""
        if self.valid is None:
            return {}, {}
        return read_parameters(self.model, None), {"scores": self.scores}

    def go_on(self, resume: Solution) -> None:
        """Go on from where a solution stands."""
        tensors, values = self.load_solution(resume)
        if self.valid is not None and tensors:
            self.kept, self.scores = read_parameters(self.model, None), list(values["scores"])
            self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items()})
        if resume.stopped[self.index] == "max_steps":
            self.objective.pop()  # the E-step that comes first finds it again
            self.scores = self.scores[: len(self.objective)]

    def parameters(self) -> dict[str, Tensor]:
        """Parameters to keep: those of the best score, or the last."""
        return read_parameters(self.model, None) if self.kept is None else self.kept

    def final_objective(self, num_rows: int) -> float:
        """Last objective; under validation the best score, times the rows of the fit."""
        if self.scores:
            return max(self.scores) * num_rows
        return self.objective[-1] if self.objective else np.nan

    def review(self, score: float, patience: int) -> bool:
        """Account for the score of the parameters as they are; return whether to stop."""
        self.scores.append(score)
        best = self.scores.index(max(self.scores))
        if best == len(self.scores) - 1:
            self.kept = read_parameters(self.model, None)
        return len(self.scores) - 1 - best >= patience


#: products of numbers in a pass over the data (rows times parameters) that one thread takes about
#: ten milliseconds for: below, two are hardly faster
SMALL_WORK = 2**23


@dataclass(frozen=True, repr=False)
class CoordinateAscent(Solver):
    """What EM and CAVI share; see there for the options."""

    patience: ClassVar[int] = 0
    steps: int = 1000
    tol: float = 1e-6
    restarts: int = 1
    batch_size: int | None = None
    initialize: bool = True

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("steps", "restarts", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{self._name}: got {name}={value}, expected 1 or more")
        if not self.tol >= 0:
            raise ValueError(f"{self._name}: got tol={self.tol}, expected 0 or more")

    # ---- what differs: the family of q(theta) -----------------------------------------------

    def check_model(self, model: Model) -> None:
        """Refuse a model without the steps."""
        self._demand(model, "expected_statistics", "maximize")

    def update(self, model: Model, statistics: Statistics) -> None:
        """Set q(theta) to its optimum given the statistics of all rows."""
        model.maximize(statistics)

    def global_term(self, model: Model) -> Tensor:
        """Return what the bound has beside the rows' shares."""
        return model.log_prior()

    def _demand(self, model: Model, *names: str) -> None:
        for name in names:
            if not (model.offers_em and isinstance(model, STEPS[name])):
                raise DataError(
                    f"{model.model_name} has no {name}(): {self._name} needs it; use zoo.SVI()"
                )

    # ---- the loop ---------------------------------------------------------------------------

    def max_threads(self, model: Model, rows: Rows) -> int | None:
        """One where a pass over the data is little work."""
        if rows.device.type != "cpu":
            return None
        return 1 if len(rows) * sum(p.numel() for p in model.parameters()) < SMALL_WORK else None

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        self.check_model(model)
        seed = context.seed
        chains = self._start(model, rows, context)

        def solution() -> Solution:
            tensors, values = pack_chains(chains)
            return Solution(
                parameters=stack_chains([c.parameters() for c in chains]),
                history={"objective": pad_history(chains)},
                objective=np.array([c.final_objective(len(rows)) for c in chains]),
                stopped=tuple(c.stopped or "interrupted" for c in chains),
                guide=model.guide,
                state_tensors=tensors,
                state_values=values,
            )

        def advance(active: list[CoordinateChain]) -> int:
            for chain in active:
                with self._singular_named(f"iteration {len(chain.objective)}"):
                    self.advance(chain, rows, seed)
            return 1

        with torch.no_grad():
            run_chains(
                chains,
                advance,
                solution,
                max_steps=self.steps + 1,  # the last objective takes an E-step of its own
                label=f"{self._name} {model.model_name}",
                context=context,
            )
        return solution()

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _start(self, model: Model, rows: Rows, context: FitContext) -> list[CoordinateChain]:
        seed, resume = context.seed, context.resume
        chains = []
        for index in range(self.restarts):
            set_seed(chain_seed(seed, index), rows.device)
            own = model if index == 0 else model.fresh()
            chain = CoordinateChain(index, own, valid=context.valid)
            if resume is not None:
                chain.go_on(resume)
            elif self.initialize:
                with torch.no_grad(), self._singular_named("the start"):
                    own.initialize(rows)
            elif index > 0:
                own.load_state_dict(model.state_dict())
            chains.append(chain)
        return chains

    def advance(self, chain: CoordinateChain, rows: Rows, seed: int) -> None:
        """E-step; then stop, or update. The last objective is always that of the parameters."""
        statistics = self.expect(chain.model, rows)
        value = self.objective(chain, statistics)
        past = chain.objective
        eps = torch.finfo(rows.dtype).eps
        # rounding errors of the sums
        noise = 32 * eps * (abs(value) + len(rows))
        limit = noise + MAX_ROUNDING_NATS[rows.dtype] * len(rows)
        if past and value < past[-1] - limit:
            self._judge_fall(chain, rows, past[-1], value)
        past.append(value)
        overfits = self._overfits(chain)
        if overfits or self._converged(past, self.tol * len(rows), noise):
            chain.stopped = "converged"
        elif len(past) > self.steps:
            chain.stopped = "max_steps"
        else:
            self.update(chain.model, statistics)

    def _judge_fall(self, chain: CoordinateChain, rows: Rows, before: float, value: float) -> None:
        """Refuse a fall of the objective that rounding of the state does not explain.

        Raises
        ------
        ConvergenceError
            If the steps are not those of one bound, or if the dtype is too coarse for the data.
        """
        moved = self._rounding(chain, rows, value)
        dtype = str(rows.dtype).removeprefix("torch.")
        double = rows.dtype == torch.float64
        fell = (
            f"{self._name}: iteration {len(chain.objective)} lowered the objective from "
            f"{before:.9g} to {value:.9g}"
        )
        if before - value > ROUNDING_MARGIN * moved:
            hint = "" if double else ", or round in float32 what needs model.double()"
            raise ConvergenceError(
                f"{fell}, by more than rounding of the parameters in {dtype} does ({moved:.3g} "
                f"nats): expected_statistics and the update are not those of one bound{hint}"
            )
        if moved > MAX_COARSENESS * len(rows):
            better = "" if double else "compute in float64, model.double(), or "
            raise ConvergenceError(
                f"{fell}, as rounding in {dtype} moves it by {moved:.3g} nats: the density is too "
                f"narrow for numbers of their size; {better}subtract an offset from x, drop "
                "features that repeat others, or take fewer components"
            )

    def _rounding(self, chain: CoordinateChain, rows: Rows, value: float) -> float:
        """Largest change of the objective, in nats, where all state moves in its last place."""
        model, generator = chain.model, torch.Generator().manual_seed(0)
        state = {
            name: tensor.clone()
            for name, tensor in model.state_dict().items()
            if tensor.is_floating_point()
        }
        moved = 0.0
        for _ in range(NUM_ROUNDINGS):
            nearby = {}
            for name, tensor in state.items():
                sign = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor)
                nearby[name] = tensor * (1.0 + torch.finfo(tensor.dtype).eps * sign)
            model.load_state_dict(nearby, strict=False)
            statistics = self.expect(model, rows)
            found = float(statistics["log_likelihood"] + self.global_term(model))
            moved = max(moved, abs(found - value)) if math.isfinite(found) else math.inf
        model.load_state_dict(state, strict=False)
        return moved

    @contextlib.contextmanager
    def _singular_named(self, where: str) -> Iterator[None]:
        """Name the failure of a factorisation: of a matrix without an inverse."""
        try:
            yield
        except torch.linalg.LinAlgError as error:
            raise ConvergenceError(
                f"{self._name}: {where} met a matrix that is singular or not positive definite "
                f"({str(error).splitlines()[0]}): features may be linear functions of each other, "
                "constant, or more than the rows; leave some out, or add noise"
            ) from error

    def _overfits(self, chain: CoordinateChain) -> bool:
        """Whether the validation rows, if any, have gained nothing for some iterations."""
        if chain.valid is None:
            return False
        score = self.expect(chain.model, chain.valid)["log_likelihood"]
        return chain.review(float(score) / len(chain.valid), self.patience)

    def objective(self, chain: Chain, statistics: Statistics) -> float:
        """Return the bound; NaN is an error."""
        value = float(statistics["log_likelihood"] + self.global_term(chain.model))
        if not math.isfinite(value):
            raise ConvergenceError(
                f"{self._name}: the objective became {value} at iteration "
                f"{len(chain.objective)} (restart {chain.index}); it was {chain.objective[-1:]}"
            )
        return value

    def expect(self, model: Model, rows: Rows) -> Statistics:
        """Sum the expected statistics of all rows."""
        total: Statistics = {}
        for batch in rows.chunks(self.batch_size or DEFAULT_CHUNK_ROWS):
            for name, value in model.expected_statistics(*batch).items():
                total[name] = total[name] + value if name in total else value
        return total

    @staticmethod
    def _converged(past: list[float], tol: float, noise: float) -> bool:
        """Whether the gain still to come, extrapolated at a linear rate, is below ``tol``."""
        if len(past) < 3:
            return False
        before, last = past[-2] - past[-3], past[-1] - past[-2]
        # the objective never falls: where it does, that is rounding, and its size
        noise = max(noise, -before, -last)
        if last <= noise and before <= noise:
            return True  # no gain left beyond rounding errors
        if last <= 0 or before <= 0:
            return False
        rate = last / before
        return rate < 1 and last * rate / (1 - rate) <= tol and last <= 100 * tol
