"""CAVI: EM's loop with a density for theta; monotone, resumable, stochastic for large data."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import Chain, Coins, binary

import ppl_zoo as zoo
from ppl_zoo.cli.recipes import make_solver
from ppl_zoo.models.catalogue import find


def numbers(num_rows=200, dtype=torch.float64):
    return 3.0 + 2.0 * torch.randn(num_rows, dtype=dtype)


def blobs(num_rows=600):
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    return centres.repeat(num_rows // 3, 1) + torch.randn(num_rows, 2, dtype=torch.float64)


def mixture(num_components=3, **options):
    return zoo.BayesianGaussianMixture(num_components, 2, **options).double()


def test_em_is_cavi_with_a_point_for_theta():
    options = {"steps": 25, "restarts": 2, "tol": 0.0}
    em = zoo.fit(Coins(), binary(200), zoo.EM(**options), progress=False)
    cavi = zoo.fit(Coins(), binary(200), zoo.CAVI(**options), progress=False)
    same = np.array_equal(em.history["objective"], cavi.history["objective"], equal_nan=True)
    assert same
    for name, value in em.solution.parameters.items():
        assert torch.equal(value, cavi.solution.parameters[name]), name


def test_monotone_and_converged():
    fit = zoo.fit(mixture(5), blobs(), zoo.CAVI(tol=1e-9), progress=False)
    assert fit.stopped == "converged"
    assert np.diff(fit.history["objective"][0]).min() > -1e-8
    longer = zoo.CAVI(tol=0.0, steps=50, initialize=False)
    again = zoo.fit(fit.model, blobs(), longer, progress=False)
    assert again.objective - fit.objective < 600 * 1e-8


def test_the_objective_is_the_evidence_where_q_is_exact():
    x = numbers(30)
    fit = zoo.fit(zoo.NormalGamma(factorised=False).double(), x, progress=False)
    assert fit.objective == pytest.approx(fit.model.closed_form(x).log_evidence.item(), abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(batch_size):
    x = numbers(60)
    whole = zoo.fit(zoo.NormalGamma().double(), x, zoo.CAVI(steps=5), progress=False)
    solver = zoo.CAVI(steps=5, batch_size=batch_size)
    parts = zoo.fit(zoo.NormalGamma().double(), x, solver, progress=False)
    assert np.allclose(whole.history["objective"], parts.history["objective"], atol=1e-9)


def test_restarts_keep_the_best():
    fit = zoo.fit(mixture(6, init="random"), blobs(), zoo.CAVI(restarts=3), progress=False)
    assert fit.objective == fit.solution.objective.max()
    assert len(set(fit.history["objective"][:, 0])) == 3  # three starts
    assert fit.posterior(10)["means"].shape == (3, 10, 6, 2)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"stochastic": True, "batch_size": 64}, marks=pytest.mark.slow)],
)
def test_resuming_equals_never_stopping(options, tmp_path):
    cavi = zoo.CAVI(steps=8, restarts=2, tol=0.0, **options)
    x = blobs()
    whole = zoo.fit(mixture(), x, cavi, progress=False)
    part = zoo.fit(mixture(), x, dataclasses.replace(cavi, steps=3), progress=False)
    part = zoo.load(part.save(tmp_path / "run"))
    resumed = zoo.fit(part.model, x, cavi, resume=part, progress=False)
    assert np.array_equal(whole.history["objective"], resumed.history["objective"])
    for name, value in whole.solution.parameters.items():
        assert torch.equal(value, resumed.solution.parameters[name]), name


def test_an_update_that_lowers_the_bound_is_an_error():
    class Wrong(zoo.NormalGamma):
        def update_posterior(self, statistics, step=1.0):
            super().update_posterior(statistics, step)
            self.rate.mul_(3.0 if len(self.__dict__.setdefault("calls", [])) else 1.0)
            self.calls.append(1)

    with pytest.raises(zoo.ConvergenceError, match=r"CAVI.*lowered the objective"):
        zoo.fit(Wrong().double(), numbers(), zoo.CAVI(tol=0.0), progress=False)


def test_a_model_without_steps_is_told_so():
    with pytest.raises(zoo.DataError, match=r"expected_statistics.*SVI"):
        zoo.fit(Chain(), binary(num_features=3), zoo.CAVI(), progress=False)
    with pytest.raises(zoo.DataError, match="update_posterior"):
        zoo.fit(Coins(), binary(), zoo.CAVI(stochastic=True), progress=False)
    with pytest.raises(zoo.DataError, match="maximize"):
        zoo.fit(zoo.NormalGamma().double(), numbers(), zoo.EM(), progress=False)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"tol": -1.0}, {"forgetting": 0.5}, {"delay": -1.0}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match="CAVI: got"):
        zoo.CAVI(**options)


def test_recipes_know_it_by_name():
    solver = make_solver(find("normal-gamma"), "cavi", {"steps": 7})
    assert solver == zoo.CAVI(steps=7)


# ---- natural gradients --------------------------------------------------------------------------


def regression_data(num_rows=300):
    x = torch.randn(num_rows, 2, dtype=torch.float64)
    return x, 1.0 + x[:, 0] + 0.5 * torch.randn(num_rows, dtype=torch.float64)


def natural_normal_gamma(model):
    loc, spread, shape, rate = model._posterior()
    return torch.stack([spread, spread * loc, shape, 2.0 * rate + spread * loc**2])


def natural_regression(model):
    q = model._posterior()
    linear = q.precision @ q.loc
    parts = (q.precision.flatten(), linear, q.shape[None], (2 * q.rate + q.loc @ linear)[None])
    return torch.cat(parts)


def natural_logistic(model):
    precision = model.q_precision
    return torch.cat([precision.flatten(), precision @ model.q_loc])


def natural_mixture(model):
    q = model.q
    strength, nu = q.strength + q.counts, q.freedom + q.counts
    second = nu[:, None, None] * q.scale @ q.scale.mT
    second = second + strength[:, None, None] * q.loc[:, :, None] * q.loc[:, None, :]
    return torch.cat([q.counts, (strength[:, None] * q.loc).flatten(), second.flatten()])


def labelled():
    x, y = regression_data()
    return x, (y > 1).double()


NATURAL = {
    "normal-gamma": (lambda: zoo.NormalGamma(False), lambda: (numbers(),), natural_normal_gamma),
    "linear": (
        lambda: zoo.BayesianLinearRegression(2, "fixed"),
        regression_data,
        natural_regression,
    ),
    "logistic": (lambda: zoo.BayesianLogisticRegression(2), labelled, natural_logistic),
    "mixture": (mixture, lambda: (blobs(),), natural_mixture),
}


@pytest.mark.parametrize("name", NATURAL)
def test_a_step_averages_natural_parameters(name):
    make, data, natural = NATURAL[name]
    data, model, whole = data(), make().double(), make().double()
    rows = model.as_rows(data)
    model.initialize(rows)
    whole.load_state_dict(model.state_dict())
    before = natural(model)
    statistics = model.expected_statistics(*data)
    whole.update_posterior(dict(statistics))
    model.update_posterior(dict(statistics), step=0.3)
    expected = 0.7 * before + 0.3 * natural(whole)
    assert torch.allclose(natural(model), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "mixture" else []) for n in NATURAL]
)
def test_stochastic_updates_reach_the_optimum(name):
    make, data, _ = NATURAL[name]
    data = data()
    best = zoo.fit(make().double(), data, zoo.CAVI(tol=1e-9), progress=False)
    solver = zoo.CAVI(stochastic=True, batch_size=50, steps=30, tol=0.0)
    fit = zoo.fit(make().double(), data, solver, progress=False)
    assert fit.stopped == "max_steps"
    assert fit.history["objective"].shape == (1, 31)
    assert best.objective - 0.5 < fit.objective <= best.objective + 1e-6


def test_stochastic_reads_memory_mapped_data(tmp_path):
    np.save(tmp_path / "x.npy", numbers(5000).numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    solver = zoo.CAVI(stochastic=True, tol=1e-4, steps=30)
    fit = zoo.fit(zoo.NormalGamma().double(), mapped, solver, progress=False)
    assert isinstance(fit.rows.arrays[0], np.memmap)
    assert fit.stopped == "converged"
    assert fit.objective > fit.model.closed_form(mapped).log_evidence - 0.5
