"""When a noisy objective has come to rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Plateau"]


class Plateau:
    """Windowed median of the ELBO and parameters; divides the learning rate on a plateau.

    At a plateau the median gained less over the last ``span`` windows than the noise of a median.
    Dividing the learning rate there and going on is what makes the last iterate precise
    (Welandawe et al. 2022, https://arxiv.org/abs/2203.15945, do the same with averages).
    """

    factor = 10**-0.5
    smallest = 1e-2
    span = 4  # windows a gain is added up over; one alone is less than its noise on a slow climb

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
        """Look at the last window when it is full; return whether the chain has converged.

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
        if self.before is not None:
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
