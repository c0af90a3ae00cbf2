"""Outputs by name."""

from __future__ import annotations

from typing import Any

from ppl_zoo.errors import DataError
from ppl_zoo.models.autoregressive.output import Bernoulli, Categorical, Output
from ppl_zoo.models.autoregressive.output_mixture import Mixture

__all__ = ["Bernoulli", "Categorical", "Mixture", "Output", "make_output"]


def make_output(
    output: Any, num_components: int, num_values: int | None, min_scale: float
) -> Output:
    """Build an output by its name.

    Raises
    ------
    DataError
        If there is no such output or an option is out of range.
    """
    if num_components < 1:
        raise DataError(f"num_components: got {num_components}, expected 1 or more")
    if num_values is not None and num_values < 2:
        raise DataError(f"num_values: got {num_values}, expected 2 or more")
    if not min_scale > 0:
        raise DataError(f"min_scale: got {min_scale}, expected more than 0")
    if output == "bernoulli":
        return Bernoulli()
    if output == "categorical":
        if num_values is None:
            raise DataError("num_values: got None, expected the number of values of x")
        return Categorical(num_values)
    if output in ("normal", "laplace", "logistic"):
        return Mixture(output, num_components, min_scale, num_values)
    raise DataError(
        f"output: got {output!r}, expected 'bernoulli', 'categorical', 'normal', 'laplace' or "
        "'logistic'"
    )
