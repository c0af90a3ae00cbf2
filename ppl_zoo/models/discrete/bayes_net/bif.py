"""Bayesian interchange format (BIF 0.15): reader and writer.

Names may be anything: names with punctuation are written in quotes, and read without them too, as
published files have ``Asy/Patch`` or ``>=7.5``. Rows are normalised, since files round them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.graph import find_cycle

__all__ = ["BIF", "MAX_ROW_SUM_ERROR", "read_bif", "write_bif"]

#: largest error of the sum of a row: three digits of thirds
MAX_ROW_SUM_ERROR = 1e-3
#: a table beyond this is a typing error
MAX_CELLS_PER_TABLE = 2**28

#: one token; names without quotes are words, which have no mark and begin no comment
TOKEN = re.compile(
    r'(?P<space>\s+|//[^\n]*|/\*.*?\*/)|"(?P<quoted>(?:[^"\\]|\\.)*)"'
    r"|(?P<mark>[{}()\[\]|,;])|(?P<word>(?:(?!//|/\*)[^\s{}()\[\]|,;\"])+)",
    re.S,
)
#: names that need no quotes: a word of `TOKEN`, without a backslash
PLAIN_NAME = re.compile(r"(?:(?!//|/\*)[^\s{}()\[\]|,;\"\\])+")


@dataclass
class BIF:
    """Contents of a BIF file: names, states, parents and tables in the file's order."""

    name: str = "unknown"
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, Tensor] = field(default_factory=dict)


