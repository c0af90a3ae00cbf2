"""``ppl-zoo inspect``: what the command shows of a fit, summary, diagnostics and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppl_zoo import data as datasets
from ppl_zoo.cli.recipes import load_data
from ppl_zoo.cli.terminal import note, print_json, quiet, read_about
from ppl_zoo.core.errors import DataError
from ppl_zoo.data import DataCard
from ppl_zoo.fitting.run import Fit
from ppl_zoo.fitting.saving import load
from ppl_zoo.models.catalogue import ZOO

__all__ = ["Inspection", "inspect_fit", "inspect_run"]


@dataclass
class Inspection:
    """A fit, looked at.

    Attributes
    ----------
    idata
        The ArviZ object.
    summary
        Posterior summary, a data frame.
    rhat
        Largest R-hat of the posterior's variables; None where there are no chains to compare.
    khat
        Pareto k-hat of the best chain; None where nothing uncertain is left to check.
    figures
        Name, caption and matplotlib figure.
    failures
        What could not be shown, and why.
    has_global
        Whether the posterior is about more than the latents of single rows.
    """

    idata: Any = None
    summary: Any = None
    rhat: float | None = None
    khat: float | None = None
    figures: list[tuple[str, str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    has_global: bool = False


def inspect_run(
    path: str, *, data: str | None = None, draws: int = 1000, as_json: bool = False
) -> int:
    """Print the summary of a run and write its figures."""
    folder = Path(path)
    about, done = read_about(folder), load(folder)
    own = next((c for c in ZOO if c.model_class is type(done.model)), None)
    card = next((c for c in datasets.available() if c.name == about.get("data")), None)
    if done.rows is None or data is not None:
        name = data or about.get("data")
        if name is None:
            raise DataError(f"{path} does not hold its data: give them with --data NAME or PATH")
        options = about.get("data_options") if data is None else {}
        dataset = load_data(type(done.model), name, options)
        done, card = load(folder, data=dataset), dataset.card
    note(f"looking at {done!r}")
    seen = inspect_fit(done, card, draws=draws)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    written = []
    with quiet():
        for name, _, figure in seen.figures:
            written.append(figures / f"{name}.png")
            figure.savefig(written[-1], dpi=150, bbox_inches="tight")
    for failure in seen.failures:
        note(f"not shown: {failure}")
    if as_json:
        table = None if seen.summary is None else json.loads(seen.summary.to_json(orient="index"))
        return print_json(
            {
                "run": str(folder),
                "model": own.name if own else type(done.model).__name__,
                "objective": done.objective,
                "stopped": done.stopped,
                "rhat": seen.rhat,
                "khat": seen.khat,
                "summary": table,
                "figures": [str(p) for p in written],
            }
        )
    print(done)
    if seen.summary is not None:
        print()
        print(seen.summary.to_string())
    print()
    if seen.rhat is not None:
        print(f"largest R-hat {seen.rhat:.3f} (chains agree near 1.00)")
    if seen.khat is not None:
        verdict = "good" if seen.khat < 0.5 else "fair" if seen.khat < 0.7 else "poor"
        print(f"k-hat {seen.khat:.2f} ({verdict}: below 0.7 the guide can be trusted)")
    print(f"figures: {', '.join(str(p) for p in written) or 'none'}")
    return 0


def inspect_fit(
    fit: Fit, card: DataCard | None = None, *, draws: int = 1000, labels: Any = None
) -> Inspection:
    """Summarise a fit and draw its figures.

    Parameters
    ----------
    fit
        The fit, with its data.
    card
        What is known of the data: names, units, the shape of images.
    draws
        Posterior draws a chain; at most 100 where no latent is shared by all rows.
    labels
        Class of each row of the fit, where that is known; only to colour by.

    Returns
    -------
    Inspection
        What cannot be computed or drawn is named in ``failures``; the rest is there.
    """
    from ppl_zoo.diagnostics import arviz_compat
    from ppl_zoo.diagnostics.plots import fit as plots

    seen = Inspection()

    def attempt(what: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:  # one figure that fails must not take the others with it
            seen.failures.append(f"{what}: {type(error).__name__}: {error}")
            return None

    with quiet():
        names = getattr(card, "feature_names", None)
        coords = {"feature": names} if names else None
        seen.has_global = has_global_latents(fit)
        if not seen.has_global:
            draws = min(draws, 100)  # nothing but the latents of single rows varies
        seen.idata = fit.to_arviz(num_samples=draws, coords=coords)
        seen.summary = attempt("summary", lambda: arviz_compat.summary(seen.idata))
        if seen.has_global:
            if len(fit.solution.stopped) > 1:
                seen.rhat = _finite(attempt("R-hat", lambda: arviz_compat.max_rhat(seen.idata)))
            khat = attempt("k-hat", fit.khat)
            seen.khat = None if khat is None else _finite(khat[fit.solution.best])
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
                "What is latent, as the fit sees it.",
                lambda: plots.plot_posterior(fit, card),
            ),
        ):
            figure = attempt(f"figure {name!r}", make)
            if figure is not None:
                seen.figures.append((name, caption, figure))
    return seen


def has_global_latents(fit: Fit) -> bool:
    """Whether something uncertain is shared by all rows: what R-hat and k-hat are about."""
    if fit.rows is None:
        return False
    sites = fit.model.sites(*fit.rows.head(2))
    plate = fit.model.data_plate
    return any(s.kind == "latent" and not s.is_local(plate) for s in sites.values())


def _finite(value: Any) -> float | None:
    """Return None for what is no number: NaN means here that the question has no answer."""
    return None if value is None or not math.isfinite(value) else float(value)
