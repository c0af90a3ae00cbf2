"""Entries of the lowering table against torch's own operations, on random inputs.

Every entry has a case; a program through the whole compiler would hide an operation that torch
decomposes before the table sees it.
"""

import functools

import jax
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from ppl_zoo.compiler import capture
from ppl_zoo.compiler.xla.lowering import lower, to_jax
from ppl_zoo.compiler.xla.ops.random import RANDOM
from ppl_zoo.compiler.xla.ops.table import TABLE

FLOATS = (torch.float32, torch.float64)
ANY = (*FLOATS, torch.int64)
BITS = (torch.bool, torch.int64)
aten = torch.ops.aten


class Maker:
    """Random arguments of one shape and dtype."""

    def __init__(self, shape, dtype, number):
        self.shape, self.dtype = tuple(shape), dtype
        self.noise = torch.Generator().manual_seed(number)

    def __call__(self, *shape, low=-2.0, high=2.0, dtype=None):
        """Draw a tensor, within ``[low, high)``; of the case's shape if none is given."""
        dtype, shape = dtype or self.dtype, shape or self.shape
        if dtype == torch.bool:
            return torch.rand(shape, generator=self.noise) < 0.5
        x = low + (high - low) * torch.rand(shape, generator=self.noise, dtype=torch.float64)
        return x.floor().to(dtype) if dtype == torch.int64 else x.to(dtype)

    def places(self, *shape, below):
        return torch.randint(0, below, shape, generator=self.noise)

    def spd(self, n=3):
        a = self(n, n)
        return a @ a.mT + n * torch.eye(n, dtype=self.dtype)

    def tril(self, n=3):
        return torch.linalg.cholesky(self.spd(n))


def one(low=-2.0, high=2.0):
    return lambda m: (m(low=low, high=high),)


def two(low=-2.0, high=2.0):
    return lambda m: (m(low=low, high=high), m(*m.shape[-1:], low=low, high=high))


def far(m):
    """Two tensors whose values differ: where they meet, a gradient is a matter of taste."""
    x = m()
    return x, x + torch.where(m() < 0, -1, 1).to(x.dtype)


def matrices(m):
    return m(3, 4), m(4, 2)


def batches(m):
    return m(2, 3, 4), m(2, 4, 2)


def square(m):
    return (m.spd(),)


def along(m):
    return m(3, 4), 1


def moved(m):
    return m(3, 4), 1, m.places(2, 4, below=4)


def image(m):
    return m(2, 4, 6, 6)


def norm(m):
    return image(m), m(4), m(4), m(4), m(4, low=0.5)


