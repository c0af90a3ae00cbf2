"""Specification of a linear operator by the arguments of a saved model, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.lanczos import Lanczos
from ppl_zoo.imaging.operators import Blur, Downsample, Identity, LinearOperator, Mask

__all__ = ["make_operator", "operator_arguments"]

_ARGUMENTS: dict[type[LinearOperator], Callable[[Any], dict[str, Any]]] = {
    Identity: lambda a: {},
    Blur: lambda a: {"kernel": a.kernel, "boundary": a.boundary},
    Mask: lambda a: {"mask": a.mask},
    Downsample: lambda a: {"factor": a.factor},
    Lanczos: lambda a: {"lanczos": a.factor},
}


def make_operator(
    kernel: Any, boundary: str, mask: Any, factor: int | None, lanczos: int | None
) -> LinearOperator:
    """Make the operator of the one argument that is not None; the identity if there is none.

    Raises
    ------
    DataError
        If several are given.
    """
    given = [value for value in (kernel, mask, factor, lanczos) if value is not None]
    if len(given) > 1:
        raise DataError("got several of kernel, mask, factor and lanczos, expected one at most")
    if kernel is not None:
        return Blur(kernel, boundary)
    if mask is not None:
        return Mask(mask)
    if factor is not None:
        return Downsample(factor)
    return Identity() if lanczos is None else Lanczos(lanczos)


def operator_arguments(operator: Any) -> dict[str, Any]:
    """Return the arguments of :func:`make_operator` that make this operator.

    Raises
    ------
    DataError
        If it is no operator of ``zoo.imaging``.
    """
    operator = Identity() if operator is None else operator
    if type(operator) not in _ARGUMENTS:
        names = ", ".join(cls.__name__ for cls in _ARGUMENTS)
        raise DataError(f"operator: got a {type(operator).__name__}, expected one of {names}")
    return _ARGUMENTS[type(operator)](operator)
