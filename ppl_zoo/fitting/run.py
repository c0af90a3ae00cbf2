"""``fit``: a model, data and a solver in, a :class:`Fit` out; and ``load``, from disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from ppl_zoo import solvers
from ppl_zoo.core.device import at_most_threads, pick_device
from ppl_zoo.core.errors import ConvergenceError, DataError, ForkError, QueryError, RunError
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.model import Model
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.options import did_you_mean, keywords
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run_directory import try_place
from ppl_zoo.fitting.saving import read
from ppl_zoo.models.pretrained import PRETRAINED, load_pretrained

__all__ = ["default_solver", "fit", "fit_many", "load"]

#: share of the rows that a fit holds out of its own accord, and the least rows that it splits
HELD_OUT_SHARE, MIN_ROWS_TO_SPLIT = 0.1, 50


def default_solver(model: Model) -> Solver:
    """Make the solver that the model names as its own."""
    name, options = model.default_solver
    return getattr(solvers, name)(**options)


@keywords("fit")
@one_at_a_time
def fit(
    model: Any,
    data: Any,
    solver: Solver | None = None,
    *,
    validation: Any = "auto",
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    resume: Fit | str | Path | None = None,
) -> Fit:
    """Fit a model to data.

    Parameters
    ----------
    model
        A :class:`~ppl_zoo.Model`; fitted in place. Or a plain Pyro function, whose ``pyro.param``
        and ``pyro.module`` are fitted as well; ``fit.model`` then wraps it.
    data
        Tensor, array or data frame ``(num_rows, ...)``, a tuple or mapping of them in the order of
        the arguments of ``model``, a frame whose columns are these arguments, or a
        :class:`~ppl_zoo.data.Dataset` (its ``train``; its ``valid`` for early stopping). Words,
        truth values, categories, and labels such as -1 and 1, are states by name where a model
        takes states; answers have these names. Memory-mapped arrays are read a chunk at a time.
        Data in float64 are computed in float64 by models of real numbers
        (``follows_data_dtype``), unless the model was given a dtype: ``model.float()``.
    solver
        ``zoo.SVI(...)``, ``zoo.EM(...)``, ``zoo.NUTS(...)``; None for the model's own default.
    validation
        Rows that are held out: they stop the fit early, choose what is kept, and tell
        ``fit.check()`` how it generalises. "auto" holds out the ``valid`` of a data set, or else
        a tenth of the rows at random, where a model is fitted by maximum likelihood, iteratively,
        and has more parameters than rows (nets, large mixtures); not a posterior over parameters,
        nor fewer than 50 rows. None gives all rows to the fit; a number is the share of the rows
        to hold out; or rows, as ``data``.
    device
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
    seed
        Makes the fit repeatable: it rules the weights that a model draws when it is made, unless
        they were changed since, and all that the solver draws. The caller's random state is left
        alone. Weights that a program brings along (a net made outside of it) are the caller's.
    progress
        Show a progress bar; silent in any case where there is no terminal.
    checkpoint
        Run directory to save to while fitting (every ``checkpoint_seconds``) and at the end. It is
        tried before the fit begins; a save that fails later is a warning, once, and the fit goes
        on in memory: what was saved before stands, and ``fit.save_error`` says whether the fit
        itself is there.
    resume
        A fit, or its run directory, to go on from: the result is that of a fit that was never
        interrupted. ``solver`` may be left out then.

    Returns
    -------
    Fit
        Also after Ctrl-C: with what was reached, and ``fit.stopped == "interrupted"``.

    Raises
    ------
    DataError
        If the model cannot take the data.
    ConvergenceError
        If the objective becomes non-finite, or EM lowers it.
    RunError
        If nothing can be saved to ``checkpoint``, or something else than a run stands there.
    """
    if checkpoint is not None:
        try_place(Path(checkpoint))
    if not isinstance(model, Model):
        if isinstance(data, Model) or not callable(model) or isinstance(model, type):
            raise DataError(
                f"model: got {_shown(model)}, expected a zoo.Model or a function with pyro.sample "
                f"in it{_mend_of_model(model, data)}"
            )
        model = FunctionModel(model)
    if isinstance(data, Solver):
        raise DataError(
            f"data: got {data!r}, expected data; the order is zoo.fit(model, data, solver)"
        )
    before: Fit | None = None
    if resume is not None:
        before = resume
        if not isinstance(resume, Fit):
            before = read(resume, Fit, model=model, data=data, solver=solver)
        if type(before.model) is not type(model):
            raise DataError(
                f"resume: got a fit of {type(before.model).__name__}, "
                f"expected one of {type(model).__name__}"
            )
        if solver is None and before.solution.unsaved_options:
            raise DataError(
                f"resume: the options {before.solution.unsaved_options} were not saved: pass "
                "solver="
            )
        solver = before.solver if solver is None else solver
        seed = before.seed
    solver = default_solver(model) if solver is None else solver
    if not isinstance(solver, Solver):
        raise DataError(
            f"solver: got {_shown(solver)}, expected zoo.SVI(...), zoo.EM(...), ..."
            f"{_mend_of_solver(solver)}"
        )
    model.to(pick_device(device))
    if before is None:
        model.learn_names(getattr(data, "train", data))
        model.adopt_dtype(getattr(data, "train", data))
    rows = model.as_rows(getattr(data, "train", data))
    model.check_data(rows)
    with fork_generators(model.device), model.defaults():
        set_seed(seed, model.device)  # a first run must not depend on what ran before it
        if before is None and getattr(solver, "initialize", True):
            model.redraw()
            set_seed(seed, model.device)
        model.find_data_plate(rows)
        model.validate(rows)
        rows, valid, num_split_off = _hold_out(model, data, rows, solver, validation, before, seed)
    started = time.perf_counter()
    spent = 0.0 if before is None else before.seconds

    def wrap(solution: Solution) -> Fit:
        seconds = spent + time.perf_counter() - started
        return Fit(
            model,
            solver,
            solution,
            rows,
            seed=seed,
            seconds=seconds,
            valid=valid,
            num_split_off=num_split_off,
        )

    keep = None if checkpoint is None else _Checkpoints(Path(checkpoint), wrap)
    context = FitContext(
        seed=seed,
        progress=progress,
        resume=None if before is None else before.solution,
        checkpoint=keep,
        checkpoint_seconds=checkpoint_seconds,
        valid=valid,
    )
    try:
        with (
            fork_generators(model.device),
            model.defaults(),
            at_most_threads(solver.max_threads(model, rows)),
        ):
            set_seed(seed, model.device)
            solution = solver.solve(model, rows, context)
    except ConvergenceError as error:
        if error.solution is not None:
            error.fit = wrap(error.solution)
        raise
    except (DataError, ForkError, QueryError, RunError, Warning):
        raise
    except Exception as error:
        if before is None:
            raise
        raise RunError(
            "resume: the fit could not go on from the state that was saved, which is damaged or "
            f"of another fit: {type(error).__name__}: {error}"
        ) from error
    done = wrap(solution)
    done.show(solution.best)
    model.remember(rows, solution.guide)
    if keep is not None:
        keep(solution)
        done.save_error = keep.error
    return done


def _shown(value: Any) -> str:
    """Show what was given in the place of a model or a solver, without its numbers."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"a {type(value).__name__} {tuple(shape)}"
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__