def convolved(m, *, transposed, groups, gradient=False):
    x, n = image(m), 4 // groups
    w = m(4, 6 // groups, 3, 3) if transposed else m(6, n, 3, 3)
    options = ([2, 1], [1, 0], [1, 2], transposed, [1, 0] if transposed else [0, 0], groups)
    if not gradient:
        return x, w, m(6), *options
    y = aten.convolution(x, w, None, *options)
    return m(*y.shape), x, w, [6], *options, [True, True, True]


def layer_back(m):
    x, w, b = m(3, 4), m(4), m(4)
    _, mean, rstd = aten.native_layer_norm(x, [4], w, b, 1e-5)
    return m(3, 4), x, [4], mean, rstd, w, b, [True, True, True]


def pool_back(m):
    x = image(m)
    options = ([2, 3], [2, 1], [1, 1], [1, 1], False)
    y, index = aten.max_pool2d_with_indices(x, *options)
    return m(*y.shape), x, *options, index


def solved(m, *, left, adjoint):
    factors, pivots, _ = torch.linalg.lu_factor_ex(m.spd())
    return factors, pivots, m(3, 2) if left else m(2, 3)


def distances(m, *, p):
    a, b = m(3, 2), m(4, 2)
    return m(3, 4), a, b, p, torch.cdist(a, b, p)


def sorted_edges(m):
    return m(5).sort().values


def shapeless(m):
    """Outside of the size that reductions are tuned for, both ways."""
    return m(40, 50, 2)


#: name: [(arguments, dtypes, keep, gradient, options), ...]; ``keep`` of the results count, None
#: for all; ``gradient`` is False where there is nothing to compare: torch has none (for an index
#: shorter than the tensor, running means, most backward operations), or counts it otherwise (the
#: other half of a triangle, memory seen twice)
CASES = {}


def case(names, make, dtypes=FLOATS, keep=None, gradient=None, **options):
    for name in names.split():
        CASES.setdefault(name, []).append((make, dtypes, keep, gradient, options))


# ---- element by element
case("asinh atan cos cosh elu erf erfc exp exp2 expm1 gelu hardtanh leaky_relu", one())
case("relu sigmoid sin sinh tanh special_i0 special_i0e special_i1 special_i1e", one())
case("special_erfcx special_log_ndtr special_ndtr tan special_log_ndtr", one(-1.4, 1.4))
case("abs neg sign square", one(), ANY)
case("acos asin atanh", one(-0.9, 0.9))
case("erfinv", one(-0.9, 0.9))
case("special_ndtri", one(0.05, 0.95))
case("acosh digamma lgamma log log10 log1p log2 reciprocal rsqrt sqrt", one(1.05, 4.0))
case("ceil floor round trunc", one(), FLOATS)
case("isfinite isinf isnan", lambda m: (m() / m().round().abs(),))
case("logical_not", one(), (*ANY, torch.bool))
case("bitwise_not", one(), BITS)
case("bitwise_and bitwise_or bitwise_xor", two(), BITS)
case("logical_and logical_or logical_xor", two(), (*ANY, torch.bool))
case("eq ge gt le lt ne", two(), ANY)
case("add sub", two(), ANY)
case("add sub", two(), alpha=0.5)
case("mul", two(), (*ANY, torch.bool))
case("atan2 copysign hypot", two(0.3, 2.0))
case("maximum minimum clamp_max clamp_min", far, ANY)
case("clamp", lambda m: (m(), -1, 1), ANY)
case("clamp", lambda m: (m(), None, 0.5))
case("div", lambda m: (m(), m(low=1.0, high=5.0)), ANY)
case("div", lambda m: (m(low=-9.0, high=9.0), m(low=1.0, high=5.0)), ANY, rounding_mode="floor")
case("div", lambda m: (m(low=-9.0, high=9.0), m(low=1.0, high=5.0)), ANY, rounding_mode="trunc")
case("fmod remainder", lambda m: (m(low=-9.0, high=9.0), m(low=1.0, high=4.0)), ANY)
case("pow", two(0.5, 2.0))
case("pow", lambda m: (m(), 3), ANY)
case("pow", lambda m: (m(low=0.5), -2))
case("pow", lambda m: (2.5, m()))
case("xlogy special_xlog1py", two(0.1, 2.0))
case("polygamma", lambda m: (2, m(low=0.5)))
case("where", lambda m: (m(dtype=torch.bool), m(), m()), (*ANY, torch.bool))
case("alias clone contiguous detach lift_fresh lift_fresh_copy", one(), ANY)
case("fill full_like", lambda m: (m(), 3), ANY)
case("full_like", lambda m: (m(), 3.5), dtype=torch.float32)
case("_to_copy", one(), (*ANY, torch.bool), dtype=torch.float32)
case("copy", two(), ANY, gradient=False)
# ---- reductions
case("all any", one(), (*ANY, torch.bool))
case("all any", along, (torch.bool,))
case("amax amin mean sum prod var var_mean", one())
case("sum", one(), BITS)
case("sum", lambda m: (shapeless(m), [1]))
case("sum", lambda m: (shapeless(m), [-1], True))
case("sum", lambda m: (shapeless(m), [0, 2]))
case("sum prod", along, ANY)
case("sum", along, dtype=torch.float64)
case("amax amin mean", lambda m: (m(3, 4), [0], True))
case("var var_mean", lambda m: (m(3, 4), [1]), correction=0)
case("argmax argmin", along)
case("argmax argmin", one())
case("max min median", one())
case("max min", far)
case("max min median", along)
case("kthvalue", lambda m: (m(3, 5), 2))
case("kthvalue", lambda m: (m(5, 3), 4, 0, True))
case("linalg_vector_norm", one(0.1, 2.0))
for order in (0, 1, 2, 3.5, float("inf"), float("-inf")):
    case("linalg_vector_norm", lambda m, o=order: (m(3, 4), o, [1]))
case("cumsum cumprod logcumsumexp", along)
case("cumsum cumprod", along, (torch.int64,))
case("sort", lambda m: (m(3, 5), 1, True))
case("sort", lambda m: (m(3, 5), 0))
case("topk", lambda m: (m(3, 5), 2))
case("topk", lambda m: (m(3, 5), 2, 1, False))
case("_softmax _log_softmax", lambda m: (m(3, 4), 1, False))
case("_softmax_backward_data", lambda m: (m(3, 4), m(3, 4).softmax(1), 1, m.dtype))
case("_log_softmax_backward_data", lambda m: (m(3, 4), m(3, 4).log_softmax(1), 1, m.dtype))
# ---- shapes
case("as_strided", lambda m: (m(12), [2, 3], [4, 1], 1), ANY)
case("as_strided_copy", lambda m: (m(12), [2, 3], [4, 1], 1), ANY)
case("as_strided_scatter", lambda m: (m(12), m(2, 3), [2, 3], [4, 1], 1), gradient=False)
case("cat", lambda m: ([m(2, 3), m(2, 1)], 1), ANY)
case("cat", lambda m: ([m(0), m(2)],))
case("constant_pad_nd", lambda m: (m(3, 4), [1, 2, 0, 1], 3), ANY)
case("constant_pad_nd", lambda m: (m(3, 4), [-1, 0]))
case("diagonal diagonal_copy", lambda m: (m(2, 3, 4), 1, 1, 2), ANY)
case("diagonal_scatter", lambda m: (m(3, 4), m(2), -1))
case("expand expand_copy", lambda m: (m(3, 1), [2, -1, 4]), ANY)
case("flip", lambda m: (m(3, 4), [0]), ANY)
case("gather", moved, ANY)
case("index", lambda m: (m(4, 3), [m.places(2, 5, below=4)]), ANY)
case("index", lambda m: (m(4, 3), [None, np.arange(3)[:, None]]), ANY)
case("index", lambda m: (m(4, 3), [m.places(2, below=4), m.places(2, below=3)]))
case("index_put", lambda m: (m(4, 3), [m.places(2, below=4)], m(2, 3), True))
case("index_put", lambda m: (m(4, 3), [np.array([2, 0, 1, 3])], m(4, 3), True))
case("index_put", lambda m: (m(4, 3), [np.array([0, 1, 2, 3])[:, None]], m(4, 1, 3)))
case("index_put", lambda m: (m(4, 3), [np.array([1, 1])], m(2, 3), True))
case("index_put", lambda m: (m(4, 3), [m(4, 3, dtype=torch.bool)], m(1)[0]))
case("index_select", lambda m: (m(4, 3), 0, m.places(5, below=4)), ANY)
case("bucketize", lambda m: (m(), sorted_edges(m)))
case("searchsorted", lambda m: (sorted_edges(m), m()))
case("searchsorted", lambda m: (m(3, 5).sort(-1).values, m(3, 2)), side="right")
case("permute permute_copy", lambda m: (m(2, 3, 4), [2, 0, 1]), ANY)
case("repeat", lambda m: (m(2, 3), [2, 1, 2]), ANY)
case("reshape view view_copy _unsafe_view", lambda m: (m(3, 4), [2, 6]), ANY)
case("roll", lambda m: (m(3, 4), [1], [1]), ANY)
case("roll", lambda m: (m(3, 4), [2]))
case(
    "scatter", lambda m: (m(3, 4), 1, torch.tensor([[0, 2], [1, 3]]), m(2, 3)), ANY, gradient=False
)
case("scatter", lambda m: (m(3, 4), 1, torch.tensor([[0, 2], [1, 3]]), 2.0))
case("scatter", lambda m: (*moved(m), m(3, 4)), gradient=False, reduce="add")
case("scatter_add", lambda m: (*moved(m), m(3, 4)), ANY, gradient=False)
for how in ("sum", "prod", "mean", "amax", "amin"):
    case("scatter_reduce", lambda m, h=how: (*moved(m), m(3, 4), h), gradient=False)
    case(
        "scatter_reduce",
        lambda m, h=how: (*moved(m), m(3, 4), h),
        gradient=False,
        include_self=False,
    )
case("select select_copy", lambda m: (m(3, 4), 1, -2), ANY)
case("select_scatter", lambda m: (m(3, 4), m(3), 1, -2))
case("slice slice_copy", lambda m: (m(3, 6), 1, 1, -1, 2), ANY)
case("slice slice_copy", lambda m: (m(3, 6), 1, -2))
case("slice_scatter", lambda m: (m(3, 6), m(3, 2), 1, 2, 4))
case("slice_scatter", lambda m: (m(3, 6), m(3, 3), 1, 0, 9223372036854775807, 2))
case("split_with_sizes split_with_sizes_copy", lambda m: (m(3, 6), [1, 2, 3], 1), ANY)
case("unbind unbind_copy", lambda m: (m(3, 4), 1), ANY)
case("squeeze squeeze_copy", lambda m: (m(1, 3, 1),), ANY)
case("squeeze", lambda m: (m(1, 3, 1), [0, 1]))
case("t", lambda m: (m(3, 4),), ANY)
case("transpose", lambda m: (m(2, 3, 4), 0, -1), ANY)
case("tril triu", lambda m: (m(4, 4), 1), ANY)
case("unfold unfold_copy", lambda m: (m(3, 7), 1, 3, 2), ANY)
case("unsqueeze unsqueeze_copy", lambda m: (m(3, 4), -2), ANY)
# ---- made anew
case("arange", lambda m: (5,))
case("arange", lambda m: (1, 7, 2), dtype=torch.float32)
case("eye", lambda m: (3, 4), dtype=torch.float64)
case("full", lambda m: ([2, 3], 4))
case("full", lambda m: ([2, 3], 0.5), dtype=torch.float32)
case("linspace", lambda m: (0.0, 2.0, 5), dtype=torch.float32)
case("ones zeros", lambda m: ([2, 3],), dtype=torch.int64)
case("scalar_tensor", lambda m: (2.5,), dtype=torch.float32)
case("tril_indices triu_indices", lambda m: (4, 3, 1))
# ---- layers
case("avg_pool2d", lambda m: (image(m), [2, 3], [2, 1], [1, 1]))
case("avg_pool2d", lambda m: (image(m), [2, 2], [], [1, 0], False, False))
case(
    "avg_pool2d_backward",
    lambda m: (m(2, 4, 3, 3), image(m), [2, 2], [2, 2], [0, 0], False, True, None),
)
case("embedding", lambda m: (m(5, 3), m.places(2, 4, below=5)))
case(
    "embedding_dense_backward",
    lambda m: (m(2, 4, 3), m.places(2, 4, below=5), 5, 2, True),
    gradient=False,
)
case("max_pool2d_with_indices", lambda m: (image(m), [2, 3], [2, 1], [1, 1]))
case("max_pool2d_with_indices_backward", pool_back)
case("native_group_norm", lambda m: (image(m), m(4), m(4), 2, 4, 36, 2, 1e-5))
case("native_batch_norm", lambda m: (*norm(m), False, 0.1, 1e-5), keep=1, gradient=False)
case("native_batch_norm", lambda m: (*norm(m), True, 0.1, 1e-5), gradient=False)
case(
    "_native_batch_norm_legit_no_training", lambda m: (*norm(m), 0.1, 1e-5), keep=1, gradient=False
)
case("native_layer_norm", lambda m: (m(3, 4), [4], m(4), m(4), 1e-5))
case("native_layer_norm_backward", layer_back, gradient=False)
for mode in ("reflection", "replication"):
    case(f"{mode}_pad2d", lambda m: (image(m), [1, 2, 0, 3]))
    case(f"{mode}_pad2d_backward", lambda m: (m(2, 4, 9, 9), image(m), [1, 2, 0, 3]))
for corners in (False, True):
    # places inside and outside of the image
    case(
        "grid_sampler_2d",
        lambda m, c=corners: (image(m), m(2, 5, 3, 2, low=-1.4, high=1.4), 0, 0, c),
    )
    case(
        "grid_sampler_2d_backward",
        lambda m, c=corners: (
            *(m(2, 4, 5, 3), image(m), m(2, 5, 3, 2, low=-1.4, high=1.4)),
            *(0, 0, c, [True, True]),
        ),
        gradient=False,
    )
    case("upsample_bilinear2d", lambda m, c=corners: (image(m), [9, 12], c))
    case(
        "upsample_bilinear2d_backward",
        lambda m, c=corners: (m(2, 4, 9, 12), [9, 12], [2, 4, 6, 6], c),
    )
case("upsample_nearest2d", lambda m: (image(m), [9, 12]))
case("upsample_nearest2d_backward", lambda m: (m(2, 4, 9, 12), [9, 12], [2, 4, 6, 6]))
for groups in (1, 2):
    for turned in (False, True):
        make = functools.partial(convolved, transposed=turned, groups=groups)
        case("convolution", make, gradient=False)
        case("convolution_backward", functools.partial(make, gradient=True))
# ---- linear algebra
case("addmm", lambda m: (m(2), *matrices(m)), beta=0.5, alpha=2.0)
case("baddbmm", lambda m: (m(2, 3, 2), *batches(m)))
case("bmm", batches)
case("dot", lambda m: (m(4), m(4)))
case("mm", matrices)
case("mv", lambda m: (m(3, 4), m(4)))
case("cholesky linalg_cholesky_ex", square)
case("cholesky_inverse", lambda m: (m.tril(),), gradient=False)
case("cholesky_solve _cholesky_solve_helper", lambda m: (m(3, 2), m.tril(), False), gradient=False)
case("linalg_inv_ex _linalg_det _linalg_slogdet", square, keep=2)
case("linalg_matrix_exp", lambda m: (m(3, 3, low=-1.0, high=1.0),))
case("_linalg_eigh", square, keep=1)
case("linalg_qr", lambda m: (m(4, 3),), gradient=False)
case("linalg_lu_solve", functools.partial(solved, left=True, adjoint=False))
case("linalg_lu_solve", functools.partial(solved, left=False, adjoint=False), left=False)
case("linalg_lu_solve", functools.partial(solved, left=True, adjoint=True), adjoint=True)
case("linalg_solve_triangular", lambda m: (m.tril(), m(3, 2)), upper=False)
case("linalg_solve_triangular", lambda m: (m.tril().mT, m(2, 3)), upper=True, left=False)
case("_linalg_solve_ex", lambda m: (m.spd(), m(3)), keep=1)
case("_linalg_solve_ex", lambda m: (m.spd(), m(2, 3)), keep=1, left=False)
case("_trilinear", lambda m: (m(3, 4), m(4), m(3), [], [0], [1], [1]))
for power in (1.0, 2.0, 3.0, float("inf")):
    case("_cdist_forward", lambda m, p=power: (m(3, 2), m(4, 2), p, None))
    case("_cdist_backward", functools.partial(distances, p=power), gradient=False)
case("_standard_gamma_grad", lambda m: (m(low=0.5), m(low=0.2)), gradient=False)

#: memory whose content is nobody's business, and a check that says nothing
EMPTY = {
    "empty": ([2, 3],),
    "empty_like": (torch.zeros(2, 3),),
    "empty_strided": ([2, 3], [3, 1]),
    "new_empty_strided": (torch.zeros(4), [2, 3], [3, 1]),
}
SILENT = {"_linalg_check_errors"}


def test_every_entry_has_a_case():
    assert CASES.keys() | EMPTY.keys() | SILENT == TABLE.keys()
    assert DRAWS.keys() | OTHER_DRAWS == RANDOM.keys()


def torchs(name, args, options):
    if name in ("contiguous", "lift_fresh"):
        return args[0]
    if name in ("reshape", "cholesky_solve"):
        return getattr(torch, name)(*args, **options)
    args = [torch.as_tensor(a) if isinstance(a, np.ndarray) else a for a in args]
    args = [
        [torch.as_tensor(v) if isinstance(v, np.ndarray) else v for v in a]
        if isinstance(a, list)
        else a
        for a in args
    ]
    return getattr(aten, name)(*args, **options)


def ours(name, args, options):
    def hand(value):
        if isinstance(value, list):
            return [hand(v) for v in value]
        return to_jax(value) if isinstance(value, torch.Tensor) else value

    return TABLE[name](*map(hand, args), **options)


def listed(result, keep):
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    return [r for r in results[:keep] if r is not None]


def gradients(name, args, options, keep):
    """Gradients of a weighted sum of the results by torch and by JAX, if torch has them."""
    places = [i for i, a in enumerate(args) if torch.is_tensor(a) and a.is_floating_point()]
    leaves = [args[i].clone().requires_grad_() for i in places]

    def put(values):
        return [values[places.index(i)] if i in places else a for i, a in enumerate(args)]

    results = [r for r in listed(torchs(name, put(leaves), options), keep) if torch.is_tensor(r)]
    used = [i for i, r in enumerate(results) if r.requires_grad]
    if not used:
        return None
    weights = [
        torch.linspace(0.5, 1.5, results[i].numel()).reshape(results[i].shape) for i in used
    ]
    total = sum((results[i] * w).sum() for i, w in zip(used, weights, strict=True))
    theirs = torch.autograd.grad(total, leaves, allow_unused=True)

    def loss(values):
        found = listed(ours(name, put(values), options), keep)
        return sum((found[i] * to_jax(w)).sum() for i, w in zip(used, weights, strict=True))

    return theirs, jax.grad(loss)([to_jax(v) for v in leaves])


COMMON = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
#: few, since JAX compiles every operation once a shape
shapes = st.sampled_from([(3,), (2, 3), (2, 1, 3)])
ALL = [(name, number) for name, found in CASES.items() for number in range(len(found))]
#: compiled a dozen at a time, and without much care, since each runs once
DOZENS = [ALL[start : start + 12] for start in range(0, len(ALL), 12)]
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(entries):
    """Results of several entries ``(name, args, options)``, by one program of XLA."""
    leaves, tree = jax.tree.flatten([list(args) for _, args, _ in entries], torch.is_tensor)
    places = [i for i, leaf in enumerate(leaves) if torch.is_tensor(leaf)]

    def run(*values):
        own = list(leaves)
        for i, value in zip(places, values, strict=True):
            own[i] = value
        pairs = zip(entries, jax.tree.unflatten(tree, own), strict=True)
        return [TABLE[name](*args, **options) for (name, _, options), args in pairs]

    given = [to_jax(leaves[i]) for i in places]
    return jax.jit(run).lower(*given).compile(FAST)(*given)


@pytest.mark.parametrize("dozen", DOZENS, ids=[d[0][0] for d in DOZENS])
@COMMON
@given(shape=shapes, draw=st.integers(0, 2**16), data=st.data())
def test_entries(dozen, shape, draw, data):
    entries, dtypes, kept = [], [], []
    for name, number in dozen:
        make, admitted, keep, _, options = CASES[name][number]
        dtypes.append(data.draw(st.sampled_from(admitted)))
        entries.append((name, make(Maker(shape, dtypes[-1], draw)), options))
        kept.append(keep)
    with jax.enable_x64(True):
        found = compiled(entries)
    for (name, args, options), dtype, keep, result in zip(
        entries, dtypes, kept, found, strict=True
    ):
        expected = listed(torchs(name, args, options), keep)
        tol = 1e-9 if dtype == torch.float64 else 2e-5
        tol = 3e-4 if name == "_standard_gamma_grad" else tol  # torch's own is a rough fit
        for one, other in zip(listed(result, keep), expected, strict=True):
            assert one.shape == tuple(other.shape), name
            np.testing.assert_allclose(one, other.numpy(), rtol=tol, atol=tol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), ALL, ids=[f"{n}-{i}" for n, i in ALL])
