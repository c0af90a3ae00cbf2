"""The words and marks of a BIF file, one after the other, and where each stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from ppl_zoo.errors import DataError

__all__ = ["Token", "Tokens"]

TOKEN = re.compile(
    r'(?P<space>\s+|//[^\n]*|/\*.*?\*/)|"(?P<quoted>(?:[^"\\]|\\.)*)"'
    r"|(?P<mark>[{}()\[\]|,;])|(?P<word>(?:(?!//|/\*)[^\s{}()\[\]|,;\"])+)",
    re.S,
)


@dataclass(frozen=True)
class Token:
    """A name or a mark, and its line."""

    text: str
    line: int
    mark: bool  # punctuation; a quoted "{" is none


class Tokens:
    """The tokens of a file, taken from the left.

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

    def _split(self, text: str) -> Iterator[Token]:
        line, at = 1, 0
        while at < len(text):
            match = TOKEN.match(text, at)
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
