"""HTML report of the demo: outcomes of its fits, as a table and a section each.

One file that needs no server and no other file: style sheet and figures are embedded in it.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ppl_zoo import data as datasets
from ppl_zoo.cli.inspect import Inspection
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.saving import versions
from ppl_zoo.models.card import Card, Recipe

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "COLUMNS",
    "NEXT_STEPS",
    "TEXT_COLUMNS",
    "EmbeddedFigure",
    "Outcome",
    "Section",
    "Table",
    "embed_figure",
    "number",
    "outcome_section",
    "summary_table",
    "write_demo_report",
    "write_report",
]

#: columns of the table of fits
COLUMNS = ("model", "solver", "data", "objective", "held out", "R-hat", "k-hat", "seconds")
#: those of text, which are aligned on the left
TEXT_COLUMNS = (0, 1, 2)
#: commands that a reader may try next, and what they do
NEXT_STEPS = (
    ("ppl-zoo show gaussian-mixture", "a model's card: story, arguments, recipes, sources"),
    ("ppl-zoo fit gaussian-mixture --data yours.csv --components 3", "fit it to your own data"),
    ("ppl-zoo inspect runs/gaussian-mixture", "its posterior, summarised and drawn"),
)
#: tool tips of the answers to a query
ANSWER_MEANINGS = {
    "exact": "computed in closed form, or drawn from exactly this distribution",
    "bound": "a lower bound in expectation, by importance sampling",
    "estimate": "a Monte-Carlo estimate under the fitted posterior",
    "none": "this model has no answer",
}
POINT_ESTIMATE_NOTE = (
    "The fitted parameters are points: they are in the group 'fit' of the netCDF file. These rows "
    "are the latents of single observations."
)
#: pixels across, beyond which a figure in landscape takes a whole line
MAX_PIXELS_HALF_WIDTH = 850
SAFE_LINKS = ("https://", "http://")


@dataclass
class Outcome:
    """Result of one fit of the demo; plain values, so that no fit is kept in memory."""

    card: Card
    recipe: Recipe
    name: str
    solver: str = ""
    objective: float | None = None
    stopped: str = ""
    steps: int = 0
    held_out: tuple[float, str] | None = None
    rhat: float | None = None
    khat: float | None = None
    seconds: float | None = None
    error: str | None = None
    section: Section | None = None

    def row(self) -> tuple[str, ...]:
        """Row of the table of fits."""
        held = "-" if self.held_out is None else f"{number(self.held_out[0])} ({self.held_out[1]})"
        data = self.recipe.data
        if self.error is not None:
            return (self.card.name, "failed", data, "-", "-", "-", "-", "-")
        return (
            self.card.name,
            self.solver,
            data,
            number(self.objective),
            held,
            number(self.rhat, 3),
            number(self.khat),
            number(self.seconds, 1),
        )

    def record(self) -> dict[str, Any]:
        """JSON record."""
        held = self.held_out
        return {
            "name": self.name,
            "model": self.card.name,
            "recipe": self.recipe.name,
            "data": self.recipe.data,
            "solver": self.solver or None,
            "objective": self.objective,
            "stopped": self.stopped or None,
            "steps": self.steps,
            "held_out": None if held is None else {"log_density": held[0], "split": held[1]},
            "rhat": self.rhat,
            "khat": self.khat,
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True)
class Table:
    """Table of text.

    Columns whose index is in ``left`` are words, the others numbers; ``links`` are the anchors
    that its rows link to.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmbeddedFigure:
    """Figure as PNG, with its caption and its size in pixels."""

    caption: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Section:
    """Section of the report, about one fit.

    Attributes
    ----------
    anchor, title, text
        Its place in the page, its heading and a sentence or two.
    queries
        ``{"log_prob": "exact", ...}``.
    facts
        Label and value, in order.
    figures
        See :func:`embed_figure`.
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
    figures: tuple[EmbeddedFigure, ...] = ()
    summary: Table | None = None
    summary_note: str = ""
    references: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    error: str | None = None


def outcome_section(
    outcome: Outcome,
    fit: Fit | None = None,
    figures: tuple[EmbeddedFigure, ...] = (),
    inspection: Inspection | None = None,
) -> Section:
    """Section of one fit of the demo: model, outcome, figures and posterior summary."""
    card, recipe = outcome.card, outcome.recipe
    data = next((c for c in datasets.available() if c.name == recipe.data), None)
    facts: list[tuple[str, str]] = []
    if fit is not None:
        chains = len(fit.solution.stopped)
        facts = [
            ("solver", f"{outcome.solver}, {chains} chain{'s' if chains > 1 else ''}"),
            ("objective", f"{number(outcome.objective)} nats"),
            ("ended", f"{fit.stopped} after {outcome.steps} steps"),
            ("time", f"{number(outcome.seconds, 1)} s on {fit.model.device}"),
            ("seed", str(fit.seed)),
        ]
        if outcome.held_out is not None:
            value, split = outcome.held_out
            facts.append((f"held out ({split})", f"{number(value)} nats a row"))
        facts += [
            (label, number(value, digits))
            for label, value, digits in (("R-hat", outcome.rhat, 3), ("k-hat", outcome.khat, 2))
            if value is not None
        ]
    if data is not None:
        facts.append(("data", f"{data.title} ({data.units})"))
    summary, remark = None, ""
    if inspection is not None and inspection.summary is not None and len(inspection.summary):
        summary, remark = summary_table(inspection.summary)
        if not inspection.has_global:
            remark = f"{POINT_ESTIMATE_NOTE} {remark}"
    references = [(f"{r.authors} ({r.year}). {r.title}.", r.link) for r in card.references]
    if data is not None and data.citation:
        references.append((f"Data: {data.citation}.", data.url))
    return Section(
        anchor=outcome.name,
        title=f"{card.title}: {recipe.title[0].lower()}{recipe.title[1:]}",
        text=card.summary,
        queries=card.queries,
        facts=tuple(facts),
        figures=figures,
        summary=summary,
        summary_note=remark,
        references=tuple(references),
        commands=(f"ppl-zoo fit {card.name} --recipe {recipe.name}",),
        error=outcome.error,
    )


def write_demo_report(
    out: Path, outcomes: Sequence[Outcome], seconds: float, restored: Sequence[Section] = ()
) -> Path:
    """Write ``report.html`` of a demo: the table of all fits, a section each; returns its path."""
    table = Table(
        COLUMNS,
        tuple(o.row() for o in outcomes),
        left=TEXT_COLUMNS,
        links=tuple(o.name for o in outcomes),
    )
    built = ", ".join(f"{name} {version}" for name, version in versions().items())
    return write_report(
        out / "report.html",
        title="The zoo, fitted",
        lead=f"{len(outcomes)} fits in {seconds:.0f} seconds. Objectives are in nats: the log "
        "likelihood of the data for EM, the evidence lower bound for SVI. Held out is the mean "
        "log density of a row that the fit has not seen. R-hat compares chains, k-hat (good "
        "below 0.7) the fitted posterior with the exact one.",
        table=table,
        sections=[*(o.section for o in outcomes if o.section is not None), *restored],
        next_steps=NEXT_STEPS,
        footer=f"{date.today().isoformat()}. {built}.",
    )


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
    """Write an HTML report as one file that needs no other.

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
    style = files("ppl_zoo.cli").joinpath("report.css").read_text(encoding="utf-8")
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


