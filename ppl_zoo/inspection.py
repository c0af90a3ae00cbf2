"""What the command shows of a fit: posterior summary, diagnostics and figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
    """

    idata: Any = None
    summary: Any = None
    rhat: float | None = None
    khat: float | None = None
    figures: list[tuple[str, str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def inspect_fit(fit: Fit, card: DataCard | None = None, *, draws: int = 1000) -> Inspection:
    """Summarise a fit and draw its figures.

    Parameters
    ----------
    fit
        The fit, with its data.
    card
        What is known of the data: names, units, the shape of images.
    draws
        Posterior draws a chain.

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
        seen.idata = fit.to_arviz(num_samples=draws)
        seen.summary = attempt("summary", lambda: generation.summary(seen.idata))
        if has_global_latents(fit):
            if len(fit.solution.stopped) > 1:
                seen.rhat = attempt("R-hat", lambda: largest(generation.rhat(seen.idata)))
            khat = attempt("k-hat", fit.khat)
            seen.khat = None if khat is None else float(khat[fit.solution.best])
        for name, caption, make in (
            ("fit", "The fit over the data.", lambda: plots.plot_fit(fit, card)),
            ("objective", "The objective, one line a chain.", lambda: plots.plot_history(fit)),
            ("samples", "New draws beside the data.", lambda: plots.plot_samples(fit, card)),
            ("posterior", "The posterior.", lambda: plots.plot_posterior(fit)),
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


def largest(values: Any) -> float | None:
    """Largest finite number in a mapping of arrays, a data set or an array."""
    if hasattr(values, "data_vars"):
        arrays = [v.values for v in values.data_vars.values()]
    elif hasattr(values, "values") and callable(values.values):
        arrays = list(values.values())
    else:
        arrays = [values]
    flat = np.concatenate([np.asarray(a, dtype=float).ravel() for a in arrays])
    flat = flat[np.isfinite(flat)]
    return float(flat.max()) if flat.size else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' notices off the terminal, and draw without a screen."""
    import matplotlib

    before = matplotlib.get_backend(auto_select=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.use("Agg")
        try:
            yield
        finally:
            if before is not None:
                matplotlib.use(before)
