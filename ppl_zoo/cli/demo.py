"""``ppl-zoo demo``: fit the models to embedded data, print a table, write an HTML report."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from ppl_zoo import imaging
from ppl_zoo.cli.inspect import inspect_fit
from ppl_zoo.cli.recipes import held_out, run
from ppl_zoo.cli.report import (
    COLUMNS,
    NEXT_STEPS,
    TEXT_COLUMNS,
    Outcome,
    Section,
    embed_figure,
    number,
    outcome_section,
    write_demo_report,
)
from ppl_zoo.cli.restore import restoration_figure
from ppl_zoo.cli.terminal import (
    DeviceOption,
    JSONFlag,
    note,
    quiet,
    table_text,
    write_about,
)
from ppl_zoo.core.errors import DataError
from ppl_zoo.models.card import Card, Recipe
from ppl_zoo.models.catalogue import ZOO
from ppl_zoo.restoration.restoration import restore

__all__ = ["DemoRequest", "choose", "restored_photograph", "run_demo"]


@dataclass(frozen=True)
class DemoRequest:
    """Arguments of ``ppl-zoo demo``.

    Parameters
    ----------
    only
        One model, or one of its fits.
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
        known = ", ".join(_run_name(c, r) for c, r in marked)
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
        What to fit, and where to write; without ``only`` a photograph is restored too.
    chosen
        Models and recipes to fit instead, without the photograph.

    Returns
    -------
    int
        Exit code: 0 if all is well, 1 if a recipe failed, 130 after Ctrl-C.
    """
    out, photograph = Path(request.out), chosen is None and request.only is None
    chosen = choose(request.only) if chosen is None else list(chosen)
    out.mkdir(parents=True, exist_ok=True)
    started, outcomes, interrupted = time.perf_counter(), [], False
    for index, (card, recipe) in enumerate(chosen, 1):
        name = _run_name(card, recipe)
        note(f"[{index}/{len(chosen)}] {card.title}: {recipe.title.lower()} ({recipe.data})")
        outcome = Outcome(card, recipe, name)
        outcomes.append(outcome)
        try:
            _fit_one(outcome, out, request.device)
        except KeyboardInterrupt:
            outcome.error = "interrupted"
        except Exception as error:  # the others still run, and the exit code says so
            outcome.error = f"{type(error).__name__}: {error}"
            note(f"    failed: {outcome.error}")
        if outcome.section is None:
            outcome.section = outcome_section(outcome)
        if "interrupted" in (outcome.stopped, outcome.error):
            interrupted = True
            note("    interrupted: the report holds what there is")
            break
    restored = [restored_photograph(request.device)] if photograph and not interrupted else []
    seconds = time.perf_counter() - started
    report = write_demo_report(out, outcomes, seconds, restored)
    failed = sum(o.error is not None for o in outcomes)
    if request.json:
        fits = [o.record() for o in outcomes]
        print(json.dumps({"fits": fits, "report": str(report), "seconds": seconds}, indent=1))
    else:
        _print_table(outcomes, report, seconds, failed)
    return 130 if interrupted else min(failed, 1)


def _fit_one(outcome: Outcome, out: Path, device: str) -> None:
    """Fit, save and inspect one recipe; fills in its outcome."""
    from ppl_zoo.diagnostics import arviz_compat

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
    # what torch and Pyro raise where there is no density: then there is no score
    with contextlib.suppress(NotImplementedError):
        outcome.held_out = held_out(fit.model, dataset)
    labels = (dataset.labels or {}).get("train")
    inspection = inspect_fit(fit, dataset.card, labels=labels)
    outcome.rhat, outcome.khat = inspection.rhat, inspection.khat
    for failure in inspection.failures:
        note(f"    not shown: {failure}")
    with quiet():
        arviz_compat.to_netcdf(inspection.idata, out / f"{outcome.name}.nc")
        figures = tuple(embed_figure(figure, text) for _, text, figure in inspection.figures)
    outcome.section = outcome_section(outcome, fit, figures, inspection)
    if inspection.failures:
        outcome.error = "; ".join(inspection.failures)


def _print_table(outcomes: Sequence[Outcome], report: Path, seconds: float, failed: int) -> None:
    sys.stderr.flush()
    print()
    print(table_text(COLUMNS, [o.row() for o in outcomes], left=TEXT_COLUMNS))
    print()
    print("objective in nats; held out: mean log density of an unseen row, nats")
    print(f"{len(outcomes) - failed} of {len(outcomes)} fits in {seconds:.0f} s. Open {report}")
    print()
    print("Try next:")
    width = max(len(command) for command, _ in NEXT_STEPS)
    for command, what in NEXT_STEPS:
        print(f"  {command:<{width}}  # {what}")


def restored_photograph(device: str) -> Section:
    """Denoise the photograph that comes with the package; its section of the report."""
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
        figures=(
            embed_figure(restoration_figure(noisy, done), "Input, result, and posterior sd."),
        ),
        references=(
            (
                "Zoran & Weiss (2011). From learning models of natural image patches to whole "
                "image restoration.",
                "https://doi.org/10.1109/ICCV.2011.6126278",
            ),
        ),
        commands=("ppl-zoo restore photo.png --sigma 25",),
    )
