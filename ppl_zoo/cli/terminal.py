"""What the command writes: tables, JSON, notes on standard error, notes in run folders."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppl_zoo.models.card import Recipe

__all__ = ["digits", "note", "print_json", "quiet", "read_about", "table_text", "write_about"]

#: beside the files of a run: what the command knows about it, and the run itself does not
ABOUT = "about.json"


def note(text: str) -> None:
    """Say something about progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table_text(
    columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Align a table; columns in ``left`` are words.

    Examples
    --------
    >>> print(table_text(("name", "n"), [("a", "1"), ("bcd", "23")]))
    name   n
    ----  --
    a      1
    bcd   23
    """
    cells = [list(map(str, columns)), *([str(v) for v in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            value.ljust(width) if i in left else value.rjust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def digits(value: float | None) -> str:
    """Four decimals, or a dash where there is no number."""
    return "-" if value is None else f"{value:.4f}"


def print_json(value: Any) -> int:
    """Print a value for a program to read; returns 0, the exit code."""
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' notices off the terminal, and draw without a screen."""
    import matplotlib

    before = matplotlib.get_backend(auto_select=False)
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.use("Agg")
        logging.disable(logging.WARNING)  # ArviZ logs what it cannot compute for one chain
        try:
            yield
        finally:
            logging.disable(level)
            if before is not None:
                matplotlib.use(before)


def write_about(run: Path, model: str, recipe: Recipe) -> None:
    """Note in a run folder which model, data and options it came from."""
    about = {
        "model": model,
        "recipe": recipe.name,
        "data": recipe.data,
        "data_options": dict(recipe.data_options),
    }
    place = run / f".{ABOUT}"
    place.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.replace(place, run / ABOUT)


def read_about(run: Path) -> dict[str, Any]:
    """Read the note of a run folder; empty where there is none."""
    try:
        about = json.loads((run / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
