"""The Bayesian interchange format (BIF 0.15): reading and writing.

Names may be anything: what is not plain is written in quotes, and read without them too, as files
in the wild have ``Asy/Patch`` or ``>=7.5``. Rows are normalised, since files round them.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete.bif_parser import BIF, Parser

__all__ = ["BIF", "read_bif", "write_bif"]

#: names that need no quotes: a word of ``bif_tokens.TOKEN``, without a backslash
PLAIN = re.compile(r"(?:(?!//|/\*)[^\s{}()\[\]|,;\"\\])+")


def read_bif(source: Any) -> BIF:
    """Read a net.

    Parameters
    ----------
    source
        Path of a file, or the text itself (something with a brace or line break in it).

    Raises
    ------
    DataError
        If the file cannot be read or is malformed; the message begins with ``file:line:``.
    """
    if isinstance(source, str) and re.search(r"[{\n]", source):
        return Parser(source, "<text>").read()
    try:
        raw = Path(source).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{source}: cannot be read: {error}") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return Parser(text, str(source)).read()


def write_bif(net: BIF) -> str:
    """Write a net; numbers keep all their digits."""
    lines = [f"network {_quote(net.name)} {{", "}"]
    for node, states in net.states.items():
        names = ", ".join(_quote(s) for s in states)
        lines += [
            f"variable {_quote(node)} {{",
            f"  type discrete [ {len(states)} ] {{ {names} }};",
            "}",
        ]
    for node, parents in net.parents.items():
        table = net.tables[node]
        if not parents:
            lines += [f"probability ( {_quote(node)} ) {{", f"  table {_numbers(table)};", "}"]
            continue
        above = ", ".join(_quote(p) for p in parents)
        lines.append(f"probability ( {_quote(node)} | {above} ) {{")
        rows = table.reshape(-1, table.shape[-1])
        for states, row in zip(
            itertools.product(*(net.states[p] for p in parents)), rows, strict=True
        ):
            lines.append(f"  ({', '.join(_quote(s) for s in states)}) {_numbers(row)};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _quote(name: str) -> str:
    if PLAIN.fullmatch(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _numbers(row: Tensor) -> str:
    return ", ".join(repr(value) for value in row.tolist())
