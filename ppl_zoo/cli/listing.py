"""``ppl-zoo list``, ``show`` and ``cite``: the catalogue of models and data sets."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ppl_zoo import data as datasets
from ppl_zoo.cli.recipes import load_data, make_model
from ppl_zoo.cli.terminal import (
    JSONFlag,
    ModelName,
    digits,
    note,
    print_json,
    quiet,
    table_text,
)
from ppl_zoo.core.errors import DataError
from ppl_zoo.diagnostics.graphical_model import GraphicalModel, render
from ppl_zoo.fitting.citation import cite
from ppl_zoo.fitting.run import load
from ppl_zoo.models.card import Card
from ppl_zoo.models.catalogue import ZOO, find

__all__ = [
    "CiteRequest",
    "ListRequest",
    "ShowRequest",
    "cite_run",
    "graphical_model",
    "list_models",
    "show_model",
]

QUERIES = ("log_prob", "sample", "encode")


@dataclass(frozen=True)
class ListRequest:
    """Options of ``ppl-zoo list``."""

    json: JSONFlag = False


@dataclass(frozen=True)
class ShowRequest:
    """Arguments of ``ppl-zoo show``.

    Parameters
    ----------
    picture
        File to draw the graphical model into: .svg, .png, .pdf, or .dot for Graphviz.
    guide
        Show the graphical model of the model's own guide too.
    dark
        Draw on a dark ground.
    """

    name: ModelName
    picture: Annotated[str | None, arg(metavar="FILE")] = None
    guide: bool = False
    dark: bool = False
    json: JSONFlag = False


@dataclass(frozen=True)
class CiteRequest:
    """Arguments of ``ppl-zoo cite``.

    Parameters
    ----------
    run
        A folder that `ppl-zoo fit` wrote, or a model of `ppl-zoo list`.
    """

    run: Annotated[str, Positional, arg(metavar="RUN|NAME")]


def list_models(request: ListRequest) -> int:
    """Print the models and the data sets."""
    if request.json:
        cards = [dataclasses.asdict(c) for c in datasets.available()]
        return print_json({"models": [_record(card) for card in ZOO], "data": cards})
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


def cite_run(request: CiteRequest) -> int:
    """Print the references of a run, or of a model, as BibTeX."""
    if Path(request.run).is_dir():
        print(cite(load(request.run)))
    else:
        print(cite(find(request.run).model_class))
    return 0


def show_model(request: ShowRequest) -> int:
    """Print the card of a model, and draw its graphical model."""
    card = find(request.name)
    shown = not request.json or request.picture is not None
    graph = graphical_model(card, request.guide) if shown else None
    if request.picture is not None:
        if graph is None:
            raise DataError(f"{card.name}: no recipe has embedded data, so nothing can be drawn")
        note(f"wrote {graph.save(request.picture, dark=request.dark)}")
    if request.json:
        return print_json(_record(card))
    print(f"{card.title} ({card.name})")
    print(card.summary)
    print()
    print(_generative_model(card))
    if graph is not None:
        print()
        print("Graphical model, each line a node and what its distribution depends on:")
        print("\n".join(str(graph).splitlines()[1:]))
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
        rows = [(f.what, f"{f.published:g}", digits(f.reproduced), f.source) for f in card.figures]
        print(table_text(("number", "published", "reproduced", "source"), rows, left=(0, 3)))
        print()
        print(f"Obtain them again: {', '.join(dict.fromkeys(f.command for f in card.figures))}")
    if card.failure_modes:
        print()
        print("How it fails:")
        for mode in card.failure_modes:
            print(textwrap.fill(mode, 96, initial_indent="  - ", subsequent_indent="    "))
    if card.references:
        print()
        for reference in card.references:
            print(reference)
    return 0


def graphical_model(card: Card, guide: bool = False) -> GraphicalModel | None:
    """Graphical model of the first recipe whose data are embedded; None where there is none.

    With ``guide`` that of the model's own guide too.
    """
    embedded = {data.name for data in datasets.available() if data.embedded}
    for recipe in card.recipes:
        if recipe.data in embedded:
            with quiet():
                dataset = load_data(card.model_class, recipe.data, recipe.data_options)
                model = make_model(card, dataset, recipe.model)
                both = True if guide and model.guide is not None else None
                return render(model, dataset, guide=both)
    return None


def _generative_model(card: Card) -> str:
    """Docstring of the class up to its references: generative model, shapes, arguments."""
    text = inspect.cleandoc(card.model_class.__doc__ or "")
    return text.split("\nReferences\n")[0].rstrip().replace("::\n", ":\n")


def _sizes(family: str) -> str:
    """Table of the numbers of free parameters of a family's models, the smallest first."""
    rows = [
        (c.model_class(**c.size.example).num_free_parameters, c.name, c.size.formula)
        for c in ZOO
        if c.family == family and c.size is not None
    ]
    lines = [(name, formula, f"{count:,}") for count, name, formula in sorted(rows)]
    columns = ("free parameters", "of n binary features", "n = 10")
    return table_text(columns, lines, left=(0, 1))


def _record(card: Card) -> dict[str, Any]:
    """JSON record of a card, without the functions that measure its figures."""
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
