"""Check of a fit: is this the posterior, does the model describe the data, will it generalise.

Three questions, three verdicts, each with what was measured, the limit it was held against, the
latents that are off, and the next step to take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_zoo.core.display import html_table, html_text
from ppl_zoo.core.khat import Reweighted, khat, khat_of_rows, psis_weights, smoothed_share
from ppl_zoo.diagnostics.verdicts import (
    LIMITS,
    HeldOutScores,
    ScalarCheck,
    SolverDiagnostics,
    Verdict,
    judge_generalisation,
    judge_inference,
    judge_model,
    weights_refuse,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Check", "check_draws", "refused_by_weights"]


@dataclass(frozen=True, repr=False)
class Check:
    """Result of ``Fit.check``.

    Attributes
    ----------
    inference
        Is this the model's posterior? ``passed`` is its answer.
    model
        Does the model describe the data?
    generalisation
        Will it predict rows that it has not seen?
    lines
        One for each scalar of the posterior.
    khat, khat_error
        Pareto k-hat of each chain, and its standard error; NaN where there are no weights.
    share
        Share of the draws that are effective under their importance weights, a chain.
    p_values
        ``{"SITE STATISTIC": p}``, posterior predictive: the share of replicates whose statistic
        is at least that of the data.
    draws, reference
        ``{scalar: (chain, draw)}``; the reference's None if there is none.
    limits
        The limits.
    """

    inference: Verdict
    model: Verdict
    generalisation: Verdict
    lines: tuple[ScalarCheck, ...]
    khat: np.ndarray
    khat_error: np.ndarray
    share: np.ndarray
    p_values: Mapping[str, float]
    draws: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray] | None
    limits: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether the answer can be taken for the model's posterior: ``inference.passed``."""
        return self.inference.passed

    @property
    def verdict(self) -> tuple[str, ...]:
        """What is wrong, of all three questions, in words; empty if nothing was found."""
        parts = (self.inference, self.model, self.generalisation)
        return tuple(finding.text for part in parts for finding in part.findings)

    def __repr__(self) -> str:
        """Write the three verdicts in a word each."""
        verdicts = (self.inference, self.model, self.generalisation)
        said = ["yes" if v.passed else "NO" if v.findings else "not measured" for v in verdicts]
        pairs = zip(("posterior", "describes the data", "predicts new rows"), said, strict=True)
        shown = ", ".join(f"{name}: {word}" for name, word in pairs)
        return f"Check({len(self.lines)} scalars; {shown})"

    def _repr_html_(self) -> str:
        """Show the three verdicts; the table of all scalars opens below."""
        rows = {
            "Is this the model's posterior?": self.inference,
            "Does the model call_text the data?": self.model,
            "Will it predict new rows?": self.generalisation,
        }
        return html_table("Check", rows, html_text(f"{len(self.lines)} scalars", str(self)))

    def __str__(self) -> str:
        """Format the table, with the verdicts below."""
        against = self.reference is not None
        weighted = not against and any(line.reweighted is not None for line in self.lines)
        width = max([len(line.name) for line in self.lines], default=4)
        head = f"{'':{width}}       mean         sd  R-hat    ESS"
        if against:
            head += "  mean error  sd error  distance"
        elif weighted:
            by = "short chains" if any(line.drift for line in self.lines) else "reweighted"
            head += f"  mean error  sd error ({by})"
        rows = [head]
        for line in self.lines:
            row = f"{line.name:{width}} {line.mean:10.4g} {line.sd:10.4g}"
            row += f" {_formatted(line.rhat, 6, 3)} {line.ess:6.0f}"
            if against:
                row += f"  {line.mean_error:+10.2f} {line.sd_error:+9.0%} {line.distance:9.1f}"
            elif line.drift is not None or line.reweighted is not None:
                found = line.drift or line.reweighted
                row += f"  {found.mean_error:+10.2f} {found.sd_error:+9.0%}"
                row += f" +- {found.sd_noise:.0%}"
            rows.append(row)
        if np.isfinite(self.khat).any():
            pairs = zip(self.khat, self.khat_error, strict=True)
            rows.append("k-hat " + ", ".join(f"{k:.2f} +- {e:.2f}" for k, e in pairs))
        if self.p_values:
            shown = ", ".join(f"{name} {p:.2f}" for name, p in self.p_values.items())
            rows.append(f"predictive p-values: {shown}")
        rows.append(f"Is this the model's posterior? {self.inference}")
        rows.append(f"Does the model describe the data? {self.model}")
        rows.append(f"Will it predict new rows? {self.generalisation}")
        return "\n".join(rows)

    def plot(self) -> Figure:
        """Plot errors of mean and sd, or intervals where there is no reference."""
        from ppl_zoo.diagnostics.plots.checks import plot_check

        return plot_check(self)


