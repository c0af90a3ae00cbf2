"""Validation of a model's input: features, labels, sample weights and given values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows

__all__ = [
    "check_features",
    "check_fittable",
    "check_spread",
    "read_given",
    "refuse_given",
]


def check_features(rows: Rows, num_features: int, *, second: str | None = None) -> None:
    """Refuse x of another shape than ``(n, num_features)``.

    Parameters
    ----------
    rows
        The data of a fit or a query.
    num_features
        Columns of x.
    second
        What may follow x: "sample_weight", ``(n,)`` of finite numbers, 0 or more; "y", one label a
        row ``(n,)``; None for whatever the model reads itself.

    Raises
    ------
    DataError
        Saying what was given and what was expected.
    """
    x, expected = rows.arrays[0], f"expected ({len(rows)}, {num_features})"
    shape = tuple(x.shape)
    if x.ndim != 2:
        raise DataError(f"x: got shape {shape}, {expected}")
    if shape[1] != num_features:
        raise DataError(
            f"x: got shape {shape}, {expected}, since the model has num_features={num_features}"
        )
    if second == "sample_weight":
        if len(rows.arrays) > 2:
            raise DataError(
                f"data: got {len(rows.arrays)} arrays, expected x, or (x, sample_weight)"
            )
        if len(rows.arrays) == 2:
            _check_weights(rows)
    if second == "y" and len(rows.arrays) > 1 and tuple(rows.arrays[1].shape) != (len(rows),):
        raise DataError(f"y: got shape {tuple(rows.arrays[1].shape)}, expected ({len(rows)},)")


def _check_weights(rows: Rows) -> None:
    weight = rows.arrays[1]
    if tuple(weight.shape) != (len(rows),):
        raise DataError(
            f"sample_weight: got shape {tuple(weight.shape)}, expected ({len(rows)},), as x"
        )
    weight = torch.as_tensor(weight).double()
    bad = ~(weight.isfinite() & (weight >= 0))
    if bad.any():
        index = int(bad.nonzero()[0])
        raise DataError(
            f"sample_weight: got {weight[index].item()} at ({index},), "
            "expected finite numbers of 0 or more"
        )
    if not weight.sum() > 0:
        raise DataError("sample_weight: got zeros only, expected some positive weight")


def check_fittable(rows: Rows, num_components: int) -> None:
    """Refuse too few rows for ``num_components``, and what :func:`check_spread` does.

    Raises
    ------
    DataError
        Naming the features, or the number of rows.
    """
    if len(rows) < num_components:
        raise DataError(
            f"x: got {len(rows)} rows, expected at least num_components={num_components}"
        )
    check_spread(rows)


def check_spread(rows: Rows, some_constant: bool = False) -> None:
    """Refuse constant features, and those whose variance is out of the range of the dtype.

    Parameters
    ----------
    rows
        The data of a fit.
    some_constant
        Whether some features may be constant, but not all.

    Raises
    ------
    DataError
        Naming the features.
    """
    low = high = None
    for x, *_ in rows.chunks(4096):
        missing = x.isnan()
        least = x.masked_fill(missing, torch.inf).amin(0)
        most = x.masked_fill(missing, -torch.inf).amax(0)
        low = least if low is None else torch.minimum(low, least)
        high = most if high is None else torch.maximum(high, most)
    constant = low >= high
    finite = torch.finfo(rows.dtype)
    least, most = finite.tiny**0.4, finite.max**0.4  # squares, and products of these
    spread = high / 2 - low / 2
    bad = (((spread < least) & ~constant) | (spread > most)).nonzero()[:, 0].tolist()
    if bad:
        name = str(rows.dtype).removeprefix("torch.")
        hint = "" if rows.dtype == torch.float64 else ", or compute in float64: model.double()"
        raise DataError(
            f"x: got feature {bad[0]} with values from {low[bad[0]].item():g} to "
            f"{high[bad[0]].item():g}, expected a spread from {least:.0e} to {most:.0e}, since "
            f"variances in {name} have to be finite; change its unit{hint}"
        )
    fixed = constant.nonzero()[:, 0].tolist()
    if not fixed or (some_constant and len(fixed) < len(constant)):
        return
    names = ", ".join(str(i) for i in fixed[:8]) + (", ..." if len(fixed) > 8 else "")
    if torch.isinf(low[fixed[0]]):
        raise DataError(f"x: got features {names} with no observed value; leave them out")
    raise DataError(
        f"x: got constant features {names} (feature {fixed[0]} is {low[fixed[0]].item():g} in all "
        f"{len(rows)} rows), expected features that vary; leave them out, or add noise"
    )


def read_given(given: Any, num_samples: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Read the values that a conditional sample holds fixed, NaN where a feature is free.

    Parameters
    ----------
    given
        ``shape``, for all samples alike, or ``(num_samples, *shape)``.
    num_samples
        Samples to draw.
    shape
        Of one row.
    like
        Gives the dtype and device of the result.

    Returns
    -------
    Tensor
        ``(num_samples, *shape)``.

    Raises
    ------
    DataError
        If ``given`` has another shape, or infinite values.
    """
    held = torch.as_tensor(given).to(like)
    if tuple(held.shape) not in (shape, (num_samples, *shape)):
        raise DataError(
            f"given: got shape {tuple(held.shape)}, expected {shape} or "
            f"{(num_samples, *shape)} with NaN where free"
        )
    if held.isinf().any():
        raise DataError("given: got infinite values, expected finite ones, or NaN where free")
    return held.expand(num_samples, *shape)


def refuse_given(given: Any, model: object, instead: str = "") -> None:
    """Refuse a conditional sample of a model that has none.

    Raises
    ------
    DataError
        If ``given`` is not None; ``instead`` names what to take in its place.
    """
    if given is not None:
        hint = f"; {instead}" if instead else ""
        raise DataError(f"given: {type(model).__name__} holds no features, expected None{hint}")
