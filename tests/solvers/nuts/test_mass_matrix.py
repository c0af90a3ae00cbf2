"""Mass matrices by the Fisher divergence: closed forms, what they gain, resuming."""

import math

import arviz as az
import numpy as np
import posteriordb
import posteriors
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny_models import Groups, Mean, line

import ppl_zoo as zoo
from ppl_zoo.solvers.nuts.mass_matrix import (
    MassMatrix,
    MassMatrixAdaptation,
    estimates_in,
    fisher_estimate,
)


def correlated(size, rng, condition):
    """Covariance of a condition number, with scales over four orders of magnitude."""
    vectors = np.linalg.qr(rng.normal(size=(size, size)))[0]
    spectrum = np.geomspace(1.0, condition, size)
    scale = 10.0 ** rng.uniform(-2, 2, size)
    return scale[:, None] * (vectors * spectrum) @ vectors.T * scale


@pytest.mark.parametrize(("size", "num_draws"), [(1, 2), (5, 10), (40, 80)])
def test_covariance_of_a_normal_is_found_exactly(size, num_draws):
    rng = np.random.default_rng(0)
    covariance = correlated(size, rng, 1e3)
    draws = rng.multivariate_normal(np.ones(size), covariance, num_draws)
    gradients = -np.linalg.solve(covariance, (draws - 1.0).T).T
    found = fisher_estimate(draws, gradients, size, cutoff=1.0)
    matrix = MassMatrix(*(a[None] for a in found)).covariance()[0]
    # the eigenvalues of the one in the units of the other; the ridge moves them a little
    root = np.linalg.cholesky(covariance)
    relative = np.linalg.solve(root, np.linalg.solve(root, matrix).T)
    np.testing.assert_allclose(np.linalg.eigvalsh(relative), 1.0, atol=0.02)


def test_diagonal_is_the_root_of_both_variances():
    rng = np.random.default_rng(1)
    draws, gradients = rng.normal(size=(2, 50, 3)) * [[[1.0, 20.0, 0.3]], [[4.0, 0.1, 2.0]]]
    scale, vectors, stretch = fisher_estimate(draws, gradients, 0)
    expected = np.sqrt(draws.var(0) / gradients.var(0))
    np.testing.assert_allclose(scale**2, expected)
    assert vectors.shape == (3, 0) and stretch.shape == (0,)


def test_low_rank_part_finds_the_directions_that_a_diagonal_leaves():
    rng = np.random.default_rng(2)
    size, num_draws = 200, 100
    direction = np.linalg.qr(rng.normal(size=(size, 2)))[0]
    covariance = np.eye(size) + direction * [99.0, -0.99] @ direction.T
    draws = rng.multivariate_normal(np.zeros(size), covariance, num_draws)
    gradients = -np.linalg.solve(covariance, draws.T).T
    scale, vectors, stretch = fisher_estimate(draws, gradients, 5)
    matrix = MassMatrix(scale[None], vectors[None], stretch[None]).covariance()[0]
    root = np.linalg.cholesky(covariance)
    relative = np.linalg.eigvalsh(np.linalg.solve(root, np.linalg.solve(root, matrix).T))
    diagonal = np.linalg.eigvalsh(
        np.linalg.solve(root, np.linalg.solve(root, np.diag(scale**2)).T)
    )
    # condition numbers of what is left: 6,850 and 26
    assert relative.max() / relative.min() < 0.01 * diagonal.max() / diagonal.min()
    # eigenvalues near 1 are left alone
    np.testing.assert_allclose(vectors.T @ vectors, np.diag(np.sign(np.abs(stretch))), atol=1e-9)
    kept = (1 + stretch[stretch != 0]) ** 2
    assert ((kept > 2) | (kept < 0.5)).all()


def test_chain_that_does_not_move_keeps_its_matrix():
    with pytest.raises(FloatingPointError):
        fisher_estimate(np.ones((10, 2)), np.ones((10, 2)), 2)
    adaptation = MassMatrixAdaptation(2, 2, 100, "low-rank")
    adaptation.begin(np.array([[4.0, 0.0], [1.0, np.nan]]))
    np.testing.assert_array_equal(adaptation.matrix.scale, [[0.5, 1.0], [1.0, 1.0]])
    draws = np.zeros((2, 10, 2))
    draws[1] = np.random.default_rng(3).normal(size=(10, 2))
    adaptation.add(draws, -4.0 * draws)
    assert adaptation.estimate(10)
    np.testing.assert_array_equal(adaptation.matrix.scale[0], [0.5, 1.0])
    np.testing.assert_allclose(adaptation.matrix.scale[1], 0.5)


