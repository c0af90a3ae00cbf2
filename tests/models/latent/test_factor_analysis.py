"""Factor models: scikit-learn, the closed form and the joint normal distribution as oracles."""

import numpy as np
import pytest
import torch
from sklearn import decomposition

import ppl_zoo as zoo
from ppl_zoo.testing import CLAUSES, check_model


def data(n=400, num_features=6, num_factors=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(num_features, num_factors, generator=generator).double() * 2.0
    sd = torch.linspace(0.3, 1.5, num_features).double()
    z = torch.randn(n, num_factors, generator=generator).double()
    noise = torch.randn(n, num_features, generator=generator).double()
    return 5.0 + z @ loadings.mT + sd * noise


def with_holes(x, share=0.2):
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < share
    return torch.where(holes, torch.nan, x)


@pytest.mark.parametrize(
    ("make_model", "make_data"),
    [
        (lambda: zoo.FactorAnalysis(6, 2), lambda: data(60)),
        (lambda: zoo.FactorAnalysis(6, 2, missing=True), lambda: with_holes(data(60))),
        (lambda: zoo.ProbabilisticPCA(6, 2), lambda: data(60)),
        (lambda: zoo.ProbabilisticPCA(6, 2, missing=True), lambda: with_holes(data(60))),
    ],
    ids=["factor analysis", "with missing values", "PCA", "PCA with missing values"],
)
def test_contract(make_model, make_data):
    assert check_model(make_model, make_data) == tuple(CLAUSES)


@pytest.mark.parametrize("init", ["principal", "random"])
def test_factor_analysis_reaches_the_likelihood_of_scikit_learn(init):
    x = data()
    model = zoo.FactorAnalysis(6, 2, init=init).double()
    fit = zoo.fit(model, x, zoo.EM(steps=5000, tol=1e-12), progress=False)
    theirs = decomposition.FactorAnalysis(2, tol=1e-12, max_iter=10_000, svd_method="lapack")
    theirs.fit(x.numpy())
    assert fit.objective / len(x) == pytest.approx(theirs.score(x.numpy()), abs=1e-7)
    np.testing.assert_allclose(model.noise.detach(), theirs.noise_variance_, rtol=1e-3)
    np.testing.assert_allclose(model.log_prob(x).detach(), theirs.score_samples(x), atol=1e-3)


@pytest.mark.parametrize("init", ["principal", "random"])
def test_em_of_pca_reaches_the_closed_form_and_scikit_learn(init):
    x = data()
    model = zoo.ProbabilisticPCA(6, 2, init=init).double()
    fit = zoo.fit(model, x, zoo.EM(steps=5000, tol=1e-13), progress=False)
    theirs = decomposition.PCA(2).fit(x.numpy())
    exact = model.closed_form(x)
    # scikit-learn divides by n - 1: its score is that of a covariance larger by n / (n - 1)
    shrunk = zoo.ProbabilisticPCA(6, 2).double()
    wide = exact._replace(
        loadings=exact.loadings * (400 / 399) ** 0.5, noise=exact.noise * 400 / 399
    )
    shrunk.load_state_dict(
        shrunk.state_dict()
        | {"loc": wide.mean, "weight": wide.loadings, "log_noise": wide.noise.log()[None]}
    )
    assert shrunk.log_prob(x).mean().item() == pytest.approx(theirs.score(x.numpy()), abs=1e-9)
    assert fit.objective / 400 >= theirs.score(x.numpy())
    np.testing.assert_allclose(
        model.loadings.detach() @ model.loadings.detach().mT,
        exact.loadings @ exact.loadings.mT,
        atol=1e-4,
    )
    np.testing.assert_allclose(model.noise.detach(), exact.noise, rtol=1e-5)
    # canonical factors are the principal axes themselves
    cosine = np.abs((theirs.components_ * model.loadings.detach().numpy().T).sum(1))
    np.testing.assert_allclose(cosine, model.loadings.detach().norm(dim=0), rtol=1e-4)


def joint(model):
    loadings, noise = model.loadings.detach(), model.noise.detach()
    return loadings @ loadings.mT + noise.diag()


def test_density_is_that_of_the_joint_normal_distribution_and_of_its_margins():
    x = data(50)
    model = zoo.FactorAnalysis(6, 2, missing=True).double()
    zoo.fit(model, with_holes(x), zoo.EM(steps=30), progress=False)
    whole = torch.distributions.MultivariateNormal(model.mean.detach(), joint(model))
    torch.testing.assert_close(model.log_prob(x).detach(), whole.log_prob(x))
    torch.testing.assert_close(model.distribution().log_prob(x).detach(), whole.log_prob(x))
    row = x[0].clone()
    row[[1, 4]] = torch.nan
    seen = [0, 2, 3, 5]
    margin = torch.distributions.MultivariateNormal(
        model.mean.detach()[seen], joint(model)[seen][:, seen]
    )
    expected = margin.log_prob(x[0, seen])
    torch.testing.assert_close(model.log_prob(row[None]).detach()[0], expected)
    # posterior mean of the factors, by conditioning the joint distribution of (z, x)
    gain = model.loadings.detach()[seen].mT @ torch.linalg.inv(joint(model)[seen][:, seen])
    torch.testing.assert_close(
        model.encode(row[None]).detach()[0], gain @ (x[0, seen] - model.mean.detach()[seen])
    )


def test_conditional_samples_have_the_conditional_moments():
    x = data()
    model = zoo.FactorAnalysis(6, 2).double()
    zoo.fit(model, x, progress=False)
    given = torch.full((6,), torch.nan, dtype=torch.float64)
    given[[0, 3]] = torch.tensor([7.0, 4.0], dtype=torch.float64)
    drawn = model.sample(100_000, given=given)
    s, free, held = joint(model), [1, 2, 4, 5], [0, 3]
    gain = s[free][:, held] @ torch.linalg.inv(s[held][:, held])
    mean = model.mean.detach()[free] + gain @ (given - model.mean.detach())[held]
    covariance = s[free][:, free] - gain @ s[held][:, free]
    assert (drawn[:, held] == given[held]).all()
    torch.testing.assert_close(drawn[:, free].mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(drawn[:, free].mT.cov(), covariance, atol=0.15, rtol=0.03)


def test_missing_values_are_integrated_out():
    """The gradient of the exact marginal likelihood vanishes where EM stops."""
    x = with_holes(data(100))
    x[:, 5] = torch.where(torch.arange(100) % 2 == 0, torch.nan, x[:, 5])
    model = zoo.FactorAnalysis(6, 2, missing=True).double()
    zoo.fit(model, x, zoo.EM(steps=1500, tol=1e-10), progress=False)
    total = torch.zeros((), dtype=torch.float64)
    covariance = model.loadings @ model.loadings.mT + model.noise.diag()
    for row in x:
        seen = ~row.isnan()
        if seen.any():
            margin = torch.distributions.MultivariateNormal(
                model.mean[seen], covariance[seen][:, seen]
            )
            total = total + margin.log_prob(row[seen])
    torch.testing.assert_close(total, model.log_prob(x).sum())
    gradients = torch.autograd.grad(total, [model.loc, model.weight, model.log_noise])
    assert max(g.abs().max() for g in gradients) < 0.01


def test_many_steps_a_pass_are_the_steps_of_the_textbook():
    x = data(100)
    one = zoo.FactorAnalysis(6, 2, steps_per_pass=1).double()
    zoo.fit(one, x, zoo.EM(steps=40, tol=0.0), progress=False)
    many = zoo.FactorAnalysis(6, 2, steps_per_pass=20).double()
    zoo.fit(many, x, zoo.EM(steps=2, tol=0.0), progress=False)
    gappy = zoo.FactorAnalysis(6, 2, missing=True).double()
    start = zoo.FactorAnalysis(6, 2).double()
    start.initialize(start.as_rows(x))
    gappy.load_state_dict(start.state_dict())
    zoo.fit(gappy, x, zoo.EM(steps=40, tol=0.0, initialize=False), progress=False)
    for other in (many, gappy):
        torch.testing.assert_close(one.loadings, other.loadings)
        torch.testing.assert_close(one.noise, other.noise)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_single_precision_agrees_with_double(shift):
    x = data() + shift
    fits = [
        zoo.fit(zoo.FactorAnalysis(6, 2).to(dtype), x, zoo.EM(steps=200), progress=False)
        for dtype in (torch.float32, torch.float64)
    ]
    assert fits[0].objective / 400 == pytest.approx(fits[1].objective / 400, abs=1e-3)
    assert fits[0].model.loc.dtype == torch.float32


@pytest.mark.slow
def test_a_feature_that_the_factors_explain_wholly_keeps_some_noise():
    x = data(100)
    x[:, 1] = x[:, 0]
    model = zoo.FactorAnalysis(6, 3).double()
    zoo.fit(model, x, zoo.EM(steps=2000), progress=False)
    assert model.log_prob(x).isfinite().all()
    assert (model.noise > 0).all()


def test_refuses():
    with pytest.raises(ValueError, match="num_factors: got 7, expected 1 to 6"):
        zoo.FactorAnalysis(6, 7)
    with pytest.raises(ValueError, match="num_factors: got 6, expected 1 to 5"):
        zoo.ProbabilisticPCA(6, 6)
    with pytest.raises(zoo.DataError, match=r"x: got shape \(400, 6\), expected \(400, 5\)"):
        zoo.fit(zoo.FactorAnalysis(5, 2), data(), progress=False)
    with pytest.raises(zoo.DataError, match="missing values"):
        zoo.ProbabilisticPCA(6, 2, missing=True).closed_form(with_holes(data()))
