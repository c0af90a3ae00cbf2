"""Climb the likelihood of a net, average what it says, and stop before it says the noise too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import climb, pad_history
from ppl_zoo.solvers.early_stopping_run import Run
from ppl_zoo.solvers.muon import MuonVector
from ppl_zoo.solvers.solution import (
    Solution,
    chain_seed,
    read_parameters,
    stack_chains,
)
from ppl_zoo.solvers.stopping_rules import (
    RULES,
    Discrepancy,
    HeldOut,
    Rule,
    WindowedVariance,
)

__all__ = ["EarlyStopping"]

#: learning rate and decay of the average that go with an optimizer
OPTIMIZERS = {"muon": (0.05, 0.98), "adam": (0.01, 0.99)}
#: share of the noise that the best average of three runs has fitted, times the root of the number
#: of values: .11 of 64 x 64 grey pixels, .06 of as many in colour, .03 of 128 x 128 in colour.
#: From crops of photographs of BSDS300's training set
FITTED = 7.0


@dataclass(frozen=True)
class EarlyStopping:
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
        "muon" (:class:`ppl_zoo.solvers.muon.MuonVector`), which takes a narrow net there in a
        third of the steps; "adam", the paper's; or "auto": Muon for narrow nets such as "fast",
        Adam for wide ones such as "paper", which Muon takes to the noise as fast.
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

    def solve(
        self,
        model: Model,
        rows: Rows,
        *,
        seed: int = 0,
        progress: bool = True,
        resume: Solution | None = None,
        checkpoint: Callable[[Solution], object] | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        if not hasattr(model, "training_on"):
            raise DataError(
                f"EarlyStopping: got a {type(model).__name__}, expected a zoo.DeepImagePrior"
            )
        if resume is not None:
            raise DataError("resume: EarlyStopping cannot go on; run it again with more steps")
        data = rows.all()
        truth = None if self.truth is None else torch.as_tensor(self.truth).to(data[0])
        runs = [
            Run(i, model if i == 0 else model.fresh(), options=self, truth=truth)
            for i in range(self.runs)
        ]
        for run in runs:
            run.begin(rows, seed)

        def advance(active: Sequence[Run]) -> int:
            for run in active:
                run.step(data, chain_seed(seed, run.index, run.count))
            return 1

        def shown() -> str:
            return f", {np.mean([r.psnr[-1] for r in runs]):.2f} dB" if truth is not None else ""

        climb(
            runs,
            advance,
            lambda: _solution(runs),
            max_steps=self.steps,
            label=f"EarlyStopping {type(model).__name__}",
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            shown=shown,
        )
        return _solution(runs)


def _solution(runs: Sequence[Run]) -> Solution:
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
