"""The example's estimators: each unbiased, and their variances in the order of the theory."""

import importlib.util
from pathlib import Path

import pytest
import torch

PATH = Path(__file__).parents[2] / "examples" / "gradient_estimators.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("gradient_estimators", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def places(example):
    best = example.DATA / 2.0, torch.full_like(example.DATA, 0.5).log() / 2.0
    return best, (best[0] + 0.7, best[1] + 0.3)


def test_the_closed_form_is_the_gradient_of_the_bound(example):
    loc, log_sd = (p.clone().requires_grad_() for p in places(example)[1])
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.distributions.Normal(0.0, 1.0).log_prob(nodes).exp() * 18 / 4000
    # the pairs are independent: a bound for each, by quadrature
    z = loc + log_sd.exp() * nodes[:, None]
    normal = torch.distributions.Normal(0.0, 1.0)
    f = normal.log_prob(z) + normal.log_prob(example.DATA - z)
    bound = (weights @ f).sum() + log_sd.sum()
    found = torch.autograd.grad(bound, [loc, log_sd])
    expected = example.exact(loc.detach(), log_sd.detach())
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize(
    "name",
    [
        "score function",
        "score function, baseline",
        "score function, control variate",
        "pathwise",
        "pathwise, sticking the landing",
    ],
)
def test_unbiased(example, name):
    """Ten coordinates, errors in units of their own standard error."""
    loc, log_sd = places(example)[1]
    bias, error, _ = example.measure(example.ESTIMATORS[name], loc, log_sd, repeats=20_000)
    assert ((bias / error) ** 2).sum() < 29.6  # chi square of 10 degrees, .001 level
    assert (error > 0).all()


def test_a_biased_estimator_would_be_found(example):
    """A baseline that counts the draw itself shrinks the gradient by a tenth."""

    def biased(z, loc, log_sd):
        f = (example.log_joint(z) - example.log_q(z, loc, log_sd))[..., None]
        return ((f - f.mean(-2, keepdim=True)) * example.scores(z, loc, log_sd)).mean(-2)

    bias, error, _ = example.measure(biased, *places(example)[1], repeats=20_000)
    assert ((bias / error) ** 2).sum() > 100


def test_order_of_the_variances(example):
    best, far = places(example)
    at_far, at_best = (
        {
            name: example.measure(estimator, *place, repeats=5000)[2]
            for name, estimator in example.ESTIMATORS.items()
        }
        for place in (far, best)
    )
    names = list(at_far)
    score, baseline, variate, path, stick = (at_far[name].mean() for name in names)
    # where q is poor: each gradient of the model, and each number held against, helps
    assert stick < path < 0.5 * min(baseline, variate)
    assert max(baseline, variate) < 0.5 * score
    # where q is the posterior, f is one number: all that its mean is taken from have no noise
    # left, and the score of log q, of mean 0, is all the noise that pathwise gradients have
    score, baseline, variate, path, stick = (at_best[name].mean() for name in names)
    assert max(baseline, variate, stick) < 1e-20
    assert 0.05 < path < score
