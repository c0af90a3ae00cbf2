"""Creation ops of aten in JAX: tensors that are filled, ranges, identities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import torch

from ppl_zoo.compiler.xla.ops.dtypes import jax_dtype, shape_and_dtype

__all__ = ["CREATION"]


def _full(size, value, dtype=None, **_):
    if dtype is None:
        dtype = {bool: torch.bool, int: torch.int64}.get(type(value), torch.get_default_dtype())
    return jnp.full(tuple(size), value, jax_dtype(dtype))


def _arange(start, end=None, step=1, dtype=None, **_):
    if end is None:
        start, end = 0, start
    if dtype is None:
        integers = all(isinstance(v, int) for v in (start, end, step))
        dtype = torch.int64 if integers else torch.get_default_dtype()
    return jnp.arange(start, end, step, jax_dtype(dtype))


def _scalar_tensor(value, dtype=None, **_):
    if dtype is None:
        dtype = {bool: torch.bool, int: torch.int64}.get(type(value), torch.get_default_dtype())
    return jnp.asarray(value, jax_dtype(dtype))


def _triangle(function):
    def run(rows, cols, offset=0, dtype=None, **_):
        return jnp.stack(function(rows, offset, cols))

    return run


CREATION: dict[str, Callable[..., Any]] = {
    "arange": _arange,
    "empty": lambda s, dtype=None, **_: jnp.zeros(*shape_and_dtype(s, dtype)),
    "empty_strided": lambda s, stride, dtype=None, **_: jnp.zeros(*shape_and_dtype(s, dtype)),
    "empty_like": lambda x, dtype=None, **_: jnp.zeros(x.shape, jax_dtype(dtype) or x.dtype),
    "eye": lambda n, m=None, dtype=None, **_: jnp.eye(n, m, dtype=shape_and_dtype((), dtype)[1]),
    "full": _full,
    "linspace": lambda a, b, n, dtype=None, **_: jnp.linspace(
        a, b, n, dtype=shape_and_dtype((), dtype)[1]
    ),
    "new_empty_strided": lambda x, size, stride, dtype=None, **_: jnp.zeros(
        tuple(size), jax_dtype(dtype) or x.dtype
    ),
    "ones": lambda s, dtype=None, **_: jnp.ones(*shape_and_dtype(s, dtype)),
    "scalar_tensor": _scalar_tensor,
    "tril_indices": _triangle(jnp.tril_indices),
    "triu_indices": _triangle(jnp.triu_indices),
    "zeros": lambda s, dtype=None, **_: jnp.zeros(*shape_and_dtype(s, dtype)),
}
