"""Climb the likelihood of a net, average what it says, and stop before it says the noise too."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.solvers.early_stopping.muon import MuonVector
from ppl_zoo.solvers.early_stopping.rules import (
    RULES,
    Discrepancy,
    HeldOut,
    Rule,
    WindowedVariance,
)
from ppl_zoo.solvers.loop import Chain, pad_history, run_chains

__all__ = ["EarlyStopping", "EarlyStoppingChain", "View"]

#: learning rate and decay of the average that go with an optimizer
OPTIMIZERS = {"muon": (0.05, 0.98), "adam": (0.01, 0.99)}
#: share of the noise that the best average of three runs has fitted, times the root of the number
#: of values: .11 of 64 x 64 grey pixels, .06 of as many in colour, .03 of 128 x 128 in colour.
#: From crops of photographs of BSDS300's training set
FITTED = 7.0


@dataclass(frozen=True)
class EarlyStopping(Solver):
    """Gradient ascent on a net's image, averaged over steps and runs and stopped early.

    For :class:`ppl_zoo.DeepImagePrior`, and models with its ``image``, ``likelihood`` and
    ``training_on``. The answer is the moving average of the image at the step that the rule
    keeps: ``fit.solution.state_tensors["image"]``; the net's parameters are those of that step.

    Parameters
    ----------
    steps
        Most steps of a run.
    rule
        Which step to keep, by data and outputs alone. "variance": the lowest variance of the
        last outputs around their mean (ES-WMV). "held-out": the lowest loss on data that the fit
        does not see. "discrepancy": where the residuals have come down to the noise,
        or nearest to it. "none": the last.
    optimizer
        "muon" (:class:`ppl_zoo.solvers.early_stopping.muon.MuonVector`), which takes a narrow
        net there in a third of the steps; "adam", the paper's; or "auto": Muon for narrow nets
        such as "fast", Adam for wide ones such as "paper", which Muon takes to the noise as fast.
    learning_rate
        None for .05 with Muon, .01 with Adam.
    average
        Decay of the moving average of the image; None for .98 with Muon, .99 with Adam.
    window, patience, held_out, margin
        Of the rules: outputs that the variance is of, steps to wait for a better one, share of
        the data held out, and how much of the noise's variance is fitted where "discrepancy"
        stops; None for 7 over the root of the number of values (.06 of 64 x 64 pixels in colour).
    runs
        Runs from different noise; their images are averaged. Each is a chain.
    fall
        A fit jumps away now and then; one that has lost so many dB goes back to where it was
        some steps before.
    compile
        Whether to compile the net's forward and backward passes by Inductor. That takes minutes
        on a CPU, and pays where steps are many and long.
    truth
        The true images ``(n, channels, height, width)``, if known: the progress bar then shows
        their PSNR, and ``fit.history`` holds it. Nothing depends on it.
    """

    steps: int = 3000
    rule: str = "discrepancy"
    optimizer: str = "auto"
    learning_rate: float | None = None
    average: float | None = None
    window: int = 100
    patience: int = 300
    held_out: float = 0.05
    margin: float | None = None
    runs: int = 1
    fall: float = 5.0
    compile: bool = False
    truth: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if self.rule not in RULES:
            raise DataError(f"rule: got {self.rule!r}, expected one of {', '.join(RULES)}")
        for name in ("steps", "window", "patience", "runs"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.optimizer not in ("auto", *OPTIMIZERS):
            raise DataError(
                f"optimizer: got {self.optimizer!r}, expected one of auto, {', '.join(OPTIMIZERS)}"
            )
        for name in ("average", "held_out"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise DataError(f"{name}: got {value}, expected between 0 and 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise DataError(f"learning_rate: got {self.learning_rate}, expected more than 0")

    def settle(self, model: Model) -> EarlyStopping:
        """Return these options with what they leave open decided for a model."""
        optimizer = model.suited_optimizer if self.optimizer == "auto" else self.optimizer
        rate, average = OPTIMIZERS[optimizer]
        return replace(
            self,
            optimizer=optimizer,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            average=average if self.average is None else self.average,
        )

    def to_save(self) -> EarlyStopping:
        """Return the options that a saved fit keeps."""
        return replace(self, truth=None)

    def make_optimizer(self, model: Model, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Make the optimizer of one run, of options that are settled."""
        if self.optimizer == "muon":
            return MuonVector(parameters, model.weight_shapes, self.learning_rate)
        fused = {p.device.type for p in parameters} <= {"cpu", "cuda"}
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=fused)

    def make_rule(self, num_seen: int) -> Rule:
        """Make a stopping rule, which has looked at nothing yet, for so many values of data."""
        if self.rule == "variance":
            return WindowedVariance(self.patience, self.window)
        if self.rule == "held-out":
            return HeldOut(self.patience, self.held_out)
        if self.rule == "discrepancy":
            margin = FITTED / num_seen**0.5 if self.margin is None else self.margin
            return Discrepancy(self.patience, margin)
        return Rule(self.patience)

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        if not hasattr(model, "training_on"):
            raise DataError(
                f"EarlyStopping: got a {type(model).__name__}, expected a zoo.DeepImagePrior"
            )
        seed = context.seed
        if context.resume is not None:
            raise DataError("resume: EarlyStopping cannot go on; run it again with more steps")
        data = rows.all()
        truth = None if self.truth is None else torch.as_tensor(self.truth).to(data[0])
        runs = [
            EarlyStoppingChain(i, model if i == 0 else model.fresh(), options=self, truth=truth)
            for i in range(self.runs)
        ]
        for run in runs:
            run.begin(rows, seed)

        def advance(active: Sequence[EarlyStoppingChain]) -> int:
            for run in active:
                run.step(data, chain_seed(seed, run.index, run.count))
            return 1

        def shown() -> str:
            return f", {np.mean([r.psnr[-1] for r in runs]):.2f} dB" if truth is not None else ""

        run_chains(
            runs,
            advance,
            lambda: _solution(runs),
            max_steps=self.steps,
            label=f"EarlyStopping {type(model).__name__}",
            context=context,
            shown=shown,
        )
        return _solution(runs)