def test_gradients_of_entry(name, number):
    """Not on any path of the compiler, whose graphs hold torch's own gradients."""
    make, dtypes, keep, gradient, options = CASES[name][number]
    if gradient is False or torch.float64 not in dtypes:
        return
    args = make(Maker((2, 3), torch.float64, number))
    with jax.enable_x64(True):
        pair = gradients(name, args, options, keep)
    for one, other in zip(*pair, strict=True) if pair else ():
        one = torch.zeros(other.shape) if one is None else one
        np.testing.assert_allclose(other, one.numpy(), rtol=1e-8, atol=1e-8)


# ---- random operations, by distribution --------------------------------------------------------

SIZE = 4000
zeros = jax.numpy.zeros(SIZE)
full = functools.partial(jax.numpy.full, (SIZE,))
uniform = stats.uniform(0, 1)
#: name: (arguments after the key, options, exact distribution)
DRAWS = {
    "bernoulli": ((zeros, 0.3), {}, stats.bernoulli(0.3)),
    "binomial": ((full(7.0), full(0.4)), {}, stats.binom(7, 0.4)),
    "cauchy": ((zeros, 1.0, 2.0), {}, stats.cauchy(1, 2)),
    "exponential": ((zeros, 2.0), {}, stats.expon(scale=0.5)),
    "geometric": ((zeros, 0.4), {}, stats.geom(0.4)),
    "log_normal": ((zeros, 0.2, 0.5), {}, stats.lognorm(0.5, scale=np.exp(0.2))),
    "multinomial": ((jax.numpy.tile(jax.numpy.array([0.1, 0.6, 0.3]), (SIZE, 1)), 1), {}, None),
    "normal_functional": ((zeros, 1.0, 2.0), {}, stats.norm(1, 2)),
    "poisson": ((full(3.0),), {}, stats.poisson(3)),
    "rand": (([SIZE],), {"dtype": torch.float32}, uniform),
    "rand_like": ((zeros,), {}, uniform),
    "randint": ((2, 6, [SIZE]), {}, stats.randint(2, 6)),
    "randn": (([SIZE],), {"dtype": torch.float32}, stats.norm()),
    "randn_like": ((zeros,), {}, stats.norm()),
    "uniform": ((zeros, -1.0, 3.0), {}, stats.uniform(-1, 4)),
    "_standard_gamma": ((full(0.7),), {}, stats.gamma(0.7)),
}
OTHER_DRAWS = {"native_dropout", "randperm", "_sample_dirichlet"}


