"""Langevin dynamics against posteriors in closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.core.errors import ConvergenceError, DataError


class Mean(zoo.Model):
    """A mean with a conjugate prior, and a scale that a transform makes positive."""

    def model(self, x):
        mean = pyro.sample("mean", dist.Normal(self._anchor.new_zeros(2), 3.0).to_event(1))
        pyro.deterministic("double", 2 * mean, event_dim=1)
        with self.observations("rows", x):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


ROWS = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) + 1.0


def exact():
    precision = 50 + 1 / 9
    return 50 * ROWS.mean(0) / precision, precision**-0.5


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        pytest.param({"memory": None, "step_size": 0.01}, 0.15, marks=pytest.mark.slow),
        pytest.param({"memory": 0.99, "step_size": 0.03}, 0.2, marks=pytest.mark.slow),
        pytest.param(
            {"memory": None, "step_size": 0.01, "batch_size": 40}, 0.35, marks=pytest.mark.slow
        ),
    ],
)
def test_draws_are_of_the_posterior(options, tolerance):
    solver = zoo.SGLD(3000, 200, num_samples=3000, **options)
    fit = zoo.fit(Mean(), ROWS, solver, progress=False)
    mean, sd = exact()
    drawn = fit.posterior(3000)
    assert drawn["mean"].shape == (1, 3000, 2)
    flat = drawn["mean"].flatten(0, 1)
    assert float(((flat.mean(0) - mean) / sd).abs().max()) < 0.25
    assert float((flat.std(0) / sd - 1).abs().max()) < tolerance
    torch.testing.assert_close(drawn["double"], 2 * drawn["mean"])


def test_one_seed_gives_one_chain_and_more_chains_change_nothing():
    options = {"steps": 20, "num_warmup": 5, "num_samples": 4}
    one = zoo.fit(Mean(), ROWS, zoo.SGLD(**options), seed=1, progress=False)
    two = zoo.fit(Mean(), ROWS, zoo.SGLD(**options, num_chains=2), seed=1, progress=False)
    draws = two.posterior(4)["mean"]
    assert torch.equal(one.posterior(4)["mean"][0], draws[0])
    assert not torch.equal(draws[0], draws[1])
    assert two.history["objective"].shape == (2, 25)


def test_it_starts_from_a_fit_and_survives_the_disk(tmp_path):
    first = zoo.fit(Mean(), ROWS, zoo.SVI(steps=60), progress=False)
    solver = zoo.SGLD(10, 0, step_size=1e-8, memory=None, init=first, num_samples=5)
    fit = zoo.fit(Mean(), ROWS, solver, progress=False)
    mean, sd = exact()
    assert float(((fit.posterior(5)["mean"][0, 0] - mean) / sd).abs().max()) < 4.0
    again = zoo.load(fit.save(tmp_path / "run"), model=Mean, solver=zoo.SGLD())
    assert torch.equal(again.posterior(5)["mean"], fit.posterior(5)["mean"])


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="step_size: got 0"):
        zoo.SGLD(step_size=0.0)
    with pytest.raises(DataError, match="memory: got 1.5"):
        zoo.SGLD(memory=1.5)
    with pytest.raises(DataError, match="steps: got 0"):
        zoo.SGLD(steps=0)
    with pytest.raises(ConvergenceError, match="smaller step_size"):
        zoo.fit(Mean(), ROWS, zoo.SGLD(200, step_size=10.0, memory=None), progress=False)
