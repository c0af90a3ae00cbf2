"""Published Pyro code goes through zoo.fit as it stands; the parameter store stays as it was."""

import functools
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from tiny_models import line
from torch import nn
from torch.distributions import constraints

import ppl_zoo as zoo

# ---- the introductory tutorial: a coin with a Beta guide (pyro.ai/examples/svi_part_i.html) ----


def coin(data):
    f = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
    with pyro.plate("tosses", len(data)):
        pyro.sample("obs", dist.Bernoulli(f), obs=data)


def coin_guide(data):
    alpha = pyro.param("alpha_q", torch.tensor(15.0), constraint=constraints.positive)
    beta = pyro.param("beta_q", lambda: torch.tensor(15.0), constraint=constraints.positive)
    pyro.sample("latent_fairness", dist.Beta(alpha, beta))


@pytest.fixture(autouse=True)
def store_untouched():
    pyro.clear_param_store()
    pyro.get_param_store()["mine"] = torch.tensor(3.0)
    yield
    assert list(pyro.get_param_store().keys()) == ["mine"]
    pyro.clear_param_store()


@pytest.mark.parametrize("compiled", ["xla", pytest.param(False, marks=pytest.mark.slow)])
def test_coin_tutorial(compiled):
    tosses = torch.tensor([1.0] * 6 + [0.0] * 4)
    steps = 2500 if compiled else 1000
    svi = zoo.SVI(steps=steps, guide=coin_guide, compile=compiled)
    fit = zoo.fit(coin, tosses, svi, progress=False)
    assert fit.solution.engine == ("xla" if compiled else "interpreted")
    # Beta(16, 14), which the guide's family holds
    draws = fit.posterior(8000)["latent_fairness"]
    assert draws.mean().item() == pytest.approx(16 / 30, abs=0.015)
    assert draws.std().item() == pytest.approx((16 * 14 / 30**2 / 31) ** 0.5, rel=0.1)


# ---- Bayesian regression with an autoguide (pyro.ai/examples/bayesian_regression.html) -------


def regression(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("obs", dist.Normal(a + b * x, sigma), obs=y)


def test_regression_tutorial():
    x = torch.linspace(-1, 1, 60)
    y = 0.5 + 2.0 * x + 0.3 * torch.randn(60)
    fit = zoo.fit(regression, (x, y), zoo.SVI(guide="multivariate-normal"), progress=False)
    posterior = fit.posterior(2000)
    design = torch.stack([torch.ones_like(x), x], 1)
    least_squares = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    assert posterior["a"].mean().item() == pytest.approx(least_squares[0].item(), abs=0.03)
    assert posterior["b"].mean().item() == pytest.approx(least_squares[1].item(), abs=0.05)
    assert fit.to_arviz(50)["posterior"].sizes["draw"] == 50


# ---- the mixture tutorial, enumerated (pyro.ai/examples/gmm.html) ------------------------


@config_enumerate
def mixture(data):
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def test_mixture_tutorial():
    data = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])

    def start(site):  # the tutorial's own
        if site["name"] == "weights":
            return torch.ones(2) / 2
        if site["name"] == "scale":
            return (data.var() / 2).sqrt()
        return data[torch.multinomial(torch.ones(5) / 5, 2)]

    guide = functools.partial(pyro.infer.autoguide.AutoDelta, init_loc_fn=start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a start with both locs alike may diverge, see below
        fit = zoo.fit(mixture, data, zoo.SVI(guide=guide, restarts=4), progress=False)
    locs = fit.posterior(1)["locs"][fit.solution.best, 0].sort().values
    assert locs[0].item() == pytest.approx(0.5, abs=0.1)
    assert locs[1].item() == pytest.approx(11.0, abs=0.1)


def test_a_chain_that_diverges_is_left_behind():
    # the density has no bound where a weight runs to 0, and one of these starts finds it
    data = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])
    with pytest.warns(UserWarning, match="the other chains went on"):
        fit = zoo.fit(mixture, data, zoo.SVI(guide="delta", restarts=3), progress=False)
    assert "diverged" in fit.solution.stopped
    assert fit.stopped == "converged"
    assert all(v.isfinite().all() for v in fit.solution.parameters.values())


