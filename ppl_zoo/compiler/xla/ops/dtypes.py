"""Dtypes and dims of torch as dtypes and axes of JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch

__all__ = ["axes_of", "jax_dtype", "shape_and_dtype"]

_DTYPES = {
    torch.float32: jnp.float32,
    torch.float64: jnp.float64,
    torch.float16: jnp.float16,
    torch.bfloat16: jnp.bfloat16,
    torch.int64: jnp.int64,
    torch.int32: jnp.int32,
    torch.uint8: jnp.uint8,
    torch.bool: jnp.bool_,
}


def jax_dtype(dtype: torch.dtype | None) -> Any:
    """Return JAX's dtype for torch's; None for None."""
    if dtype is None:
        return None
    # without x64 mode JAX has 32-bit integers only
    return jax.dtypes.canonicalize_dtype(_DTYPES[dtype])


def axes_of(dim: Any) -> Any:
    """Return the axes of torch's ``dim``; None, for all of them, also for an empty list."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return None
    return tuple(dim) if isinstance(dim, (list, tuple)) else dim


def shape_and_dtype(shape: Any, dtype: torch.dtype | None) -> tuple[tuple[int, ...], Any]:
    """Return shape and dtype of a tensor to create, torch's default dtype where none is given."""
    return tuple(shape), jax_dtype(dtype or torch.get_default_dtype())
