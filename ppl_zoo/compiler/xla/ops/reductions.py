"""Reductions of aten in JAX: sums, extrema, sorts, cumulative ops, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

from ppl_zoo.compiler.xla.ops.dtypes import axes_of, jax_dtype
from ppl_zoo.compiler.xla.ops.shapes import select

__all__ = ["MAX_DOT_SIZE", "MIN_DOT_SIZE", "REDUCTIONS", "vector_norm"]

#: sizes of arrays, in elements, that are summed as a dot product on a CPU
MIN_DOT_SIZE, MAX_DOT_SIZE = 2**10, 2**20
#: terms of sums that are unrolled
_MAX_UNROLLED_TERMS = 8


def _sum(x, dim=None, keepdim=False, dtype=None):
    dtype = jax_dtype(dtype)
    if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
        dtype = jax_dtype(torch.int64)
    axes = axes_of(dim)
    axes = tuple(range(x.ndim)) if axes is None else axes
    axes = sorted(d % x.ndim for d in ((axes,) if isinstance(axes, int) else axes) if x.ndim)
    count = math.prod(x.shape[d] for d in axes)
    rest = x.size // count if count else 0
    wanted = x.dtype if dtype is None else dtype
    known = jax.default_backend() == "cpu" and wanted == x.dtype
    if count < 2 or rest < 2 or x.size < MIN_DOT_SIZE or not known:
        return jnp.sum(x, tuple(axes), dtype=dtype, keepdims=keepdim)
    # XLA on a CPU adds along a dimension number by number; these two ways are up to ten times
    # as fast
    if len(axes) == 1 and count <= _MAX_UNROLLED_TERMS:
        out = sum(select(x, axes[0], i) for i in range(count))
    elif x.size <= MAX_DOT_SIZE and jnp.issubdtype(x.dtype, jnp.floating):
        ones = jnp.ones([x.shape[d] for d in axes], x.dtype)
        out = jnp.tensordot(x, ones, (axes, list(range(len(axes)))), precision="highest")
    else:
        return jnp.sum(x, tuple(axes), dtype=dtype, keepdims=keepdim)
    return jnp.expand_dims(out, axes) if keepdim else out


def _prod(x, dim=None, keepdim=False, dtype=None):
    if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
        dtype = torch.int64
    return jnp.prod(x, axes_of(dim), dtype=jax_dtype(dtype), keepdims=keepdim)


def _var(x, dim=None, correction=1, keepdim=False):
    correction = 1 if correction is None else correction
    return jnp.var(x, axes_of(dim), ddof=correction, keepdims=keepdim)


def _var_mean(x, dim=None, correction=1, keepdim=False):
    return _var(x, dim, correction, keepdim), jnp.mean(x, axes_of(dim), keepdims=keepdim)


def _with_index(value, index, pair):
    def run(x, dim=None, keepdim=False):
        if dim is None:
            return value(x)
        if hasattr(dim, "dtype"):  # the larger of two tensors
            return pair(x, dim)
        return value(x, dim, keepdims=keepdim), index(x, dim, keepdims=keepdim)

    return run


def _softmax(function):
    return lambda x, dim, half_to_float=False: function(x, dim)


def _logical(reduce):
    return lambda x, dim=None, keepdim=False: reduce(x, axes_of(dim), keepdims=keepdim)


def _cumulative(function):
    def run(x, dim, dtype=None):
        if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
            dtype = torch.int64
        return function(x, dim, dtype=jax_dtype(dtype)) if x.ndim else x

    return run


def _log_softmax_backward(g, y, dim, dtype):
    return g - jnp.exp(y) * g.sum(dim, keepdims=True)


def _softmax_backward(g, y, dim, dtype):
    return y * (g - (g * y).sum(dim, keepdims=True))


def _sort(x, dim=-1, descending=False, stable=False):
    index = jnp.argsort(x, dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, index, dim), index


def _topk(x, k, dim=-1, largest=True, sorted=True):
    values, index = _sort(x, dim, descending=largest)
    return jax.lax.slice_in_dim(values, 0, k, axis=dim), jax.lax.slice_in_dim(
        index, 0, k, axis=dim
    )


def _kthvalue(x, k, dim=-1, keepdim=False):
    values, index = _sort(x, dim)
    if keepdim:
        return tuple(jax.lax.slice_in_dim(v, k - 1, k, axis=dim) for v in (values, index))
    return jnp.take(values, k - 1, dim), jnp.take(index, k - 1, dim)


def _median(x, dim=None, keepdim=False):
    if dim is None:
        return jnp.sort(x.ravel())[(x.size - 1) // 2]
    return _kthvalue(x, (x.shape[dim] - 1) // 2 + 1, dim, keepdim)


def vector_norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    x = x if dtype is None else x.astype(jax_dtype(dtype))
    if dim is None and not keepdim:
        x = x.ravel()
    axes = axes_of(dim)
    if axes is None:
        axes = tuple(range(x.ndim))
    if ord == 2:
        return jnp.sqrt(jnp.sum(x * x, axes, keepdims=keepdim))
    size = jnp.abs(x)
    if ord in (float("inf"), float("-inf")):
        return (jnp.max if ord > 0 else jnp.min)(size, axes, keepdims=keepdim)
    if ord == 0:
        return jnp.sum(x != 0, axes, keepdims=keepdim).astype(x.dtype)
    return jnp.sum(size**ord, axes, keepdims=keepdim) ** (1 / ord)


def _logcumsumexp(x, dim):
    return jax.lax.associative_scan(jnp.logaddexp, x, axis=dim) if x.ndim else x


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "all": _logical(jnp.all),
    "amax": lambda x, dim=(), keepdim=False: jnp.max(x, axes_of(dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: jnp.min(x, axes_of(dim), keepdims=keepdim),
    "any": _logical(jnp.any),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, dim, keepdims=keepdim),
    "cumprod": _cumulative(jnp.cumprod),
    "cumsum": _cumulative(jnp.cumsum),
    "kthvalue": _kthvalue,
    "linalg_vector_norm": vector_norm,
    "logcumsumexp": _logcumsumexp,
    "max": _with_index(jnp.max, jnp.argmax, jnp.maximum),
    "mean": lambda x, dim=None, keepdim=False, dtype=None: jnp.mean(
        x, axes_of(dim), jax_dtype(dtype), keepdims=keepdim
    ),
    "median": _median,
    "min": _with_index(jnp.min, jnp.argmin, jnp.minimum),
    "prod": _prod,
    "sort": _sort,
    "sum": _sum,
    "topk": _topk,
    "var": _var,
    "var_mean": _var_mean,
    "_softmax": _softmax(jax.nn.softmax),
    "_log_softmax": _softmax(jax.nn.log_softmax),
    "_log_softmax_backward_data": _log_softmax_backward,
    "_softmax_backward_data": _softmax_backward,
}
