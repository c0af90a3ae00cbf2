"""Loop of the iterative solvers: chains in lockstep, progress bar, Ctrl-C, checkpoints."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ppl_zoo.core.errors import ConvergenceError
from ppl_zoo.core.model import Model
from ppl_zoo.core.solution import Solution, load_chain, read_parameters
from ppl_zoo.core.solver import FitContext
from ppl_zoo.core.tracing.sites import Program

__all__ = [
    "BLOCK_SECONDS",
    "Chain",
    "Pace",
    "pack_chains",
    "pad_history",
    "raise_if_all_diverged",
    "repeat_parameters",
    "run_chains",
]


#: most seconds of a block of compiled steps
BLOCK_SECONDS = 0.5


@dataclass
class Chain:
    """One chain (restart) of a solver.

    Attributes
    ----------
    index
        Number of the chain.
    model, guide
        Its model, and its guide program (None without one).
    objective
        Objective of each step that it took, in nats.
    stopped
        Why it stopped, as in :class:`ppl_zoo.solvers.Solution`; None while it runs.
    error
        What went wrong with a chain that diverged.
    """

    index: int
    model: Model
    guide: Program | None = None
    objective: list[float] = field(default_factory=list)
    stopped: str | None = None
    error: ConvergenceError | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that resuming takes, beside the parameters."""
        return {}, {}

    def load_solution(self, resume: Solution) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Load parameters and objectives of a solution; return what :meth:`pack` had packed."""
        load_chain(self.model, self.guide, resume.parameters, self.index)
        past = resume.history["objective"][self.index]
        self.objective = past[~np.isnan(past)].tolist()  # without the padding
        if resume.stopped[self.index] == "converged":
            self.stopped = "converged"
        prefix = f"{self.index}."
        tensors = {
            name.removeprefix(prefix): value
            for name, value in resume.state_tensors.items()
            if name.startswith(prefix)
        }
        return tensors, resume.state_values.get(str(self.index), {})


class Pace:
    """Length of a block of compiled steps: as many as take half a second, by the blocks before.

    Ctrl-C, checkpoints and the progress bar come to their turn between blocks.
    """

    def __init__(self, seconds: float = BLOCK_SECONDS) -> None:
        self.seconds = seconds
        self.blocks, self.per_step = 0, 0.0

    def steps(self, most: int) -> int:
        """Choose how many steps to take next; the first block is the one that compiles."""
        if self.blocks < 2:
            return 1
        return max(1, min(most, int(self.seconds / max(self.per_step, 1e-9))))

    def took(self, steps: int, seconds: float) -> None:
        """Note how long a block took."""
        self.blocks += 1
        self.per_step = seconds / steps


ChainT = TypeVar("ChainT", bound=Chain)


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold a first Ctrl-C back until the step is complete; a second one is immediate."""
    asked = []

    def note(signum: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals reach the main thread only
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def run_chains(
    chains: Sequence[ChainT],
    advance: Callable[[list[ChainT]], int],
    solution: Callable[[], Solution],
    *,
    max_steps: int,
    label: str,
    context: FitContext,
    runs_to_the_end: bool = False,
    shown: Callable[[], str] | None = None,
) -> None:
    """Advance all chains side by side until each has stopped.

    ``advance(active)`` takes some steps of the chains that have not stopped, appends to
    ``chain.objective``, sets ``chain.stopped`` of those that have converged, and returns how many
    steps it took. Ctrl-C ends the loop after it and leaves "interrupted".
    ``solution()`` is the record so far, for checkpoints and for errors to carry. ``shown()`` is
    what the bar says besides the objective. Where a rule may end a chain before ``max_steps``
    (not ``runs_to_the_end``), nobody knows how long it takes: the bar then counts steps and tells
    the time gone by, not a time that is left.
    """
    # disable=None: silent when standard error is no terminal
    bar = tqdm(
        total=max_steps if runs_to_the_end else None,
        initial=max(len(c.objective) for c in chains),
        desc=label,
        unit=" steps",
        disable=None if context.progress else True,
        mininterval=0.2,
        dynamic_ncols=True,
    )
    for chain in chains:  # a fit resumed at its last step has no steps left
        if chain.stopped is None and len(chain.objective) >= max_steps:
            chain.stopped = "max_steps"
    saved = time.monotonic()
    with bar, _deferred_interrupt() as interrupted:
        try:
            while active := [c for c in chains if c.stopped is None]:
                bar.update(advance(active))
                if not bar.disable:
                    best = max((c.objective[-1] for c in chains if c.objective), default=np.nan)
                    running = f", {len(active)}/{len(chains)} chains" if len(chains) > 1 else ""
                    extra = shown() if shown is not None else ""
                    bar.set_postfix_str(f"objective {best:.6g}{running}{extra}", refresh=False)
                due = time.monotonic() - saved > context.checkpoint_seconds
                if context.checkpoint is not None and due:
                    context.checkpoint(solution())
                    saved = time.monotonic()
                if interrupted():
                    break
        except KeyboardInterrupt:
            pass  # a second Ctrl-C, in the middle of a step: the complete steps are kept
        except ConvergenceError as error:
            error.solution = solution()  # so that nothing is lost
            raise
    for chain in chains:
        chain.stopped = chain.stopped or "interrupted"


def raise_if_all_diverged(chains: Sequence[Chain], solution: Solution) -> None:
    """Raise the first error if all chains have diverged; warn if only some have."""
    lost = [chain for chain in chains if chain.error is not None]
    if lost and len(lost) == len(chains):
        lost[0].error.solution = solution  # so that nothing is lost
        raise lost[0].error
    for chain in lost:
        warnings.warn(f"{chain.error}; the other chains went on", stacklevel=4)


def pack_chains(chains: Sequence[Chain]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of all chains for a solution: tensors ``"CHAIN.NAME"``, and plain values by chain."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for chain in chains:
        packed, values[str(chain.index)] = chain.pack()
        tensors |= {f"{chain.index}.{name}": value for name, value in packed.items()}
    return tensors, values


def repeat_parameters(model: Model, num_chains: int) -> dict[str, Tensor]:
    """Parameters of a model that all chains share, as a solution has them: ``(chain, ...)``."""
    parameters = read_parameters(model, None)
    return {name: value.expand(num_chains, *value.shape) for name, value in parameters.items()}


def pad_history(chains: Sequence[Chain]) -> np.ndarray:
    """Objectives of all chains, ``(chain, step)``, NaN after a chain's end."""
    width = max((len(c.objective) for c in chains), default=0)
    out = np.full((len(chains), width), np.nan)
    for row, chain in zip(out, chains, strict=True):
        row[: len(chain.objective)] = chain.objective
    return out