def drawn(name, *args, number=0, **options):
    return np.asarray(RANDOM[name](jax.random.key(number), *args, **options))


def fits(draws, exact):
    """The probability of a fit as bad as this one; tiny if the distribution is another."""
    if hasattr(exact, "pdf"):
        return stats.kstest(draws, exact.cdf).pvalue
    values, counts = np.unique(draws, return_counts=True)
    keep = exact.pmf(values) * len(draws) > 5
    seen = np.append(counts[keep], counts[~keep].sum())
    share = np.append(exact.pmf(values[keep]), 1 - exact.pmf(values[keep]).sum())
    if share[-1] * len(draws) < 1e-6:
        seen, share = seen[:-1], share[:-1]
    return stats.chisquare(seen, share / share.sum() * seen.sum()).pvalue


@pytest.mark.parametrize("name", DRAWS)
def test_draws_have_their_distribution(name):
    args, options, exact = DRAWS[name]
    draws = drawn(name, *args, **options)
    if exact is None:
        assert draws.shape == (SIZE, 1)
        exact, draws = stats.rv_discrete(values=([0, 1, 2], [0.1, 0.6, 0.3])), draws[:, 0]
    assert draws.shape == (SIZE,)
    assert 1e-3 < fits(draws, exact)
    assert np.array_equal(drawn(name, *args, **options).ravel(), draws)
    assert not np.array_equal(drawn(name, *args, number=1, **options).ravel(), draws)


