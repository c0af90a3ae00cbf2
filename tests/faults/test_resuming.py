"""Every solver goes on from where it was interrupted, to the result that it would have had."""

import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
NOISE = torch.full((1,), 0.1)
Y = torch.randn(30, generator=torch.Generator().manual_seed(1)) + 1.0


def mean(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def net():
    return zoo.DeepImagePrior((1, 16, 16), net="fast", prior_scale=None)


def early(rule):
    return zoo.EarlyStopping(rule=rule, steps=24, patience=50, window=5, compile=False)


CASES = {
    "SGLD": (lambda: mean, (Y,), zoo.SGLD(steps=30, num_warmup=10, num_samples=15, num_chains=2)),
    "SGLD, plain": (
        lambda: mean,
        (Y,),
        zoo.SGLD(steps=30, num_warmup=10, memory=None, step_size=1e-3),
    ),
    "NUTS by Pyro, in its warm-up": (
        lambda: mean,
        (Y,),
        zoo.NUTS(num_samples=8, num_warmup=40, num_chains=2, backend="pyro"),
    ),
    "NUTS by Pyro, dense, in its draws": (
        lambda: mean,
        (Y,),
        zoo.NUTS(num_samples=15, num_warmup=5, num_chains=1, backend="pyro", dense_mass=True),
    ),
    "early stopping, variance": (net, (IMAGE, NOISE), early("variance")),
    "early stopping, held out": (net, (IMAGE, NOISE), early("held-out")),
    "early stopping, discrepancy": (net, (IMAGE, NOISE), early("discrepancy")),
    "early stopping, none": (net, (IMAGE, NOISE), early("none")),
}


@pytest.mark.parametrize(("make", "data", "solver"), CASES.values(), ids=CASES)
def test_an_interrupted_fit_goes_on_to_the_same_result(make, data, solver, tmp_path, monkeypatch):
    from ppl_zoo.solvers import loop

    whole = zoo.fit(make(), data, solver, device="cpu", progress=False)
    plain, calls = loop.run_chains, []

    def run_chains(chains, advance, *args, **kwargs):
        def counted(active):
            calls.append(1)
            if len(calls) == 13:
                signal.raise_signal(signal.SIGINT)
            return advance(active)

        return plain(chains, counted, *args, **kwargs)

    for module in (
        "ppl_zoo.solvers.sgld",
        "ppl_zoo.solvers.nuts.nuts",
        "ppl_zoo.solvers.early_stopping.solver",
    ):
        monkeypatch.setattr(f"{module}.run_chains", run_chains)
    model = make()
    cut = zoo.fit(model, data, solver, device="cpu", progress=False, checkpoint=tmp_path / "run")
    assert cut.stopped == "interrupted" and max(cut.solution.steps) <= 13
    again = zoo.fit(make(), data, device="cpu", progress=False, resume=tmp_path / "run")
    assert again.solution.steps == whole.solution.steps
    assert np.array_equal(again.history["objective"], whole.history["objective"])
    for name, value in whole.solution.parameters.items():
        assert torch.equal(value, again.solution.parameters[name]), name
    if whole.solution.draws is not None:
        for name, value in whole.solution.draws.items():
            assert torch.equal(value, again.solution.draws[name])
    if "image" in whole.solution.state_tensors:
        assert torch.equal(
            whole.solution.state_tensors["image"], again.solution.state_tensors["image"]
        )


def test_a_restoration_goes_on_from_its_checkpoint(tmp_path):
    image = IMAGE[0, 0]
    options = {"sigma": 0.1, "method": "dip", "steps": 12, "progress": False, "device": "cpu"}
    whole = zoo.restore(image, **options)
    assert torch.equal(zoo.restore(image, checkpoint=tmp_path, **options).image, whole.image)
    cut = zoo.fit(
        whole.fit.model.fresh(),
        whole.fit.data(),
        zoo.EarlyStopping(rule="discrepancy", num_chains=3, steps=5),
        device="cpu",
        progress=False,
        checkpoint=tmp_path / "cut",
    )
    assert cut.solution.steps == (5, 5, 5)
    again = zoo.restore(image, checkpoint=tmp_path / "cut", **options)
    assert torch.equal(again.image, whole.image)
    with pytest.raises(zoo.DataError, match="another image"):
        zoo.restore(image + 0.01, checkpoint=tmp_path / "cut", **options)
