"""Held-out rows: which fits have them, what they do, and that a saved fit keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from posteriors import folder

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows

QUICK = {"batch_size": 64, "learning_rate": 0.01, "steps": 100, "compile": False}


@pytest.fixture(scope="module")
def chain() -> torch.Tensor:
    """Rows of 12 binary columns, each mostly like the one before: 66 weights would do."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(2, (600, 12), generator=generator).float()
    for i in range(1, 12):
        keep = torch.rand(600, generator=generator) < 0.8
        x[:, i] = torch.where(keep, x[:, i - 1], x[:, i])
    return x


def test_a_tenth_is_held_out_where_parameters_outnumber_rows(chain):
    few = zoo.fit(zoo.FVSBN(12), chain[:100], zoo.SVI(**QUICK), progress=False)
    assert (len(few.rows), len(few.valid), few.num_split_off) == (90, 10, 10)
    assert np.isfinite(few.solution.validation_score)
    assert "10 rows held out" in repr(few)
    assert torch.equal(few.rows.all()[0], chain[few.row_numbers])
    numbers = few.to_arviz(num_samples=10)["observed_data"]["observations"].values
    assert np.array_equal(numbers, few.row_numbers)
    both = torch.cat([few.rows.all()[0], few.valid.all()[0]])
    assert torch.equal(both.sort(0).values, chain[:100].sort(0).values)

    many = zoo.fit(zoo.FVSBN(12), chain, zoo.SVI(**QUICK), progress=False)
    assert many.valid is None and len(many.rows) == 600
    tiny = zoo.fit(zoo.FVSBN(12), chain[:40], zoo.SVI(**QUICK), progress=False)
    assert tiny.valid is None  # a tenth of 40 rows says nothing


def test_validation_none_gives_all_rows_and_a_share_or_rows_are_taken(chain):
    solver = zoo.SVI(**QUICK)
    every = zoo.fit(zoo.FVSBN(12), chain[:100], solver, validation=None, progress=False)
    assert every.valid is None and len(every.rows) == 100
    share = zoo.fit(zoo.FVSBN(12), chain[:100], solver, validation=0.3, progress=False)
    assert (len(share.rows), len(share.valid)) == (70, 30)
    given = zoo.fit(zoo.FVSBN(12), chain[:100], solver, validation=chain[500:], progress=False)
    assert (len(given.rows), len(given.valid), given.num_split_off) == (100, 100, 0)


def test_the_valid_rows_of_a_data_set_are_preferred(chain):
    card = zoo.data.load("digits").card
    data = zoo.data.Dataset("own", card, train=chain[:60], valid=chain[60:90])
    fit = zoo.fit(zoo.FVSBN(12), data, zoo.SVI(**QUICK), progress=False)
    assert len(fit.rows) == 60 and torch.equal(fit.valid.all()[0], chain[60:90])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 0.001, "none"])
def test_a_share_that_leaves_nothing_is_refused(chain, share):
    with pytest.raises(DataError, match="validation"):
        zoo.fit(zoo.FVSBN(12), chain[:100], validation=share, progress=False)


def test_posteriors_and_programs_keep_all_rows():
    x = torch.randn(60, 80)
    line = zoo.fit(zoo.LinearRegression(80), (x, x[:, 0]), zoo.SVI(steps=5), progress=False)
    assert line.valid is None

    def program(x):
        table = pyro.param("table", torch.zeros(60))  # a parameter a row: no other rows
        with pyro.plate("rows", 60):
            pyro.sample("x", dist.Normal(table, 1.0), obs=x)

    own = zoo.fit(program, torch.randn(60), zoo.SVI(steps=20), progress=False)
    assert own.valid is None


@pytest.mark.slow
def test_early_stopping_beats_the_fit_that_goes_on(chain):
    """On 60 rows a net of 200 hidden units learns them by heart."""
    solver = zoo.SVI(batch_size=60, learning_rate=0.01, steps=600, compile=False)
    stopped = zoo.fit(zoo.MADE(12, [200]), chain[:66], solver, progress=False)
    gone_on = zoo.fit(zoo.MADE(12, [200]), chain[:66], solver, validation=None, progress=False)
    new = chain[100:]
    assert stopped.stopped == "converged"
    assert stopped.model.log_prob(new).mean() > gone_on.model.log_prob(new).mean() + 1.0


