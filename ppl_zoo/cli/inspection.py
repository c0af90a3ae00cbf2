"""What the command shows of a fit: posterior summary, diagnostics and figures."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ppl_zoo.data import DataCard
from ppl_zoo.fitting import Fit

__all__ = ["Inspection", "inspect_fit", "quiet"]


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
    from ppl_zoo.diagnostics import generation, plots

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
        seen.summary = attempt("summary", lambda: generation.summary(seen.idata))
        if seen.has_global:
            if len(fit.solution.stopped) > 1:
                seen.rhat = _finite(attempt("R-hat", lambda: generation.max_rhat(seen.idata)))
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
    plate = fit.model.rows_plate
    return any(s.kind == "latent" and not s.is_local(plate) for s in sites.values())


def _finite(value: Any) -> float | None:
    """Return None for what is no number: NaN means here that the question has no answer."""
    return None if value is None or not math.isfinite(value) else float(value)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' notices off the terminal, and draw without a screen."""
    import matplotlib

    before = matplotlib.get_backend(auto_select=False)
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.use("Agg")
        logging.disable(logging.WARNING)  # ArviZ logs what it cannot compute for one chain
        try:
            yield
        finally:
            logging.disable(level)
            if before is not None:
                matplotlib.use(before)