def test_a_wrong_distribution_is_noticed():
    assert fits(drawn("randn_like", zeros), stats.norm(0, 1.2)) < 1e-3
    assert fits(drawn("poisson", full(3.0)), stats.poisson(3.4)) < 1e-3


def test_drawing_without_replacement_takes_each_once_and_likely_ones_first():
    p = jax.numpy.tile(jax.numpy.array([0.1, 0.6, 0.3]), (SIZE, 1))
    draws = drawn("multinomial", p, 3)
    assert np.array_equal(np.sort(draws, -1), np.tile(np.arange(3), (SIZE, 1)))
    assert 1e-3 < fits(draws[:, 0], stats.rv_discrete(values=([0, 1, 2], [0.1, 0.6, 0.3])))
    second = draws[draws[:, 0] == 1, 1]  # after the likely one: 1 to 3
    assert 1e-3 < fits(second, stats.rv_discrete(values=([0, 2], [0.25, 0.75])))
    again = drawn("multinomial", p[0], SIZE, True)
    assert 1e-3 < fits(again, stats.rv_discrete(values=([0, 1, 2], [0.1, 0.6, 0.3])))


def test_permutations_are_uniform():
    key = jax.random.split(jax.random.key(0), 1200)
    draws = np.asarray(jax.vmap(lambda k: RANDOM["randperm"](k, 3))(key))
    assert np.array_equal(np.sort(draws, -1), np.tile(np.arange(3), (1200, 1)))
    assert 1e-3 < stats.chisquare(np.unique(draws, axis=0, return_counts=True)[1]).pvalue
    assert len(np.unique(draws, axis=0)) == 6


