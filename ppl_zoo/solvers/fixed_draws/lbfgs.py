"""L-BFGS, an iteration at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["LBFGS"]

#: pairs of steps and gradient differences that are kept
MEMORY = 20
#: evaluations in a line search
TRIES = 30


class LBFGS:
    """Minimise a smooth function (Nocedal 1980, https://doi.org/10.2307/2006193).

    The line search bisects until the weak Wolfe conditions hold (Lewis & Overton 2013,
    https://doi.org/10.1007/s10107-012-0514-2); values that are not finite count as too far. The
    variables should be scaled so that 1 is a natural step in each.

    Parameters
    ----------
    function
        ``function(x)`` returns value and gradient.
    x
        The start ``(size,)``, where the value is finite.

    Attributes
    ----------
    x, value, gradient
        Where it stands.
    """

    def __init__(self, function: Callable[[np.ndarray], tuple], x: np.ndarray) -> None:
        self.function, self.x = function, x
        self.value, self.gradient = function(x)
        self.steps: list[np.ndarray] = []
        self.changes: list[np.ndarray] = []

    @property
    def decrement(self) -> float:
        """About twice what is left to gain, as the Hessian that was learnt has it."""
        return float(self._scaled(self.gradient) @ self.gradient)

    def step(self) -> bool:
        """Take one iteration; return False where the function can be lowered no more."""
        direction = -self._scaled(self.gradient)
        slope = float(direction @ self.gradient)
        if not slope < 0:  # curvature is lost to rounding: begin anew
            self.steps, self.changes = [], []
            direction, slope = -self.gradient, -float(self.gradient @ self.gradient)
        if slope == 0:
            return False
        length = 1.0 if self.steps else min(1.0, 1.0 / float(np.abs(direction).max()))
        low, high, best = 0.0, np.inf, None
        for _ in range(TRIES):
            x = self.x + length * direction
            value, gradient = self.function(x)
            good = np.isfinite(value) and bool(np.isfinite(gradient).all())
            if not good or value > self.value + 1e-4 * length * slope:
                high = length
            else:
                if best is None or value <= best[1]:
                    best = (x, value, gradient)
                if gradient @ direction >= 0.9 * slope:
                    break
                low = length
            length = (low + high) / 2 if np.isfinite(high) else 2 * low
        if best is None:
            if not self.steps:
                return False
            self.steps, self.changes = [], []  # once more, along the gradient
            return self.step()
        x, value, gradient = best
        step, change = x - self.x, gradient - self.gradient
        if step @ change > 1e-12 * float(np.linalg.norm(step) * np.linalg.norm(change)):
            self.steps = [*self.steps, step][-MEMORY:]
            self.changes = [*self.changes, change][-MEMORY:]
        self.x, self.value, self.gradient = x, value, gradient
        return True

    def _scaled(self, gradient: np.ndarray) -> np.ndarray:
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
