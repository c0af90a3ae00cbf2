"""Simulation-based calibration tells posteriors of the right width from others."""

import dataclasses
import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import ks_2samp
from simulated import MODELS, heavy_tails_scale
from tiny_models import Correlated, Mean, line

import ppl_zoo as zoo
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.fitting.calibration import Calibration, _simulated


def ranks_of(width, shift=0.0, num=300, num_draws=99):
    """Ranks of the truth among draws of a normal posterior that is off by a factor and a shift."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=num)
    draws = shift + width * rng.normal(size=(num, num_draws))
    return Calibration({"a": (draws < truth[:, None]).sum(1)}, num_draws)


def test_ranks_of_an_exact_posterior_are_calibrated():
    exact = ranks_of(1.0)
    assert exact.verdict == ()
    assert "calibrated" in str(exact)


@pytest.mark.parametrize(
    ("width", "shift", "words"),
    [
        (0.6, 0.0, "too narrow"),
        (1.6, 0.0, "too wide"),
        (1.0, 0.5, "too high"),
        (1.0, -0.5, "too low"),
    ],
)
def test_wrong_posteriors_are_told_apart(width, shift, words):
    (text,) = ranks_of(width, shift).verdict
    assert words in text


def test_a_posterior_that_is_narrow_and_off_is_called_both():
    (text,) = ranks_of(0.4, 0.5).verdict
    assert "too narrow" in text
    assert "too high" in text


def test_the_band_holds_uniform_curves_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        uniform = Calibration({"a": rng.integers(0, 100, 50)}, 99)
        _, curve = uniform.ecdf_difference("a")
        inside += (np.abs(curve) <= uniform.band()).all()
    assert 0.90 <= inside / 200 <= 0.99


def test_end_to_end():
    svi = zoo.SVI(steps=60, learning_rate=0.1)
    result = zoo.calibrate(Mean(), line(10), svi, 5, num_draws=20, progress=False)
    assert result.ranks["mu"].shape == (5,)
    assert result.ranks["mu"].max() <= 20
    again = zoo.calibrate(Mean(), line(10), svi, 5, num_draws=20, progress=False)
    assert np.array_equal(result.ranks["mu"], again.ranks["mu"])
    assert len(result.plot().axes) == 1


def test_a_model_that_observes_nothing_is_refused():
    class Blind(zoo.Model):
        def model(self, x):
            pyro.sample("mu", dist.Normal(0.0, 1.0))

    with pytest.raises(zoo.DataError, match="observes none"):
        zoo.calibrate(Blind(), line(), progress=False)


# ---- variational SBC: symmetry ------------------------------------------------------------------


def test_the_symmetry_test_is_kolmogorov_smirnov_s_by_all_signs():
    ranks = np.array([0, 3, 5, 7, 8, 8, 9, 10, 4, 6])
    own = Calibration({"a": ranks}, 10)
    offsets = ranks - 5.0

    def distance(x):
        return round(ks_2samp(x, -x).statistic * len(x))

    signs = itertools.product([-1.0, 1.0], repeat=len(ranks))
    every = [distance(np.abs(offsets) * np.array(sign)) for sign in signs]
    exact = np.mean(np.array(every) >= distance(offsets))
    assert own.symmetry("a") == pytest.approx(exact, abs=0.02)


def test_symmetric_ranks_are_refused_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    p = [Calibration({"a": rng.integers(0, 100, 50)}, 99).symmetry("a") for _ in range(200)]
    assert np.mean(np.array(p) < 0.05) <= 0.09
    assert 0.25 <= np.mean(np.array(p) < 0.5) <= 0.6  # and the test has some power


@pytest.mark.parametrize(("shift", "side"), [(0.5, "high"), (-0.5, "low")])
def test_vsbc_finds_a_shift_by_few_simulations(shift, side):
    shifted = dataclasses.replace(ranks_of(1.0, shift, num=60), method="vsbc")
    (text,) = shifted.verdict
    assert f"lie too {side}" in text


def test_vsbc_passes_widths_and_says_that_they_were_not_tested():
    for width in (0.6, 1.0, 1.6):
        found = dataclasses.replace(ranks_of(width, num=60), method="vsbc")
        assert found.verdict == ()
        assert "widths were not tested" in str(found)


def shifted_guide(model, shift):
    """The exact posterior of a mean, off by so many sds."""

    def guide(x):
        mean, sd = model.posterior(x)
        off = pyro.param("off", torch.tensor(shift))
        pyro.sample("mu", dist.Normal(mean + off * sd, sd))

    return zoo.SVI(guide=guide, steps=2, learning_rate=1e-9, compile=False, initialize=False)


@pytest.mark.parametrize("shift", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_vsbc_end_to_end(shift):
    solver = shifted_guide(Mean(), shift)
    found = zoo.calibrate(Mean(), line(10), solver, 25, method="vsbc", progress=False)
    assert found.ranks["mu"].shape == (25,)
    assert bool(found.verdict) == bool(shift)
    with pytest.raises(ValueError, match="expected one of"):
        zoo.calibrate(Mean(), line(10), solver, method="symmetric", progress=False)


# ---- Auto ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Choosy(zoo.SVI):
    """Answers like Auto, which has no answer that holds where the mean of the data is above 0."""

    def solve_many(self, model, tables, seed):
        return None

    def solve(self, model, rows, context):
        found = super().solve(model, rows, context)
        holds = bool(rows.all()[0].mean() <= 0)
        rung = {"name": "SVI", "holds": holds, "said": "", "seconds": 0.0}
        return dataclasses.replace(found, state_values=found.state_values | {"ladder": [rung]})


@pytest.mark.slow
def test_answers_that_auto_refuses_are_left_out_and_counted():
    options = dataclasses.asdict(shifted_guide(Mean(), 0.0))
    found = zoo.calibrate(Mean(), line(10), Choosy(**options), 40, progress=False)
    assert len(found.ranks["mu"]) + found.refused == 40
    assert 8 < found.refused < 32 and f"{found.refused} refused" in str(found)
    assert found.verdict == ()  # leaving out by the data does no harm


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "heavy tails"])
def test_auto_is_calibrated(name):
    """The record of 120 simulations each: `benchmarks/auto_calibration.py`."""
    program, data = MODELS[name]
    found = zoo.calibrate(FunctionModel(program), data, zoo.Auto(), 40, progress=False)
    assert found.failed == 0 and found.refused <= 4
    assert found.verdict == (), str(found)
    assert min(map(found.symmetry, found.ranks)) > 0.05 / len(found.ranks)


@pytest.mark.slow
def test_auto_s_draws_of_a_skewed_scale_are_those_of_quadrature():
    """Of `heavy tails`, in the place of SBC: the distribution of each answer is known."""
    program, data = MODELS["heavy tails"]
    model = FunctionModel(program)
    places = []
    for number in range(8):
        y = _simulated(model, model.as_rows(data).all(), 2, number)["y"]
        fit = zoo.fit(program, (y,), zoo.Auto(), progress=False)
        drawn = fit.posterior(4000)["sigma"].flatten()
        places.append(np.sort(heavy_tails_scale(y, drawn)))
        grid = (np.arange(len(drawn)) + 0.5) / len(drawn)
        assert np.abs(places[-1] - grid).max() < 0.05, fit
    assert np.concatenate(places).mean() == pytest.approx(0.5, abs=0.015)


@pytest.mark.slow
def test_mean_field_on_a_correlated_posterior_is_overconfident():
    field = zoo.SVI(steps=4000, guide="normal")
    narrow = zoo.calibrate(Correlated(), line(20), field, 100, progress=False)
    assert any("too narrow" in text for text in narrow.verdict)
    full = zoo.SVI(steps=4000, guide="multivariate-normal")
    assert zoo.calibrate(Correlated(), line(20), full, 100, progress=False).verdict == ()