def read_bif(source: Any) -> BIF:
    """Read a network from a BIF file.

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
        return _Parser(source, "<text>").read()
    try:
        raw = Path(source).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{source}: cannot be read: {error}") from error
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return _Parser(text, str(source)).read()


def write_bif(net: BIF) -> str:
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


@dataclass(frozen=True)
class _Token:
    """Token: a name or a punctuation mark, and its line."""

    text: str
    line: int
    mark: bool  # punctuation; a quoted "{" is none


class _TokenStream:
    """Tokeniser: the tokens of a file, taken from the left.

    Parameters
    ----------
    text
        The file.
    file
        Its name, for errors.
    """

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.tokens = list(self._split(text))
        self.at = 0

    def _split(self, text: str) -> Iterator[_Token]:
        line, at = 1, 0
        while at < len(text):
            match = TOKEN.match(text, at)
            if match is None:
                self.fail(f"got {text[at : at + 20]!r}, expected a name or a mark", line)
            if match["space"] is None:
                quoted = match["quoted"]
                word = re.sub(r"\\(.)", r"\1", quoted, flags=re.S) if quoted is not None else None
                yield _Token(
                    match["mark"] or (match["word"] if word is None else word),
                    line,
                    match["mark"] is not None,
                )
            line += text.count("\n", at, match.end())
            at = match.end()
        yield _Token("end of file", line, True)

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        """Refuse the file, at a line or where the next token stands."""
        line = self.tokens[self.at].line if line is None else line
        raise DataError(f"{self.file}:{line}: {message}")

    def sees(self, mark: str) -> bool:
        """Whether the next token is this mark."""
        token = self.tokens[self.at]
        return token.mark and token.text == mark

    def take(self, *marks: str) -> str:
        """Take one of the given marks; a name (several words too) where none are given."""
        token = self.tokens[self.at]
        if marks:
            if not token.mark or token.text not in marks:
                wanted = " or ".join(repr(m) for m in marks)
                self.fail(f"got {token.text!r}, expected {wanted}")
            self.at += 1
            return token.text
        words = []
        while not self.tokens[self.at].mark:
            words.append(self.tokens[self.at].text)
            self.at += 1
        if not words:
            self.fail(f"got {token.text!r}, expected a name")
        return " ".join(words)

    def names(self, end: str) -> list[str]:
        """Take names with commas between them, up to a mark."""
        names = [self.take()]
        while self.take(",", end) == ",":
            names.append(self.take())
        return names


class _Parser(_TokenStream):
    """Recursive-descent parser of BIF: blocks of variables and of probabilities."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text, file)
        self.net = BIF()
        self.lines: dict[str, int] = {}  # of the nodes' probabilities

    def read(self) -> BIF:
        """Read the whole file."""
        while not self.sees("end of file"):
            words = self.take().split(" ", 1)
            if words[0] == "network":
                self.net.name = words[1] if len(words) > 1 else "unknown"
                self.take("{")
                self._skip_properties()
            elif words[0] == "variable" and len(words) > 1:
                self._variable(words[1])
            elif words == ["probability"]:
                self._probability()
            else:
                self.at -= 1
                self.fail(f"got {words[0]!r}, expected network, variable or probability")
        self._finish()
        return self.net

    def _skip_properties(self) -> None:
        """Skip properties up to the end of a block: they are no part of the distribution."""
        while not self.sees("}"):
            if not self.take().startswith("property"):
                self.fail("expected a property or '}'")
            while not self.sees(";"):
                if self.sees("end of file"):
                    self.fail("got the end of the file, expected ';'")
                self.at += 1
            self.take(";")
        self.take("}")

    def _variable(self, node: str) -> None:
        """Block ``{ type discrete [ number ] { states }; }``."""
        line = self.tokens[self.at].line
        if node in self.net.states:
            self.fail(f"variable {node!r} is declared twice", line)
        self.take("{")
        words = self.take()
        if words != "type discrete":
            self.fail(f"got {words!r}, expected 'type discrete'", line)
        self.take("[")
        number = self.take()
        self.take("]")
        self.take("{")
        states = self.names("}")
        self.take(";")
        if number != str(len(states)):
            self.fail(f"{node!r}: got {len(states)} states, expected [ {number} ]", line)
        if len(set(states)) < len(states):
            self.fail(f"{node!r}: a state stands twice in {states}", line)
        self.net.states[node] = tuple(states)
        self._skip_properties()

    def _probability(self) -> None:
        """Block ``( node | parents ) { rows }``."""
        line = self.tokens[self.at].line
        self.take("(")
        node = self.take()
        parents = self.names(")") if self.take("|", ")") == "|" else []
        for name in (node, *parents):
            if name not in self.net.states:
                self.fail(f"got {name!r}, expected a variable that was declared before", line)
        if node in self.lines:
            self.fail(f"probability of {node!r} is given twice", line)
        if len({node, *parents}) <= len(parents):
            self.fail(f"parents of {node!r}: got {parents}, expected others, each once", line)
        sizes = [len(self.net.states[n]) for n in (*parents, node)]
        if math.prod(sizes) > MAX_CELLS_PER_TABLE:
            self.fail(f"{node!r}: its table has {math.prod(sizes)} cells, too many", line)
        self.lines[node] = line
        self.net.parents[node] = tuple(parents)
        self.take("{")
        self.net.tables[node] = self._rows(node, parents, sizes)

    def _rows(self, node: str, parents: Sequence[str], sizes: list[int]) -> Tensor:
        """Rows of a table up to the end of a block, normalised, of shape ``sizes``."""
        states = [{s: i for i, s in enumerate(self.net.states[p])} for p in parents]
        rows: dict[tuple[int, ...], tuple[list[float], int]] = {}
        default = None
        while not self.sees("}"):
            line = self.tokens[self.at].line
            if self.sees("("):
                self.at += 1
                names = self.names(")")
                if len(names) != len(parents):
                    self.fail(f"got {len(names)} states, expected one each of {parents}", line)
                for name, known, parent in zip(names, states, parents, strict=True):
                    if name not in known:
                        self.fail(
                            f"{parent!r}: got state {name!r}, expected one of {list(known)}", line
                        )
                key = tuple(known[n] for n, known in zip(names, states, strict=True))
                if key in rows:
                    self.fail(f"{node!r}: the row of {names} is given twice", line)
                rows[key] = self._values([], sizes[-1], line), line
                continue
            head, *first = self.take().split(" ")
            if head == "default":
                default = self._values(first, sizes[-1], line), line
            elif head == "table":
                values = self._values(first, math.prod(sizes), line)
                # the first variable, the node itself, changes slowest
                width = math.prod(sizes[:-1])
                for index, key in enumerate(itertools.product(*map(range, sizes[:-1]))):
                    rows[key] = values[index::width], line
            elif head == "property":
                while not self.sees(";") and not self.sees("end of file"):
                    self.at += 1
                self.take(";")
            else:
                self.fail(f"got {head!r}, expected 'table', 'default' or a row's states", line)
        end = self.tokens[self.at].line
        self.take("}")
        if default is None and len(rows) < math.prod(sizes[:-1]):
            self.fail(f"{node!r}: got {len(rows)} rows, expected {math.prod(sizes[:-1])}", end)
        flat = []
        for key in itertools.product(*map(range, sizes[:-1])):
            values, line = rows.get(key, default)
            total = math.fsum(values)
            if abs(total - 1.0) > MAX_ROW_SUM_ERROR * (1 + 1e-9):
                self.fail(f"{node!r}: got a row that sums to {total:.6g}, expected 1", line)
            flat.append([value / total for value in values])
        return torch.tensor(flat, dtype=torch.float64).reshape(sizes)

    def _values(self, words: list[str], count: int, line: int) -> list[float]:
        """Take numbers up to the semicolon; commas between them are optional."""
        words = list(words)
        while not self.sees(";"):
            if self.sees(","):
                self.at += 1
            else:
                words += self.take().split(" ")
        self.take(";")
        values: list[float] = []
        for word in words:
            try:
                values.append(float(word))
            except ValueError:
                self.fail(f"got {word!r}, expected a number", line)
            if not 0.0 <= values[-1] <= 1.0 + MAX_ROW_SUM_ERROR:
                self.fail(f"got {word}, expected a probability", line)
        if len(values) != count:
            self.fail(f"got {len(values)} numbers, expected {count}", line)
        return values

    def _finish(self) -> None:
        """Refuse missing probabilities and cycles; put the nodes in order of declaration."""
        if not self.net.states:
            self.fail("got no variable, expected one or more")
        for node in self.net.states:
            if node not in self.lines:
                self.fail(f"probability of {node!r} is missing")
        self.net.parents = {node: self.net.parents[node] for node in self.net.states}
        if cycle := find_cycle(self.net.parents):
            self.fail(f"got the cycle {' -> '.join(cycle)}, expected none", self.lines[cycle[0]])
