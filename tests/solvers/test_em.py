"""EM: monotone, flat in memory, resumable, honest about models that break its rules."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import Chain, Coins, binary

import ppl_zoo as zoo


def test_monotone_and_converged():
    fit = zoo.fit(Coins(), binary(200), zoo.EM(tol=1e-8), progress=False)
    gains = np.diff(fit.history["objective"][0])
    assert fit.stopped == "converged"
    assert gains.min() > -1e-3
    # the last objective is that of the parameters, not of those before
    assert fit.objective == pytest.approx(fit.model.log_prob(binary(200)).sum().item(), abs=1e-3)
    longer = zoo.fit(Coins(), binary(200), zoo.EM(tol=0.0, steps=2000), progress=False)
    assert longer.objective - fit.objective < 200 * 1e-6


def test_rounding_about_the_optimum_is_rest():
    """Started at its optimum in closed form, where little noise makes rounding errors large."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1)) * [3.0, 4.0] + 0.1 * rng.normal(size=(500, 2))
    fit = zoo.fit(zoo.ProbabilisticPCA(2, 1), x, device="cpu", progress=False)
    assert fit.stopped == "converged"
    assert fit.solution.steps[0] < 10


def test_steps_count_m_steps():
    fit = zoo.fit(Coins(), binary(), zoo.EM(steps=3, tol=0.0), progress=False)
    assert fit.stopped == "max_steps"
    assert fit.history["objective"].shape == (1, 4)  # the start's and three more


@pytest.mark.parametrize("batch_size", [1, 7, 60, 1000])
def test_batch_size_changes_nothing(batch_size):
    whole = zoo.fit(Coins(), binary(), zoo.EM(steps=10), progress=False)
    parts = zoo.fit(Coins(), binary(), zoo.EM(steps=10, batch_size=batch_size), progress=False)
    assert np.allclose(whole.history["objective"], parts.history["objective"], atol=1e-3)


def test_restarts_keep_the_best():
    fit = zoo.fit(Coins(3), binary(200), zoo.EM(restarts=4), progress=False)
    assert fit.objective == fit.solution.objective.max()
    assert fit.model.log_prob(binary(200)).sum().item() == pytest.approx(fit.objective, abs=1e-2)
    assert len(set(np.round(fit.history["objective"][:, 0], 3))) == 4  # four starts


@pytest.mark.parametrize("through_disk", [False, True])
def test_resuming_equals_never_stopping(through_disk, tmp_path):
    em = zoo.EM(steps=20, restarts=2, tol=0.0)
    whole = zoo.fit(Coins(), binary(), em, progress=False)
    part = zoo.fit(Coins(), binary(), dataclasses.replace(em, steps=6), progress=False)
    if through_disk:
        part = zoo.load(part.save(tmp_path / "run"), model=Coins)
    resumed = zoo.fit(part.model, binary(), em, resume=part, progress=False)
    assert np.array_equal(whole.history["objective"], resumed.history["objective"])
    for name, value in whole.solution.parameters.items():
        assert torch.equal(value, resumed.solution.parameters[name]), name


def test_an_iteration_that_lowers_the_objective_is_an_error():
    class Wrong(Coins):
        def maximize(self, statistics):
            super().maximize(statistics)
            with torch.no_grad():
                self.rates = 1 - self.rates

    with pytest.raises(zoo.ConvergenceError, match="lowered the objective") as caught:
        zoo.fit(Wrong(), binary(200), zoo.EM(), progress=False)
    assert caught.value.fit.solution.steps[0] >= 1


def test_a_model_without_statistics_is_told_so():
    with pytest.raises(zoo.DataError, match=r"expected_statistics.*SVI"):
        zoo.fit(Chain(), binary(num_features=3), zoo.EM(), progress=False)


def test_start_from_the_parameters_given():
    model = Coins()
    rates = torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.9, 0.7]])
    with torch.no_grad():
        model.rates = rates
    expected = model.log_prob(binary()).sum().item()
    fit = zoo.fit(model, binary(), zoo.EM(initialize=False, steps=1), progress=False)
    assert fit.history["objective"][0, 0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("options", [{"steps": 0}, {"tol": -1.0}, {"restarts": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="EM: got"):
        zoo.EM(**options)


def test_memory_mapped_data_stay_on_disk(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, binary(500).numpy())
    mapped = np.load(path, mmap_mode="r")
    fit = zoo.fit(Coins(), mapped, zoo.EM(steps=5, batch_size=64), progress=False)
    assert isinstance(fit.rows.arrays[0], np.memmap)
    plain = zoo.fit(Coins(), binary(500), zoo.EM(steps=5), progress=False)
    assert np.allclose(fit.history["objective"], plain.history["objective"], atol=1e-2)