def _mend_of_model(model: Any, data: Any) -> str:
    if isinstance(data, Model | FunctionType):
        return "; model and data are swapped: zoo.fit(model, data)"
    if isinstance(model, type):
        return f"; make one of it: zoo.fit({model.__name__}(...), data)"
    return ""


def _mend_of_solver(solver: Any) -> str:
    name = solver.__name__ if isinstance(solver, type) else solver
    names = {n.lower(): n for n in solvers.__all__ if issubclass(getattr(solvers, n), Solver)}
    found = names.get(name.lower()) if isinstance(name, str) else None
    if found is not None:
        return f"; make one: zoo.{found}()"
    return did_you_mean(solver, names.values())


class _Checkpoints:
    """Saves of a fit while it runs and at its end; the first that fails is a warning.

    Parameters
    ----------
    path
        The run directory.
    wrap
        Makes a fit of a solution.

    Attributes
    ----------
    error
        Of the last save; None where it succeeded.
    """

    def __init__(self, path: Path, wrap: Callable[[Solution], Fit]) -> None:
        self.path, self.wrap = path, wrap
        self.error: RunError | None = None
        self.warned = False

    def __call__(self, solution: Solution) -> None:
        """Save what has been reached."""
        try:
            self.wrap(solution).save(self.path)
            self.error = None
        except RunError as error:
            self.error = error
            if not self.warned:
                warnings.warn(
                    f"{error}; the fit is kept in memory, fit.save(...) writes it elsewhere",
                    stacklevel=2,
                )
            self.warned = True


