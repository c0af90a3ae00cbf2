"""``ppl-zoo list`` and ``ppl-zoo show``: the catalogue of models and data sets."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

from ppl_zoo import data as datasets
from ppl_zoo.cli.terminal import JSONFlag, ModelName, digits, print_json, table_text
from ppl_zoo.models.card import Card
from ppl_zoo.models.catalogue import ZOO, find

__all__ = ["ListRequest", "ShowRequest", "list_models", "show_model"]

QUERIES = ("log_prob", "sample", "encode")


@dataclass(frozen=True)
class ListRequest:
    """Options of ``ppl-zoo list``."""

    json: JSONFlag = False


@dataclass(frozen=True)
class ShowRequest:
    """Arguments of ``ppl-zoo show``."""

    name: ModelName
    json: JSONFlag = False


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


def show_model(request: ShowRequest) -> int:
    """Print the card of a model."""
    card = find(request.name)
    if request.json:
        return print_json(_record(card))
    print(f"{card.title} ({card.name})")
    print(card.summary)
    print()
    print(_generative_model(card))
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
