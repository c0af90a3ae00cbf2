"""Hierarchies: how far they are centred is found; supports that vary are followed."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.reparam import LocScaleReparam

import ppl_zoo as zoo
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.diagnostics import group_names
from ppl_zoo.solvers.guides import AutoNonCentredNormal, AutoSkewedNormal
from ppl_zoo.solvers.unconstrained import Unconstrained

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
#: mean and sd of posteriordb's reference draws
SCHOOLS = {"mu": (4.41, 3.31), "tau": (3.60, 3.20)}


def centred(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def kinds(y):
    """A latent of each family, as events and in plates, and one that cannot be turned."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    pyro.sample("fixed", dist.Normal(0.0, 2.0))
    pyro.sample("positive", dist.LogNormal(m, s))
    pyro.sample("heavy", dist.StudentT(4.0, m, s).expand([2]).to_event(1))
    pyro.sample("rate", dist.Gamma(2.0, s))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Laplace(m, s).mask(torch.tensor(True)))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def problem(program, *data):
    model = FunctionModel(program).double()
    rows = model.as_rows(tuple(d.double() for d in data))
    with model.defaults():
        return model, Unconstrained(model, rows)


def test_latents_of_a_latent_location_or_scale_are_found():
    _, found = problem(kinds, Y)
    assert found.recentred == ("positive", "heavy", "z") and not found.varying
    _, found = problem(centred, Y, SIGMA)
    assert found.recentred == ("theta",)


def test_density_at_other_centrings_is_that_of_the_same_latents():
    """log p(u) = log p(x(u)) + log |dx/du|, the Jacobian by automatic differentiation."""
    model, found = problem(kinds, Y)
    as_written = torch.ones(3).double()
    z = 0.3 * torch.randn(found.size).double()
    with model.defaults():
        for centring in (torch.zeros(3), torch.tensor([0.2, 0.7, 1.0])):
            c = centring.double()
            assert torch.allclose(
                found.recentre(found.recentre(z, as_written, c), c, as_written), z
            )
            u = found.recentre(z, as_written, c)
            jacobian = torch.autograd.functional.jacobian(
                lambda z, c=c: recentred(found, z, as_written, c), z
            )
            with torch.no_grad():
                here = found.energy(z, *found.data)
                there = found.energy(u, *found.data, centring=c)
            assert (there - here).item() == pytest.approx(
                torch.linalg.slogdet(jacobian)[1].item(), abs=1e-8
            )


def recentred(problem, z, before, after):
    return problem.recentre.__wrapped__(problem, z, before, after)


def test_non_centred_is_pyros_reparametrisation():
    model, found = problem(centred, Y, SIGMA)
    other = poutine.reparam(centred, config={"theta": LocScaleReparam(0.0)})
    pyros, theirs = problem(other, Y, SIGMA)
    assert list(theirs.places)[:2] == list(found.places)[:2]
    z = torch.randn(found.size).double()
    with model.defaults():
        ours = found.energy(z, *found.data, centring=torch.zeros(1).double())
    with pyros.defaults():
        assert ours.item() == pytest.approx(theirs.energy(z, *theirs.data).item())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_centred_eight_schools_by_default(seed, tmp_path):
    fit = zoo.fit(centred, (Y, SIGMA), seed=seed, progress=False)
    assert isinstance(fit.guide, AutoNonCentredNormal) and fit.guide.centring.item() < 0.3
    draws = fit.posterior(4000)
    for name, (mean, sd) in SCHOOLS.items():
        assert draws[name].mean().item() == pytest.approx(mean, abs=0.15 * sd)
        assert draws[name].std().item() == pytest.approx(sd, rel=0.15)
    again = zoo.load(fit.save(tmp_path / "run"), model=centred)
    assert torch.equal(again.posterior(20)["theta"], fit.posterior(20)["theta"])
    # the guide's own density is normalised: its weights estimate the evidence
    weights = fit.log_weights(4000)[0].double()
    evidence = weights.logsumexp(0).item() - math.log(4000)
    assert evidence == pytest.approx(fit.objective, abs=0.3) and evidence > fit.objective


@pytest.mark.slow
def test_well_informed_groups_stay_centred():
    y = torch.randn(8) * 5.0
    fit = zoo.fit(centred, (y, torch.full((8,), 0.1)), progress=False)
    assert fit.guide.centring.item() > 0.9
    theta = fit.posterior(2000)["theta"]
    assert ((theta.mean((0, 1)) - y).abs() < 0.05).all() and theta.std(1).max() < 0.12


def test_supports_that_vary_are_followed():
    """Uniform over a triangle: the support of b is (0, 1 - a)."""

    def triangle():
        a = pyro.sample("a", dist.Uniform(0.0, 1.0))
        pyro.factor("area", (1.0 - a).log())
        b = pyro.sample("b", dist.Uniform(torch.zeros(()), 1.0 - a))
        pyro.sample("y", dist.Normal(a + b, 10.0), obs=torch.tensor(0.5))

    fit = zoo.fit(triangle, (), progress=False)
    draws = fit.posterior(4000)
    assert isinstance(fit.guide, AutoNonCentredNormal | AutoSkewedNormal)
    assert (draws["a"] + draws["b"]).max() < 1.0
    for name in "ab":  # a Dirichlet(1, 1, 1)
        assert draws[name].mean().item() == pytest.approx(1 / 3, abs=0.02)
        assert draws[name].std().item() == pytest.approx(math.sqrt(1 / 18), rel=0.1)


