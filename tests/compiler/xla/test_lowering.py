"""Loss and gradients of torch programs: captured, lowered and run by JAX as torch runs them."""

import jax
import numpy as np
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import biject_to, constraints, transforms

from ppl_zoo.compiler import CaptureError, capture
from ppl_zoo.compiler.xla.lowering import LoweringError, lower, to_jax

V = [0.4, -1.2, 2.1, 0.3]  # a vector, and the same made positive, or into probabilities
UNIT = [0.2, 0.7, 0.55, 0.9]


def positive(v):
    return v.exp()


def spd(v):
    factor = torch.outer(v, v) * 0.3
    return factor + torch.eye(len(v), dtype=v.dtype)


def skew(v):
    return spd(v) + torch.outer(v, v.flip(0).cos()).triu()


def lkj(dim, concentration=2.0):
    def run(v):
        factor = transforms.CorrCholeskyTransform()(torch.cat([v, v[:2]])[: dim * (dim - 1) // 2])
        return dist.LKJCholesky(dim, concentration).log_prob(factor) + factor.sin().sum()

    return run


COUNTS = torch.tensor([0.0, 3.0, 1.0, 7.0])
BITS = torch.tensor([0.0, 1.0, 1.0, 0.0])
LABELS = torch.tensor([2, 0, 1, 3])

DENSITIES = {
    "Normal": lambda v: dist.Normal(v[:2], positive(v[2:])).log_prob(v[1]),
    "LogNormal": lambda v: dist.LogNormal(v, 0.7).log_prob(positive(v.flip(0))),
    "Gamma": lambda v: dist.Gamma(positive(v), positive(v.flip(0))).log_prob(v.square() + 0.1),
    "InverseGamma": lambda v: dist.InverseGamma(positive(v), 2.0).log_prob(positive(v)),
    "Beta": lambda v: dist.Beta(positive(v), 1.5).log_prob(v.sigmoid()),
    "Dirichlet": lambda v: dist.Dirichlet(positive(v)).log_prob(v.softmax(-1)),
    "Exponential": lambda v: dist.Exponential(positive(v)).log_prob(v.square()),
    "StudentT": lambda v: dist.StudentT(positive(v), v, positive(v)).log_prob(v.flip(0)),
    "Cauchy": lambda v: dist.Cauchy(v, positive(v)).log_prob(v.flip(0)),
    "HalfCauchy": lambda v: dist.HalfCauchy(positive(v)).log_prob(positive(v.flip(0))),
    "HalfNormal": lambda v: dist.HalfNormal(positive(v)).log_prob(positive(v.flip(0))),
    "Laplace": lambda v: dist.Laplace(v, positive(v)).log_prob(v.flip(0)),
    "Gumbel": lambda v: dist.Gumbel(v, positive(v)).log_prob(v.flip(0)),
    "Weibull": lambda v: dist.Weibull(positive(v), 1.7).log_prob(positive(v.flip(0))),
    "Pareto": lambda v: dist.Pareto(0.01, positive(v)).log_prob(positive(v)),
    "Kumaraswamy": lambda v: dist.Kumaraswamy(positive(v), 2.0).log_prob(v.sigmoid()),
    "VonMises": lambda v: dist.VonMises(v, positive(v)).log_prob(v.flip(0)),
    "Uniform": lambda v: dist.Uniform(-5.0, positive(v) + 5).log_prob(v),
    "Poisson": lambda v: dist.Poisson(positive(v)).log_prob(COUNTS.to(v)),
    "NegativeBinomial": lambda v: dist.NegativeBinomial(positive(v), logits=v).log_prob(
        COUNTS.to(v)
    ),
    "Binomial": lambda v: dist.Binomial(8, logits=v).log_prob(COUNTS.to(v)),
    "BetaBinomial": lambda v: dist.BetaBinomial(positive(v), 2.0, 8).log_prob(COUNTS.to(v)),
    "GammaPoisson": lambda v: dist.GammaPoisson(positive(v), 2.0).log_prob(COUNTS.to(v)),
    "ZeroInflatedPoisson": lambda v: dist.ZeroInflatedPoisson(
        positive(v), gate_logits=v.flip(0)
    ).log_prob(COUNTS.to(v)),
    "Geometric": lambda v: dist.Geometric(logits=v).log_prob(COUNTS.to(v)),
    "Bernoulli logits": lambda v: dist.Bernoulli(logits=v).log_prob(BITS.to(v)),
    "Bernoulli probs": lambda v: dist.Bernoulli(v.sigmoid()).log_prob(BITS.to(v)),
    "Categorical logits": lambda v: dist.Categorical(logits=v).log_prob(LABELS),
    "Categorical probs": lambda v: dist.Categorical(v.softmax(-1)).log_prob(LABELS),
    "OneHotCategorical": lambda v: dist.OneHotCategorical(logits=v).log_prob(torch.eye(4).to(v)),
    "Multinomial": lambda v: dist.Multinomial(11, logits=v).log_prob(COUNTS.to(v)),
    "OrderedLogistic": lambda v: dist.OrderedLogistic(
        v, torch.cumsum(positive(v[:3]), 0)
    ).log_prob(LABELS),
    "MultivariateNormal covariance": lambda v: dist.MultivariateNormal(v, spd(v)).log_prob(
        torch.stack([v.flip(0), -v])
    ),
    "MultivariateNormal precision": lambda v: dist.MultivariateNormal(
        v, precision_matrix=spd(v)
    ).log_prob(v.flip(0)),
    "MultivariateNormal factor": lambda v: dist.MultivariateNormal(
        v, scale_tril=torch.linalg.cholesky(spd(v))
    ).log_prob(v.flip(0)),
    "LowRankMultivariateNormal": lambda v: dist.LowRankMultivariateNormal(
        v, v[:, None], positive(v)
    ).log_prob(v.flip(0)),
    "Wishart": lambda v: dist.Wishart(
        torch.tensor(6.0, dtype=v.dtype), covariance_matrix=torch.eye(4, dtype=v.dtype)
    ).log_prob(spd(v)),
    "LKJCholesky 2": lkj(2),
    "LKJCholesky 4": lkj(4),
    "LKJ": lambda v: dist.LKJ(2, 1.5).log_prob(
        torch.eye(2, dtype=v.dtype) + v[0].tanh() * torch.eye(2, dtype=v.dtype).flip(0)
    ),
    "Logistic": lambda v: dist.Logistic(v, 2.0).log_prob(v.flip(0)),
    "SoftLaplace": lambda v: dist.SoftLaplace(v, 2.0).log_prob(v.flip(0)),
    "AsymmetricLaplace": lambda v: dist.AsymmetricLaplace(v, 2.0, 1.3).log_prob(v.flip(0)),
    "SkewLogistic": lambda v: dist.SkewLogistic(v, 2.0, 1.3).log_prob(v.flip(0)),
    "RelaxedBernoulli": lambda v: dist.RelaxedBernoulliStraightThrough(
        torch.tensor(0.5, dtype=v.dtype), logits=v
    ).log_prob(v.sigmoid()),
    "MixtureSameFamily": lambda v: dist.MixtureSameFamily(
        dist.Categorical(logits=v), dist.Normal(v, positive(v))
    ).log_prob(v.flip(0)),
    "TransformedDistribution": lambda v: dist.TransformedDistribution(
        dist.Normal(v, 1.0), [transforms.AffineTransform(1.0, 2.0), transforms.SigmoidTransform()]
    ).log_prob(v.sigmoid()),
    "truncated normal": lambda v: (
        dist.Normal(v, 1.5).log_prob(v + 3) - torch.log1p(-dist.Normal(v, 1.5).cdf(v * 0 + 1))
    ),
    "censored": lambda v: torch.special.log_ndtr(v) + torch.log(torch.special.erfc(-v / 2)),
    "Gumbel survival": lambda v: (1 - dist.Gumbel(v, 1.0).cdf(v.flip(0))).log(),
    "DiscreteHMM": lambda v: dist.DiscreteHMM(
        v[:2], torch.stack([v[:2], v[2:]]), dist.Normal(v[2:], 1.0)
    ).log_prob(COUNTS.to(v)),
    "ordered transform": lambda v: dist.transforms.OrderedTransform()(v).sin(),
    "kl Normal": lambda v: torch.distributions.kl_divergence(
        dist.Normal(v, positive(v)), dist.Normal(0.0, 2.0)
    ),
    "kl Gamma": lambda v: torch.distributions.kl_divergence(
        dist.Gamma(positive(v), 1.0), dist.Gamma(2.0, positive(v))
    ),
    "kl MultivariateNormal": lambda v: torch.distributions.kl_divergence(
        dist.MultivariateNormal(v, spd(v)),
        dist.MultivariateNormal(v * 0, torch.eye(4, dtype=v.dtype)),
    ),
    "kl Dirichlet": lambda v: torch.distributions.kl_divergence(
        dist.Dirichlet(positive(v)), dist.Dirichlet(positive(v.flip(0)))
    ),
    "entropy": lambda v: (
        dist.Gamma(positive(v), 1.0).entropy() + dist.Beta(positive(v), 2.0).entropy()
    ),
}

SUPPORTS = {
    "positive": constraints.positive,
    "unit": constraints.unit_interval,
    "interval": constraints.interval(-2.0, 5.0),
    "greater": constraints.greater_than(1.0),
    "simplex": constraints.simplex,
    "ordered": dist.constraints.ordered_vector,
    "softplus": dist.constraints.softplus_positive,
    "corr": constraints.corr_cholesky,
    "corr matrix": dist.constraints.corr_matrix,
}


def transform(name):
    def run(v):
        u = torch.cat([v, v[:2] * 0.5])  # six numbers: a triangle, too
        t = biject_to(SUPPORTS[name])
        y = t(u)
        return y.sin().sum() + t.log_abs_det_jacobian(u, y).sum()

    return run


def layer(make, shape, *, call=None):
    torch.manual_seed(1)
    single, double = make().eval(), make().double().eval()

    def run(v):
        module = double if v.dtype == torch.float64 else single
        x = torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=v.dtype).reshape(shape)
        weights = dict(module.named_parameters())
        scaled = {k: p.detach() * (1 + 0.1 * v[0]) + 0.1 * v[1] for k, p in weights.items()}
        out = torch.func.functional_call(module, scaled, (x * v[2],))
        return (out if call is None else call(out)).sin()

    return run


def first(out):
    return torch.cat([o.flatten() for o in out]) if isinstance(out, tuple) else out


def attention(v):
    q = torch.outer(v, v).reshape(1, 2, 2, 4) * 0.3
    return F.scaled_dot_product_attention(q, q + 1, q * 2)


LAYERS = {
    "interpolate": lambda v: F.interpolate(v[None, None, None], size=(2, 6), mode="bilinear"),
    "Linear": layer(lambda: nn.Linear(3, 2), (5, 3)),
    "Bilinear": lambda v: F.bilinear(v[None], v[None], torch.outer(v, v)[None], v[:1]),
    "Conv1d": layer(lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 2, 6)),
    "Conv2d": layer(lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 2, 6, 5)),
    "Conv2d dilated": layer(lambda: nn.Conv2d(2, 2, 2, dilation=2), (1, 2, 5, 5)),
    "ConvTranspose2d": layer(
        lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 2, 3, 4),
    ),
    "LSTMCell": layer(lambda: nn.LSTMCell(3, 2), (4, 3), call=first),
    "GRUCell": layer(lambda: nn.GRUCell(3, 2), (4, 3)),
    "LSTM": layer(lambda: nn.LSTM(3, 2), (2, 1, 3), call=lambda out: out[0]),
    "LayerNorm": layer(lambda: nn.LayerNorm(3), (4, 3)),
    "GroupNorm": layer(lambda: nn.GroupNorm(2, 4), (3, 4, 2)),
    "BatchNorm eval": layer(lambda: nn.BatchNorm1d(3), (4, 3)),
    "BatchNorm2d eval": layer(lambda: nn.BatchNorm2d(3), (2, 3, 2, 2)),
    "InstanceNorm": layer(lambda: nn.InstanceNorm1d(3), (2, 3, 5)),
    "Dropout eval": layer(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)), (4, 3)),
    "MultiheadAttention": layer(
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 3, 4)
    ),
    "MaxPool2d": layer(
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(3, 2, 1)), (1, 1, 6, 6)
    ),
    "AvgPool2d": layer(lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.AvgPool2d(2)), (1, 1, 6, 6)),
    "Upsample": layer(
        lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.Upsample(scale_factor=2)), (1, 1, 3, 3)
    ),
    "PixelShuffle": layer(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.PixelShuffle(2)), (1, 1, 3, 3)
    ),
    "Embedding": lambda v: F.embedding(LABELS[:3], torch.outer(v, v)),
    "EmbeddingBag-like": lambda v: torch.outer(v, v)[LABELS].sum(0),
    "attention": attention,
    "softplus": lambda v: F.softplus(v, beta=2.0, threshold=3.0),
    "gelu": lambda v: F.gelu(v) + F.gelu(v, approximate="tanh"),
    "elu": lambda v: F.elu(v) + F.selu(v) + F.celu(v) + F.leaky_relu(v),
    "silu": lambda v: F.silu(v) + F.mish(v) + F.hardtanh(v) + F.hardswish(v),
    "logsigmoid": lambda v: F.logsigmoid(v) + F.softsign(v) + F.relu6(v),
    "prelu": lambda v: F.prelu(v, v[:1]) + F.glu(torch.cat([v, v])),
    "cross entropy": lambda v: F.cross_entropy(torch.outer(v, v), LABELS),
    "binary cross entropy": lambda v: F.binary_cross_entropy_with_logits(v, BITS.to(v)),
    "smooth l1": lambda v: F.smooth_l1_loss(v, v.flip(0)) + F.huber_loss(v, v.flip(0)),
    "normalize": lambda v: F.normalize(v, dim=0) + F.cosine_similarity(v, v.flip(0), dim=0),
    "pad": lambda v: F.pad(v[None, None], (1, 2), mode="reflect") + F.pad(v, (2, 1)),
}