def check_draws(
    draws: Mapping[str, np.ndarray],
    solver: SolverDiagnostics,
    *,
    reference: Mapping[str, np.ndarray] | None,
    replicates: Mapping[str, np.ndarray],
    observed: Mapping[str, np.ndarray],
    held_out: HeldOutScores | None = None,
) -> Check:
    """Check posterior draws.

    Parameters
    ----------
    draws, reference
        ``{site: (chain, draw, ...)}``.
    solver
        What else is known of the fit.
    replicates, observed
        ``{site: (draw, ...)}`` and ``{site: (...)}``.
    held_out
        Log densities of rows of the fit and of held-out rows; None where none were held out.
    """
    from ppl_zoo.diagnostics.arviz_compat import ess_and_rhat

    scalars = _scalars(draws)
    other = None if reference is None else _scalars(reference)
    weights = solver.log_weights
    smoothed = None if weights is None else np.stack([psis_weights(w).numpy() for w in weights])
    best = 0 if smoothed is None else int(np.argmax([smoothed_share(w) for w in weights]))
    lines = []
    for name, values in scalars.items():
        ess, rhat = ess_and_rhat(values)
        line = {"name": name, "mean": float(values.mean()), "sd": float(values.std())}
        line |= {"rhat": rhat, "ess": ess}
        if other is not None and name in other:
            line |= _errors(values.ravel(), other[name])
        if smoothed is not None and np.isfinite(smoothed[best]).all():
            line["drift"] = solver.drifts.get(name)
            line["reweighted"] = Reweighted.of(values[best].astype(np.float64), smoothed[best])
        lines.append(ScalarCheck(**line))
    khats, shares, num_weights = _weights(solver)
    khat_error = _khat_error(khats, num_weights)
    p_values = _p_values(replicates, observed)
    return Check(
        inference=judge_inference(lines, solver, khats, khat_error, shares, other),
        model=judge_model(p_values, solver.active),
        generalisation=judge_generalisation(held_out),
        lines=tuple(lines),
        khat=khats,
        khat_error=khat_error,
        share=shares,
        p_values=p_values,
        draws=scalars,
        reference=other,
        limits=LIMITS,
    )


def _khat_error(khats: np.ndarray, num_weights: int) -> np.ndarray:
    """Estimate the standard error of k-hat by the number of weights in its tail (Smith 1987)."""
    tail = math.ceil(min(0.2 * num_weights, 3.0 * math.sqrt(num_weights))) or 1
    error = (1 + np.maximum(khats, -0.5)) / math.sqrt(tail)
    return np.where(np.isfinite(khats), error, np.nan)


def refused_by_weights(log_weights: torch.Tensor) -> bool:
    """Whether the importance weights ``(draw,)`` of a guide refuse it."""
    if not torch.isfinite(log_weights).any() or log_weights.isnan().any():
        return False  # that is told as it is
    found = np.array([khat(log_weights)])
    error = _khat_error(found, len(log_weights))
    return weights_refuse(smoothed_share(log_weights), float(found[0]), float(error[0]))


def _weights(solver: SolverDiagnostics) -> tuple[np.ndarray, np.ndarray, int]:
    """K-hat and share of effective draws of each chain, and the number of weights."""
    if solver.log_weights is not None:
        each = solver.log_weights
        return (
            np.array([khat(w) for w in each]),
            np.array([smoothed_share(w) for w in each]),
            each.shape[1],
        )
    if solver.row_log_weights:
        rows = solver.row_log_weights
        # nine rows of ten are above, as k-hat's are below
        shares = [float(np.quantile([smoothed_share(w) for w in r.mT], 0.1)) for r in rows]
        return np.array([khat_of_rows(r) for r in rows]), np.array(shares), len(rows[0])
    none = np.full(len(solver.stopped), np.nan)
    return none, none, 1


def _scalars(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scalars of the sites that vary, ``(chain, draw)`` each."""
    out = {}
    for name, values in draws.items():
        values = np.asarray(values, float)
        flat = values.reshape(*values.shape[:2], -1)
        for i, index in enumerate(np.ndindex(values.shape[2:])):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            if np.ptp(flat[..., i]) > 0:
                out[label] = flat[..., i]
    return out


def _errors(values: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Errors of mean and sd, and distance, against the reference ``(chain, draw)``."""
    both = reference.ravel()
    sd = both.std()
    # halves of every chain, so that both have seen all of them
    middle = reference.shape[1] // 2
    halves = _wasserstein(reference[:, :middle].ravel(), reference[:, middle:].ravel())
    # halves of independent draws differ by about this much; keeps the divisor away from 0
    floor = sd / math.sqrt(both.size)
    return {
        "mean_error": float((values.mean() - both.mean()) / sd),
        "sd_error": float(values.std() / sd - 1),
        "distance": float(_wasserstein(values, both) / max(halves, floor)),
    }


def _wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples, by their quantiles."""
    grid = (np.arange(1000) + 0.5) / 1000
    return float(np.abs(np.quantile(a, grid) - np.quantile(b, grid)).mean())


def _p_values(
    replicates: Mapping[str, np.ndarray], observed: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Posterior predictive p-values of mean, sd, minimum and maximum of each site."""
    statistics = {"mean": np.mean, "sd": np.std, "min": np.min, "max": np.max}
    out = {}
    for site, drawn in replicates.items():
        if site not in observed:
            continue
        data = np.asarray(observed[site], float)
        flat = np.asarray(drawn, float).reshape(len(drawn), -1)
        for name, statistic in statistics.items():
            # ties count half: a maximum of 1 in binary data is no evidence
            ours, theirs = statistic(data), statistic(flat, axis=1)
            p = (theirs > ours).mean() + 0.5 * (theirs == ours).mean()
            out[f"{site} {name}"] = float(p)
    return out


def _formatted(value: float, width: int, digits: int) -> str:
    return f"{value:{width}.{digits}f}" if math.isfinite(value) else f"{'-':>{width}}"
