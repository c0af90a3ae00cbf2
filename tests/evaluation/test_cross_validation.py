"""Leave-one-out by weights against exact leave-one-out; stacking against an optimiser."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Factor, Mean, line, real

import ppl_zoo as zoo
from ppl_zoo.diagnostics import arviz_compat, get_group, to_arviz

PRIOR_SD = 2.0


def regression(num_features):
    """Linear regression with known variance on the first features."""

    def program(x, y):
        weights = pyro.sample(
            "weights", dist.Normal(torch.zeros(num_features), PRIOR_SD).to_event(1)
        )
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x[:, :num_features] @ weights, 1.0), obs=y)

    return program


def exact_loo(x, y):
    """Log density of each row given the others, in closed form, ``(rows,)``."""
    x, y = x.double(), y.double()
    out = []
    for left_out in range(len(y)):
        kept = torch.arange(len(y)) != left_out
        precision = x[kept].T @ x[kept] + torch.eye(x.shape[1]) / PRIOR_SD**2
        covariance = torch.linalg.inv(precision)
        mean = x[left_out] @ covariance @ x[kept].T @ y[kept]
        variance = x[left_out] @ covariance @ x[left_out] + 1.0
        out.append(dist.Normal(mean, variance.sqrt()).log_prob(y[left_out]).item())
    return np.array(out)


def elpd(found):
    return float(arviz_compat.elpd_of_rows(found).sum())


@pytest.fixture(scope="module")
def az():
    return arviz_compat._arviz()


@pytest.fixture(scope="module")
def data():
    """An intercept, a feature far from 0 (so that the two are correlated), and one of noise."""
    generator = torch.Generator().manual_seed(0)
    near, noise, errors = torch.randn(3, 30, generator=generator)
    x = torch.stack([torch.ones(30), 2.0 + near, noise], 1)
    return x, x @ torch.tensor([1.0, 0.6, 0.0]) + errors


def posterior(x, y):
    """Mean and covariance of the weights, exact."""
    x, y = x.double(), y.double()
    covariance = torch.linalg.inv(x.T @ x + torch.eye(x.shape[1]) / PRIOR_SD**2)
    return covariance @ x.T @ y, covariance


#: leaves a guide as it is written
UNFITTED = {"steps": 2, "learning_rate": 1e-9, "compile": False}


def around(data, num_features, scale):
    """Fit whose guide is around the exact mean, its sds so many of the exact ones."""
    mean, covariance = (part.float() for part in posterior(data[0][:, :num_features], data[1]))

    def guide(x, y):
        at = pyro.param("at", mean)
        pyro.sample("weights", dist.MultivariateNormal(at, scale**2 * covariance))

    solver = zoo.SVI(guide=guide, **UNFITTED)
    return zoo.fit(regression(num_features), data, solver, progress=False)


@pytest.fixture(scope="module")
def wide(data):
    return around(data, 2, 2.0)


@pytest.fixture(scope="module")
def models(data):
    """Models of one, two and three features."""
    names = {"intercept": 1, "slope": 2, "noise": 3}
    return {name: around(data, size, 1.2) for name, size in names.items()}


def test_a_fit_leaves_rows_out_as_the_closed_form(data):
    exact = exact_loo(data[0][:, :2], data[1])
    fit = zoo.fit(regression(2), data, progress=False)
    found = zoo.loo(fit)
    np.testing.assert_allclose(arviz_compat.elpd_of_rows(found).values, exact, atol=0.05)
    assert elpd(found) == pytest.approx(exact.sum(), abs=0.15)
    assert int(found.n_data_points) == 30 and int(found.n_samples) == 4000
    assert float(found.pareto_k.max()) < 0.5


def test_a_guide_that_is_too_wide_is_corrected(az, data, wide):
    x, y = data[0][:, :2], data[1]
    exact = exact_loo(x, y).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pareto k
        plain = elpd(az.loo(wide.to_arviz(4000), pointwise=True))
    assert abs(plain - exact) > 1.0  # the draws as they are
    found = zoo.loo(wide)
    assert elpd(found) == pytest.approx(exact, abs=0.15)
    again = az.loo(wide.to_arviz(4000, resample=True), pointwise=True)
    assert elpd(again) == pytest.approx(exact, abs=0.2)
    # p_loo: in-sample less left-out log predictive density, both of the exact posterior
    mean, covariance = posterior(x, y)
    x = x.double()
    sd = (1.0 + torch.einsum("ni,ij,nj->n", x, covariance, x)).sqrt()
    effective = dist.Normal(x @ mean, sd).log_prob(y).sum().item() - exact
    assert getattr(found, "p_loo", getattr(found, "p", None)) == pytest.approx(effective, abs=0.15)


def test_one_call_of_arviz_takes_what_is_exported(az, data, wide):
    exported = wide.to_arviz(4000)
    stats = get_group(exported, "sample_stats")
    if hasattr(az, "loo_approximate_posterior"):  # ArviZ 1.x
        found = az.loo_approximate_posterior(exported, stats["lp"], stats["log_q"], pointwise=True)
    else:
        found = arviz_compat.loo(exported, "y", stats["lp"], stats["log_q"])
    assert elpd(found) == pytest.approx(elpd(zoo.loo(wide)), abs=1e-6)


def test_resampled_draws_are_the_posterior_and_say_so(data, wide):
    exported = wide.to_arviz(2000, resample=True)
    x = data[0][:, :2].double()
    mean, covariance = posterior(x, data[1])
    mean, sd = mean.numpy(), covariance.diagonal().sqrt().numpy()
    drawn = get_group(exported, "posterior")["weights"].values[0]
    assert (wide.posterior(4000)["weights"][0].std(0).numpy() / sd).min() > 1.8
    np.testing.assert_allclose(drawn.std(0), sd, rtol=0.1)
    assert np.abs((drawn.mean(0) - mean) / sd).max() < 0.1
    stats = get_group(exported, "sample_stats")
    assert "log_q" not in stats and "log_weight" not in stats
    assert get_group(exported, "fit")["khat"].values[0] < 0.7
    # the log joint is that of the resampled draws
    held = torch.from_numpy(drawn).double()
    scores = dist.Normal(held @ x.T, 1.0).log_prob(data[1].double()).sum(-1)
    joint = dist.Normal(0.0, PRIOR_SD).log_prob(held).sum(-1) + scores
    np.testing.assert_allclose(stats["lp"].values[0], joint.numpy(), rtol=1e-4, atol=1e-3)


def stacked(log_densities):
    """Weights of a mixture that maximise the mean log density of rows, by EM."""
    density = np.exp(log_densities)
    weights = np.full(density.shape[1], 1.0 / density.shape[1])
    for _ in range(20_000):
        shares = density * weights
        weights = (shares / shares.sum(1, keepdims=True)).mean(0)
    return weights


def test_stacking_over_models(data, models):
    table = zoo.compare(models)
    x, y = data
    exact = np.stack([exact_loo(x[:, :size], y) for size in (1, 2, 3)], 1)
    order = [list(models)[i] for i in np.argsort(-exact.sum(0))]
    assert list(table.index) == order
    gaps = table["elpd_diff"].abs()[list(models)].to_numpy()
    np.testing.assert_allclose(gaps, exact.sum(0).max() - exact.sum(0), atol=0.25)
    found = [arviz_compat.elpd_of_rows(zoo.loo(fit)).values for fit in models.values()]
    weights = table["weight"][list(models)].to_numpy().astype(float)
    assert weights.sum() == pytest.approx(1.0, abs=1e-6)
    for of, tolerance in ((np.stack(found, 1), 1e-4), (exact, 0.02)):
        # the optimum may be flat: it is its value that has to be reached
        best, own = (np.log(np.exp(of) @ w).sum() for w in (stacked(of), weights))
        assert own == pytest.approx(best, abs=tolerance)
    np.testing.assert_allclose(weights, stacked(np.stack(found, 1)), atol=0.01)


def test_a_sampler_s_draws_and_a_guide_s_agree(az, data, wide, models):
    sampled = around(data, 2, 1.0)
    mean, covariance = posterior(data[0][:, :2], data[1])
    exact_draws = dist.MultivariateNormal(mean, covariance).sample((1, 2000)).float()
    sampled.solution.draws = {"weights": exact_draws}
    fits = {"wide": wide, "near": models["slope"], "sampled": sampled}
    exact = exact_loo(data[0][:, :2], data[1]).sum()
    table = zoo.compare(fits)
    column = "elpd_loo" if "elpd_loo" in table else "elpd"
    np.testing.assert_allclose(table[column].to_numpy(float), exact, atol=0.2)
    # so does ArviZ by itself on resampled exports, where a sampler's draws stay as they are
    exports = {name: fit.to_arviz(2000, resample=True) for name, fit in fits.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, to ArviZ
        exactly = {} if arviz_compat.is_classic() else {"round_to": "none"}
        own = az.compare(exports, **exactly)
    np.testing.assert_allclose(own[column].to_numpy(float), exact, atol=0.3)
    kept = get_group(exports["sampled"], "posterior")["weights"].values
    np.testing.assert_array_equal(kept, exact_draws.numpy())


@pytest.mark.slow
def test_solvers_of_one_model_agree(data):
    solvers = {"SVI": zoo.SVI(), "mean field": zoo.SVI(guide="normal"), "Auto": zoo.Auto()}
    solvers["NUTS"] = zoo.NUTS(num_samples=1000, num_chains=2)
    # in a basis where mean field is near enough for weights
    x = torch.linalg.qr(data[0][:, :2]).Q * 30**0.5
    fits = {
        name: zoo.fit(regression(2), (x, data[1]), solver, progress=False)
        for name, solver in solvers.items()
    }
    table = zoo.compare(fits)
    column = "elpd_loo" if "elpd_loo" in table else "elpd"
    exact = exact_loo(x, data[1]).sum()
    np.testing.assert_allclose(table[column].to_numpy(float), exact, atol=0.2)


def two_modes(y):
    """Rows of two kinds below one mean, which sits on one of the kinds."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(1.0, mu, 0.3), obs=y)


