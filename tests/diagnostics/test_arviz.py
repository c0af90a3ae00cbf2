"""The way to ArviZ, on whichever generation is installed: 0.23 and 1.x run the same tests."""

import warnings

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from tiny_models import KINDS, Groups, Mean, Switch, line

import ppl_zoo as zoo
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.diagnostics import arviz_compat, get_group, group_names, max_rhat, to_arviz

matplotlib.use("Agg")
CHAINS = 2


@pytest.fixture(scope="module")
def az():
    return arviz_compat._arviz()


def make(name):
    """Fit one of the tiny kinds, briefly: what is tested does not need convergence."""
    torch.manual_seed(0)
    cls, data = KINDS[name]
    model = cls(3) if name == "no latents" else cls()
    solver = zoo.EM(restarts=CHAINS) if hasattr(model, "maximize") else None
    solver = solver or zoo.SVI(steps=20, restarts=CHAINS)
    return zoo.fit(model, data(), solver, progress=False)


@pytest.fixture(scope="module")
def fits():
    return {name: make(name) for name in KINDS}


@pytest.fixture(scope="module")
def idatas(fits):
    return {name: fit.to_arviz(num_samples=300) for name, fit in fits.items()}


class ExactRegression(zoo.LinearRegression):
    """With the closed form as its guide."""

    def guide(self, x, y):
        exact = self.closed_form(x, y)
        mean, scale, shape, rate = (part.to(self.dtype) for part in exact)
        variance = pyro.sample("variance", dist.InverseGamma(shape, rate))
        spread = variance[..., None, None].sqrt() * torch.linalg.cholesky(scale)
        both = dist.MultivariateNormal(mean, scale_tril=spread)
        both = pyro.sample("both", both, infer={"is_auxiliary": True})
        pyro.sample("intercept", dist.Delta(both[..., 0]))
        pyro.sample("weights", dist.Delta(both[..., 1:], event_dim=1))


def without_fitting(model, data, chains):
    """Wrap a model whose guide needs no fit."""
    rows = model.as_rows(data)
    parameters = stack_chains([read_parameters(model, None)] * chains)
    solution = Solution(
        parameters,
        {"objective": np.zeros((chains, 1))},
        np.zeros(chains),
        ("converged",) * chains,
        model.guide,
    )
    model.remember(rows, model.guide)
    return zoo.Fit(model, zoo.SVI(), solution, rows, seed=0, seconds=0.0)


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(1)
    x = torch.randn(80, 2)
    y = 1.0 + x @ torch.tensor([0.5, -1.0]) + 0.4 * torch.randn(80)
    fit = without_fitting(ExactRegression(2), (x, y), CHAINS)
    return fit, fit.to_arviz(num_samples=2000, coords={"feature": ("height", "weight")})


@pytest.fixture(scope="module")
def schools():
    data = zoo.data.load("eight-schools")
    fit = zoo.fit(zoo.EightSchools(), data, zoo.SVI(steps=60, restarts=2), progress=False)
    return fit, fit.to_arviz(num_samples=300)


def tensor(idata, group, name):
    return torch.from_numpy(get_group(idata, group)[name].values.copy())


