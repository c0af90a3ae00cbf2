"""Verdicts on a fit: what was measured, what is beyond its limit, and the next step to take.

Three questions: is this the model's posterior, does the model describe the data, will it predict
rows that it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ppl_zoo.core.khat import Reweighted

__all__ = [
    "LIMITS",
    "Drift",
    "Finding",
    "HeldOutScores",
    "ScalarCheck",
    "SolverDiagnostics",
    "Verdict",
    "judge_generalisation",
    "judge_inference",
    "judge_model",
    "weights_refuse",
]

#: limits of the verdicts: k-hat less its standard error (Yao et al. 2018), where fewer than
#: ``steady`` of the draws are effective; the least share of draws that are effective by their
#: smoothed weights; R-hat (Vehtari et al. 2021) and effective draws of a sampler, in all; error
#: of a mean in posterior sds and relative error of an sd, against the reweighted draws or a
#: reference; distance over that of two halves of the reference; tail probability of a predictive
#: check; share of a row's latents that are active
LIMITS: Mapping[str, float] = {
    "khat": 0.7,
    "steady": 0.9,
    "share": 0.2,
    "rhat": 1.05,
    "ess": 100.0,
    "mean": 0.15,
    "sd": 0.15,
    "distance": 5.0,
    "p": 0.005,
    "active": 0.1,
}
#: an error is told where it exceeds its limit and so many of its own standard errors
NOISE_FACTOR = 2.0
#: terms whose tail has a larger k-hat have no variance
FINITE_VARIANCE = 0.5
#: sites named in a finding
MAX_NAMED = 3


@dataclass(frozen=True)
class ScalarCheck:
    """Check of one scalar of the posterior.

    ``mean_error`` is in units of the reference sd, ``sd_error`` relative (-0.26: 26 % too small),
    ``distance`` the Wasserstein distance to the reference over that between its two halves; NaN
    without a reference. ``reweighted`` holds the same errors against the guide's own draws under
    importance weights, ``drift`` those that short chains begun at its draws tell; None where there
    are none.
    """

    name: str
    mean: float
    sd: float
    rhat: float
    ess: float
    mean_error: float = math.nan
    sd_error: float = math.nan
    distance: float = math.nan
    reweighted: Reweighted | None = None
    drift: Drift | None = None


@dataclass(frozen=True)
class Drift:
    """Change of a scalar's moments along short Markov chains begun at a guide's draws.

    Attributes
    ----------
    mean_error, mean_noise
        Error of the guide's mean in posterior sds, extrapolated to long chains, and its standard
        error.
    sd_error, sd_noise
        Relative error of its sd, likewise.
    """

    mean_error: float
    mean_noise: float
    sd_error: float
    sd_noise: float


@dataclass(frozen=True)
class Finding:
    """Something beyond its limit.

    Attributes
    ----------
    measure, value, limit
        What was measured, and the limit of :data:`LIMITS`; NaN where it has none.
    text
        In words, with the next step to take.
    sites
        Scalars that are off, the worst first.
    """

    measure: str
    value: float
    limit: float
    text: str
    sites: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class Verdict:
    """Answer to one question about a fit.

    Attributes
    ----------
    findings
        What is wrong.
    measured
        What was measured and found within its limit, in words.
    unchecked
        What was not, or cannot be, checked, in words.
    """

    findings: tuple[Finding, ...] = ()
    measured: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was measured, and nothing is wrong."""
        return not self.findings and bool(self.measured)

    def __str__(self) -> str:
        """Say it in a paragraph."""
        if self.findings:
            parts = ["NO: " + self.findings[0].text, *(f.text for f in self.findings[1:])]
        else:
            parts = ["yes, by " + ", ".join(self.measured)] if self.measured else []
        parts += [f"not checked: {text}" for text in self.unchecked]
        return "; ".join(parts)