def _hold_out(
    model: Model,
    data: Any,
    rows: Rows,
    solver: Solver,
    validation: Any,
    before: Fit | None,
    seed: int,
) -> tuple[Rows, Rows | None, int]:
    """Return rows of the fit, validation rows (or None), and how many rows were split off."""
    auto = isinstance(validation, str) and validation == "auto"
    if auto and before is not None:
        num = before.num_split_off
        if num == 0 or before.rows is None or len(rows) == len(before.rows):
            return rows, before.valid, num
        return *rows.split(num, seed), num
    if validation is None:
        return rows, None, 0
    share = validation
    if auto:
        if not solver.uses_validation(model, rows):
            return rows, None, 0
        validation, share = getattr(data, "valid", None), HELD_OUT_SHARE
        if validation is None and len(rows) < MIN_ROWS_TO_SPLIT:
            return rows, None, 0
    if isinstance(validation, str):
        raise DataError(f"validation: got {validation!r}, expected 'auto', None, a share or rows")
    if validation is None or isinstance(validation, (int, float)):
        if not 0 < share < 1:
            raise DataError(
                f"validation: got {share}, expected a share of the rows between 0 and 1, rows, "
                "None or 'auto'"
            )
        num = round(share * len(rows))
        if not 0 < num < len(rows):
            raise DataError(f"validation: got {share} of {len(rows)} rows, which is {num} rows")
        return *rows.split(num, seed), num
    valid = model.as_rows(validation)
    model.check_data(valid)
    return rows, valid, 0


@one_at_a_time
def fit_many(
    model: Model, tables: Sequence[Any], solver: Solver | None, *, seed: int = 0
) -> list[Fit | None]:
    """Fit copies of a model to data sets of one shape, compiled once and side by side if possible.

    Parameters
    ----------
    model
        Of its arguments new models are made; it stays as it is.
    tables
        Data sets, as for :func:`fit`.

    Returns
    -------
    list
        A fit for each; None where it ended in a :class:`~ppl_zoo.core.errors.ConvergenceError`.
    """
    solver = default_solver(model) if solver is None else solver
    for table in tables:
        model.adopt_dtype(table)
    rows = [model.as_rows(table) for table in tables]
    template = model.fresh()
    for table in rows:
        template.check_data(table)
    with fork_generators(model.device), template.defaults():
        template.find_data_plate(rows[0])
        found = solver.solve_many(template, rows, seed)
    out: list[Fit | None] = []
    for index, pair in enumerate(found or [None] * len(rows)):
        if pair is None:
            alone = {"device": model.device, "seed": seed + index, "progress": False}
            try:
                out.append(fit(model.fresh(), tables[index], solver, validation=None, **alone))
            except ConvergenceError:
                out.append(None)
            continue
        own, solution = pair
        with fork_generators(model.device), own.defaults():
            own.find_data_plate(rows[index])
        done = Fit(own, solver, solution, rows[index], seed=seed + index, seconds=0.0)
        done.show(solution.best)
        own.remember(rows[index], solution.guide)
        out.append(done)
    return out


@one_at_a_time
def load(
    path: str | Path,
    *,
    model: Model | type[Model] | Callable[..., Any] | None = None,
    data: Any = None,
    solver: Solver | None = None,
    guide: Any = None,
    device: str | torch.device = "auto",
) -> Fit | Model:
    """Read a saved fit, or a model that this project trained.

    Parameters
    ----------
    path
        A run directory written by :meth:`Fit.save`, or the name of a pretrained model, such as
        "gmm200-patches".
    model
        A model, class or function of one's own; a class is found by name if it is imported
        already. No code is run or imported because a file names it.
    data
        The data, where the run does not hold them.
    solver
        The solver, where its options hold functions that JSON does not (a schedule).
    guide
        The guide program, where the fit had one of the user's own.
    device
        Where to put it; "auto" takes a GPU where there is one.

    Returns
    -------
    Fit or Model
        The fit; for a name, the model.

    Raises
    ------
    RunError
        If the run is missing, truncated, corrupt or of a class that is not known here.
    """
    if isinstance(path, str) and path in PRETRAINED and not Path(path).exists():
        return load_pretrained(path, pick_device(device))
    return read(path, Fit, model=model, data=data, solver=solver, guide=guide, device=device)
