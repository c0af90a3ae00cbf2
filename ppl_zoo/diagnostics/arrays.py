"""NumPy arrays of tensors, in the forms that ArviZ and matplotlib take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.rows import evenly_spaced

__all__ = ["as_array", "as_doubles", "even_indices", "plain", "rankable", "stack_chains"]


def as_array(value: Any) -> np.ndarray:
    """Return a value as an array of its own type."""
    return torch.as_tensor(value).detach().cpu().numpy()


def as_doubles(value: Tensor) -> np.ndarray:
    """Return a tensor as an array of float64, for figures."""
    return value.detach().cpu().double().numpy()


def stack_chains(values: list[Tensor]) -> np.ndarray:
    """Stack the values of all chains, ``(chain, ...)``."""
    return np.stack([as_array(v) for v in values])


def plain(values: np.ndarray) -> np.ndarray:
    """Return booleans as 0 and 1: ArviZ subtracts."""
    return values.astype(np.int64) if values.dtype == bool else values


def rankable(values: np.ndarray) -> np.ndarray:
    """Return integers that do not vary as floats: ArviZ 1.x cannot rank them as integers."""
    values = plain(values)
    if values.dtype.kind in "iu":
        flat = values.reshape(values.shape[0] * values.shape[1], -1)
        if (flat == flat[:1]).all(0).any():
            return values.astype(np.float64)
    return values


def even_indices(size: int, count: int) -> np.ndarray:
    """At most ``count`` evenly spaced indices of 0 .. size - 1, the first and last among them."""
    return evenly_spaced(size, count).numpy()