# ---- every kind of model ----------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_groups_and_dims(idatas, name):
    idata = idatas[name]
    wanted = {"posterior", "sample_stats", "log_likelihood", "posterior_predictive"}
    wanted |= {"observed_data", "fit"}
    assert wanted <= set(group_names(idata))
    assert ("prior" in group_names(idata)) == (name != "no latents")
    for group in group_names(idata):
        data = get_group(idata, group)
        assert data.data_vars
        assert set(data.dims) == set(data.coords), "ArviZ 1.x plots need a coordinate a dim"
        assert not set(data.dims) & set(data.data_vars)
    for group in ("posterior", "sample_stats", "log_likelihood"):
        for variable in get_group(idata, group).data_vars.values():
            assert variable.dims[:2] == ("chain", "draw")
            # of points the best restart alone: the others are worse optima
            chains = CHAINS if "global" in name or "summed out" in name else 1
            assert variable.shape[:2] == (chains, 300)
            assert np.isfinite(variable.values).all()
    stats = get_group(idata, "sample_stats")
    np.testing.assert_allclose(stats.lp - stats.log_q, stats.log_weight, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_summary_and_loo(az, idatas, name):
    table = arviz_compat.summary(idatas[name])
    assert np.isfinite(table["mean"].astype(float)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a brief fit of local latents may have a high k-hat
        loo = az.loo(idatas[name])
    assert np.isfinite(float(getattr(loo, "elpd_loo", getattr(loo, "elpd", None))))


@pytest.mark.parametrize("name", KINDS)
def test_netcdf_round_trip(idatas, name, tmp_path):
    path = arviz_compat.to_netcdf(idatas[name], tmp_path / "fit.nc")
    back = arviz_compat.from_netcdf(path)
    assert set(group_names(back)) == set(group_names(idatas[name]))
    for group in group_names(back):
        xr.testing.assert_identical(get_group(idatas[name], group), get_group(back, group))
    path.unlink()  # nothing holds the file open


@pytest.mark.parametrize("name", ["no latents", "local discrete", "global"])
@pytest.mark.parametrize("plot", ["trace", "rank", "forest", "pair", "ppc"])
def test_plots_with_default_arguments(az, idatas, linear, name, plot):
    # one scalar is too few for a pair plot: the regression has four
    draw_plot(az, plot, linear[0].to_arviz(200) if name == "global" else idatas[name])


@pytest.mark.parametrize("plot", ["trace", "rank", "forest", "ppc"])
def test_plots_of_the_eight_schools(az, schools, plot):
    draw_plot(az, plot, schools[1])


def test_pair_plot_of_the_eight_schools(az, schools):
    # all 18 scalars at once are more than ArviZ 1.x draws
    draw_plot(az, "pair", schools[1], var_names=["mu", "tau"])


def draw_plot(az, plot, idata, **options):
    name = "plot_ppc_dist" if plot == "ppc" and not arviz_compat.is_classic() else f"plot_{plot}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's own, about matplotlib
        assert getattr(az, name)(idata, **options) is not None
    import matplotlib.pyplot as plt

    plt.close("all")


# ---- what the numbers mean --------------------------------------------------------------------


def test_posterior_of_linear_regression_is_the_closed_form(linear):
    fit, idata = linear
    exact = fit.model.closed_form(*fit.data())
    sd = (exact.scale.diagonal() * exact.rate / (exact.shape - 1)).sqrt()
    assert np.isnan(get_group(idata, "fit")["khat"].values).all(), "the guide is exact"
    posterior = get_group(idata, "posterior")
    assert posterior["weights"].dims == ("chain", "draw", "feature")
    assert list(posterior["feature"].values) == ["height", "weight"]
    found = np.concatenate(
        [posterior["intercept"].values[0][:, None], posterior["weights"].values[0]], 1
    )
    assert np.abs((found.mean(0) - exact.mean.numpy()) / sd.numpy()).max() < 0.1
    np.testing.assert_allclose(found.std(0), sd.numpy(), rtol=0.06)


def test_likelihood_and_replicates_belong_to_the_draws(linear):
    fit, idata = linear
    x, y = fit.data()
    posterior = get_group(idata, "posterior")
    values = {k: torch.from_numpy(posterior[k].values[0].copy()) for k in posterior.data_vars}
    loc = values["intercept"][:, None] + values["weights"] @ x.T
    sd = values["variance"].sqrt()[:, None]
    by_hand = dist.Normal(loc, sd).log_prob(y)
    found = tensor(idata, "log_likelihood", "y")[0]
    torch.testing.assert_close(found.float(), by_hand, rtol=1e-4, atol=1e-4)
    # standard normal only if each replicate comes from its own draw
    score = (tensor(idata, "posterior_predictive", "y")[0] - loc) / sd
    assert abs(score.mean()) < 0.02
    assert abs(score.std() - 1.0) < 0.02
    np.testing.assert_array_equal(get_group(idata, "constant_data")["x"].values, x.numpy())
    np.testing.assert_array_equal(get_group(idata, "observed_data")["y"].values, y.numpy())


def test_summed_out_assignments_are_summed_out_of_the_likelihood(fits, idatas):
    x = fits["discrete summed out"].data()[0]
    gap = tensor(idatas["discrete summed out"], "posterior", "gap")
    by_hand = torch.stack([Switch().row_density(g, x) for g in gap.flatten()])
    found = tensor(idatas["discrete summed out"], "log_likelihood", "x").flatten(0, 1)
    torch.testing.assert_close(found.float(), by_hand, rtol=1e-4, atol=1e-4)


class Both(zoo.Model):
    """Below a global latent, each row has a continuous latent and one that is summed out."""

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with self.observations("rows", x):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            side = pyro.sample("side", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z + 2.0 * side, 0.5), obs=x)


def test_likelihood_is_given_local_latents_but_not_the_summed_out():
    fit = zoo.fit(Both(), line(7), zoo.SVI(steps=30), progress=False)
    idata = to_arviz(fit, num_samples=50)
    z, x = tensor(idata, "posterior", "z"), fit.data()[0]
    by_hand = torch.logsumexp(
        torch.stack(
            [
                np.log(0.7) + dist.Normal(z, 0.5).log_prob(x),
                np.log(0.3) + dist.Normal(z + 2.0, 0.5).log_prob(x),
            ]
        ),
        0,
    )
    found = tensor(idata, "log_likelihood", "x").float()
    torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-3)


