"""L-BFGS, one iteration at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["LBFGS"]

#: pairs of steps and gradient changes that the approximate Hessian is made of
MAX_PAIRS = 20
#: evaluations of the function in one line search
MAX_EVALUATIONS = 30
#: weak Wolfe conditions: share of the predicted decrease that a step has to reach, and share of
#: the slope that may be left at its end
SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9


class LBFGS:
    """Minimise a smooth function (Nocedal 1980, https://doi.org/10.2307/2006193).

    The line search bisects until the weak Wolfe conditions hold (Lewis & Overton 2013,
    https://doi.org/10.1007/s10107-012-0514-2); values that are not finite count as steps too
    long. The variables should be scaled so that 1 is a natural step in each.

    Parameters
    ----------
    function
        ``function(x)`` returns value and gradient.
    x
        The start ``(size,)``, where the value is finite.

    Attributes
    ----------
    x, value, gradient
        The current point, and the function there.
    steps, changes
        The last steps, and the changes of the gradient along them: the pairs (s, y) of BFGS.
    """

    def __init__(
        self, function: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray
    ) -> None:
        self.function, self.x = function, x
        self.value, self.gradient = function(x)
        self.steps: list[np.ndarray] = []
        self.changes: list[np.ndarray] = []

    @property
    def decrement(self) -> float:
        """Squared Newton decrement by the approximate Hessian: about twice the gain left."""
        return float(self._precondition(self.gradient) @ self.gradient)

    def step(self) -> bool:
        """Take one iteration; return False where no step lowers the function."""
        direction = -self._precondition(self.gradient)
        slope = float(direction @ self.gradient)
        if not slope < 0:  # the approximate Hessian is lost to rounding: start it anew
            self.steps, self.changes = [], []
            direction, slope = -self.gradient, -float(self.gradient @ self.gradient)
        if slope == 0:
            return False
        found = self._search(direction, slope)
        if found is None:
            if not self.steps:
                return False
            self.steps, self.changes = [], []  # once more, along the gradient
            return self.step()
        x, value, gradient = found
        step, change = x - self.x, gradient - self.gradient
        if step @ change > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            self.steps = [*self.steps, step][-MAX_PAIRS:]
            self.changes = [*self.changes, change][-MAX_PAIRS:]
        self.x, self.value, self.gradient = x, value, gradient
        return True

    def _search(
        self, direction: np.ndarray, slope: float
    ) -> tuple[np.ndarray, float, np.ndarray] | None:
        """Line search: the lowest point with enough decrease, None where there is none."""
        length = 1.0 if self.steps else min(1.0, 1.0 / float(np.abs(direction).max()))
        low, high, best = 0.0, np.inf, None
        for _ in range(MAX_EVALUATIONS):
            x = self.x + length * direction
            value, gradient = self.function(x)
            finite = np.isfinite(value) and bool(np.isfinite(gradient).all())
            if not finite or value > self.value + SUFFICIENT_DECREASE * length * slope:
                high = length
            else:
                if best is None or value <= best[1]:
                    best = (x, value, gradient)
                if gradient @ direction >= CURVATURE * slope:
                    break
                low = length
            length = (low + high) / 2 if np.isfinite(high) else 2 * low
        return best

    def _precondition(self, gradient: np.ndarray) -> np.ndarray:
        """Multiply by the approximate inverse Hessian: the two-loop recursion."""
        if not self.steps:
            return gradient
        out = gradient.copy()
        shares = []
        pairs = list(zip(self.steps, self.changes, strict=True))
        for step, change in reversed(pairs):
            share = (step @ out) / (step @ change)
            shares.append(share)
            out = out - share * change
        step, change = pairs[-1]
        out = out * (step @ change) / (change @ change)
        for (step, change), share in zip(pairs, reversed(shares), strict=True):
            out = out + (share - (change @ out) / (step @ change)) * step
        return out
