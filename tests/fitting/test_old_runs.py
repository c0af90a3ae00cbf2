"""Runs that an earlier version saved load for good, and say what they said then."""

import json
from pathlib import Path

import make_old_runs
import pytest
from own_model import Shifted

import ppl_zoo as zoo
from ppl_zoo.core.solver import Solver

FOLDER = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_old_runs_load(name):
    fit = zoo.load(FOLDER / name)
    assert make_old_runs.summary(fit) == pytest.approx(EXPECTED[name], rel=1e-5, abs=1e-6)


def test_there_is_one_for_each_solver():
    solvers = {cls.__name__ for cls in Solver.__subclasses__() if "ppl_zoo" in cls.__module__}
    solvers = (solvers - {"CoordinateAscent"}) | {"EM", "CAVI"}
    assert {expected["solver"] for expected in EXPECTED.values()} == solvers
    assert type(zoo.load(FOLDER / "own-model").model) is Shifted


def test_old_runs_go_on():
    _, data, _ = make_old_runs.RUNS["em"]
    before = zoo.load(FOLDER / "em")
    fit = zoo.fit(before.model.fresh(), data, zoo.EM(), resume=FOLDER / "em", progress=False)
    assert fit.objective >= before.objective - 1e-3
