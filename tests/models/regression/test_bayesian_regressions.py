"""Bayesian linear and logistic regression against closed forms, quadrature and NUTS."""

import math

import numpy as np
import pytest
import torch

import ppl_zoo as zoo


def line(num_rows=40, num_features=3, noise=0.5):
    x = torch.randn(num_rows, num_features, dtype=torch.float64)
    y = 2.0 + 3.0 * x[:, 0] + noise * torch.randn(num_rows, dtype=torch.float64)
    return x, y


def classes(num_rows=100, num_features=2):
    x = torch.randn(num_rows, num_features, dtype=torch.float64)
    return x, torch.bernoulli((0.5 + 1.5 * x[:, 0]).sigmoid())


def fitted(model, data, tol=1e-10):
    return zoo.fit(model.double(), data, zoo.CAVI(tol=tol), device="cpu", progress=False)


@pytest.mark.parametrize("relevance", ["each", "shared", "fixed"])
def test_contract_linear(relevance):
    zoo.testing.check_model(
        lambda: zoo.BayesianLinearRegression(3, relevance),
        lambda: tuple(t.float() for t in line()),
    )


def test_contract_logistic():
    zoo.testing.check_model(
        lambda: zoo.BayesianLogisticRegression(2), lambda: tuple(t.float() for t in classes())
    )


def test_fixed_relevance_is_exact():
    x, y = line()
    options = {"noise_shape": 2.0, "noise_rate": 1.5, "intercept_scale": 2.0}
    options["standardize"] = False
    model = zoo.BayesianLinearRegression(
        3, "fixed", relevance_shape=1.0, relevance_rate=4.0, **options
    )
    fit = fitted(model, (x, y))
    assert fit.history["objective"].shape[1] <= 4
    # the marginal of y is a multivariate Student t with 2 a degrees of freedom
    design = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    covariance = torch.eye(len(y)) + 4.0 * design @ design.mT
    shape, rate = 2.0, 1.5
    squares = y @ torch.linalg.solve(covariance, y)
    evidence = (
        math.lgamma(shape + len(y) / 2)
        - math.lgamma(shape)
        - len(y) / 2 * math.log(2 * math.pi * rate)
        - 0.5 * torch.logdet(covariance)
        - (shape + len(y) / 2) * torch.log1p(squares / (2 * rate))
    )
    assert fit.objective == pytest.approx(evidence.item(), abs=1e-6)
    assert fit.log_weights(100).std() < 1e-9
    # another program of the zoo has the same posterior
    peer = zoo.LinearRegression(3, 2.0, 2.0, 1.5, standardize=False).double()
    exact = peer.closed_form(x, y)
    assert torch.allclose(fit.model.q_loc.roll(1), exact.mean)
    assert torch.allclose(fit.model.q_rate, exact.rate)


@pytest.mark.parametrize("relevance", ["each", "shared"])
def test_bound_term_by_term(relevance):
    model = zoo.BayesianLinearRegression(3, relevance, relevance_shape=1.0, relevance_rate=1.0)
    fit = fitted(model, line())
    log_weight = fit.log_weights(20_000)
    error = log_weight.std().item() / 20_000**0.5
    assert fit.objective == pytest.approx(log_weight.mean().item(), abs=4 * error)
    assert fit.khat()[0] < 0.7


def test_predictive_density_linear():
    x, y = line()
    fit = fitted(zoo.BayesianLinearRegression(3), (x, y))
    sampled = zoo.Model.log_prob(fit.model, x, y, num_samples=20_000)
    assert torch.allclose(fit.model.log_prob(x, y), sampled, atol=0.05)


def test_irrelevant_features_shrink():
    x, y = line(num_rows=200, num_features=10)
    prior = {"relevance_shape": 0.01, "relevance_rate": 0.01}
    model = fitted(zoo.BayesianLinearRegression(10, **prior), (x, y)).model
    relevance = model.q_relevance_shape / model.q_relevance_rate
    assert (relevance[1:] > 100.0 * relevance[0]).all()
    least_squares = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[:, :1])], 1), y).solution
    found = model.coefficients
    assert found[1:10].norm() < 0.9 * least_squares[1:10].norm()
    assert abs(found[0] / least_squares[0] - 1.0) < 0.01


def test_linear_survives_far_offsets():
    x, y = line(num_rows=200)
    near = fitted(zoo.BayesianLinearRegression(3, "shared"), (x, y))
    far = fitted(zoo.BayesianLinearRegression(3, "shared", intercept_scale=1e7), (x, y + 1e5))
    assert torch.allclose(near.model.q_loc[:3], far.model.q_loc[:3], atol=1e-3)
    assert torch.allclose(near.model.q_rate, far.model.q_rate, rtol=1e-2)


