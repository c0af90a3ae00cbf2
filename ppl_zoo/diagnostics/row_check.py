"""Latents of single rows: the guide's guess beside a sampler's posterior, and k-hat by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ppl_zoo.diagnostics.check import LIMITS
from ppl_zoo.diagnostics.khat import khat
from ppl_zoo.diagnostics.plots.style import COLOURS, SMALL, figure, tidy, title_of

__all__ = ["RowCheck", "check_rows"]

#: draws of each kind that go to ArviZ
KEPT = 1000
#: panels and intervals of a picture
MOST_ROWS, MOST_LATENTS = 6, 16


@dataclass(frozen=True)
class RowCheck:
    """The result of ``Fit.check_rows``.

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
    fit: Any

    def __str__(self) -> str:
        """Lay out a line a row."""
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
        """Draw 90 % intervals of the latents, those of guide and reference side by side."""
        from ppl_zoo.diagnostics.arviz_compat import get_group

        sources = [("guide", get_group(self.guide, "posterior"))]
        if self.reference is not None:
            sources.append(("reference", get_group(self.reference, "posterior")))
        names = list(self.mean_error) or list(sources[0][1].data_vars)
        drawn = {
            what: np.concatenate([_flat(group[name].values) for name in names], -1)
            for what, group in sources
        }
        num_rows, size = drawn["guide"].shape[1:]
        num_rows, size = min(num_rows, MOST_ROWS), min(size, MOST_LATENTS)
        columns = min(3, num_rows)
        lines = -(-num_rows // columns)
        height = (0.24 * size + 0.9) * lines + 0.7
        fig, axes = figure(3.1 * columns + 0.4, height, lines, columns, sharex=True, sharey=True)
        places = np.arange(size)
        for row, ax in enumerate(axes.flat):
            if row >= num_rows:
                ax.set_axis_off()
                continue
            tidy(ax)
            for index, (what, _) in enumerate(sources):
                values, shift = drawn[what][:, row, :size], 0.26 * index - 0.13 * len(sources[1:])
                low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
                colour, shifted = COLOURS[index], places + shift
                ax.hlines(shifted, low, high, color=colour, linewidth=2, label=what)
                ax.plot(middle, shifted, "o", color="white", markeredgecolor=colour, markersize=4)
            known = np.isfinite(self.khat[row])
            ax.set_title(
                f"row {row}" + (f", k-hat {self.khat[row]:.2f}" if known else ""), fontsize=10
            )
            ax.set_yticks(places)
            ax.set_xlabel("90 % interval" if row >= num_rows - columns else "", fontsize=SMALL)
        axes[0, 0].set_ylim(size - 0.4, -0.6)
        for ax in axes[:, 0]:
            ax.set_ylabel("latent", fontsize=SMALL)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(
            handles, labels, fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2
        )
        fig.suptitle(title_of(self.fit, None, "latents of single rows"), fontsize=11)
        return fig


def check_rows(fit: Any, reference: Any = None, num_samples: int = 4000) -> RowCheck:
    """Look at the latents of a fit's rows, each row by itself.

    Parameters
    ----------
    fit
        A :class:`ppl_zoo.Fit` over the chosen rows, of a model whose latents all belong to single
        rows.
    reference
        A sampler's fit to the same rows.
    num_samples
        Draws of the guide that k-hat is estimated from.
    """
    draws = fit.draws(num_samples, fit.rows)[fit.solution.best]
    weights = draws.log_joint_rows - draws.log_guide_rows
    options = {"num_samples": min(num_samples, KEPT), "max_local": len(fit.rows)}
    errors, ratios, other = {}, {}, None
    if reference is not None:
        other = reference.to_arviz(**options)
        for name, values in reference.posterior(10**9).items():
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
        guide=fit.to_arviz(**options),
        reference=other,
        fit=fit,
    )


def _flat(values: np.ndarray) -> np.ndarray:
    """``(chain, draw, row, ...)`` to ``(draws, row, size)``."""
    return values.reshape(values.shape[0] * values.shape[1], values.shape[2], -1)