@dataclass(frozen=True)
class SolverDiagnostics:
    """Diagnostics of a solver: why it stopped, its importance weights, divergences.

    Attributes
    ----------
    stopped
        Why each chain stopped.
    converges
        Whether the solver has an end to converge to (a sampler has none).
    log_weights
        Log importance weights of the draws, ``(chain, draw)``; None for a sampler's.
    row_log_weights
        Those of single rows, ``(draw, row)`` a chain, in the place of ``log_weights`` under an
        amortised guide.
    diverging
        Divergent transitions ``(chain, draw)`` of a sampler.
    drifts
        What short chains tell of each scalar ``"site[i, j]"``; empty where none ran.
    mean_field
        Whether the guide leaves out correlations, which the advice depends on.
    active
        Which local latent dimensions are active, ``(num_latents,)``.
    constant
        Continuous latents that have one value in all draws.
    restarts
        How many restarts of an optimiser found the best optimum, and how many there were; None
        where there was one.
    """

    stopped: Sequence[str]
    converges: bool = True
    log_weights: torch.Tensor | None = None
    row_log_weights: Sequence[torch.Tensor] = field(default=())
    diverging: np.ndarray | None = None
    drifts: Mapping[str, Drift] = field(default_factory=dict)
    mean_field: bool = False
    active: np.ndarray | None = None
    constant: Sequence[str] = ()
    restarts: tuple[int, int] | None = None


@dataclass(frozen=True)
class HeldOutScores:
    """Log densities of rows that a fit has seen, and of rows that it has not, in nats.

    Attributes
    ----------
    train, held_out
        ``(rows,)``.
    chosen
        Whether the held-out rows chose where the fit stopped.
    refitted
        Whether the model was fitted anew to the other rows for this check.
    degenerate
        Parts of the density that have collapsed, in words.
    """

    train: np.ndarray = field(default_factory=lambda: np.empty(0))
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0))
    chosen: bool = False
    refitted: bool = False
    degenerate: tuple[str, ...] = ()


def judge_inference(
    lines: Sequence[ScalarCheck],
    solver: SolverDiagnostics,
    khats: np.ndarray,
    khat_errors: np.ndarray,
    shares: np.ndarray,
    reference: Mapping[str, np.ndarray] | None,
) -> Verdict:
    """Judge whether this is the model's posterior."""
    found: list[Finding] = []
    measured: list[str] = []
    unchecked: list[str] = []
    advice = (
        "a full-rank guide (guide='multivariate-normal') may mend it"
        if solver.mean_field
        else "zoo.Auto() looks further, and zoo.NUTS(init=fit) samples it"
    )
    weighted = solver.log_weights is not None or bool(solver.row_log_weights)
    found += _convergence(solver) + _judge_constants(solver.constant)
    if solver.converges and not found:
        measured.append("convergence")
    if solver.restarts is not None:
        same, restarts = solver.restarts
        if same > 1:
            measured.append(f"{same} of {restarts} restarts, which found this optimum")
        else:
            unchecked.append(
                f"whether there is a better optimum: 1 of {restarts} restarts found this one"
            )
    drifted = [line for line in lines if line.drift is not None]
    if weighted and drifted:
        found += _judge_drifts(drifted, float(np.nanmin(shares)), advice)
        measured.append("means and sds at the ends of short chains begun at the guide's draws")
    elif weighted:
        found += _judge_weights(solver, khats, khat_errors, shares, lines, advice)
        shown = np.nanmin(shares) if np.isfinite(shares).any() else math.nan
        measured.append(f"{shown:.0%} effective draws")
        if solver.log_weights is not None and lines:
            measured.append("means and sds of the reweighted draws")
        unchecked += _unmeasured(lines)
    elif solver.converges and lines:
        unchecked.append("the posterior is closed or a point: it has no importance weights")
    elif solver.converges:
        unchecked.append("nothing is latent: the parameters are a point and have no posterior")
    found += _judge_chains(lines, sampled=not solver.converges)
    if not solver.converges and lines:
        measured.append("R-hat, effective draws and divergences")
    if reference is None:
        if lines:
            unchecked.append(
                "parts of the posterior where no draw fell (another mode, a tail), which "
                "check(zoo.NUTS()) may find"
            )
    else:
        found += _judge_reference(lines, advice, reference)
        measured.append("means, sds and distributions of the reference")
    return Verdict(tuple(found), tuple(measured), tuple(unchecked))


