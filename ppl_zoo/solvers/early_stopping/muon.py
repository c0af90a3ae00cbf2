"""Muon for nets whose weights are one vector: momentum with all its directions made equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["MuonVector"]

#: Jordan's polynomial x -> a x + b x^3 + c x^5, which takes singular values near 1 in five rounds
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
TINY = 1e-12


class MuonVector(torch.optim.Optimizer):
    """Momentum whose matrices are replaced by their nearest orthogonal ones; Adam for the rest.

    Adam's steps along a matrix lie mostly in a few of its directions. With all singular values
    made (about) equal, an encoder-decoder fits an image in a third to a quarter of the steps.
    ``torch.optim.Muon`` takes parameters that are matrices, and iterates with the matrices as
    they are; here they are pieces of one vector, and the iteration is done on the small side's
    products (``d x d`` for a matrix ``d x n``), those of one size together.

    Parameters
    ----------
    parameters
        One vector ``(num_weights,)``.
    shapes
        Shapes of its pieces, in order; a shape ``(d, n)`` is a matrix, all else is Adam's.
    lr
        Step of a matrix: each singular value of a step ``(d x n)`` is ``lr sqrt(max(1, d / n))``.
    adam_lr
        Step of the other pieces.
    momentum, beta2
        Decays of the averages of gradients and, for Adam, of their squares.

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
        small: dict[int, list[int]] = {}  # the matrices by their smaller side
        for i, shape in enumerate(self.shapes):
            if len(shape) == 2:
                small.setdefault(min(shape), []).append(i)
        self.groups = list(small.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Take a step along the gradient that is there; it is written over."""
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
        """Take Adam's step with all that is no matrix."""
        if not self.rest:
            return
        beta1, beta2, count = group["momentum"], group["beta2"], state["count"]
        grad = torch.cat([grads[i].flatten() for i in self.rest])
        means = state["mean"].split(self.sizes)
        mean = torch.cat([means[i].flatten() for i in self.rest])
        square = state["square"].mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
        root = square.sqrt().mul_((1.0 - beta2**count) ** -0.5).add_(1e-8)
        step = (mean / root).mul_(group["adam_lr"] / (1.0 - beta1**count))
        own = step.split([self.sizes[i] for i in self.rest])
        for i, part in zip(self.rest, own, strict=True):
            pieces[i].sub_(part)

    def _step_matrices(self, pieces: Sequence[Tensor], ahead: Sequence[Tensor], lr: float) -> None:
        for places in self.groups:
            wide = []
            for i in places:
                rows, columns = self.shapes[i]
                matrix = ahead[i].view(rows, columns)
                wide.append(matrix if rows <= columns else matrix.T)
            turns = orthogonalisers(torch.stack([matrix @ matrix.T for matrix in wide]))
            for i, matrix, turn in zip(places, wide, turns, strict=True):
                rows, columns = self.shapes[i]
                out = pieces[i].view(rows, columns)
                scale = lr * max(1.0, rows / columns) ** 0.5
                (out if rows <= columns else out.T).addmm_(turn, matrix, alpha=-scale)


def orthogonalisers(products: Tensor) -> Tensor:
    """Make the Q of each ``X X'``, ``(m, d, d)``, with which Q X is near orthogonal.

    Singular values from a thousandth of X's Frobenius norm on become .7 to 1.2; lower ones stay
    low.
    """
    a, b, c = POLYNOMIAL
    square = products.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None].add(TINY**2)
    A, Q = products / square, square.rsqrt()
    for turn in range(ROUNDS):
        p = torch.baddbmm(A, A, A, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        Q = p * Q if turn == 0 else p @ Q
        if turn + 1 < ROUNDS:
            A = p @ A @ p
    return Q
