"""Ising: sums over all states, one by one, as the oracle."""

import itertools
import math

import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.models.latent import ising_grid
from ppl_zoo.testing import CLAUSES, check_model


def every_state(height, width):
    states = itertools.product((-1.0, 1.0), repeat=height * width)
    return torch.tensor(list(states), dtype=torch.float64).reshape(-1, height, width)


def energies(states, coupling):
    total = torch.zeros(len(states), dtype=torch.float64)
    for i, j in itertools.product(range(states.shape[1]), range(states.shape[2])):
        if i + 1 < states.shape[1]:
            total += coupling * states[:, i, j] * states[:, i + 1, j]
        if j + 1 < states.shape[2]:
            total += coupling * states[:, i, j] * states[:, i, j + 1]
    return total


def noisy(n=2, height=4, width=4, noise=1.0):
    spins = torch.ones(n, height, width, dtype=torch.float64)
    spins[:, :, : width // 2] = -1.0
    return spins + noise * torch.randn(n, height, width, dtype=torch.float64)


def enumerated(x, coupling, noise):
    """Log density and spin means of images, by summing over all spins."""
    states = every_state(*x.shape[1:])
    prior = energies(states, coupling)
    log_joint = torch.distributions.Normal(states, noise).log_prob(x[:, None]).sum((-2, -1))
    log_joint = log_joint + prior - prior.logsumexp(0)
    weights = log_joint.softmax(-1)
    return log_joint.logsumexp(-1), torch.einsum("ns,shw->nhw", weights, states)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((4, 4), id="narrow"),
        pytest.param((12, 11), id="wide", marks=pytest.mark.slow),
    ],
)
def test_contract(shape):
    def make():
        return zoo.Ising(*shape, coupling=0.3, noise=0.9, learn_noise=True)

    assert check_model(make, lambda: noisy(6, *shape).float()) == tuple(CLAUSES)


@pytest.mark.parametrize("coupling", [-0.5, 0.0, 0.2, 0.44, 1.0])
@pytest.mark.parametrize("shape", [(2, 2), (3, 4), (4, 3)])
def test_partition_functions(shape, coupling):
    j = torch.tensor(coupling, dtype=torch.float64)
    exact = energies(every_state(*shape), coupling).logsumexp(0)
    torch.testing.assert_close(ising_grid.log_partition_without_field(*shape, j), exact)
    field = torch.zeros(*shape, dtype=torch.float64)
    torch.testing.assert_close(ising_grid.log_partition(field, j), exact)


@pytest.mark.slow
def test_the_determinant_agrees_with_transfer_matrices_and_with_onsager():
    j = torch.tensor(0.44, dtype=torch.float64)
    field = torch.zeros(9, 30, dtype=torch.float64)
    torch.testing.assert_close(
        ising_grid.log_partition_without_field(9, 30, j), ising_grid.log_partition(field, j)
    )
    # free energy of a site far from the borders (Onsager 1944), by differences of sizes
    a, b, c = (
        ising_grid.log_partition_without_field(h, w, torch.tensor(0.3).double())
        for h, w in ((40, 40), (40, 41), (41, 41))
    )
    angles = (torch.arange(400, dtype=torch.float64) + 0.5) * math.pi / 400
    s, c2 = math.sinh(0.6), math.cosh(0.6) ** 2
    inside = c2 - s * (angles.cos()[:, None] + angles.cos())
    onsager = math.log(2) + 0.5 * inside.log().mean()
    assert (a - 2 * b + c).item() == pytest.approx(onsager.item(), abs=1e-6)
    # and at the critical coupling, where borders are felt far away
    critical = torch.tensor(math.log(1 + 2**0.5) / 2).double()
    a, b, c = (
        ising_grid.log_partition_without_field(h, w, critical)
        for h, w in ((80, 80), (80, 81), (81, 81))
    )
    catalan = 0.915965594177219
    assert (a - 2 * b + c).item() == pytest.approx(
        math.log(2) / 2 + 2 * catalan / math.pi, abs=2e-5
    )


@pytest.mark.parametrize("coupling", [0.15, 0.4])
def test_exact_answers_are_those_of_enumeration(coupling):
    x = noisy(3)
    model = zoo.Ising(4, 4, coupling=coupling, noise=0.8).double()
    log_density, means = enumerated(x, model.coupling.item(), model.noise.item())
    torch.testing.assert_close(model.log_prob(x), log_density, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.marginals(x, "exact"), means, atol=1e-9, rtol=0)


