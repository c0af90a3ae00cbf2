"""``ppl-zoo reproduce``: the published numbers of a card, obtained again."""

from __future__ import annotations

from typing import Any

from ppl_zoo.cli.recipes import run
from ppl_zoo.cli.terminal import digits, note, print_json, table_text
from ppl_zoo.core.errors import DataError
from ppl_zoo.models.catalogue import find

__all__ = ["reproduce"]


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
        shown = (digits(figure.published), digits(obtained), f"{figure.tolerance:g}", verdict)
        rows.append((figure.what, *shown))
        record = {
            k: getattr(figure, k) for k in ("what", "published", "source", "tolerance", "better")
        }
        records.append(record | {"obtained": obtained, "agrees": agrees})
    if as_json:
        print_json({"model": card.name, "figures": records})
    else:
        columns = ("number", "published", "obtained", "tolerance", "agrees")
        print(table_text(columns, rows, left=(0, 4)))
    return min(missed, 1)
