"""Shape ops of aten in JAX: views, slices, concatenation, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl_zoo.compiler.xla.ops.dtypes import axes_of

__all__ = ["SHAPES", "select"]


def _expand(x, size, implicit=False):
    lead = len(size) - x.ndim
    return jnp.broadcast_to(x, [x.shape[i - lead] if d == -1 else d for i, d in enumerate(size)])


def _slice(x, dim=0, start=None, end=None, step=1):
    index = [slice(None)] * x.ndim
    end = None if end is None or end > x.shape[dim] else end
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def _split_with_sizes(x, sizes, dim=0):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(x, ends, dim)


def select(x, dim, index):
    return jax.lax.index_in_dim(x, index, dim, keepdims=False)


def _diagonal(x, offset=0, dim1=0, dim2=1):
    return jnp.diagonal(x, offset, dim1, dim2)


def _pad(x, pad, value=0.0):
    widths = [(0, 0)] * (x.ndim - len(pad) // 2)
    widths += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return jax.lax.pad(x, jnp.asarray(value).astype(x.dtype), [(a, b, 0) for a, b in widths])


def _squeeze(x, dims=None):
    if dims is None:
        return jnp.squeeze(x)
    dims = [dims] if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(d for d in dims if x.ndim and x.shape[d] == 1))


def _copy(a, b, non_blocking=False):
    return jnp.broadcast_to(b, a.shape).astype(a.dtype)


def _unfold(x, dim, size, step):
    count = (x.shape[dim] - size) // step + 1
    index = step * jnp.arange(count)[:, None] + jnp.arange(size)
    return jnp.moveaxis(jnp.take(x, index, dim), dim % x.ndim + 1, -1)


SHAPES: dict[str, Callable[..., Any]] = {
    "cat": lambda xs, dim=0: jnp.concatenate([x for x in xs if x.shape != (0,)], dim),
    "constant_pad_nd": _pad,
    "copy": _copy,
    "diagonal": _diagonal,
    "diagonal_copy": _diagonal,
    "expand": _expand,
    "expand_copy": _expand,
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "permute": jnp.transpose,
    "permute_copy": jnp.transpose,
    "repeat": lambda x, n: jnp.tile(x, tuple(n)),
    "reshape": lambda x, s: jnp.reshape(x, tuple(s)),
    "roll": lambda x, shifts, dims=(): jnp.roll(x, tuple(shifts), axes_of(dims)),
    "select": select,
    "select_copy": select,
    "slice": _slice,
    "slice_copy": _slice,
    "split_with_sizes": _split_with_sizes,
    "split_with_sizes_copy": _split_with_sizes,
    "unbind": lambda x, dim=0: [select(x, dim, i) for i in range(x.shape[dim])],
    "unbind_copy": lambda x, dim=0: [select(x, dim, i) for i in range(x.shape[dim])],
    "squeeze": _squeeze,
    "squeeze_copy": _squeeze,
    "t": jnp.transpose,
    "transpose": jnp.swapaxes,
    "tril": jnp.tril,
    "triu": jnp.triu,
    "unfold": _unfold,
    "unfold_copy": _unfold,
    "unsqueeze": jnp.expand_dims,
    "unsqueeze_copy": jnp.expand_dims,
    "view": lambda x, s: jnp.reshape(x, tuple(s)),
    "view_copy": lambda x, s: jnp.reshape(x, tuple(s)),
    "_unsafe_view": lambda x, s: jnp.reshape(x, tuple(s)),
}
