"""Convergence test for a stochastic objective, early stopping, regularisation path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from torch import Tensor

from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.elbos import differentiable_loss, ignore_nan_warnings
from ppl_zoo.solvers.guides import Pair
from ppl_zoo.solvers.loop import Chain

__all__ = ["Plateau", "RegularizationPath", "ValidationMonitor"]

#: validation rows that are scored at once
ROWS_PER_CHUNK = 4096
#: weight decays of the path, as precisions of a normal prior on each weight
WEIGHT_DECAYS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.0)
#: relative gain of the validation score that counts as one; a stage has failed where its best
#: stays below that of all by so many of them
MIN_RELATIVE_GAIN, GAINS_TO_FAIL = 2e-4, 5
#: stages that fail in a row before the path ends: one alone may be noise
MAX_FAILED_STAGES = 2


class Plateau:
    """Windowed median of the ELBO and parameters; divides the learning rate on a plateau.

    At a plateau the median gained less over the last ``span`` windows than the noise of a median.
    Dividing the learning rate there and going on is what makes the last iterate precise
    (Welandawe et al. 2022, https://arxiv.org/abs/2203.15945, do the same with averages).
    """

    factor = 10**-0.5
    smallest = 1e-2
    span = 4  # windows a gain is added up over; one alone is below its noise when progress is slow

    def __init__(self, window: int, tol: float, parameter_tol: float, decay: bool = True) -> None:
        self.window, self.tol, self.parameter_tol, self.decay = window, tol, parameter_tol, decay
        self.medians: list[float] = []  # of the windows since the last change of learning rate
        self.scale = 1.0
        self.before: Tensor | None = None

    def review(
        self,
        objective: list[float],
        optimizer: torch.optim.Optimizer,
        parameters: Callable[[], Tensor],
    ) -> bool:
        """Test the last window when it is full; return whether the chain has converged.

        ``parameters()`` gives all of them as one vector.
        """
        if len(objective) % self.window:
            return False
        tail = np.asarray(objective[-self.window :])
        median = float(np.median(tail))
        # 1.4826: MAD to sd; 1.2533: sd of a median over sd of a mean, Gaussian noise
        deviation = 1.4826 * float(np.median(np.abs(tail - median)))
        noise = 1.2533 * math.sqrt(2.0 / self.window) * deviation
        now = parameters()
        moved = math.inf
        if self.before is not None and self.before.shape == now.shape:  # none has joined
            moved = float((now - self.before).norm() / (self.before.norm() + 1e-12))
        self.before = now
        self.medians.append(median)
        span = self.span if self.scale == 1.0 else self.span // 2
        if len(self.medians) <= span:
            return False
        if median - self.medians[-1 - span] > noise + self.tol * abs(median):
            return False
        if self.decay and self.scale > self.smallest * 1.001:
            self.scale *= self.factor
            for group in optimizer.param_groups:
                group["lr"] *= self.factor
            self.medians = [median]
            return False
        return moved <= self.parameter_tol

    def state(self) -> dict[str, Any]:
        """Return plain numbers, for resuming."""
        return {"medians": self.medians, "scale": self.scale}

    def restore(self, state: dict[str, Any], before: Tensor | None) -> None:
        """Go on from a saved state."""
        self.medians, self.scale = list(state["medians"]), state["scale"]
        self.before = before


class RegularizationPath:
    """Regularisation path: weight decays from strong to none, stopped by validation rows.

    Each decay begins where the one before ended, as the paths of Friedman, Hastie & Tibshirani
    2010 (https://doi.org/10.18637/jss.v033.i01) do for penalised regressions, so that the
    whole path costs little more than one fit. A decay ends when the validation score has not
    gained for ``patience`` evaluations; the path, when two decays in a row brought nothing.

    Parameters
    ----------
    patience
        Evaluations without a gain.
    max_steps
        Most steps of the whole path; each decay has its share.
    """

    def __init__(self, patience: int, max_steps: int) -> None:
        self.patience, self.steps_per_stage = patience, max(1, max_steps // len(WEIGHT_DECAYS))
        self.stage = self.waited = self.failed = self.began = 0
        self.best = self.stage_best = -math.inf

    @property
    def decay(self) -> float:
        """Weight decay of the steps to come."""
        return WEIGHT_DECAYS[self.stage]

    def review(self, score: float, step: int) -> bool:
        """Account for a validation score; return whether the path has ended."""
        if score > self.stage_best + MIN_RELATIVE_GAIN * abs(score):
            self.stage_best, self.waited = score, 0
        else:
            self.waited += 1
        self.best = max(self.best, score)
        if self.waited < self.patience and step - self.began < self.steps_per_stage:
            return False
        margin = GAINS_TO_FAIL * MIN_RELATIVE_GAIN * abs(self.best)
        self.failed = self.failed + 1 if self.stage_best < self.best - margin else 0
        if self.failed >= MAX_FAILED_STAGES or self.stage + 1 == len(WEIGHT_DECAYS):
            return True
        self.stage, self.waited, self.began, self.stage_best = self.stage + 1, 0, step, -math.inf
        return False

    def state(self) -> dict[str, Any]:
        """Return plain numbers, for resuming."""
        names = ("stage", "waited", "failed", "began", "best", "stage_best")
        values = {name: getattr(self, name) for name in names}
        # JSON has no infinity
        return {name: v if math.isfinite(v) else None for name, v in values.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            setattr(self, name, -math.inf if value is None else value)


class ValidationMonitor:
    """Early stopping by validation rows, and the moving average of the parameters.

    It decides which parameters of a chain are kept.

    Parameters
    ----------
    chain
        The chain: its model, and the objectives that it has recorded.
    parameters, pair, elbo
        What the chain learns, its programs, and the estimator of the bound.
    valid
        Validation rows; None to keep the average only.
    patience
        Evaluations on ``valid`` without a gain after which the chain stops.
    every
        Steps between two evaluations.
    decay
        Of the exponential moving average of the parameters (Polyak & Juditsky 1992); None for
        none. It is shorter at the start, where the parameters move fast.
    seed
        Of the ELBO's noise, the same at each evaluation.
    num_rows
        Rows of the fit.
    path
        Path of weight decays, which then says when to stop; None for none.
    """

    def __init__(
        self,
        chain: Chain,
        parameters: list[Tensor],
        pair: Pair,
        elbo: ELBO,
        valid: Rows | None,
        patience: int | None,
        every: int,
        decay: float | None,
        seed: int,
        num_rows: int,
        path: RegularizationPath | None = None,
    ) -> None:
        self.path = path
        self.chain, self.valid, self.patience, self.every = chain, valid, patience, every
        self.parameters, self.pair, self.elbo = parameters, pair, elbo
        self.num_rows = num_rows
        self.decay, self.seed = decay, chain_seed(seed, chain.index, -5)
        self.average = _copy(parameters) if decay is not None else None
        self.best: list[Tensor] | None = None
        self.values: list[float] = []
        self.seen = self.averaged = 0
        # steps between two terms of the average: few against its length, since each takes a pass
        # over all parameters
        self.stride = 1 if decay is None else max(1, int(0.02 / (1.0 - decay)))

    @torch.no_grad()
    def review(self) -> bool:
        """Account for the steps since the last review; return whether the chain should stop."""
        before, self.seen = self.seen, len(self.chain.objective)
        count = self.seen - self.averaged
        if self.average is not None and count >= self.stride:
            keep = min(self.decay, (1.0 + self.seen) / (10.0 + self.seen)) ** count
            torch._foreach_lerp_(self.average, self._current(), 1.0 - keep)
            self.averaged = self.seen
        if self.valid is None or self.seen // self.every == before // self.every:
            return False
        with self.shown(latest=True):
            self.values.append(self._score())
            if max(self.values) == self.values[-1]:
                self.best = _copy(self.parameters)
        if self.path is not None:
            return self.path.review(self.values[-1], self.seen)
        return len(self.values) - 1 - self.values.index(max(self.values)) >= self.patience

    @property
    def score(self) -> float | None:
        """Best mean ELBO of a validation row, in nats."""
        return max(self.values, default=None)

    def _score(self) -> float:
        """Mean ELBO of a validation row; exact log likelihood where there is no latent."""
        total = 0.0
        plate = self.chain.model.data_plate
        latent = [s for s in self.pair.sites.values() if s.kind == "latent"]
        shared = any(not s.is_local(plate) for s in latent)
        set_seed(self.seed, self.valid.device)
        for chunk in self.valid.chunks(len(self.valid) if shared else ROWS_PER_CHUNK):
            with ignore_nan_warnings():
                total -= float(differentiable_loss(self.elbo, self.pair, chunk))
        return total / len(self.valid)

    @contextmanager
    def shown(self, latest: bool = False) -> Iterator[None]:
        """Let the chain have the parameters to keep for a while: the best, or the average.

        ``latest`` for the average even where there is a best.
        """
        kept = self.average if latest or self.best is None else self.best
        if kept is None:
            yield
            return
        current = _copy(self.parameters)
        self._put(kept)
        try:
            yield
        finally:
            self._put(current)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that resuming takes."""
        groups = {"current": self._current(), "average": self.average, "best": self.best}
        tensors = {
            f"{name}.{i}": t.detach().clone()
            for name, group in groups.items()
            for i, t in enumerate(group or ())
        }
        path = None if self.path is None else self.path.state()
        return tensors, {"values": self.values, "seen": self.seen, "path": path}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any] | None) -> None:
        """Go on from a saved state; a chain that had no monitor has one from here on."""
        self.seen = len(self.chain.objective)
        if values is None:
            self.average = _copy(self.parameters) if self.average is not None else None
            return
        groups = {
            name: [tensors[f"{name}.{i}"] for i in range(len(self.parameters))]
            for name in ("current", "average", "best")
            if f"{name}.0" in tensors
        }
        self._put(groups["current"])
        if self.average is not None:
            self.average = self._near(groups.get("average", groups["current"]))
        if "best" in groups:
            self.best = self._near(groups["best"])
        self.values, self.seen = list(values["values"]), values["seen"]
        if self.path is not None and values.get("path") is not None:
            self.path.restore(values["path"])
        self.averaged = self.seen - self.seen % self.stride

    def _near(self, values: list[Tensor]) -> list[Tensor]:
        """Copy tensors to where the parameters are."""
        pairs = zip(self.parameters, values, strict=True)
        return [torch.empty_like(p).copy_(v) for p, v in pairs]

    def _current(self) -> list[Tensor]:
        return [p.detach() for p in self.parameters]

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def _copy(parameters: list[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]
