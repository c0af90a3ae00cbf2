"""Auto: the first rung that holds, what the others said, what comes back from disk."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Mean, line

import ppl_zoo as zoo
from ppl_zoo.core.solver import FitContext
from ppl_zoo.fitting.auto import _Climb


def test_the_first_rung_that_holds_is_enough():
    fit = zoo.fit(Mean(noise=1.0), line(), zoo.Auto(), progress=False)
    assert [(rung.name, rung.holds) for rung in fit.ladder] == [("SVI", True)]
    assert "holds by SVI" in repr(fit) and fit.check().passed


def banana(y):
    """A curved ridge in twelve dimensions, which no guide of the ladder follows."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        b = pyro.sample("b", dist.Normal(0.0, 3.0))
        pyro.sample("y", dist.Normal(b - 3.0 * a.square() * torch.cos(3.0 * a), 0.1), obs=y)


@pytest.mark.slow
def test_a_posterior_beyond_all_guides_is_sampled(tmp_path):
    y = torch.linspace(-1.0, 1.0, 12)
    fit = zoo.fit(banana, y, zoo.Auto(), progress=False)
    assert not fit.ladder[0].holds and "effective" in fit.ladder[0].said
    assert fit.ladder[-1].name.startswith("NUTS")
    # b is nearly a function of a, and integrates out: quadrature over a
    a = torch.linspace(-4.0, 4.0, 8001).double()
    centre = y.double()[:, None] + 3.0 * a.square() * torch.cos(3.0 * a)
    log_p = -0.5 * a.square() + dist.Normal(0.0, math.hypot(3.0, 0.1)).log_prob(centre).sum(0)
    weight = log_p.softmax(0)
    sd = (weight @ a.square() - (weight @ a) ** 2).sqrt().item()
    if fit.ladder[-1].holds:
        assert fit.posterior()["a"].std().item() == pytest.approx(sd, rel=0.1)
    else:
        assert not fit.check().passed
    again = zoo.load(fit.save(tmp_path / "run"), model=banana)
    assert again.ladder == fit.ladder
    assert torch.equal(again.posterior(10)["a"], fit.posterior(10)["a"])


def test_reweighted_draws_are_the_posterior():
    """Counts of a rate, whose logarithm is skewed: by quadrature, from a normal guide's draws."""

    def rate(y):
        a = pyro.sample("a", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(a.exp()), obs=y)

    y = torch.tensor([1.0, 0.0, 1.0])
    normal = zoo.SVI(guide="multivariate-normal", objective="fixed-draws")
    fit = zoo.fit(rate, y, normal, progress=False)
    climb = _Climb(zoo.Auto(), fit.model, fit.rows, FitContext(progress=False))
    climb.best = fit
    found = climb._reweighted()
    grid = torch.linspace(-12.0, 4.0, 20_001).double()
    weight = (-0.5 * (grid / 5.0).square() + 2.0 * grid - 3.0 * grid.exp()).softmax(0)
    mean = (weight @ grid).item()
    sd = (weight @ (grid - mean).square()).sqrt().item()
    draws = found.posterior()["a"]
    assert draws.shape == (4, 1000)
    assert draws.mean().item() == pytest.approx(mean, abs=0.05 * sd)
    assert draws.std().item() == pytest.approx(sd, rel=0.05)
    plain = fit.posterior(4000)["a"].std().item()
    assert abs(plain / sd - 1) > 0.05  # which the guide's own draws are not


@pytest.mark.slow
def test_no_rung_is_begun_beyond_the_seconds_given():
    y = torch.linspace(-1.0, 1.0, 12)
    fit = zoo.fit(banana, y, zoo.Auto(seconds=1e-6), progress=False)
    assert len(fit.ladder) == 1 and not fit.ladder[0].holds
    assert "no rung of the ladder holds" in repr(fit)


@pytest.mark.parametrize("options", [{"error": 0.0}, {"error": 0.5}, {"seconds": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected more than 0"):
        zoo.Auto(**options)


def test_the_models_own_solver_is_the_first_rung():
    fit = zoo.fit(zoo.BayesianLinearRegression(2), _regression(), zoo.Auto(), progress=False)
    assert fit.ladder[0].name == "CAVI"


def _regression():
    x = torch.randn(60, 2)
    return x, x @ torch.tensor([1.0, -1.0]) + 0.5 * torch.randn(60)


def test_a_lost_chain_is_told_where_the_fit_is_printed():
    fit = zoo.fit(Mean(noise=1.0), line(), zoo.NUTS(200, 100, num_chains=2), progress=False)
    assert "R-hat" not in repr(fit) and "diverged" not in repr(fit)
    name = next(iter(fit.solution.draws))
    fit.solution.draws[name] = fit.solution.draws[name].clone()
    fit.solution.draws[name][1] += 30.0
    assert "R-hat" in repr(fit) and "chains disagree" in repr(fit)
    fit.solution.sample_stats["diverging"] = np.arange(400).reshape(2, 200) % 100 == 0
    assert "4 of 400 draws diverged" in repr(fit)
