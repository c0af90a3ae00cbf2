"""When to stop a fit that first finds the signal and then the noise, without the truth."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

__all__ = ["RULES", "Discrepancy", "HeldOut", "Rule", "WindowedVariance"]

#: numbers of an output that the windowed variance looks at; more add nothing
WATCHED = 2**16


class Rule:
    """Goes on until its score has not been lower for ``patience`` steps: keep the lowest.

    This one has no score: the last output is kept and the fit ends with its steps.

    Parameters
    ----------
    patience
        Steps to wait for a lower score.
    every
        Steps between two scores.
    """

    #: share of the data that the fit must not see
    held_out = 0.0

    def __init__(self, patience: int, every: int = 1) -> None:
        self.patience, self.every = patience, every
        self.best, self.best_step = math.inf, -1

    def score(self, output: Tensor, average: Tensor, view: Any) -> float:
        """Score the outputs so far, NaN if there are too few.

        Parameters
        ----------
        output, average
            What the model says now, and the moving average of that.
        view
            ``view.excess(average)``: how much less probable the data are than data drawn with
            this output would be, in units of a standard normal's square; and
            ``view.held_out_loss(average)``: minus the mean log density of the data held out.
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

    While the signal is being fitted outputs change fast, while noise is being fitted they change
    again. The rule is that of the paper: the lowest variance so far is kept, until none has been
    lower for ``patience`` steps. With the small net it is no safe choice: on photographs the
    outputs are stillest long before the best point as often as near it.

    References
    ----------
    Wang, Li, Zhuang, Chen, Liang & Sun (2023), Early stopping for deep image prior, TMLR,
    https://arxiv.org/abs/2112.06074, where it is called ES-WMV.
    """

    def __init__(self, patience: int, window: int = 100) -> None:
        super().__init__(patience)
        self.window = window
        self.kept: Tensor | None = None
        self.count = 0

    def score(self, output: Tensor, average: Tensor, view: Any) -> float:
        """Return the mean variance of a number over the window."""
        flat = output.flatten()
        flat = flat[:: max(1, len(flat) // WATCHED)]
        if self.kept is None:
            self.kept = flat.new_zeros(self.window, len(flat))
            self.total, self.squares = (flat.new_zeros(len(flat)).double() for _ in range(2))
        place = self.count % self.window
        gone = self.kept[place].double()
        new = flat.double()
        self.total += new - gone
        self.squares += new.square() - gone.square()
        self.kept[place] = flat
        self.count += 1
        if self.count < self.window:
            return math.nan
        spread = self.squares / self.window - (self.total / self.window).square()
        return float(spread.mean())


class HeldOut(Rule):
    """Minus the log density of some of the data, which the fit does not see.

    An unbiased measure of the error of what the model says of them: the noise that is fitted is
    that of the other data.
    """

    def __init__(self, patience: int, held_out: float, every: int = 10) -> None:
        super().__init__(patience, every)
        self.held_out = held_out

    def score(self, output: Tensor, average: Tensor, view: Any) -> float:
        """Return the mean loss of the average on the data held out."""
        return view.held_out_loss(average)


class Discrepancy(Rule):
    """Stops when the data are as probable as data that the model draws with its own output.

    For normal noise: when the mean square of the residuals has come down to the variance of the
    noise (Morozov 1966, On the solution of functional equations by the method of
    regularization), less a ``margin`` since a good output has fitted a little of the noise. Where
    the steps end before that, the output nearest to it is kept: a fit may have just jumped away.
    """

    def __init__(self, patience: int, margin: float, every: int = 10) -> None:
        super().__init__(patience, every)
        self.margin = margin

    def score(self, output: Tensor, average: Tensor, view: Any) -> float:
        """Return the excess over the margin."""
        return view.excess(average) + self.margin

    def stops(self, step: int) -> bool:
        """Whether the noise level was reached."""
        return self.best <= 0.0


RULES = ("variance", "held-out", "discrepancy", "none")
