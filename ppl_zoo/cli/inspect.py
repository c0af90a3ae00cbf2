"""``ppl-zoo inspect``: posterior summary, diagnostics and figures of a saved fit."""

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
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import load
from ppl_zoo.models.catalogue import ZOO

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["InspectRequest", "Inspection", "inspect_fit", "inspect_run"]

#: posterior draws of a fit that has local latents only
MAX_LOCAL_DRAWS = 100

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
    """Posterior summary, diagnostics and figures of a fit.

    Attributes
    ----------
    idata
        The ArviZ object, ``InferenceData`` (0.23) or ``DataTree`` (1.x).
    summary
        Posterior summary, a data frame.
    rhat
        Largest R-hat of the posterior's variables; None where there are no chains to compare.
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
                "figures": [str(p) for p in paths],
            }
        )
    print(done)
    if found.summary is not None:
        print()
        print(found.summary.to_string())
    print()
    if found.rhat is not None:
        print(f"largest R-hat {found.rhat:.3f} (chains agree near 1.00)")
    if found.khat is not None:
        verdict = "good" if found.khat < 0.5 else "fair" if found.khat < 0.7 else "poor"
        print(f"k-hat {found.khat:.2f} ({verdict}: below 0.7 the guide can be trusted)")
    print(f"figures: {', '.join(str(p) for p in paths) or 'none'}")
    return 0


def inspect_fit(
    fit: Fit, card: DataCard | None = None, *, draws: int = 1000, labels: np.ndarray | None = None
) -> Inspection:
    """Compute the posterior summary and diagnostics of a fit, and draw its figures.

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

    with quiet():
        names = getattr(card, "feature_names", None)
        coords = {"feature": names} if names else None
        found.has_global = _has_global_latents(fit)
        if not found.has_global:
            draws = min(draws, MAX_LOCAL_DRAWS)
        found.idata = fit.to_arviz(num_samples=draws, coords=coords)
        found.summary = attempt("summary", lambda: arviz_compat.summary(found.idata))
        if found.has_global:
            if len(fit.solution.stopped) > 1:
                found.rhat = _finite(attempt("R-hat", lambda: arviz_compat.max_rhat(found.idata)))
            khat = attempt("k-hat", fit.khat)
            found.khat = None if khat is None else _finite(khat[fit.solution.best])
        for name, caption, make in (
            ("fit", "The fitted model over the data.", lambda: plots.plot_fit(fit, card, labels)),
            (
                "objective",
                "The objective by step, a line a chain.",
                lambda: plots.plot_history(fit, card),
            ),
            (
                "samples",
                "New draws of the fitted model beside the data.",
                lambda: plots.plot_samples(fit, card),
            ),
            (
                "posterior",
                "The posterior of the latents.",
                lambda: plots.plot_posterior(fit, card),
            ),
        ):
            figure = attempt(f"figure {name!r}", make)
            if figure is not None:
                found.figures.append((name, caption, figure))
    return found


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