def _convergence(solver: SolverDiagnostics) -> list[Finding]:
    """Chains that did not reach an end, and transitions that diverged."""
    found = []
    if solver.converges:
        ended = [reason for reason in solver.stopped if reason != "converged"]
        if ended and "converged" not in solver.stopped:
            why = {
                "max_steps": "it used up its steps before it converged: allow more",
                "interrupted": "it was interrupted: resume it",
                "diverged": "it diverged: start anew with a smaller learning rate",
            }.get(ended[0], f"it stopped by {ended[0]}")
            found.append(Finding("convergence", math.nan, math.nan, f"the fit is not done, {why}"))
    elif "interrupted" in solver.stopped:
        text = "the sampler was interrupted: resume it"
        found.append(Finding("convergence", math.nan, math.nan, text))
    if solver.diverging is not None and solver.diverging.any():
        count, size = int(solver.diverging.sum()), solver.diverging.size
        found.append(
            Finding(
                "divergences",
                float(count),
                0.0,
                f"{count} of {size} draws diverged: the chains may have left out a part of the "
                "posterior; take smaller steps (a higher target_accept), write a hierarchy "
                "non-centred, or let zoo.Auto() look",
            )
        )
    return found


def _judge_constants(names: Sequence[str]) -> list[Finding]:
    """Latents that do not vary: a point is no posterior, and importance weights do not see it."""
    if not names:
        return []
    shown = ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
    text = (
        f"{shown} has one value in all draws: a point, which is no posterior; let a guide draw it"
    )
    return [Finding("constant", float(len(names)), 0.0, text, tuple(names))]


def _judge_weights(
    solver: SolverDiagnostics,
    khats: np.ndarray,
    khat_errors: np.ndarray,
    shares: np.ndarray,
    lines: Sequence[ScalarCheck],
    advice: str,
) -> list[Finding]:
    """Judge by the importance weights: finite, enough effective draws, moments as reweighted."""
    found = []
    weights = solver.log_weights
    if weights is not None:
        bad = ~torch.isfinite(weights) & (weights != -math.inf)
        if bad.any() or (weights == -math.inf).all():
            count = int((~torch.isfinite(weights)).sum())
            return [
                Finding(
                    "weights",
                    float(count),
                    0.0,
                    f"{count} of {weights.numel()} importance weights are not finite: the fit ran "
                    "away, or the density overflows; start anew with another seed or smaller "
                    "steps",
                )
            ]
    share, worst = float(np.nanmin(shares)), _nanmax(khats)
    off = _off(lines)
    named = _named(off)
    if share < LIMITS["share"]:
        found.append(
            Finding(
                "effective draws",
                share,
                LIMITS["share"],
                f"{share:.1%} of the guide's draws are effective (below {LIMITS['share']:.0%}): "
                f"the guide is far from the posterior{named}; {advice}",
                tuple(line.name for line in off),
            )
        )
    error = khat_errors[np.nanargmax(khats)] if np.isfinite(worst) else 0.0
    if worst - error > LIMITS["khat"] and share < LIMITS["steady"]:
        found.append(
            Finding(
                "k-hat",
                worst,
                LIMITS["khat"],
                f"k-hat is {worst:.2f} (above {LIMITS['khat']}): the guide is far from the "
                f"posterior{named}; {advice}",
                tuple(line.name for line in off),
            )
        )
    for kind in ("mean", "sd"):
        bad = [line for line in off if kind in _beyond(line.reweighted)]
        if not bad:
            continue
        line = max(bad, key=lambda line: abs(getattr(line.reweighted, f"{kind}_error")))
        value = getattr(line.reweighted, f"{kind}_error")
        found.append(
            Finding(
                kind,
                value,
                LIMITS[kind],
                f"the {kind} of {line.name} is {_off_by(kind, value)} by the reweighted "
                f"draws{_and_others(bad)}; {advice}",
                tuple(line.name for line in bad),
            )
        )
    return found


