"""Network file: names, states, parents and tables of a Bayesian network, as its reader fills them.

What the readers of all formats share: they run no code of a file, keep its size within limits,
and refuse what is malformed with the file's name and the line.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.graph import find_cycle

__all__ = [
    "MAX_ROW_SUM_ERROR",
    "NetworkFile",
    "NetworkReader",
    "TokenStream",
    "decode",
    "read_bytes",
]

#: largest error of the sum of a row: three digits of thirds
MAX_ROW_SUM_ERROR = 1e-3
#: cells that a file may ask for by default rows, without writing them: of one table (16 MiB), and
#: of all together
MAX_UNWRITTEN_CELLS = 2**21
MAX_UNWRITTEN_CELLS_PER_FILE = 2**24
#: a file beyond this, unpacked where it is a .gz, is refused
MAX_FILE_BYTES = 2**28

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16's does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NOISY = re.compile(r"noisy[\s_-]*(or|max|and|min|adder)", re.I)


@dataclass
class NetworkFile:
    """Contents of a network file, in the file's order.

    Attributes
    ----------
    name
        Name of the network.
    states, parents
        By node.
    tables
        ``(states of its parents..., states)``, float64, whose rows sum to one.
    normalized
        Nodes whose rows did not sum to one, and were divided by their sums because the caller
        asked for it: ``{node: (number of rows, least sum, largest sum)}``.
    """

    name: str = "unknown"
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, Tensor] = field(default_factory=dict)
    normalized: dict[str, tuple[int, float, float]] = field(default_factory=dict)


def read_bytes(source: Any) -> bytes:
    """Read a file, unpacked if it is a .gz.

    Raises
    ------
    DataError
        If it cannot be read, or is larger than 256 MiB.
    """
    try:
        with Path(source).open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if raw[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
                raw = file.read(MAX_FILE_BYTES + 1)  # no more, whatever is packed
    except (OSError, TypeError, ValueError, EOFError, zlib.error) as error:
        raise DataError(f"{source}: cannot be read: {error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise DataError(f"{source}: got more than {MAX_FILE_BYTES} bytes, expected a smaller file")
    return raw


def decode(raw: bytes) -> str:
    """Decode text: by its byte-order mark, as UTF-8, or as Latin-1, which takes everything."""
    encodings = [e for mark, e in BYTE_ORDER_MARKS.items() if raw.startswith(mark)]
    for encoding in (*encodings, "utf-8", "latin-1"):
        with contextlib.suppress(UnicodeDecodeError):
            text = raw.decode(encoding)
            break
    # carriage returns alone end the lines of old files
    return text if "\n" in text else text.replace("\r", "\n")


class NetworkReader:
    """Reader of a network file: what it declares is checked here, in all formats alike.

    Parameters
    ----------
    file
        Name of the file, for errors.
    normalize
        Whether rows that do not sum to one are divided by their sum; refused otherwise. An
        error of the sum of up to a thousandth is rounding, and divided in any case.
    length
        Characters of the file: an upper bound of twice the cells that are written in it.
    """

    def __init__(self, file: str, normalize: bool = False, length: int = 0) -> None:
        self.file, self.normalize, self.length = file, normalize, length
        self.net = NetworkFile()
        self.lines: dict[str, int] = {}  # of the nodes' tables
        self.cells = 0

    @property
    def line(self) -> int:
        """Line that is being read."""
        return 1

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        """Refuse the file, at a line or at the one that is being read."""
        raise DataError(f"{self.file}:{self.line if line is None else line}: {message}")

    def fail_noisy(self, node: str, words: str, line: int | None = None) -> None:
        """Refuse a noisy-or, or another model in place of a table, by its name."""
        found = NOISY.search(words)
        if found:
            self.fail(
                f"{node!r}: got a {found[0]!r} distribution, expected a table of probabilities; "
                "write the table out, one row for each configuration of the parents",
                line,
            )

    def declare(self, node: str, states: Sequence[str], line: int) -> None:
        """Declare a variable and its states."""
        if node in self.net.states:
            self.fail(f"variable {node!r} is declared twice", line)
        if not states:
            self.fail(f"{node!r}: got no states, expected one or more", line)
        if len(set(states)) < len(states):
            self.fail(f"{node!r}: a state stands twice in {list(states)[:20]}", line)
        self.net.states[node] = tuple(states)

    def family(self, node: str, parents: Sequence[str], line: int) -> list[int]:
        """Check the names of a table; returns its shape, parents first."""
        for name in (node, *parents):
            if name not in self.net.states:
                self.fail(f"got {name!r}, expected a variable that is declared", line)
        if node in self.lines:
            self.fail(f"probability of {node!r} is given twice", line)
        if len({node, *parents}) <= len(parents):
            self.fail(f"parents of {node!r}: got {parents}, expected others, each once", line)
        sizes = [len(self.net.states[n]) for n in (*parents, node)]
        cells = math.prod(sizes)
        self.cells += cells
        most = max(MAX_UNWRITTEN_CELLS, self.length // 2)
        if cells > most:
            self.fail(
                f"{node!r}: its table has {cells:,} cells ({len(parents)} parents), more than the "
                f"file has room for, expected at most {most:,}",
                line,
            )
        if self.cells > max(MAX_UNWRITTEN_CELLS_PER_FILE, self.length // 2):
            self.fail(f"got {self.cells:,} cells in all tables, more than the file has room for")
        return sizes

    def probability(self, word: str, line: int | None = None) -> float:
        """Read a probability; any number of 0 or more where rows are normalised."""
        try:
            value = float(word)
        except ValueError:
            self.fail(f"got {word!r}, expected a number", line)
        most = math.inf if self.normalize else 1.0 + MAX_ROW_SUM_ERROR
        if not 0.0 <= value <= most or value == math.inf:
            hint = " (or normalize=True, for counts)" if 1.0 < value < math.inf else ""
            self.fail(f"got {word}, expected a probability{hint}", line)
        return value

    def set_table(
        self,
        node: str,
        parents: Sequence[str],
        table: np.ndarray,
        line: int,
        lines: dict[tuple[int, ...], int] | None = None,
    ) -> None:
        """Set a table ``(states of its parents..., states)``; ``lines`` are those of its rows."""
        total = table.sum(-1)
        wrong = ~(np.abs(total - 1.0) <= MAX_ROW_SUM_ERROR * (1 + 1e-9))
        hopeless = wrong & ~((total > 0.0) & np.isfinite(total))
        if wrong.any() and (hopeless.any() or not self.normalize):
            first = np.argwhere(hopeless if hopeless.any() else wrong)[0]
            at = tuple(int(i) for i in first)
            given = zip(parents, at, strict=True)
            row = ", ".join(f"{p}={self.net.states[p][i]}" for p, i in given)
            row = f" ({row})" if row else ""
            hint = "" if hopeless.any() else "; normalize=True divides such rows by their sums"
            self.fail(
                f"{node!r}: got a row that sums to {float(total[at]):.6g}, expected 1{row}{hint}",
                (lines or {}).get(at, line),
            )
        if wrong.any():
            sums = total[wrong]
            self.net.normalized[node] = (sums.size, float(sums.min()), float(sums.max()))
        self.lines[node] = line
        self.net.parents[node] = tuple(parents)
        self.net.tables[node] = torch.from_numpy(table / total[..., None])

    def finish(self) -> NetworkFile:
        """Refuse missing tables and cycles; put the nodes in order of declaration."""
        if not self.net.states:
            self.fail("got no variable, expected one or more")
        for node in self.net.states:
            if node not in self.lines:
                self.fail(f"probability of {node!r} is missing")
        self.net.parents = {node: self.net.parents[node] for node in self.net.states}
        if cycle := find_cycle(self.net.parents):
            self.fail(f"got the cycle {' -> '.join(cycle)}, expected none", self.lines[cycle[0]])
        return self.net


class Token(NamedTuple):
    """Token: a name or a punctuation mark, and its line."""

    text: str
    line: int
    mark: bool  # punctuation; a quoted "{" is none


class TokenStream(NetworkReader):
    """Tokeniser: the tokens of a file, taken from the left.

    Parameters
    ----------
    text
        The file.
    file, normalize
        As for `NetworkReader`.
    """

    #: one token, in groups ``space`` (comments too), ``quoted``, ``mark`` and ``word``
    pattern: ClassVar[re.Pattern[str]]

    def __init__(self, text: str, file: str, normalize: bool = False) -> None:
        super().__init__(file, normalize, len(text))
        self.at = 0
        self.tokens: list[Token] = []
        self.tokens = list(self._split(text.removeprefix("\ufeff")))

    @property
    def line(self) -> int:
        """Line of the next token."""
        return self.tokens[self.at].line if self.tokens else 1

    def _split(self, text: str) -> Iterator[Token]:
        line, at = 1, 0
        while at < len(text):
            match = self.pattern.match(text, at)
            if match is None:
                self.fail(f"got {text[at : at + 20]!r}, expected a name or a mark", line)
            if match["space"] is None:
                quoted = match["quoted"]
                word = re.sub(r"\\(.)", r"\1", quoted, flags=re.S) if quoted is not None else None
                yield Token(
                    match["mark"] or (match["word"] if word is None else word),
                    line,
                    match["mark"] is not None,
                )
            line += text.count("\n", at, match.end())
            at = match.end()
        yield Token("end of file", line, True)

    def sees(self, mark: str) -> bool:
        """Whether the next token is this mark."""
        token = self.tokens[self.at]
        return token.mark and token.text == mark

    def take(self, *marks: str) -> str:
        """Take one of the given marks; a name (several words too) where none are given."""
        token = self.tokens[self.at]
        if not marks:
            return " ".join(self.words())
        if not token.mark or token.text not in marks:
            wanted = " or ".join(repr(m) for m in marks)
            self.fail(f"got {token.text!r}, expected {wanted}")
        self.at += 1
        return token.text

    def words(self) -> list[str]:
        """Take words up to the next mark, one or more."""
        first = self.at
        while not self.tokens[self.at].mark:
            self.at += 1
        if self.at == first:
            self.fail(f"got {self.tokens[self.at].text!r}, expected a name")
        return [token.text for token in self.tokens[first : self.at]]

    def skip_to(self, mark: str) -> str:
        """Skip all tokens up to a mark, and the mark itself; returns the words skipped."""
        words = []
        while not self.sees(mark):
            if self.sees("end of file"):
                self.fail(f"got the end of the file, expected {mark!r}")
            words.append(self.tokens[self.at].text)
            self.at += 1
        self.at += 1
        return " ".join(words)
