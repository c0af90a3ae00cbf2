"""Early-stopped optimisation of a deep image prior.

The likelihood of a net's image is maximised, the image averaged over steps and chains, and the
optimisation stopped before it fits the noise as well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
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
from ppl_zoo.core.options import did_you_mean, options
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.solvers.early_stopping.muon import MuonVector
from ppl_zoo.solvers.early_stopping.rules import (
    RULES,
    Discrepancy,
    HeldOut,
    NetPrior,
    Rule,
    View,
    WindowedVariance,
)
from ppl_zoo.solvers.loop import Chain, pack_chains, pad_history, run_chains
from ppl_zoo.solvers.optimizer_state import pack_optimizer_state, unpack_optimizer_state

__all__ = ["EarlyStopping", "EarlyStoppingChain"]

#: learning rate and decay of the average that go with an optimizer
OPTIMIZERS = {"muon": (0.05, 0.98), "adam": (0.01, 0.99)}
#: share of the noise's variance that the best average of three chains has fitted, times the root
#: of the number of values: .11 of 64 x 64 grey pixels, .06 of as many in colour, .03 of 128 x 128
#: in colour. From crops of photographs of BSDS300's training set
MARGIN_SCALE = 7.0
#: steps between two tests whether the fit has jumped away
STEPS_BETWEEN_CHECKPOINTS = 50
#: a block just below glibc's largest threshold of what it keeps for itself
MALLOC_BLOCK_BYTES = 31 * 2**20


@options(runs="num_chains")
@dataclass(frozen=True, repr=False)
class EarlyStopping(Solver):
    """Early-stopped gradient ascent on a net, its image averaged over steps and runs.

    For :class:`ppl_zoo.DeepImagePrior`, and models with the methods of
    :class:`ppl_zoo.solvers.early_stopping.rules.NetPrior`. The estimate is the moving average of
    the image at the step that the rule keeps: ``fit.solution.state_tensors["image"]``; the net's
    parameters are those of that step.

    Parameters
    ----------
    steps
        Most steps of a run.
    rule
        Which step to keep, by data and outputs alone. "variance": the lowest variance of the
        last outputs around their mean (ES-WMV). "held-out": the lowest loss on data that are held
        out. "discrepancy": where the residuals' variance has fallen to the noise's, or nearest to
        it. "none": the last.
    optimizer
        "muon" (:class:`ppl_zoo.solvers.early_stopping.muon.MuonVector`), which needs a third of
        the steps with a narrow net; "adam", the paper's; or "auto": Muon for narrow nets such as
        "fast", Adam for wide ones such as "paper", which Muon lets fit the noise as fast.
    learning_rate
        None for .05 with Muon, .01 with Adam.
    average
        Decay of the moving average of the image; None for .98 with Muon, .99 with Adam.
    window, patience, held_out, margin
        Of the rules: outputs that the variance is of, steps to wait for a better one, share of
        the data held out, and how much of the noise's variance is fitted where "discrepancy"
        stops; None for 7 over the root of the number of values (.06 of 64 x 64 pixels in colour).
    num_chains
        Number of chains, from different noise; their images are averaged.
    fall
        A fit diverges now and then; where the residuals have grown by so many dB it goes back to
        its last checkpoint, some steps before.
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
    num_chains: int = 1
    fall: float = 5.0
    compile: bool = False
    truth: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if self.rule not in RULES:
            raise DataError(
                f"rule: got {self.rule!r}{did_you_mean(self.rule, RULES)}, "
                f"expected one of {', '.join(RULES)}"
            )
        for name in ("steps", "window", "patience", "num_chains"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.optimizer not in ("auto", *OPTIMIZERS):
            raise DataError(
                f"optimizer: got {self.optimizer!r}{did_you_mean(self.optimizer, OPTIMIZERS)}, "
                f"expected one of auto, {', '.join(OPTIMIZERS)}"
            )
        for name in ("average", "held_out"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise DataError(f"{name}: got {value}, expected between 0 and 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise DataError(f"learning_rate: got {self.learning_rate}, expected more than 0")

    def resolve(self, model: NetPrior) -> EarlyStopping:
        """Return these options with the defaults that depend on the model filled in."""
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

    def make_optimizer(self, model: NetPrior, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Make the optimizer of one chain; of options that are resolved."""
        if self.optimizer == "muon":
            return MuonVector(parameters, model.weight_shapes, self.learning_rate)
        fused = {p.device.type for p in parameters} <= {"cpu", "cuda"}
        return torch.optim.Adam(parameters, lr=self.learning_rate, fused=fused)

    def make_rule(self, num_seen: int) -> Rule:
        """Make the stopping rule of one chain, for so many values of data."""
        if self.rule == "variance":
            return WindowedVariance(self.patience, self.window)
        if self.rule == "held-out":
            return HeldOut(self.patience, self.held_out)
        if self.rule == "discrepancy":
            margin = MARGIN_SCALE / num_seen**0.5 if self.margin is None else self.margin
            return Discrepancy(self.patience, margin)
        return Rule(self.patience)

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        if not isinstance(model, NetPrior):
            raise DataError(
                f"EarlyStopping: got a {model.model_name}, expected a zoo.DeepImagePrior"
            )
        seed = context.seed
        data = rows.all()
        truth = None if self.truth is None else torch.as_tensor(self.truth).to(data[0])
        chains = [
            EarlyStoppingChain(i, model if i == 0 else model.fresh(), options=self, truth=truth)
            for i in range(self.num_chains)
        ]
        for chain in chains:
            chain.begin(rows, seed)
            if context.resume is not None:
                chain.restore(context.resume)

        def advance(active: Sequence[EarlyStoppingChain]) -> int:
            for chain in active:
                chain.step(data, chain_seed(seed, chain.index, chain.count))
            return 1

        def shown() -> str:
            return f", {np.mean([c.psnr[-1] for c in chains]):.2f} dB" if truth is not None else ""

        run_chains(
            chains,
            advance,
            lambda: _solution(chains),
            max_steps=self.steps,
            label=f"EarlyStopping {model.model_name}",
            context=context,
            shown=shown,
        )
        return _solution(chains)


def _solution(chains: Sequence[EarlyStoppingChain]) -> Solution:
    """Solution of the chains as they stand."""
    final = []
    for chain in chains:
        no_score = chain.rule.best_step < 0 or chain.options.rule == "none"
        if no_score and chain.average is not None:
            chain.keep(chain.count - 1)
        record = read_parameters(chain.model, None)
        names = [k for k, p in chain.model.named_parameters() if p.requires_grad]
        kept = zip(names, chain.kept_parameters, strict=True)
        final.append(record | {f"model.{name}": value for name, value in kept})
    objective = pad_history(chains)
    images = torch.stack([chain.kept for chain in chains])
    tensors, values = pack_chains(chains)
    return Solution(
        parameters=stack_chains(final),
        history={
            "objective": objective,
            "scores": _pad([chain.scores for chain in chains], objective.shape),
            "psnr": _pad([chain.psnr for chain in chains], objective.shape),
        },
        objective=np.array([chain.objective[max(0, chain.kept_step)] for chain in chains]),
        stopped=tuple(chain.stopped or "interrupted" for chain in chains),
        guide=chains[0].model.guide,
        state_tensors={"image": images.mean(0), "images": images, **tensors},
        state_values={
            **values,
            "kept_step": [chain.kept_step for chain in chains],
            "falls": [chain.falls for chain in chains],
        },
    )


def _pad(rows: Sequence[Sequence[float]], shape: tuple[int, ...]) -> np.ndarray:
    """Stack rows of different lengths, padded with NaN."""
    out = np.full(shape, np.nan)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


@dataclass
class _Checkpoint:
    """State of a chain to go back to."""

    parameters: list[Tensor]
    optimizer: dict[str, Any]
    average: Tensor | None


@dataclass(kw_only=True)
class EarlyStoppingChain(Chain):
    """Chain of an early-stopped fit: optimizer, moving average, and the best so far.

    Attributes
    ----------
    options
        Of the fit; resolved for the model by :meth:`begin`.
    truth
        True images, None where they are not known.
    scores, psnr
        Score of the rule (NaN where it was not evaluated) and PSNR of the average in dB (empty
        without a truth), by step.
    falls
        How often the chain went back to a checkpoint.
    rule
        The stopping rule.
    observed
        True where a value of y is fitted; None for all of them.
    parameters, optimizer
        What is optimised, and how.
    compiled_net
        The net compiled by Inductor; None for the net itself.
    output, average
        Image of the last step, and the moving average; None before the first step.
    loss
        Mean squared residual in units of the noise's variance, at the checkpoint.
    kept_step, kept, kept_parameters
        The step that the rule keeps, its average and its parameters.
    checkpoint
        State to go back to.
    """

    options: EarlyStopping
    truth: Tensor | None = None
    scores: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    falls: int = 0
    rule: Rule = field(init=False)
    observed: Tensor | None = None
    parameters: list[Tensor] = field(default_factory=list)
    optimizer: torch.optim.Optimizer = field(init=False)
    compiled_net: Callable[..., Tensor] | None = None
    output: Tensor | None = None
    average: Tensor | None = None
    loss: float = math.inf
    kept_step: int = -1
    kept: Tensor | None = None
    kept_parameters: list[Tensor] = field(default_factory=list)
    checkpoint: _Checkpoint = field(init=False)

    @property
    def count(self) -> int:
        """Steps taken."""
        return len(self.objective)

    def begin(self, rows: Rows, seed: int) -> None:
        """Initialise the model, and make rule and optimizer."""
        self.options = options = self.options.resolve(self.model)
        data = rows.all()
        set_seed(chain_seed(seed, self.index), rows.device)
        self.model.initialize(rows)
        self.rule = options.make_rule(self.model.num_seen(data[0]))
        if self.rule.held_out:
            observed = torch.rand(data[0].shape, device="cpu") >= self.rule.held_out
            self.observed = observed.to(rows.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = options.make_optimizer(self.model, self.parameters)
        # glibc's mmap threshold is the largest block freed so far: after this one it no longer
        # returns the memory of every step to the system, which takes a tenth of the time
        torch.empty(MALLOC_BLOCK_BYTES, dtype=torch.uint8, device="cpu")
        if options.compile:
            with warnings.catch_warnings():  # torch warns of its own code while it compiles
                warnings.simplefilter("ignore", DeprecationWarning)
                self.compiled_net = self.model.compile_net()
                self.differentiate(data)
            self.optimizer.zero_grad(set_to_none=True)
        self.keep(-1)
        self.set_checkpoint()

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters and optimizer as they stand, the rule, the best so far, the checkpoint."""
        optimizer, plain = pack_optimizer_state(self.optimizer.state_dict())
        behind, plain_behind = pack_optimizer_state(self.checkpoint.optimizer)
        lists = {
            "now": self.parameters,
            "kept": self.kept_parameters,
            "checkpoint": self.checkpoint.parameters,
        }
        tensors = {f"{k}.{i}": v for k, held in lists.items() for i, v in enumerate(held)}
        tensors |= {f"optimizer.{k}": v for k, v in optimizer.items()}
        tensors |= {f"behind.{k}": v for k, v in behind.items()}
        single = {
            "average": self.average,
            "kept_image": self.kept,
            "checkpoint_average": self.checkpoint.average,
        }
        rule, rule_values = self.rule.pack()
        tensors |= {k: v for k, v in single.items() if v is not None} | rule
        return {k: v.detach().clone() for k, v in tensors.items()}, {
            "optimizer": plain,
            "behind": plain_behind,
            "rule": rule_values,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "kept_step": self.kept_step,
            "falls": self.falls,
        }

    @torch.no_grad()
    def restore(self, resume: Solution) -> None:
        """Go on from where a solution stands.

        Raises
        ------
        DataError
            If it holds no optimizer.
        """
        tensors, values = self.load_solution(resume)
        if "optimizer" not in values:
            raise DataError(
                "resume: got a fit by EarlyStopping of an earlier version, which holds no "
                "optimizer; run it again with more steps"
            )

        def part(name: str) -> dict[str, Tensor]:
            return {
                k.removeprefix(f"{name}."): v
                for k, v in tensors.items()
                if k.startswith(f"{name}.")
            }

        def listed(name: str) -> list[Tensor]:
            held = part(name)
            return [held[str(i)].clone() for i in range(len(held))]

        for parameter, value in zip(self.parameters, listed("now"), strict=True):
            parameter.copy_(value)
        state = unpack_optimizer_state(part("optimizer"), values["optimizer"])
        self.optimizer.load_state_dict(state)
        self.rule.restore(tensors, values["rule"])
        average = tensors.get("average")
        self.average = None if average is None else average.clone()
        self.kept = tensors.get("kept_image")
        self.kept_parameters, self.kept_step = listed("kept"), values["kept_step"]
        self.falls = values["falls"]
        self.loss = math.inf if values["loss"] is None else values["loss"]
        self.checkpoint = _Checkpoint(
            listed("checkpoint"),
            unpack_optimizer_state(part("behind"), values["behind"]),
            tensors.get("checkpoint_average"),
        )
        for name in ("scores", "psnr"):
            row = resume.history[name][self.index][: self.count]
            setattr(self, name, row.tolist() if name == "scores" or self.truth is not None else [])

    def step(self, data: tuple[Tensor, ...], seed: int) -> None:
        """Take a step, and evaluate the rule on its output.

        Raises
        ------
        ConvergenceError
            If the log likelihood is not finite.
        """
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
        # the average starts at the first output, whose weight decays as that of the others
        self.average = (
            output.clone() if step == 0 else self.average.lerp_(output, 1.0 - options.average)
        )
        if self.truth is not None:
            error = (self.average - self.truth).square().mean()
            self.psnr.append(float(-10.0 * error.log10()))
        score = math.nan
        if step % self.rule.every == 0 or self.count == options.steps:
            view = View(self.model, data, self.observed)
            score = self.rule.score(output, self.average, view)
            if self.rule.keeps(step, score):
                self.keep(step)
        self.scores.append(score)
        if (step + 1) % STEPS_BETWEEN_CHECKPOINTS == 0:
            self.review(data, output)
        if self.rule.stops(step):
            self.stopped = "converged"
        elif self.count >= options.steps:
            self.stopped = "max_steps"

    def differentiate(self, data: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return log joint and image; the gradient of the former is left in the parameters."""
        program = self.model.training_on(self.observed, self.compiled_net)
        # the fit has validated the program once; Pyro's checks would take a third of a step
        with pyro.validation_enabled(False):
            guide = poutine.trace(self.model.guide).get_trace(*data)
            trace = poutine.trace(poutine.replay(program, trace=guide)).get_trace(*data)
            log_joint = trace.log_prob_sum()
        (-log_joint).backward()
        return log_joint.detach(), trace.nodes["image"]["value"].detach()

    def keep(self, step: int) -> None:
        """Keep average and parameters as the best so far."""
        self.kept_step = step
        self.kept = None if self.average is None else self.average.clone()
        self.kept_parameters = [p.detach().clone() for p in self.parameters]

    def review(self, data: tuple[Tensor, ...], output: Tensor) -> None:
        """Go back to the checkpoint if the fit has diverged, else set a new one."""
        loss = max(0.1, 1.0 + View(self.model, data, self.observed).excess(output))
        if loss > self.loss * 10.0 ** (self.options.fall / 10.0):
            self.falls += 1
            self.go_back()
        else:
            self.loss = loss
            self.set_checkpoint()

    def set_checkpoint(self) -> None:
        """Copy the state, to come back to."""
        self.checkpoint = _Checkpoint(
            [p.detach().clone() for p in self.parameters],
            deepcopy(self.optimizer.state_dict()),
            None if self.average is None else self.average.clone(),
        )

    @torch.no_grad()
    def go_back(self) -> None:
        """Restore the state of the checkpoint."""
        for parameter, value in zip(self.parameters, self.checkpoint.parameters, strict=True):
            parameter.copy_(value)
        self.optimizer.load_state_dict(deepcopy(self.checkpoint.optimizer))
        average = self.checkpoint.average
        self.average = None if average is None else average.clone()
