"""One run of a net that is stopped early: a step, what is kept of it, and the way back."""

from __future__ import annotations

import math
import warnings
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError
from ppl_zoo.solvers.climb import Chain
from ppl_zoo.solvers.solution import chain_seed, set_seed

__all__ = ["Run", "View"]

#: steps between two looks whether the fit has jumped away
LOOK = 50
KEPT_BYTES = 31 * 2**20


@dataclass
class Run(Chain):
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
