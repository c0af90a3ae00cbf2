"""NUTS: the captured potential, draws against closed forms, what sampling says, resuming."""

import signal
import warnings

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as dist
import pytest
import torch
from numpyro.infer.util import initialize_model
from tiny_models import Coins, Groups, Mean, Switch, binary, line

import ppl_zoo as zoo
from ppl_zoo.compiler.xla.potential import CapturedPotential
from ppl_zoo.solvers.unconstrained import Unconstrained

SHORT = zoo.NUTS(num_samples=200, num_warmup=100, num_chains=2)
# runs whose warm-up is too short to find a step size
HASTY = pytest.mark.filterwarnings(r"ignore:NUTS. \d+ of \d+ draws of \w+ diverged:UserWarning")
SCHOOLS = zoo.data.load("eight-schools").train


def fit(model, data, solver=SHORT, **options):
    return zoo.fit(model, data, solver, device="cpu", progress=False, **options)


class Mixture(zoo.Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("ones", torch.ones(3))

    def model(self, x):
        weights = pyro.sample("weights", dist.Dirichlet(self.ones))
        with pyro.plate("components", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 5.0 * self.ones))
            scale = pyro.sample("scale", dist.LogNormal(0.0, self.ones))
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


class Counts(zoo.Model):
    def model(self, y, site, exposure):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        sd = pyro.sample("sd", dist.HalfNormal(1.0))
        with pyro.plate("sites", 5):
            effect = pyro.sample("effect", dist.Normal(mu, sd))
        with self.observations("visits", y):
            rate = (effect[site] + exposure.log()).exp()
            pyro.sample("y", dist.Poisson(rate), obs=y)


class Bounded(zoo.Model):
    """The support of one latent depends on another; a deterministic site depends on a sum."""

    def model(self, x):
        top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
        low = pyro.sample("low", dist.Uniform(0.0, top))
        pyro.deterministic("gap", top - low)
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.deterministic("side", low + z)
            pyro.sample("x", dist.Normal(low + z, 1.0), obs=x)


class Branching(zoo.Model):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = 1.0 if mu.item() < 10.0 else 2.0
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)


class Calls(zoo.Model):
    """A count without bound, latent."""

    def model(self, x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with self.observations("observations", x):
            n = pyro.sample("n", dist.Poisson(rate))
            pyro.sample("x", dist.Normal(n, 1.0), obs=x)


class Slope(zoo.Model):
    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.tensor(0.5))

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu + self.offset, 1.0), obs=x)


# ---- twins in NumPyro, by hand ------------------------------------------------------------------


