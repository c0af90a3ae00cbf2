"""Muon for nets whose weights are one vector: momentum with orthogonalised matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["MuonVector"]

#: Jordan's polynomial x -> a x + b x^3 + c x^5, five iterations of which (Newton-Schulz) take
#: singular values near 1
POLYNOMIAL, NUM_ITERATIONS = (3.4445, -4.7750, 2.0315), 5
#: added to the Frobenius norm of a matrix, and to the root mean square of Adam's steps
MIN_NORM, ADAM_EPSILON = 1e-12, 1e-8


class MuonVector(torch.optim.Optimizer):
    """Muon on one vector of weights: orthogonalised momentum for matrices, Adam for the rest.

    Adam's steps along a matrix are nearly of low rank. With all singular values made (about)
    equal, an encoder-decoder fits an image in a third to a quarter of the steps.
    ``torch.optim.Muon`` takes parameters that are matrices, and iterates with the matrices
    themselves; here they are slices of one vector, and the iteration is on Gram matrices of the
    smaller side (``d x d`` for a matrix ``d x n``), those of one size in a batch.

    Parameters
    ----------
    parameters
        One vector ``(num_weights,)``.
    shapes
        Shapes of its slices, in order; a shape ``(d, n)`` is a matrix, all else is Adam's.
    lr
        Learning rate of matrices: each singular value of a step ``(d x n)`` is
        ``lr sqrt(max(1, d / n))``.
    adam_lr
        Learning rate of the other slices.
    momentum, beta2
        Decays of the moving averages of gradients and, for Adam, of their squares.

    References
    ----------
    Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks,
    https://kellerjordan.github.io/posts/muon/.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        shapes: Sequence[tuple[int, ...]],
        lr: float = 0.05,
        adam_lr: float = 0.03,
        momentum: float = 0.8,
        beta2: float = 0.999,
    ) -> None:
        defaults = {"lr": lr, "adam_lr": adam_lr, "momentum": momentum, "beta2": beta2}
        super().__init__(parameters, defaults)
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [math.prod(shape) for shape in shapes]
        self.rest = [i for i, shape in enumerate(self.shapes) if len(shape) != 2]
        by_size: dict[int, list[int]] = {}  # the matrices by their smaller side
        for i, shape in enumerate(self.shapes):
            if len(shape) == 2:
                by_size.setdefault(min(shape), []).append(i)
        self.batches = list(by_size.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take a step along the gradient, which is overwritten; a closure is not called."""
        group = self.param_groups[0]
        for vector in group["params"]:
            state, grad = self.state[vector], vector.grad
            if not state:
                squares = vector.new_zeros(sum(self.sizes[i] for i in self.rest))
                state.update(mean=torch.zeros_like(vector), square=squares, count=0)
            state["count"] += 1
            mean, pieces = state["mean"], vector.split(self.sizes)
            mean.lerp_(grad, 1.0 - group["momentum"])
            self._step_rest(pieces, grad.split(self.sizes), state, group)
            ahead = grad.lerp_(mean, group["momentum"])  # Nesterov's
            self._step_matrices(pieces, ahead.split(self.sizes), group["lr"])

    def _step_rest(
        self, pieces: Sequence[Tensor], grads: Sequence[Tensor], state: dict, group: dict
    ) -> None:
        """Take Adam's step with the slices that are no matrices."""
        if not self.rest:
            return
        beta1, beta2, count = group["momentum"], group["beta2"], state["count"]
        grad = torch.cat([grads[i].flatten() for i in self.rest])
        means = state["mean"].split(self.sizes)
        mean = torch.cat([means[i].flatten() for i in self.rest])
        square = state["square"].mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        root = square.sqrt().mul_((1.0 - beta2**count) ** -0.5).add_(ADAM_EPSILON)
        step = (mean / root).mul_(group["adam_lr"] / (1.0 - beta1**count))
        own = step.split([self.sizes[i] for i in self.rest])
        for i, part in zip(self.rest, own, strict=True):
            pieces[i].sub_(part)

    def _step_matrices(self, pieces: Sequence[Tensor], ahead: Sequence[Tensor], lr: float) -> None:
        """Take Muon's step, the Gram matrices of one size in a batch."""
        for batch in self.batches:
            wide = []
            for i in batch:
                rows, columns = self.shapes[i]
                matrix = ahead[i].view(rows, columns)
                wide.append(matrix if rows <= columns else matrix.T)
            factors = orthogonalisers(torch.stack([matrix @ matrix.T for matrix in wide]))
            for i, matrix, factor in zip(batch, wide, factors, strict=True):
                rows, columns = self.shapes[i]
                out = pieces[i].view(rows, columns)
                scale = lr * max(1.0, rows / columns) ** 0.5
                (out if rows <= columns else out.T).addmm_(factor, matrix, alpha=-scale)


def orthogonalisers(grams: Tensor) -> Tensor:
    """Newton-Schulz iteration on Gram matrices ``X X'``: Q with Q X nearly orthogonal.

    Parameters
    ----------
    grams
        ``(m, d, d)``, as the result.

    Notes
    -----
    Singular values from a thousandth of X's Frobenius norm on become .7 to 1.2; lower ones stay
    low.
    """
    a, b, c = POLYNOMIAL
    square = grams.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].add(MIN_NORM**2)
    A, Q = grams / square, square.rsqrt()
    for iteration in range(NUM_ITERATIONS):
        p = torch.baddbmm(A, A, A, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        Q = p * Q if iteration == 0 else p @ Q
        if iteration + 1 < NUM_ITERATIONS:
            A = p @ A @ p
    return Q