# ---- pyro.module: an autoencoder with functions for model and guide ----------------------


def test_autoencoder_with_modules():
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(1, 3), nn.Linear(3, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_sd = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_sd.exp()).to_event(1))

    z = torch.randn(100, 1)
    x = z * torch.tensor([1.0, -1.0, 0.5]) + 0.5 * torch.randn(100, 3)
    fit = zoo.fit(model, x, zoo.SVI(guide=guide), progress=False)
    assert fit.solution.engine == "xla"
    loading = decoder.weight[:, 0].detach()
    covariance = torch.outer(loading, loading) + 0.25 * torch.eye(3)
    exact = dist.MultivariateNormal(decoder.bias.detach(), covariance).log_prob(x).sum()
    best = dist.MultivariateNormal(x.mean(0), x.T.cov(correction=0)).log_prob(x).sum()
    assert fit.objective == pytest.approx(exact.item(), abs=3.0)  # the guide holds the posterior
    assert best.item() - exact.item() < 15.0


def test_plain_functions_have_no_scaled_plate():
    with pytest.raises(zoo.DataError, match=r"self\.observations"):
        zoo.fit(coin, line(20).abs().clamp(0, 1).round(), zoo.SVI(batch_size=5), progress=False)


# ---- the same numbers, compiled and interpreted -------------------------------------------


def eight_schools(y, sigma):  # pyro.ai/examples/mcmc.html
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(25.0))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)


def hidden_markov(sequences):  # model_1 of pyro.ai/examples/hmm.html
    with pyro.plate("states", 3):
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(3) + 0.1))
    with pyro.plate("notes", 2, dim=-1), pyro.plate("states_", 3, dim=-2):
        probs_y = pyro.sample("probs_y", dist.Beta(0.5, 0.9))
    tones = pyro.plate("tones", 2, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        x = 0
        for t in pyro.markov(range(sequences.shape[1])):
            x = pyro.sample(
                f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"}
            )
            with tones:
                probs = probs_y[x.squeeze(-1)]
                pyro.sample(f"y_{t}", dist.Bernoulli(probs), obs=sequences[:, t])


PUBLISHED = {
    "eight schools": (eight_schools, lambda: tuple(zoo.data.load("eight-schools").train)),
    "regression": (regression, lambda: (line(20), 2 * line(20) + 1)),
    "mixture": (mixture, lambda: (torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]),)),
    "hidden Markov": (hidden_markov, lambda: ((torch.rand(4, 3, 2) < 0.4).float(),)),
}


@pytest.mark.slow  # tests/programs/ has more of them
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_programs_compile_to_the_interpreters_numbers(name):
    program, data = PUBLISHED[name]
    rows = data()
    runs = []
    for compiled in (False, "xla"):
        torch.manual_seed(1)
        # without noise both take the same steps
        svi = zoo.SVI(steps=25, window=25, guide="delta", learning_rate=0.01, compile=compiled)
        runs.append(zoo.fit(program, rows if len(rows) > 1 else rows[0], svi, progress=False))
    assert [r.solution.engine for r in runs] == ["interpreted", "xla"]
    one, other = (r.history["objective"][0] for r in runs)
    assert one == pytest.approx(other, rel=1e-4)


# ---- arguments are what they are in Python -------------------------------------------------


def location(y, scale=1.0, *, rows="rows", prior=None, options=None):
    assert isinstance(scale, float) and isinstance(rows, str)
    mu = pyro.sample("mu", prior or dist.Normal(0.0, 10.0))
    shift = options["shift"] if options else 0.0
    with pyro.plate(rows, len(y)):
        pyro.sample("y", dist.Normal(mu + shift, scale), obs=y)


