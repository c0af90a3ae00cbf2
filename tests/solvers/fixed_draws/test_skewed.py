"""Skewed guides: the scales of hierarchies, modes, and what is kept on the way to disk."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.core.khat import effective_share
from ppl_zoo.solvers.fixed_draws.laplace import NormalApproximation
from ppl_zoo.solvers.fixed_draws.skewed import skew, weigh
from ppl_zoo.solvers.guides import AutoSkewedNormal


def funnel(z):
    """Energy and gradient of ``v ~ N(0, 1)``, ``x_i ~ N(0, exp(v / 2))``, four of them."""
    v, x = z[:, :1], z[:, 1:]
    precision = np.exp(-v)
    value = 0.5 * v[:, 0] ** 2 + 0.5 * (x**2 * precision + v).sum(1)
    by_v = v[:, 0] + 0.5 * (1 - x**2 * precision).sum(1)
    return value, np.concatenate([by_v[:, None], x * precision], 1)


def test_a_funnel_is_followed():
    """Neal's funnel of a scale by 1: its moments in closed form, where a normal has none right."""
    normal = NormalApproximation(np.zeros(5), np.eye(5) * 0.7, np.nan)
    density, _ = skew(funnel, normal, 512, 4096, seed=0)
    assert density.num_directions == 1
    found = weigh(funnel, density, 4096, seed=9)
    assert effective_share(found.log_weights) > 0.8
    assert found.log_evidence == pytest.approx(2.5 * math.log(2 * math.pi), abs=0.03)
    draws = found.draws
    assert draws[:, 0].mean().item() == pytest.approx(0.0, abs=0.1)
    assert draws[:, 0].std().item() == pytest.approx(1.0, rel=0.1)
    assert draws[:, 1:].std().item() == pytest.approx(math.exp(0.25), rel=0.1)


def skewed_scale(y):
    """Three groups: the posterior of their scale is far from normal."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(3.0))
    with pyro.plate("groups", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


Y = torch.tensor([-1.0, 0.5, 2.5])


def marginal_moments():
    """Mean and sd of tau, by quadrature: the groups and their mean are integrated out exactly."""
    tau = torch.linspace(1e-4, 15.0, 40_000).double()
    y, variance = Y.double(), 1 + tau.square()
    cov = variance[:, None, None] * torch.eye(3).double() + 25.0
    log_p = dist.MultivariateNormal(torch.zeros(3).double(), cov).log_prob(y)
    weight = (log_p - 0.5 * (tau / 3.0).square()).softmax(0)
    mean = weight @ tau
    return mean.item(), (weight @ (tau - mean).square()).sqrt().item()


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2, 3, 4))]
)
def test_scales_of_hierarchies_by_default(seed, tmp_path):
    fit = zoo.fit(skewed_scale, Y, seed=seed, progress=False)
    assert isinstance(fit.guide, AutoSkewedNormal)
    assert fit.check().passed, str(fit.check())
    mean, sd = marginal_moments()
    draws = fit.posterior(4000)
    assert draws["tau"].mean().item() == pytest.approx(mean, abs=0.1 * sd)
    assert draws["tau"].std().item() == pytest.approx(sd, rel=0.1)
    again = zoo.load(fit.save(tmp_path / "run"), model=skewed_scale)
    assert torch.equal(again.posterior(20)["theta"], fit.posterior(20)["theta"])
    onward = zoo.fit(skewed_scale, Y, resume=again, progress=False)
    assert onward.objective == fit.objective
    assert torch.equal(onward.posterior(20)["theta"], fit.posterior(20)["theta"])


def surgical(r, n):
    """Deaths of infants in cardiac surgery in twelve hospitals, as Stan writes it: centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1000.0))
    variance = pyro.sample("variance", dist.InverseGamma(1e-3, 1e-3))
    sigma = pyro.deterministic("sigma", variance.sqrt())
    with pyro.plate("hospitals", len(r)):
        b = pyro.sample("b", dist.Normal(mu, sigma))
        pyro.sample("r", dist.Binomial(n, logits=b), obs=r)


@pytest.mark.slow
def test_hospitals():
    """Was passed with the sd of the scale 38 % too small; 20,000 draws of NUTS, non-centred."""
    deaths = torch.tensor([0.0, 18, 8, 46, 8, 13, 9, 31, 14, 8, 29, 24])
    operations = torch.tensor([47.0, 148, 119, 810, 211, 196, 148, 215, 207, 97, 256, 360])
    fit = zoo.fit(surgical, (deaths, operations), progress=False)
    draws, check = fit.posterior(4000), fit.check()
    assert check.passed and check.share[0] > 0.7, str(check)
    for name, (mean, sd) in {"mu": (-2.554, 0.155), "sigma": (0.403, 0.159)}.items():
        assert draws[name].mean().item() == pytest.approx(mean, abs=0.1 * sd)
        assert draws[name].std().item() == pytest.approx(sd, rel=0.1)


def test_restarts_have_guides_of_one_shape():
    x = 3.0 + torch.randn(20)

    def signs(x):
        a, b = (pyro.sample(name, dist.Normal(0.0, 3.0)) for name in "ab")
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(a.abs() + 0.0 * b, 1.0), obs=x)

    fit = zoo.fit(signs, x, zoo.SVI(restarts=2), progress=False)
    draws = fit.posterior(2000)["a"]
    assert draws.shape[0] == 2
    assert ((draws > 0).double().mean(1) - 0.5).abs().max() < 0.1


def test_a_guide_that_was_asked_for_stays():
    fit = zoo.fit(skewed_scale, Y, zoo.SVI(guide="non-centred"), progress=False)
    assert not isinstance(fit.guide, AutoSkewedNormal)
