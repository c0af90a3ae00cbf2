"""Terminal input and output: options that subcommands share, tables, JSON, progress notes."""

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
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from ppl_zoo.core.errors import RunError

if TYPE_CHECKING:
    from ppl_zoo.models.card import Recipe

__all__ = [
    "DeviceOption",
    "JSONFlag",
    "ModelName",
    "Settings",
    "digits",
    "note",
    "print_json",
    "quiet",
    "read_about",
    "table_text",
    "write_about",
]

ModelName = Annotated[str, Positional, arg(metavar="NAME", help="A model of `ppl-zoo list`.")]
DeviceOption = Annotated[str, arg(help="auto, cpu, cuda, cuda:1.")]
JSONFlag = Annotated[bool, arg(help="Print JSON for a program to read.")]
#: an option that may be repeated; see :func:`ppl_zoo.cli.recipes.parse_settings`
Settings = Annotated[tuple[str, ...], UseAppendAction, arg(metavar="KEY=VALUE")]

#: file in a run directory with what only the command knows: model by name, recipe, data set
ABOUT = "about.json"


def note(text: str) -> None:
    """Print a progress note, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table_text(
    columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Text table with aligned columns; those in ``left`` are words, the others numbers.

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
    """Print a value as JSON; returns 0, the exit code."""
    print(json.dumps(_json_value(value), indent=1))
    return 0


def _json_value(value: Any) -> Any:
    """JSON value: NaN and infinity, which JSON does not have, become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(v) for v in value]
    return value


@contextmanager
def quiet() -> Iterator[None]:
    """Silence other libraries' warnings, and draw without a display."""
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
    """Write the provenance of a run (model, recipe, data set) into its directory."""
    about = {
        "model": model,
        "recipe": recipe.name,
        "data": recipe.data,
        "data_options": dict(recipe.data_options),
    }
    temporary = run / f".{ABOUT}"
    try:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, run / ABOUT)
    except OSError as error:
        raise RunError(f"{run / ABOUT}: {error}; the run itself is intact") from error


def read_about(run: Path) -> dict[str, Any]:
    """Read the provenance of a run from its directory; empty where there is none."""
    try:
        about = json.loads((run / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
