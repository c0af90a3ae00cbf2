"""Elementwise ops of aten in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl_zoo.compiler.xla.ops.dtypes import jax_dtype

__all__ = ["ELEMENTWISE"]


def _float_if_int(x: Any) -> Any:
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def _div(a, b, rounding_mode=None):
    if rounding_mode == "floor":
        return jnp.floor_divide(a, b)
    if rounding_mode == "trunc":
        dtype = jnp.result_type(a, b)
        if jnp.issubdtype(dtype, jnp.integer):
            pair = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
            return jax.lax.div(*jnp.broadcast_arrays(*pair))
        return jnp.trunc(a / b)
    return jnp.true_divide(a, b)


def _full_like(x, value, dtype=None, **_):
    return jnp.full(x.shape, value, x.dtype if dtype is None else jax_dtype(dtype))


def _to_copy(x, dtype=None, **_):
    return x if dtype is None else x.astype(jax_dtype(dtype))


def _bitwise(logical, bits):
    return lambda a, b: (logical if jnp.result_type(a) == jnp.bool_ else bits)(a, b)


def _polygamma(n, x):
    return jax.scipy.special.polygamma(n, x)


def _identity(x, *args, **kwargs):
    return x


def _pow(x, exponent):
    # x**2 by multiplication, as torch does, and not by exp(log)
    if isinstance(exponent, (int, float)) and float(exponent).is_integer() and abs(exponent) <= 8:
        integer = int(exponent)
        if integer < 0:
            x = _float_if_int(jnp.asarray(x))
        array = jnp.ndim(x) or hasattr(x, "dtype")
        return jax.lax.integer_pow(x, integer) if array else x**integer
    return jnp.power(x, exponent)


def _erfcx(x):
    far = 25.0 if x.dtype == jnp.float64 else 8.0
    near, large = jnp.where(x < far, x, 0), jnp.where(x < far, far, x)
    r = 0.5 / (large * large)
    series = (1 - r * (1 - 3 * r * (1 - 5 * r * (1 - 7 * r)))) / (large * jnp.pi**0.5)
    return jnp.where(x < far, jnp.exp(near * near) * jax.scipy.special.erfc(near), series)


#: operations whose results depend, element by element, on the same element of the arguments
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": jnp.abs,
    "alias": _identity,
    "clone": _identity,
    "contiguous": _identity,
    "detach": _identity,  # the gradients are in the graph already
    "fill": _full_like,
    "full_like": _full_like,
    "lift_fresh": _identity,
    "lift_fresh_copy": _identity,
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