def test_dropout_keeps_the_mean():
    kept, mask = RANDOM["native_dropout"](jax.random.key(0), zeros + 2.0, 0.25, True)
    assert mask.dtype == bool
    np.testing.assert_allclose(kept, np.where(mask, 2.0 / 0.75, 0.0), rtol=1e-6)
    assert 1e-3 < fits(np.asarray(mask).astype(int), stats.bernoulli(0.75))
    same, everything = RANDOM["native_dropout"](jax.random.key(0), zeros + 2.0, 0.25, False)
    assert np.array_equal(same, zeros + 2.0) and bool(everything.all())


def test_dirichlet_draws_have_beta_margins():
    alpha = jax.numpy.tile(jax.numpy.array([0.5, 1.0, 2.5]), (10 * SIZE, 1))
    draws = drawn("_sample_dirichlet", alpha, number=1)
    np.testing.assert_allclose(draws.sum(-1), 1.0, rtol=1e-5)
    for i, a in enumerate((0.5, 1.0, 2.5)):
        assert 1e-3 < stats.kstest(draws[:, i], stats.beta(a, 4.0 - a).cdf).pvalue


class Concentrations(torch.nn.Module):
    def __init__(self, alpha):
        super().__init__()
        self.alpha = torch.nn.Parameter(torch.tensor(alpha))


