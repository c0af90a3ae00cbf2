"""Scale mixtures: against a constrained maximum, scikit-learn's density, and known tails."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as Theirs

import ppl_zoo as zoo
from ppl_zoo.testing import CLAUSES, check_model

FACTOR = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 0.4]], dtype=torch.float64)
SCALES = torch.tensor([0.2, 1.0, 8.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64)


def data(n=600, mean=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.multinomial(WEIGHTS, n, replacement=True, generator=generator)
    noise = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return mean + SCALES[z].sqrt()[:, None] * (noise @ FACTOR.mT)


def fitted(**options):
    model = zoo.GaussianScaleMixture(3, 3, **options).double()
    return zoo.fit(model, data(), zoo.EM(tol=1e-12, steps=5000), progress=False)


@pytest.mark.parametrize("zero_mean", [False, True])
def test_contract(zero_mean):
    def make():
        return zoo.GaussianScaleMixture(2, 3, zero_mean)

    assert check_model(make, lambda: data(80)) == tuple(CLAUSES)


def test_em_stops_where_the_gradient_vanishes():
    model = fitted().model
    total = model.log_prob(data()).sum()
    own = [model.logits, model.log_scales, model.loc, model.factor]
    gradients = torch.autograd.grad(total, own)
    assert max(g.tril().abs().max() if g.ndim == 2 else g.abs().max() for g in gradients) < 0.02


def test_density_is_that_of_a_mixture_with_these_covariances():
    model, x = fitted().model, data()
    theirs = Theirs(3)
    theirs.weights_ = model.weights.detach().numpy()
    theirs.means_ = model.mean.detach().expand(3, 3).numpy()
    covariances = model.scales[:, None, None] * model.covariance
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances.detach().numpy()))
    np.testing.assert_allclose(model.log_prob(x).detach(), theirs.score_samples(x), atol=1e-8)
    np.testing.assert_allclose(model.encode(x).detach(), theirs.predict_proba(x), atol=1e-8)


def test_it_finds_what_made_the_data():
    model = zoo.GaussianScaleMixture(3, 3).double()
    zoo.fit(model, data(40_000), zoo.EM(tol=1e-7), progress=False)
    unit = (WEIGHTS * SCALES).sum()
    torch.testing.assert_close(model.weights.detach(), WEIGHTS, atol=0.04, rtol=0)
    torch.testing.assert_close(model.scales.detach(), SCALES / unit, atol=0.02, rtol=0.1)
    covariance = unit * FACTOR @ FACTOR.mT
    torch.testing.assert_close(model.covariance.detach(), covariance, atol=0.03, rtol=0.03)
    assert (model.weights * model.scales).sum().item() == pytest.approx(1.0)
    # a better fit of held-out rows than any one normal distribution
    held_out = data(5000, seed=1)
    normal = zoo.GaussianMixture(1, 3).double()
    zoo.fit(normal, data(40_000), progress=False)
    gain = (model.log_prob(held_out) - normal.log_prob(held_out)).mean().item()
    assert gain > 0.3


def test_conditional_samples():
    """Against rejection: joint draws whose second feature is near the held value."""
    model = fitted().model
    held = torch.tensor([torch.nan, 4.0, torch.nan], dtype=torch.float64)
    drawn = model.sample(20_000, given=held)
    assert (drawn[:, 1] == 4.0).all()
    joint = model.sample(1_000_000)
    near = joint[(joint[:, 1] - 4.0).abs() < 0.05]
    assert len(near) > 2000
    for i in (0, 2):
        ours, told = drawn[:, i], near[:, i]
        error = (ours.var() / len(ours) + told.var() / len(told)).sqrt()
        assert abs(ours.mean() - told.mean()) < 4 * error + 0.02
        assert abs(ours.std() / told.std() - 1) < 0.06


def test_zero_mean_is_held():
    model = fitted(zero_mean=True).model
    assert (model.mean == 0).all()
    assert not model.loc.requires_grad


def test_single_precision_far_from_zero():
    fits = []
    for dtype in (torch.float32, torch.float64):
        model = zoo.GaussianScaleMixture(3, 3).to(dtype)
        fits.append(zoo.fit(model, data(mean=500.0), zoo.EM(steps=100), progress=False))
    assert fits[0].objective / 600 == pytest.approx(fits[1].objective / 600, abs=2e-3)


def test_rows_of_zeros_do_not_break_it():
    x = data(mean=0.0)
    x[:200] = 0.0
    model = zoo.GaussianScaleMixture(3, 3, zero_mean=True).double()
    zoo.fit(model, x, zoo.EM(steps=20), progress=False)
    assert model.log_prob(x).isfinite().all()


def test_refuses():
    with pytest.raises(ValueError, match="num_components: got 0, expected 1 or more"):
        zoo.GaussianScaleMixture(0, 3)
    with pytest.raises(zoo.DataError, match=r"x: got shape \(600, 3\)"):
        zoo.fit(zoo.GaussianScaleMixture(2, 4), data(), progress=False)
    flat = data()
    flat[:, 2] = flat[:, 0] + flat[:, 1]
    with pytest.raises(zoo.DataError, match="subspace"):
        zoo.fit(zoo.GaussianScaleMixture(2, 3).double(), flat - flat.mean(0), progress=False)
