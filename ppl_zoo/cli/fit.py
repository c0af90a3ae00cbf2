"""``ppl-zoo fit``: fit a model by a recipe, with the user's changes, and save the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import arg

from ppl_zoo.cli.recipes import (
    SOLVERS,
    held_out,
    load_data,
    make_model,
    make_solver,
    parse_settings,
)
from ppl_zoo.cli.terminal import (
    DeviceOption,
    JSONFlag,
    ModelName,
    Settings,
    note,
    print_json,
    read_about,
    write_about,
)
from ppl_zoo.core.errors import ConvergenceError, DataError, RunError
from ppl_zoo.data import Dataset
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit, load
from ppl_zoo.fitting.run_directory import try_place
from ppl_zoo.models.card import Card, Recipe
from ppl_zoo.models.catalogue import find

__all__ = ["FitRequest", "fit_model"]


# the names are known at run time only, which type checkers do not take
SolverName = Literal[tuple(name.lower() for name in SOLVERS)]  # type: ignore[valid-type]


@dataclass(frozen=True)
class FitRequest:
    """Arguments of ``ppl-zoo fit``; None is "as the recipe has it".

    Parameters
    ----------
    data
        A data set of `ppl-zoo list`; a table (.csv, .txt, .xlsx, .parquet, .jsonl), a .npy or .npz
        file, or a folder of images. Default: that of the model's first recipe.
    recipe
        A known good fit of `ppl-zoo show NAME`; other options change it.
    components
        Number of components or latent classes; short for `--set num_components=K`.
    set
        An argument of the model.
    target
        The column of a table that is y, by name or number; default the last.
    columns
        The columns of a table to keep, by name or number: `--columns a,b`.
    separator
        What parts the cells of a text table: a character, `tab` or `blank`; default: found.
    decimal
        The decimal mark of a text table; default: found.
    encoding
        The encoding of a text table, such as latin-1; default: found.
    missing
        Cells of a table that stand for a missing value, besides NA, NULL, ? and empty ones:
        `--missing -999,unknown`.
    data_option
        An option of the data set, or of `zoo.data.from_path`.
    solver
        Default: the model's own.
    steps
        Most steps; chains stop earlier once they have converged.
    restarts
        Number of chains from different starts.
    batch_size
        Rows in a minibatch (svi) or in memory at once (em).
    solver_option
        Any other option of the solver, such as `tol=1e-8`.
    validation
        Rows held out of the fit: `auto`, `none`, or their share, such as 0.1.
    seed
        Makes the fit repeatable; default 0.
    dtype
        Floating type of the fit; default that of the data.
    out
        Folder of the run; default `runs/NAME`.
    resume
        Go on with the run in that folder.
    overwrite
        Replace the run in that folder.
    """

    name: ModelName
    data: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    recipe: Annotated[str | None, arg(metavar="NAME")] = None
    components: Annotated[int | None, arg(metavar="K")] = None
    set: Settings = ()
    target: Annotated[str | None, arg(metavar="COLUMN")] = None
    columns: Annotated[str | None, arg(metavar="A,B")] = None
    separator: Annotated[str | None, arg(metavar="CHARACTER")] = None
    decimal: Annotated[str | None, arg(metavar="MARK")] = None
    encoding: Annotated[str | None, arg(metavar="NAME")] = None
    missing: Annotated[str | None, arg(metavar="A,B")] = None
    data_option: Settings = ()
    solver: SolverName | None = None
    steps: Annotated[int | None, arg(metavar="N")] = None
    restarts: Annotated[int | None, arg(metavar="N")] = None
    batch_size: Annotated[int | None, arg(metavar="ROWS")] = None
    solver_option: Settings = ()
    device: DeviceOption = "auto"
    validation: Annotated[str, arg(metavar="SHARE")] = "auto"
    seed: Annotated[int | None, arg(metavar="SEED")] = None
    dtype: Literal["float32", "float64"] | None = None
    out: Annotated[str | None, arg(metavar="FOLDER")] = None
    resume: bool = False
    overwrite: bool = False
    json: JSONFlag = False

    @property
    def model_settings(self) -> dict[str, Any]:
        """Arguments of the model."""
        short = {} if self.components is None else {"num_components": self.components}
        return short | parse_settings(self.set)

    @property
    def data_options(self) -> dict[str, Any]:
        """Options of the data set."""
        short = {
            "columns": self.columns and self.columns.split(","),
            "sep": self.separator,
            "decimal": self.decimal,
            "encoding": self.encoding,
            "na_values": self.missing and self.missing.split(","),
        }
        given = {name: value for name, value in short.items() if value is not None}
        return given | parse_settings(self.data_option)

    @property
    def held_out(self) -> str | float | None:
        """What ``zoo.fit`` takes as ``validation``."""
        if self.validation in ("auto", "none"):
            return "auto" if self.validation == "auto" else None
        try:
            return float(self.validation)
        except ValueError as error:
            raise DataError(
                f"validation: got {self.validation!r}, expected auto, none or a share, such as 0.1"
            ) from error

    @property
    def solver_options(self) -> dict[str, Any]:
        """Options of the solver."""
        short = {"steps": self.steps, "restarts": self.restarts, "batch_size": self.batch_size}
        given = {name: value for name, value in short.items() if value is not None}
        return given | parse_settings(self.solver_option)


def fit_model(request: FitRequest) -> int:
    """Fit a model, save the run and print the result."""
    card = find(request.name)
    out = Path(request.out or f"runs/{card.name}")
    try_place(out)
    if (out / "fit.json").exists() and not (request.resume or request.overwrite):
        raise RunError(
            f"{out} holds a fit already: --resume to go on with it, --overwrite to "
            "replace it, or another --out"
        )
    try:
        done, dataset, recipe = (_resume if request.resume else _start)(card, request, out)
    except ConvergenceError as error:
        if error.fit is not None:
            try:
                error.fit.save(out)
                note(f"what had been reached is in {out}")
            except RunError as unsaved:
                note(f"what had been reached is lost: {unsaved}")
        raise
    if done.save_error is not None:
        note(repr(done))  # all that is left of it
        raise done.save_error
    write_about(out, card.name, recipe)
    score = held_out(done.model, dataset)
    if request.json:
        print_json(_fit_record(card, recipe, done, score, out))
    else:
        print(done)
        if score is not None:
            print(f"held out ({score[1]}): {score[0]:.4f} nats a row")
        print(f"saved to {out}; next: ppl-zoo inspect {out}")
    if done.stopped == "interrupted":
        note(
            f"interrupted: what there is has been saved; go on with: "
            f"ppl-zoo fit {card.name} --out {out} --resume"
        )
        return 130
    return 0


def _start(card: Card, request: FitRequest, out: Path) -> tuple[Fit, Dataset, Recipe]:
    """Fit a new run."""
    recipe = _adapt(card, request, request.data, request.data_options)
    dataset = load_data(card.model_class, recipe.data, recipe.data_options, request.target)
    model = make_model(card, dataset, recipe.model)
    if recipe.dtype is not None:
        model.to(getattr(torch, recipe.dtype))
    solver = make_solver(card, recipe.solver, recipe.options)
    note(f"fitting {card.name} to {dataset!r}")
    done = fit(
        model,
        dataset,
        solver,
        validation=request.held_out,
        device=request.device,
        seed=recipe.seed,
        checkpoint=out,
    )
    return done, dataset, recipe


def _resume(card: Card, request: FitRequest, out: Path) -> tuple[Fit, Dataset, Recipe]:
    """Continue a run; only the bounds on its length may change."""
    about = read_about(out)
    recipe = _adapt(
        card,
        request,
        request.data or about.get("data"),
        request.data_options or about.get("data_options") or {},
    )
    before = load(out, device=request.device)
    if not isinstance(before.model, card.model_class):
        raise RunError(f"{out} holds a {type(before.model).__name__}, expected {card.name}")
    dataset = load_data(card.model_class, recipe.data, recipe.data_options, request.target)
    data = dataset if before.rows is None else before.data()
    if before.rows is None:
        before = load(out, data=dataset, device=request.device)
    solver = before.solver
    if request.solver_options:
        options = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
        solver = make_solver(card, type(solver).__name__, options | request.solver_options)
    note(f"going on with {before!r}")
    done = fit(before.model, data, solver, device=request.device, checkpoint=out, resume=before)
    return done, dataset, recipe


def _adapt(
    card: Card, request: FitRequest, data: str | None, data_options: Mapping[str, Any]
) -> Recipe:
    """Recipe of the request: a known one, or an empty one for other data, with its changes."""
    if request.recipe is not None:
        base = card.recipe(request.recipe)
    elif data is None and card.recipes:
        base = card.recipes[0]
    else:
        known = [r for r in card.recipes if r.data == data]
        base = known[0] if known else None
    if base is None:
        if data is None:
            raise DataError(f"{card.name}: no data given, expected --data NAME or PATH")
        base = Recipe(name="own", title="", data=data)
    same_solver = request.solver is None or request.solver == (base.solver or "").lower()
    same_data = data in (None, base.data)
    return dataclasses.replace(
        base,
        data=data or base.data,
        data_options=(dict(base.data_options) if same_data else {}) | dict(data_options),
        model=dict(base.model) | request.model_settings,
        solver=request.solver or base.solver,
        options=(dict(base.options) if same_solver else {}) | request.solver_options,
        seed=base.seed if request.seed is None else request.seed,
        dtype=request.dtype or base.dtype,
    )


def _fit_record(
    card: Card, recipe: Recipe, done: Fit, score: tuple[float, str] | None, out: Path
) -> dict[str, Any]:
    """JSON record of a fit."""
    return {
        "model": card.name,
        "data": recipe.data,
        "solver": type(done.solver).__name__,
        "objective": done.objective,
        "stopped": done.stopped,
        "steps": list(done.solution.steps),
        "chains": [float(v) for v in done.solution.objective],
        "held_out": None if score is None else {"log_density": score[0], "split": score[1]},
        "seed": done.seed,
        "seconds": done.seconds,
        "run": str(out),
    }
