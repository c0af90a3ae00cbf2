"""What the commands do, on the public surface of the zoo; ``ppl_zoo.cli`` reads the arguments."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppl_zoo import data as datasets
from ppl_zoo.card import Card, Recipe
from ppl_zoo.catalogue import ZOO, find
from ppl_zoo.cli.inspection import inspect_fit, quiet
from ppl_zoo.cli.terminal import note, read_about, table_text, write_about
from ppl_zoo.errors import ConvergenceError, DataError, RunError
from ppl_zoo.fitting import Fit, fit
from ppl_zoo.recipes import held_out, load_data, make_model, make_solver, run
from ppl_zoo.saving import load

__all__ = ["FitRequest", "fit_model", "inspect_run", "list_models", "reproduce", "show"]


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


def list_models(*, as_json: bool = False) -> int:
    """Print the models and the data sets."""
    if as_json:
        cards = [dataclasses.asdict(c) for c in datasets.available()]
        return _print_json({"models": [_record(card) for card in ZOO], "data": cards})
    rows = [
        (c.name, c.family, *(c.queries[q] for q in QUERIES), ", ".join(c.solvers), c.title)
        for c in ZOO
    ]
    columns = ("model", "family", *QUERIES, "solvers", "what it is")
    print(table_text(columns, rows, left=range(len(columns))))
    print()
    sets = [
        (
            card.name,
            " + ".join(f"{n:,}" for n in card.num_observations.values()),
            "no" if card.embedded else "yes",
            card.title,
        )
        for card in datasets.available()
    ]
    columns = ("data", "rows (train + valid + test)", "download", "what it is")
    print(table_text(columns, sets, left=range(4)))
    print()
    print("ppl-zoo show NAME tells more about a model; ppl-zoo fit NAME fits it.")
    return 0


QUERIES = ("log_prob", "sample", "encode")


def show(name: str, *, as_json: bool = False) -> int:
    """Print the card of a model."""
    card = find(name)
    if as_json:
        return _print_json(_record(card))
    print(f"{card.title} ({card.name})")
    print(card.summary)
    print()
    print(_story(card))
    print()
    columns = ("query", "answer")
    print(table_text(columns, [(q, card.queries[q]) for q in QUERIES], left=(0, 1)))
    print()
    print(f"Solvers: {', '.join(card.solvers)} (the first is its default)")
    if card.size is not None:
        print()
        print(_sizes(card.family))
    if card.recipes:
        print()
        print("Recipes, fits that are known to work:")
        lines = [(f"ppl-zoo fit {card.name} --recipe {r.name}", r.title) for r in card.recipes]
        width = max(len(command) for command, _ in lines)
        for command, title in lines:
            print(f"  {command:<{width}}  # {title}")
    if card.figures:
        print()
        rows = [
            (f.what, f"{f.published:g}", _digits(f.reproduced), f.source) for f in card.figures
        ]
        print(table_text(("number", "published", "reproduced", "source"), rows, left=(0, 3)))
        print()
        print(f"Obtain them again: {', '.join(dict.fromkeys(f.command for f in card.figures))}")
    if card.references:
        print()
        for reference in card.references:
            print(reference)
    return 0


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
        _print_json(_fit_record(card, recipe, done, score, out))
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


def inspect_run(
    path: str, *, data: str | None = None, draws: int = 1000, as_json: bool = False
) -> int:
    """Print the summary of a run and write its figures."""
    folder = Path(path)
    about, done = read_about(folder), load(folder)
    own = next((c for c in ZOO if c.model_class is type(done.model)), None)
    card = next((c for c in datasets.available() if c.name == about.get("data")), None)
    if done.rows is None or data is not None:
        name = data or about.get("data")
        if name is None:
            raise DataError(f"{path} does not hold its data: give them with --data NAME or PATH")
        options = about.get("data_options") if data is None else {}
        dataset = load_data(type(done.model), name, options)
        done, card = load(folder, data=dataset), dataset.card
    note(f"looking at {done!r}")
    seen = inspect_fit(done, card, draws=draws)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    written = []
    with quiet():
        for name, _, figure in seen.figures:
            written.append(figures / f"{name}.png")
            figure.savefig(written[-1], dpi=150, bbox_inches="tight")
    for failure in seen.failures:
        note(f"not shown: {failure}")
    if as_json:
        table = None if seen.summary is None else json.loads(seen.summary.to_json(orient="index"))
        return _print_json(
            {
                "run": str(folder),
                "model": own.name if own else type(done.model).__name__,
                "objective": done.objective,
                "stopped": done.stopped,
                "rhat": seen.rhat,
                "khat": seen.khat,
                "summary": table,
                "figures": [str(p) for p in written],
            }
        )
    print(done)
    if seen.summary is not None:
        print()
        print(seen.summary.to_string())
    print()
    if seen.rhat is not None:
        print(f"largest R-hat {seen.rhat:.3f} (chains agree near 1.00)")
    if seen.khat is not None:
        verdict = "good" if seen.khat < 0.5 else "fair" if seen.khat < 0.7 else "poor"
        print(f"k-hat {seen.khat:.2f} ({verdict}: below 0.7 the guide can be trusted)")
    print(f"figures: {', '.join(str(p) for p in written) or 'none'}")
    return 0


def reproduce(name: str, *, device: str = "auto", as_json: bool = False) -> int:
    """Run what backs each published number of a card; 1 if one is missed."""
    card = find(name)
    if not card.figures:
        raise DataError(f"{card.name} has no published numbers to reproduce")
    fits: dict[str, Any] = {}
    rows, records, missed = [], [], 0
    for figure in card.figures:
        obtained = None
        if figure.recipe is not None and figure.measure is not None:
            if figure.recipe not in fits:
                note(f"fitting {card.name}, recipe {figure.recipe}")
                fits[figure.recipe] = run(card, card.recipe(figure.recipe), device=device)
            obtained = float(figure.measure(*fits[figure.recipe]))
        agrees = None if obtained is None else figure.agrees(obtained)
        missed += agrees is False
        verdict = {True: "yes", False: "NO", None: f"run: {figure.command}"}[agrees]
        shown = (_digits(figure.published), _digits(obtained), f"{figure.tolerance:g}", verdict)
        rows.append((figure.what, *shown))
        record = {
            k: getattr(figure, k) for k in ("what", "published", "source", "tolerance", "better")
        }
        records.append(record | {"obtained": obtained, "agrees": agrees})
    if as_json:
        _print_json({"model": card.name, "figures": records})
    else:
        columns = ("number", "published", "obtained", "tolerance", "agrees")
        print(table_text(columns, rows, left=(0, 4)))
    return min(missed, 1)


def _story(card: Card) -> str:
    """Return the docstring of the class up to its references: story, shapes and arguments."""
    text = inspect.cleandoc(card.model_class.__doc__ or "")
    return text.split("\nReferences\n")[0].rstrip().replace("::\n", ":\n")


def _sizes(family: str) -> str:
    """Table of the free parameters of a family's models, the smallest first."""
    rows = [
        (c.model_class(**c.size.example).num_free_parameters, c.name, c.size.formula)
        for c in ZOO
        if c.family == family and c.size is not None
    ]
    lines = [(name, formula, f"{count:,}") for count, name, formula in sorted(rows)]
    columns = ("free parameters", "of n yes-no features", "n = 10")
    return table_text(columns, lines, left=(0, 1))


def _record(card: Card) -> dict[str, Any]:
    record = dataclasses.asdict(dataclasses.replace(card, figures=()))
    figures = [
        {
            f.name: getattr(figure, f.name)
            for f in dataclasses.fields(figure)
            if f.name != "measure"
        }
        for figure in card.figures
    ]
    return record | {"queries": dict(card.queries), "figures": figures}


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


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_json(value: Any) -> int:
    print(json.dumps(_plain(value), indent=1))
    return 0


def _plain(value: Any) -> Any:
    """Make a value fit for JSON, which knows no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
