"""Check of local latents by row: Pareto k-hat, and the guide against a sampler's posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_zoo.core.display import html_table, html_text
from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.khat import KHAT_DRAWS, khat
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.diagnostics.verdicts import LIMITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RowCheck", "check_rows"]

#: draws of guide and reference that go to ArviZ
MAX_ARVIZ_DRAWS = 1000
#: asks a sampler for all the draws it has
ALL_DRAWS = 10**9


@dataclass(frozen=True, repr=False)
class RowCheck:
    """Result of ``Fit.check_rows``.

    Attributes
    ----------
    khat
        Pareto k-hat of each row's importance weights, ``(n,)``; above 0.7 the guide misses that
        row's posterior, NaN where it is exact.
    mean_error
        ``{site: (n, ...)}``: guide's mean minus the reference's, in reference sds; empty without a
        reference.
    sd_ratio
        ``{site: (n, ...)}``: guide's sd over the reference's.
    guide, reference
        ArviZ objects of the same variables, dims and coordinates, for ``az.plot_forest([guide,
        reference])`` and the like; ``reference`` is None where there is none.
    fit
        The fit, over the chosen rows.
    """

    khat: np.ndarray
    mean_error: Mapping[str, np.ndarray]
    sd_ratio: Mapping[str, np.ndarray]
    guide: Any
    reference: Any
    fit: FittedModel

    def __repr__(self) -> str:
        """Write how many rows the guide misses."""
        missed = int((self.khat > LIMITS["khat"]).sum())
        return f"RowCheck({len(self.khat)} rows, k-hat above {LIMITS['khat']} in {missed})"

    def _repr_html_(self) -> str:
        """Show the table."""
        return html_table(repr(self), {}, html_text("rows", str(self)))

    def __str__(self) -> str:
        """Format a line a row."""
        rows = ["  row  k-hat" + ("  largest mean error  sd ratio" if self.mean_error else "")]
        for row, value in enumerate(self.khat):
            line = f"{row:5}  {value:5.2f}" if np.isfinite(value) else f"{row:5}      -"
            if self.mean_error:
                errors = np.concatenate([e[row].ravel() for e in self.mean_error.values()])
                ratios = np.concatenate([r[row].ravel() for r in self.sd_ratio.values()])
                worst = errors[np.abs(errors).argmax()]
                line += f"  {worst:+18.2f}  {ratios.min():.2f} to {ratios.max():.2f}"
            rows.append(line + ("  !" if value > LIMITS["khat"] else ""))
        return "\n".join(rows)

    def plot(self) -> Figure:
        """Plot 90 % intervals of the latents, those of guide and reference side by side."""
        from ppl_zoo.diagnostics.plots.checks import plot_row_check

        return plot_row_check(self)


def check_rows(
    fit: FittedModel, reference: FittedModel | None = None, num_samples: int = KHAT_DRAWS
) -> RowCheck:
    """Check the local latents of a fit's rows, each row by itself.

    Parameters
    ----------
    fit
        A fit with the rows to check, of a model whose latents are all local.
    reference
        A sampler's fit to the same rows.
    num_samples
        Draws of the guide that k-hat is estimated from.

    Raises
    ------
    QueryError
        If the rows do not factorise.
    """
    from ppl_zoo.diagnostics.arviz import to_arviz  # xarray takes a second to import

    draws = fit.draws(num_samples, fit.rows)[fit.solution.best]
    weights = draws.log_weight_rows
    if weights is None:
        raise QueryError(f"{fit.model.model_name}: its rows do not factorise, no k-hat by row")
    options = {"num_samples": min(num_samples, MAX_ARVIZ_DRAWS), "max_local": len(fit.rows)}
    errors, ratios, other = {}, {}, None
    if reference is not None:
        other = to_arviz(reference, **options)
        for name, values in reference.posterior(ALL_DRAWS).items():
            if name not in draws.values:
                continue
            both = values.flatten(0, 1).double().cpu().numpy()
            ours = draws.values[name].double().cpu().numpy()
            errors[name] = (ours.mean(0) - both.mean(0)) / both.std(0)
            ratios[name] = ours.std(0) / both.std(0)
    return RowCheck(
        khat=np.array([khat(w) for w in weights.unbind(-1)]),
        mean_error=errors,
        sd_ratio=ratios,
        guide=to_arviz(fit, **options),
        reference=other,
        fit=fit,
    )
