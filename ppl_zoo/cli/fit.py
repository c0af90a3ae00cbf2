"""``ppl-zoo fit``: a recipe with the changes that were asked for, fitted and saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppl_zoo.cli.recipes import held_out, load_data, make_model, make_solver
from ppl_zoo.cli.terminal import note, print_json, read_about, write_about
from ppl_zoo.core.errors import ConvergenceError, DataError, RunError
from ppl_zoo.fitting.run import Fit, fit
from ppl_zoo.fitting.saving import load
from ppl_zoo.models.card import Card, Recipe
from ppl_zoo.models.catalogue import find

__all__ = ["FitRequest", "fit_model"]


@dataclass(frozen=True)
class FitRequest:
    """What was asked of ``ppl-zoo fit``; None is "as the recipe has it"."""

    name: str
    data: str | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    solver: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    seed: int | None = None
    dtype: str | None = None
    out: str | None = None
    resume: bool = False
    overwrite: bool = False


def fit_model(request: FitRequest, *, as_json: bool = False) -> int:
    """Fit a model, save the run and say what came out."""
    card = find(request.name)
    out = Path(request.out or f"runs/{card.name}")
    if out.exists() and not (out / "fit.json").exists() and (out.is_file() or any(out.iterdir())):
        raise RunError(f"{out} is no run: expected a new folder, or that of an earlier fit")
    if (out / "fit.json").exists() and not (request.resume or request.overwrite):
        raise RunError(
            f"{out} holds a fit already: --resume to go on with it, --overwrite to "
            "replace it, or another --out"
        )
    try:
        done, dataset, recipe = (_resume if request.resume else _start)(card, request, out)
    except ConvergenceError as error:
        if error.fit is not None:
            error.fit.save(out)
            note(f"what had been reached is in {out}")
        raise
    write_about(out, card.name, recipe)
    score = None if dataset is None else held_out(done.model, dataset)
    if as_json:
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


def _start(card: Card, request: FitRequest, out: Path) -> tuple[Fit, Any, Recipe]:
    recipe = _adapt(card, request)
    dataset = load_data(card.model_class, recipe.data, recipe.data_options, request.target)
    model = make_model(card, dataset, recipe.model)
    model = model.double() if recipe.dtype == "float64" else model
    solver = make_solver(card, recipe.solver, recipe.options)
    note(f"fitting {card.name} to {dataset!r}")
    done = fit(model, dataset, solver, device=request.device, seed=recipe.seed, checkpoint=out)
    return done, dataset, recipe


def _resume(card: Card, request: FitRequest, out: Path) -> tuple[Fit, Any, Recipe]:
    """Go on with a run; only the bounds on its length may change."""
    about = read_about(out)
    recipe = _adapt(
        card,
        dataclasses.replace(
            request,
            data=request.data or about.get("data"),
            data_options=request.data_options or about.get("data_options") or {},
        ),
    )
    before = load(out, device=request.device)
    if not isinstance(before.model, card.model_class):
        raise RunError(f"{out} holds a {type(before.model).__name__}, expected {card.name}")
    dataset = load_data(card.model_class, recipe.data, recipe.data_options, request.target)
    data = dataset if before.rows is None else before.data()
    if before.rows is None:
        before = load(out, data=dataset, device=request.device)
    solver = before.solver
    if request.options:
        options = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
        solver = make_solver(card, type(solver).__name__, options | dict(request.options))
    note(f"going on with {before!r}")
    done = fit(before.model, data, solver, device=request.device, checkpoint=out, resume=before)
    return done, dataset, recipe


def _adapt(card: Card, request: FitRequest) -> Recipe:
    """Return the recipe that was asked for, with the changes that were asked for."""
    if request.recipe is not None:
        base = card.recipe(request.recipe)
    elif request.data is None and card.recipes:
        base = card.recipes[0]
    else:
        known = [r for r in card.recipes if r.data == request.data]
        base = known[0] if known else None
    if base is None:
        if request.data is None:
            raise DataError(f"{card.name}: no data given, expected --data NAME or PATH")
        base = Recipe(name="own", title="", data=request.data)
    same_solver = request.solver is None or request.solver == (base.solver or "").lower()
    same_data = request.data in (None, base.data)
    return dataclasses.replace(
        base,
        data=request.data or base.data,
        data_options=(dict(base.data_options) if same_data else {}) | dict(request.data_options),
        model=dict(base.model) | dict(request.settings),
        solver=request.solver or base.solver,
        options=_merge(base.options if same_solver else {}, request.options),
        seed=base.seed if request.seed is None else request.seed,
        dtype=request.dtype or base.dtype,
    )


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a recipe with changes; ``steps`` replaces ``max_steps``."""
    kept = {k: v for k, v in old.items() if not (k == "max_steps" and "steps" in new)}
    return kept | dict(new)


def _fit_record(card: Card, recipe: Recipe, done: Fit, score: Any, out: Path) -> dict[str, Any]:
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
