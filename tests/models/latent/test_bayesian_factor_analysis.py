"""Bayesian factor analysis: the bound against draws, relevance against the truth, NaN."""

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.testing import CLAUSES, check_model


def data(n=200, num_features=6, num_factors=2, seed=0, noise=0.4):
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(num_features, num_factors, generator=generator).double()
    z = torch.randn(n, num_factors, generator=generator).double()
    more = torch.randn(n, num_features, generator=generator).double()
    return 3.0 + z @ loadings.mT + noise * more


def with_holes(x):
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < 0.15
    return torch.where(holes, torch.nan, x)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("noise", ["diagonal", "isotropic"])
def test_contract(noise, missing):
    def make():
        return zoo.BayesianFactorAnalysis(4, 2, noise, missing, prior_shape=1.0, prior_rate=1.0)

    x = data(40, 4, 1)
    assert check_model(make, lambda: with_holes(x) if missing else x) == tuple(CLAUSES)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("noise", ["diagonal", "isotropic"])
def test_the_objective_is_the_bound_of_model_and_guide(noise, missing):
    """Monte Carlo with the Pyro programs, which know nothing of the closed forms."""
    x = with_holes(data(30, 4, 2)) if missing else data(30, 4, 2)
    model = zoo.BayesianFactorAnalysis(4, 3, noise, missing, prior_shape=1.0, prior_rate=1.0)
    fit = zoo.fit(model.double(), x, zoo.CAVI(steps=7), progress=False)
    found = zoo.evidence(fit, "elbo", num_samples=8000)
    assert abs(found.value - fit.objective) < 4 * found.error < 0.5
    rises = torch.as_tensor(fit.history["objective"][0]).diff()
    assert (rises > 0).all()


def test_relevance_finds_the_number_of_factors():
    for noise in ("diagonal", "isotropic"):
        model = zoo.BayesianFactorAnalysis(10, 6, noise).double()
        zoo.fit(model, data(400, 10, 3), zoo.CAVI(steps=300), progress=False)
        assert model.num_relevant() == 3
        sd = model.noise.sqrt()
        torch.testing.assert_close(sd, torch.full_like(sd, 0.4), atol=0.08, rtol=0)


def test_many_rows_give_the_maximum_likelihood_covariance():
    x = data(5000)
    model = zoo.BayesianFactorAnalysis(6, 2).double()
    zoo.fit(model, x, zoo.CAVI(steps=200), progress=False)
    likeliest = zoo.FactorAnalysis(6, 2).double()
    zoo.fit(likeliest, x, progress=False)
    ours = model.loadings @ model.loadings.mT + model.noise.diag()
    theirs = likeliest.distribution().covariance_matrix.detach()
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0.01)
    overlap = torch.linalg.lstsq(model.encode(x), likeliest.encode(x).detach()).residuals
    assert overlap.sum() < 0.01 * 5000


def test_stochastic_updates_arrive_near():
    x = data(600)
    fits = []
    for solver in (zoo.CAVI(steps=300), zoo.CAVI(stochastic=True, steps=40)):
        model = zoo.BayesianFactorAnalysis(6, 2).double()
        fits.append(zoo.fit(model, x, solver, progress=False))
    assert fits[1].objective / 600 == pytest.approx(fits[0].objective / 600, abs=0.02)


def test_posterior_in_arviz_has_named_dimensions():
    fit = zoo.fit(
        zoo.BayesianFactorAnalysis(6, 2), data(20).float(), zoo.CAVI(steps=5), progress=False
    )
    posterior = fit.to_arviz(num_samples=10).posterior
    assert posterior["loadings"].dims == ("chain", "draw", "feature", "factor")
    assert posterior["relevance"].dims == ("chain", "draw", "factor")


def test_refuses():
    with pytest.raises(ValueError, match="noise: got 'full'"):
        zoo.BayesianFactorAnalysis(4, 2, "full")
    with pytest.raises(zoo.DataError, match=r"x: got shape \(200, 6\), expected \(200, 4\)"):
        zoo.fit(zoo.BayesianFactorAnalysis(4, 2), data(), progress=False)