ALGEBRA = {
    "cholesky_solve": lambda v: torch.cholesky_solve(v[:, None], torch.linalg.cholesky(spd(v))),
    "cholesky_inverse": lambda v: torch.cholesky_inverse(torch.linalg.cholesky(spd(v))),
    "solve": lambda v: torch.linalg.solve(skew(v), v) + torch.linalg.solve(skew(v).mT, spd(v))[0],
    "inv": lambda v: torch.linalg.inv(skew(v)),
    "det": lambda v: torch.linalg.det(skew(v)) + torch.linalg.det(skew(v).mT),
    "slogdet": lambda v: torch.linalg.slogdet(skew(v))[1] + skew(v).mT.slogdet()[1],
    "logdet": lambda v: torch.logdet(skew(v)),
    "eigh": lambda v: torch.linalg.eigvalsh(spd(v) + torch.diag(v)),
    "qr": lambda v: torch.linalg.qr(spd(v))[1].abs(),
    "matrix_exp": lambda v: torch.linalg.matrix_exp(0.3 * spd(v)),
    "norm": lambda v: torch.linalg.norm(v) + v.norm(1) + torch.linalg.norm(spd(v)),
    "cdist": lambda v: torch.cdist(v[:, None], v.flip(0)[:, None] + 0.05, p=1.0),
    "cdist 2": lambda v: torch.cdist(torch.outer(v, v), torch.outer(v, v + 1)),
    "kernel": lambda v: (-0.5 * (v[:, None] - v).square()).exp() @ v,
    "einsum": lambda v: torch.einsum("i,j,ij->i", v, v, spd(v)),
    "triangular": lambda v: torch.linalg.solve_triangular(spd(v).tril(), v[:, None], upper=False),
    "logcumsumexp": lambda v: v.logcumsumexp(0),
    "cumulative": lambda v: v.cumsum(0) + v.cumprod(0),
    "sort": lambda v: v.sort(descending=True).values * v + v.topk(2).values.sum() + v.median(),
    "index_fill": lambda v: v.index_fill(0, torch.tensor([1, 2]), 0.5).sin(),
    "index_add": lambda v: v.index_add(0, torch.tensor([1, 1]), v[:2]).sin(),
    "index_copy": lambda v: v.index_copy(0, torch.tensor([3, 1]), v[:2]).sin(),
    "masked_fill": lambda v: v.masked_fill(torch.tensor([True, False, True, False]), 2.0).sin(),
    "in place": lambda v: inplace(v),
    "scatter": lambda v: torch.zeros(4, 4, dtype=v.dtype).scatter(1, LABELS[:, None], v[:, None]),
    "scatter_add": lambda v: torch.zeros_like(v).scatter_add(0, LABELS.clamp(max=2), v).sin(),
    "unfold": lambda v: v.unfold(0, 2, 1).prod(-1),
    "diag": lambda v: torch.diag_embed(v).sin() + torch.diag(v, 1)[:4, :4] * 2,
    "fancy": lambda v: spd(v)[LABELS, [0, 1, 2, 3]] * spd(v)[:, -1] + spd(v)[::2].sum(),
    "tril_indices": lambda v: spd(v)[tuple(torch.tril_indices(4, 4, -1))].sin(),
    "logsumexp": lambda v: torch.logsumexp(spd(v), 0) + torch.logaddexp(v, v.flip(0)),
    "special": lambda v: torch.lgamma(positive(v)) + torch.digamma(positive(v)) + torch.erf(v),
    "mvlgamma": lambda v: torch.mvlgamma(positive(v) + 3, 2) + torch.special.i0e(v),
    "extrema": lambda v: (
        v.max() + v.min() + v.amax() + spd(v).max(0).values.sum() * v.aminmax()[0]
    ),
    "statistics": lambda v: v.var() + v.std(unbiased=False) + v.mean() + v.prod() + v.norm(),
    "meshes": lambda v: torch.meshgrid(v, v, indexing="ij")[0].roll(1, 0).rot90(),
    "where": lambda v: torch.where(v > 0, v.sqrt(), -v),
    "dims and dtypes": lambda v: v.float().double().to(v.dtype) * torch.tensor(2) + (v > 0),
    "repeat": lambda v: v.repeat(2, 2).sin().sum(0)[:4] + v.repeat_interleave(2).sin()[:4],
    "chunks": lambda v: torch.cat([c * i for i, c in enumerate(v.chunk(2))]) + v.split(2)[0].sum(),
    "strides": lambda v: torch.as_strided(v.clone(), (2, 2), (2, 1)).sin(),
    "views": lambda v: spd(v).T.reshape(2, 8).movedim(0, 1).unflatten(0, (4, 2)).flatten().sin(),
    "tensordot": lambda v: torch.tensordot(spd(v), spd(v), 2) + torch.kron(v, v).sum(),
    "trace": lambda v: torch.trace(spd(v)),
    "bucketize": lambda v: torch.searchsorted(torch.tensor(UNIT).sort().values.to(v), v) * v,
}