@pytest.mark.parametrize("num_warmup", [1, 19, 20, 50, 100, 333, 1000, 5000])
def test_warmup_ends_with_the_step_size(num_warmup):
    plan = estimates_in(num_warmup)
    assert bool(plan) == (num_warmup >= 20)
    assert all(0 < i < num_warmup for i in plan)
    if plan:
        assert list(plan) == sorted(plan) and plan[max(plan)]
        assert num_warmup - max(plan) >= min(50, num_warmup // 4)
        windows = [i for i, ends in plan.items() if ends]
        assert np.diff(windows).max(initial=0) <= num_warmup


def valley(y):
    """Ten latents whose posterior is a normal of condition number 1e4."""
    covariance = torch.from_numpy(correlated(10, np.random.default_rng(4), 1e4))
    z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(10).double(), covariance))
    pyro.sample("y", dist.Normal(z[0] * 0.0, 1.0), obs=y)


@pytest.mark.slow
def test_effective_draws_of_an_ill_conditioned_normal():
    share = {}
    for kind in ("low-rank", "dense", "diagonal"):
        solver = zoo.NUTS(500, 500, num_chains=2, mass_matrix=kind)
        fit = zoo.fit(valley, torch.zeros(()).double(), solver, progress=False, device="cpu")
        ess = az.ess(az.convert_to_dataset({"z": fit.posterior()["z"].numpy()}))["z"].min()
        share[kind] = float(ess) / fit.solution.sample_stats["n_steps"].sum()
        draws = fit.posterior()["z"].flatten(0, 1)
        sd = np.sqrt(np.diag(correlated(10, np.random.default_rng(4), 1e4)))
        if kind != "diagonal":
            assert (draws.mean(0).abs() / sd < 0.2).all()
            np.testing.assert_allclose(draws.std(0) / sd, 1.0, atol=0.15)
    assert min(share["low-rank"], share["dense"]) > 0.1
    assert share["low-rank"] > 10 * share["diagonal"]


@pytest.mark.parametrize("method", ["vectorized", "parallel"])
def test_warmup_and_draws_resume_bit_by_bit(method, monkeypatch):
    from ppl_zoo.solvers.nuts.numpyro_engine import NumPyroEngine

    x = line(20)

    def solver(num_samples):
        return zoo.NUTS(num_samples, 60, num_chains=2, chain_method=method)

    def fit(num_samples, **options):
        return zoo.fit(Groups(), x, solver(num_samples), progress=False, device="cpu", **options)

    whole = fit(30)
    advance = NumPyroEngine.advance

    def interrupted(self, most):
        out = advance(self, min(most, 7))
        if self.iteration >= 25:
            raise KeyboardInterrupt
        return out

    with monkeypatch.context() as patch:
        patch.setattr(NumPyroEngine, "advance", interrupted)
        part = fit(30)
    assert part.stopped == "interrupted"
    assert 25 <= part.solution.state_values["iteration"] < 60  # within the warm-up
    for before in (part, fit(11)):
        more = fit(30, resume=before)
        for name, value in whole.posterior().items():
            assert torch.equal(more.posterior()[name], value)


@pytest.mark.slow
def test_chains_side_by_side_and_in_parallel_agree():
    x, model = line(), Mean()
    mean, sd = model.posterior(x)
    for method in ("vectorized", "parallel"):
        solver = zoo.NUTS(500, 100, num_chains=2, chain_method=method)
        draws = zoo.fit(Mean(), x, solver, progress=False, device="cpu").posterior()["mu"]
        assert draws.shape == (2, 500)
        assert abs(draws.mean() - mean) < 0.25 * sd and abs(draws.std() / sd - 1) < 0.15


def test_options_out_of_range():
    for wrong in ({"mass_matrix": "full"}, {"chain_method": "sequential"}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"NUTS: got {name}="):
            zoo.NUTS(**wrong)


@pytest.mark.slow
@pytest.mark.skipif(posteriors.folder() is None, reason="needs $PPL_ZOO_DATA")
def test_no_chain_of_arma11_is_lost():
    posterior = posteriordb.posteriors()["arma-arma11"]
    for seed in range(10):
        solver = zoo.NUTS(num_samples=250, num_warmup=300)
        fit = zoo.fit(
            posterior.model, posterior.data, solver, seed=seed, progress=False, device="cpu"
        )
        errors = posterior.errors({k: v.numpy() for k, v in fit.posterior().items()})
        assert max(abs(m) for m, _ in errors.values()) < 0.2, (seed, errors)
        assert max(abs(s) for _, s in errors.values()) < 0.2, (seed, errors)


def two_valleys(y):
    """A mode that no mass lies near (25 nats below), and the posterior's own."""
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    near = dist.Normal(1.0, 0.05).log_prob(z).sum() + y
    far = dist.Normal(-1.0, 0.05).log_prob(z).sum() - 25.0
    pyro.factor("y", torch.logaddexp(near, far))


@pytest.mark.slow
def test_no_chain_stays_in_a_mode_without_mass():
    for seed in range(3):
        fit = zoo.fit(
            two_valleys,
            torch.zeros(()),
            zoo.NUTS(50, 50, num_chains=8),
            seed=seed,
            progress=False,
            device="cpu",
        )
        assert (fit.posterior()["z"].mean(1) - 1.0).abs().max() < 0.1
        assert math.isfinite(fit.objective)