def weights_refuse(share: float, khat: float, error: float) -> bool:
    """Whether importance weights refuse a guide: few effective draws, or too heavy a tail."""
    heavy = khat - error > LIMITS["khat"] and share < LIMITS["steady"]
    return share < LIMITS["share"] or heavy


def _judge_drifts(lines: Sequence[ScalarCheck], share: float, advice: str) -> list[Finding]:
    """Judge by short chains begun at the guide's draws, where its weights refuse it."""
    found = []
    for kind in ("mean", "sd"):
        errors = {
            line.name: (getattr(line.drift, f"{kind}_error"), getattr(line.drift, f"{kind}_noise"))
            for line in lines
        }
        bad = {
            name: value
            for name, (value, noise) in errors.items()
            if abs(value) > LIMITS[kind] + NOISE_FACTOR * noise
        }
        if bad:
            name = max(bad, key=lambda n: abs(bad[n]))
            found.append(
                Finding(
                    kind,
                    bad[name],
                    LIMITS[kind],
                    f"the {kind} of {name} is {_off_by(kind, bad[name])} by short chains begun "
                    f"at the guide's draws{_and_others(bad)}; {advice}",
                    tuple(sorted(bad, key=lambda n: -abs(bad[n]))),
                )
            )
    slow = [
        line
        for line in lines
        if NOISE_FACTOR * line.drift.mean_noise > LIMITS["mean"]
        or NOISE_FACTOR * line.drift.sd_noise > LIMITS["sd"]
    ]
    if slow and not found:
        found.append(
            Finding(
                "effective draws",
                share,
                LIMITS["share"],
                f"{share:.1%} of the guide's draws are effective (below {LIMITS['share']:.0%}), "
                f"and short chains begun at them move too little to tell{_named(slow)}; {advice}",
                tuple(line.name for line in slow),
            )
        )
    return found


def _off_by(kind: str, value: float) -> str:
    """Say an error of a moment beyond its limit."""
    if kind == "mean":
        return f"off by {abs(value):.2f} posterior sds (above {LIMITS['mean']:.2f})"
    size = "small" if value < 0 else "large"
    return f"{abs(value):.0%} too {size} (above {LIMITS['sd']:.0%})"


def _beyond(found: Reweighted | None) -> tuple[str, ...]:
    """Which moments are off by more than their limit and their noise."""
    if found is None:
        return ()
    return tuple(
        kind for kind in ("mean", "sd") if _exceeds(found, kind) and not _too_heavy(found, kind)
    )


def _exceeds(found: Reweighted, kind: str) -> bool:
    """Whether the error of a moment is beyond its limit and its noise."""
    error, noise = (getattr(found, f"{kind}_{what}") for what in ("error", "noise"))
    return abs(error) > max(LIMITS[kind], NOISE_FACTOR * noise)


def _too_heavy(found: Reweighted, kind: str) -> bool:
    """Whether the terms of a moment have no variance, so that its error has no standard error."""
    return getattr(found, f"{kind}_khat") > FINITE_VARIANCE


def _unmeasured(lines: Sequence[ScalarCheck]) -> list[str]:
    """Moments that the reweighted draws can't tell, in words."""
    out = []
    for kind in ("mean", "sd"):
        found = [
            line.name
            for line in lines
            if line.reweighted is not None
            and _exceeds(line.reweighted, kind)
            and _too_heavy(line.reweighted, kind)
        ]
        if found:
            shown = ", ".join(found[:MAX_NAMED]) + (", ..." if len(found) > MAX_NAMED else "")
            out.append(f"the {kind} of {shown}, whose tails are too heavy for so many draws")
    return out


