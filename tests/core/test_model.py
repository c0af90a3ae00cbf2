"""The core carries every kind of model that is coming, each against what is known of it."""

import itertools
import math

import pytest
import torch
from tiny_models import KINDS, Chain, Coins, Factor, Groups, Mean, Switch, binary, line, real

import ppl_zoo as zoo
from ppl_zoo.core import tracing


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    make_model, make_data = KINDS[kind]
    assert zoo.testing.check_model(make_model, make_data) == tuple(zoo.testing.CLAUSES)


def testno_latents_maximum_likelihood():
    x = binary(400, 3)
    fit = zoo.fit(Chain(), x, progress=False)
    assert fit.stopped == "converged"
    # the maximum has the empirical frequencies: of x_1, and of x_2 after x_1 = 0 and 1
    model = fit.model
    assert model.bias[0].sigmoid().item() == pytest.approx(x[:, 0].mean().item(), abs=1e-3)
    for before in (0.0, 1.0):
        rate = x[x[:, 0] == before, 1].mean().item()
        fitted = (model.bias[1] + model.weight[1] * before).sigmoid().item()
        assert fitted == pytest.approx(rate, abs=2e-3)
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    assert model.log_prob(states).exp().sum().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_local_discrete_em_and_svi_agree():
    x = binary(300)
    em = zoo.fit(Coins(), x, zoo.EM(tol=1e-9), progress=False)
    svi = zoo.fit(Coins(), x, zoo.SVI(), progress=False)
    assert svi.solution.summed_out == ("z",)
    assert svi.model.log_prob(x).sum().item() == pytest.approx(em.objective, abs=0.05)
    # the guide is the exact posterior, so that draws of z have the responsibilities' frequencies
    draws = em.posterior(4000)["z"][0]
    frequency = torch.nn.functional.one_hot(draws.long(), 2).double().mean(0)
    assert torch.allclose(frequency, em.model.encode(x).double(), atol=0.04)


@pytest.mark.slow
def test_amortised_guide_bounds_the_density():
    x = real(200)
    fit = zoo.fit(Factor(), x, zoo.SVI(num_particles=4), progress=False)
    exact = fit.model.exact_log_prob(x)
    bound = fit.model.log_prob(x, num_samples=4000)
    assert (bound - exact).abs().max().item() < 0.02
    assert fit.objective < exact.sum().item() + 0.5
    assert exact.sum().item() - fit.objective < 1.0  # the family holds the exact posterior
    precision = 1 + fit.model.loading.detach().square().sum() / fit.model.noise.detach() ** 2
    mean = (x @ fit.model.loading.detach()) / fit.model.noise.detach() ** 2 / precision
    assert torch.allclose(fit.model.encode(x), mean, atol=0.1)


def test_global_posterior_is_the_closed_form():
    x = line()
    fit = zoo.fit(Mean(), x, progress=False)
    draws = fit.posterior(8000)["mu"].double()
    mean, sd = (t.item() for t in fit.model.posterior(x))
    assert draws.mean().item() == pytest.approx(mean, abs=0.1 * sd)
    assert draws.std().item() == pytest.approx(sd, rel=0.1)
    assert math.isnan(fit.khat()[0])  # constant weights: it is the posterior
    predictive = torch.distributions.Normal(mean, (sd**2 + fit.model.noise**2) ** 0.5)
    ours = fit.model.log_prob(x, num_samples=8000)
    # far rows magnify what the mean is off by
    near = (x - mean).abs() < 1.0
    assert torch.allclose(ours[near], predictive.log_prob(x)[near], atol=0.03)
    new = fit.model.sample(20_000)
    assert new.std().item() == pytest.approx(predictive.scale.item(), rel=0.03)


def test_global_and_local_means():
    x = line(10)
    fit = zoo.fit(Groups(), x, zoo.SVI(restarts=2), progress=False)
    mu, z = Groups.posterior_mean(x)  # mean field has the right means for a Gaussian
    draws = fit.posterior(8000)
    assert draws["z"].shape == (2, 8000, 10)
    assert draws["mu"].mean().item() == pytest.approx(mu.item(), abs=0.06)
    assert torch.allclose(draws["z"].mean((0, 1)), z, atol=0.08)


def test_discrete_below_global_is_summed_out_exactly():
    x = line()
    fit = zoo.fit(Switch(), x, zoo.SVI(steps=200), progress=False)
    draws = fit.draws(5)[0]
    assert "z" not in draws.values
    for gap, rows, joint in zip(
        draws.values["gap"], draws.log_joint_rows, draws.log_joint, strict=True
    ):
        exact = fit.model.row_density(gap, x)
        assert torch.allclose(rows, exact, atol=1e-4)
        prior = torch.distributions.LogNormal(0.0, 1.0).log_prob(gap)
        assert joint.item() == pytest.approx((exact.sum() + prior).item(), abs=1e-3)


def test_draws_of_a_program_that_does_not_broadcast_are_kept_apart():
    import pyro
    import pyro.distributions as dist

    class Stubborn(zoo.Model):
        def model(self, x):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with self.observations("observations", x):
                # indexes the first dimension, where draws would stand: silently wrong
                pyro.sample("x", dist.Normal(w[0] + 0 * x.sum(), 1.0), obs=x)

    x = line(6)
    fit = zoo.fit(Stubborn(), x, zoo.SVI(steps=100), progress=False)
    draws = fit.draws(3)[0]
    for w, joint in zip(draws.values["w"], draws.log_joint, strict=True):
        normal = torch.distributions.Normal(w[0], 1.0)
        exact = normal.log_prob(x).sum() + torch.distributions.Normal(0, 1).log_prob(w).sum()
        assert joint.item() == pytest.approx(exact.item(), abs=1e-3)


def test_draws_in_parts_are_the_same_shape():
    x = line(10)
    fit = zoo.fit(Groups(), x, zoo.SVI(steps=50), progress=False)
    data = fit.data()
    whole = tracing.draw(fit.model, fit.guide, data, 50, "groups")
    parts = tracing.draw(fit.model, fit.guide, data, 50, "groups", max_elements=200)
    assert whole.values["z"].shape == parts.values["z"].shape == (50, 10)
    assert whole.log_joint_rows.shape == parts.log_joint_rows.shape == (50, 10)
