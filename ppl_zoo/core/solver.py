"""Solver: the base of all ways to fit a model, and the context that a fit hands to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ppl_zoo.core.display import Described
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution

__all__ = ["FitContext", "Solver", "find_solver", "is_overparameterised"]


@dataclass(frozen=True)
class FitContext:
    """What a fit hands to its solver beside model and data.

    Parameters
    ----------
    seed
        Seed of the fit; the noise of a step depends on seed, chain and step alone.
    progress
        Whether to show a progress bar, where there is a terminal.
    resume
        The solution to go on from; None to start anew.
    checkpoint
        Called with the solution so far, every ``checkpoint_seconds``; None for no checkpoints.
    checkpoint_seconds
        Seconds between two checkpoints.
    valid
        Validation rows for early stopping; None where none were held out or the solver has no use
        for them.
    """

    seed: int = 0
    progress: bool = True
    resume: Solution | None = None
    checkpoint: Callable[[Solution], object] | None = None
    checkpoint_seconds: float = 30.0
    valid: Rows | None = None


class Solver(Described):
    """A way to fit a model: options, and one method.

    A solver is a frozen dataclass whose fields are its options. ``zoo.fit`` moves model and data
    to the device and calls :meth:`solve`.

    Class attributes
    ----------------
    old_names
        Names that options had in earlier versions, ``{old: new}``; see
        :func:`ppl_zoo.core.options.options`.
    """

    old_names: ClassVar[Mapping[str, str]] = {}

    def uses_validation(self, model: Model, rows: Rows) -> bool:
        """Whether validation rows have a say in the fit of this model to so many rows."""
        return False

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Fit ``model`` in place and return the record of it; see :func:`ppl_zoo.fit`.

        Raises
        ------
        DataError
            If the solver cannot fit this model.
        ConvergenceError
            If the objective becomes non-finite.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method 'solve'; write one")

    def solve_many(
        self, model: Model, tables: Sequence[Rows], seed: int
    ) -> list[tuple[Model, Solution] | None] | None:
        """Fit the model to several data sets of one shape at once, where the solver can.

        Returns
        -------
        list or None
            Model and solution of each data set, None for one that has to be fitted alone; or None
            where all have to.
        """
        return None

    def max_threads(self, model: Model, rows: Rows) -> int | None:
        """Threads of torch that a step keeps busy; None for as many as there are.

        Threads beyond the work wait for each other, on a busy machine for long.
        """
        return None

    def rebuild_guide(self, model: Model, rows: Rows, held: Mapping[str, Tensor]) -> Any:
        """Make the guide of a saved fit again, its parameters not loaded yet.

        ``held`` are the parameters of the saved fit by name.
        """
        return model.guide

    def to_save(self) -> Solver:
        """Return the options that a saved fit holds."""
        return self


def is_overparameterised(model: Model, rows: Rows) -> bool:
    """Whether a model fitted by maximum likelihood has more parameters than rows.

    It then describes the rows of the fit better than others by a nat a row and more (Akaike
    1974, https://doi.org/10.1109/TAC.1974.1100705: by parameters over rows, in expectation),
    unless it is stopped in time. False for a posterior over the parameters, and for programs
    that may take no rows but their own.
    """
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if size <= len(rows) or not model.any_rows or isinstance(model, FunctionModel):
        return False
    plate = model.data_plate
    latent = [s for s in model.sites(*rows.head(1)).values() if s.kind == "latent"]
    return plate is not None and all(s.is_local(plate) for s in latent)


def find_solver(name: str) -> type[Solver] | None:
    """Find the class of a solver by name among those that are imported.

    Nothing is imported because a file names it.
    """
    waiting = [Solver]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if name in (cls.__name__, f"{cls.__module__}:{cls.__qualname__}"):
            return cls
    return None