def _off(lines: Sequence[ScalarCheck]) -> list[ScalarCheck]:
    """Scalars that the reweighted draws contradict, the worst first."""
    bad = [line for line in lines if _beyond(line.reweighted)]
    return sorted(
        bad, key=lambda line: -max(abs(line.reweighted.mean_error), abs(line.reweighted.sd_error))
    )


def _named(lines: Sequence[ScalarCheck]) -> str:
    names = ", ".join(line.name for line in lines[:MAX_NAMED])
    return f" (most in {names}{', ...' if len(lines) > MAX_NAMED else ''})" if lines else ""


def _judge_chains(lines: Sequence[ScalarCheck], sampled: bool) -> list[Finding]:
    """Judge by R-hat, and by the effective draws of a sampler."""
    found = []
    apart = [line for line in lines if line.rhat > LIMITS["rhat"]]
    if apart:
        apart.sort(key=lambda line: -line.rhat)
        line = apart[0]
        step = (
            "draw more, or start the chains from a fit (init=)"
            if sampled
            else "compare their objectives, and take more steps or restarts"
        )
        found.append(
            Finding(
                "R-hat",
                line.rhat,
                LIMITS["rhat"],
                f"R-hat of {line.name} is {line.rhat:.2f} (above {LIMITS['rhat']}): the chains "
                f"found different answers{_and_others(apart)}; {step}",
                tuple(line.name for line in apart),
            )
        )
    few = [line for line in lines if sampled and line.ess < LIMITS["ess"]]
    if few:
        few.sort(key=lambda line: line.ess)
        found.append(
            Finding(
                "effective draws",
                few[0].ess,
                LIMITS["ess"],
                f"{few[0].name} has {few[0].ess:.0f} effective draws (below "
                f"{LIMITS['ess']:.0f}){_and_others(few)}; draw more",
                tuple(line.name for line in few),
            )
        )
    return found


def _judge_reference(
    lines: Sequence[ScalarCheck], advice: str, reference: Mapping[str, np.ndarray]
) -> list[Finding]:
    """Judge by errors of mean, sd and distribution against the reference."""
    found = []
    shifted = [line for line in lines if abs(line.mean_error) > LIMITS["mean"]]
    if shifted:
        shifted.sort(key=lambda line: -abs(line.mean_error))
        line = shifted[0]
        found.append(
            Finding(
                "mean",
                line.mean_error,
                LIMITS["mean"],
                f"the mean of {line.name} is off by {abs(line.mean_error):.2f} posterior sds "
                f"(above {LIMITS['mean']}){_and_others(shifted)}",
                tuple(line.name for line in shifted),
            )
        )
    narrow = [line for line in lines if abs(line.sd_error) > LIMITS["sd"]]
    if narrow:
        narrow.sort(key=lambda line: -abs(line.sd_error))
        line = narrow[0]
        size = "small" if line.sd_error < 0 else "large"
        mend = line.sd_error < 0 and _strongest_correlation(reference) > 0.5
        found.append(
            Finding(
                "sd",
                line.sd_error,
                LIMITS["sd"],
                f"the sd of {line.name} is {abs(line.sd_error):.0%} too {size} (above "
                f"{LIMITS['sd']:.0%}){_and_others(narrow)}{f'; {advice}' if mend else ''}",
                tuple(line.name for line in narrow),
            )
        )
    far = [
        line
        for line in lines
        if line.distance > LIMITS["distance"] and line not in shifted and line not in narrow
    ]
    if far:
        far.sort(key=lambda line: -line.distance)
        line = far[0]
        found.append(
            Finding(
                "distance",
                line.distance,
                LIMITS["distance"],
                f"the distribution of {line.name} is {line.distance:.0f} times as far from the "
                f"reference as its halves are from each other (above {LIMITS['distance']:.0f})",
                tuple(line.name for line in far),
            )
        )
    return found


