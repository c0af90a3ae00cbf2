"""Auto: a ladder of solvers, climbed until the answer holds at the error asked for."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ppl_zoo import solvers
from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.khat import khat, psis_weights
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.diagnostics.check import Check
from ppl_zoo.diagnostics.verdicts import FINITE_VARIANCE, LIMITS, NOISE_FACTOR
from ppl_zoo.fitting.result import Fit, Rung

__all__ = ["Auto"]

#: importance draws of the rung that reweights, and draws a chain that are kept of them
NUM_PROPOSALS, NUM_KEPT, NUM_CHAINS = 16_000, 1000, 4
#: effective draws that leave less than half of the error asked for to chance
NOISE_SHARE = 0.5
#: acceptance probabilities of the rungs that sample, and draws a chain: the next where
#: transitions diverged, or too few draws are effective
TARGETS = {0.9: 1000, 0.99: 4000}


@options()
@dataclass(frozen=True, repr=False)
class Auto(Solver):
    """Climb a ladder of solvers, and stop at the first whose answer holds.

    The rungs: the model's own solver where its answer is closed or conjugate, :class:`SVI` with
    defaults (fixed draws, a full-rank or skewed guide), its draws reweighted by importance,
    :class:`NUTS` from the fit, and NUTS with smaller steps and more draws. A rung holds where
    ``check().inference`` passes and no mean or sd is further from the reweighted draws than
    ``error``. ``fit.ladder`` tells what each rung said and cost; where none holds, the last
    answer is returned and ``fit.check()`` refuses it.

    Parameters
    ----------
    error
        Error of a mean that is asked for, in posterior sds, and relative error of an sd.
    seconds
        No rung is begun after so many; None for no limit. One that has begun is finished.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> schools = zoo.data.load("eight-schools")
    >>> fit = zoo.fit(zoo.EightSchools(), schools, zoo.Auto(), progress=False)
    >>> fit.ladder[-1].holds
    True
    """

    error: float = 0.1
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if not 0 < self.error <= LIMITS["mean"]:
            raise ValueError(
                f"Auto: got error={self.error}, expected more than 0 and at most "
                f"{LIMITS['mean']}, from which a check refuses"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"Auto: got seconds={self.seconds}, expected more than 0")

    def uses_validation(self, model: Model, rows: Rows) -> bool:
        """Whether validation rows have a say on the first rung, the model's own solver."""
        name, options = model.default_solver
        return getattr(solvers, name)(**options).uses_validation(model, rows)

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Climb until a rung holds; see :func:`ppl_zoo.fit`."""
        started = time.perf_counter()
        ladder: list[Rung] = []
        climb = _Climb(self, model, rows, context)
        if context.resume is not None:
            return climb.go_on(context.resume)
        found: Fit | None = None
        error: ConvergenceError | DataError | None = None
        for name, attempt in climb.rungs():
            spent = time.perf_counter() - started
            if ladder and self.seconds is not None and spent > self.seconds:
                break
            begun = time.perf_counter()
            try:
                fit = attempt()
            except (ConvergenceError, DataError) as failure:
                error = failure
                said = str(failure).splitlines()[0]
                ladder.append(Rung(name, False, said, time.perf_counter() - begun))
                continue
            if fit is None:
                continue
            said = climb.verdict(fit)
            ladder.append(Rung(name, not said, said, time.perf_counter() - begun))
            found = climb.best = fit
            if not said or "interrupted" in fit.solution.stopped:
                break
        if found is None:
            raise error
        kept = [dataclasses.asdict(rung) for rung in ladder]
        values = {**found.solution.state_values, "ladder": kept}
        return dataclasses.replace(found.solution, state_values=values)

    def rebuild_guide(self, model: Model, rows: Rows, held: Mapping[str, Tensor]) -> Any:
        """Make the guide of the rung that held, by the parameters it left."""
        return solvers.SVI().rebuild_guide(model, rows, held)


class _Climb:
    """One climb: model, data, and what the last rung found."""

    def __init__(self, auto: Auto, model: Model, rows: Rows, context: FitContext) -> None:
        self.auto, self.model, self.rows, self.context = auto, model, rows, context
        self.best: Fit | None = None

    def rungs(self) -> list[tuple[str, Callable[[], Fit | None]]]:
        """Name of each rung, and what makes its fit; None where it has no use."""
        name, options = self.model.default_solver
        own = getattr(solvers, name)(**options)
        first = []
        if not isinstance(own, solvers.SVI | solvers.NUTS):
            first = [(name, lambda: self._fit(own))]
        elif own != solvers.SVI() and isinstance(own, solvers.SVI):
            first = [("SVI, the model's own options", lambda: self._fit(own))]
        return [
            *first,
            ("SVI", lambda: self._fit(solvers.SVI())),
            ("SVI, reweighted", self._reweighted),
            *(
                (f"NUTS, target_accept={target}", lambda target=target: self._sampled(target))
                for target in TARGETS
            ),
        ]

    def _fit(self, solver: Solver) -> Fit:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of divergences and such: the verdict tells
            set_seed(self.context.seed, self.model.device)
            context = dataclasses.replace(self.context, resume=None)
            started = time.perf_counter()
            solution = solver.solve(self.model, self.rows, context)
        seconds = time.perf_counter() - started
        fit = Fit(self.model, solver, solution, self.rows, seed=self.context.seed, seconds=seconds)
        fit.show(solution.best)
        return fit

    def go_on(self, resume: Solution) -> Solution:
        """Go on with a rung that was interrupted; one that ended stays as it is."""
        if "interrupted" not in resume.stopped:
            return resume
        rung = resume.state_values["ladder"][-1]["name"]
        solver: Solver = solvers.SVI()
        if rung.startswith("NUTS"):
            solver = _nuts(float(rung.partition("=")[2]), None)
        solution = solver.solve(
            self.model, self.rows, dataclasses.replace(self.context, resume=resume)
        )
        ladder = resume.state_values["ladder"]
        values = {**solution.state_values, "ladder": ladder}
        return dataclasses.replace(solution, state_values=values)

    def _reweighted(self) -> Fit | None:
        """Resample draws of the guide by importance; None where too few are effective."""
        fit = self.best
        if fit is None or fit.solution.draws is not None or len(fit.solution.stopped) != 1:
            return None
        (drawn,) = fit.draws(NUM_PROPOSALS)
        effective = float(1 / psis_weights(drawn.log_weight).square().sum())
        enough = NUM_CHAINS * NUM_KEPT / 2
        if not drawn.values or effective < enough or not khat(drawn.log_weight) < LIMITS["khat"]:
            return None
        return fit.resampled([drawn], NUM_KEPT, NUM_CHAINS)

    def _sampled(self, target: float) -> Fit:
        return self._fit(_nuts(target, self.best))

    def verdict(self, fit: Fit) -> str:
        """Say why a rung does not hold; empty where it does."""
        with fork_generators(self.model.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check = fit.check()
        if not check.inference.passed:
            found = check.inference.findings
            return found[0].text if found else "nothing could be measured of it"
        return _beyond(check, self.auto.error)


def _nuts(target: float, init: Fit | None) -> solvers.NUTS:
    return solvers.NUTS(TARGETS[target], target_accept=target, init=init)


def _beyond(check: Check, error: float) -> str:
    """Name the scalar furthest from the error asked for; empty where all are within it."""
    worst, said = 1.0, ""
    for line in check.lines:
        found = line.reweighted
        sampled = found is None and np.isfinite(line.ess)
        terms = []
        if line.drift is not None:
            terms = [
                (abs(line.drift.mean_error), line.drift.mean_noise, 0.0, "mean"),
                (abs(line.drift.sd_error), line.drift.sd_noise, 0.0, "sd"),
            ]
        elif found is not None:
            terms = [
                (abs(found.mean_error), found.mean_noise, found.mean_khat, "mean"),
                (abs(found.sd_error), found.sd_noise, found.sd_khat, "sd"),
            ]
        for value, noise, tail, kind in terms:
            by = value / max(error, NOISE_FACTOR * noise)
            if by > worst and not tail > FINITE_VARIANCE:
                worst = by
                by = "short chains" if line.drift is not None else "the reweighted draws"
                said = f"the {kind} of {line.name} is {value:.2f} off by {by}"
        if sampled and line.ess * (NOISE_SHARE * error) ** 2 < 1.0:
            by = 1.0 / (line.ess * (NOISE_SHARE * error) ** 2)
            if by > worst:
                worst, said = by, f"{line.name} has {line.ess:.0f} effective draws"
    return said