def inplace(v):
    out = torch.zeros(4, 4, dtype=v.dtype)
    out[0] = v
    out[1:, 2] = v[:3].exp()
    out.diagonal().add_(v)
    out[LABELS, LABELS] += v
    out[-1].mul_(2)
    return out.sin()


TABLES = {
    **{f"log_prob {k}": v for k, v in DENSITIES.items()},
    **{f"transform {k}": transform(k) for k in SUPPORTS},
    **{f"layer {k}": v for k, v in LAYERS.items()},
    **{f"algebra {k}": v for k, v in ALGEBRA.items()},
}
#: too little used to be worth a lowering; they run uncompiled, and say so
FALLS_BACK = {
    "bicubic": (
        lambda v: F.interpolate(v[None, None, None], size=(2, 6), mode="bicubic"),
        "upsample_bicubic2d.*interpolate",
    ),
    "cummax": (lambda v: v.cummax(0).values, "cummax.*v.cummax"),
    "svd": (lambda v: torch.linalg.svdvals(spd(v)), "_linalg_svd.*svdvals"),
    "fft": (lambda v: torch.fft.rfft(v).abs(), "_fft_"),
}


#: the tests run once what they compile
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Holder(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)


def both_ways(function, dtype):
    holder = Holder(torch.tensor(V, dtype=dtype))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        captured = capture(lambda: function(holder.values).sum(), [holder], ())
        loss = function(holder.values).sum()
        (gradient,) = torch.autograd.grad(loss, [holder.values])
    finally:
        torch.set_default_dtype(before)
    with jax.enable_x64(dtype == torch.float64):
        given = jax.random.key(0), to_jax(holder.values)
        run = jax.jit(lower(captured)).lower(*given).compile(FAST)
        out = run(*given)
    return [np.asarray(o) for o in out], [loss.detach().numpy(), gradient.numpy()]


@pytest.mark.parametrize("name", TABLES)
def test_program(name):
    ours, torchs = both_ways(TABLES[name], torch.float64)
    for one, other in zip(ours, torchs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["log_prob Normal", "log_prob Gamma", "layer Conv2d"])
def test_program_in_single_precision(name):
    ours, torchs = both_ways(TABLES[name], torch.float32)
    for one, other in zip(ours, torchs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FALLS_BACK)
def test_what_has_no_lowering_is_named_with_its_line(name):
    program, message = FALLS_BACK[name]
    with pytest.raises(
        (CaptureError, LoweringError), match=rf"test_lowering.py:\d+.*{message}|{message}"
    ):
        both_ways(program, torch.float32)
