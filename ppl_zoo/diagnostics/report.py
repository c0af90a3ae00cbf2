"""The HTML report: one file with a table, figures and summaries, readable with no server."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

__all__ = ["Picture", "Section", "Table", "picture", "summary_table", "write_report"]

#: what the answers to a query mean, shown when the pointer rests on one
MEANING = {
    "exact": "computed in closed form, or drawn from exactly this distribution",
    "bound": "a lower bound in expectation, by importance sampling",
    "estimate": "a Monte-Carlo estimate under the fitted posterior",
    "none": "this model has no answer",
}
#: landscape figures of more pixels across take a whole line
WIDE = 850
SAFE_LINKS = ("https://", "http://")


@dataclass(frozen=True)
class Table:
    """Text in rows; columns whose index is in ``left`` are words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure as PNG, with its caption."""

    caption: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """What the report says of one fit.

    Attributes
    ----------
    anchor, title, text
        Its place in the page, its heading and a sentence or two.
    queries
        ``{"log_prob": "exact", ...}``.
    facts
        Label and value, in order.
    pictures
        Figures, see :func:`picture`.
    summary, summary_note
        The posterior summary, and a line below it.
    references
        Text and link.
    commands
        Shell commands that go on from here.
    error
        Why there is no fit; None where there is one.
    """

    anchor: str
    title: str
    text: str
    queries: Mapping[str, str]
    facts: tuple[tuple[str, str], ...] = ()
    pictures: tuple[Picture, ...] = ()
    summary: Table | None = None
    summary_note: str = ""
    references: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    error: str | None = None


def picture(figure: Any, caption: str, dpi: int = 110) -> Picture:
    """Draw a matplotlib figure to PNG and close it.

    Parameters
    ----------
    figure
        A matplotlib ``Figure``.
    caption
        A sentence; shown below it and read by screen readers.
    dpi
        Pixels an inch; the report shows them at two thirds, so that they stay sharp.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi * 1.5, bbox_inches="tight", facecolor="white")
    figure.clear()
    try:
        from matplotlib import pyplot

        pyplot.close(figure)
    except ImportError:  # pragma: no cover  a figure made without pyplot needs no closing
        pass
    data = stream.getvalue()
    # a PNG's header tells its size
    width, height = (round(int.from_bytes(data[i : i + 4], "big") / 1.5) for i in (16, 20))
    return Picture(caption, data, width, height)


def summary_table(frame: Any, limit: int = 24) -> tuple[Table, str]:
    """Format a summary (a data frame) for the report.

    Returns
    -------
    Table
        Its first ``limit`` rows.
    str
        A note on rows that were left out, or nothing.
    """
    values = frame.to_numpy()
    # effective sample sizes are counts
    digits = [0 if str(column).startswith("ess") else 3 for column in frame.columns]
    rows = [
        (str(name), *(number(v, d) for v, d in zip(row, digits, strict=True)))
        for name, row in zip(frame.index[:limit], values[:limit], strict=True)
    ]
    table = Table(("", *(str(c) for c in frame.columns)), tuple(rows))
    left_out = len(frame) - limit
    note = f"{left_out} more rows are in the netCDF file." if left_out > 0 else ""
    return table, note


def number(value: Any, digits: int = 2) -> str:
    """Format a number for people; "-" where it means nothing."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    value = float(value)
    if not math.isfinite(value):
        return "-"
    if value.is_integer() and abs(value) < 1e9 and digits > 0 and abs(value) >= 100:
        return f"{value:.0f}"
    if 0 < abs(value) < 10 ** -(digits + 1):
        return f"{value:.1e}"
    return f"{value:,.{digits}f}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def write_report(
    path: str | Path,
    *,
    title: str,
    lead: str,
    table: Table,
    sections: Sequence[Section],
    next_steps: Sequence[tuple[str, str]] = (),
    footer: str = "",
) -> Path:
    """Write the report as one file that needs nothing else.

    Parameters
    ----------
    path
        Where to.
    title, lead
        Heading, and the paragraph below it.
    table
        The overview; ``table.links`` are the anchors of its rows.
    sections
        One a fit.
    next_steps
        Command and what it does.
    footer
        A line at the end: versions, date.

    Returns
    -------
    Path
    """
    style = files("ppl_zoo.diagnostics").joinpath("report.css").read_text(encoding="utf-8")
    steps = "".join(
        f"<li><code>{_text(command)}</code><span>{_text(what)}</span></li>"
        for command, what in next_steps
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>{_text(title)}</h1>
<p class="lead">{_text(lead)}</p>
</header>
<div class="overview scroll">
{_table(table)}
</div>
{"".join(_section(section) for section in sections)}
{f'<section class="next"><h2>What to try next</h2><ul>{steps}</ul></section>' if steps else ""}
<footer>{_text(footer)}</footer>
</main>
</body>
</html>
"""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _section(section: Section) -> str:
    queries = "".join(
        f'<li><code>{_text(query)}</code><span class="answer {_text(answer)}" '
        f'title="{_text(MEANING.get(answer, ""))}">{_text(answer)}</span></li>'
        for query, answer in section.queries.items()
    )
    facts = "".join(
        f"<div><dt>{_text(label)}</dt><dd>{_text(value)}</dd></div>"
        for label, value in section.facts
    )
    parts = [
        f'<section id="{_text(section.anchor)}">',
        f"<h2>{_text(section.title)}</h2>",
        f"<p>{_text(section.text)}</p>",
        f'<ul class="queries">{queries}</ul>',
        f'<p class="error">{_text(section.error)}</p>' if section.error else "",
        f'<dl class="facts">{facts}</dl>' if facts else "",
        '<div class="pictures">' if section.pictures else "",
        *(_picture(p) for p in section.pictures),
        "</div>" if section.pictures else "",
    ]
    if section.summary is not None:
        note = f'<p class="note">{_text(section.summary_note)}</p>' if section.summary_note else ""
        parts.append(
            "<details open><summary>Posterior summary</summary>"
            f'<div class="scroll">{_table(section.summary)}</div>{note}</details>'
        )
    if section.commands:
        lines = "\n".join(_text(command) for command in section.commands)
        parts.append(f"<pre><code>{lines}</code></pre>")
    if section.references:
        items = "".join(f"<li>{_reference(*r)}</li>" for r in section.references)
        parts.append(f'<ul class="references">{items}</ul>')
    parts.append("</section>\n")
    return "\n".join(part for part in parts if part)


def _picture(made: Picture) -> str:
    data = base64.b64encode(made.png).decode("ascii")
    ratio = made.width / made.height
    wide = ' class="wide"' if ratio > 2.1 or (made.width > WIDE and ratio > 1.35) else ""
    return (
        f'<figure{wide}><img alt="{_text(made.caption)}" width="{made.width}" '
        f'height="{made.height}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(made.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="word"' if column in table.left else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", i, _text(c)) for i, c in enumerate(table.columns))
    body = []
    for place, row in enumerate(table.rows):
        texts = [_text(value) for value in row]
        if place < len(table.links):
            texts[0] = f'<a href="#{_text(table.links[place])}">{texts[0]}</a>'
        body.append("<tr>" + "".join(cell("td", i, t) for i, t in enumerate(texts)) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{chr(10).join(body)}</tbody></table>"


def _reference(text: str, link: str) -> str:
    if not link.startswith(SAFE_LINKS):
        return _text(text)
    return f'{_text(text)} <a href="{_text(link)}">{_text(link)}</a>'


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