def embed_figure(figure: Figure, caption: str, dpi: int = 110) -> EmbeddedFigure:
    """Render a matplotlib figure as PNG, and close it.

    Parameters
    ----------
    figure
        The figure; empty afterwards.
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
    return EmbeddedFigure(caption, data, width, height)


def summary_table(frame: DataFrame, limit: int = 24) -> tuple[Table, str]:
    """Table of a posterior summary.

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


def number(value: float | str | None, digits: int = 2) -> str:
    """Format a number for people; "-" for None, NaN and infinity."""
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


def _section(section: Section) -> str:
    queries = "".join(
        f'<li><code>{_text(query)}</code><span class="answer {_text(answer)}" '
        f'title="{_text(ANSWER_MEANINGS.get(answer, ""))}">{_text(answer)}</span></li>'
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
        '<div class="pictures">' if section.figures else "",
        *(_figure(f) for f in section.figures),
        "</div>" if section.figures else "",
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


def _figure(figure: EmbeddedFigure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    ratio = figure.width / figure.height
    wide = (
        ' class="wide"'
        if ratio > 2.1 or (figure.width > MAX_PIXELS_HALF_WIDTH and ratio > 1.35)
        else ""
    )
    return (
        f'<figure{wide}><img alt="{_text(figure.caption)}" width="{figure.width}" '
        f'height="{figure.height}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        kind = ' class="word"' if column in table.left else ""
        return f"<{tag}{kind}>{text}</{tag}>"

    head = "".join(cell("th", i, _text(c)) for i, c in enumerate(table.columns))
    body = []
    for index, row in enumerate(table.rows):
        texts = [_text(value) for value in row]
        if index < len(table.links):
            texts[0] = f'<a href="#{_text(table.links[index])}">{texts[0]}</a>'
        body.append("<tr>" + "".join(cell("td", i, t) for i, t in enumerate(texts)) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{chr(10).join(body)}</tbody></table>"


def _reference(text: str, link: str) -> str:
    if not link.startswith(SAFE_LINKS):
        return _text(text)
    return f'{_text(text)} <a href="{_text(link)}">{_text(link)}</a>'


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