def test_arviz_names_its_dimensions():
    idata = fitted(zoo.BayesianLinearRegression(3), line()).to_arviz(num_samples=20)
    assert idata.posterior["weights"].dims == ("chain", "draw", "feature")
    assert idata.posterior["relevance"].dims == ("chain", "draw", "feature")


# ---- logistic -----------------------------------------------------------------------------------


def exact_logistic(x, y):
    """Evidence and posterior mean of (weights, intercept) on a grid; one feature."""
    grid = torch.linspace(-6, 8, 701, dtype=torch.float64)
    weight, intercept = torch.meshgrid(grid, grid, indexing="ij")
    log_joint = -0.5 * (weight**2 / 2.5**2 + intercept**2 / 100.0) - math.log(
        2 * math.pi * 2.5 * 10
    )
    for xi, yi in zip(x[:, 0].tolist(), y.tolist(), strict=True):
        log_joint += torch.nn.functional.logsigmoid((2 * yi - 1) * (weight * xi + intercept))
    mass = log_joint.exp() * 0.02**2
    p = mass / mass.sum()
    return mass.sum().log(), (p * weight).sum(), (p * intercept).sum()


def test_logistic_against_quadrature():
    x, y = classes(60, 1)
    fit = fitted(zoo.BayesianLogisticRegression(1, standardize=False), (x, y))
    evidence, weight, intercept = exact_logistic(x, y)
    assert evidence - 0.5 < fit.objective < evidence
    covariance = fit.model._covariance()
    sd = covariance.diagonal().sqrt()
    assert abs(fit.model.q_loc[0] - weight) < 0.3 * sd[0]
    assert abs(fit.model.q_loc[1] - intercept) < 0.3 * sd[1]
    # importance weights take the bound to the evidence
    log_weight = fit.log_weights(20_000)[0]
    assert log_weight.mean() > fit.objective  # Polya-gamma's bound is below that of q(weights)
    assert log_weight.logsumexp(0) - math.log(20_000) == pytest.approx(evidence.item(), abs=0.03)


def test_logistic_fixed_point_of_jaakkola_and_jordan():
    x, y = classes()
    model = zoo.BayesianLogisticRegression(2, standardize=False)
    model = fitted(model, (x, y), tol=1e-14).model
    design = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    second = model._covariance() + torch.outer(model.q_loc, model.q_loc)
    xi = torch.einsum("ni,ij,nj->n", design, second, design).sqrt()
    curvature = (xi.sigmoid() - 0.5) / (2 * xi)
    precision = torch.diag(model.q_loc.new_tensor([2.5, 2.5, 10.0]) ** -2)
    precision = precision + 2 * (design * curvature[:, None]).mT @ design
    loc = torch.linalg.solve(precision, design.mT @ (y - 0.5))
    assert torch.allclose(model.q_loc, loc, atol=1e-5)


def test_predict_proba():
    x, y = classes()
    fit = fitted(zoo.BayesianLogisticRegression(2), (x, y))
    probabilities = fit.model.predict_proba(x)
    assert torch.allclose(probabilities.sum(1), x.new_ones(100))
    chosen = probabilities.gather(1, y.long()[:, None])[:, 0].log()
    assert torch.allclose(fit.model.log_prob(x, y), chosen, atol=1e-9)
    draws = {k: v[0] for k, v in fit.posterior(40_000).items()}
    logits = draws["intercept"] + torch.einsum("nd,sd->ns", x, draws["weights"])
    assert torch.allclose(probabilities[:, 1], logits.sigmoid().mean(1), atol=5e-3)
    assert (fit.model.predict(x) == y).double().mean() > 0.7


def test_separable_classes_have_a_posterior():
    x = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64)[:, None]
    fit = fitted(zoo.BayesianLogisticRegression(1), (x, (x[:, 0] > 0).double()), tol=1e-6)
    assert fit.stopped == "converged"
    assert 0.0 < fit.model.q_loc[0] < 10.0


def test_bad_data():
    x, y = classes()
    with pytest.raises(zoo.DataError, match="expected 0 or 1"):
        zoo.fit(zoo.BayesianLogisticRegression(2), (x, y + 0.5), progress=False)
    with pytest.raises(zoo.DataError, match="expected"):
        zoo.fit(zoo.BayesianLinearRegression(3), (x, y), progress=False)
    with pytest.raises(ValueError, match="relevance"):
        zoo.BayesianLinearRegression(3, "some")


@pytest.mark.slow
def test_logistic_against_nuts():
    x, y = classes(200)
    fit = fitted(zoo.BayesianLogisticRegression(2), (x, y))
    nuts = zoo.NUTS(num_chains=2, num_warmup=300, num_samples=1000)
    for scalar in fit.check(reference=nuts).lines:
        assert abs(scalar.mean_error) < 0.25
        assert -0.3 < scalar.sd_error < 0.1
    assert np.isfinite(fit.khat()).all()
