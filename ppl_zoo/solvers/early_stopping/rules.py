"""Stopping rules: when a fit has fitted the signal and begins to fit the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ppl_zoo.core.tracing.sites import Program

__all__ = [
    "RULES",
    "Discrepancy",
    "HeldOut",
    "NetPrior",
    "Rule",
    "View",
    "WindowedVariance",
]

#: names of the rules
RULES = ("variance", "held-out", "discrepancy", "none")
#: values of an output that the windowed variance is of; more do not change it
MAX_WINDOW_VALUES = 2**16


@runtime_checkable
class NetPrior(Protocol):
    """What early stopping needs of a model: a net's image, and a likelihood given an image.

    Besides, its guide is a point, and its program has a deterministic site "image".
    ``zoo.DeepImagePrior`` is one.
    """

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the weights that make up the one vector of parameters."""

    @property
    def suited_optimizer(self) -> str:
        """Optimizer that fits the image well before the noise: "muon" or "adam"."""

    def training_on(
        self, observed: Tensor | None = None, net: Callable[..., Tensor] | None = None
    ) -> Program:
        """Make the program of a training step, perhaps with some data held out."""

    def compile_net(self) -> Callable[..., Tensor]:
        """Compile the net, for ``training_on``."""

    def likelihood(
        self, image: Tensor, noise: Tensor, observed: Tensor | None = None
    ) -> torch.distributions.Distribution:
        """Distribution of the data given images, of those values that are observed."""

    def num_seen(self, y: Tensor, observed: Tensor | None = None) -> int:
        """Count the values of y in the likelihood."""


@dataclass
class View:
    """What a stopping rule may see of data and model.

    Attributes
    ----------
    model
        The model.
    data
        Images ``y`` and sd of the noise, as for its likelihood.
    observed
        True where a value of y is fitted, False where it is held out; None where all are fitted.
    """

    model: NetPrior
    data: tuple[Tensor, ...]
    observed: Tensor | None

    @torch.no_grad()
    def excess(self, output: Tensor) -> float:
        """Excess deviance per fitted value of the data over data drawn given this output.

        For normal noise: mean square of the residuals over the noise's variance, less 1.
        """
        y, noise = self.data
        likelihood = self.model.likelihood(output, noise, self.observed)
        loss = likelihood.log_prob(likelihood.sample()) - likelihood.log_prob(y)
        return 2.0 * float(loss.sum()) / self.model.num_seen(y, self.observed)

    @torch.no_grad()
    def held_out_loss(self, output: Tensor) -> float:
        """Minus the mean log density of the data held out, in nats."""
        y, noise = self.data
        held_out = ~self.observed
        likelihood = self.model.likelihood(output, noise, held_out)
        return -float(likelihood.log_prob(y).sum()) / max(1, self.model.num_seen(y, held_out))


class Rule:
    """Stopping rule: keep the lowest score, and stop ``patience`` steps after it.

    This base class has no score: the last output is kept and the fit ends with its steps.

    Parameters
    ----------
    patience
        Steps to wait for a lower score.
    every
        Steps between two scores.
    """

    #: share of the data that is held out
    held_out = 0.0

    def __init__(self, patience: int, every: int = 1) -> None:
        self.patience, self.every = patience, every
        self.best, self.best_step = math.inf, -1

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that resuming takes."""
        return {}, {"best": self.best if math.isfinite(self.best) else None, "at": self.best_step}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up what :meth:`pack` returned."""
        self.best = math.inf if values["best"] is None else values["best"]
        self.best_step = values["at"]

    def score(self, output: Tensor, average: Tensor, view: View) -> float:
        """Score the outputs so far, NaN if there are too few.

        Parameters
        ----------
        output, average
            The model's output at this step, and its moving average.
        view
            Data and model: ``view.excess(average)`` and ``view.held_out_loss(average)``.
        """
        return math.nan

    def keeps(self, step: int, score: float) -> bool:
        """Whether the output of this step is the best so far."""
        if math.isnan(score):
            return self.best_step < 0
        if score < self.best:
            self.best, self.best_step = score, step
            return True
        return False

    def stops(self, step: int) -> bool:
        """Whether to stop after this step."""
        return 0 <= self.best_step <= step - self.patience


class WindowedVariance(Rule):
    """Variance of the last outputs around their mean; it is lowest when the signal is fitted.

    Outputs change fast while the signal is being fitted, and again while noise is being fitted.
    The rule is that of the paper: the output of lowest variance is kept, until none has been
    lower for ``patience`` steps. With the small net it is unreliable: on photographs the variance
    is lowest long before the best point as often as near it.

    References
    ----------
    Wang, Li, Zhuang, Chen, Liang & Sun (2023), Early stopping for deep image prior, TMLR,
    https://arxiv.org/abs/2112.06074, where it is called ES-WMV.
    """

    def __init__(self, patience: int, window: int = 100) -> None:
        super().__init__(patience)
        self.window = window
        self.count = 0
        #: the last outputs, as a ring buffer; their sum and sum of squares, in float64
        self.outputs: Tensor | None = None
        self.total: Tensor | None = None
        self.squares: Tensor | None = None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Add the outputs of the window."""
        _, values = super().pack()
        held = {"outputs": self.outputs, "total": self.total, "squares": self.squares}
        tensors = {f"window_{k}": v for k, v in held.items() if v is not None}
        return tensors, values | {"count": self.count}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up the window, too."""
        super().restore(tensors, values)
        self.count = values["count"]
        for name in ("outputs", "total", "squares"):
            held = tensors.get(f"window_{name}")
            setattr(self, name, None if held is None else held.clone())

    def score(self, output: Tensor, average: Tensor, view: View) -> float:
        """Return the variance over the window, averaged over the values of an output."""
        flat = output.flatten()
        flat = flat[:: max(1, len(flat) // MAX_WINDOW_VALUES)]
        if self.outputs is None:
            self.outputs = flat.new_zeros(self.window, len(flat))
            self.total, self.squares = (flat.new_zeros(len(flat)).double() for _ in range(2))
        place = self.count % self.window
        old, new = self.outputs[place].double(), flat.double()
        self.total += new - old
        self.squares += new.square() - old.square()
        self.outputs[place] = flat
        self.count += 1
        if self.count < self.window:
            return math.nan
        variance = self.squares / self.window - (self.total / self.window).square()
        return float(variance.mean())


class HeldOut(Rule):
    """Held-out validation: minus the log density of data that are not fitted.

    An unbiased estimate of the error: the noise that is fitted is that of the other data.
    """

    def __init__(self, patience: int, held_out: float, every: int = 10) -> None:
        super().__init__(patience, every)
        self.held_out = held_out

    def score(self, output: Tensor, average: Tensor, view: View) -> float:
        """Return the mean loss of the average on the data held out."""
        return view.held_out_loss(average)


class Discrepancy(Rule):
    """Discrepancy principle: stop when the data are as probable as draws given the output.

    For normal noise: when the mean square of the residuals has fallen to the variance of the
    noise (Morozov 1966, On the solution of functional equations by the method of
    regularization), less a ``margin`` since a good output has fitted a little of the noise. Where
    the steps end before that, the output nearest to it is kept, and not the last: a fit may have
    just jumped away.
    """

    def __init__(self, patience: int, margin: float, every: int = 10) -> None:
        super().__init__(patience, every)
        self.margin = margin

    def score(self, output: Tensor, average: Tensor, view: View) -> float:
        """Return the excess over the margin."""
        return view.excess(average) + self.margin

    def stops(self, step: int) -> bool:
        """Whether the noise level was reached."""
        return self.best <= 0.0
