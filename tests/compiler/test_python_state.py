"""What a program reads beside tensors is watched: a graph would hold it as it was."""

import functools
import itertools
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.compiler.python_state import PythonState

Y = 3 + torch.randn(50, generator=torch.Generator().manual_seed(0))
CALLS = {"number": 0}
RNG = np.random.default_rng(0)


def program(weight):
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)), pyro.poutine.scale(scale=weight()):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    return model


def in_closure():
    calls = [0]

    def weight():
        calls[0] += 1
        return 100.0 if calls[0] > 500 else 1e-3

    return weight


def in_global():
    CALLS["number"] += 1
    return 1.0


class Counter:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return 1.0


def in_iterator():
    numbers = itertools.count()
    return lambda: 1.0 if next(numbers) < 10**9 else 2.0


def growing(seen):
    seen.append(1)
    return 1.0


CHANGING = {
    "closure": (in_closure, r"changes calls\[0\]"),
    "global": (lambda: in_global, r"CALLS\['number'\]"),
    "object": (Counter, r"weight.calls"),
    "iterator": (in_iterator, "numbers"),
    "list": (lambda: functools.partial(growing, []), r"len\(.*args\[0\]"),
    "random": (lambda: lambda: 0.5 if random.random() < 0.05 else 1.0, "draws from random"),
    "numpy": (lambda: lambda: 1.0 + (np.random.rand() < 0.05), "draws from numpy.random"),
    "generator": (lambda: lambda: 1.0 + (RNG.random() < 0.05), "RNG"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_is_named_and_interpreted(name):
    make, named = CHANGING[name]
    svi = zoo.SVI(steps=5, compile="xla", objective="stochastic")
    with pytest.warns(UserWarning, match=named):
        fit = zoo.fit(program(make()), Y, svi, progress=False)
    assert fit.solution.engine == "interpreted"


@pytest.mark.slow
def test_a_counter_that_raises_a_weight_late():
    svi = zoo.SVI(steps=800, learning_rate=0.1, compile="xla", objective="stochastic")
    with pytest.warns(UserWarning, match="calls"):
        fit = zoo.fit(program(in_closure()), Y, svi, progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(Y.mean().item(), abs=0.15)


@pytest.mark.slow
def test_a_change_from_outside_is_found_while_fitting(monkeypatch):
    monkeypatch.setattr("ppl_zoo.solvers.svi.engines.CHECK_FROM", 100)
    state = {"weight": 1e-3}

    def schedule(optimizer):
        def rate(step):
            if step > 150:
                state["weight"] = 1.0  # somebody else, in the course of the fit
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    options = {"window": 50, "tol": 0.0, "parameter_tol": 0.0, "objective": "stochastic"}
    svi = zoo.SVI(700, learning_rate=0.1, schedule=schedule, compile="xla", **options)
    with pytest.warns(UserWarning, match=r"goes on uncompiled from step \d+.*state\['weight'\]"):
        fit = zoo.fit(program(lambda: state["weight"]), Y, svi, progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(Y.mean().item(), abs=0.15)


def test_what_stays_is_not_held_against_a_program():
    scale = {"a": [1.0, (2.0, 3.0)], "b": np.ones(3), "f": in_global.__name__}
    own = program(lambda: scale["a"][0])
    state = PythonState([own])
    assert state.changed() == ""
    scale["a"][1] = (2.0, 4.0)
    assert "scale['a'][1][1] (3.0 to 4.0)" in state.changed()
