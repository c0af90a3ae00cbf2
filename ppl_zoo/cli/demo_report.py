"""The page that the demo writes: a table of all fits, then a section for each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from ppl_zoo import data as datasets
from ppl_zoo.cli.demo_outcome import COLUMNS, WORDS, Outcome
from ppl_zoo.cli.inspection import Inspection
from ppl_zoo.diagnostics.report import (
    Picture,
    Section,
    Table,
    number,
    summary_table,
    write_report,
)
from ppl_zoo.fitting import Fit
from ppl_zoo.saving import versions

__all__ = ["NEXT", "section", "write_page"]

#: what a reader may try next
NEXT = (
    ("ppl-zoo show gaussian-mixture", "a model's card: story, arguments, recipes, sources"),
    ("ppl-zoo fit gaussian-mixture --data yours.csv --components 3", "fit it to your own data"),
    ("ppl-zoo inspect runs/gaussian-mixture", "its posterior, summarised and drawn"),
)
POINTS = (
    "The fitted parameters are points: they are in the group 'fit' of the netCDF file. These rows "
    "are the latents of single observations."
)


def section(
    outcome: Outcome, fit: Fit | None, pictures: tuple[Picture, ...], seen: Inspection | None
) -> Section:
    """Return the section of one fit: what it is, how it went, its figures and its summary."""
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
    if seen is not None and seen.summary is not None and len(seen.summary):
        summary, remark = summary_table(seen.summary)
        if not seen.has_global:
            remark = f"{POINTS} {remark}"
    references = [(f"{r.authors} ({r.year}). {r.title}.", r.link) for r in card.references]
    if data is not None and data.citation:
        references.append((f"Data: {data.citation}.", data.url))
    return Section(
        anchor=outcome.name,
        title=f"{card.title}: {recipe.title[0].lower()}{recipe.title[1:]}",
        text=card.summary,
        queries=card.queries,
        facts=tuple(facts),
        pictures=pictures,
        summary=summary,
        summary_note=remark,
        references=tuple(references),
        commands=(f"ppl-zoo fit {card.name} --recipe {recipe.name}",),
        error=outcome.error,
    )


def write_page(
    out: Path, outcomes: Sequence[Outcome], seconds: float, restored: Sequence[Section] = ()
) -> Path:
    """Write the page, the table of all fits first; returns where it is."""
    table = Table(
        COLUMNS,
        tuple(o.row() for o in outcomes),
        left=WORDS,
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
        next_steps=NEXT,
        footer=f"{date.today().isoformat()}. {built}.",
    )
