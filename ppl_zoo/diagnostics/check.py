"""Check of a fit: is this the posterior, does the model describe the data, will it generalise.

Three questions, three verdicts, each with what was measured, the limit it was held against, the
latents that are off, and the next step to take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppl_zoo.core.khat import Reweighted, khat, khat_of_rows, psis_weights, smoothed_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LIMITS",
    "Check",
    "Finding",
    "ScalarCheck",
    "SolverDiagnostics",
    "Verdict",
    "check_draws",
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
    importance weights; None where there are no weights.
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

    def __str__(self) -> str:
        """Format the table, with the verdicts below."""
        against = self.reference is not None
        weighted = not against and any(line.reweighted is not None for line in self.lines)
        width = max([len(line.name) for line in self.lines], default=4)
        head = f"{'':{width}}       mean         sd  R-hat    ESS"
        if against:
            head += "  mean error  sd error  distance"
        elif weighted:
            head += "  mean error  sd error (reweighted)"
        rows = [head]
        for line in self.lines:
            row = f"{line.name:{width}} {line.mean:10.4g} {line.sd:10.4g}"
            row += f" {_formatted(line.rhat, 6, 3)} {line.ess:6.0f}"
            if against:
                row += f"  {line.mean_error:+10.2f} {line.sd_error:+9.0%} {line.distance:9.1f}"
            elif line.reweighted is not None:
                found = line.reweighted
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
    mean_field
        Whether the guide leaves out correlations, which the advice depends on.
    active
        Which local latent dimensions are active, ``(num_latents,)``.
    constant
        Continuous latents that have one value in all draws.
    """

    stopped: Sequence[str]
    converges: bool = True
    log_weights: torch.Tensor | None = None
    row_log_weights: Sequence[torch.Tensor] = field(default=())
    diverging: np.ndarray | None = None
    mean_field: bool = False
    active: np.ndarray | None = None
    constant: Sequence[str] = ()


def check_draws(
    draws: Mapping[str, np.ndarray],
    solver: SolverDiagnostics,
    *,
    reference: Mapping[str, np.ndarray] | None,
    replicates: Mapping[str, np.ndarray],
    observed: Mapping[str, np.ndarray],
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
            line["reweighted"] = Reweighted.of(values[best].astype(np.float64), smoothed[best])
        lines.append(ScalarCheck(**line))
    khats, shares, num_weights = _weights(solver)
    tail = math.ceil(min(0.2 * num_weights, 3.0 * math.sqrt(num_weights))) or 1
    khat_error = np.where(
        np.isfinite(khats), (1 + np.maximum(khats, -0.5)) / math.sqrt(tail), np.nan
    )
    p_values = _p_values(replicates, observed)
    return Check(
        inference=_judge_inference(lines, solver, khats, khat_error, shares, other),
        model=_judge_model(p_values, solver.active),
        generalisation=Verdict(
            unchecked=("no rows were held out; compare the log density of rows kept back",)
        ),
        lines=tuple(lines),
        khat=khats,
        khat_error=khat_error,
        share=shares,
        p_values=p_values,
        draws=scalars,
        reference=other,
        limits=LIMITS,
    )


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


def _judge_inference(
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
    if weighted:
        found += _judge_weights(solver, khats, khat_errors, shares, lines, advice)
        shown = np.nanmin(shares) if np.isfinite(shares).any() else math.nan
        measured.append(f"{shown:.0%} effective draws")
        if solver.log_weights is not None and lines:
            measured.append("means and sds of the reweighted draws")
        unchecked += _unmeasured(lines)
    elif solver.converges and lines:
        unchecked.append("the posterior is closed or a point: it has no importance weights")
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
    beyond = worst - khat_errors[np.nanargmax(khats)] if np.isfinite(worst) else worst
    if beyond > LIMITS["khat"] and share < LIMITS["steady"]:
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
    for kind, unit in (("mean", "posterior sds"), ("sd", "")):
        bad = [line for line in off if kind in _beyond(line.reweighted)]
        if not bad:
            continue
        line = max(bad, key=lambda line: abs(getattr(line.reweighted, f"{kind}_error")))
        value = getattr(line.reweighted, f"{kind}_error")
        size = (
            f"off by {abs(value):.2f} {unit}"
            if kind == "mean"
            else f"{abs(value):.0%} too {'small' if value < 0 else 'large'}"
        )
        limit = LIMITS[kind]
        shown = f"{limit:.2f}" if kind == "mean" else f"{limit:.0%}"
        found.append(
            Finding(
                kind,
                value,
                limit,
                f"the {kind} of {line.name} is {size} (above {shown}) by the reweighted "
                f"draws{_and_others(bad)}; {advice}",
                tuple(line.name for line in bad),
            )
        )
    return found


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


def _judge_model(p_values: Mapping[str, float], active: np.ndarray | None) -> Verdict:
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


def _nanmax(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if not np.isnan(values).all() else math.nan
