"""Offsets and units: shifting and scaling columns shifts and scales the answer of every model.

The oracle is the model itself at plain columns, of mean about 0 and sd about 1.
"""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ppl_zoo as zoo
from ppl_zoo.models.catalogue import ZOO

F = 2


def rows():
    """Two clusters of correlated rows."""
    torch.manual_seed(0)
    x = torch.randn(60, F, dtype=torch.float64) @ torch.tensor([[1.0, 0.4], [0.0, 0.8]]).double()
    x[:30] += 4.0
    return x


X = rows()
LABELS = (torch.arange(60) < 30).long()
torch.manual_seed(1)
Y = 1.0 + X @ torch.tensor([0.5, -0.3]).double() + 0.5 * torch.randn(60).double()
NOISY = ((X[:, 0] > 2.0) ^ (torch.rand(60) < 0.2)).double()

EM, CAVI = zoo.EM(steps=30), zoo.CAVI(steps=30)
#: few steps: rounding grows from step to step of a net
STEPS = zoo.SVI(steps=3, batch_size=20, compile=False)


def density(model, x):
    """Log density of each row."""
    torch.manual_seed(0)
    return model.log_prob(x).detach()


def mixture(model, x, shift, scale):
    """Density, weights, means in units of x, and responsibilities."""
    responsibilities = model.encode(x)
    out = [density(model, x), model.weights, responsibilities, model.predict(x).double()]
    return [*out, (model.means - shift) / scale]


def scale_mixture(model, x, shift, scale):
    sd = model.covariance.detach() / torch.outer(scale, scale)
    return [density(model, x), model.encode(x).detach(), (model.mean.detach() - shift) / scale, sd]


def factors(model, x, shift, scale):
    """Density, parameters in units of x, and the factors of the rows."""
    mean, loadings = (model.mean - shift) / scale, model.loadings / scale[:, None]
    found = (density(model, x), mean, loadings, model.noise / scale**2, model.encode(x))
    return [t.detach() for t in found]


def bound(model, x, shift, scale):
    torch.manual_seed(0)
    return [model.log_prob(x, num_samples=20).detach(), model.encode(x).detach()]


def drawn(model, x, shift, scale):
    """Density, and rows that are drawn."""
    torch.manual_seed(2)
    return [density(model, x), (model.sample(10).detach() - shift) / scale]


# model, data, solver, answer, whether each column may have a unit of its own
CASES = {
    **{
        f"gaussian-mixture {c}": (lambda c=c: zoo.GaussianMixture(2, F, c), EM, mixture, True)
        for c in ("full", "tied", "diagonal")
    },
    "gaussian-mixture spherical": (
        lambda: zoo.GaussianMixture(2, F, "spherical"),
        EM,
        mixture,
        False,
    ),
    "gaussian-mixture missing": (
        lambda: zoo.GaussianMixture(2, F, missing=True),
        EM,
        mixture,
        True,
    ),
    **{
        f"bayesian-gaussian-mixture {c}": (
            lambda c=c: zoo.BayesianGaussianMixture(2, F, c),
            CAVI,
            mixture,
            c != "spherical",
        )
        for c in ("full", "tied", "diagonal", "spherical")
    },
    "gaussian-scale-mixture": (
        lambda: zoo.GaussianScaleMixture(2, F),
        EM,
        scale_mixture,
        True,
    ),
    "factor-analysis": (lambda: zoo.FactorAnalysis(F, 1), EM, factors, True),
    "probabilistic-pca": (lambda: zoo.ProbabilisticPCA(F, 1), EM, factors, False),
    "bayesian-factor-analysis": (lambda: zoo.BayesianFactorAnalysis(F, 1), CAVI, factors, True),
    "bayesian-factor-analysis isotropic": (
        lambda: zoo.BayesianFactorAnalysis(F, 1, "isotropic"),
        CAVI,
        factors,
        False,
    ),
    "vae": (lambda: zoo.VAE(F, 1, [5], "gaussian-per-pixel"), STEPS, bound, True),
    "vae one sd": (lambda: zoo.VAE(F, 1, [5], "gaussian"), STEPS, bound, False),
    "hierarchical-vae": (
        lambda: zoo.HierarchicalVAE(F, [2, 1], [[4], [3]], "gaussian"),
        STEPS,
        bound,
        False,
    ),
    "linear-vae": (lambda: zoo.LinearVAE(F, 1), STEPS, bound, False),
    "rnade": (lambda: zoo.RNADE(F, 2, 5), STEPS, drawn, True),
    "made": (lambda: zoo.MADE(F, [5], output="normal"), STEPS, drawn, True),
    "deep-nade": (lambda: zoo.DeepNADE(F, [5], output="normal"), STEPS, drawn, True),
    "recurrent-ar": (
        lambda: zoo.RecurrentAR(F, num_hidden=4, output="normal"),
        STEPS,
        drawn,
        True,
    ),
    "transformer-ar": (
        lambda: zoo.TransformerAR(F, 8, num_heads=2, num_layers=1, output="normal"),
        STEPS,
        drawn,
        True,
    ),
    "order-ensemble": (
        lambda: zoo.OrderEnsemble(
            "RNADE", [{"num_features": F, "num_hidden": 4, "order": o} for o in ([0, 1], [1, 0])]
        ),
        STEPS,
        drawn,
        True,
    ),
}

