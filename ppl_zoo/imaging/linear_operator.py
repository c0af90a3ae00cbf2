"""Linear operator of images: A, its adjoint A' and regularised least squares."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ppl_zoo.core.display import Described

__all__ = ["LinearOperator", "conjugate_gradients"]

#: norm of the residual, relative to the right-hand side's, at which conjugate gradients stop
RELATIVE_TOLERANCE = 1e-5
MAX_CG_STEPS = 200


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    tol: float = RELATIVE_TOLERANCE,
    max_steps: int = MAX_CG_STEPS,
) -> Tensor:
    """Conjugate gradients: solve ``apply(x) = target`` for a positive definite operator.

    Parameters
    ----------
    apply, precondition
        The operator, and a preconditioner: an approximation of its inverse.
    target, start
        Right-hand side and initial guess.
    tol
        Residual at which to stop, relative to ``target``.
    max_steps
        Upper limit of steps.

    References
    ----------
    Hestenes & Stiefel (1952), Methods of conjugate gradients for solving linear systems,
    https://doi.org/10.6028/jres.049.044.
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


class LinearOperator(Described):
    """Linear operator A of images; a subclass writes ``__call__`` and ``adjoint``."""

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
        """Return an initial guess of the image; A' y by default."""
        return self.adjoint(data)

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Regularised least squares: minimise ``precision |A x - data|^2 + pull |x - average|^2``.

        Over images x, by conjugate gradients unless a subclass has a closed form.
        """

        def apply(x: Tensor) -> Tensor:
            return precision * self.adjoint(self(x)) + pull * x

        return conjugate_gradients(apply, precision * self.adjoint(data) + pull * average, average)
