"""Batched potential energy of a model: energies and gradients at many points, in float64."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler import CaptureError
from ppl_zoo.core.functions import user_programs
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.fixed_draws.laplace import difference_hessian
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["BatchedPotential", "reason_of"]

#: points evaluated together; fewer, down to the minimum, where each reads many data
MAX_POINTS_PER_BLOCK, MIN_POINTS_PER_BLOCK = 256, 16
#: numbers in the data that the points of a block may read together
MAX_NUMBERS_PER_BLOCK = 2**24
#: a run of Pyro takes as long as compiled code that reads so many numbers
NUMBERS_PER_INTERPRETED_RUN = 2**18
#: first step of the finite differences of a Hessian, on the unconstrained scale
INITIAL_DIFFERENCE_STEP = 1e-4
#: later ones, in the standard deviations that the diagonal of the Hessian before implies
RELATIVE_DIFFERENCE_STEP = 1e-3


class BatchedPotential:
    """Minus the log density on the unconstrained scale, with its gradient, in blocks of points.

    The model is copied to the CPU in float64: near an optimum energies differ by far less than
    float32 resolves.

    Parameters
    ----------
    model, rows
        The model and all its data.
    compiled
        Whether XLA runs it; else Pyro does, point by point.

    Attributes
    ----------
    problem
        The density at single points.
    size
        Dimensions of a point.
    centring
        How far each of ``problem.recentred`` is centred; 1, as it is written, to begin with.
    numbers_per_point
        Numbers in the data that an evaluation reads: the measure of its cost.

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
            self.problem = Unconstrained(own, Rows(rows.all(), "cpu", torch.float64, rows.counted))
            self.size = self.problem.size
            self.numbers_per_point = sum(t.numel() for t in self.problem.data)
            if not compiled:
                self.numbers_per_point = max(self.numbers_per_point, NUMBERS_PER_INTERPRETED_RUN)
            self.difference_step = np.full(self.size, INITIAL_DIFFERENCE_STEP)
            self.centring = np.ones(len(self.problem.recentred))
            self.block, self.compiled = MAX_POINTS_PER_BLOCK, None
            if compiled:
                from ppl_zoo.compiler.xla.potential import XLAPotential

                while (
                    self.block > MIN_POINTS_PER_BLOCK
                    and self.block * self.numbers_per_point > MAX_NUMBERS_PER_BLOCK
                ):
                    self.block //= 2
                zero = torch.zeros(self.size + len(self.centring), dtype=torch.float64)
                data = self.problem.data
                self.compiled = XLAPotential(
                    self._energy, zero, data, self.block, user_programs(model)
                )

    def on(self, rows: Rows) -> BatchedPotential:
        """Return the same potential for other rows of the same shapes, not compiled again."""
        other = copy.copy(self)
        other.problem = copy.copy(self.problem)
        other.problem.data = Rows(rows.all(), "cpu", torch.float64, rows.counted).all()
        other.difference_step = np.full(self.size, INITIAL_DIFFERENCE_STEP)
        if self.compiled is not None:
            other.compiled = self.compiled.on(other.problem.data)
        return other

    def centred(self, centring: np.ndarray) -> BatchedPotential:
        """Return the same potential in other coordinates; see :meth:`Unconstrained.energy`."""
        other = copy.copy(self)
        other.centring = np.asarray(centring, np.float64)
        other.difference_step = np.full(self.size, INITIAL_DIFFERENCE_STEP)
        return other

    def from_centring(self, z: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return the vector that stands here for what ``z`` does at another centring."""
        after, moved = torch.from_numpy(self.centring), torch.from_numpy(before)
        with self.problem.model.defaults():
            return self.problem.recentre(torch.from_numpy(z), moved, after).numpy()

    def _energy(self, point: Tensor, *data: Tensor) -> Tensor:
        """Energy of a vector with its centring behind it."""
        z, centring = point[: self.size], point[self.size :]
        # without latents to recentre the graph is the model's own
        return self.problem.energy(z, *data, centring=centring if len(centring) else None)

    @property
    def engine(self) -> str:
        """What runs it: "xla" or "interpreted"."""
        return "interpreted" if self.compiled is None else "xla"

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return energies ``(n,)`` in nats and gradients ``(n, size)`` at ``z (n, size)``."""
        values, gradients, _ = self.at(z)
        return values, gradients

    def at(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return energies, gradients, and gradients by the centring ``(n, len(centring))``."""
        points = np.concatenate(
            [z, np.broadcast_to(self.centring, (len(z), len(self.centring)))], 1
        )
        if self.compiled is None:
            found = [self._interpret(point) for point in torch.from_numpy(points)]
            values, gradients = np.array([v for v, _ in found]), np.stack([g for _, g in found])
            return values, gradients[:, : self.size], gradients[:, self.size :]
        values, gradients = np.empty(len(points)), np.empty_like(points)
        for first in range(0, len(points), self.block):
            part = points[first : first + self.block]
            # blocks of one shape, compiled once: the last is padded
            full = part
            if len(part) < self.block:
                full = np.resize(part, (self.block, points.shape[1]))
            value, gradient = self.compiled(full)
            values[first : first + len(part)] = value[: len(part)]
            gradients[first : first + len(part)] = gradient[: len(part)]
        return values, gradients[:, : self.size], gradients[:, self.size :]

    def _interpret(self, point: Tensor) -> tuple[float, np.ndarray]:
        """Energy and gradient at one point, by Pyro."""
        with torch.enable_grad(), self.problem.model.defaults():
            z = point.clone().requires_grad_()
            value = self._energy(z, *self.problem.data)
            (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient.numpy()

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian at a point, ``(size, size)``, by central differences of gradients."""
        found, self.difference_step = difference_hessian(
            self, z, self.difference_step, RELATIVE_DIFFERENCE_STEP
        )
        return found

    def trainable(self) -> list[str]:
        """Name the model's own parameters that its density depends on."""
        with self.problem.model.defaults():
            return self.problem.parameters()


def reason_of(error: Exception) -> str:
    """Say in one line why a model has no such potential."""
    text = str(error).strip().splitlines()
    head = "a graph stops at " if isinstance(error, CaptureError) else ""
    return f"{head}{text[0] if text else type(error).__name__}"
