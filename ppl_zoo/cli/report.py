"""HTML report of the demo: a verdict in words, the best pictures, then a section a fit.

One file that needs no server and no other file: style sheet and figures are embedded in it.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from ppl_zoo import data as datasets
from ppl_zoo.cli.inspect import Inspection, verdicts
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
]

#: columns of the table of fits
COLUMNS = ("model", "solver", "data", "posterior", "held out", "seconds")
#: those of text, which are aligned on the left
TEXT_COLUMNS = (0, 1, 2, 3)
#: commands that a reader may try next, and what they do
NEXT_STEPS = (
    ("ppl-zoo show gaussian-mixture", "a model's card: story, arguments, recipes, sources"),
    ("ppl-zoo fit gaussian-mixture --data yours.csv --components 3", "fit it to your own data"),
    ("ppl-zoo inspect runs/gaussian-mixture", "its posterior, summarised and drawn"),
)
#: rows of a table of parameters
MAX_ROWS = 18
#: widths over heights from which a figure takes a whole line
WIDE = 2.0
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
    has_global: bool = False

    @property
    def standing(self) -> str:
        """Whether the answer is the model's posterior: yes, no, point, failed or unknown."""
        states = [state for _, state, _ in self.section.verdicts] if self.section else []
        if self.error is not None and not states:
            return "failed"
        if not states:
            return "unknown"
        return "point" if states[0] == "yes" and not self.has_global else states[0]

    def row(self) -> tuple[str, ...]:
        """Row of the table of fits."""
        held = "-" if self.held_out is None else f"{number(self.held_out[0])} ({self.held_out[1]})"
        data, standing = self.recipe.data, self.standing
        if standing == "failed":
            return (self.card.name, "failed", data, "-", "-", "-")
        return (self.card.name, self.solver, data, standing, held, number(self.seconds, 1))

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
            "posterior": self.standing,
            "rhat": self.rhat,
            "khat": self.khat,
            "seconds": self.seconds,
            "error": self.error,
        }


