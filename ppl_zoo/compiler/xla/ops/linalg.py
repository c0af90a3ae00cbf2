"""Linear algebra ops of aten in JAX: products, factorisations, solves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppl_zoo.compiler.xla.ops.reductions import vector_norm

__all__ = ["LINALG"]


def _solve_triangular(a, b, upper, left=True, unitriangular=False):
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = jnp.broadcast_to(a, batch + a.shape[-2:])
    b = jnp.broadcast_to(b, batch + b.shape[-2:])
    return jax.lax.linalg.triangular_solve(
        a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular
    )


def _cholesky(x, upper=False, check_errors=False):
    factor = jnp.linalg.cholesky(x, upper=upper)
    # NaN where it is not positive definite: the loss becomes NaN, which is reported
    return factor, jnp.zeros(x.shape[:-2], jnp.int32)


def _cdist(a, b, p=2.0, compute_mode=None):
    return vector_norm(a[..., :, None, :] - b[..., None, :, :], p, (-1,))


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


def _trilinear(a, b, c, expand1, expand2, expand3, sumdim, unroll_dim=1):
    parts = zip((a, b, c), (expand1, expand2, expand3), strict=True)
    a, b, c = (jnp.expand_dims(v, tuple(dims)) for v, dims in parts)
    return (a * b * c).sum(tuple(sumdim))


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


LINALG: dict[str, Callable[..., Any]] = {
    "addmm": lambda c, a, b, beta=1, alpha=1: beta * c + alpha * (a @ b),
    "baddbmm": lambda c, a, b, beta=1, alpha=1: beta * c + alpha * (a @ b),
    "bmm": jnp.matmul,
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
    "_linalg_check_errors": lambda *a, **k: None,
}