def test_stacking_of_answers_in_two_modes_weighs_them_as_the_data_do():
    """Yao et al. 2022: chains that do not mix, weighted by what they predict."""
    y = torch.cat([-3.0 + 0.3 * torch.randn(28), 3.0 + 0.3 * torch.randn(12)])
    fits = {}
    for side in (-3.0, 3.0):

        def guide(y, side=side):
            at = pyro.param("at", torch.tensor(side))
            pyro.sample("mu", dist.Normal(at, 0.2))

        solver = zoo.SVI(guide=guide, **UNFITTED)
        fits[str(side)] = zoo.fit(two_modes, y, solver, progress=False)
    weights = zoo.compare(fits)["weight"]
    assert weights["-3.0"] == pytest.approx(28 / 40, abs=0.05)


# ---- what is told, and refused ----------------------------------------------------------------


def normal(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_row_that_the_posterior_hangs_on_is_named():
    y = torch.cat([torch.linspace(-1.0, 1.0, 20), torch.tensor([14.0])])
    fit = zoo.fit(normal, y, progress=False)
    with pytest.warns(UserWarning, match=r"Pareto k of 1 of 21 rows is high .*: 20 \("):
        zoo.loo(fit)


def test_a_guide_that_is_too_far_is_named():
    y = torch.randn(50)

    def narrow(y):
        at = pyro.param("at", y.mean())
        pyro.sample("mu", dist.Normal(at, 0.02))  # a seventh of the posterior's sd

    fit = zoo.fit(normal, y, zoo.SVI(guide=narrow, **UNFITTED), progress=False)
    with pytest.warns(UserWarning, match=r"k-hat of the guide is .* too far from the posterior"):
        zoo.loo(fit)
    with pytest.warns(UserWarning, match="resampled draws are not"):
        fit.to_arviz(100, resample=True)


def test_points_leave_no_row_out():
    fit = zoo.fit(Factor(), real(), zoo.SVI(steps=5), progress=False)
    with pytest.raises(zoo.QueryError, match="all its latents belong to single rows"):
        zoo.loo(fit)
    with pytest.raises(zoo.QueryError, match="nothing to resample"):
        to_arviz(fit, num_samples=10, resample=True)


def test_several_observed_sites_have_to_be_chosen_from():
    def both(x, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("first", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
        with pyro.plate("second", len(y)):
            pyro.sample("y", dist.Normal(mu, 2.0), obs=y)

    fit = zoo.fit(both, (torch.randn(5), torch.randn(7)), progress=False)
    with pytest.raises(zoo.QueryError, match=r"expected one of \['x', 'y'\]"):
        zoo.loo(fit)
    assert zoo.loo(fit, var_name="y").n_data_points == 7


def test_fits_to_different_data_are_not_compared(data, models):
    x, y = data
    other = zoo.fit(regression(2), (x, y.exp()), zoo.SVI(steps=2), progress=False)
    with pytest.raises(zoo.DataError, match="observe different data"):
        zoo.compare({"y": models["slope"], "exp y": other})
    with pytest.raises(zoo.DataError, match="two or more"):
        zoo.compare({"alone": other})
    with pytest.raises(ValueError, match="expected one of"):
        zoo.compare(models, method="bic")
    with pytest.raises(ValueError, match="groups: got"):
        to_arviz(other, num_samples=10, groups=["posteriors"])


def test_chosen_rows_and_groups():
    fit = zoo.fit(Mean(noise=1.0), line(), progress=False)
    assert zoo.loo(fit, max_observations=10).n_data_points == 10
    groups = ("posterior", "log_prior")
    exported = to_arviz(fit, num_samples=10, groups=groups)
    assert set(arviz_compat.group_names(exported)) == set(groups)


def test_rows_of_very_low_density_are_refused_by_stacking_only():
    y = 60.0 * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    fit = zoo.fit(normal, y, progress=False)
    fits = {"a": fit, "b": fit}
    with pytest.warns(UserWarning, match="Pareto k"):
        with pytest.raises(zoo.QueryError, match="too low for ArviZ's stacking"):
            zoo.compare(fits)
        assert len(zoo.compare(fits, method="BB-pseudo-BMA")) == 2


def test_a_seed_makes_it_repeatable(models):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = zoo.loo(models["slope"]), zoo.loo(models["slope"])
    assert elpd(a) == elpd(b)
    assert torch.equal(state, torch.get_rng_state())
