"""Estimates of log p(x) against a model whose density is known."""

import math

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo import evaluation


@pytest.fixture(scope="module")
def linear():
    """A LinearVAE with a good but not exact guide, and rows that it drew."""
    torch.manual_seed(0)
    model = zoo.LinearVAE(num_features=5, num_latents=2).double()
    with torch.no_grad():
        w = torch.randn(5, 2, dtype=torch.float64)
        model.decoder[-1].weight.copy_(w)
        model.decoder[-1].bias.copy_(torch.arange(5.0))
        model.likelihood.log_scale.fill_(math.log(0.7))
        covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / model.noise**2)
        gain = covariance @ w.T / model.noise**2
        model.encoder.weight.copy_(gain)
        model.encoder.bias.copy_(-gain @ model.mean)
        # the best factorised guide has the inverse of the precision's diagonal
        model.log_spread.copy_(-0.5 * torch.linalg.inv(covariance).diagonal().log())
    x = model.sample(40)
    model.remember(model.as_rows(x))
    return model, x


def test_bounds_rise_to_the_density(linear):
    model, x = linear
    exact = model.exact_log_prob(x)
    values = [
        evaluation.iwae_bound(model, x, num_particles=k, num_repeats=400).mean[0]
        for k in (1, 2, 5, 20, 100)
    ]
    assert values == sorted(values)
    assert values[-1] < exact.mean() + 1e-3
    # one particle is the ELBO, whose gap is the KL of the guide from the posterior
    _, covariance = model.exact_posterior(x)
    posterior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance)
    spread = torch.diag(model.log_spread.detach().exp() ** 2)
    guide = torch.distributions.MultivariateNormal(torch.zeros(2).double(), spread)
    gap = torch.distributions.kl_divergence(guide, posterior)
    assert exact.mean() - values[0] == pytest.approx(gap.item(), abs=0.03)


def test_importance_sampling_is_exact_within_its_error(linear):
    model, x = linear
    exact = model.exact_log_prob(x)
    found = evaluation.importance_sampling(model, x, num_samples=5000)
    assert ((found.value - exact) / found.error).abs().max() < 5
    assert found.mean[0] == pytest.approx(exact.mean().item(), abs=0.01)
    z = (found.value - exact) / found.error
    assert 0.5 < z.square().mean() < 2.0
    assert found.ess.median() > 1000 and (found.ess <= 5000).all()
    assert torch.allclose(model.log_prob(x), exact, atol=0.1)


def test_prior_and_box_are_poor_proposals(linear):
    model, x = linear
    ess = [
        estimate(model, x, num_samples=2000).ess.mean()
        for estimate in (
            evaluation.importance_sampling,
            evaluation.prior_sampling,
            evaluation.uniform_sampling,
        )
    ]
    assert ess[0] > 2 * ess[1] > 4 * ess[2]
    # in two dimensions they still work
    prior = evaluation.prior_sampling(model, x, num_samples=20_000)
    assert prior.mean[0] == pytest.approx(model.exact_log_prob(x).mean().item(), abs=0.03)


@pytest.mark.slow
def test_annealing_and_its_two_sides(linear):
    model, x = linear
    exact = model.exact_log_prob(x[:20])
    found = evaluation.annealed(model, x[:20], num_particles=256, num_steps=20)
    value, error = found.mean
    assert error < 0.03
    assert value == pytest.approx(exact.mean().item(), abs=4 * error)
    both = evaluation.sandwich(model, 30, num_particles=256, num_steps=40)
    assert abs(both.gap) < 0.03
    coarse = evaluation.sandwich(model, 30, num_particles=1, num_steps=3)
    assert coarse.gap > 10 * abs(both.gap)


def test_use_of_latents(linear):
    model, x = linear
    use = evaluation.latent_use(model, x)
    loc, scale = model.encode(x, full=True)
    kl = 0.5 * (loc**2 + scale**2 - 1) - scale.log()
    assert torch.allclose(use.kl, kl.mean(0))
    assert use.active.all() and not use.collapsed
    other = zoo.LinearVAE(5, 2).double()
    with torch.no_grad():
        for parameter in other.encoder.parameters():
            parameter.zero_()
    other.remember(other.as_rows(x))
    idle = evaluation.latent_use(other, x)
    assert idle.collapsed and not idle.active.any()
    assert torch.allclose(idle.kl, torch.zeros(2).double(), atol=1e-12)


#: models whose log_prob is exact, real latents first
EXACT = {
    "factor analysis": lambda: zoo.FactorAnalysis(num_features=3, num_factors=1),
    "probabilistic PCA": lambda: zoo.ProbabilisticPCA(num_features=3, num_factors=1),
    "Gaussian mixture": lambda: zoo.GaussianMixture(2, 3),
    "Gaussian scale mixture": lambda: zoo.GaussianScaleMixture(2, 3),
    "Bernoulli mixture": lambda: zoo.BernoulliMixture(2, 3),
}


def fitted(name):
    torch.manual_seed(0)
    x = torch.randn(30, 1) @ torch.randn(1, 3) + 0.5 * torch.randn(30, 3)
    x = (x > 0).float() if name == "Bernoulli mixture" else x
    model = EXACT[name]()
    zoo.fit(model, x, zoo.EM(steps=10), progress=False)
    return model, x


#: one with real latents and one with discrete ones, every time
QUICK = {"factor analysis", "Bernoulli mixture"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in EXACT]
)
def test_every_model_of_the_zoo_can_be_evaluated(name):
    model, x = fitted(name)
    exact = model.log_prob(x).double()
    found = evaluation.importance_sampling(model, x, num_samples=200)
    assert torch.allclose(found.value, exact, atol=1e-3)  # the guide is the exact posterior
    assert (found.ess > 199).all()
    bound = evaluation.iwae_bound(model, x, num_particles=1)
    assert torch.allclose(bound.value.double(), exact, atol=1e-3)
    for estimate in (evaluation.prior_sampling, evaluation.uniform_sampling):
        rough = estimate(model, x, num_samples=20_000)
        assert (rough.ess < 19_000).any()
        z = (rough.value - exact)[rough.ess > 100] / (rough.error[rough.ess > 100] + 1e-3)
        assert len(z) > 10 and z.abs().max() < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXACT)[:2])
def test_models_with_real_latents_can_be_annealed(name):
    model, x = fitted(name)
    value, error = evaluation.annealed(model, x[:15], num_particles=64, num_steps=10).mean
    assert error < 0.1
    assert value == pytest.approx(model.log_prob(x[:15]).double().mean().item(), abs=4 * error)
    both = evaluation.sandwich(model, 15, num_particles=128, num_steps=20)
    assert -0.1 < both.gap < 0.3  # the two sides meet, but for the noise of both


def test_annealing_says_what_to_do_with_states():
    model, x = fitted("Gaussian mixture")
    with pytest.raises(zoo.QueryError, match="log_prob sums over them"):
        evaluation.annealed(model, x)
    with pytest.raises(zoo.QueryError, match="states"):
        evaluation.latent_use(model, x)


def test_models_without_local_latents_are_refused():
    x = torch.linspace(-1, 1, 20)[:, None]
    model = zoo.LinearRegression(num_features=1)
    zoo.fit(model, (x, x[:, 0]), zoo.SVI(steps=20), progress=False)
    with pytest.raises(zoo.QueryError, match="latent"):
        evaluation.annealed(model, x, x[:, 0])
    with pytest.raises(zoo.QueryError, match="latents of single rows"):
        evaluation.latent_use(model, x, x[:, 0])
