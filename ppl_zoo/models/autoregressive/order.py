"""Variable orders of autoregressive models: which x_i come before which."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["Order", "make_orders", "read_shape"]

#: None for the natural order, "random", or a permutation
Order = str | Sequence[int] | Tensor | np.ndarray | None


def read_shape(num_features: int | Sequence[int]) -> tuple[int, ...]:
    """Read a number of features, or the shape of an image, as the shape of a row.

    Raises
    ------
    DataError
        If it is neither.
    """
    several = isinstance(num_features, Sequence)
    shape = tuple(num_features) if several else (num_features,)
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise DataError(
            f"num_features: got {num_features!r}, expected a positive number or a shape"
        )
    return shape


def make_orders(
    order: Order, shape: tuple[int, ...], num_orders: int = 1, seed: int = 0
) -> Tensor:
    """Make the orders of an ensemble: ``orders[k, p]`` is the variable at place p.

    Parameters
    ----------
    order
        None for the natural order (rows of an image from the top), "random", or a permutation of
        ``0, ..., D - 1`` that lists the variables as they are drawn.
    shape
        Shape of a row; D is its number of elements.
    num_orders
        Number of orders of an ensemble.
    seed
        Of random orders.

    Returns
    -------
    Tensor
        int64 ``(num_orders, D)``.

    Raises
    ------
    DataError
        If ``order`` is no permutation.
    """
    size = math.prod(shape)
    if order is None:
        return torch.arange(size).repeat(num_orders, 1)
    if isinstance(order, str):
        if order != "random":
            raise DataError(f"order: got {order!r}, expected None, 'random' or a permutation")
        generator = torch.Generator().manual_seed(seed)
        return torch.stack([torch.randperm(size, generator=generator) for _ in range(num_orders)])
    given = torch.as_tensor(order).flatten().long()
    if not torch.equal(given.sort().values, torch.arange(size)):
        raise DataError(
            f"order: got {len(given)} numbers that are no permutation of 0 to {size - 1}"
        )
    return given.cpu().repeat(num_orders, 1)
