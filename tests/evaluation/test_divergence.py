"""KL divergences: closed forms, and draws against them."""

import pytest
import torch
import torch.distributions as dist

import ppl_zoo as zoo


def factors(seed):
    torch.manual_seed(seed)
    x = torch.randn(200, 2) @ torch.randn(2, 6) + torch.randn(200, 6)
    return zoo.fit(zoo.FactorAnalysis(6, 2).double(), x, zoo.EM(steps=5), progress=False).model


def gaussian(model):
    covariance = model.loadings @ model.loadings.mT + model.noise.diag()
    return dist.MultivariateNormal(model.mean, covariance)


class Twin(zoo.Model):
    """A model that is a normal distribution but does not say so."""

    queries = {"log_prob": "exact", "sample": "exact", "encode": "none"}

    def __init__(self, loc, scale_tril):
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("scale_tril", scale_tril)

    def log_prob(self, x):
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril).log_prob(x)

    def sample(self, num_samples, given=None):
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril).sample((num_samples,))


def test_models_that_are_gaussian_have_a_closed_form():
    p, q = factors(0), factors(1)
    found = zoo.kl(p, q)
    assert found.exact and found.error == 0
    torch.testing.assert_close(found.value, dist.kl_divergence(gaussian(p), gaussian(q)).detach())
    assert zoo.kl(p, p).value.abs() < 1e-9


def test_draws_agree_with_the_closed_form():
    p, q = factors(0), factors(1)
    exact = zoo.kl(p, q).value
    twin = Twin(q.mean.detach(), gaussian(q).scale_tril.detach())
    found = zoo.kl(p, twin, num_samples=20_000)
    assert not found.exact
    assert 0 < found.error < 0.05 * exact
    assert (found.value - exact).abs() < 4 * found.error


def test_two_mixtures():
    """By quadrature in one dimension."""
    means = ([-2.0, 2.0], [-1.0, 3.0])
    mixtures = []
    for mean in means:
        x = torch.cat([m + 0.7 * torch.randn(300, 1) for m in mean]).double()
        mixtures.append(zoo.fit(zoo.GaussianMixture(2, 1).double(), x, progress=False).model)
    p, q = mixtures
    grid = torch.linspace(-8, 10, 20_001, dtype=torch.float64)[:, None]
    log_p, log_q = p.log_prob(grid).detach(), q.log_prob(grid).detach()
    exact = (log_p.exp() * (log_p - log_q)).sum() * 18 / 20_000
    found = zoo.kl(p, q, num_samples=20_000)
    assert (found.value - exact).abs() < 4 * found.error < 0.1


def test_distributions_keep_their_batch():
    found = zoo.kl(dist.Normal(torch.zeros(3), 1.0), dist.Normal(torch.arange(3.0), 1.0))
    assert found.exact
    torch.testing.assert_close(found.value, torch.tensor([0.0, 0.5, 2.0]))
    found = zoo.kl(dist.StudentT(5.0), dist.Normal(0.0, 1.0), num_samples=50_000)
    grid = torch.linspace(-200, 200, 400_001, dtype=torch.float64)
    log_p = dist.StudentT(5.0).log_prob(grid)
    exact = (log_p.exp() * (log_p - dist.Normal(0.0, 1.0).log_prob(grid))).sum() / 1000
    assert not found.exact
    assert (found.value - exact).abs() < 4 * found.error < 0.1


def test_without_support_the_divergence_is_infinite():
    uniform = dist.Uniform(0.0, 1.0, validate_args=False)
    assert zoo.kl(dist.StudentT(5.0), uniform).value == torch.inf


def test_refuses():
    with pytest.raises(zoo.DataError, match="p: got 3, expected a distribution or a zoo.Model"):
        zoo.kl(3, dist.Normal(0.0, 1.0))
    with pytest.raises(zoo.DataError, match="densities of the same things"):
        zoo.kl(zoo.GaussianMixture(2, 3), zoo.GaussianMixture(2, 4))
