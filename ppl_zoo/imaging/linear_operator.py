"""What all linear operators share: A, A', and the least squares of both."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["LinearOperator", "conjugate_gradients"]

#: conjugate gradients stop at this residual, relative to the right-hand side
TOLERANCE = 1e-5
MAX_STEPS = 200


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    tol: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Tensor:
    """Solve ``apply(x) = target`` for a positive definite operator (Hestenes & Stiefel 1952).

    Parameters
    ----------
    apply, precondition
        The operator, and something close to its inverse.
    target, start
        Right-hand side and first guess.
    tol
        Residual at which to stop, relative to ``target``.
    max_steps
        Most steps.
    """
    x, residual = start, target - apply(start)
    z = precondition(residual)
    direction, product = z, (residual * z).sum()
    goal = tol * float(target.norm())
    for _ in range(max_steps):
        if float(residual.norm()) <= goal:
            break
        moved = apply(direction)
        step = product / (direction * moved).sum()
        x, residual = x + step * direction, residual - step * moved
        z = precondition(residual)
        before, product = product, (residual * z).sum()
        direction = z + (product / before) * direction
    return x


class LinearOperator:
    """What every operator can do; one of your own writes ``__call__`` and ``adjoint``."""

    def __call__(self, image: Tensor) -> Tensor:
        """Apply A to an image ``(..., height, width)``."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__; write one")

    def adjoint(self, data: Tensor) -> Tensor:
        """Apply A', for which ``(A x) . y = x . (A' y)``."""
        raise NotImplementedError(f"{type(self).__name__} has no adjoint; write one")

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        return shape

    def first_guess(self, data: Tensor) -> Tensor:
        """Return an image to start from; A' y by default."""
        return self.adjoint(data)

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Minimise ``precision |A x - data|^2 + pull |x - average|^2`` over images x.

        By conjugate gradients, unless the operator knows better.
        """

        def apply(x: Tensor) -> Tensor:
            return precision * self.adjoint(self(x)) + pull * x

        return conjugate_gradients(apply, precision * self.adjoint(data) + pull * average, average)
