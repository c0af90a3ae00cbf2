"""``ppl-zoo demo``: fit the zoo's models to embedded data, print one table, write one report."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ppl_zoo import data as datasets
from ppl_zoo import imaging
from ppl_zoo.card import Card, Recipe
from ppl_zoo.catalogue import ZOO
from ppl_zoo.cli.inspection import Inspection, inspect_fit, quiet
from ppl_zoo.cli.terminal import note, table_text, write_about
from ppl_zoo.diagnostics.report import (
    Picture,
    Section,
    Table,
    number,
    picture,
    summary_table,
    write_report,
)
from ppl_zoo.errors import DataError
from ppl_zoo.fitting import Fit
from ppl_zoo.recipes import held_out, run
from ppl_zoo.restoration import restore
from ppl_zoo.saving import versions

__all__ = ["Outcome", "choose", "run_demo"]

COLUMNS = ("model", "solver", "data", "objective", "held out", "R-hat", "k-hat", "seconds")
WORDS = (0, 1, 2)
NEXT = (
    ("ppl-zoo show gaussian-mixture", "a model's card: story, arguments, recipes, sources"),
    ("ppl-zoo fit gaussian-mixture --data yours.csv --components 3", "fit it to your own data"),
    ("ppl-zoo inspect runs/gaussian-mixture", "its posterior, summarised and drawn"),
)


POINTS = (
    "The fitted parameters are points: they are in the group 'fit' of the netCDF file. These rows "
    "are the latents of single observations."
)


@dataclass
class Outcome:
    """What became of one recipe; plain values, so that no fit is kept alive."""

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
        """Return the line of the table."""
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
        """Return what a program would read."""
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


def choose(only: str | None = None, cards: Sequence[Card] = ZOO) -> list[tuple[Card, Recipe]]:
    """Choose the recipes of a demo.

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
    chosen = [(c, r) for c, r in marked if only in (c.name, run_name(c, r))]
    if not chosen:
        known = ", ".join(run_name(c, r) for c, r in marked)
        raise DataError(f"--only: got {only!r}, expected a model or one of: {known}")
    return chosen


def run_name(card: Card, recipe: Recipe) -> str:
    """Name of a fit of the demo, of its run directory and its netCDF file."""
    return f"{card.name}-{recipe.name}"


def run_demo(
    out: str | Path = "runs/demo",
    *,
    chosen: Sequence[tuple[Card, Recipe]] | None = None,
    device: str = "auto",
    as_json: bool = False,
    photograph: bool = False,
) -> int:
    """Fit, look, save and report.

    Parameters
    ----------
    out
        Folder for a run directory and a netCDF file a fit, and ``report.html``.
    chosen
        Models and recipes, those of :func:`choose` by default.
    device
        As for ``zoo.fit``.
    as_json
        Print JSON to standard output instead of the table.
    photograph
        Whether to restore a photograph too.

    Returns
    -------
    int
        Exit code: 0 if all is well, 1 if a recipe failed, 130 after Ctrl-C.
    """
    out, chosen = Path(out), choose() if chosen is None else list(chosen)
    out.mkdir(parents=True, exist_ok=True)
    started, outcomes, interrupted = time.perf_counter(), [], False
    for place, (card, recipe) in enumerate(chosen, 1):
        name = run_name(card, recipe)
        note(f"[{place}/{len(chosen)}] {card.title}: {recipe.title.lower()} ({recipe.data})")
        outcome = Outcome(card, recipe, name)
        outcomes.append(outcome)
        try:
            _run_one(outcome, out, device)
        except KeyboardInterrupt:
            outcome.error = "interrupted"
        except Exception as error:  # the others still run, and the exit code says so
            outcome.error = f"{type(error).__name__}: {error}"
            note(f"    failed: {outcome.error}")
        if outcome.section is None:
            outcome.section = _section(outcome, None, (), None)
        if "interrupted" in (outcome.stopped, outcome.error):
            interrupted = True
            note("    interrupted: the report holds what there is")
            break
    restored = [_photograph(device)] if photograph and not interrupted else []
    seconds = time.perf_counter() - started
    report = _write(out, outcomes, seconds, restored)
    failed = sum(o.error is not None for o in outcomes)
    if as_json:
        fits = [o.record() for o in outcomes]
        print(json.dumps({"fits": fits, "report": str(report), "seconds": seconds}, indent=1))
    else:
        _print(outcomes, report, seconds, failed)
    return 130 if interrupted else min(failed, 1)


