"""``ppl-zoo reproduce``: reproduce the published numbers of a model card."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_zoo.cli.recipes import run
from ppl_zoo.cli.terminal import (
    DeviceOption,
    JSONFlag,
    ModelName,
    digits,
    note,
    print_json,
    table_text,
)
from ppl_zoo.core.errors import DataError
from ppl_zoo.data import Dataset
from ppl_zoo.fitting.result import Fit
from ppl_zoo.models.catalogue import find

__all__ = ["ReproduceRequest", "reproduce"]


@dataclass(frozen=True)
class ReproduceRequest:
    """Arguments of ``ppl-zoo reproduce``."""

    name: ModelName
    device: DeviceOption = "auto"
    json: JSONFlag = False


def reproduce(request: ReproduceRequest) -> int:
    """Fit the recipe behind each published number of a card; returns 1 if one is missed."""
    card = find(request.name)
    if not card.figures:
        raise DataError(f"{card.name} has no published numbers to reproduce")
    fits: dict[str, tuple[Fit, Dataset]] = {}
    rows, records, missed = [], [], 0
    for figure in card.figures:
        obtained = None
        if figure.recipe is not None and figure.measure is not None:
            if figure.recipe not in fits:
                note(f"fitting {card.name}, recipe {figure.recipe}")
                fits[figure.recipe] = run(card, card.recipe(figure.recipe), device=request.device)
            obtained = float(figure.measure(*fits[figure.recipe]))
        agrees = None if obtained is None else figure.agrees(obtained)
        missed += agrees is False
        verdict = f"run: {figure.command}" if obtained is None else figure.verdict(obtained)
        numbers = map(digits, (figure.published, figure.reproduced, obtained))
        rows.append((figure.what, *numbers, f"{figure.tolerance:g}", verdict))
        record = {
            k: getattr(figure, k)
            for k in ("what", "published", "source", "reproduced", "tolerance", "better")
        }
        records.append(record | {"obtained": obtained, "agrees": agrees, "verdict": verdict})
    if request.json:
        print_json({"model": card.name, "figures": records})
    else:
        columns = ("number", "published", "recorded", "obtained", "tolerance", "agrees")
        print(table_text(columns, rows, left=(0, 5)))
    return min(missed, 1)