@pytest.mark.slow
def test_a_narrow_neck_is_not_called_improper():
    """Counts with effects of years that are hardly there: the start is in a funnel's neck."""
    year = torch.linspace(-1.5, 1.5, 40)
    generator = torch.Generator().manual_seed(0)
    count = torch.poisson((4.3 + 0.5 * year + 0.15 * torch.randn(40, generator=generator)).exp())

    def glmm(year, count):
        alpha = pyro.sample("alpha", dist.Uniform(-20.0, 20.0))
        beta = pyro.sample("beta", dist.Uniform(-10.0, 10.0))
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 5.0))
        with pyro.plate("years", len(year)):
            eps = pyro.sample("eps", dist.Normal(0.0, sigma))
            pyro.sample("count", dist.Poisson((alpha + beta * year + eps).exp()), obs=count)

    fit = zoo.fit(glmm, (year, count), progress=False)
    assert fit.stopped == "converged"
    draws = fit.posterior(2000)
    assert draws["beta"].mean().item() == pytest.approx(0.5, abs=0.1)
    assert 0.05 < draws["sigma"].mean().item() < 0.3


def flat_regression(x, y):
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
    sigma = pyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def lines():
    x = torch.stack([torch.ones(40), torch.linspace(-1, 1, 40)], 1).double()
    return x, x @ torch.tensor([1.0, 2.0]).double() + 0.5 * torch.randn(40).double()


@pytest.mark.parametrize(
    "solver",
    [
        zoo.SVI(),
        zoo.SVI(restarts=2, guide="multivariate-normal"),
        pytest.param(zoo.NUTS(500, 300, num_chains=2), marks=pytest.mark.slow),
    ],
)
def test_flat_priors(solver):
    """``ImproperUniform``: least squares in closed form; there are no draws from the prior."""
    x, y = lines()
    fit = zoo.fit(flat_regression, (x, y), solver, progress=False)
    best = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    residual = (y - x @ best).square().sum() / (len(y) - 3 - 2)  # of a multivariate t
    sds = (torch.linalg.inv(x.T @ x).diagonal() * residual).sqrt()
    draws = fit.posterior(4000)["beta"].flatten(0, 1)
    assert ((draws.mean(0) - best) / sds).abs().max() < 0.15
    np.testing.assert_allclose(draws.std(0), sds, rtol=0.1)
    groups = set(group_names(fit.to_arviz(50)))
    assert {"posterior_predictive", "log_prior"} <= groups
    assert not {"prior", "prior_predictive"} & groups


def test_a_flat_prior_is_named_where_it_is_to_be_drawn_from():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(zoo.QueryError, match="site 'beta': got an improper prior"):
            zoo.calibrate(FunctionModel(flat_regression), lines(), zoo.SVI(), 5, progress=False)


def test_first_runs_do_not_depend_on_what_was_drawn_before():
    """A prior draw that overflows is not met by chance: the first run is at a feasible point."""

    def wild(y):
        b = pyro.sample("b", dist.Normal(0.0, 1000.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Poisson(b.exp()), obs=y)

    y = torch.tensor([3.0, 5.0, 4.0])
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        fit = zoo.fit(wild, y, progress=False)
        found.append(fit.objective)
    assert len(set(found)) == 1
    assert fit.posterior(2000)["b"].mean().item() == pytest.approx(math.log(4), abs=0.1)


def test_programs_are_not_first_run_on_one_row():
    class Lags(zoo.Model):
        def model(self, y):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            with self.observations("rows", y):
                before = torch.stack([y[2:], y[1:-1]]).mean(0) if len(y) > 2 else y[5]
                pyro.sample("y", dist.Normal(b * before.mean(), 1.0), obs=y)

    assert zoo.fit(Lags(), torch.randn(20) + 3.0, progress=False).stopped == "converged"


@pytest.mark.slow
def test_a_full_rank_guide_stays_as_written_and_chains_keep_apart():
    plain = zoo.fit(centred, (Y, SIGMA), zoo.SVI(guide="multivariate-normal"), progress=False)
    tensors = plain.solution.state_tensors.items()
    (theta,) = (value for name, value in tensors if name.endswith("theta"))
    assert theta.numel() == 2 * 10 + 45  # no centring among them
    alone = zoo.fit(centred, (Y, SIGMA), progress=False)
    beside = zoo.fit(centred, (Y, SIGMA), zoo.SVI(restarts=2), progress=False)
    assert beside.solution.objective[0] == pytest.approx(alone.objective, abs=1e-6)
    assert alone.objective > plain.objective + 0.1


class Tanks(zoo.Model):
    """Survival in tanks, each with a latent of its own."""

    def model(self, survived, total):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.5))
        tau = pyro.sample("tau", dist.HalfNormal(1.5))
        with self.observations("tanks", survived):
            logit = pyro.sample("logit", dist.Normal(mu, tau))
            pyro.sample("survived", dist.Binomial(total, logits=logit), obs=survived)


def test_new_rows_of_a_hierarchy_are_predicted_from_what_all_rows_share():
    generator = torch.Generator().manual_seed(0)
    total = torch.full((20,), 25.0)
    rates = (1.0 + 1.5 * torch.randn(20, generator=generator)).sigmoid()
    tanks = (torch.binomial(total, rates, generator=generator), total)
    fit = zoo.fit(Tanks(), tanks, progress=False)
    new = fit.model.sample(4000, given={"total": torch.full((3,), 25.0)})
    posterior = fit.posterior(4000)
    mu, tau = posterior["mu"][0], posterior["tau"][0]
    expected = torch.binomial(total[:1].expand(4000), (mu + tau * torch.randn(4000)).sigmoid())
    assert new.shape == (4000, 3)
    assert torch.allclose(new.mean(0), expected.mean(), atol=0.6)
    assert torch.allclose(new.std(0), expected.std(), atol=0.6)