def _run_one(outcome: Outcome, out: Path, device: str) -> None:
    from ppl_zoo.diagnostics import generation

    card, recipe = outcome.card, outcome.recipe
    fit, dataset = run(card, recipe, device=device)
    outcome.solver = type(fit.solver).__name__
    outcome.objective, outcome.stopped = fit.objective, fit.stopped
    outcome.steps, outcome.seconds = fit.solution.steps[fit.solution.best], fit.seconds
    fit.save(out / outcome.name)
    write_about(out / outcome.name, card.name, recipe)
    note(
        f"    {outcome.solver}: objective {number(fit.objective)} nats, {fit.stopped} after "
        f"{outcome.steps} steps, {fit.seconds:.1f} s"
    )
    with contextlib.suppress(NotImplementedError):
        outcome.held_out = held_out(fit.model, dataset)
    labels = (dataset.labels or {}).get("train")
    seen = inspect_fit(fit, dataset.card, labels=labels)
    outcome.rhat, outcome.khat = seen.rhat, seen.khat
    for failure in seen.failures:
        note(f"    not shown: {failure}")
    with quiet():
        generation.to_netcdf(seen.idata, out / f"{outcome.name}.nc")
        pictures = tuple(picture(figure, text) for _, text, figure in seen.figures)
    outcome.section = _section(outcome, fit, pictures, seen)
    if seen.failures:
        outcome.error = "; ".join(seen.failures)


def _section(
    outcome: Outcome, fit: Fit | None, pictures: tuple[Picture, ...], seen: Inspection | None
) -> Section:
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


def _photograph(device: str) -> Section:
    """Denoise the photograph that comes with the package."""
    from ppl_zoo.cli.restoring import picture_of

    note("Photograph: noise of 25 grey levels taken off by EPLL")
    clean, sigma = imaging.example_photograph(), 25.0 / 255.0
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    done = restore(noisy, None, sigma, method="posterior", device=device, progress=False)
    seconds = time.perf_counter() - started
    before, after = (imaging.psnr(image.cpu(), clean) for image in (noisy, done.image))
    error = float((done.image.cpu() - clean).square().mean().sqrt())
    note(f"    {before:.2f} -> {after:.2f} dB, {seconds:.1f} s")
    return Section(
        anchor="photograph",
        title="A photograph restored, with the uncertainty of each pixel",
        text="Noise of 25 grey levels, taken off with a mixture of 200 Gaussians over 8x8 patches "
        "(EPLL). The sd is posterior: the tilings of the image into patches, each exact, put "
        "together.",
        queries={},
        facts=(
            ("noisy", f"{before:.2f} dB"),
            ("restored", f"{after:.2f} dB"),
            ("posterior sd", f"{255.0 * float(done.sd.square().mean().sqrt()):.2f} grey levels"),
            ("actual error", f"{255.0 * error:.2f} grey levels"),
            ("time", f"{seconds:.1f} s"),
        ),
        pictures=(picture(picture_of(noisy, done), "Input, result, and posterior sd."),),
        references=(
            (
                "Zoran & Weiss (2011). From learning models of natural image patches to whole "
                "image restoration.",
                "https://doi.org/10.1109/ICCV.2011.6126278",
            ),
        ),
        commands=("ppl-zoo restore photo.png --sigma 25",),
    )


def _write(
    out: Path, outcomes: Sequence[Outcome], seconds: float, restored: Sequence[Section] = ()
) -> Path:
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


def _print(outcomes: Sequence[Outcome], report: Path, seconds: float, failed: int) -> None:
    sys.stderr.flush()
    print()
    print(table_text(COLUMNS, [o.row() for o in outcomes], left=WORDS))
    print()
    print("objective in nats; held out: mean log density of an unseen row, nats")
    print(f"{len(outcomes) - failed} of {len(outcomes)} fits in {seconds:.0f} s. Open {report}")
    print()
    print("Try next:")
    width = max(len(command) for command, _ in NEXT)
    for command, what in NEXT:
        print(f"  {command:<{width}}  # {what}")
