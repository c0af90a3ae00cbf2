"""Aten operations in JAX, one entry an operation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

__all__ = ["ELEMENTWISE", "LARGEST", "SMALLEST", "TABLE", "factory", "jax_dtype"]

DTYPES = {
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
    if dtype is None:
        return None
    # without x64 mode JAX has 32-bit integers only
    return jax.dtypes.canonicalize_dtype(DTYPES[dtype])


def _axes(dim: Any) -> Any:
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return None
    return tuple(dim) if isinstance(dim, (list, tuple)) else dim


def _float_if_int(x: Any) -> Any:
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def _expand(x, size, implicit=False):
    lead = len(size) - x.ndim
    return jnp.broadcast_to(x, [x.shape[i - lead] if d == -1 else d for i, d in enumerate(size)])


def _slice(x, dim=0, start=None, end=None, step=1):
    index = [slice(None)] * x.ndim
    end = None if end is None or end > x.shape[dim] else end
    index[dim] = slice(start, end, step)
    return x[tuple(index)]


def _slice_scatter(x, src, dim=0, start=None, end=None, step=1):
    first, last, _ = slice(start, end).indices(x.shape[dim])
    if step == 1:  # joined from pieces: XLA starts a loop for a scatter
        before = jax.lax.slice_in_dim(x, 0, first, axis=dim)
        after = jax.lax.slice_in_dim(x, max(first, last), None, axis=dim)
        return jnp.concatenate([before, src.astype(x.dtype), after], dim)
    index = [slice(None)] * x.ndim
    index[dim] = slice(first, last, step)
    return x.at[tuple(index)].set(src)


def _split_with_sizes(x, sizes, dim=0):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(x, ends, dim)


def _select(x, dim, index):
    return jax.lax.index_in_dim(x, index, dim, keepdims=False)


def _select_scatter(x, src, dim, index):
    index = index % x.shape[dim]
    return _slice_scatter(x, jnp.expand_dims(src, dim), dim, index, index + 1)


def _index_tuple(indices):
    return tuple(slice(None) if i is None else i for i in indices)


def _one_known(indices):
    """Return (dim, places) if one index only is given and its values are known; else None."""
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    if len(given) != 1 or not isinstance(given[0][1], np.ndarray) or given[0][1].dtype == bool:
        return None
    return given[0]


def _index(x, indices):
    known = _one_known(indices)
    if known is not None:
        dim, places = known
        size = x.shape[dim]
        flat = places.reshape(-1) % size
        if np.array_equal(flat, np.arange(size)):  # all, in order: as enumeration asks for
            return x.reshape(*x.shape[:dim], *places.shape, *x.shape[dim + 1 :])
    return x[_index_tuple(indices)]


def _index_put(x, indices, values, accumulate=False):
    values = values.astype(x.dtype)
    masks = [i for i in indices if i is not None]
    if len(masks) == 1 and masks[0].dtype == jnp.bool_ and values.size == 1 and not accumulate:
        # one value where a mask holds: its shape does not depend on the mask
        lead = next(n for n, i in enumerate(indices) if i is not None)
        tail = x.ndim - lead - masks[0].ndim
        return jnp.where(masks[0].reshape(*masks[0].shape, *(1,) * tail), values.reshape(()), x)
    known = _one_known(indices)
    if known is not None:
        dim, places = known
        flat = places.reshape(-1) % x.shape[dim]
        if np.array_equal(np.sort(flat), np.arange(x.shape[dim])):  # each place once
            shape = (*x.shape[:dim], *places.shape, *x.shape[dim + 1 :])
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


def _diagonal(x, offset=0, dim1=0, dim2=1):
    return jnp.diagonal(x, offset, dim1, dim2)


def _diagonal_scatter(x, src, offset=0, dim1=0, dim2=1):
    x = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    n = src.shape[-1]
    rows = jnp.arange(n) + max(-offset, 0)
    cols = jnp.arange(n) + max(offset, 0)
    return jnp.moveaxis(x.at[..., rows, cols].set(src), (-2, -1), (dim1, dim2))


def _scatter(x, dim, index, src, reduce=None):
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


def _pad(x, pad, value=0.0):
    widths = [(0, 0)] * (x.ndim - len(pad) // 2)
    widths += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return jax.lax.pad(x, jnp.asarray(value).astype(x.dtype), [(a, b, 0) for a, b in widths])


def _squeeze(x, dims=None):
    if dims is None:
        return jnp.squeeze(x)
    dims = [dims] if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(d for d in dims if x.ndim and x.shape[d] == 1))


#: terms that are added one by one; the sizes of arrays that a dot product adds up
FEW_TERMS, SMALLEST, LARGEST = 8, 2**10, 2**20


def _sum(x, dim=None, keepdim=False, dtype=None):
    dtype = jax_dtype(dtype)
    if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
        dtype = jax_dtype(torch.int64)
    axes = _axes(dim)
    axes = tuple(range(x.ndim)) if axes is None else axes
    axes = sorted(d % x.ndim for d in ((axes,) if isinstance(axes, int) else axes) if x.ndim)
    count = math.prod(x.shape[d] for d in axes)
    rest = x.size // count if count else 0
    wanted = x.dtype if dtype is None else dtype
    known = jax.default_backend() == "cpu" and wanted == x.dtype
    if count < 2 or rest < 2 or x.size < SMALLEST or not known:
        return jnp.sum(x, tuple(axes), dtype=dtype, keepdims=keepdim)
    # XLA on a CPU adds along a dimension number by number; these two ways are up to ten times
    # as fast
    if len(axes) == 1 and count <= FEW_TERMS:
        out = sum(_select(x, axes[0], i) for i in range(count))
    elif x.size <= LARGEST and jnp.issubdtype(x.dtype, jnp.floating):
        ones = jnp.ones([x.shape[d] for d in axes], x.dtype)
        out = jnp.tensordot(x, ones, (axes, list(range(len(axes)))), precision="highest")
    else:
        return jnp.sum(x, tuple(axes), dtype=dtype, keepdims=keepdim)
    return jnp.expand_dims(out, axes) if keepdim else out


def _prod(x, dim=None, keepdim=False, dtype=None):
    if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
        dtype = torch.int64
    return jnp.prod(x, _axes(dim), dtype=jax_dtype(dtype), keepdims=keepdim)


def _var(x, dim=None, correction=1, keepdim=False):
    correction = 1 if correction is None else correction
    return jnp.var(x, _axes(dim), ddof=correction, keepdims=keepdim)


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
    return lambda x, dim=None, keepdim=False: reduce(x, _axes(dim), keepdims=keepdim)


def _div(a, b, rounding_mode=None):
    if rounding_mode == "floor":
        return jnp.floor_divide(a, b)
    if rounding_mode == "trunc":
        kind = jnp.result_type(a, b)
        if jnp.issubdtype(kind, jnp.integer):
            return jax.lax.div(*jnp.broadcast_arrays(jnp.asarray(a, kind), jnp.asarray(b, kind)))
        return jnp.trunc(a / b)
    return jnp.true_divide(a, b)


def _solve_triangular(a, b, upper, left=True, unitriangular=False):
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = jnp.broadcast_to(a, batch + a.shape[-2:])
    b = jnp.broadcast_to(b, batch + b.shape[-2:])
    return jax.lax.linalg.triangular_solve(
        a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular
    )


def _cholesky(x, upper=False, check_errors=False):
    factor = jnp.linalg.cholesky(x, upper=upper)
    # NaN where it is not positive definite: the loss becomes NaN, and is reported
    return factor, jnp.zeros(x.shape[:-2], jnp.int32)


def _convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups):
    n = w.ndim - 2
    letters = "DHW"[-n:]
    layout = (f"NC{letters}", f"OI{letters}", f"NC{letters}")
    if transposed:
        # the gradient of a convolution: flip, swap channels, dilate the input
        k = w.shape[2:]
        w = jnp.flip(w, tuple(range(2, w.ndim)))
        w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2)
        w = w.reshape(-1, *w.shape[2:])
        pads = [
            (d * (m - 1) - p, d * (m - 1) - p + o)
            for m, p, d, o in zip(k, padding, dilation, output_padding, strict=True)
        ]
        y = jax.lax.conv_general_dilated(
            x,
            w,
            (1,) * n,
            pads,
            lhs_dilation=stride,
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
    else:
        y = jax.lax.conv_general_dilated(
            x,
            w,
            stride,
            [(p, p) for p in padding],
            rhs_dilation=dilation,
            dimension_numbers=layout,
            feature_group_count=groups,
        )
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * n)


def _convolution_backward(
    g, x, w, bias_sizes, stride, padding, dilation, transposed, output_padding, groups, mask
):
    def forward(x, w):
        return _convolution(
            x, w, None, stride, padding, dilation, transposed, output_padding, groups
        )

    dx, dw = jax.vjp(forward, x, w)[1](g)
    db = g.sum((0, *range(2, g.ndim))) if mask[2] else None
    return dx if mask[0] else None, dw if mask[1] else None, db


def factory(shape, dtype):
    return tuple(shape), jax_dtype(dtype or torch.get_default_dtype())


def _full(size, value, dtype=None, **_):
    if dtype is None:
        dtype = {bool: torch.bool, int: torch.int64}.get(type(value), torch.get_default_dtype())
    return jnp.full(tuple(size), value, jax_dtype(dtype))


def _full_like(x, value, dtype=None, **_):
    return jnp.full(x.shape, value, x.dtype if dtype is None else jax_dtype(dtype))


def _arange(start, end=None, step=1, dtype=None, **_):
    if end is None:
        start, end = 0, start
    if dtype is None:
        whole = all(isinstance(v, int) for v in (start, end, step))
        dtype = torch.int64 if whole else torch.get_default_dtype()
    return jnp.arange(start, end, step, jax_dtype(dtype))


def _scalar_tensor(value, dtype=None, **_):
    if dtype is None:
        dtype = {bool: torch.bool, int: torch.int64}.get(type(value), torch.get_default_dtype())
    return jnp.asarray(value, jax_dtype(dtype))


def _copy(a, b, non_blocking=False):
    return jnp.broadcast_to(b, a.shape).astype(a.dtype)


def _to_copy(x, dtype=None, **_):
    return x if dtype is None else x.astype(jax_dtype(dtype))


def _bitwise(logical, bits):
    return lambda a, b: (logical if jnp.result_type(a) == jnp.bool_ else bits)(a, b)


def _polygamma(n, x):
    return jax.scipy.special.polygamma(n, x)


def _cumulative(function):
    def run(x, dim, dtype=None):
        if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
            dtype = torch.int64
        return function(x, dim, dtype=jax_dtype(dtype)) if x.ndim else x

    return run


def _same(x, *args, **kwargs):
    return x


def _pow(x, exponent):
    # x**2 by multiplication, as torch does, and not by exp(log)
    if isinstance(exponent, (int, float)) and float(exponent).is_integer() and abs(exponent) <= 8:
        whole = int(exponent)
        if whole < 0:
            x = _float_if_int(jnp.asarray(x))
        return jax.lax.integer_pow(x, whole) if jnp.ndim(x) or hasattr(x, "dtype") else x**whole
    return jnp.power(x, exponent)


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


def _unfold(x, dim, size, step):
    count = (x.shape[dim] - size) // step + 1
    index = step * jnp.arange(count)[:, None] + jnp.arange(size)
    return jnp.moveaxis(jnp.take(x, index, dim), dim % x.ndim + 1, -1)


def _vector_norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    x = x if dtype is None else x.astype(jax_dtype(dtype))
    if dim is None and not keepdim:
        x = x.ravel()
    axes = _axes(dim)
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


def _cdist(a, b, p=2.0, compute_mode=None):
    return _vector_norm(a[..., :, None, :] - b[..., None, :, :], p, (-1,))


def _cdist_backward(g, a, b, p, distance):
    gap = a[..., :, None, :] - b[..., None, :, :]
    g, distance = g[..., None], distance[..., None]
    if p == 1:
        return (g * jnp.sign(gap)).sum(-2)
    safe = jnp.where(distance > 0, distance, 1)
    if p == float("inf"):
        slope = jnp.sign(gap) * (jnp.abs(gap) == distance)
    else:
        slope = jnp.sign(gap) * (jnp.abs(gap) / safe) ** (p - 1)
    return jnp.where(distance > 0, g * slope, 0).sum(-2)


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


def _trilinear(a, b, c, expand1, expand2, expand3, sumdim, unroll_dim=1):
    parts = zip((a, b, c), (expand1, expand2, expand3), strict=True)
    a, b, c = (jnp.expand_dims(v, tuple(dims)) for v, dims in parts)
    return (a * b * c).sum(tuple(sumdim))


def _erfcx(x):
    far = 25.0 if x.dtype == jnp.float64 else 8.0
    near, large = jnp.where(x < far, x, 0), jnp.where(x < far, far, x)
    r = 0.5 / (large * large)
    series = (1 - r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r)))) / (large * jnp.pi**0.5)
    return jnp.where(x < far, jnp.exp(near * near) * jax.scipy.special.erfc(near), series)


def _batch_norm(x, weight, bias, mean, var, training, momentum, eps):
    if not training:
        return _batch_norm_eval(x, weight, bias, mean, var, momentum, eps)
    axes = (0, *range(2, x.ndim))
    mean, var = x.mean(axes), jnp.var(x, axes)
    y, _, _ = _batch_norm_eval(x, weight, bias, mean, var, momentum, eps)
    return y, mean, jax.lax.rsqrt(var + eps)


def _cholesky_solve(b, factor, upper=False):
    batch = jnp.broadcast_shapes(factor.shape[:-2], b.shape[:-2])
    b = jnp.broadcast_to(b, batch + b.shape[-2:])
    factor = jnp.broadcast_to(factor, batch + factor.shape[-2:])
    return jax.scipy.linalg.cho_solve((factor, not upper), b)


def _cholesky_inverse(factor, upper=False):
    eye = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    return _cholesky_solve(eye, factor, upper)


def _lu(a):
    factors, pivots, _ = jax.lax.linalg.lu(a)
    return factors, pivots + 1


def _factors(a, transposed):
    return _lu(jnp.swapaxes(a, -1, -2) if transposed else a)


def _det(a, transposed=False):
    return (jnp.linalg.det(a), *_factors(a, transposed))


def _slogdet(a, transposed=False):
    return (*jnp.linalg.slogdet(a), *_factors(a, transposed))


def _solve_ex(a, b, left=True, check_errors=False):
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    rhs = b[..., None] if vector else b
    if left:
        x = jnp.linalg.solve(a, rhs)
    else:
        x = jnp.swapaxes(
            jnp.linalg.solve(jnp.swapaxes(a, -1, -2), jnp.swapaxes(b, -1, -2)), -1, -2
        )
    factors, pivots = _lu(a)
    return x[..., 0] if vector else x, factors, pivots, jnp.zeros(a.shape[:-2], jnp.int32)


def _lu_solve(factors, pivots, b, left=True, adjoint=False):
    if not left:
        flipped = _lu_solve(factors, pivots, jnp.swapaxes(b, -1, -2), adjoint=not adjoint)
        return jnp.swapaxes(flipped, -1, -2)
    n = factors.shape[-1]
    order = jax.lax.linalg.lu_pivots_to_permutation(pivots - 1, n)
    batch = jnp.broadcast_shapes(factors.shape[:-2], b.shape[:-2])
    b = jnp.broadcast_to(b, batch + b.shape[-2:])
    order = jnp.broadcast_to(order, (*batch, n))
    if not adjoint:
        b = jnp.take_along_axis(b, order[..., None], -2)
        b = _solve_triangular(factors, b, False, unitriangular=True)
        return _solve_triangular(factors, b, True)
    turned = jnp.swapaxes(factors, -1, -2)
    b = _solve_triangular(turned, b, False)
    b = _solve_triangular(turned, b, True, unitriangular=True)
    return jnp.take_along_axis(b, jnp.argsort(order, -1)[..., None], -2)


def _eigh(a, uplo="L", compute_v=True):
    values, vectors = jnp.linalg.eigh(a, UPLO=uplo, symmetrize_input=False)
    return values, vectors


def _layer_norm(x, shape, weight, bias, eps):
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(axes, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.var(x, axes, keepdims=True) + eps)
    y = (x - mean) * rstd
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, rstd


def _layer_norm_backward(g, x, shape, mean, rstd, weight, bias, mask):
    lead = tuple(range(x.ndim - len(shape)))
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    z = (x - mean) * rstd
    gz = g if weight is None else g * weight
    inner = gz - gz.mean(axes, keepdims=True) - z * (gz * z).mean(axes, keepdims=True)
    return (
        rstd * inner if mask[0] else None,
        (g * z).sum(lead) if mask[1] and weight is not None else None,
        g.sum(lead) if mask[2] and bias is not None else None,
    )


def _group_norm(x, weight, bias, n, c, hw, groups, eps):
    grouped = x.reshape(n, groups, -1)
    mean = grouped.mean(-1)
    rstd = jax.lax.rsqrt(jnp.var(grouped, -1) + eps)
    y = ((grouped - mean[..., None]) * rstd[..., None]).reshape(x.shape)
    spread = (1, c, *(1,) * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(spread)
    return y if bias is None else y + bias.reshape(spread), mean, rstd


def _batch_norm_eval(x, weight, bias, mean, var, momentum, eps):
    spread = (1, -1, *(1,) * (x.ndim - 2))
    y = (x - mean.reshape(spread)) * jax.lax.rsqrt(var + eps).reshape(spread)
    y = y if weight is None else y * weight.reshape(spread)
    nothing = jnp.zeros((0,), x.dtype)
    return y if bias is None else y + bias.reshape(spread), nothing, nothing


def _embedding_backward(g, index, num_weights, padding_idx, scale_grad_by_freq):
    rows = index.reshape(-1)
    g = g.reshape(-1, g.shape[-1])
    if scale_grad_by_freq:
        g = g / jnp.zeros(num_weights, g.dtype).at[rows].add(1)[rows][:, None]
    if padding_idx >= 0:
        g = jnp.where((rows == padding_idx)[:, None], 0, g)
    return jnp.zeros((num_weights, g.shape[-1]), g.dtype).at[rows].add(g)


def _avg_pool2d(
    x, kernel, stride=(), padding=(0, 0), ceil=False, count_include_pad=True, divisor=None
):
    if ceil:
        raise NotImplementedError("avg_pool2d with ceil_mode")
    kernel, stride, padding = _two(kernel), _two(stride or kernel), _two(padding)
    lead = (1,) * (x.ndim - 2)
    pads = [(0, 0)] * (x.ndim - 2) + [(p, p) for p in padding]

    def add(v):
        zero = x.dtype.type(0)
        return jax.lax.reduce_window(
            v, zero, jax.lax.add, (*lead, *kernel), (*lead, *stride), pads
        )

    if divisor:
        return add(x) / divisor
    return add(x) / (kernel[0] * kernel[1] if count_include_pad else add(jnp.ones_like(x)))


def _avg_pool2d_backward(g, x, *options):
    return jax.vjp(lambda x: _avg_pool2d(x, *options), x)[1](g)[0]


def _nearest(count, size, scale):
    step = size / count if scale is None else 1 / scale
    return jnp.minimum(jnp.floor(jnp.arange(count) * step).astype(jnp.int32), size - 1)


def _upsample(x, size, height=None, width=None):
    rows = _nearest(size[0], x.shape[-2], height)
    cols = _nearest(size[1], x.shape[-1], width)
    return x[..., rows[:, None], cols]


def _upsample_backward(g, size, input_size, height=None, width=None):
    x = jnp.zeros(tuple(input_size), g.dtype)
    return jax.vjp(lambda x: _upsample(x, size, height, width), x)[1](g)[0]


def _two(value):
    value = [value] if isinstance(value, int) else list(value)
    return tuple(value * 2 if len(value) == 1 else value)


def _max_pool2d(x, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil=False):
    if ceil:
        raise NotImplementedError("max_pool2d with ceil_mode")
    kernel, stride, padding = _two(kernel), _two(stride or kernel), _two(padding)
    height, width = x.shape[-2:]
    pads = [(0, 0)] * (x.ndim - 2) + [(p, p) for p in padding]
    padded = jnp.pad(x, pads, constant_values=-jnp.inf)
    places = jnp.arange(height * width).reshape(height, width)
    places = jnp.pad(places, [(p, p) for p in padding])
    windows = []
    for size, step, many, far in zip(
        kernel, stride, padded.shape[-2:], _two(dilation), strict=True
    ):
        count = (many - far * (size - 1) - 1) // step + 1
        windows.append(step * jnp.arange(count)[:, None] + far * jnp.arange(size))
    rows, cols = windows[0][:, None, :, None], windows[1][None, :, None, :]
    values = padded[..., rows, cols]
    shape = values.shape[:-2]
    values = values.reshape(*shape, -1)
    best = jnp.argmax(values, -1)
    index = jnp.broadcast_to(places[rows, cols].reshape(*shape[-2:], -1), values.shape)
    return values.max(-1), jnp.take_along_axis(index, best[..., None], -1)[..., 0]


def _max_pool2d_backward(g, x, kernel, stride, padding, dilation, ceil, index):
    flat = jnp.zeros((*x.shape[:-2], x.shape[-2] * x.shape[-1]), g.dtype)
    index, g = index.reshape(*x.shape[:-2], -1), g.reshape(*x.shape[:-2], -1)
    return _scatter(flat, flat.ndim - 1, index, g, "add").reshape(x.shape)


def _triangle(function):
    def run(rows, cols, offset=0, dtype=None, **_):
        return jnp.stack(function(rows, offset, cols))

    return run


def _logcumsumexp(x, dim):
    return jax.lax.associative_scan(jnp.logaddexp, x, axis=dim) if x.ndim else x


#: results that depend, place by place, on the same place of the arguments
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": jnp.abs,
    "alias": _same,
    "clone": _same,
    "contiguous": _same,
    "detach": _same,  # the gradients are in the graph already
    "fill": _full_like,
    "full_like": _full_like,
    "lift_fresh": _same,
    "lift_fresh_copy": _same,
    "_to_copy": _to_copy,
    "acos": jnp.arccos,
    "acosh": jnp.arccosh,
    "add": lambda a, b, alpha=1: a + (b if alpha == 1 else alpha * b),
    "asin": jnp.arcsin,
    "asinh": jnp.arcsinh,
    "atan": jnp.arctan,
    "atan2": jnp.arctan2,
    "atanh": jnp.arctanh,
    "bitwise_and": _bitwise(jnp.logical_and, jnp.bitwise_and),
    "bitwise_not": lambda a: ~a,
    "bitwise_or": _bitwise(jnp.logical_or, jnp.bitwise_or),
    "bitwise_xor": _bitwise(jnp.logical_xor, jnp.bitwise_xor),
    "ceil": jnp.ceil,
    "clamp": lambda x, min=None, max=None: jnp.clip(x, min, max),
    "clamp_max": jnp.minimum,
    "clamp_min": jnp.maximum,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "copysign": jnp.copysign,
    "digamma": lambda x: jax.scipy.special.digamma(x),
    "div": _div,
    "elu": lambda x, a=1.0, s=1.0, i=1.0: jnp.where(x > 0, s * x, s * a * jnp.expm1(i * x)),
    "eq": lambda a, b: a == b,
    "erf": lambda x: jax.scipy.special.erf(x),
    "erfc": lambda x: jax.scipy.special.erfc(x),
    "erfinv": lambda x: jax.scipy.special.erfinv(x),
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "fmod": jnp.fmod,
    "ge": lambda a, b: a >= b,
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "gt": lambda a, b: a > b,
    "hypot": jnp.hypot,
    "isfinite": jnp.isfinite,
    "isinf": jnp.isinf,
    "isnan": jnp.isnan,
    "le": lambda a, b: a <= b,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
    "lgamma": lambda x: jax.scipy.special.gammaln(x),
    "log": jnp.log,
    "log10": jnp.log10,
    "log1p": jnp.log1p,
    "log2": jnp.log2,
    "logical_and": jnp.logical_and,
    "logical_not": jnp.logical_not,
    "logical_or": jnp.logical_or,
    "logical_xor": jnp.logical_xor,
    "lt": lambda a, b: a < b,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "mul": lambda a, b: a * b,
    "ne": lambda a, b: a != b,
    "neg": lambda x: -x,
    "polygamma": _polygamma,
    "pow": _pow,
    "reciprocal": lambda x: 1.0 / x,
    "relu": jax.nn.relu,
    "remainder": jnp.remainder,
    "round": lambda x, decimals=0: jnp.round(x, decimals),
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "sign": jnp.sign,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "sub": lambda a, b, alpha=1: a - (b if alpha == 1 else alpha * b),
    "tan": jnp.tan,
    "tanh": jnp.tanh,
    "trunc": jnp.trunc,
    "where": lambda c, a, b: jnp.where(c, a, b),
    "xlogy": lambda a, b: jax.scipy.special.xlogy(a, b),
    "special_xlog1py": lambda a, b: jax.scipy.special.xlog1py(a, b),
    "special_log_ndtr": lambda x: jax.scipy.special.log_ndtr(x),
    "special_erfcx": _erfcx,
    "special_ndtr": lambda x: jax.scipy.special.ndtr(x),
    "special_ndtri": lambda x: jax.scipy.special.ndtri(x),
    "special_i0": jnp.i0,
    "special_i0e": lambda x: jax.scipy.special.i0e(x),
    "special_i1": lambda x: jax.scipy.special.i1(x),
    "special_i1e": lambda x: jax.scipy.special.i1e(x),
}

TABLE: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    # reductions
    "all": _logical(jnp.all),
    "amax": lambda x, dim=(), keepdim=False: jnp.max(x, _axes(dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: jnp.min(x, _axes(dim), keepdims=keepdim),
    "any": _logical(jnp.any),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, dim, keepdims=keepdim),
    "cumprod": _cumulative(jnp.cumprod),
    "cumsum": _cumulative(jnp.cumsum),
    "kthvalue": _kthvalue,
    "linalg_vector_norm": _vector_norm,
    "logcumsumexp": _logcumsumexp,
    "max": _with_index(jnp.max, jnp.argmax, jnp.maximum),
    "mean": lambda x, dim=None, keepdim=False, dtype=None: jnp.mean(
        x, _axes(dim), jax_dtype(dtype), keepdims=keepdim
    ),
    "median": _median,
    "min": _with_index(jnp.min, jnp.argmin, jnp.minimum),
    "prod": _prod,
    "sort": _sort,
    "sum": _sum,
    "topk": _topk,
    "var": _var,
    "_softmax": _softmax(jax.nn.softmax),
    "_log_softmax": _softmax(jax.nn.log_softmax),
    "_log_softmax_backward_data": _log_softmax_backward,
    "_softmax_backward_data": _softmax_backward,
    # shapes
    "as_strided_copy": _as_strided,
    "as_strided": _as_strided,
    "as_strided_scatter": _as_strided_scatter,
    "cat": lambda xs, dim=0: jnp.concatenate([x for x in xs if x.shape != (0,)], dim),
    "constant_pad_nd": _pad,
    "copy": _copy,
    "diagonal": _diagonal,
    "diagonal_copy": _diagonal,
    "diagonal_scatter": _diagonal_scatter,
    "expand": _expand,
    "expand_copy": _expand,
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "gather": _gather,
    "index": _index,
    "index_put": _index_put,
    "index_select": lambda x, dim, index: jnp.take(x, index, dim),
    "bucketize": lambda x, edges, **options: _searchsorted(edges, x, **options),
    "searchsorted": _searchsorted,
    "permute": jnp.transpose,
    "permute_copy": jnp.transpose,
    "repeat": lambda x, n: jnp.tile(x, tuple(n)),
    "reshape": lambda x, s: jnp.reshape(x, tuple(s)),
    "roll": lambda x, shifts, dims=(): jnp.roll(x, tuple(shifts), _axes(dims)),
    "scatter": _scatter,
    "scatter_add": lambda x, dim, index, src: _scatter(x, dim, index, src, "add"),
    "scatter_reduce": _scatter_reduce,
    "select": _select,
    "select_copy": _select,
    "select_scatter": _select_scatter,
    "slice": _slice,
    "slice_copy": _slice,
    "slice_scatter": _slice_scatter,
    "split_with_sizes": _split_with_sizes,
    "split_with_sizes_copy": _split_with_sizes,
    "unbind": lambda x, dim=0: [_select(x, dim, i) for i in range(x.shape[dim])],
    "unbind_copy": lambda x, dim=0: [_select(x, dim, i) for i in range(x.shape[dim])],
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
    # made anew
    "arange": _arange,
    "empty": lambda s, dtype=None, **_: jnp.zeros(*factory(s, dtype)),
    "empty_strided": lambda s, stride, dtype=None, **_: jnp.zeros(*factory(s, dtype)),
    "empty_like": lambda x, dtype=None, **_: jnp.zeros(x.shape, jax_dtype(dtype) or x.dtype),
    "eye": lambda n, m=None, dtype=None, **_: jnp.eye(n, m, dtype=factory((), dtype)[1]),
    "full": _full,
    "linspace": lambda a, b, n, dtype=None, **_: jnp.linspace(
        a, b, n, dtype=factory((), dtype)[1]
    ),
    "new_empty_strided": lambda x, size, stride, dtype=None, **_: jnp.zeros(
        tuple(size), jax_dtype(dtype) or x.dtype
    ),
    "ones": lambda s, dtype=None, **_: jnp.ones(*factory(s, dtype)),
    "scalar_tensor": _scalar_tensor,
    "tril_indices": _triangle(jnp.tril_indices),
    "triu_indices": _triangle(jnp.triu_indices),
    "zeros": lambda s, dtype=None, **_: jnp.zeros(*factory(s, dtype)),
    # layers
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _avg_pool2d_backward,
    "embedding": lambda weight, index, *_: weight[index],
    "embedding_dense_backward": _embedding_backward,
    "hardtanh": lambda x, low=-1.0, high=1.0: jnp.clip(x, low, high),
    "max_pool2d_with_indices": _max_pool2d,
    "max_pool2d_with_indices_backward": _max_pool2d_backward,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_layer_norm_backward": _layer_norm_backward,
    "upsample_nearest2d": _upsample,
    "upsample_nearest2d_backward": _upsample_backward,
    "_native_batch_norm_legit_no_training": _batch_norm_eval,
    # linear algebra
    "addmm": lambda c, a, b, beta=1, alpha=1: beta * c + alpha * (a @ b),
    "baddbmm": lambda c, a, b, beta=1, alpha=1: beta * c + alpha * (a @ b),
    "bmm": jnp.matmul,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "cholesky": lambda x, upper=False: jnp.linalg.cholesky(x, upper=upper),
    "cholesky_inverse": _cholesky_inverse,
    "cholesky_solve": _cholesky_solve,
    "dot": jnp.dot,
    "linalg_cholesky_ex": _cholesky,
    "linalg_inv_ex": lambda a, check_errors=False: (
        jnp.linalg.inv(a),
        jnp.zeros(a.shape[:-2], jnp.int32),
    ),
    "linalg_lu_solve": _lu_solve,
    "linalg_matrix_exp": jax.scipy.linalg.expm,
    "linalg_qr": lambda a, mode="reduced": tuple(jnp.linalg.qr(a, mode)),
    "linalg_solve_triangular": lambda a, b, upper, left=True, unitriangular=False: (
        _solve_triangular(a, b, upper, left, unitriangular)
    ),
    "mm": jnp.matmul,
    "mv": jnp.matmul,
    "_cdist_forward": _cdist,
    "_cdist_backward": _cdist_backward,
    "_trilinear": _trilinear,
    "_cholesky_solve_helper": _cholesky_solve,
    "_linalg_det": _det,
    "_linalg_eigh": _eigh,
    "_linalg_slogdet": _slogdet,
    "_linalg_solve_ex": _solve_ex,
    "_standard_gamma_grad": lambda alpha, sample: jax.lax.random_gamma_grad(alpha, sample),
    "_linalg_check_errors": lambda *a, **k: None,
}