def test_mean_field_against_enumeration_and_sampling():
    x = noisy(4)
    model = zoo.Ising(4, 4, coupling=0.2, noise=1.0).double()
    log_density, means = enumerated(x, 0.2, 1.0)
    bound = model.elbo(x)
    assert (bound <= log_density + 1e-9).all()
    assert (log_density - bound).max() < 0.5
    assert (model.marginals(x) - means).abs().max() < 0.12
    gibbs = model.marginals(x, "gibbs", num_sweeps=4000)
    torch.testing.assert_close(gibbs, means, atol=0.03, rtol=0)
    # without coupling the spins are independent, and mean field is exact
    free = zoo.Ising(4, 4, coupling=0.0, noise=1.0).double()
    torch.testing.assert_close(free.elbo(x), free.log_prob(x))


def test_mean_field_is_a_maximum_of_the_bound():
    x = noisy(1)
    model = zoo.Ising(4, 4, coupling=0.5, noise=1.2).double()
    mean = model.marginals(x)
    best = model._bound(x, mean)
    for _ in range(20):
        other = (mean.atanh() + 0.05 * torch.randn_like(mean)).tanh()
        assert model._bound(x, other) < best


def test_samples_of_the_prior_are_exact_on_narrow_grids():
    """Frequencies of all 64 states of a 2 x 3 grid, by chi square (.001 level: 103)."""
    j = torch.tensor(0.4, dtype=torch.float64)
    for shape in ((2, 3), (3, 2)):
        drawn = ising_grid.exact_draws(torch.zeros(20_000, *shape, dtype=torch.float64), j)
        states = every_state(*shape)
        expected = 20_000 * energies(states, 0.4).softmax(0)
        powers = 2 ** torch.arange(5, -1, -1)
        index = ((drawn.flatten(1) > 0) * powers).sum(-1)
        found = index.bincount(minlength=64)
        assert ((found - expected) ** 2 / expected).sum() < 103


@pytest.mark.slow
def test_wide_grids_are_sampled_by_gibbs():
    """The mean energy of a bond is the derivative of log Z."""
    model = zoo.Ising(12, 12, coupling=0.3, noise=0.1)
    zoo.fit(model, torch.randn(2, 12, 12), progress=False)
    drawn = model.sample(300)
    found = ising_grid.interaction(drawn.sign())
    j = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(ising_grid.log_partition_without_field(12, 12, j), j)
    assert abs(found.mean() - exact) < 4 * found.std() / 300**0.5


def test_em_learns_the_noise():
    x = noisy(40, 8, 8, noise=0.7)
    model = zoo.Ising(8, 8, coupling=0.3, noise=1.5, learn_noise=True).double()
    fit = zoo.fit(model, x, progress=False)
    assert model.noise.item() == pytest.approx(0.7, abs=0.05)
    assert fit.stopped == "converged"
    held = zoo.Ising(8, 8, coupling=0.3, noise=1.5).double()
    assert zoo.fit(held, x, progress=False).objective < fit.objective
    assert held.noise.item() == pytest.approx(1.5)


def test_it_denoises():
    side = torch.arange(40)
    disc = ((side[:, None] - 20) ** 2 + (side - 20) ** 2 < 150).float() * 2 - 1
    x = disc + torch.randn(1, 40, 40)
    clean = zoo.Ising(40, 40, coupling=0.5, noise=1.0).denoise(x)
    before, after = (x.sign() != disc).float().mean(), (clean != disc).float().mean()
    assert before > 0.13
    assert after < 0.025


def test_posterior_in_arviz_has_rows_and_columns():
    fit = zoo.fit(zoo.Ising(4, 4), noisy(3).float(), progress=False)
    spins = fit.to_arviz(num_samples=20).posterior["spins"]
    assert spins.dims == ("chain", "draw", "images", "row", "column")


def test_refuses():
    with pytest.raises(ValueError, match="noise: got 0"):
        zoo.Ising(4, 4, noise=0.0)
    with pytest.raises(zoo.DataError, match=r"x: got shape \(2, 4, 4\), expected \(2, 4, 5\)"):
        zoo.fit(zoo.Ising(4, 5), noisy(), progress=False)
    with pytest.raises(zoo.QueryError, match="a side of at most 10"):
        zoo.Ising(11, 12).marginals(torch.randn(1, 11, 12), "exact")
    with pytest.raises(zoo.DataError, match="method: got 'loopy'"):
        zoo.Ising(4, 4).marginals(noisy(), "loopy")
