"""Random ops of aten in JAX; each takes a key of its own first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

from ppl_zoo.compiler.xla.ops.dtypes import jax_dtype, shape_and_dtype

__all__ = ["RANDOM"]


def _normal(key, x, mean=0.0, std=1.0, generator=None):
    return mean + std * jax.random.normal(key, x.shape, x.dtype)


def _rand_like(key, x, low=0.0, high=1.0, generator=None):
    return jax.random.uniform(key, x.shape, x.dtype, low, high)


def _bernoulli(key, x, p=None, generator=None):
    return jax.random.bernoulli(key, x if p is None else p, x.shape).astype(x.dtype)


def _multinomial(key, p, num_samples, replacement=False, generator=None):
    logits = jnp.log(p)
    if num_samples == 1 or replacement:
        draws = jax.random.categorical(
            key, logits[..., None, :], shape=(*p.shape[:-1], num_samples)
        )
    else:
        noise = jax.random.gumbel(key, p.shape, logits.dtype) + logits
        draws = jnp.argsort(-noise, -1)[..., :num_samples]
    return draws


def _exponential(key, x, rate=1.0, generator=None):
    return jax.random.exponential(key, x.shape, x.dtype) / rate


def _shape_normal(key, size, dtype=None, **_):
    return jax.random.normal(key, tuple(size), shape_and_dtype((), dtype)[1])


def _shape_uniform(key, size, dtype=None, **_):
    return jax.random.uniform(key, tuple(size), shape_and_dtype((), dtype)[1])


def _gamma(key, alpha, generator=None):
    return jax.random.gamma(key, alpha, alpha.shape, alpha.dtype)


def _dirichlet(key, alpha, generator=None):
    return jax.random.dirichlet(key, alpha, alpha.shape[:-1], alpha.dtype)


def _poisson(key, rate, generator=None):
    return jax.random.poisson(key, rate, rate.shape).astype(rate.dtype)


def _cauchy(key, x, median=0.0, sigma=1.0, generator=None):
    return median + sigma * jax.random.cauchy(key, x.shape, x.dtype)


def _binomial(key, count, prob, generator=None):
    return jax.random.binomial(key, count, prob, dtype=jnp.result_type(count, prob))


def _dropout(key, x, p, train=True):
    if train is False or p == 0:
        return x, jnp.ones(x.shape, jnp.bool_)
    kept = jax.random.bernoulli(key, 1.0 - p, x.shape)
    return (x * kept / (1.0 - p) if p < 1 else x * 0.0), kept


def _geometric(key, x, p, generator=None):
    return jax.random.geometric(key, p, x.shape).astype(x.dtype)


def _log_normal(key, x, mean=1.0, std=2.0, generator=None):
    return jnp.exp(_normal(key, x, mean, std))


def _randint(key, *args, dtype=None, **_):
    low, high, size = (0, *args) if len(args) == 2 else args
    dtype = jax_dtype(dtype or torch.int64)
    return jax.random.randint(key, tuple(size), low, high).astype(dtype)


def _randperm(key, n, dtype=None, **_):
    return jax.random.permutation(key, n).astype(jax_dtype(dtype or torch.int64))


RANDOM: dict[str, Callable[..., Any]] = {
    "bernoulli": _bernoulli,
    "binomial": _binomial,
    "cauchy": _cauchy,
    "exponential": _exponential,
    "geometric": _geometric,
    "log_normal": _log_normal,
    "multinomial": _multinomial,
    "native_dropout": _dropout,
    "normal_functional": _normal,
    "poisson": _poisson,
    "rand": _shape_uniform,
    "rand_like": lambda key, x, **_: _rand_like(key, x),
    "randint": _randint,
    "randperm": _randperm,
    "randn": _shape_normal,
    "randn_like": lambda key, x, **_: _normal(key, x),
    "uniform": _rand_like,
    "_standard_gamma": _gamma,
    "_sample_dirichlet": _dirichlet,
}