def test_points_have_their_log_density_as_likelihood(az, fits, idatas):
    fit, idata = fits["local discrete"], idatas["local discrete"]
    by_hand = fit.model.log_prob(fit.data()[0])
    found = tensor(idata, "log_likelihood", "x")[0]  # the best chain alone
    torch.testing.assert_close(found.float(), by_hand.expand(300, -1), rtol=0, atol=2e-5)
    loo = az.loo(idata)
    total = np.mean([chain.sum() for chain in tensor(idata, "log_likelihood", "x")[:, 0]])
    elpd = float(getattr(loo, "elpd_loo", getattr(loo, "elpd", None)))
    assert abs(elpd - total) < 0.05
    assert np.isnan(get_group(idata, "fit")["khat"].values).all(), "the guide is exact"


def test_local_discrete_draws_follow_the_responsibilities(fits):
    fit = fits["local discrete"]
    idata = fit.to_arviz(num_samples=4000, max_local=5)
    posterior = get_group(idata, "posterior")
    rows = posterior["observations"].values.copy()
    assert len(rows) == 5
    assert rows[0] == 0 and rows[-1] == 59
    share = posterior["z"].values[0].mean(0)  # of state 1
    exact = fit.model.encode(fit.data()[0])[rows, 1].numpy()
    np.testing.assert_allclose(share, exact, atol=0.05)


def test_representation_where_nothing_is_drawn(idatas, fits):
    posterior = get_group(idatas["no latents"], "posterior")
    (name,) = posterior.data_vars
    rows = posterior["observations"].values.copy()
    by_hand = fits["no latents"].model.log_prob(fits["no latents"].data()[0])[rows]
    np.testing.assert_allclose(posterior[name].values[0, 0], by_hand.detach(), rtol=1e-5)


def test_prior_is_drawn_without_the_data():
    fit = zoo.fit(Mean(prior=2.0, noise=0.5), line(), zoo.SVI(steps=20), progress=False)
    idata = to_arviz(fit, num_samples=4000)
    mu = get_group(idata, "prior")["mu"].values
    assert mu.shape == (1, 4000)
    assert abs(mu.mean()) < 0.15
    assert abs(mu.std() - 2.0) < 0.1
    x = get_group(idata, "prior_predictive")["x"].values
    assert abs(x.std() - np.hypot(2.0, 0.5)) < 0.15


