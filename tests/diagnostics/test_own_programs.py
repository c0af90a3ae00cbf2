"""Exports of programs as beginners write them: without plates, in loops, of crossed plates."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import ppl_zoo as zoo

Y = torch.randn(40, generator=torch.Generator().manual_seed(0)) + 1.0
TABLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def fitted(model, data, solver=None):
    return zoo.fit(model, data, solver, device="cpu", progress=False)


def broadcast(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def event(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    pyro.sample("y", dist.Normal(mean, 1.0).expand([len(y)]).to_event(1), obs=y)


def loop(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    for i in pyro.plate("rows", len(y)):
        pyro.sample(f"y_{i}", dist.Normal(mean, 1.0), obs=y[i])


def own_plate(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def subsampled(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y), subsample_size=10) as index:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y[index])


def exact_loo(y):
    """Log density of each row given the others, of a normal mean of prior sd 5, in closed form."""
    y = y.double().numpy()
    total = 0.0
    for i in range(len(y)):
        others = np.delete(y, i)
        variance = 1.0 / (len(others) + 1.0 / 25.0)
        sd = np.sqrt(1.0 + variance)
        total += stats.norm.logpdf(y[i], variance * others.sum(), sd)
    return total


@pytest.mark.parametrize("program", [broadcast, loop, own_plate, subsampled])
def test_loo_of_the_same_model_however_it_is_written(program):
    found = zoo.loo(fitted(program, Y))
    elpd = getattr(found, "elpd_loo", None)
    elpd = found.elpd if elpd is None else elpd
    assert found.n_data_points == 40
    assert elpd == pytest.approx(exact_loo(Y), abs=0.1)


@pytest.mark.parametrize("program", [broadcast, event])
@pytest.mark.parametrize("data", [Y, TABLE], ids=["vector", "table"])
def test_predictive_draws_are_as_many_as_the_observations(program, data):
    if program is event and data.ndim > 1:
        return
    export = fitted(program, data).to_arviz(num_samples=200)
    drawn = export.posterior_predictive["y"]
    assert drawn.shape == (1, 200, *data.shape) and export.observed_data["y"].shape == data.shape
    # each observation has noise of its own
    columns = drawn.values.reshape(200, -1)
    assert abs(np.corrcoef(columns[:, 0], columns[:, 1])[0, 1]) < 0.4
    assert columns.std(0) == pytest.approx(1.0, abs=0.3)


def test_one_event_of_all_rows_has_nothing_to_be_left_out():
    with pytest.raises(zoo.QueryError, match="'y' is one observation.*in a plate"):
        zoo.loo(fitted(event, Y))


def crossed(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", 6, dim=-2), pyro.plate("columns", 4, dim=-1):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


class Crossed(zoo.Model):
    def model(self, y):
        mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        with self.observations("rows", y, dim=-2), pyro.plate("columns", 4, dim=-1):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize("program", [crossed, Crossed()], ids=["function", "model"])
def test_observations_of_crossed_plates_are_counted_one_by_one(program):
    fit = fitted(program, TABLE)
    scores = fit.to_arviz(num_samples=100).log_likelihood["y"]
    assert dict(scores.sizes) == {"chain": 1, "draw": 100, "rows": 6, "columns": 4}
    assert zoo.loo(fit).n_data_points == 24
    few = fit.to_arviz(num_samples=20, max_observations=3).log_likelihood["y"]
    assert few.sizes["columns"] == 4


def lagged(y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("time", len(y) - 1):
        pyro.sample("y", dist.Normal(slope * y[:-1], 1.0), obs=y[1:])


def markov(y):
    slope, state = pyro.sample("slope", dist.Normal(0.0, 1.0)), torch.tensor(0.0)
    for t in pyro.markov(range(6)):
        state = pyro.sample(f"state_{t}", dist.Normal(slope * state, 1.0))
        pyro.sample(f"y_{t}", dist.Normal(state, 1.0), obs=y[t])


def no_broadcast(y):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    means = [(torch.stack([y[i], y[i] ** 2]) * weights).sum() for i in range(12)]
    with pyro.plate("rows", 12):
        pyro.sample("y", dist.Normal(torch.stack(means), 1.0), obs=y[:12])


def summed_out(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    means = torch.stack([pyro.sample(f"mean_{k}", dist.Normal(0.0, 3.0)) for k in range(2)])
    for i in range(6):
        z = pyro.sample(f"z_{i}", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{i}", dist.Normal(means[z], 1.0), obs=y[i])


@pytest.mark.parametrize(
    "program", [lagged, pytest.param(markov, marks=pytest.mark.slow), no_broadcast, summed_out]
)
def test_time_series_and_programs_that_do_not_broadcast_are_exported_and_checked(program):
    fit = fitted(program, Y, zoo.SVI(guide="multivariate-normal", steps=200, compile=False))
    export = fit.to_arviz(num_samples=50)
    data = export.posterior.to_dataset() if hasattr(export.posterior, "to_dataset") else None
    data = export.posterior if data is None else data
    assert all(np.isfinite(v.values).all() for v in data.data_vars.values())
    assert fit.check(num_samples=200).inference is not None