def _solution(runs: Sequence[EarlyStoppingChain]) -> Solution:
    """Make the plain record; the runs are chains."""
    final = []
    for run in runs:
        last = run.rule.best_step < 0 or run.options.rule == "none"
        if last and run.average is not None:
            run.keep(run.count - 1)
        record = read_parameters(run.model, None)
        names = [k for k, p in run.model.named_parameters() if p.requires_grad]
        kept = zip(names, run.kept_parameters, strict=True)
        final.append(record | {f"model.{name}": value for name, value in kept})
    history = {"objective": pad_history(runs)}
    for name in ("scores", "psnr"):
        kept = np.full(history["objective"].shape, np.nan)
        for row, run in zip(kept, runs, strict=True):
            row[: len(getattr(run, name))] = getattr(run, name)
        history[name] = kept
    images = torch.stack([run.kept for run in runs])
    return Solution(
        parameters=stack_chains(final),
        history=history,
        objective=np.array([run.objective[max(0, run.kept_step)] for run in runs]),
        stopped=tuple(run.stopped or "interrupted" for run in runs),
        guide=runs[0].model.guide,
        state_tensors={"image": images.mean(0), "images": images},
        state_values={
            "kept_step": [run.kept_step for run in runs],
            "falls": [run.falls for run in runs],
        },
    )


# ---- One run of a net that is stopped early: a step, what is kept of it, and the way back.

#: steps between two looks whether the fit has jumped away
LOOK = 50
KEPT_BYTES = 31 * 2**20


