"""NormalGamma: mean field beside the exact posterior, and how its overconfidence shows."""

import numpy as np
import pytest
import torch
from scipy import stats

import ppl_zoo as zoo

PRIOR = {"prior_mean": 0.5, "prior_strength": 1.0, "prior_shape": 2.0, "prior_rate": 3.0}


def numbers(num_rows=12, dtype=torch.float64):
    return 1.0 + 1.5 * torch.randn(num_rows, dtype=dtype)


def fitted(x, factorised, **prior):
    model = zoo.NormalGamma(factorised, **prior).to(x.dtype)
    return zoo.fit(model, x, zoo.CAVI(tol=1e-12), device="cpu", progress=False)


@pytest.mark.parametrize("factorised", [True, False])
def test_contract(factorised):
    zoo.testing.check_model(lambda: zoo.NormalGamma(factorised), lambda: torch.randn(20))


def test_evidence_by_quadrature():
    x = numbers(6)
    mean = np.linspace(-12, 12, 1201)
    precision = np.exp(np.linspace(-8, 3, 801))[:, None]
    log_joint = stats.gamma(2.0, scale=1 / 3.0).logpdf(precision) + np.log(precision)
    log_joint = log_joint + stats.norm(0.5, precision**-0.5).logpdf(mean)
    for value in x.tolist():
        log_joint = log_joint + stats.norm(mean, precision**-0.5).logpdf(value)
    total = np.exp(log_joint).sum() * (24 / 1200) * (11 / 800)
    exact = zoo.NormalGamma(**PRIOR).double().closed_form(x)
    assert exact.log_evidence.item() == pytest.approx(np.log(total), abs=1e-5)


def test_joint_q_is_the_posterior():
    x = numbers()
    fit = fitted(x, False, **PRIOR)
    exact = fit.model.closed_form(x)
    assert fit.objective == pytest.approx(exact.log_evidence.item(), abs=1e-9)
    for ours, true in zip(fit.model._posterior(), exact, strict=False):
        assert ours.item() == pytest.approx(true.item(), rel=1e-9)
    assert fit.log_weights(100).std() < 1e-9  # so k-hat has nothing to say
    predictive = stats.t(
        2 * exact.shape,
        exact.loc,
        (exact.rate / exact.shape * (1 + 1 / exact.strength)) ** 0.5,
    )
    assert np.allclose(fit.model.log_prob(x), predictive.logpdf(x.numpy()), atol=1e-9)


def test_mean_field_solves_bishops_equations():
    x = numbers()
    fit = fitted(x, True, **PRIOR)
    loc, spread, shape, rate = (t.item() for t in fit.model._posterior())
    num, strength = len(x), 1.0
    assert loc == pytest.approx((strength * 0.5 + x.sum().item()) / (strength + num))
    assert spread == pytest.approx((strength + num) * shape / rate, rel=1e-6)
    assert shape == pytest.approx(2.0 + (num + 1) / 2)
    squares = ((x - loc) ** 2).sum().item() + num / spread
    squares += strength * ((loc - 0.5) ** 2 + 1 / spread)
    assert rate == pytest.approx(3.0 + squares / 2, rel=1e-6)
    exact = fit.model.closed_form(x)
    assert fit.objective < exact.log_evidence
    # the bound, term by term, by Monte Carlo
    log_weight = fit.log_weights(20_000)
    error = log_weight.std().item() / 20_000**0.5
    assert fit.objective == pytest.approx(log_weight.mean().item(), abs=4 * error)


def test_predictive_density_of_mean_field():
    fit = fitted(numbers(4), True, **PRIOR)
    x = torch.tensor([-2.0, 0.0, 1.0, 5.0], dtype=torch.float64)
    sampled = zoo.Model.log_prob(fit.model, x, num_samples=100_000)
    assert torch.allclose(fit.model.log_prob(x), sampled, atol=0.03)
    grid = torch.linspace(-200.0, 200.0, 400_001, dtype=torch.float64)
    assert fit.model.log_prob(grid).exp().sum() * 1e-3 == pytest.approx(1.0, abs=1e-4)


def test_far_from_zero_in_single_precision():
    x = 1e4 + torch.randn(1000)
    fit = fitted(x, True)
    assert fit.model.loc.item() == pytest.approx(x.double().mean().item(), abs=0.5)
    shifted = fitted(x.double(), False, prior_mean=1e4)
    assert shifted.model.rate / shifted.model.shape == pytest.approx(1.0, abs=0.2)


def test_check_says_that_mean_field_is_overconfident():
    x = torch.tensor([0.3, -0.8])
    kinds = {}
    for factorised in (True, False):
        fit = fitted(x, factorised, **PRIOR)
        kinds[factorised] = fit.check(reference=fit.model.posterior_draws(x, 20_000))
    line = next(line for line in kinds[True].lines if line.name == "mean")
    assert line.sd_error < -0.15
    assert any("sd of mean" in text and "too small" in text for text in kinds[True].verdict)
    assert kinds[False].passed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*non-interactive:UserWarning")
def test_calibration_shows_where_mean_field_is_overconfident():
    results = {}
    for factorised in (True, False):
        model = zoo.NormalGamma(factorised, **PRIOR)
        results[factorised] = zoo.calibrate(
            model, torch.zeros(2), num_simulations=200, progress=False
        )
    assert "posteriors of mean are too narrow: overconfident" in results[True].verdict
    assert results[False].verdict == ()
    assert results[True].plot() is not None


def test_bad_arguments():
    with pytest.raises(ValueError, match="prior_rate"):
        zoo.NormalGamma(prior_rate=0.0)
    with pytest.raises(zoo.DataError, match="expected"):
        zoo.fit(zoo.NormalGamma(), torch.randn(5, 2), progress=False)
