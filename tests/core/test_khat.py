"""k-hat against draws of known tail, and where there is nothing to estimate."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Mean, line

from ppl_zoo.core.khat import Reweighted, khat, psis_weights, resample
from ppl_zoo.core.tracing import draw


def pareto_log_weights(shape, count=20_000, seed=0):
    """Log of draws of a generalised Pareto distribution, by inversion."""
    u = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (((1 - u) ** -shape - 1) / shape + 1.0).log()


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.7, 1.0])
def test_recovers_the_shape_of_a_generalised_pareto(shape):
    # sd of the estimate: (1 + shape) / sqrt(tail of 424 draws)
    assert khat(pareto_log_weights(shape)) == pytest.approx(shape, abs=3 * (1 + shape) / 424**0.5)


def test_scale_of_the_weights_does_not_matter():
    weights = pareto_log_weights(0.6)
    assert khat(weights + 5_000.0) == pytest.approx(khat(weights), abs=1e-6)


def test_light_tails_are_good():
    u = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    assert khat(u.log1p()) < 0.0  # bounded weights


def test_constant_weights_have_none():
    assert math.isnan(khat(torch.full((4000,), -123.4)))


def test_rounding_is_no_tail():
    noise = 1e-6 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert math.isnan(khat(-1000.0 + noise))


def test_one_draw_that_carries_everything_is_very_bad():
    weights = torch.zeros(4000)
    weights[7] = 200.0
    assert khat(weights) > 0.7


def test_narrow_guide_is_found_out():
    # q = Normal(0, s) for p = Normal(0, 1): the weights' tail index is 1 - s^2
    z = 0.5 * torch.randn(50_000, generator=torch.Generator().manual_seed(0)).double()
    normal = torch.distributions.Normal
    weights = normal(0.0, 1.0).log_prob(z) - normal(0.0, 0.5).log_prob(z)
    assert khat(weights) > 0.5


def test_exact_guide_of_a_conjugate_model():
    model, x = Mean(), line()

    def guide(x):
        pyro.sample("mu", dist.Normal(*model.posterior(x)))

    def off(x):
        mean, sd = model.posterior(x)
        pyro.sample("mu", dist.Normal(mean + sd, 0.5 * sd))

    assert math.isnan(khat(draw(model, guide, (x,), 4000, "observations").log_weight))
    assert khat(draw(model, off, (x,), 4000, "observations").log_weight) > 0.7


def test_resampling_repeats_each_draw_as_its_weight_says():
    log_weights = pareto_log_weights(0.3, 2000)
    expected = 5000 * psis_weights(log_weights).numpy()
    picked = resample(log_weights, 5000, np.random.default_rng(0))
    counts = np.bincount(picked.numpy(), minlength=2000)
    assert np.abs(counts - expected).max() < 1.0 + 1e-6  # systematic: to the integers beside
    assert counts.sum() == 5000
    assert abs(np.corrcoef(picked[1:], picked[:-1])[0, 1]) < 0.1  # in no order


def test_a_constant_is_neither_off_nor_on():
    # an assignment that no draw changes: the weighted mean is one less a rounding error
    weights = np.random.default_rng(0).dirichlet(np.ones(4000))
    found = Reweighted.of(np.ones(4000), weights / weights.sum())
    assert np.isnan([found.mean_error, found.sd_error]).all()
