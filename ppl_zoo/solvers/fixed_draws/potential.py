"""The potential energy of a model at many points at once, in float64."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler import CaptureError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["BatchedPotential"]

#: points in a block, and numbers that the data of all of them may be
BLOCK, NUMBERS = 256, 2**24


class BatchedPotential:
    """Minus the log density on the unconstrained scale, with its gradient, by blocks of points.

    The model is copied to the CPU in float64, since an optimum is told from its neighbours by
    differences far below float32's.

    Parameters
    ----------
    model, rows
        The model and all its data.
    compiled
        Whether XLA runs it; else Pyro does, point by point.

    Raises
    ------
    CaptureError, ppl_zoo.compiler.xla.lowering.LoweringError
        If it cannot be compiled.
    DataError
        If the model has no such density.
    """

    def __init__(self, model: Model, rows: Rows, compiled: bool = True) -> None:
        own = copy.deepcopy(model).to(torch.device("cpu"), torch.float64)
        with own.defaults():
            self.problem = Unconstrained(own, Rows(rows.all(), "cpu", torch.float64))
            self.size = self.problem.size
            # that a point reads; a run of Pyro takes as long as reading some hundred thousand
            self.numbers = sum(t.numel() for t in self.problem.data)
            self.numbers = self.numbers if compiled else max(self.numbers, 2**18)
            z = torch.zeros(self.size, dtype=torch.float64)
            self.step = np.full(self.size, 1e-4)  # of the differences that make a Hessian
            self.block, self.batched = BLOCK, None
            if compiled:
                from ppl_zoo.compiler.xla.potential import XLAPotential

                while self.block > 16 and self.block * self.numbers > NUMBERS:
                    self.block //= 2
                energy, data = self.problem.energy, self.problem.data
                self.batched = XLAPotential(energy, z, data, self.block)

    def on(self, rows: Rows) -> BatchedPotential:
        """Return the same for other rows of the same shapes, compiled no second time."""
        other = copy.copy(self)
        other.problem = copy.copy(self.problem)
        other.problem.data = Rows(rows.all(), "cpu", torch.float64).all()
        other.step = np.full(self.size, 1e-4)
        if self.batched is not None:
            other.batched = self.batched.on(other.problem.data)
        return other

    @property
    def engine(self) -> str:
        """What runs it: "xla" or "interpreted"."""
        return "interpreted" if self.batched is None else "xla"

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return energies ``(n,)`` in nats and gradients ``(n, size)`` at ``z (n, size)``."""
        if self.batched is None:
            found = [self._interpret(point) for point in torch.from_numpy(z)]
            return np.array([v for v, _ in found]), np.stack([g for _, g in found])
        values, gradients = np.empty(len(z)), np.empty_like(z)
        for first in range(0, len(z), self.block):
            part = z[first : first + self.block]
            # always of one size, compiled once
            full = part if len(part) == self.block else np.resize(part, (self.block, self.size))
            value, gradient = self.batched(full)
            values[first : first + len(part)] = value[: len(part)]
            gradients[first : first + len(part)] = gradient[: len(part)]
        return values, gradients

    def _interpret(self, point: Tensor) -> tuple[float, np.ndarray]:
        with torch.enable_grad(), self.problem.model.defaults():
            z = point.clone().requires_grad_()
            value = self.problem.energy(z, *self.problem.data)
            (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient.numpy()

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Second derivatives at a point, ``(size, size)``, by central differences of gradients.

        Exact for a quadratic; steps are a thousandth of the scale that the last one showed.
        """
        shifts = np.diag(self.step)
        gradients = self(np.concatenate([z + shifts, z - shifts]))[1]
        rows = (gradients[: self.size] - gradients[self.size :]) / (2 * self.step[:, None])
        hessian = (rows + rows.T) / 2
        scale = np.abs(np.diag(hessian))
        if np.isfinite(scale).all():
            self.step = np.clip(1e-3 / np.sqrt(np.maximum(scale, 1e-300)), 1e-10, 1e-3)
        return hessian


def reason_of(error: Exception) -> str:
    """Say in a line why a density could not be had."""
    text = str(error).strip().splitlines()
    head = "a graph stops at " if isinstance(error, CaptureError) else ""
    return f"{head}{text[0] if text else type(error).__name__}"


def trainable(points: BatchedPotential) -> list[str]:
    """Name the model's own parameters that its density depends on."""
    with points.problem.model.defaults():
        return points.problem.parameters()
