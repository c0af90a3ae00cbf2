"""Pages of the documentation: their blocks of code, run in order, held against what they print.

The rules of a page, in markdown:

- a block ``python`` is run; all blocks of a page share one namespace, in the order of the page;
- a block ``text`` directly below (only empty lines between) is what it prints. Words are compared
  one by one, numbers to two significant digits; seconds and numbers of steps are not compared,
  and a line ``...`` stands for any lines;
- the comment ``<!-- slow -->`` directly above a block leaves it out of the quick tests: it and
  all others of the page are run by ``make slow``. No quick block may rest on a slow one;
- a block ``bash`` is not run; its commands ``ppl-zoo`` have to be ones that there are.

``python tests/docs/pages.py docs/start.md`` runs a page and writes what its blocks print.
"""

import contextlib
import io
import linecache
import re
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])

_FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```[ ]*$", re.M | re.S)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?%?")
#: what differs from machine to machine: times, and how many steps a fit took
_UNSTABLE = re.compile(
    r"\b\d[\d.,]*\s?(?:s|ms|us|min|seconds|minutes)\b|(?<=after )\d[\d,]*(?= steps)"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    ``line`` is that of its first line of code; ``prints`` is None where nothing is promised;
    ``end`` is the position in the page behind it, and ``shown`` the span of what it prints.
    """

    language: str
    code: str
    line: int
    prints: str | None
    slow: bool
    end: int
    shown: tuple[int, int] | None


def blocks_of(page: str) -> list[Block]:
    """Find the blocks of a page."""
    found = list(_FENCE.finditer(page))
    out = []
    for i, match in enumerate(found):
        after = found[i + 1] if i + 1 < len(found) else None
        told = after is not None and after.group(1) == "text"
        told = told and not page[match.end() : after.start()].strip()
        before = page[: match.start()].rstrip()
        out.append(
            Block(
                language=match.group(1),
                code=match.group(2),
                line=page.count("\n", 0, match.start(2)) + 1,
                prints=after.group(2) if told else None,
                slow=before.endswith("<!-- slow -->"),
                end=match.end(),
                shown=after.span() if told else None,
            )
        )
    return out


class Page:
    """A page that is run block by block, in a module of its own.

    Parameters
    ----------
    path
        Its file, which errors name with the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blocks = [b for b in blocks_of(path.read_text()) if b.language == "python"]
        self.module = types.ModuleType(f"page_{path.stem}")

    @contextlib.contextmanager
    def imported(self):
        """Let classes of the page be found by name, as those of a user's script are."""
        sys.modules[self.module.__name__] = self.module
        try:
            yield
        finally:
            del sys.modules[self.module.__name__]

    def run(self, block: Block) -> str:
        """Run a block; return what it prints."""
        name = f"{self.path}:{block.line}"  # a name of its own, so that its source can be found
        lines = ("\n" * (block.line - 1) + block.code).splitlines(keepends=True)
        linecache.cache[name] = (len(block.code), None, lines, name)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("".join(lines), name, "exec"), self.module.__dict__)
        return out.getvalue()


def differs(promised: str, printed: str) -> str:
    """Say in which line a block prints something else than its page says; empty if in none."""
    want, got = (_UNSTABLE.sub("<time>", t).rstrip().splitlines() for t in (promised, printed))
    return _differs(want, got)


def _differs(want: list[str], got: list[str]) -> str:
    for i, line in enumerate(want):
        if line.strip() == "...":
            rest = want[i + 1 :]
            ends = [got[k:] for k in range(i, len(got) + 1)]
            return "" if any(not _differs(rest, end) for end in ends) else f"after '...': {rest}"
        if i == len(got):
            return f"nothing is printed for {line!r}"
        if not _alike(line, got[i]):
            return f"the page has {line!r}, printed is {got[i]!r}"
    return f"the page lacks {got[len(want)]!r}" if len(got) > len(want) else ""


def _alike(want: str, got: str) -> bool:
    """Whether two lines have the same words, and the same numbers to two significant digits."""
    words = [_NUMBER.sub("#", text).split() for text in (want, got)]
    numbers = [_NUMBER.findall(text) for text in (want, got)]
    if words[0] != words[1] or len(numbers[0]) != len(numbers[1]):
        return False
    return all(_same_number(a, b) for a, b in zip(*numbers, strict=True))


def _same_number(want: str, got: str) -> bool:
    """Whether numbers agree to two digits, or to a unit of the last decimal or per cent."""
    if want.endswith("%") != got.endswith("%"):
        return False
    a, b = (float(text.rstrip("%")) for text in (want, got))
    decimals = re.search(r"\.(\d+)", want)
    places = len(decimals.group(1)) if decimals else 0
    shows_unit = "e" not in want and (decimals is not None or want.endswith("%"))
    unit = 1.01 * 10.0**-places if shows_unit else 0.0
    return abs(a - b) <= max(0.05 * max(abs(a), abs(b)), unit)


def _is_kept(before: str, now: str) -> bool:
    """Whether what is shown stays: it is the same, to as many digits."""
    if "\n...\n" in f"\n{before}\n":
        return not differs(before, now)
    digits = [[len(d) for d in re.findall(r"\.(\d+)", text)] for text in (before, now)]
    return not differs(before, now) and digits[0] == digits[1]


def write(path: Path) -> None:
    """Run a page and write into it what its blocks print."""
    text, page = path.read_text(), Page(path)
    out, position = [], 0
    with page.imported():
        for block in page.blocks:
            printed = page.run(block).rstrip()
            out.append(text[position : block.end])
            position = block.end if block.shown is None else block.shown[1]
            if printed:
                shown = printed
                if block.prints is not None and _is_kept(block.prints.rstrip(), printed):
                    shown = block.prints.rstrip()
                out.append(f"\n\n```text\n{shown}\n```")
    path.write_text("".join(out) + text[position:])


if __name__ == "__main__":
    import os

    import matplotlib

    matplotlib.use("Agg")
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for path in pages:
            write(path)