def schools_twin(y, sigma):
    mu = numpyro.sample("mu", ndist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", ndist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        eta = numpyro.sample("eta", ndist.Normal(0.0, 1.0))
        numpyro.sample("y", ndist.Normal(mu + tau * eta, sigma), obs=y)


def mixture_twin(x):
    weights = numpyro.sample("weights", ndist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        loc = numpyro.sample("loc", ndist.Normal(0.0, 5.0))
        scale = numpyro.sample("scale", ndist.LogNormal(0.0, 1.0))
    with numpyro.plate("observations", len(x)):
        parts = ndist.MixtureSameFamily(ndist.Categorical(weights), ndist.Normal(loc, scale))
        numpyro.sample("x", parts, obs=x)


def regression_twin(x, y):
    variance = numpyro.sample("variance", ndist.InverseGamma(1.0, 1.0))
    sd = jnp.sqrt(variance)
    intercept = numpyro.sample("intercept", ndist.Normal(0.0, 100.0 * sd))
    weights = numpyro.sample("weights", ndist.Normal(0.0, 100.0 * sd).expand([2]).to_event(1))
    with numpyro.plate("observations", len(y)):
        numpyro.sample("y", ndist.Normal(intercept + x @ weights, sd), obs=y)


def counts_twin(y, site, exposure):
    mu = numpyro.sample("mu", ndist.Normal(0.0, 3.0))
    sd = numpyro.sample("sd", ndist.HalfNormal(1.0))
    with numpyro.plate("sites", 5):
        effect = numpyro.sample("effect", ndist.Normal(mu, sd))
    with numpyro.plate("visits", len(y)):
        numpyro.sample("y", ndist.Poisson(exposure * jnp.exp(effect[site])), obs=y)


def regression_data(num_rows=60):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(num_rows, 2, generator=g)
    return x, 1.0 + x @ torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(num_rows, generator=g)


def counts_data():
    g = torch.Generator().manual_seed(2)
    site = torch.arange(40) % 5
    return torch.poisson(2.0 + site.float(), generator=g), site, 1.0 + torch.rand(40, generator=g)


TWINS = {
    "eight schools": (zoo.EightSchools, lambda: SCHOOLS, schools_twin),
    "mixture": (Mixture, lambda: (line(50),), mixture_twin),
    "linear regression": (lambda: zoo.LinearRegression(2), regression_data, regression_twin),
    "Poisson": (Counts, counts_data, counts_twin),
}


LONG = pytest.mark.slow
CASES = [
    # one is enough every time
    pytest.param(kind, wide, marks=[] if (kind, wide) == ("eight schools", False) else [LONG])
    for kind in TWINS
    for wide in (False, True)
]


@pytest.mark.parametrize(("kind", "wide"), CASES)
def test_potential_and_gradient_are_those_of_a_twin_by_hand(kind, wide):
    make, data, twin = TWINS[kind]
    model = make().double() if wide else make()
    rows = model.as_rows(data())
    with model.defaults():
        problem = Unconstrained(model, rows)
        zero = torch.zeros(problem.size, dtype=model.dtype)
        captured = CapturedPotential(problem.energy, problem.values, zero, problem.data)
    assert captured.wide == wide
    with jax.enable_x64(wide):
        info = initialize_model(jax.random.key(0), twin, model_args=captured.data)

        def theirs(z):
            parts = {
                name: z[start:stop].reshape(shape)
                for name, (start, stop, shape) in problem.places.items()
            }
            return info.potential_fn(parts)

        def ours(z):
            return captured.potential(z, *captured.data)

        points = jax.random.uniform(jax.random.key(1), (6, problem.size), minval=-2, maxval=2)
        a, b = (jax.jit(jax.vmap(jax.value_and_grad(f)))(points) for f in (ours, theirs))
        tol = 1e-10 if wide else 1e-5
        np.testing.assert_allclose(a[0], b[0], rtol=tol)
        scale = np.abs(b[1]).max()
        np.testing.assert_allclose(a[1] / scale, b[1] / scale, atol=tol)
        if kind == "eight schools":  # forward differentiation, too
            forward = jax.jvp(ours, (points[0],), (jnp.ones(problem.size),))[1]
            np.testing.assert_allclose(forward / scale, a[1][0].sum() / scale, atol=1e-5)


@pytest.mark.slow
def test_mean_has_its_closed_form():
    x, model = line(), Mean()
    found = fit(model, x, zoo.NUTS(num_samples=1000, num_warmup=500))
    draws = found.posterior()["mu"]
    mean, sd = model.posterior(x)
    assert draws.shape == (4, 1000)
    assert abs(draws.mean() - mean) < 0.1 * sd  # 4 standard errors, with an ESS of 1,600
    assert abs(draws.std() / sd - 1) < 0.08
    assert found.solution.engine == "xla"
    assert found.stopped == "max_steps"
    summary = az.summary(found.to_arviz())
    assert (summary["r_hat"].astype(float) < 1.02).all()


@pytest.mark.slow
def test_linear_regression_has_its_closed_form():
    x, y = regression_data()
    model = zoo.LinearRegression(2).double()
    found = fit(model, (x, y), zoo.NUTS(num_samples=1000, num_warmup=500))
    exact = model.closed_form(x, y)
    draws = found.posterior()
    assert draws["weights"].dtype == torch.float64
    coefficients = torch.cat([draws["intercept"][..., None], draws["weights"]], -1).flatten(0, 1)
    variance = exact.rate / (exact.shape - 1)
    sd = (variance * exact.scale.diagonal()).sqrt()
    assert ((coefficients.mean(0) - exact.mean).abs() < 0.1 * sd).all()
    assert ((coefficients.std(0) / sd - 1).abs() < 0.1).all()
    assert abs(draws["variance"].mean() / variance - 1) < 0.03
    new = model.sample(500, given={"x": x[:3]})
    loc = exact.mean[0] + x[:3].double() @ exact.mean[1:]
    assert torch.allclose(new.mean(0), loc, atol=0.15)


@pytest.mark.slow
def test_discrete_latents_are_summed_out():
    x, model = line(20), Switch()
    found = fit(model, x, zoo.NUTS(num_samples=1000, num_warmup=300))
    assert found.solution.summed_out == ("z",)
    grid = torch.linspace(1e-3, 8.0, 4000)
    log_post = dist.LogNormal(0.0, 1.0).log_prob(grid) + torch.stack(
        [model.row_density(g, x).sum() for g in grid]
    )
    weight = log_post.softmax(0)
    mean = (weight * grid).sum()
    sd = (weight * (grid - mean) ** 2).sum().sqrt()
    draws = found.posterior()["gap"]
    assert abs(draws.mean() - mean) < 0.12 * sd
    assert abs(draws.std() / sd - 1) < 0.12


@pytest.mark.slow
def test_supports_may_depend_on_latents_and_deterministic_sites_come_along():
    found = fit(Bounded(), line(10))
    draws = found.posterior()
    assert set(draws) == {"top", "low", "gap"}  # "side" has no single value
    assert ((draws["low"] > 0) & (draws["low"] < draws["top"])).all()
    assert torch.allclose(draws["gap"], draws["top"] - draws["low"])


@pytest.mark.slow
def test_queries_use_the_draws():
    x, model = line(), Groups()
    found = fit(model, x, zoo.NUTS(1000, 100, num_chains=2))
    mu, z = Groups.posterior_mean(x)
    assert torch.allclose(model.encode(x), z, atol=0.15)
    with pytest.raises(zoo.QueryError, match="other rows"):
        model.encode(x[:5])
    # p(x_new | data): Normal(mu, 2 + its variance)
    exact = dist.Normal(mu, (2.0 + 1 / (1 + len(x) / 2)) ** 0.5)
    assert torch.allclose(model.log_prob(x), exact.log_prob(x), atol=0.15)
    new = model.sample(2000)
    assert abs(new.mean() - mu) < 0.2 and abs(new.std() / exact.scale - 1) < 0.1
    assert found.replicates(50)[1]["x"].shape == (50, len(x))
    assert found.draws(40)[0].values["z"].shape == (40, len(x))
    with pytest.raises(zoo.QueryError, match="weights"):
        found.log_weights()


def test_divergences_of_centred_eight_schools_reach_arviz():
    with pytest.warns(UserWarning, match=r"\d+ of 2000 draws of EightSchools diverged.*=0\.[89]"):
        found = fit(
            zoo.EightSchools("centered"),
            SCHOOLS,
            zoo.NUTS(num_samples=500, num_warmup=300, target_accept=0.6),
            seed=1,
        )
    stats = found.solution.sample_stats
    assert stats["diverging"].dtype == bool and stats["diverging"].sum() > 5
    assert (stats["n_steps"] < 2 ** stats["tree_depth"]).all()
    assert (stats["n_steps"] >= 2 ** (stats["tree_depth"] - 1)).all()
    group = found.to_arviz(num_samples=500)["sample_stats"]
    names = {"lp", "energy", "diverging", "n_steps", "tree_depth", "acceptance_rate", "step_size"}
    assert names == set(group.data_vars)
    np.testing.assert_array_equal(group["diverging"].values, stats["diverging"])
    np.testing.assert_allclose(group["lp"].values, found.history["objective"], rtol=1e-6)
    posterior = found.to_arviz(num_samples=500)["posterior"]
    np.testing.assert_array_equal(posterior["tau"].values, found.posterior()["tau"].numpy())


@pytest.mark.slow
def test_seeds_repeat_and_chains_differ():
    x = line()
    one, same, other = (fit(Mean(), x, seed=seed).posterior()["mu"] for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


@pytest.mark.slow
def test_compiled_sampler_is_kept_for_other_data_of_the_same_shape(monkeypatch):
    from ppl_zoo.compiler.xla.cache import ProgramCache
    from ppl_zoo.solvers.nuts import numpyro_engine

    programs = ProgramCache(4)
    monkeypatch.setattr(numpyro_engine, "PROGRAMS", programs)
    fit(Mean(), line())
    assert len(programs) == 1
    moved = fit(Mean(), line() + 5.0)
    assert len(programs) == 1
    assert abs(moved.posterior()["mu"].mean() - (Mean().posterior(line() + 5.0)[0])) < 0.1


@pytest.mark.slow
@HASTY
def test_start_from_a_fit():
    x = line()
    svi = fit(Switch(), x, zoo.SVI(steps=200, compile=False))
    solver = zoo.NUTS(num_samples=20, num_warmup=1, num_chains=2, init=svi)
    found = fit(Switch(), x, solver)
    near = svi.posterior(1000)["gap"]
    first = found.posterior()["gap"][:, 0]
    assert ((first > near.min() - 1) & (first < near.max() + 1)).all()
    with pytest.raises(zoo.DataError, match="a fit of Switch"):
        fit(Mean(), x, zoo.NUTS(init=svi))


@pytest.mark.slow
def test_parameters_stay_and_that_is_said():
    x, model = line(), Slope()
    with pytest.warns(UserWarning, match="offset of Slope"):
        sampled = fit(model, x)
    assert model.offset.item() == 0.5
    expected = (x - 0.5).sum() / (1 + len(x))
    assert abs(sampled.posterior()["mu"].mean() - expected) < 0.08
    svi = fit(Slope(), x, zoo.SVI(steps=300, compile=False))
    again = Slope()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(again, x, zoo.NUTS(10, 100, num_chains=2, init=svi))
    assert again.offset.item() == pytest.approx(svi.model.offset.item())


def test_models_that_cannot_be_sampled():
    with pytest.raises(zoo.DataError, match="no continuous latent"):
        fit(Coins(), binary())
    with pytest.raises(zoo.DataError, match="'n' \\(Poisson\\) without finite support"):
        fit(Calls(), line().abs())
    for wrong in ({"backend": "stan"}, {"num_chains": 0}, {"target_accept": 1.0}):
        with pytest.raises(ValueError, match="NUTS: got"):
            zoo.NUTS(**wrong)
    solver = zoo.NUTS()
    object.__setattr__(solver, "init", 3)  # past beartype, which users do not have
    with pytest.raises(ValueError, match="NUTS: got init=3"):
        solver.__post_init__()


@pytest.mark.slow
def test_pyro_backend_gives_the_same_answers():
    x, model = line(), Mean()
    found = fit(model, x, zoo.NUTS(300, 100, num_chains=2, backend="pyro"))
    mean, sd = model.posterior(x)
    draws = found.posterior()["mu"]
    assert draws.shape == (2, 300)
    assert abs(draws.mean() - mean) < 0.3 * sd and abs(draws.std() / sd - 1) < 0.25
    stats = found.solution.sample_stats
    assert set(stats) == set(fit(model, x).solution.sample_stats)
    assert ((stats["acceptance_rate"] > -1e-6) & (stats["acceptance_rate"] < 1 + 1e-6)).all()
    assert found.solution.engine == "interpreted"
    assert "posterior" in found.to_arviz(num_samples=50)


@HASTY
def test_programs_without_a_graph_fall_back():
    solver = zoo.NUTS(20, 20, num_chains=1)
    with pytest.warns(UserWarning, match="NUTS runs on Pyro's sampler, since a graph stops at"):
        found = fit(Branching(), line(10), solver)
    assert found.solution.engine == "interpreted"


def test_save_load_and_resume(tmp_path):
    x = line()
    whole = fit(Groups(), x, zoo.NUTS(120, 100, num_chains=2))
    part = fit(Groups(), x, zoo.NUTS(50, 100, num_chains=2))
    part.save(tmp_path / "run")
    loaded = zoo.load(tmp_path / "run", model=Groups, device="cpu")
    assert loaded.solver == part.solver
    for name, value in part.posterior().items():
        assert torch.equal(loaded.posterior()[name], value)
    for name, value in part.solution.sample_stats.items():
        np.testing.assert_array_equal(loaded.solution.sample_stats[name], value)
        assert loaded.solution.sample_stats[name].dtype == value.dtype
    assert torch.isfinite(loaded.model.log_prob(x)).all()
    assert loaded.model.encode(x).shape == x.shape
    assert "diverging" in loaded.to_arviz(num_samples=20)["sample_stats"]
    more = fit(loaded.model, x, zoo.NUTS(120, 100, num_chains=2), resume=loaded)
    for name, value in whole.posterior().items():
        assert torch.equal(more.posterior()[name], value)
    np.testing.assert_array_equal(more.history["objective"], whole.history["objective"])
    with pytest.raises(zoo.DataError, match="resume"):
        fit(Groups(), x, zoo.NUTS(120, 101, num_chains=2), resume=part)


@pytest.mark.slow
def test_fit_from_init_can_be_saved(tmp_path):
    x = line()
    svi = fit(Mean(), x, zoo.SVI(steps=100, compile=False))
    fit(Mean(), x, zoo.NUTS(10, 100, num_chains=2, init=svi)).save(tmp_path / "run")
    assert zoo.load(tmp_path / "run", model=Mean).solver.init is None


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["warm-up", "draws"])
def test_interrupt_keeps_what_is_there(moment, monkeypatch):
    from ppl_zoo.solvers.nuts.numpyro_engine import NumPyroEngine

    advance, limit = NumPyroEngine.advance, 30 if moment == "warm-up" else 150

    def interrupted(self, most):
        out = advance(self, most)
        if self.iteration >= limit:
            signal.raise_signal(signal.SIGINT)
        return out

    x = line()
    with monkeypatch.context() as patch:
        patch.setattr(NumPyroEngine, "advance", interrupted)
        found = fit(Mean(), x, zoo.NUTS(300, 100, num_chains=2))
    assert found.stopped == "interrupted"
    kept = found.posterior()["mu"].shape[1]
    assert kept == 0 if moment == "warm-up" else 0 < kept < 300
    if moment == "warm-up":
        with pytest.raises(zoo.QueryError, match="no draws"):
            found.model.log_prob(x)
    whole = fit(Mean(), x, zoo.NUTS(300, 100, num_chains=2), resume=found)
    straight = fit(Mean(), x, zoo.NUTS(300, 100, num_chains=2))
    assert torch.equal(whole.posterior()["mu"], straight.posterior()["mu"])
