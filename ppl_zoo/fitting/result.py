"""Fit: a fitted model with its checks, its way to ArviZ and to disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.display import html_table
from ppl_zoo.core.errors import RunError
from ppl_zoo.core.khat import khat
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.random import fork_generators
from ppl_zoo.core.solver import Solver
from ppl_zoo.diagnostics.check import Check
from ppl_zoo.diagnostics.verdicts import LIMITS
from ppl_zoo.fitting import checks, saving
from ppl_zoo.solvers.fixed_draws.linear_response import LinearResponse, linear_response

__all__ = ["Fit", "Rung"]


@dataclass(frozen=True)
class Rung:
    """A rung of :class:`ppl_zoo.Auto`: what was tried, whether it holds, or why not, its cost."""

    name: str
    holds: bool
    said: str
    seconds: float


class Fit(FittedModel):
    """A fitted model: what was found, how, its checks and the way to ArviZ.

    Attributes
    ----------
    model, guide
        The model with its best chain's parameters, and the guide (None if there is none).
    solver, seed
        What it was fitted with.
    solution
        The solver's record: parameters of all chains, objective, why each chain stopped.
    seconds
        Time spent fitting.
    save_error
        Why the fit is not in the run directory that ``zoo.fit`` was given; None where it is.
    """

    save_error: RunError | None = None

    def __repr__(self) -> str:
        """Summarise in one line, with what is known of the answer."""
        return f"{super().__repr__()[:-1]}{self._standing()})"

    def __str__(self) -> str:
        """Add to the summary what is known of the answer, and what to do next."""
        lines = [super().__repr__()]
        if standing := self._standing().removeprefix("; "):
            lines.append(f"  {standing}")
        return "\n".join([*lines, f"  next: {self._next()}"])

    def _repr_html_(self) -> str:
        """Show objective, why it stopped, time, what is known of the answer and what is next."""
        solution = self.solution
        stopped = [
            f"{why} after {steps} steps"
            for why, steps in zip(solution.stopped, solution.steps, strict=True)
        ]
        rows = {
            "model": repr(self.model),
            "solver": repr(self.solver),
            "objective": f"{self.objective:.4f} nats",
            "chains": f"{len(stopped)}; {', '.join(dict.fromkeys(stopped))}",
            "seconds": f"{self.seconds:.1f}",
            "answer": self._standing().removeprefix("; ") or "not checked yet",
            "next": self._next(),
        }
        return html_table("Fit", {k: v for k, v in rows.items() if v})

    def _next(self) -> str:
        """Say what to do next: go on, or look whether to trust it."""
        if self.stopped == "interrupted":
            return "zoo.fit(model, data, resume=fit) goes on where it was interrupted"
        unfinished = self.stopped == "max_steps" and self.solution.draws is None
        if unfinished and hasattr(self.solver, "steps"):
            more = f"zoo.{type(self.solver).__name__}(steps={10 * self.solver.steps})"
            return f"it has not converged; zoo.fit(model, data, {more}, resume=fit) goes on"
        return "fit.check() says whether to trust it, fit.to_arviz() exports the posterior"

    def _standing(self) -> str:
        """Say in a clause whether the answer holds, as far as the solver measured it."""
        if self.ladder:
            last = self.ladder[-1]
            return f"; holds by {last.name}" if last.holds else "; no rung of the ladder holds"
        share = self.solution.share
        score = self.solution.validation_score
        if np.isfinite(score) and self.valid is not None:
            return f"; {len(self.valid)} rows held out: {score:.2f} nats a row"
        if np.isfinite(share):
            shown = f"; {share:.0%} of its draws are effective"
            few = share < LIMITS["share"]
            return shown + (": not the posterior, zoo.Auto() looks further" if few else "")
        diverging = self.solution.sample_stats.get("diverging")
        if diverging is not None and diverging.any():
            return (
                f"; {int(diverging.sum())} of {diverging.size} draws diverged: part of the "
                "posterior may be missing, zoo.Auto() looks further"
            )
        if self.solution.draws is not None:
            worst = max((_split_rhat(v) for v in self.solution.draws.values()), default=np.nan)
            if worst > LIMITS["rhat"]:
                return f"; R-hat {worst:.2f}: the chains disagree, draw more or pass init=fit"
        return ""

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs that :class:`ppl_zoo.Auto` climbed; empty for other solvers."""
        return tuple(Rung(**rung) for rung in self.solution.state_values.get("ladder", ()))

    def khat(self, num_samples: int = 4000) -> np.ndarray:
        """Pareto k-hat of the importance weights, one a chain; above 0.7 the guide is poor.

        Yao et al. 2018 (https://arxiv.org/abs/1802.02538). NaN where the weights are constant:
        the guide is then exact, or there is nothing latent.
        """
        return np.array([khat(w) for w in self.log_weights(num_samples)])

    @one_at_a_time
    def check(
        self,
        reference: Solver | FittedModel | Mapping[str, Any] | None = None,
        *,
        num_samples: int = 4000,
    ) -> Check:
        """Check the fit: the posterior, the model, and how it generalises, a verdict each.

        Parameters
        ----------
        reference
            None; a sampler, ``zoo.NUTS()``, which is then run on the same model and data; a fit;
            or posterior draws ``{site: (chain, draw, ...)}``.
        num_samples
            Draws a chain.

        Returns
        -------
        Check
            Prints as a table with three verdicts, ``.inference`` (whose answer is ``.passed``),
            ``.model`` and ``.generalisation``; ``.plot()``. See
            :mod:`ppl_zoo.diagnostics.check` for what is measured and the limits.
        """
        with fork_generators(self.model.device):
            return checks.check(self, reference, num_samples)

    @one_at_a_time
    def check_rows(
        self, *data: Any, reference: Solver | None = None, num_samples: int = 4000
    ) -> Any:
        """Check the guide's posterior of chosen rows against a sampler's, row by row.

        Parameters
        ----------
        *data
            The rows, as for ``model.model``; not only such as the fit has seen.
        reference
            A sampler, ``zoo.NUTS()``, which is then run on these rows at the fitted parameters.
        num_samples
            Draws of the guide that each row's k-hat is estimated from.

        Returns
        -------
        RowCheck
            Prints as a table; ``.khat``, ``.mean_error``, ``.sd_ratio``, ``.plot()``; ``.guide``
            and ``.reference`` are ArviZ objects of the same variables.

        Raises
        ------
        QueryError
            If the guide cannot be asked about new rows, or draws no continuous latents of them.
        """
        with fork_generators(self.model.device):
            return checks.check_rows(self, data, reference, num_samples)

    @one_at_a_time
    def linear_response(self) -> LinearResponse:
        """Linear-response covariances, which a mean-field fit leaves out.

        Returns
        -------
        LinearResponse
            ``.mean`` and ``.sd`` by site, ``.covariance`` of all latents, ``.labels`` of its rows.
        """
        with fork_generators(self.model.device), self.model.defaults():
            rows = self.model.rows_of(self.data())
            return linear_response(self.model, rows, self.guide, seed=self.seed)

    @one_at_a_time
    def to_arviz(self, num_samples: int = 1000, **options: Any) -> Any:
        """Convert to ArviZ: ``InferenceData`` (0.23) or ``DataTree`` (1.x).

        See :func:`ppl_zoo.diagnostics.to_arviz` for the groups and options.
        """
        from ppl_zoo.diagnostics import to_arviz

        return to_arviz(self, num_samples=num_samples, **options)

    @one_at_a_time
    def save(self, path: str | Path, *, include_data: bool | None = None) -> Path:
        """Write the fit to a run directory; see :func:`ppl_zoo.fitting.saving.save`."""
        return saving.save(self, path, include_data=include_data)


def _split_rhat(draws: Tensor) -> float:
    """Largest split R-hat of a site ``(chain, draw, ...)`` (Gelman et al. 2013, 11.4)."""
    half = draws.shape[1] // 2
    if half < 2:
        return 0.0
    split = torch.cat([draws[:, :half], draws[:, -half:]]).double()
    within, between = split.var(1).mean(0), split.mean(1).var(0)
    rhat = (((half - 1) / half * within + between) / within).sqrt()
    return float(rhat.nan_to_num(0.0, posinf=0.0).max()) if rhat.numel() else 0.0