@dataclass(frozen=True)
class Table:
    """Table of text.

    Columns whose index is in ``left`` are words, the others numbers; ``links`` are the anchors
    that its rows link to, ``name`` is read by screen readers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)
    links: tuple[str, ...] = ()
    name: str = "Table"


@dataclass(frozen=True)
class EmbeddedFigure:
    """Figure as PNG, with its caption and its size in pixels."""

    caption: str
    png: bytes
    width: int
    height: int

    @property
    def is_wide(self) -> bool:
        """Whether it takes a whole line."""
        return self.width > WIDE * self.height


@dataclass(frozen=True)
class Section:
    """Section of the report, about one fit or one exhibit.

    Attributes
    ----------
    anchor, title, text
        Its place in the page, its heading and a sentence or two.
    figures
        What is seen at once: see :func:`embed_figure`.
    more
        Figures behind a click.
    verdicts
        Question, "yes", "no" or "open", and the answer.
    table, table_note
        Parameters or answers, and a line below.
    facts
        Label and value, in order.
    references
        Text and link.
    commands
        Shell commands, or a program.
    error
        Why there is no result; None where there is one.
    """

    anchor: str
    title: str
    text: str
    figures: tuple[EmbeddedFigure, ...] = ()
    more: tuple[EmbeddedFigure, ...] = ()
    verdicts: tuple[tuple[str, str, str], ...] = ()
    table: Table | None = None
    table_note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    references: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    error: str | None = None


def outcome_section(
    outcome: Outcome,
    fit: Fit | None = None,
    figures: tuple[EmbeddedFigure, ...] = (),
    inspection: Inspection | None = None,
) -> Section:
    """Section of one fit of the demo: what it is, its verdicts, parameters and figures."""
    card, recipe = outcome.card, outcome.recipe
    data = next((c for c in datasets.available() if c.name == recipe.data), None)
    facts: list[tuple[str, str]] = []
    if fit is not None:
        facts = [
            ("solver", f"{outcome.solver}, {_restarts(fit)}"),
            ("objective", _objective(fit)),
            ("ended", f"{fit.stopped.replace('_', ' ')} after {outcome.steps} steps"),
            ("time", f"{number(outcome.seconds, 1)} s on {fit.model.device}"),
            ("seed", str(fit.seed)),
        ]
        if outcome.held_out is not None:
            value, split = outcome.held_out
            facts.append((f"held out ({split})", f"{number(value)} nats a row"))
        if outcome.khat is not None:
            facts.append(("k-hat (good below 0.7)", number(outcome.khat)))
    if data is not None:
        facts.append(("data", f"{data.title} ({data.units})"))
    table, note = None, ""
    if inspection is not None and inspection.summary is not None:
        table, note = summary_table(inspection.summary)
    references = [(f"{r.authors} ({r.year}). {r.title}.", r.link) for r in card.references]
    if data is not None and data.citation:
        references.append((f"Data: {data.citation}.", data.url))
    return Section(
        anchor=outcome.name,
        title=f"{card.title}: {recipe.title[0].lower()}{recipe.title[1:]}",
        text=card.summary,
        figures=figures[:1],
        more=figures[1:],
        verdicts=tuple(verdicts(inspection.check)) if inspection is not None else (),
        table=table,
        table_note=note,
        facts=tuple(facts),
        references=tuple(references),
        commands=(f"ppl-zoo fit {card.name} --recipe {recipe.name}",),
        error=outcome.error,
    )


def _restarts(fit: Fit) -> str:
    """Chains of a sampler, or how many restarts of an optimiser found its optimum."""
    count = len(fit.solution.stopped)
    if fit.solution.draws is not None:
        return f"{count} chain{'s' if count > 1 else ''}"
    if count == 1:
        return "one start"
    return f"{fit.solution.num_at_best} of {count} restarts found this optimum"


def _objective(fit: Fit) -> str:
    """Objective with what it is of."""
    score = fit.solution.validation_score
    if math.isfinite(score):
        return f"{number(score)} nats a row, of the rows that stopped it"
    return f"{number(fit.objective)} nats, all rows"


def write_demo_report(
    out: Path,
    outcomes: Sequence[Outcome],
    seconds: float,
    exhibits: Sequence[Section] = (),
    size: int = 0,
) -> Path:
    """Write ``report.html`` of a demo; returns its path.

    Parameters
    ----------
    out
        The folder.
    outcomes, exhibits
        Fits of recipes, and what is shown beside them, in order.
    seconds, size
        How long it took, and the bytes that the demo has written.
    """
    table = Table(
        COLUMNS,
        tuple(o.row() for o in outcomes),
        left=TEXT_COLUMNS,
        links=tuple(o.name for o in outcomes),
        name="The fits",
    )
    built = ", ".join(f"{name} {version}" for name, version in versions().items())
    steps = "".join(
        f"<li><code>{_text(command)}</code><span>{_text(what)}</span></li>"
        for command, what in NEXT_STEPS
    )
    style = files("ppl_zoo.cli").joinpath("report.css").read_text(encoding="utf-8")
    sections = [o.section for o in outcomes if o.section is not None]
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The zoo, fitted</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>The zoo, fitted</h1>
{_verdict(outcomes, exhibits, seconds)}
</header>
<div class="exhibits">{"".join(_exhibit(section) for section in exhibits)}</div>
{"<h2>The fits</h2>" if sections else ""}
{f'<div class="overview">{_table(table)}</div>' if outcomes else ""}
<p class="note">Posterior: whether the answer is the model's; a point has none. Held out: mean log
density of a row that the fit has not seen, in nats.</p>
{"".join(_section(section) for section in sections)}
<section class="next"><h2>What to try next</h2><ul>{steps}</ul></section>
<footer>{date.today().isoformat()}. {_text(built)}. {size / 1e6:.0f} MB in
{_text(out)}: a run directory and a netCDF file for each fit.</footer>
</main>
</body>
</html>
"""
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _verdict(outcomes: Sequence[Outcome], exhibits: Sequence[Section], seconds: float) -> str:
    """Say which fits are the model's posterior, which are not, and what to do about it."""
    by: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by.setdefault(outcome.standing, []).append(outcome)

    def linked(chosen: Sequence[Outcome]) -> str:
        return ", ".join(f'<a href="#{_text(o.name)}">{_text(o.name)}</a>' for o in chosen)

    failed = [o.name for o in outcomes if o.error] + [e.anchor for e in exhibits if e.error]
    parts = [_count(len(outcomes), "fit")] if outcomes else []
    parts += [_count(len(exhibits), "exhibit")] if exhibits else []
    lead = f"{' and '.join(parts)} in {seconds:.0f} seconds. "
    lead += f"Failed: {', '.join(failed)}." if failed else "Nothing failed."
    lines = []
    if "yes" in by:
        lines.append(
            f"<b>The model's posterior:</b> {linked(by['yes'])}. Quote its means and sds."
        )
    if "point" in by:
        lines.append(
            f"<b>Points at an optimum:</b> {linked(by['point'])}. Their parameters have no "
            "posterior; that of what is latent in each row passed its check."
        )
    lines += [
        f"<b>Not the posterior:</b> {linked([o])}. {_text(o.section.verdicts[0][2])}"
        for o in by.get("no", ())
    ]
    for index, what in (
        (1, "<b>The model does not describe the data</b> (and no solver mends that):"),
        (2, "<b>Better on its own rows than on new ones</b> (quote the held-out figure):"),
    ):
        judged = [o for o in outcomes if o.section and len(o.section.verdicts) > index]
        found = [o for o in judged if o.section.verdicts[index][1] == "no"]
        if found:
            lines.append(f"{what} {linked(found)}.")
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f'<p class="lead">{_text(lead)}</p><ul class="verdict">{items}</ul>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
    if len(figure.axes) == 1:  # shown small: smaller paper makes larger letters
        figure.set_size_inches(0.8 * figure.get_size_inches())
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


