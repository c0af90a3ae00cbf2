"""Saved runs of each kind of solver: those of an earlier version load for good, new ones too."""

import json
from pathlib import Path

import make_old_runs
import pytest
import torch
from own_model import Shifted

import ppl_zoo as zoo
from ppl_zoo.core.solver import Solver, find_solver
from ppl_zoo.fitting.encoding import find_class

FOLDER = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def public_solvers():
    return {name for name in zoo.__all__ if isinstance(getattr(zoo, name), type)} & {
        cls.__name__ for cls in _subclasses(Solver)
    }


def _subclasses(cls):
    return [cls, *(sub for child in cls.__subclasses__() for sub in _subclasses(child))]


def test_there_is_a_run_of_each_solver():
    assert {expected["solver"] for expected in EXPECTED.values()} == public_solvers()
    assert make_old_runs.RUNS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_old_runs_load(name):
    fit = zoo.load(FOLDER / name)
    said, expected = make_old_runs.summary(fit), dict(EXPECTED[name])
    assert said.pop("posterior") == pytest.approx(expected.pop("posterior"), rel=1e-4, abs=1e-5)
    if expected["objective"] is not None:  # restorations have none
        expected["objective"] = pytest.approx(expected["objective"], rel=1e-6)
    assert said == expected


#: solvers whose run takes five seconds and more
LONG = {"nuts-numpyro"}


@pytest.mark.filterwarnings("ignore:NUTS")  # of divergences, in chains of 20 draws
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in make_old_runs.RUNS],
)
def test_every_solver_saves_and_loads(name, tmp_path):
    make, data, solver = make_old_runs.RUNS[name]
    fit = zoo.fit(make(), data, solver, progress=False)
    path = fit.save(tmp_path / "run")
    again = zoo.load(path)
    assert repr(again) == repr(fit)
    assert again.solver == solver
    for site, draws in fit.posterior(8).items():
        # not bit by bit: how products round depends on where arrays begin in memory
        torch.testing.assert_close(again.posterior(8)[site], draws, rtol=1e-5, atol=1e-6)
    written = json.loads((path / "fit.json").read_text())["model"]["class"]
    own = type(fit.model)
    assert written == ("own_model:Shifted" if own is Shifted else f"ppl_zoo:{own.__name__}")


def test_old_runs_go_on():
    _, data, _ = make_old_runs.RUNS["em"]
    before = zoo.load(FOLDER / "em")
    fit = zoo.fit(before.model.fresh(), data, zoo.EM(), resume=FOLDER / "em", progress=False)
    assert fit.objective >= before.objective - 1e-3


def test_classes_are_found_by_public_name():
    assert find_class("ppl_zoo:GaussianMixture") is zoo.GaussianMixture
    assert find_class("ppl_zoo.models.mixtures.gaussian:GaussianMixture") is zoo.GaussianMixture
    assert find_class("own_model:Shifted") is Shifted
    assert find_class("ppl_zoo:Fit") is None and find_class("ppl_zoo.cli:main") is None
    assert find_solver("SplitGibbs") is zoo.SplitGibbs and find_solver("Adam") is None
