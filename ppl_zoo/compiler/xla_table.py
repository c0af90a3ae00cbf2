"""Aten operations in JAX, one entry an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

__all__ = ["TABLE", "factory", "jax_dtype"]

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
    index = [slice(None)] * x.ndim
    end = None if end is None or end > x.shape[dim] else end
    index[dim] = slice(start, end, step)
    return x.at[tuple(index)].set(src)


def _split_with_sizes(x, sizes, dim=0):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(x, ends, dim)


def _select_scatter(x, src, dim, index):
    place = [slice(None)] * x.ndim
    place[dim] = index
    return x.at[tuple(place)].set(src)


def _index_tuple(indices):
    return tuple(slice(None) if i is None else i for i in indices)


def _index_put(x, indices, values, accumulate=False):
    place = x.at[_index_tuple(indices)]
    values = values.astype(x.dtype)
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
    if reduce == "add":
        return x.at[tuple(place)].add(src)
    return x.at[tuple(place)].set(src)


def _gather(x, dim, index, sparse_grad=False):
    return jnp.take_along_axis(x, index, axis=dim) if x.ndim else jnp.broadcast_to(x, index.shape)


def _pad(x, pad, value=0.0):
    widths = [(0, 0)] * (x.ndim - len(pad) // 2)
    widths += [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), [(a, b, 0) for a, b in widths])


def _squeeze(x, dims=None):
    if dims is None:
        return jnp.squeeze(x)
    dims = [dims] if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(d for d in dims if x.ndim and x.shape[d] == 1))


def _sum(x, dim=None, keepdim=False, dtype=None):
    dtype = jax_dtype(dtype)
    if dtype is None and not jnp.issubdtype(x.dtype, jnp.inexact):
        dtype = jax_dtype(torch.int64)
    return jnp.sum(x, _axes(dim), dtype=dtype, keepdims=keepdim)


def _var(x, dim=None, correction=1, keepdim=False):
    return jnp.var(x, _axes(dim), ddof=correction, keepdims=keepdim)


def _with_index(value, index):
    def run(x, dim=None, keepdim=False):
        if dim is None:
            return value(x)
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
        return jnp.trunc(a / b).astype(jnp.result_type(a, b))
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


TABLE: dict[str, Callable[..., Any]] = {
    # element by element
    "abs": jnp.abs,
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
    "special_ndtr": lambda x: jax.scipy.special.ndtr(x),
    "special_ndtri": lambda x: jax.scipy.special.ndtri(x),
    "special_i0": jnp.i0,
    "special_i0e": lambda x: jax.scipy.special.i0e(x),
    "special_i1": lambda x: jax.scipy.special.i1(x),
    "special_i1e": lambda x: jax.scipy.special.i1e(x),
    # reductions
    "all": _logical(jnp.all),
    "amax": lambda x, dim=(), keepdim=False: jnp.max(x, _axes(dim), keepdims=keepdim),
    "amin": lambda x, dim=(), keepdim=False: jnp.min(x, _axes(dim), keepdims=keepdim),
    "any": _logical(jnp.any),
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, dim, keepdims=keepdim),
    "argmin": lambda x, dim=None, keepdim=False: jnp.argmin(x, dim, keepdims=keepdim),
    "cumprod": _cumulative(jnp.cumprod),
    "cumsum": _cumulative(jnp.cumsum),
    "max": _with_index(jnp.max, jnp.argmax),
    "mean": lambda x, dim=None, keepdim=False, dtype=None: jnp.mean(
        x, _axes(dim), jax_dtype(dtype), keepdims=keepdim
    ),
    "min": _with_index(jnp.min, jnp.argmin),
    "prod": lambda x, dim=None, keepdim=False, dtype=None: jnp.prod(
        x, _axes(dim), keepdims=keepdim
    ),
    "sort": _sort,
    "sum": _sum,
    "var": _var,
    "_softmax": _softmax(jax.nn.softmax),
    "_log_softmax": _softmax(jax.nn.log_softmax),
    "_log_softmax_backward_data": _log_softmax_backward,
    "_softmax_backward_data": _softmax_backward,
    # shapes
    "alias": _same,
    "as_strided_copy": _as_strided,
    "as_strided": _as_strided,
    "as_strided_scatter": _as_strided_scatter,
    "cat": lambda xs, dim=0: jnp.concatenate([x for x in xs if x.shape != (0,)], dim),
    "clone": _same,
    "constant_pad_nd": _pad,
    "contiguous": _same,
    "copy": _copy,
    "detach": _same,  # the gradients are in the graph already
    "diagonal": _diagonal,
    "diagonal_copy": _diagonal,
    "diagonal_scatter": _diagonal_scatter,
    "expand": _expand,
    "expand_copy": _expand,
    "flip": lambda x, dims: jnp.flip(x, tuple(dims)),
    "gather": _gather,
    "index": lambda x, indices: x[_index_tuple(indices)],
    "index_put": _index_put,
    "index_select": lambda x, dim, index: jnp.take(x, index, dim),
    "lift_fresh_copy": _same,
    "lift_fresh": _same,
    "permute": jnp.transpose,
    "permute_copy": jnp.transpose,
    "repeat": lambda x, n: jnp.tile(x, tuple(n)),
    "reshape": lambda x, s: jnp.reshape(x, tuple(s)),
    "roll": lambda x, shifts, dims=(): jnp.roll(x, tuple(shifts), _axes(dims)),
    "scatter": _scatter,
    "scatter_add": lambda x, dim, index, src: _scatter(x, dim, index, src, "add"),
    "select": lambda x, dim, i: jnp.take(x, i, dim),
    "select_copy": lambda x, dim, i: jnp.take(x, i, dim),
    "select_scatter": _select_scatter,
    "slice": _slice,
    "slice_copy": _slice,
    "slice_scatter": _slice_scatter,
    "split_with_sizes": _split_with_sizes,
    "split_with_sizes_copy": _split_with_sizes,
    "unbind": lambda x, dim=0: [jnp.take(x, i, dim) for i in range(x.shape[dim])],
    "unbind_copy": lambda x, dim=0: [jnp.take(x, i, dim) for i in range(x.shape[dim])],
    "squeeze": _squeeze,
    "squeeze_copy": _squeeze,
    "t": jnp.transpose,
    "transpose": jnp.swapaxes,
    "tril": jnp.tril,
    "triu": jnp.triu,
    "unsqueeze": jnp.expand_dims,
    "unsqueeze_copy": jnp.expand_dims,
    "view": lambda x, s: jnp.reshape(x, tuple(s)),
    "view_copy": lambda x, s: jnp.reshape(x, tuple(s)),
    "_to_copy": _to_copy,
    "_unsafe_view": lambda x, s: jnp.reshape(x, tuple(s)),
    # made anew
    "arange": _arange,
    "empty": lambda s, dtype=None, **_: jnp.zeros(*factory(s, dtype)),
    "empty_like": lambda x, dtype=None, **_: jnp.zeros(x.shape, jax_dtype(dtype) or x.dtype),
    "eye": lambda n, m=None, dtype=None, **_: jnp.eye(n, m, dtype=factory((), dtype)[1]),
    "full": _full,
    "full_like": _full_like,
    "linspace": lambda a, b, n, dtype=None, **_: jnp.linspace(
        a, b, n, dtype=factory((), dtype)[1]
    ),
    "new_empty_strided": lambda x, size, stride, dtype=None, **_: jnp.zeros(
        tuple(size), jax_dtype(dtype) or x.dtype
    ),
    "ones": lambda s, dtype=None, **_: jnp.ones(*factory(s, dtype)),
    "scalar_tensor": _scalar_tensor,
    "zeros": lambda s, dtype=None, **_: jnp.zeros(*factory(s, dtype)),
    # linear algebra
    "addmm": lambda c, a, b, beta=1, alpha=1: beta * c + alpha * (a @ b),
    "baddbmm": lambda c, a, b, beta=1, alpha=1: beta * c + alpha * (a @ b),
    "bmm": jnp.matmul,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "dot": jnp.dot,
    "linalg_cholesky_ex": _cholesky,
    "linalg_solve_triangular": lambda a, b, upper, left=True, unitriangular=False: (
        _solve_triangular(a, b, upper, left, unitriangular)
    ),
    "mm": jnp.matmul,
    "mv": jnp.matmul,
    "_standard_gamma_grad": lambda alpha, sample: jax.lax.random_gamma_grad(alpha, sample),
    "_linalg_check_errors": lambda *a, **k: None,
}
