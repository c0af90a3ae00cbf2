"""Entries of the lowering table against torch's own operations, and random ones by moments."""

import jax
import numpy as np
import pytest
import torch

from ppl_zoo.compiler.xla import to_jax
from ppl_zoo.compiler.xla_random import RANDOM
from ppl_zoo.compiler.xla_table import TABLE

REAL = (
    "abs add asinh atan atan2 ceil clamp_max clamp_min copysign cos cosh div eq erf erfc exp exp2 "
    "expm1 floor fmod ge gelu gt hypot isfinite isinf isnan le leaky_relu lt maximum minimum mul "
    "ne neg reciprocal relu remainder round sigmoid sign sin sinh special_erfcx special_i0 "
    "special_i0e special_i1 special_i1e special_log_ndtr special_ndtr sqrt square sub tan tanh "
    "trunc amax amin argmax argmin max mean min prod sum var median linalg_vector_norm elu"
).split()
UNIT = "acos asin atanh erfinv special_ndtri log log10 log1p log2 lgamma digamma rsqrt pow".split()
UNIT += ["xlogy", "special_xlog1py"]
BINARY = set(
    "add atan2 clamp_max clamp_min copysign div eq fmod ge gt hypot le lt maximum minimum mul ne "
    "pow remainder sub xlogy special_xlog1py".split()
)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", [*REAL, *UNIT])
def test_elementwise_and_reductions(name, wide):
    dtype = torch.float64 if wide else torch.float32
    x, y = 1.5 * torch.randn(3, 4, dtype=dtype), torch.randn(4, dtype=dtype)
    if name in UNIT:
        x, y = (torch.rand_like(v) * 0.9 + 0.05 for v in (x, y))
    args = (x, y) if name in BINARY else (x,)
    expected = getattr(torch.ops.aten, name)(*args)
    with jax.enable_x64(wide):
        found = np.asarray(TABLE[name](*map(to_jax, args)))
    tol = 1e-10 if wide else 2e-5
    np.testing.assert_allclose(found, expected.numpy(), rtol=tol, atol=tol)


SIZE = 20000
DRAWS = {
    "bernoulli": (lambda x: (x * 0 + 0.3,), 0.3, 0.21),
    "exponential": (lambda x: (x, 2.0), 0.5, 0.25),
    "normal_functional": (lambda x: (x, 1.0, 2.0), 1.0, 4.0),
    "poisson": (lambda x: (x * 0 + 3.0,), 3.0, 3.0),
    "rand_like": (lambda x: (x,), 0.5, 1 / 12),
    "randn_like": (lambda x: (x,), 0.0, 1.0),
    "uniform": (lambda x: (x, -1.0, 3.0), 1.0, 16 / 12),
    "_standard_gamma": (lambda x: (x * 0 + 2.5,), 2.5, 2.5),
    "binomial": (lambda x: (x * 0 + 7.0, x * 0 + 0.4), 2.8, 1.68),
    "geometric": (lambda x: (x, 0.4), 2.5, 3.75),
    "log_normal": (lambda x: (x, 0.0, 0.5), 1.1331, 0.3647),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_operations_by_their_moments(name):
    make, mean, variance = DRAWS[name]
    draws = np.asarray(RANDOM[name](jax.random.key(3), *make(jax.numpy.zeros(SIZE))))
    assert draws.shape == (SIZE,) and draws.dtype == np.float32
    assert draws.mean() == pytest.approx(mean, abs=5 * (variance / SIZE) ** 0.5)
    assert draws.var() == pytest.approx(variance, rel=0.15)
