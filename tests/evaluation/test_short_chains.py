"""Short chains begun at a guide's draws, against posteriors that are known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.evaluation.short_chains import run_short_chains


def correlated(y):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean.sum(), scale), obs=y)


@pytest.fixture(scope="module")
def fit():
    y = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return zoo.fit(correlated, y, zoo.SVI(guide="multivariate-normal"), progress=False)


def test_a_right_guide_stays(fit):
    drifts = run_short_chains(fit)
    assert set(drifts) == {"mean[0]", "mean[1]", "mean[2]", "scale"}
    for drift in drifts.values():
        assert abs(drift.mean_error) < 0.1 and abs(drift.sd_error) < 0.1
        assert drift.mean_noise < 0.05 and drift.sd_noise < 0.05


def test_a_shifted_and_a_shrunk_guide_move_back_by_what_they_are_off(fit):
    sd = fit.posterior(4000)["mean"][0].std(0)[0]
    loc = fit.guide.loc.data.clone()
    try:
        fit.guide.loc.data[0] += 0.5 * sd
        shifted = run_short_chains(fit)
        assert shifted["mean[0]"].mean_error == pytest.approx(0.5, abs=0.1)
    finally:
        fit.guide.loc.data.copy_(loc)
    scale = fit.guide.scale.detach().clone()
    try:
        fit.guide.scale = 0.5 * scale
        shrunk = run_short_chains(fit)
        assert all(-0.65 < d.sd_error < -0.35 for d in shrunk.values())
    finally:
        fit.guide.scale = scale


def test_one_seed_one_result_and_the_callers_state(fit):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = run_short_chains(fit), run_short_chains(fit)
    assert first == second
    assert torch.equal(torch.rand(1), expected)


def test_a_guide_without_coordinates_has_none():
    y = torch.randn(30, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(correlated, y, zoo.SVI(guide="normal"), progress=False)
    assert run_short_chains(fit) == {}