@pytest.mark.slow
def test_a_path_of_weight_decays_comes_near_the_best_of_a_grid():
    """The grid is tuned on 2,000 rows that the path does not see."""
    generator = torch.Generator().manual_seed(0)
    truth = 1.5 * torch.randn(20, 20, generator=generator).tril(-1)
    truth *= torch.rand(20, 20, generator=generator) < 0.2

    def draw(num):
        x = torch.zeros(num, 20)
        for i in range(20):
            p = ((2 * x[:, :i] - 1) @ truth[i, :i]).sigmoid()
            x[:, i] = (torch.rand(num, generator=generator) < p).float()
        return x

    x, new = draw(120), draw(2000)
    options = {"batch_size": 60, "learning_rate": 0.02}
    path = zoo.fit(
        zoo.FVSBN(20), x, zoo.SVI(**options, steps=3000, weight_decay="path"), progress=False
    )
    scores = []
    for decay in (1e-9, 0.3, 1.0, 3.0, 10.0, 30.0):
        solver = zoo.SVI(**options, steps=1500, weight_decay=decay, compile="xla")
        fit = zoo.fit(zoo.FVSBN(20), x, solver, validation=None, progress=False)
        scores.append(float(fit.model.log_prob(new).mean()))
    found = float(path.model.log_prob(new).mean())
    assert found > max(scores) - 0.03 * abs(max(scores))
    assert found > scores[0] + 0.2  # maximum likelihood