@pytest.mark.parametrize("name", ["Beta", "Dirichlet"])
def test_reparametrised_draws_while_capturing(name):
    """Normalised gammas: their distribution, and gradients of the right expectation."""
    module = Concentrations([1.5, 0.8] if name == "Beta" else [1.5, 0.8, 2.0])

    def objective():
        alpha = module.alpha
        if name == "Beta":
            x = torch.distributions.Beta(*alpha.expand(SIZE, 2).unbind(-1)).rsample()
        else:
            x = torch.distributions.Dirichlet(alpha.expand(SIZE, 3)).rsample()[:, 0]
        module.draws = x
        return x.mean()

    captured = capture(objective, [module], ())
    assert "_standard_gamma" in str(captured.graph.graph)
    function = jax.jit(lower(captured))
    total = module.alpha.sum().item()
    share = module.alpha[0].item() / total
    # E x = a_0 / sum a, and its derivatives
    exact = -torch.full_like(module.alpha.detach(), share / total)
    exact[0] += 1 / total
    found = [function(jax.random.key(i), to_jax(module.alpha)) for i in range(10)]
    mean, gradient = (np.mean([f[i] for f in found], 0) for i in range(2))
    sd = (share * (1 - share) / (total + 1) / (10 * SIZE)) ** 0.5
    assert abs(mean - share) < 4 * sd
    np.testing.assert_allclose(gradient, exact, atol=4e-3)