Y = 3 + torch.randn(50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("data", "shift"),
    [
        (Y, 0.0),
        ((Y, 1.0), 0.0),
        ({"y": Y, "rows": "people", "prior": None}, 0.0),
        ({"y": Y, "options": {"shift": torch.tensor(2.0), "unused": [1, "a"]}}, 2.0),
    ],
    ids=["a tensor", "positional", "by name", "nested"],
)
def test_arguments(data, shift, tmp_path):
    fit = zoo.fit(location, data, progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(
        Y.mean().item() - shift, abs=0.03
    )
    again = zoo.load(fit.save(tmp_path / "run"), model=location)
    assert torch.equal(again.posterior(5)["mu"], fit.posterior(5)["mu"])
    assert fit.model.model_name == "location" and repr(fit).startswith("Fit(location, ")


def test_a_frame_whose_columns_are_the_arguments():
    import pandas

    x = torch.linspace(-1, 1, 60)
    frame = pandas.DataFrame({"y": (0.5 + 2.0 * x).numpy(), "x": x.numpy()})
    fit = zoo.fit(regression, frame, zoo.SVI(steps=3, compile=False), progress=False)
    assert [t.tolist() for t in fit.data()] == [frame["x"].tolist(), frame["y"].tolist()]
    a, b = (fit.model.arguments(*fit.data())[1][name] for name in ("x", "y"))
    assert torch.equal(a, x) and torch.equal(b, 0.5 + 2.0 * x)


def test_ragged_lists_and_a_number_of_rows():
    parts = [Y[:10], Y[10:17], Y[17:]]

    def ragged(parts, num):
        assert num == 3
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        for i in pyro.plate("parts", num):
            normal = dist.Normal(mu, 1.0).expand([len(parts[i])]).to_event(1)
            pyro.sample(f"y_{i}", normal, obs=parts[i])

    fit = zoo.fit(ragged, (parts, 3), progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(Y.mean().item(), abs=0.03)
    assert "posterior" in fit.to_arviz(20)


def test_a_program_without_arguments():
    def chain():
        mean = pyro.sample("mean", dist.Normal(1.0, 1.0))
        pyro.sample("x", dist.Normal(mean, 1.0))

    fit = zoo.fit(chain, None, zoo.NUTS(300, 300, num_chains=2), progress=False)
    draws = fit.posterior()["x"]
    assert draws.mean().item() == pytest.approx(1.0, abs=0.3)
    assert draws.std().item() == pytest.approx(2**0.5, rel=0.2)
    assert "posterior" in fit.to_arviz(20)


def test_what_the_function_does_not_take():
    with pytest.raises(zoo.DataError, match="missing a required argument: 'sigma'"):
        zoo.fit(eight_schools, Y, progress=False)
    with pytest.raises(zoo.DataError, match="got 'sigma', expected the names"):
        zoo.fit(location, {"y": Y, "sigma": 1.0}, progress=False)


def test_dtypes_are_kept():
    y = (Y.double() + 1e8).numpy()

    def far(y):
        assert y.dtype == torch.float64
        mu = pyro.sample("mu", dist.Normal(1e8, 100.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = zoo.fit(far, y, progress=False)
    draws = fit.posterior(4000)["mu"]
    assert draws.dtype == torch.float64
    assert draws.mean().item() - 1e8 == pytest.approx(y.mean() - 1e8, abs=0.02)
    assert draws.std().item() == pytest.approx(50**-0.5, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
def test_binary_data_of_any_dtype(dtype):
    x = (torch.arange(40) < 30).to(dtype)

    def tosses(x):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("tosses", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    fit = zoo.fit(tosses, x, progress=False)
    assert fit.posterior(4000)["p"].mean().item() == pytest.approx(32 / 44, abs=0.02)
    assert "x" in fit.to_arviz(20)["observed_data"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int64])
def test_indices_of_any_dtype(dtype):
    groups = (torch.arange(50) % 3).to(dtype)

    def by_group(groups, y):
        with pyro.plate("groups", 3):
            mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu[groups], 1.0), obs=y)

    means = zoo.fit(by_group, (groups, Y), progress=False).posterior(2000)["mu"].mean((0, 1))
    exact = torch.stack([Y[groups.long() == k].mean() for k in range(3)])
    torch.testing.assert_close(means, exact, atol=0.05, rtol=0.02)


def test_nan_that_the_program_masks_and_nan_that_it_does_not():
    y = Y.clone()
    y[::5] = float("nan")

    def masked(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        seen = ~y.isnan()
        with pyro.plate("rows", len(y)), pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.where(seen, y, torch.zeros(())))

    fit = zoo.fit(masked, y, progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(
        y[~y.isnan()].mean().item(), abs=0.03
    )
    with pytest.raises(zoo.DataError, match=r"site 'y': got a log density of nan, which is in y"):
        zoo.fit(location, y, progress=False)


def subsampled(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y), subsample_size=10) as chosen:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y[chosen])


def test_a_plate_that_subsamples():
    fit = zoo.fit(subsampled, Y, zoo.SVI(steps=4000, guide="normal"), progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(Y.mean().item(), abs=0.1)
    exported = fit.to_arviz(20)
    assert exported["log_likelihood"]["y"].shape == (1, 20, 50)  # all rows, not a draw of them
    with pytest.raises(zoo.DataError, match=r"'rows', which subsamples 10 of 50"):
        zoo.fit(subsampled, Y, zoo.NUTS(5, 5, num_chains=1), progress=False)


def test_crossed_plates_export_each_observation():
    y = torch.randn(6, 4)

    def crossed(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 6, dim=-2), pyro.plate("columns", 4, dim=-1):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = zoo.fit(crossed, y, progress=False)
    exported = fit.to_arviz(30)["log_likelihood"]["y"]
    assert dict(exported.sizes) == {"chain": 1, "draw": 30, "rows": 6, "columns": 4}
    mu = fit.to_arviz(30)["posterior"]["mu"].values[0, 3]
    assert exported.values[0, 3] == pytest.approx(
        dist.Normal(torch.tensor(mu), 1.0).log_prob(y).numpy(), abs=1e-4
    )


@pytest.mark.parametrize("optimizer", ["same for all", "by name"])
def test_optimizers_of_pyro(optimizer):
    options = {"lr": 0.05}
    given = pyro.optim.Adam(options if optimizer == "same for all" else lambda name: options)
    tosses = torch.tensor([1.0] * 6 + [0.0] * 4)
    fits = [
        zoo.fit(coin, tosses, zoo.SVI(guide=coin_guide, steps=50, **o), progress=False)
        for o in ({"optimizer": given}, {"learning_rate": 0.05})
    ]
    assert (fits[0].history["objective"] == fits[1].history["objective"]).all()


def test_a_loss_function_is_a_bound():
    elbo = pyro.infer.Trace_ELBO(num_particles=2)
    tosses = torch.tensor([1.0] * 6 + [0.0] * 4)
    one, other = (
        zoo.fit(coin, tosses, zoo.SVI(elbo=e, guide=coin_guide, steps=20), progress=False)
        for e in (elbo, elbo.differentiable_loss)
    )
    assert (one.history["objective"] == other.history["objective"]).all()


@pytest.mark.slow
def test_pyros_renyi_bound_is_compiled():
    tosses = torch.tensor([1.0] * 6 + [0.0] * 4)
    bound = pyro.infer.RenyiELBO(alpha=0.5, num_particles=2)
    svi = zoo.SVI(elbo=bound, guide=coin_guide, steps=1000, learning_rate=0.05, compile="xla")
    fit = zoo.fit(coin, tosses, svi, progress=False)
    assert fit.solution.engine == "xla"
    draws = fit.posterior(4000)["latent_fairness"]
    assert draws.mean().item() == pytest.approx(16 / 30, abs=0.05)
