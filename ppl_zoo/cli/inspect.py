"""``ppl-zoo inspect``: what a saved fit learned, its three verdicts, and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from matplotlib.figure import Figure
from tyro.conf import Positional, arg

from ppl_zoo import data as datasets
from ppl_zoo.cli.recipes import load_data
from ppl_zoo.cli.terminal import JSONFlag, note, print_json, quiet, read_about
from ppl_zoo.core.errors import DataError
from ppl_zoo.data import DataCard
from ppl_zoo.diagnostics.check import Check
from ppl_zoo.diagnostics.learned import summarise
from ppl_zoo.diagnostics.plots.style import column_name
from ppl_zoo.diagnostics.verdicts import Verdict
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import load
from ppl_zoo.models.catalogue import ZOO

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["InspectRequest", "Inspection", "inspect_fit", "inspect_run", "verdicts"]

#: posterior draws of a fit that has local latents only
MAX_LOCAL_DRAWS = 100
#: columns up to which a picture or a table names them
MAX_NAMED_COLUMNS = 50
#: groups that are kept of a fit: what was learned and how; `fit.to_arviz()` makes the others
GROUPS = ("posterior", "sample_stats", "observed_data", "constant_data", "fit")

T = TypeVar("T")


@dataclass(frozen=True)
class InspectRequest:
    """Arguments of ``ppl-zoo inspect``.

    Parameters
    ----------
    run
        A folder that `ppl-zoo fit` wrote.
    data
        The data, where the run does not hold them.
    draws
        Posterior draws a chain.
    """

    run: Annotated[str, Positional, arg(metavar="RUN")]
    data: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    draws: int = 1000
    json: JSONFlag = False


@dataclass
class Inspection:
    """Summary, verdicts and figures of a fit.

    Attributes
    ----------
    idata
        The ArviZ object, ``InferenceData`` (0.23) or ``DataTree`` (1.x).
    summary
        What was learned, a data frame: see :func:`ppl_zoo.diagnostics.learned.summarise`.
    check
        The three verdicts; None where they could not be found.
    rhat
        Largest R-hat of a sampler's chains; None for other solvers, whose restarts are no chains.
    khat
        Pareto k-hat of the best chain; None where there is no global latent to check.
    figures
        Name, caption and matplotlib figure.
    failures
        What could not be computed or drawn, and why.
    has_global
        Whether the posterior has global latents, not only local ones.
    """

    idata: Any = None
    summary: DataFrame | None = None
    check: Check | None = None
    rhat: float | None = None
    khat: float | None = None
    figures: list[tuple[str, str, Figure]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    has_global: bool = False


def inspect_run(request: InspectRequest) -> int:
    """Print the summary of a run and write its figures."""
    folder = Path(request.run)
    about, done = read_about(folder), load(folder)
    own = next((c for c in ZOO if c.model_class is type(done.model)), None)
    card = next((c for c in datasets.available() if c.name == about.get("data")), None)
    if done.rows is None or request.data is not None:
        name = request.data or about.get("data")
        if name is None:
            raise DataError(
                f"{request.run} does not hold its data: give them with --data NAME or PATH"
            )
        options = about.get("data_options") if request.data is None else {}
        dataset = load_data(type(done.model), name, options)
        done, card = load(folder, data=dataset), dataset.card
    note(f"looking at {done!r}")
    found = inspect_fit(done, card, draws=request.draws)
    paths = _write_figures(found, folder / "figures")
    for failure in found.failures:
        note(f"not shown: {failure}")
    if request.json:
        table = found.summary
        return print_json(
            {
                "run": str(folder),
                "model": own.name if own else type(done.model).__name__,
                "objective": done.objective,
                "stopped": done.stopped,
                "rhat": found.rhat,
                "khat": found.khat,
                "summary": None if table is None else json.loads(table.to_json(orient="index")),
                "verdicts": {name: text for name, _, text in verdicts(found.check)},
                "figures": [str(p) for p in paths],
            }
        )
    print(done)
    if found.summary is not None:
        print()
        print(found.summary.to_string())
    print()
    for question, _, text in verdicts(found.check):
        print(f"{question} {text}")
    print(f"figures: {', '.join(str(p) for p in paths) or 'none'}")
    return 0


def inspect_fit(
    fit: Fit, card: DataCard | None = None, *, draws: int = 1000, labels: np.ndarray | None = None
) -> Inspection:
    """Summarise and check a fit, and draw its figures.

    Parameters
    ----------
    fit
        The fit, with its data.
    card
        Card of the data set: names, units, the shape of images.
    draws
        Posterior draws a chain; at most 100 where all latents are local.
    labels
        Class of each row of the fit, ``(n,)``, where it is known; only to colour by.

    Returns
    -------
    Inspection
        What cannot be computed or drawn is named in ``failures``; the rest is there.
    """
    from ppl_zoo.diagnostics import arviz_compat
    from ppl_zoo.diagnostics.plots import fit as plots

    found = Inspection()

    def attempt(what: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Exception as error:  # one figure that fails must not take the others with it
            found.failures.append(f"{what}: {type(error).__name__}: {error}")
            return None

    sampled, best = fit.solution.draws is not None, fit.solution.best
    with quiet():
        found.has_global = _has_global_latents(fit)
        if not found.has_global:
            draws = min(draws, MAX_LOCAL_DRAWS)
        coords = _column_names(fit, card)
        found.idata = fit.to_arviz(num_samples=draws, coords=coords, groups=GROUPS)
        found.summary = attempt("summary", lambda: summarise(fit, found.idata))
        found.check = attempt("check", lambda: fit.check(num_samples=draws))
        if found.has_global:
            if sampled and len(fit.solution.stopped) > 1:
                found.rhat = _finite(attempt("R-hat", lambda: arviz_compat.max_rhat(found.idata)))
            khat = None if found.check is None else found.check.khat
            found.khat = None if khat is None else _finite(khat[min(best, len(khat) - 1)])
        for name, make in (
            ("fit", lambda: plots.plot_fit(fit, card, labels)),
            ("objective", lambda: plots.plot_history(fit, card)),
            ("samples", lambda: plots.plot_samples(fit, card)),
            ("posterior", lambda: plots.plot_posterior(fit, card)),
        ):
            figure = attempt(f"figure {name!r}", make)
            if figure is not None:
                found.figures.append((name, str(figure.get_label()), figure))
    if getattr(card, "image_shape", None) and found.figures:
        # images say more than a histogram of their log densities
        found.figures.sort(key=lambda drawn: drawn[0] != "samples" and len(drawn[2].axes) == 1)
    return found


def verdicts(check: Check | None) -> list[tuple[str, str, str]]:
    """Three questions about a fit, each with "yes", "no" or "open", and the answer in a clause."""
    if check is None:
        return []
    return [
        (question, _state(verdict), _clause(verdict))
        for question, verdict in (
            ("Is this the model's posterior?", check.inference),
            ("Does the model describe the data?", check.model),
            ("Will it predict new rows?", check.generalisation),
        )
    ]


def _state(verdict: Verdict) -> str:
    return "no" if verdict.findings else "yes" if verdict.measured else "open"


def _clause(verdict: Verdict) -> str:
    """Answer of a verdict with its first reason."""
    if verdict.findings:
        more = f" (and {len(verdict.findings) - 1} more)" if len(verdict.findings) > 1 else ""
        return f"No: {verdict.findings[0].text}{more}."
    if verdict.measured:
        return f"Yes, by {', '.join(verdict.measured)}."
    return f"Not checked: {verdict.unchecked[0]}." if verdict.unchecked else "Not checked."


def _column_names(fit: Fit, card: DataCard | None) -> dict[str, list[str]] | None:
    """Names of the features of the model's first argument, for ArviZ."""
    first = fit.model.argument_names[0]
    array = fit.rows.arrays[0] if fit.rows is not None else None
    if array is None or array.ndim != 2 or array.shape[1] > MAX_NAMED_COLUMNS:
        return None
    names = [column_name(fit, card, first, i) for i in range(array.shape[1])]
    return {"feature": names, "feature_bis": names}


def _write_figures(found: Inspection, folder: Path) -> list[Path]:
    """Write the figures as PNG."""
    folder.mkdir(exist_ok=True)
    paths = []
    with quiet():
        for name, _, figure in found.figures:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
    return paths


def _has_global_latents(fit: Fit) -> bool:
    """Whether a latent is shared by all rows: what R-hat and k-hat of a fit are about."""
    if fit.rows is None:
        return False
    sites = fit.model.sites(*fit.rows.head(2))
    plate = fit.model.data_plate
    return any(s.kind == "latent" and not s.is_local(plate) for s in sites.values())


def _finite(value: float | None) -> float | None:
    """Return a finite value, else None: NaN says here that the diagnostic does not apply."""
    return None if value is None or not math.isfinite(value) else float(value)