@dataclass
class EarlyStoppingChain(Chain):
    """One run: its optimizer, averages, and the best so far."""

    options: Any = None
    truth: Tensor | None = None
    scores: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    falls: int = 0

    @property
    def count(self) -> int:
        """Steps taken."""
        return len(self.objective)

    def begin(self, rows: Rows, seed: int) -> None:
        """Start anew."""
        self.options = options = self.options.settle(self.model)
        data = rows.all()
        set_seed(chain_seed(seed, self.index), rows.device)
        self.model.initialize(rows)
        self.rule = options.make_rule(self.model.num_seen(data[0]))
        self.shown = None
        if self.rule.held_out:
            self.shown = torch.rand(data[0].shape, device="cpu") >= self.rule.held_out
            self.shown = self.shown.to(rows.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = options.make_optimizer(self.model, self.parameters)
        # glibc takes the largest block freed so far as what to keep: after this one it no longer
        # hands back and asks anew for the memory of every step, a tenth of its time
        torch.empty(KEPT_BYTES, dtype=torch.uint8, device="cpu")
        self.net = None
        if options.compile:
            with warnings.catch_warnings():  # torch warns of its own code while it compiles
                warnings.simplefilter("ignore", DeprecationWarning)
                self.net = torch.compile(self.model.net.__call__, dynamic=False)
                self.differentiate(data)
            self.optimizer.zero_grad(set_to_none=True)
        self.average: Tensor | None = None
        self.loss = math.inf
        self.keep(-1)
        self.mark()

    def step(self, data: tuple[Tensor, ...], seed: int) -> None:
        """Take a step, and look at what came of it."""
        set_seed(seed, data[0].device)
        options, step = self.options, self.count
        log_joint, output = self.differentiate(data)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = float(log_joint)
        if not math.isfinite(value):
            raise ConvergenceError(
                f"EarlyStopping: the log likelihood is {value} at step {step}; take a lower "
                f"learning_rate, now {options.learning_rate}"
            )
        self.objective.append(value)
        self.output = output
        # the first output is of a net that knows nothing; it fades as fast as the others
        self.average = (
            output.clone() if step == 0 else self.average.lerp_(output, 1.0 - options.average)
        )
        if self.truth is not None:
            error = (self.average - self.truth).square().mean()
            self.psnr.append(float(-10.0 * error.log10()))
        score = math.nan
        if step % self.rule.every == 0 or self.count == options.steps:
            view = View(self.model, data, self.shown)
            score = self.rule.score(output, self.average, view)
            if self.rule.keeps(step, score):
                self.keep(step)
        self.scores.append(score)
        if (step + 1) % LOOK == 0:
            self.look_back(data, output)
        if self.rule.stops(step):
            self.stopped = "converged"
        elif self.count >= options.steps:
            self.stopped = "max_steps"

    def differentiate(self, data: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return log joint and image; the gradient of the former is left in the parameters."""
        # every step runs the same program: once was checked, and checks take a third of a step
        with self.model.training_on(self.shown, self.net), pyro.validation_enabled(False):
            guide = poutine.trace(self.model.guide).get_trace(*data)
            trace = poutine.trace(poutine.replay(self.model, trace=guide)).get_trace(*data)
            log_joint = trace.log_prob_sum()
        (-log_joint).backward()
        return log_joint.detach(), trace.nodes["image"]["value"].detach()

    def keep(self, step: int) -> None:
        """Note average and parameters as the best so far."""
        self.kept_step = step
        self.kept = None if self.average is None else self.average.clone()
        self.kept_parameters = [p.detach().clone() for p in self.parameters]

    def look_back(self, data: tuple[Tensor, ...], output: Tensor) -> None:
        """Go back to the last mark if the fit has jumped away, else set a new one."""
        loss = max(0.1, 1.0 + View(self.model, data, self.shown).excess(output))
        if loss > self.loss * 10.0 ** (self.options.fall / 10.0):
            self.falls += 1
            self.rewind()
        else:
            self.loss = loss
            self.mark()

    def mark(self) -> None:
        """Note where the fit is, to come back to."""
        self.marked = (
            [p.detach().clone() for p in self.parameters],
            deepcopy(self.optimizer.state_dict()),
            None if self.average is None else self.average.clone(),
        )

    @torch.no_grad()
    def rewind(self) -> None:
        """Go back to the mark."""
        parameters, state, average = self.marked
        for parameter, value in zip(self.parameters, parameters, strict=True):
            parameter.copy_(value)
        self.optimizer.load_state_dict(deepcopy(state))
        self.average = None if average is None else average.clone()


@dataclass
class View:
    """What a stopping rule may know: the data, and the model's word on them."""

    model: Any
    data: tuple[Tensor, ...]
    shown: Tensor | None

    @torch.no_grad()
    def excess(self, output: Tensor) -> float:
        """How much less probable the data are than ones drawn with this output.

        For normal noise: mean square of the residuals over the noise's variance, less 1.
        """
        y, noise = self.data
        seen = self.model.likelihood(output, noise, self.shown)
        lost = seen.log_prob(seen.sample()) - seen.log_prob(y)
        return 2.0 * float(lost.sum()) / self.model.num_seen(y, self.shown)

    @torch.no_grad()
    def held_out_loss(self, output: Tensor) -> float:
        """Minus the mean log density of the data held out, in nats."""
        y, noise = self.data
        hidden = self.model.likelihood(output, noise, ~self.shown)
        return -float(hidden.log_prob(y).sum()) / max(1, self.model.num_seen(y, ~self.shown))
