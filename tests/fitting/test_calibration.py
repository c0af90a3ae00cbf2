"""Simulation-based calibration tells posteriors of the right width from others."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from tiny_models import Correlated, Mean, line

import ppl_zoo as zoo
from ppl_zoo.fitting.calibration import Calibration


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


@pytest.mark.slow
def test_mean_field_on_a_correlated_posterior_is_overconfident():
    field = zoo.SVI(steps=4000, guide="normal")
    narrow = zoo.calibrate(Correlated(), line(20), field, 100, progress=False)
    assert any("too narrow" in text for text in narrow.verdict)
    full = zoo.SVI(steps=4000, guide="multivariate-normal")
    assert zoo.calibrate(Correlated(), line(20), full, 100, progress=False).verdict == ()