#: models without a density of real columns that may be shifted, and why
APART = {
    **dict.fromkeys(
        ("bayes-net", "independent-bernoulli", "categorical", "chain-rule", "markov-chain")
        + ("bernoulli-mixture", "ising", "fvsbn", "nade", "pixelcnn"),
        "codes",
    ),
    **dict.fromkeys(
        ("epll", "deep-image-prior", "mini-dead-leaves", "independent-pixels")
        + ("multivariate-gaussian", "pca-laplace", "ica", "mixture-of-scale-mixtures"),
        "grey values, of patches without their mean",
    ),
    "eight-schools": "priors in points of the test",
    "normal-gamma": "a prior in units of x, which is given",
    "naive-bayes": "below, with its labels",
    "logistic-regression": "below: ridge is in units of x",
    **dict.fromkeys(
        ("linear-regression", "bayesian-linear-regression", "bayesian-logistic-regression"),
        "below, with their responses",
    ),
}


def test_every_model_of_the_zoo_is_here():
    here = {name.split()[0] for name in CASES}
    assert here | set(APART) == {card.name for card in ZOO} and not here & set(APART)


def fitted(make, data, solver):
    torch.manual_seed(3)
    model = make()
    zoo.fit(model, data, solver, device="cpu", progress=False)
    assert model.dtype == torch.float64
    return model


@functools.cache
def plain(name):
    """Answer at plain columns."""
    zero, one = torch.zeros(F).double(), torch.ones(F).double()
    make, solver, answer, _ = CASES[name]
    return answer(fitted(make, X, solver), X, zero, one)


#: columns whose values keep six digits or more of their sd
offsets = st.lists(st.sampled_from([0.0, -3.0, 1e4, -1e6, 1e8]), min_size=F, max_size=F)
units = st.lists(st.floats(-25.0, 25.0).map(lambda e: 10.0**e), min_size=F, max_size=F)
quickly = settings(max_examples=3, deadline=None, derandomize=True)


@pytest.mark.parametrize("name", CASES)
@given(offset=offsets, unit=units)
@quickly
def test_shifting_and_scaling_a_column_shifts_and_scales_the_answer(name, offset, unit):
    make, solver, answer, apart = CASES[name]
    scale = torch.tensor(unit if apart else unit[:1] * F, dtype=torch.float64)
    shift = torch.tensor(offset, dtype=torch.float64) * scale
    x = shift + scale * X
    found = answer(fitted(make, x, solver), x, shift, scale)
    found[0] = found[0] + scale.log().sum()
    tol = 1e-9 + 1e-15 * max(map(abs, offset))  # twice to ten times what was seen
    for here, there in zip(found, plain(name), strict=True):
        torch.testing.assert_close(here, there, rtol=tol, atol=tol)


REGRESSIONS = {
    "linear closed form": (lambda: zoo.LinearRegression(F), Y),
    "bayesian-linear-regression": (lambda: zoo.BayesianLinearRegression(F), Y),
    "bayesian-linear-regression shared": (lambda: zoo.BayesianLinearRegression(F, "shared"), Y),
    "bayesian-logistic-regression": (lambda: zoo.BayesianLogisticRegression(F), NOISY),
}


@pytest.mark.parametrize("name", REGRESSIONS)
@given(offset=offsets, unit=units, response=st.tuples(offsets, units))
@quickly
def test_regressions_depend_on_no_unit(name, offset, unit, response):
    make, y = REGRESSIONS[name]
    real = y is Y

    def coefficients(x, y):
        model = make()
        if name == "linear closed form":
            return model.closed_form(x, y).mean.roll(-1)
        return fitted(lambda: model, (x, y), CAVI).coefficients

    scale = torch.tensor(unit, dtype=torch.float64)
    shift = torch.tensor(offset, dtype=torch.float64) * scale
    level, size = (response[0][0] * response[1][0], response[1][0]) if real else (0.0, 1.0)
    found = coefficients(shift + scale * X, level + size * y)
    weights = found[:-1] * scale / size
    intercept = (found[-1] + (found[:-1] * shift).sum() - level) / size
    torch.testing.assert_close(
        torch.cat([weights, intercept[None]]), coefficients(X, y), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("bayesian", [False, True])
@given(offset=offsets, unit=units)
@quickly
def test_naive_bayes_depends_on_no_unit(bayesian, offset, unit):
    scale = torch.tensor(unit, dtype=torch.float64)
    shift = torch.tensor(offset, dtype=torch.float64) * scale

    def answer(x):
        make = lambda: zoo.NaiveBayes(F, kind="gaussian", bayesian=bayesian)  # noqa: E731
        model = fitted(make, (x, LABELS), CAVI if bayesian else EM)
        return model.predict_proba(x), density(model, x)

    found, there = answer(shift + scale * X), answer(X)
    torch.testing.assert_close(found[0], there[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1] + scale.log().sum(), there[1], rtol=1e-5, atol=1e-5)


@given(offset=offsets, unit=units)
@quickly
def test_maximum_likelihood_of_a_logistic_regression_depends_on_no_unit(offset, unit):
    scale = torch.tensor(unit, dtype=torch.float64)
    shift = torch.tensor(offset, dtype=torch.float64) * scale

    def answer(x):
        make = lambda: zoo.LogisticRegression(F, prior_scale=math.inf)  # noqa: E731
        return fitted(make, (x, NOISY.long()), EM).predict_proba(x)

    torch.testing.assert_close(answer(shift + scale * X), answer(X), rtol=1e-4, atol=1e-4)
