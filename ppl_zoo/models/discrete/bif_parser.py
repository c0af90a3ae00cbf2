"""The grammar of BIF, by recursive descent: blocks of variables and of probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ppl_zoo.models.discrete.bif_tokens import Tokens
from ppl_zoo.models.discrete.graph import find_cycle

__all__ = ["BIF", "TOLERANCE", "Parser"]

#: rows may miss one by this much: three digits of thirds
TOLERANCE = 1e-3
#: a table beyond this is a typing error, not a table
MAX_CELLS = 2**28


@dataclass
class BIF:
    """A net as a file holds it: names, states, parents and tables in the file's order."""

    name: str = "unknown"
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, Tensor] = field(default_factory=dict)


class Parser(Tokens):
    """Reads the net of one file."""

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
        """Properties up to the end of a block: they say nothing of the distribution."""
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
        if math.prod(sizes) > MAX_CELLS:
            self.fail(f"{node!r}: its table has {math.prod(sizes)} cells, too many", line)
        self.lines[node] = line
        self.net.parents[node] = tuple(parents)
        self.take("{")
        self.net.tables[node] = self._rows(node, parents, sizes)

    def _rows(self, node: str, parents: Sequence[str], sizes: list[int]) -> Tensor:
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
            if abs(total - 1.0) > TOLERANCE * (1 + 1e-9):
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
            if not 0.0 <= values[-1] <= 1.0 + TOLERANCE:
                self.fail(f"got {word}, expected a probability", line)
        if len(values) != count:
            self.fail(f"got {len(values)} numbers, expected {count}", line)
        return values

    def _finish(self) -> None:
        if not self.net.states:
            self.fail("got no variable, expected one or more")
        for node in self.net.states:
            if node not in self.lines:
                self.fail(f"probability of {node!r} is missing")
        self.net.parents = {node: self.net.parents[node] for node in self.net.states}
        if cycle := find_cycle(self.net.parents):
            self.fail(f"got the cycle {' -> '.join(cycle)}, expected none", self.lines[cycle[0]])
