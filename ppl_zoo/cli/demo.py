"""``ppl-zoo demo``: the breadth of the zoo on embedded data; a table, and an HTML report."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ppl_zoo.cli.exhibits import EXHIBITS
from ppl_zoo.cli.inspect import inspect_fit
from ppl_zoo.cli.recipes import held_out, run
from ppl_zoo.cli.report import (
    COLUMNS,
    NEXT_STEPS,
    TEXT_COLUMNS,
    EmbeddedFigure,
    Outcome,
    Section,
    embed_figure,
    number,
    outcome_section,
    write_demo_report,
)
from ppl_zoo.cli.terminal import (
    DeviceOption,
    JSONFlag,
    note,
    quiet,
    table_text,
    write_about,
)
from ppl_zoo.core.errors import DataError
from ppl_zoo.data import Dataset
from ppl_zoo.diagnostics.plots.samples import plot_completions
from ppl_zoo.fitting.result import Fit
from ppl_zoo.models.card import Card, Recipe
from ppl_zoo.models.catalogue import ZOO

__all__ = ["DemoRequest", "choose", "run_demo"]

#: data up to this many bytes go into the run of a fit; larger ones are read from the package
MAX_BYTES_OF_DATA = 2**19


@dataclass(frozen=True)
class DemoRequest:
    """Arguments of ``ppl-zoo demo``.

    Parameters
    ----------
    only
        One model, one of its fits, or one exhibit.
    out
        Where to write.
    """

    only: Annotated[str | None, arg(metavar="NAME")] = None
    out: Annotated[str, arg(metavar="FOLDER")] = "runs/demo"
    device: DeviceOption = "auto"
    json: JSONFlag = False


def choose(only: str | None = None, cards: Sequence[Card] = ZOO) -> list[tuple[Card, Recipe]]:
    """Recipes of a demo.

    Parameters
    ----------
    only
        Name of a model or of one fit (``MODEL-RECIPE``); None for all recipes marked ``demo``.
    cards
        The catalogue.

    Raises
    ------
    DataError
        If nothing has that name.
    """
    marked = [(card, recipe) for card in cards for recipe in card.recipes if recipe.demo]
    if only is None:
        return marked
    chosen = [(c, r) for c, r in marked if only in (c.name, _run_name(c, r))]
    if not chosen:
        known = ", ".join([*(_run_name(c, r) for c, r in marked), *EXHIBITS])
        raise DataError(f"--only: got {only!r}, expected a model or one of: {known}")
    return chosen


def _run_name(card: Card, recipe: Recipe) -> str:
    """Name of a fit of the demo, of its run directory and its netCDF file."""
    return f"{card.name}-{recipe.name}"


def run_demo(request: DemoRequest, *, chosen: Sequence[tuple[Card, Recipe]] | None = None) -> int:
    """Fit, inspect and save each model; print the table of fits, and write the report.

    The folder then holds a run directory and a netCDF file a fit, and ``report.html``.

    Parameters
    ----------
    request
        What to fit, and where to write; without ``only`` the exhibits are made too.
    chosen
        Models and recipes to fit instead, without the exhibits.

    Returns
    -------
    int
        Exit code: 0 if all is well, 1 if a part failed, 130 after Ctrl-C.
    """
    out, shown = Path(request.out), EXHIBITS if request.only is None and chosen is None else {}
    if request.only in EXHIBITS:
        chosen, shown = [], {request.only: EXHIBITS[request.only]}
    chosen = choose(request.only) if chosen is None else list(chosen)
    out.mkdir(parents=True, exist_ok=True)
    started, outcomes, interrupted = time.perf_counter(), [], False
    exhibits: list[Section] = []
    lead: list[Section] = []
    for index, (name, make) in enumerate(shown.items(), 1):
        note(f"[{index}/{len(shown)}] {name.replace('-', ' ')}")
        try:
            with quiet():
                exhibits.append(make(request.device))
        except KeyboardInterrupt:
            interrupted = True
            break
        except Exception as error:  # the others still run, and the exit code says so
            exhibits.append(_failed(name, error))
            note(f"    failed: {exhibits[-1].error}")
    for index, (card, recipe) in enumerate(() if interrupted else chosen, 1):
        name = _run_name(card, recipe)
        note(f"[{index}/{len(chosen)}] {card.title}: {recipe.title.lower()} ({recipe.data})")
        outcome = Outcome(card, recipe, name)
        outcomes.append(outcome)
        try:
            lead += _fit_one(outcome, out, request.device)
        except KeyboardInterrupt:
            outcome.error = "interrupted"
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
            note(f"    failed: {outcome.error}")
        if outcome.section is None:
            outcome.section = outcome_section(outcome)
        if "interrupted" in (outcome.stopped, outcome.error):
            interrupted = True
            note("    interrupted: the report holds what there is")
            break
    seconds = time.perf_counter() - started
    exhibits[1:1] = lead
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    report = write_demo_report(out, outcomes, seconds, exhibits, size)
    failed = sum(part.error is not None for part in [*outcomes, *exhibits])
    if request.json:
        fits = [o.record() for o in outcomes]
        shows = {e.anchor: e.error for e in exhibits}
        print(
            json.dumps(
                {
                    "fits": fits,
                    "exhibits": shows,
                    "report": str(report),
                    "bytes": size + report.stat().st_size,
                    "seconds": seconds,
                },
                indent=1,
            )
        )
    else:
        _print_table(outcomes, report, seconds, failed, len(exhibits), size)
    return 130 if interrupted else min(failed, 1)


def _failed(name: str, error: Exception) -> Section:
    text = f"{type(error).__name__}: {error}"
    return Section(anchor=name, title=name.replace("-", " ").capitalize(), text="", error=text)


def _fit_one(outcome: Outcome, out: Path, device: str) -> list[Section]:
    """Fit, save and inspect one recipe; fills in its outcome, and returns its exhibits."""
    from ppl_zoo.diagnostics import arviz_compat

    card, recipe = outcome.card, outcome.recipe
    fit, dataset = run(card, recipe, device=device)
    outcome.solver = type(fit.solver).__name__
    outcome.objective, outcome.stopped = fit.objective, fit.stopped
    outcome.steps, outcome.seconds = fit.solution.steps[fit.solution.best], fit.seconds
    # the data come with the package, and `about.json` names them
    fit.save(out / outcome.name, include_data=_is_small(fit))
    write_about(out / outcome.name, card.name, recipe)
    note(
        f"    {outcome.solver}: objective {number(fit.objective)} nats, {fit.stopped} after "
        f"{outcome.steps} steps, {fit.seconds:.1f} s"
    )
    # what torch and Pyro raise where there is no density: then there is no score
    with contextlib.suppress(NotImplementedError):
        outcome.held_out = held_out(fit.model, dataset)
    labels = (dataset.labels or {}).get("train")
    inspection = inspect_fit(fit, dataset.card, labels=labels)
    outcome.rhat, outcome.khat = inspection.rhat, inspection.khat
    outcome.has_global = inspection.has_global
    for failure in inspection.failures:
        note(f"    not shown: {failure}")
    with quiet():
        arviz_compat.to_netcdf(inspection.idata, out / f"{outcome.name}.nc")
        drawn = {n: embed_figure(figure, text) for n, text, figure in inspection.figures}
        lead = _lead(outcome, fit, dataset, drawn)
    outcome.section = outcome_section(outcome, fit, tuple(drawn.values()), inspection)
    if inspection.failures:
        outcome.error = "; ".join(inspection.failures)
    return lead


def _is_small(fit: Fit) -> bool:
    return sum(a.numel() * a.element_size() for a in fit.rows.arrays) <= MAX_BYTES_OF_DATA


def _lead(
    outcome: Outcome, fit: Fit, dataset: Dataset, drawn: dict[str, EmbeddedFigure]
) -> list[Section]:
    """Exhibits of a fit: digits completed, a map of digits."""
    if outcome.name == "made-digits":
        figure = plot_completions(fit, dataset.card, dataset.test)
        return [
            Section(
                anchor="inpainting",
                title="Half a digit, completed",
                text=f"A masked autoencoder, fitted in {outcome.seconds:.0f} seconds to 1,297 "
                "handwritten digits of 8x8 pixels, draws what is hidden. Its density is exact, "
                "and so are these draws.",
                figures=(embed_figure(figure, str(figure.get_label())),),
            )
        ]
    if outcome.name == "vae-digits" and "fit" in drawn:
        picture = drawn.pop("fit")
        return [
            Section(
                anchor="map-of-digits",
                title="A map of handwritten digits",
                text="A variational autoencoder puts each digit on a plane, without being told "
                "which is which: the colours are the true classes, added afterwards.",
                figures=(picture,),
            )
        ]
    return []


def _print_table(
    outcomes: Sequence[Outcome],
    report: Path,
    seconds: float,
    failed: int,
    num_exhibits: int,
    size: int,
) -> None:
    sys.stderr.flush()
    print()
    if outcomes:
        print(table_text(COLUMNS, [o.row() for o in outcomes], left=TEXT_COLUMNS))
        print()
        print("posterior: whether the answer is the model's; a point has none")
        print("held out: mean log density of an unseen row, nats")
    count = len(outcomes) + num_exhibits
    megabytes = (size + report.stat().st_size) / 1e6
    print(
        f"{count - failed} of {count} parts in {seconds:.0f} s, {megabytes:.0f} MB. Open {report}"
    )
    print()
    print("Try next:")
    width = max(len(command) for command, _ in NEXT_STEPS)
    for command, what in NEXT_STEPS:
        print(f"  {command:<{width}}  # {what}")
