"""Latents of single rows, by the guide and by NUTS, against a closed form."""

import numpy as np
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.diagnostics import get_group


@pytest.fixture(scope="module")
def fitted():
    """A LinearVAE whose guide is exact for the first latent and wrong for the second."""
    torch.manual_seed(0)
    model = zoo.LinearVAE(num_features=4, num_latents=2).double()
    with torch.no_grad():
        model.decoder[-1].weight.copy_(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, -1]]))
        model.decoder[-1].bias.zero_()
        model.likelihood.log_scale.fill_(-0.5)
    x = model.sample(200)
    fit = zoo.fit(model, x, zoo.SVI(steps=1, initialize=False, learning_rate=1e-9), progress=False)
    with torch.no_grad():
        w, variance = model.loadings, model.noise**2
        covariance = torch.linalg.inv(torch.eye(2) + w.T @ w / variance)
        model.encoder.weight.copy_(covariance @ w.T / variance)
        model.encoder.bias.zero_()
        model.log_spread.copy_(0.5 * covariance.diagonal().log())
        model.log_spread[1] -= 0.7  # half the sd
    fit.solution.parameters.update(
        {f"model.{k}": v.detach()[None].clone() for k, v in model.named_parameters()}
    )
    return fit, x


@pytest.fixture(scope="module")
def seen(fitted):
    fit, x = fitted
    solver = zoo.NUTS(num_warmup=200, num_samples=1000, num_chains=2)
    return fit.check_rows(x[:4], reference=solver)


def test_rows_against_the_closed_form(fitted, seen):
    fit, x = fitted
    mean, covariance = fit.model.exact_posterior(x[:4])
    sd = covariance.diagonal().sqrt().numpy()
    for group in (seen.guide, seen.reference):
        drawn = get_group(group, "posterior")["z"]
        assert drawn.dims == ("chain", "draw", "observations", "latent")
        middle = drawn.mean(("chain", "draw")).values
        assert np.abs((middle - mean.numpy()) / sd).max() < 0.15
    assert np.abs(seen.mean_error["z"]).max() < 0.15
    assert np.allclose(seen.sd_ratio["z"][:, 0], 1.0, atol=0.1)
    assert np.allclose(seen.sd_ratio["z"][:, 1], np.exp(-0.7), atol=0.06)
    # weights of a normal that is too narrow have the tail index 1 - sd ratio squared
    assert seen.khat == pytest.approx(1 - np.exp(-1.4), abs=0.25)
    assert "sd ratio" in str(seen) and str(seen).count("\n") == 4


def test_an_exact_guide_has_small_khat_and_rows_may_be_new(fitted):
    fit, _ = fitted
    with torch.no_grad():
        kept = fit.model.log_spread.clone()
    fit.solution.parameters["model.log_spread"][:, 1] += 0.7
    new = fit.model.sample(3)
    seen = fit.check_rows(new)
    assert seen.khat.shape == (3,) and not (seen.khat > 0.3).any()
    assert seen.reference is None and seen.mean_error == {}
    fit.solution.parameters["model.log_spread"][0] = kept


def test_picture_shows_both_beside_each_other(seen):
    figure = seen.plot()
    shown = [ax for ax in figure.axes if ax.axison]
    assert len(shown) == 4
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["guide", "reference"]


def test_models_without_a_guide_of_rows_are_refused():
    schools = zoo.data.load("eight-schools").train
    fit = zoo.fit(zoo.EightSchools(), schools, zoo.SVI(steps=10), progress=False)
    with pytest.raises(zoo.QueryError, match="continuous latents"):
        fit.check_rows(*schools)