def summary_table(frame: DataFrame, limit: int = MAX_ROWS) -> tuple[Table | None, str]:
    """Table of what was learned: name, mean and 90 % interval, or name and value of points.

    Returns
    -------
    Table or None
        Its first ``limit`` rows; None where there are none.
    str
        A note on what was left out, or nothing.
    """
    shown = frame.head(limit)
    if "value" in frame.columns:
        columns: tuple[str, ...] = ("parameter", "value")
        rows = [(str(name), _figures(value)) for name, value in shown["value"].items()]
    else:
        columns = ("parameter", "mean", "90 % interval")
        rows = [
            (
                str(name),
                _figures(line["mean"]),
                f"{_figures(line['5 %'])} to {_figures(line['95 %'])}",
            )
            for name, line in shown.iterrows()
        ]
    shapes = frame.attrs["left_out"]
    left_out = [f"{len(frame) - limit} numbers more"] if len(frame) > limit else []
    left_out += [f"{name} ({' x '.join(map(str, s))})" for name, s in list(shapes.items())[:3]]
    if len(shapes) > 3:
        left_out[-1] += f" and {len(shapes) - 3} arrays more"
    note = f"Not listed: {', '.join(left_out)}."
    table = Table(columns, tuple(rows), name="What was learned") if rows else None
    return table, note if left_out else ""


def _figures(value: float) -> str:
    """Three significant figures, without an exponent where that is short."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"


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
    """HTML of a fit: figure and words side by side, the rest behind a click."""
    words = "".join(
        f'<li class="{_text(state)}"><b>{_text(question)}</b> {_text(answer)}</li>'
        for question, state, answer in section.verdicts
    )
    note = f'<p class="note">{_text(section.table_note)}</p>' if section.table_note else ""
    table = "" if section.table is None else _table(section.table)
    facts = "".join(
        f"<div><dt>{_text(label)}</dt><dd>{_text(value)}</dd></div>"
        for label, value in section.facts
    )
    more = f'<dl class="facts">{facts}</dl>' if facts else ""
    more += f'<div class="pictures">{"".join(map(_figure, section.more))}</div>'
    more += _commands(section) + _references(section)
    wide = " wide" if section.figures and section.figures[0].is_wide else ""
    return f"""<section id="{_text(section.anchor)}">
<h3>{_text(section.title)}</h3>
{_error(section)}
<div class="pair{wide}">{"".join(map(_figure, section.figures))}
<div><p>{_text(section.text)}</p>{f'<ul class="verdicts">{words}</ul>' if words else ""}
{table}{note}</div></div>
<details><summary>Numbers, more pictures, sources of {_text(section.anchor)}</summary>
{more}</details>
</section>
"""


def _exhibit(section: Section) -> str:
    """HTML of an exhibit: figure, then words."""
    wide = "wide" if any(f.is_wide for f in section.figures) else ""
    if any("\n" in command for command in section.commands):  # a program stands beside it
        wide = "wide program"
    table = "" if section.table is None else _table(section.table)
    return f"""<article id="{_text(section.anchor)}" class="{wide}">
{"".join(map(_figure, section.figures))}
<div><h2>{_text(section.title)}</h2>
{_error(section)}
<p>{_text(section.text)}</p>
{table}{_commands(section)}{_references(section)}</div>
</article>
"""


def _error(section: Section) -> str:
    return f'<p class="error">{_text(section.error)}</p>' if section.error else ""


def _commands(section: Section) -> str:
    lines = "\n".join(_text(command) for command in section.commands)
    return f'<pre tabindex="0"><code>{lines}</code></pre>' if lines else ""


def _references(section: Section) -> str:
    items = "".join(f"<li>{_reference(*r)}</li>" for r in section.references)
    return f'<ul class="references">{items}</ul>' if items else ""


def _figure(figure: EmbeddedFigure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    # a wide one scrolls on a phone, by keyboard too
    wide = ' class="wide" tabindex="0"' if figure.is_wide else ""
    return (
        f'<figure{wide}><img alt="{_text(figure.caption)}" '
        f'width="{figure.width}" height="{figure.height}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_text(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    """HTML of a table, in a region that scrolls by keyboard where it is too wide."""

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
    return (
        f'<div class="scroll" role="group" aria-label="{_text(table.name)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{chr(10).join(body)}</tbody></table></div>"
    )


def _reference(text: str, link: str) -> str:
    if not link.startswith(SAFE_LINKS):
        return _text(text)
    return f'{_text(text)} <a href="{_text(link)}">{_text(link)}</a>'


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
