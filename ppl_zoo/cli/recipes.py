"""Recipes run: data set by name or path, model with its arguments, solver with its options."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_zoo import data as datasets
from ppl_zoo import solvers
from ppl_zoo.core.categories import infer_states
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.solver import Solver
from ppl_zoo.data import Dataset
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit
from ppl_zoo.models.card import Card, Recipe
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.pretrained import load_pretrained

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = [
    "SOLVERS",
    "held_out",
    "load_data",
    "make_model",
    "make_solver",
    "parse_settings",
    "run",
]

#: names of the solvers' classes
#: models around another one, trained before
AROUND_A_PRIOR = (EPLL,)
SOLVERS = tuple(n for n in solvers.__all__ if issubclass(getattr(solvers, n), Solver))


def run(
    card: Card,
    recipe: Recipe,
    *,
    device: str = "auto",
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> tuple[Fit, Dataset]:
    """Fit a model by one of its recipes.

    Parameters
    ----------
    card, recipe
        The model, and one of ``card.recipes`` or a recipe of one's own.
    device, progress, checkpoint
        As for :func:`ppl_zoo.fit`.

    Returns
    -------
    Fit, Dataset

    Raises
    ------
    DataError
        If data, model and solver do not go together.
    """
    dataset = load_data(card.model_class, recipe.data, recipe.data_options)
    model = make_model(card, dataset, recipe.model)
    if recipe.dtype is not None:
        model.to(getattr(torch, recipe.dtype))
    solver = make_solver(card, recipe.solver, recipe.options)
    done = fit(
        model,
        dataset,
        solver,
        device=device,
        seed=recipe.seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    return done, dataset


def load_data(
    model_class: type[Model],
    name: str,
    options: Mapping[str, Any] | None = None,
    target: str | None = None,
) -> Dataset:
    """Load a data set by name, or a user's own file or folder, in the shape that a model takes.

    A single table is split where the model has several arguments: by the names of its columns
    if these are the names of the arguments; otherwise, for a model of ``(x, y)``, y is the column
    ``target`` (the last one by default) and x the others.

    Raises
    ------
    DataError
        If there are no such data or they cannot be split so.
    """
    options = dict(options or {})
    if target is not None and "columns" in options and not target.lstrip("-").isdigit():
        options["columns"] = [*(c for c in options["columns"] if c != target), target]
    with _clear_errors("data"):
        if Path(name).suffix or "/" in name or Path(name).is_dir():
            dataset = datasets.from_path(name, **options)
        else:
            dataset = datasets.load(name, **options)
    arguments = inspect.signature(model_class.model).parameters
    names = [n for n in arguments if n != "self"]
    required = [n for n in names if arguments[n].default is inspect.Parameter.empty]
    table = dataset.train
    if isinstance(table, tuple) or (len(required) == 1 and "y" not in names):
        if target is not None:
            raise DataError(f"target: got {target!r}, but {model_class.__name__} has no target")
        return dataset
    columns = list(dataset.card.feature_names or ())
    if len(required) > 1 and set(required) <= set(columns):
        picks = [columns.index(n) for n in required]
        return _split(dataset, lambda t: tuple(_columns(t, i) for i in picks), None)
    if names[:2] != ["x", "y"] or table.ndim != 2 or table.shape[1] < 2:
        raise DataError(
            f"data: {model_class.__name__} takes ({', '.join(required)}); got a table "
            f"{tuple(table.shape)}, expected columns of these names"
        )
    index = _column(target, columns, table.shape[1])
    rest = [i for i in range(table.shape[1]) if i != index]
    kept = tuple(columns[i] for i in rest) if columns else None
    return _split(dataset, lambda t: (_columns(t, rest), _columns(t, index)), kept)


def make_model(card: Card, dataset: Dataset, settings: Mapping[str, Any]) -> Model:
    """Build a model; ``num_features`` is read off the data where it is not given.

    So are ``num_classes``, ``num_states`` and ``kind`` where the data are a frame with words.

    ``prior`` names a pretrained model, for classes that are made ``of`` one.

    Raises
    ------
    DataError
        If an argument is missing, unknown or out of range.
    """
    cls = card.model_class
    parameters = {
        k: p for k, p in inspect.signature(cls.__init__).parameters.items() if k != "self"
    }
    settings = dict(settings)
    make: Any = cls
    if "prior" in settings and issubclass(cls, AROUND_A_PRIOR):
        make = functools.partial(cls.of, load_pretrained(settings.pop("prior")))
        parameters = {k: p for k, p in parameters.items() if p.default is not p.empty}
    for name in settings:
        if name not in parameters:
            raise DataError(
                f"{card.name} has no argument {name!r}{did_you_mean(name, parameters)}; "
                f"its arguments: "
                f"{', '.join(parameters) or 'none'}"
            )
    first = dataset.train[0] if isinstance(dataset.train, tuple) else dataset.train
    if "num_features" in parameters and first.ndim > 1:
        settings.setdefault("num_features", int(first.shape[1]))
    _count_states(parameters, settings, dataset.train)
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        and name not in settings
    ]
    if missing:
        hint = " ".join(f"--set {name}=VALUE" for name in missing)
        raise DataError(f"{card.name} needs {', '.join(missing)}: give {hint}")
    with _clear_errors(card.name):
        return make(**settings)


def make_solver(card: Card, name: str | None, options: Mapping[str, Any]) -> Solver:
    """Build a solver; options by their names of earlier versions go on with a warning.

    Raises
    ------
    DataError
        If there is no such solver or option.
    """
    own, defaults = card.model_class.default_solver
    known = {solver.lower(): solver for solver in SOLVERS}
    if name is not None and name.lower() not in known:
        raise DataError(
            f"solver: got {name!r}{did_you_mean(name, known)}, expected one of: "
            f"{', '.join(sorted(known))}"
        )
    chosen = own if name is None else known[name.lower()]
    cls = getattr(solvers, chosen)
    fields = [f.name for f in dataclasses.fields(cls)]
    merged = dict(defaults) if chosen == own else {}
    for key, value in options.items():
        if key in cls.old_names:
            merged.pop(cls.old_names[key], None)
        elif key not in fields:
            raise DataError(
                f"{chosen} has no option {key!r}{did_you_mean(key, fields)}; its options: "
                f"{', '.join(fields)}"
            )
        merged[key] = value
    with _clear_errors(chosen):
        return cls(**merged)


def held_out(model: Model, dataset: Dataset) -> tuple[float, str] | None:
    """Held-out score: mean log density of unseen rows, nats a row, and their split.

    None where the data set has neither ``test`` nor ``valid``.
    """
    for split in ("test", "valid"):
        rows = getattr(dataset, split)
        if rows is not None:
            parts = rows if isinstance(rows, tuple) else (rows,)
            with torch.no_grad():
                return float(model.log_prob(*parts).double().mean()), split
    return None


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; values are Python literals, anything else is a string.

    Raises
    ------
    DataError
        If a pair has no equals sign.

    Examples
    --------
    >>> parse_settings(["num_components=3", "covariance=tied", "missing=true"])
    {'num_components': 3, 'covariance': 'tied', 'missing': True}
    """
    settings: dict[str, Any] = {}
    words = {"true": True, "false": False, "none": None}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise DataError(f"setting: got {pair!r}, expected KEY=VALUE")
        try:
            value = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        settings[key.strip().replace("-", "_")] = value
    return settings


@contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    """Raise errors of a user's input as ``DataError``."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, TypeError, OSError) as error:
        message = str(error)
        raise DataError(message if what in message else f"{what}: {message}") from error


def _columns(table: Tensor | DataFrame, index: int | list[int]) -> Tensor | DataFrame | Series:
    """Columns of a table by position; without its dimension for one."""
    return table[:, index] if isinstance(table, Tensor) else table.iloc[:, index]


def _count_states(parameters: Mapping[str, Any], settings: dict[str, Any], train: Any) -> None:
    """Set the arguments of a discrete model that a data frame shows, where they are left out.

    Classes and states are counted; columns of numbers are Gaussian in a model of several kinds.
    """
    x, y = train if isinstance(train, tuple) and len(train) == 2 else (train, None)
    if "num_classes" in parameters and y is not None and not isinstance(y, Tensor):
        settings.setdefault("num_classes", len(infer_states(str(y.name), y)))
    discrete = {"num_states", "likelihood"} & set(parameters) == {"num_states"}
    if isinstance(x, Tensor | tuple) or not discrete or "num_states" in settings:
        return
    columns = {str(name): column for name, column in x.items()}
    if "kind" in parameters:
        words = [getattr(c.dtype, "kind", "O") not in "iuf" for c in columns.values()]
        kinds = settings.setdefault("kind", ["categorical" if w else "gaussian" for w in words])
        kinds = [kinds] * len(columns) if isinstance(kinds, str) else kinds
        pairs = zip(columns.items(), kinds, strict=False)
        columns = {n: c for (n, c), kind in pairs if kind == "categorical"}
    states = {name: infer_states(name, column) for name, column in columns.items()}
    if "num_features" not in parameters:  # sequences, of the same states in each column
        settings["num_states"] = len({state for names in states.values() for state in names})
    elif states:
        settings["num_states"] = [len(names) for names in states.values()]


def _column(target: str | None, columns: list[str], width: int) -> int:
    """Index of the target's column; the last one by default."""
    if target is None:
        return width - 1
    if target in columns:
        return columns.index(target)
    if target.lstrip("-").isdigit() and -width <= int(target) < width:
        return int(target) % width
    known = ", ".join(columns) if columns else f"0 to {width - 1}"
    raise DataError(
        f"target: got {target!r}{did_you_mean(target, columns)}, expected a column: {known}"
    )


def _split(
    dataset: Dataset,
    cut: Callable[[Any], tuple[Any, ...]],
    feature_names: tuple[str, ...] | None,
) -> Dataset:
    """Cut the tables of all splits into the arguments of a model."""
    splits = {s: getattr(dataset, s) for s in ("train", "valid", "test")}
    return dataclasses.replace(
        dataset,
        card=dataclasses.replace(dataset.card, feature_names=feature_names),
        **{s: None if rows is None else cut(rows) for s, rows in splits.items()},
    )
