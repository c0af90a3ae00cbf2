"""Check of a fit: a table of its posterior, and a verdict with the thresholds that it used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LIMITS", "Check", "ScalarCheck", "check_draws"]

#: thresholds of the verdict: k-hat (Yao et al. 2018), R-hat (Vehtari et al. 2021), error of a mean
#: in reference sds, relative error of an sd, distance over that of two halves of the reference,
#: tail probability of a predictive check, and share of a row's latents that are active
LIMITS: Mapping[str, float] = {
    "khat": 0.7,
    "rhat": 1.05,
    "mean": 0.25,
    "sd": 0.15,
    "distance": 5.0,
    "p": 0.005,
    "active": 0.1,
}


@dataclass(frozen=True)
class ScalarCheck:
    """Check of one scalar of the posterior.

    ``mean_error`` is in units of the reference sd, ``sd_error`` relative (-0.26: 26 % too small),
    ``distance`` the Wasserstein distance to the reference over that between its two halves; NaN
    without a reference.
    """

    name: str
    mean: float
    sd: float
    rhat: float
    ess: float
    mean_error: float = math.nan
    sd_error: float = math.nan
    distance: float = math.nan


@dataclass(frozen=True)
class Check:
    """Result of ``Fit.check``.

    Attributes
    ----------
    lines
        One for each scalar of the posterior.
    khat, khat_error
        Pareto k-hat of each chain, and its standard error; NaN where there are no weights.
    p_values
        ``{"SITE STATISTIC": p}``, posterior predictive: the share of replicates whose statistic
        is at least that of the data.
    verdict
        What is wrong, in words, with the threshold; empty if nothing was found.
    draws, reference
        ``{scalar: (chain, draw)}``; the reference's None if there is none.
    limits
        The thresholds.
    """

    lines: tuple[ScalarCheck, ...]
    khat: np.ndarray
    khat_error: np.ndarray
    p_values: Mapping[str, float]
    verdict: tuple[str, ...]
    draws: Mapping[str, np.ndarray]
    reference: Mapping[str, np.ndarray] | None
    limits: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.verdict

    def __str__(self) -> str:
        """Format the table, with the verdict below."""
        against = self.reference is not None
        width = max([len(line.name) for line in self.lines], default=4)
        head = f"{'':{width}}       mean         sd  R-hat    ESS"
        rows = [head + ("  mean error  sd error  distance" if against else "")]
        for line in self.lines:
            row = f"{line.name:{width}} {line.mean:10.4g} {line.sd:10.4g}"
            row += f" {_formatted(line.rhat, 6, 3)} {line.ess:6.0f}"
            if against:
                row += f"  {line.mean_error:+10.2f} {line.sd_error:+9.0%} {line.distance:9.1f}"
            rows.append(row)
        if np.isfinite(self.khat).any():
            pairs = zip(self.khat, self.khat_error, strict=True)
            rows.append("k-hat " + ", ".join(f"{k:.2f} +- {e:.2f}" for k, e in pairs))
        if self.p_values:
            shown = ", ".join(f"{name} {p:.2f}" for name, p in self.p_values.items())
            rows.append(f"predictive p-values: {shown}")
        rows += [f"! {text}" for text in self.verdict] or ["nothing wrong was found"]
        return "\n".join(rows)

    def plot(self) -> Figure:
        """Plot errors of mean and sd, or intervals where there is no reference."""
        from ppl_zoo.diagnostics.plots.checks import plot_check

        return plot_check(self)


def check_draws(
    draws: Mapping[str, np.ndarray],
    *,
    khat: Sequence[float],
    num_weights: int,
    reference: Mapping[str, np.ndarray] | None,
    replicates: Mapping[str, np.ndarray],
    observed: Mapping[str, np.ndarray],
    mean_field: bool,
    active: np.ndarray | None = None,
) -> Check:
    """Check posterior draws.

    Parameters
    ----------
    draws, reference
        ``{site: (chain, draw, ...)}``.
    khat, num_weights
        Pareto k-hat of each chain, and the number of importance weights it was estimated from.
    replicates, observed
        ``{site: (draw, ...)}`` and ``{site: (...)}``.
    mean_field
        Whether the guide leaves out correlations, which the advice depends on.
    active
        Which local latent dimensions are active, ``(num_latents,)``.
    """
    from ppl_zoo.diagnostics.arviz_compat import ess_and_rhat

    scalars = _scalars(draws)
    other = None if reference is None else _scalars(reference)
    lines = []
    for name, values in scalars.items():
        ess, rhat = ess_and_rhat(values)
        line = {"name": name, "mean": float(values.mean()), "sd": float(values.std())}
        line |= {"rhat": rhat, "ess": ess}
        if other is not None and name in other:
            line |= _errors(values.ravel(), other[name])
        lines.append(ScalarCheck(**line))
    khat = np.asarray(khat, float)
    tail = math.ceil(min(0.2 * num_weights, 3.0 * math.sqrt(num_weights)))
    khat_error = np.where(
        np.isfinite(khat), (1 + np.maximum(khat, -0.5)) / math.sqrt(tail), np.nan
    )
    p_values = _p_values(replicates, observed)
    verdict = _posterior_collapse(active) + _verdict(lines, khat, p_values, mean_field, other)
    return Check(tuple(lines), khat, khat_error, p_values, verdict, scalars, other, LIMITS)


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


def _verdict(
    lines: Sequence[ScalarCheck],
    khat: np.ndarray,
    p_values: Mapping[str, float],
    mean_field: bool,
    reference: Mapping[str, np.ndarray] | None,
) -> tuple[str, ...]:
    """Describe what is beyond its threshold: k-hat, R-hat, errors, predictive p-values."""
    advice = ""
    if mean_field:
        advice = "; a full-rank guide (guide='multivariate-normal') may mend it"
    found = []
    worst = np.nanmax(khat) if np.isfinite(khat).any() else math.nan
    if worst > LIMITS["khat"]:
        found.append(
            f"k-hat is {worst:.2f} (above {LIMITS['khat']}): the guide is far from the "
            f"posterior{advice}"
        )
    apart = [line for line in lines if line.rhat > LIMITS["rhat"]]
    if apart:
        line = max(apart, key=lambda line: line.rhat)
        found.append(
            f"R-hat of {line.name} is {line.rhat:.2f} (above {LIMITS['rhat']}): the chains found "
            "different answers; compare their objectives, and take more steps or restarts"
        )
    found += _reference_errors(lines, advice, reference)
    for name, p in p_values.items():
        if min(p, 1 - p) < LIMITS["p"]:
            found.append(
                f"replicates do not look like the data: {name} has a predictive p-value of "
                f"{p:.3f} (within {LIMITS['p']} of 0 or 1); the model, not the fit, is at fault"
            )
    return tuple(found)


def _reference_errors(
    lines: Sequence[ScalarCheck], advice: str, reference: Mapping[str, np.ndarray] | None
) -> list[str]:
    """Describe errors of mean, sd and distribution against the reference."""
    found = []
    shifted = [line for line in lines if abs(line.mean_error) > LIMITS["mean"]]
    if shifted:
        line = max(shifted, key=lambda line: abs(line.mean_error))
        found.append(
            f"the mean of {line.name} is off by {abs(line.mean_error):.2f} posterior sds (above "
            f"{LIMITS['mean']}){_and_others(shifted)}"
        )
    narrow = [line for line in lines if abs(line.sd_error) > LIMITS["sd"]]
    if narrow:
        line = max(narrow, key=lambda line: abs(line.sd_error))
        size = "small" if line.sd_error < 0 else "large"
        strongest = 0.0 if reference is None else _strongest_correlation(reference)
        mend = advice if line.sd_error < 0 and strongest > 0.5 else ""
        found.append(
            f"the sd of {line.name} is {abs(line.sd_error):.0%} too {size} (above "
            f"{LIMITS['sd']:.0%}){_and_others(narrow)}{mend}"
        )
    far = [
        line
        for line in lines
        if line.distance > LIMITS["distance"] and line not in shifted and line not in narrow
    ]
    if far:
        line = max(far, key=lambda line: line.distance)
        found.append(
            f"the distribution of {line.name} is {line.distance:.0f} times as far from the "
            f"reference as its halves are from each other (above {LIMITS['distance']:.0f})"
        )
    return found


def _posterior_collapse(active: np.ndarray | None) -> tuple[str, ...]:
    if active is None or active.mean() >= LIMITS["active"]:
        return ()
    return (
        f"{active.sum()} of {len(active)} latents carry anything (below {LIMITS['active']:.0%}): "
        "the posterior has collapsed onto the prior; free bits, elbo=zoo.LocalELBO("
        "free_bits=0.1), or a KL that grows from 0, beta=lambda step: min(1.0, step / 5000), keep "
        "them in use",
    )


def _and_others(lines: Sequence[ScalarCheck]) -> str:
    return f", and {len(lines) - 1} more beside it" if len(lines) > 1 else ""


def _strongest_correlation(scalars: Mapping[str, np.ndarray]) -> float:
    if len(scalars) < 2 or len(scalars) > 500:
        return 0.0
    table = np.corrcoef([v.ravel() for v in scalars.values()])
    np.fill_diagonal(table, 0.0)
    return float(np.nanmax(np.abs(table)))


def _formatted(value: float, width: int, digits: int) -> str:
    return f"{value:{width}.{digits}f}" if math.isfinite(value) else f"{'-':>{width}}"
