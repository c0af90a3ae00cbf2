"""``ppl-zoo demo``: fit the zoo's models to embedded data, print one table, write one report."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ppl_zoo import imaging
from ppl_zoo.cli.inspect import inspect_fit
from ppl_zoo.cli.recipes import held_out, run
from ppl_zoo.cli.report import (
    COLUMNS,
    NEXT,
    WORDS,
    Outcome,
    Section,
    number,
    picture,
    section,
    write_page,
)
from ppl_zoo.cli.restore import picture_of
from ppl_zoo.cli.terminal import note, quiet, table_text, write_about
from ppl_zoo.core.errors import DataError
from ppl_zoo.models.card import Card, Recipe
from ppl_zoo.models.catalogue import ZOO
from ppl_zoo.restoration.restoration import restore

__all__ = ["choose", "restored_photograph", "run_demo"]


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
            outcome.section = section(outcome, None, (), None)
        if "interrupted" in (outcome.stopped, outcome.error):
            interrupted = True
            note("    interrupted: the report holds what there is")
            break
    restored = [restored_photograph(device)] if photograph and not interrupted else []
    seconds = time.perf_counter() - started
    report = write_page(out, outcomes, seconds, restored)
    failed = sum(o.error is not None for o in outcomes)
    if as_json:
        fits = [o.record() for o in outcomes]
        print(json.dumps({"fits": fits, "report": str(report), "seconds": seconds}, indent=1))
    else:
        _print(outcomes, report, seconds, failed)
    return 130 if interrupted else min(failed, 1)


def _run_one(outcome: Outcome, out: Path, device: str) -> None:
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
    # what torch and Pyro raise where there is no density: no score is no failure
    with contextlib.suppress(NotImplementedError):
        outcome.held_out = held_out(fit.model, dataset)
    labels = (dataset.labels or {}).get("train")
    seen = inspect_fit(fit, dataset.card, labels=labels)
    outcome.rhat, outcome.khat = seen.rhat, seen.khat
    for failure in seen.failures:
        note(f"    not shown: {failure}")
    with quiet():
        arviz_compat.to_netcdf(seen.idata, out / f"{outcome.name}.nc")
        pictures = tuple(picture(figure, text) for _, text, figure in seen.figures)
    outcome.section = section(outcome, fit, pictures, seen)
    if seen.failures:
        outcome.error = "; ".join(seen.failures)


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


# ---- The photograph that the demo restores: how well, and how sure of it.


def restored_photograph(device: str) -> Section:
    """Denoise the photograph that comes with the package."""
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
