"""Bayesian interchange format (BIF 0.15, and JavaBayes' own form of it): reader and writer.

Names may be anything: names with punctuation are written in quotes, and read without them too, as
published files have ``Asy/Patch`` or ``>=7.5``. Rows are normalised, since files round them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ppl_zoo.models.discrete.bayes_net.network_file import (
    MAX_ROW_SUM_ERROR,
    NetworkFile,
    TokenStream,
    decode,
    read_bytes,
)

__all__ = ["read_bif", "write_bif"]

#: names that need no quotes: a word of `BIFReader`, without a backslash
PLAIN_NAME = re.compile(r"(?!#)(?:(?!//|/\*)[^\s{}()\[\]|,;\"\\])+")


def read_bif(source: Any, *, normalize: bool = False) -> NetworkFile:
    """Read a network from a BIF file.

    Parameters
    ----------
    source
        Path of a file (a .gz too), or the text itself (something with a brace or line break).
    normalize
        Whether rows that do not sum to one are divided by their sum.

    Raises
    ------
    DataError
        If the file cannot be read or is malformed; the message begins with ``file:line:``.
    """
    if isinstance(source, str) and re.search(r"[{\n]", source):
        return BIFReader(source, "<text>", normalize).read()
    return BIFReader(decode(read_bytes(source)), str(source), normalize).read()


def write_bif(net: NetworkFile) -> str:
    """Write a network as BIF text; numbers keep all their digits."""
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
    """Put a name in quotes where it needs them."""
    if PLAIN_NAME.fullmatch(name):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _numbers(row: Tensor) -> str:
    """Numbers with commas between them."""
    return ", ".join(repr(value) for value in row.tolist())


class BIFReader(TokenStream):
    """Recursive-descent parser of BIF: blocks of variables and of probabilities, in any order.

    JavaBayes separates names by blanks and writes no bar before the parents; the number of names
    that is expected tells its form from names of several words.
    """

    # names without quotes are words, which have no mark and begin no comment; a # begins one
    # where a statement may begin, and is part of a name elsewhere
    pattern = re.compile(
        r"(?P<space>(?:(?<=[\n;}])|\A)[ \t]*#[^\n]*|\s*\n|\s+|//[^\n]*|/\*.*?\*/)"
        r'|"(?P<quoted>(?:[^"\\]|\\.)*)"'
        r"|(?P<mark>[{}()\[\]|,;])|(?P<word>(?:(?!//|/\*)[^\s{}()\[\]|,;\"])+)",
        re.S,
    )

    def read(self) -> NetworkFile:
        """Read the whole file."""
        tables = []  # they may come before the variables are declared
        while not self.sees("end of file"):
            head, *names = self.words()
            if head == "network":
                self.net.name = " ".join(names) or "unknown"
                self.take("{")
                self._skip_properties()
            elif head == "variable" and names:
                self._variable(" ".join(names))
            elif head == "probability" and not names:
                tables.append(self.at)
                self.skip_to("{")
                self.skip_to("}")
            else:
                self.at -= 1 + len(names)
                self.fail(f"got {head!r}, expected network, variable or probability")
        end = self.at
        for self.at in tables:
            self._probability()
        self.at = end
        return self.finish()

    def _skip_properties(self) -> None:
        """Skip properties up to the end of a block: they are no part of the distribution."""
        while not self.sees("}"):
            if self.words()[0] != "property":
                self.fail("expected a property or '}'")
            self.skip_to(";")
        self.take("}")

    def _variable(self, node: str) -> None:
        """Block ``{ type discrete [ number ] { states }; }``, with properties around."""
        line = self.line
        if node in self.net.states:
            self.fail(f"variable {node!r} is declared twice", line)
        self.take("{")
        states: list[str] | None = None
        while not self.sees("}"):
            words = self.words()
            if words[0] == "property":
                self.skip_to(";")
                continue
            self.fail_noisy(node, " ".join(words), line)
            if words != ["type", "discrete"] or states is not None:
                self.fail(f"got {' '.join(words)!r}, expected one 'type discrete'", line)
            states = self._states(node, line)
        self.take("}")
        if states is None:
            self.fail(f"{node!r}: got no type, expected 'type discrete'", line)
        self.declare(node, states, line)

    def _states(self, node: str, line: int) -> list[str]:
        """Take ``[ number ] { states };``."""
        number = None
        if self.take("[", "{") == "[":
            number = self.take()
            self.take("]")
            self.take("{")
        groups = self._groups("}")
        if self.sees(";"):
            self.take(";")
        if number is None:
            number = str(len(groups) if len(groups) > 1 else len(groups[0]))
        states = _names(groups, number)
        if states is None:
            got = f"got {len(groups)} states, expected [ {number} ]"
            self.fail(f"{node!r}: {got}", line)
        return states

    def _groups(self, end: str) -> list[list[str]]:
        """Take words with commas between them, up to a mark."""
        groups = [self.words()]
        while self.take(",", end) == ",":
            groups.append(self.words())
        return groups

    def _probability(self) -> None:
        """Block ``( node | parents ) { rows }``."""
        line = self.line
        self.take("(")
        names = self._variables(self.words(), line)
        if not self.sees(")") and self.take("|", ",") == "|":
            if len(names) > 1:
                self.fail(f"got a joint table of {names}, expected that of one variable", line)
            if self.sees(")"):
                self.fail(f"got no parents of {names[0]!r} after '|', expected some", line)
        while not self.sees(")"):
            names += self._variables(self.words(), line)
            if not self.sees(")"):
                self.take(",")
        self.take(")")
        node, *parents = names
        sizes = self.family(node, parents, line)
        self.take("{")
        self._rows(node, parents, sizes, line)

    def _variables(self, words: list[str], line: int) -> list[str]:
        """Variables by their names: one of several words, or several with blanks between."""
        name = " ".join(words)
        if name in self.net.states:
            return [name]
        unknown = [word for word in words if word not in self.net.states]
        if unknown:
            wanted = "expected a variable that is declared"
            self.fail(f"got {name if len(unknown) > 1 else unknown[0]!r}, {wanted}", line)
        return words

    def _rows(self, node: str, parents: list[str], sizes: list[int], head: int) -> None:
        """Rows of a table up to the end of a block."""
        states = [{s: i for i, s in enumerate(self.net.states[p])} for p in parents]
        table = np.full(sizes, np.nan)
        lines: dict[tuple[int, ...], int] = {}
        default, properties = None, ""
        while not self.sees("}"):
            line = self.line
            if self.sees("("):
                self.at += 1
                groups = self._groups(")")
                names = _names(groups, str(len(parents)))
                if names is None:
                    self.fail(f"got {len(groups)} states, expected one each of {parents}", line)
                for name, known, parent in zip(names, states, parents, strict=True):
                    if name not in known:
                        self.fail(
                            f"{parent!r}: got state {name!r}, expected one of {list(known)}", line
                        )
                key = tuple(known[n] for n, known in zip(names, states, strict=True))
                if key in lines:
                    self.fail(f"{node!r}: the row of {names} is given twice", line)
                table[key], lines[key] = self._values([], sizes[-1], line), line
                continue
            word, *first = self.words()
            if word == "default":
                default = self._values(first, sizes[-1], line)
            elif word == "table":
                values = self._values(first, math.prod(sizes), line, properties, node)
                self._check_order(node, np.reshape(values, (-1, sizes[-1])), line)
                # the first variable, the node itself, changes slowest
                table[...] = np.moveaxis(np.reshape(values, [sizes[-1], *sizes[:-1]]), 0, -1)
            elif word == "property":
                properties += f"{' '.join(first)} {self.skip_to(';')}"
            else:
                self.fail_noisy(node, " ".join([word, *first]), line)
                self.fail(f"got {word!r}, expected 'table', 'default' or a row's states", line)
        end = self.line
        self.take("}")
        absent = np.isnan(table[..., 0])
        if default is not None:
            table[absent] = default
        elif absent.any():
            self.fail_noisy(node, properties, head)
            self.fail(f"{node!r}: got {(~absent).sum()} rows, expected {absent.size}", end)
        self.set_table(node, parents, table, head, lines)

    def _check_order(self, node: str, rows: np.ndarray, line: int) -> None:
        """Refuse a table that is one only if the node's states change fastest."""
        columns = rows.reshape(rows.shape[::-1])

        def sums_to_one(table: np.ndarray, axis: int) -> bool:
            return bool((np.abs(table.sum(axis) - 1.0) <= MAX_ROW_SUM_ERROR * (1 + 1e-9)).all())

        if sums_to_one(rows, 1) and not sums_to_one(columns, 0):
            self.fail(
                f"{node!r}: got a table whose numbers sum to 1 if the states of {node!r} change "
                "fastest, as old versions of pgmpy wrote it; expected them to change slowest",
                line,
            )

    def _values(
        self, words: list[str], count: int, line: int, properties: str = "", node: str = ""
    ) -> list[float]:
        """Take numbers up to the semicolon; commas between them are optional."""
        words = list(words)
        while not self.sees(";"):
            if self.sees(","):
                self.at += 1
            else:
                words += self.words()
        self.take(";")
        values = [self.probability(word, line) for word in words]
        if len(values) != count:
            self.fail_noisy(node, properties, line)
            self.fail(f"got {len(values)} numbers, expected {count}", line)
        return values


def _names(groups: Sequence[list[str]], count: str) -> list[str] | None:
    """Names with commas between them, or with blanks if that makes them as many as expected."""
    names = [" ".join(words) for words in groups]
    if len(names) == 1 and count != "1":
        names = groups[0]
    return names if str(len(names)) == count else None
