"""One seed gives one result: whatever drew before, in any thread, in a process of its own."""

import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_zoo as zoo

RNG = np.random.default_rng(0)
BINARY = (RNG.random((60, 6)) < 0.4).astype(np.float32)
POINTS = np.concatenate([RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2)) + 5.0])
SVI = zoo.SVI(steps=20, compile=False)


class Net(zoo.Model):
    """A model of a user's own, with a net in it."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 6))

    def model(self, x):
        logits = self.net(torch.ones(1))
        with self.observations("rows", x):
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def fitted(model, data, solver=None, seed=0):
    return zoo.fit(model, data, solver, device="cpu", seed=seed, progress=False, validation=None)


# ---- seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: zoo.VAE(6, 2), lambda: zoo.NADE(6, 4), lambda: zoo.MADE(6, (8,)), Net]
)
def test_the_seed_of_a_fit_rules_the_weights_that_were_drawn_before_it(make):
    torch.manual_seed(11)
    first = fitted(make(), BINARY, SVI)
    torch.rand(1000)
    torch.manual_seed(12)
    model = make()
    torch.rand(7)
    state = torch.get_rng_state()
    second, other = fitted(model, BINARY, SVI), fitted(make(), BINARY, SVI, seed=1)
    assert np.array_equal(first.history["objective"], second.history["objective"])
    for name, value in first.params.items():
        assert torch.equal(value, second.params[name])
    assert not np.array_equal(first.history["objective"], other.history["objective"])
    assert state.shape == torch.get_rng_state().shape


def test_weights_that_were_changed_are_the_start_of_a_fit():
    model = Net()
    with torch.no_grad():
        model.net[2].bias.fill_(7.0)
    first = fitted(model, BINARY, zoo.SVI(steps=1, compile=False))
    assert (first.params["net$$$2.bias"] > 6.9).all()
    kept = Net()
    before = kept.net[0].weight.clone()
    fitted(kept, BINARY, zoo.SVI(steps=1, compile=False, initialize=False))
    assert torch.allclose(kept.net[0].weight, before, atol=0.05)
    again = fitted(model, BINARY, zoo.SVI(steps=1, compile=False))  # goes on from a fit
    assert (again.params["net$$$2.bias"] > 6.8).all()


def test_the_callers_random_state_is_untouched():
    model = zoo.NADE(6, 4)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fit = fitted(model, BINARY, SVI)
    fit.to_arviz(num_samples=10)
    assert torch.equal(torch.rand(3), expected)


SCRIPT = """
import numpy as np, torch, ppl_zoo as zoo
torch.set_num_threads({threads})
x = (np.random.default_rng(0).random((300, 20)) < 0.4).astype("float32")
fit = zoo.fit(zoo.VAE(20, 2), x, zoo.SVI(steps=30, compile={compile!r}), progress=False)
print(repr(float(fit.objective)), repr(float(fit.history["objective"].sum())))
"""


@pytest.mark.slow
@pytest.mark.parametrize("compile_by", [False, "xla"])
def test_processes_of_one_and_two_threads_give_one_result(compile_by):
    found = set()
    for threads in (1, 1, 2):
        script = SCRIPT.format(threads=threads, compile=compile_by)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


# ---- threads ------------------------------------------------------------------------------------


def pooled(y, group):
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("groups", 4):
        effect = pyro.sample("effect", dist.Normal(mean, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)


GROUPED = (np.arange(20.0) % 4, np.arange(20) % 4)

JOBS = {
    "EM": lambda: fitted(zoo.GaussianMixture(2, 2), POINTS),
    "EM of float32": lambda: fitted(zoo.GaussianMixture(2, 2), POINTS.astype(np.float32)),
    "CAVI": lambda: fitted(zoo.BayesianGaussianMixture(3, 2), POINTS, zoo.CAVI(steps=20)),
    "SVI": lambda: fitted(zoo.VAE(6, 2), BINARY, SVI),
    "SVI of a function": lambda: fitted(pooled, GROUPED, zoo.SVI(steps=20, compile=False)),
    "fixed draws": lambda: fitted(pooled, GROUPED),
    "closed form": lambda: fitted(zoo.NaiveBayes(6, 2), (BINARY, np.arange(60) % 2)),
}


def outcome(job):
    """Everything that a fit and its export say, as numbers."""
    fit = JOBS[job]()
    drawn = fit.posterior(20) if fit.guide is not None else {}
    scores = fit.model.log_prob(*fit.data()) if job in ("EM", "closed form") else torch.zeros(1)
    parts = [fit.objective, *(float(v.double().sum()) for v in fit.params.values())]
    return [*parts, *(float(v.double().sum()) for v in drawn.values()), float(scores.sum())]


def test_fits_in_four_threads_give_what_one_alone_gives():
    alone = {job: outcome(job) for job in JOBS}
    found, errors = {}, []

    def work(jobs):
        for job in jobs:
            try:
                found.setdefault(job, []).append(outcome(job))
            except Exception as error:  # noqa: BLE001  (of whatever kind, in whatever thread)
                errors.append((job, repr(error)))

    names = list(JOBS)
    threads = [threading.Thread(target=work, args=(names[i:] + names[:i],)) for i in range(4)]
    before = torch.get_default_dtype()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert not errors
    assert torch.get_default_dtype() == before
    for job, results in found.items():
        assert len(results) == 4
        for result in results:
            assert result == alone[job], job


# ---- forked children ----------------------------------------------------------------------------


def _child(queue, job):
    try:
        queue.put(("done", outcome(job)))
    except OSError as error:
        queue.put((type(error).__name__, str(error)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore")
def test_a_child_forked_after_xla_has_run_does_not_hang():
    outcome("fixed draws")  # runs XLA here
    context = multiprocessing.get_context("fork")
    for job in ("fixed draws", "EM"):
        queue = context.Queue()
        child = context.Process(target=_child, args=(queue, job))
        child.start()
        try:
            kind, found = queue.get(timeout=60)
        finally:
            child.join(timeout=10)
            if child.is_alive():
                child.kill()
        if job == "EM":
            assert kind == "done" and found == outcome(job)
        else:
            assert kind == "ForkError" and "get_context('spawn')" in found
