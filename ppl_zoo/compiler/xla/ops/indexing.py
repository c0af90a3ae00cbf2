"""Indexing ops of aten in JAX: gather, scatter, index, slices that are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["INDEXING", "scatter"]


def _slice_scatter(x, src, dim=0, start=None, end=None, step=1):
    first, last, _ = slice(start, end).indices(x.shape[dim])
    if step == 1:  # concatenated: XLA starts a loop for a scatter
        before = jax.lax.slice_in_dim(x, 0, first, axis=dim)
        after = jax.lax.slice_in_dim(x, max(first, last), None, axis=dim)
        return jnp.concatenate([before, src.astype(x.dtype), after], dim)
    index = [slice(None)] * x.ndim
    index[dim] = slice(first, last, step)
    return x.at[tuple(index)].set(src)


def _select_scatter(x, src, dim, index):
    index = index % x.shape[dim]
    return _slice_scatter(x, jnp.expand_dims(src, dim), dim, index, index + 1)


def _index_tuple(indices):
    return tuple(slice(None) if i is None else i for i in indices)


def _constant_index(indices):
    """Return ``(dim, index)`` if one index only is given and it is a constant; else None."""
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if len(given) != 1 or not isinstance(given[0][1], np.ndarray) or given[0][1].dtype == bool:
        return None
    return given[0]


def _index(x, indices):
    constant = _constant_index(indices)
    if constant is not None:
        dim, index = constant
        size = x.shape[dim]
        flat = index.reshape(-1) % size
        if np.array_equal(flat, np.arange(size)):  # all, in order: as enumeration indexes
            return x.reshape(*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
    return x[_index_tuple(indices)]


def _index_put(x, indices, values, accumulate=False):
    values = values.astype(x.dtype)
    masks = [i for i in indices if i is not None]
    if len(masks) == 1 and masks[0].dtype == jnp.bool_ and values.size == 1 and not accumulate:
        # one value where a mask holds: its shape does not depend on the mask
        lead = next(n for n, i in enumerate(indices) if i is not None)
        tail = x.ndim - lead - masks[0].ndim
        return jnp.where(masks[0].reshape(*masks[0].shape, *(1,) * tail), values.reshape(()), x)
    constant = _constant_index(indices)
    if constant is not None:
        dim, index = constant
        flat = index.reshape(-1) % x.shape[dim]
        if np.array_equal(np.sort(flat), np.arange(x.shape[dim])):  # each element once
            shape = (*x.shape[:dim], *index.shape, *x.shape[dim + 1 :])
            new = jnp.broadcast_to(values, shape).reshape(x.shape)
            if not np.array_equal(flat, np.arange(len(flat))):
                new = jnp.take(new, np.argsort(flat), dim)
            return x + new if accumulate else new
    place = x.at[_index_tuple(indices)]
    return place.add(values) if accumulate else place.set(values)


def _flat_index(size, stride, offset):
    index = jnp.full((), offset or 0)
    for n, s in zip(size, stride, strict=True):
        index = index[..., None] + s * jnp.arange(n)
    return index


def _as_strided(x, size, stride, storage_offset=None):
    return x.reshape(-1)[_flat_index(size, stride, storage_offset)]


def _as_strided_scatter(x, src, size, stride, storage_offset=None):
    flat = x.reshape(-1).at[_flat_index(size, stride, storage_offset)].set(src)
    return flat.reshape(x.shape)


def _diagonal_scatter(x, src, offset=0, dim1=0, dim2=1):
    x = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    n = src.shape[-1]
    rows = jnp.arange(n) + max(-offset, 0)
    cols = jnp.arange(n) + max(offset, 0)
    return jnp.moveaxis(x.at[..., rows, cols].set(src), (-2, -1), (dim1, dim2))


def scatter(x, dim, index, src, reduce=None):
    place = list(jnp.ogrid[tuple(slice(n) for n in index.shape)])
    place[dim] = index
    if jnp.ndim(src):
        src = src[tuple(slice(n) for n in index.shape)]
    src = jnp.asarray(src).astype(x.dtype)
    where = x.at[tuple(place)]
    if reduce is None:
        return where.set(src)
    return where.add(src) if reduce == "add" else where.multiply(src)


def _scatter_reduce(x, dim, index, src, reduce, include_self=True):
    place = list(jnp.ogrid[tuple(slice(n) for n in index.shape)])
    place[dim] = index
    place, src = tuple(place), src[tuple(slice(n) for n in index.shape)]
    start = {"sum": 0, "mean": 0, "prod": 1, "amax": -jnp.inf, "amin": jnp.inf}[reduce]
    if jnp.issubdtype(x.dtype, jnp.integer) and abs(start) > 1:
        start = jnp.iinfo(x.dtype).min if start < 0 else jnp.iinfo(x.dtype).max
    hit = jnp.zeros(x.shape, jnp.int32).at[place].add(1)
    out = x if include_self else jnp.where(hit > 0, jnp.asarray(start, x.dtype), x)
    name = {"sum": "add", "mean": "add", "prod": "multiply", "amax": "max", "amin": "min"}[reduce]
    out = getattr(out.at[place], name)(src)
    if reduce == "mean":
        out = out / jnp.maximum(hit + include_self, 1)
    return out


def _gather(x, dim, index, sparse_grad=False):
    if not x.ndim:
        return jnp.broadcast_to(x, index.shape)
    dim = dim % x.ndim  # torch lets the index be shorter than x in the other dimensions
    x = x[tuple(slice(None) if d == dim else slice(n) for d, n in enumerate(index.shape))]
    return jnp.take_along_axis(x, index, axis=dim)


def _searchsorted(edges, x, out_int32=False, right=False, side=None, sorter=None, **_):
    side = side or ("right" if right else "left")
    x = jnp.asarray(x)
    if sorter is not None:
        edges = jnp.take_along_axis(edges, sorter, -1)
    if edges.ndim == 1:
        return jnp.searchsorted(edges, x, side=side)
    rows = jax.vmap(lambda e, v: jnp.searchsorted(e, v, side=side))
    found = rows(edges.reshape(-1, edges.shape[-1]), x.reshape(-1, x.shape[-1]))
    return found.reshape(x.shape)


INDEXING: dict[str, Callable[..., Any]] = {
    "as_strided_copy": _as_strided,
    "as_strided": _as_strided,
    "as_strided_scatter": _as_strided_scatter,
    "diagonal_scatter": _diagonal_scatter,
    "gather": _gather,
    "index": _index,
    "index_put": _index_put,
    "index_select": lambda x, dim, index: jnp.take(x, index, dim),
    "bucketize": lambda x, edges, **options: _searchsorted(edges, x, **options),
    "searchsorted": _searchsorted,
    "scatter": scatter,
    "scatter_add": lambda x, dim, index, src: scatter(x, dim, index, src, "add"),
    "scatter_reduce": _scatter_reduce,
    "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter,
}