def judge_model(p_values: Mapping[str, float], active: np.ndarray | None) -> Verdict:
    """Judge whether the model describes the data."""
    found = []
    if active is not None and active.mean() < LIMITS["active"]:
        found.append(
            Finding(
                "active latents",
                float(active.mean()),
                LIMITS["active"],
                f"{active.sum()} of {len(active)} latents carry anything (below "
                f"{LIMITS['active']:.0%}): the posterior has collapsed onto the prior; free bits, "
                "elbo=zoo.LocalELBO(free_bits=0.1), or a KL that grows from 0, "
                "beta=lambda step: min(1.0, step / 5000), keep them in use",
            )
        )
    for name, p in p_values.items():
        if min(p, 1 - p) < LIMITS["p"]:
            found.append(
                Finding(
                    "predictive p-value",
                    p,
                    LIMITS["p"],
                    f"replicates do not look like the data: {name} has a predictive p-value of "
                    f"{p:.3f} (within {LIMITS['p']} of 0 or 1); the model, not the fit, is at "
                    "fault",
                    (name,),
                )
            )
    measured = ("mean, sd, minimum and maximum of replicated data",) if p_values else ()
    return Verdict(
        tuple(found), measured, () if p_values else ("nothing observed can be drawn anew",)
    )


def _and_others(lines: Sequence[ScalarCheck] | Mapping[str, float]) -> str:
    return f", and {len(lines) - 1} more beside it" if len(lines) > 1 else ""


def _strongest_correlation(scalars: Mapping[str, np.ndarray]) -> float:
    if len(scalars) < 2 or len(scalars) > 500:
        return 0.0
    table = np.corrcoef([v.ravel() for v in scalars.values()])
    np.fill_diagonal(table, 0.0)
    return float(np.nanmax(np.abs(table)))


def _nanmax(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if not np.isnan(values).all() else math.nan


def judge_generalisation(scores: HeldOutScores | None) -> Verdict:
    """Judge whether the fit will predict rows that it has not seen as well as those it has.

    By the gap of the mean log density of a row, held against twice its standard error, and by
    densities that have collapsed, whose log density of the rows of the fit has no bound.
    """
    unchecked = ("no rows were held out: zoo.fit(validation=0.1) holds out a tenth",)
    if scores is None:
        return Verdict(unchecked=unchecked)
    found = [Finding("degenerate density", math.nan, math.nan, text) for text in scores.degenerate]
    train, held_out = scores.train, scores.held_out
    if not len(held_out):
        return Verdict(tuple(found), unchecked=unchecked)
    gap = float(train.mean() - held_out.mean())
    noise = math.sqrt(sum(v.var() / len(v) for v in (train, held_out)))
    shown = f"{train.mean():.2f} nats a row in training, {held_out.mean():.2f} held out"
    bad = held_out[~np.isfinite(held_out)]
    if len(bad):
        text = f"{len(bad)} of {len(held_out)} held-out rows have a log density of {bad[0]}"
        found.append(Finding("held-out rows", float(len(bad)), 0.0, text))
    elif gap > NOISE_FACTOR * noise:
        found.append(
            Finding(
                "gap",
                gap,
                NOISE_FACTOR * noise,
                f"{shown}, a gap of {gap:.2f} +- {noise:.2f}: it describes the rows of the fit "
                "better than it will new ones; quote the held-out figure, and take more rows, "
                "fewer parameters or a prior",
            )
        )
    limits = []
    if scores.chosen:
        limits.append(
            "rows that had no say: the held-out rows chose where the fit stopped, so that their "
            "figure is a little too good"
        )
    anew = "a fit to nine tenths of the rows: " if scores.refitted else ""
    return Verdict(tuple(found), (f"{anew}{shown} (+- {noise:.2f})",), tuple(limits))