def test_solver_draws_come_first(fits):
    torch.manual_seed(3)
    fit = make("global and local")
    mu, z = torch.randn(CHAINS, 40), torch.randn(CHAINS, 40, 30)
    fit.solution.draws = {"mu": mu, "z": z}
    idata = to_arviz(fit, num_samples=40)
    torch.testing.assert_close(tensor(idata, "posterior", "mu"), mu)
    torch.testing.assert_close(tensor(idata, "posterior", "z"), z)
    x = fit.data()[0]
    by_hand = dist.Normal(z, 1.0).log_prob(x)
    torch.testing.assert_close(tensor(idata, "log_likelihood", "x").float(), by_hand)
    joint = by_hand.sum(-1) + dist.Normal(mu[..., None], 1.0).log_prob(z).sum(-1)
    joint = joint + dist.Normal(0.0, 1.0).log_prob(mu)
    torch.testing.assert_close(tensor(idata, "sample_stats", "lp"), joint, rtol=1e-4, atol=1e-3)
    assert "log_weight" not in get_group(idata, "sample_stats")
    score = tensor(idata, "posterior_predictive", "x") - z
    assert abs(score.std() - 1.0) < 0.1


# ---- chosen rows and names --------------------------------------------------------------------


def test_many_rows_are_thinned_and_say_which(fits):
    x = line(2500)
    fit = zoo.fit(Mean(), x, zoo.SVI(steps=20), progress=False)
    idata = to_arviz(fit, num_samples=20, max_observations=100)
    rows = get_group(idata, "log_likelihood")["observations"].values.copy()
    assert len(rows) == 100
    np.testing.assert_array_equal(get_group(idata, "observed_data")["x"].values, x[rows])
    mu = tensor(idata, "posterior", "mu")[0]
    by_hand = dist.Normal(mu[:, None], 0.5).log_prob(x[rows])
    found = tensor(idata, "log_likelihood", "x")[0].float()
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)
    lp = dist.Normal(0.0, 2.0).log_prob(mu) + dist.Normal(mu[:, None], 0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(tensor(idata, "sample_stats", "lp")[0], lp, rtol=1e-4, atol=1e-2)


def test_guides_with_parameters_for_rows_see_all_rows():
    x = line(300)
    fit = zoo.fit(Groups(), x, zoo.SVI(steps=20), progress=False)
    idata = to_arviz(fit, num_samples=30, max_observations=50, max_local=7)
    rows = get_group(idata, "posterior")["groups"].values.copy()
    shown = get_group(idata, "log_likelihood")["groups"].values.copy()
    assert len(rows) == 7 and set(rows) <= set(shown)
    z, ll = tensor(idata, "posterior", "z")[0], tensor(idata, "log_likelihood", "x")[0]
    by_hand = dist.Normal(z, 1.0).log_prob(x[rows])
    torch.testing.assert_close(ll[:, np.searchsorted(shown, rows)].float(), by_hand)


class Clash(zoo.Model):
    """A dimension named like a variable, and variables named like dimensions of ArviZ."""

    event_dims = {"b": ("theta",)}

    def model(self, x):
        draw = pyro.sample("draw", dist.Normal(0.0, 1.0))
        theta = pyro.sample("theta", dist.Normal(draw, 1.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with self.observations("theta_rows", x), pyro.plate("x_parts", 1, dim=-2):
            pyro.sample("x", dist.Normal(theta + b.sum(-1), 1.0), obs=x[None])
        with pyro.plate("step", 3, dim=-1):
            pyro.sample("chain", dist.Normal(0.0, 1.0))


def test_names_do_not_clash():
    fit = zoo.fit(Clash(), line(5), zoo.SVI(steps=20), progress=False)
    idata = to_arviz(fit, num_samples=20)
    posterior = get_group(idata, "posterior")
    assert set(posterior.data_vars) == {"draw_value", "theta", "b", "chain_value"}
    assert posterior["chain_value"].dims == ("chain", "draw", "step_dim")
    assert posterior["b"].dims == ("chain", "draw", "theta_dim")
    assert get_group(idata, "log_likelihood")["x"].dims[2:] == ("x_parts", "theta_rows")
    arviz_compat.summary(idata)


def test_what_the_fit_group_holds(fits, idatas):
    fit = fits["local discrete"]
    group = get_group(idatas["local discrete"], "fit")
    assert group["objective"].dims == ("chain", "step")
    np.testing.assert_array_equal(group["objective"].values, fit.history["objective"])
    np.testing.assert_allclose(
        group["weights"].values[fit.solution.best], fit.model.weights.detach(), rtol=1e-6
    )
    assert group["rates"].shape == (CHAINS, 2, 4)
    assert group.attrs["seed"] == 0
    assert group.attrs["device"] == "cpu"
    assert "torch" in group.attrs["versions"]
    assert float(group["seconds"]) == fit.seconds


def test_public_tensors_stand_for_parameters():
    x = torch.cat([torch.randn(60, 2), 6.0 + torch.randn(40, 2)])
    fit = zoo.fit(zoo.GaussianMixture(2, 2), x, zoo.EM(restarts=2), progress=False)
    group = get_group(fit.to_arviz(num_samples=50), "fit")
    assert {"weights", "means", "covariances"} <= set(group.data_vars)
    assert "logits" not in group
    # both chains found the two clusters, in the same order
    np.testing.assert_allclose(group["means"].values[0], group["means"].values[1], atol=0.05)


def test_caller_random_state_and_parameters_are_left_alone(fits):
    fit = fits["global and local"]
    before = torch.random.get_rng_state()
    kept = {k: v.clone() for k, v in fit.guide.state_dict().items()}
    first, second = fit.to_arviz(num_samples=20), fit.to_arviz(num_samples=20)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(v, kept[k]) for k, v in fit.guide.state_dict().items())
    xr.testing.assert_identical(get_group(first, "posterior"), get_group(second, "posterior"))


def test_rhat_compares_restarts(linear):
    assert 0.99 < max_rhat(linear[1]) < 1.05
    moved = get_group(linear[1], "posterior").copy(deep=True)
    moved["intercept"][1] += 1.0
    assert max_rhat(arviz_compat.bundle({"posterior": moved})) > 1.5
    alone = arviz_compat.bundle({"posterior": moved.isel(chain=[0])})
    assert np.isnan(max_rhat(alone)), "one chain cannot disagree"


def test_bad_options_and_lost_data(fits, tmp_path):
    with pytest.raises(ValueError, match="num_samples: got 0"):
        to_arviz(fits["global"], num_samples=0)
    lost = zoo.load(fits["no latents"].save(tmp_path / "run", include_data=False), model=None)
    with pytest.raises(zoo.QueryError, match="holds no data"):
        to_arviz(lost)
    with pytest.raises(KeyError, match="no group 'nothing'"):
        get_group(to_arviz(fits["no latents"], num_samples=10), "nothing")


def test_log_prior_is_the_density_of_each_latent_site(az):
    def program(x):
        m = pyro.sample("m", dist.Normal(1.0, 2.0))
        s = pyro.sample("s", dist.Gamma(2.0, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(m, 1.0))
            pyro.sample("x", dist.Normal(z, s), obs=x)

    fit = zoo.fit(program, torch.randn(6), zoo.SVI(guide="normal"), progress=False)
    exported = to_arviz(fit, num_samples=50)
    prior, posterior = get_group(exported, "log_prior"), get_group(exported, "posterior")
    held = {k: torch.from_numpy(posterior[k].values).double() for k in ("m", "s", "z")}
    expected = {
        "m": dist.Normal(1.0, 2.0).log_prob(held["m"]),
        "s": dist.Gamma(2.0, 1.0).log_prob(held["s"]),
        "z": dist.Normal(held["m"][..., None], 1.0).log_prob(held["z"]).sum(-1),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(prior[name].values, value.numpy(), rtol=1e-4, atol=1e-4)
    if hasattr(az, "psense"):  # ArviZ 1.x: power-scaling sensitivity reads the group
        found = az.psense(exported, var_names=["m"], group="prior", group_var_names=["m"])
        assert np.isfinite(float(np.asarray(found["m"])))
