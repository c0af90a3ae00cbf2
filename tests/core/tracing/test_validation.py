"""What would end in a wrong number is refused before a fit, with a message that says what."""

import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo

Y = 3 + torch.randn(50, generator=torch.Generator().manual_seed(0))


def location(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize("solver", [zoo.SVI(steps=50), zoo.NUTS(5, 5, num_chains=1)])
def test_a_program_that_observes_nothing(solver):
    def forgotten(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0))

    with pytest.raises(
        zoo.DataError, match=r"observes nothing, so the data y change nothing.*obs="
    ):
        zoo.fit(forgotten, Y, solver, progress=False)


def test_a_column_against_rows():
    def line(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    frame = pandas.DataFrame({"x": range(10), "y": [3.0 * i for i in range(10)]})
    with pytest.raises(zoo.DataError, match=r"'y'.*\(10, 1\).*\(10,\).*\(10, 10\)"):
        zoo.fit(line, (frame["x"], frame[["y"]]), progress=False)
    fit = zoo.fit(line, (frame["x"], frame["y"]), progress=False)
    assert fit.posterior(500)["slope"].mean().item() == pytest.approx(3.0, abs=0.02)


def test_observations_without_a_plate_are_summed():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = zoo.fit(model, Y, progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(Y.mean().item(), abs=0.02)


def guided(draw):
    def guide(y):
        loc = pyro.param("loc", torch.tensor(1.0))
        draw(loc)

    return guide


def test_a_misspelt_site():
    guide = guided(lambda loc: pyro.sample("my", dist.Normal(loc, 1.0)))
    with pytest.raises(zoo.DataError, match=r"draws \['my'\].*did you mean 'mu'"):
        zoo.fit(location, Y, zoo.SVI(steps=50, guide=guide), progress=False)


def test_a_site_that_the_guide_leaves_out():
    def model(y):
        sd = pyro.sample("sd", dist.Gamma(2.0, 2.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, sd), obs=y)

    guide = guided(lambda loc: pyro.sample("mu", dist.Normal(loc, 1.0)))
    with pytest.warns(UserWarning, match=r"leaves out the latents \['sd'\].*prior"):
        zoo.fit(model, Y, zoo.SVI(steps=50, guide=guide), progress=False)


def test_a_guide_outside_of_the_support():
    def model(y):
        sd = pyro.sample("sd", dist.Gamma(2.0, 2.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(3.0, sd), obs=y)

    guide = guided(lambda loc: pyro.sample("sd", dist.Normal(loc, 1.0)))
    with pytest.raises(zoo.DataError, match=r"'sd': the guide drew -.*support"):
        zoo.fit(model, Y, zoo.SVI(steps=50, guide=guide), progress=False)


def test_a_guide_that_draws_nothing():
    with (
        pytest.warns(UserWarning, match="leaves out"),
        pytest.raises(zoo.ConvergenceError, match="depends on none of the parameters"),
    ):
        solver = zoo.SVI(steps=50, guide=guided(lambda loc: None))
        zoo.fit(location, Y, solver, progress=False)