@pytest.mark.parametrize("compile", ["xla", pytest.param(False, marks=pytest.mark.slow)])
def test_weight_decay_finds_the_posterior_mode(compile):
    """Under a normal prior of precision 5 on the weights, by L-BFGS in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(2, (200, 4), generator=generator).double()
    model = zoo.FVSBN(4).double()
    solver = zoo.SVI(learning_rate=0.02, steps=3000, weight_decay=5.0, compile=compile)
    fit = zoo.fit(model, x, solver, validation=None, progress=False)
    other = zoo.FVSBN(4).double()
    optimizer = torch.optim.LBFGS(other.parameters(), max_iter=500, tolerance_grad=1e-9)

    def loss():
        optimizer.zero_grad()
        value = -other.score(x).sum() + 2.5 * other.weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.allclose(fit.model.weights.tril(-1), other.weights.tril(-1), atol=2e-3)
    assert torch.allclose(fit.model.bias, other.bias, atol=2e-3)


def test_em_stops_by_held_out_rows_and_keeps_the_best():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 3, generator=generator)
    new = torch.randn(2000, 3, generator=generator)
    held = zoo.fit(zoo.GaussianMixture(20, 3), x, zoo.EM(), progress=False)
    every = zoo.fit(zoo.GaussianMixture(20, 3), x, zoo.EM(), validation=None, progress=False)
    assert len(held.valid) == 15
    score = held.solution.validation_score
    assert score == pytest.approx(float(held.model.log_prob(*held.valid.all()).mean()), abs=1e-4)
    assert held.model.log_prob(new).mean() > every.model.log_prob(new).mean()


def test_resume_and_load_keep_the_split(chain, tmp_path):
    for model, solver, longer in (
        (zoo.FVSBN(12), zoo.SVI(**QUICK), None),
        (zoo.GaussianMixture(20, 3), zoo.EM(steps=3), zoo.EM(steps=6)),
    ):
        normal = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
        x = chain[:100] if isinstance(model, zoo.FVSBN) else normal
        fit = zoo.fit(model, x, solver, progress=False)
        place = fit.save(tmp_path / type(model).__name__)
        again = zoo.load(place)
        assert torch.equal(again.valid.all()[0], fit.valid.all()[0])
        assert again.solution.validation_score == fit.solution.validation_score
        without = fit.save(tmp_path / "without", include_data=False)
        assert zoo.load(without).rows is None
        read = zoo.load(without, data=x)
        assert torch.equal(read.rows.all()[0], fit.rows.all()[0])
        assert torch.equal(read.valid.all()[0], fit.valid.all()[0])
        if longer is None:
            continue
        on = zoo.fit(zoo.GaussianMixture(20, 3), x, longer, resume=place, progress=False)
        straight = zoo.fit(zoo.GaussianMixture(20, 3), x, longer, progress=False)
        assert on.objective == pytest.approx(straight.objective, rel=1e-6)


def test_memory_mapped_rows_stay_on_disk(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (100, 3))
    array[:] = np.arange(300).reshape(100, 3)
    first, last = Rows(array).split(10, seed=0)
    assert all(isinstance(part.arrays[0], np.memmap) for part in (first, last))
    assert last.all()[0][0, 0] == 270 and len(first) == 90


# ---- the verdict ------------------------------------------------------------------------------


def test_check_refuses_a_gap_and_passes_none(chain):
    solver = zoo.SVI(batch_size=60, learning_rate=0.01, steps=600, compile=False)
    bad = zoo.fit(zoo.MADE(12, [200]), chain[:66], solver, validation=None, progress=False)
    bad.valid = bad.model.as_rows(chain[100:400])
    verdict = bad.check(num_samples=50).generalisation
    assert not verdict.passed and verdict.findings[0].measure == "gap"
    assert "held out" in str(verdict)
    good = zoo.fit(zoo.FVSBN(12), chain, solver, validation=0.2, progress=False)
    assert good.check(num_samples=50).generalisation.passed


def test_check_refits_what_em_fitted_in_a_moment():
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(zoo.GaussianMixture(2, 2), x, progress=False)
    verdict = fit.check(num_samples=50).generalisation
    assert verdict.passed and "nine tenths" in str(verdict)


def test_check_of_weighted_rows_scores_the_rows():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 2, generator=generator), torch.rand(200, generator=generator)
    fit = zoo.fit(zoo.GaussianMixture(2, 2), rows, progress=False)
    assert fit.check(num_samples=50).generalisation.passed


def test_check_says_where_nothing_was_held_out(chain):
    fit = zoo.fit(zoo.FVSBN(12), chain, zoo.SVI(**QUICK), progress=False)
    verdict = fit.check(num_samples=50).generalisation
    assert not verdict.passed and "validation=0.1" in str(verdict)


# ---- densities without bound ------------------------------------------------------------------


def test_a_collapsed_component_is_named():
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(zoo.GaussianMixture(2, 2), x, progress=False)
    assert not fit.model.degenerate(*fit.data())
    x[:40] = 1.5  # forty rows are one point
    fit = zoo.fit(zoo.GaussianMixture(3, 2), x, zoo.EM(), progress=False)
    found = fit.check(num_samples=20).generalisation.findings
    assert any("component" in f.text and "collapsed" in f.text for f in found)


@pytest.mark.slow
def test_rnade_on_few_values_is_named():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=generator)
    x[:, 1] = torch.randint(3, (300,), generator=generator).float()
    solver = zoo.SVI(batch_size=100, learning_rate=0.02, steps=600, compile=False)
    fit = zoo.fit(zoo.RNADE(3, num_hidden=20), x, solver, validation=None, progress=False)
    found = fit.model.degenerate(*fit.data())
    assert len(found) == 1 and "variable 1 has collapsed" in found[0] and "3 values" in found[0]


def test_a_heywood_case_is_named():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    x[:, 3] = x[:, 0]  # one factor explains both, wholly
    fit = zoo.fit(zoo.FactorAnalysis(4, 1), x, zoo.EM(steps=3000), progress=False)
    assert any("Heywood" in text for text in fit.model.degenerate(*fit.data()))


def test_a_decoder_whose_sd_is_at_its_floor_is_named():
    x = 2.0 + torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    model = zoo.VAE(3, 1, hidden=[8], likelihood="gaussian")
    solver = zoo.SVI(steps=5, compile=False)
    fit = zoo.fit(model, x, solver, validation=None, progress=False)
    assert not fit.model.degenerate(*fit.data())
    model.likelihood.log_scale.data.fill_(-20.0)
    assert "floor" in model.degenerate(x)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FVSBN", "NADE", "MADE"])
def test_defaults_on_few_rows_come_near_a_tuned_fit(name):
    """The tuned ones are those of ``benchmarks/held_out.py``: the best of a grid."""
    if folder() is None:
        pytest.skip("needs PPL_ZOO_DATA with dna")
    place = Path(__file__).parents[2] / "benchmarks" / "results" / "held_out.json"
    rows = json.loads(place.read_text())["rows"]
    (tuned,) = (r["tuned"] for r in rows if (r["data"], r["model"]) == ("dna", name))
    data = zoo.data.load("dna")
    model = {"FVSBN": zoo.FVSBN, "MADE": zoo.MADE}.get(name, lambda num: zoo.NADE(num, 100))(180)
    fit = zoo.fit(model, data.train[:400], progress=False)
    assert -float(fit.model.log_prob(data.test).mean()) < 1.03 * tuned
    verdict = fit.check(num_samples=50).generalisation
    assert [finding.measure for finding in verdict.findings] == ["gap"]
