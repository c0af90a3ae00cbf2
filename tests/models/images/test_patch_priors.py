"""Patch priors: contracts, densities and restored patches against independent oracles."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Theirs

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.models.images.patch_denoising import components, denoise_patches
from ppl_zoo.models.images.pca_laplace import laplace_posterior_mean
from ppl_zoo.testing import CLAUSES, check_model

MIX = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.7, 0.5], [0.2, 0.0, 0.4]], dtype=torch.float64)


def laplace(n, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, d, generator=generator, dtype=torch.float64) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).log()


def rows(n=1000, seed=0):
    """Rows of three Laplace sources, mixed, off the origin."""
    return laplace(n, 3, seed) @ MIX + torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)


PRIORS = {
    "pixels": lambda: zoo.IndependentPixels(3, 2),
    "gaussian": lambda: zoo.MultivariateGaussian(3),
    "pca": lambda: zoo.PCALaplace(3),
    "ica": lambda: zoo.ICA(3),
    "scale-mixtures": lambda: zoo.MixtureOfScaleMixtures(2, 2, 3),
}
OTHERS = {
    "full": lambda: zoo.GaussianMixture(2, 3),
    "tied": lambda: zoo.GaussianMixture(2, 3, "tied"),
    "diagonal": lambda: zoo.GaussianMixture(2, 3, "diagonal"),
    "spherical": lambda: zoo.GaussianMixture(2, 3, "spherical"),
    "scale-mixture": lambda: zoo.GaussianScaleMixture(2, 3),
}


def fitted(make, x=None, **options):
    model = make().double()
    options = {"steps": 200, "tol": 1e-4} | options
    zoo.fit(model, rows() if x is None else x, zoo.EM(**options), progress=False)
    return model.requires_grad_(False)


def small_leaves(**options):
    grid = {"contrasts": (0.02, 0.1), "noise_sd": 0.02, "grid": (12, 6)} | options
    return zoo.MiniDeadLeaves(size=3, **grid)


@pytest.mark.parametrize("name", PRIORS)
def test_contract(name):
    assert check_model(PRIORS[name], lambda: rows(80)) == tuple(CLAUSES)


def test_contract_of_dead_leaves():
    assert check_model(small_leaves, lambda: small_leaves().sample(12)) == tuple(CLAUSES)


# --- densities -----------------------------------------------------------------------------------


def test_gaussian_is_the_closed_form_after_one_step():
    x, model = rows(), zoo.MultivariateGaussian(3).double()
    fit = zoo.fit(model, x, zoo.EM(steps=1), progress=False)
    theirs = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True))
    torch.testing.assert_close(model.covariance, torch.from_numpy(theirs.cov))
    np.testing.assert_allclose(model.log_prob(x), theirs.logpdf(x.numpy()), atol=1e-9)
    assert fit.objective == pytest.approx(theirs.logpdf(x.numpy()).sum())


def test_pca_laplace_is_that_of_scikit_learn_with_laplace_coordinates():
    x, model = rows(), fitted(PRIORS["pca"])
    code = PCA(whiten=False).fit(x.numpy()).transform(x.numpy())
    theirs = stats.laplace(scale=np.abs(code).mean(0)).logpdf(code).sum(1)
    np.testing.assert_allclose(model.log_prob(x), theirs, atol=1e-9)
    torch.testing.assert_close((model.encode(x) @ model.basis.T) + model.mean, x)


def test_pixels_have_the_density_of_mixtures_by_feature():
    x, model = rows(1000), fitted(PRIORS["pixels"], rows(1000), tol=1e-5)
    total = 0.0
    for d in range(3):
        theirs = Theirs(2, covariance_type="spherical")
        theirs.weights_ = model.weights[d].numpy()
        theirs.means_ = model.means[d, :, None].numpy()
        theirs.precisions_cholesky_ = 1.0 / model.scales[d].numpy()
        total = total + theirs.score_samples(x[:, d : d + 1].numpy())
    np.testing.assert_allclose(model.log_prob(x), total, atol=1e-9)
    best = sum(Theirs(2, tol=1e-5).fit(c[:, None]).score(c[:, None]) for c in x.numpy().T)
    assert model.log_prob(x).mean() > best - 1e-3


def test_mixture_of_scale_mixtures_has_the_density_of_its_components():
    x, model = rows(), fitted(PRIORS["scale-mixtures"])
    weights, means, covariances = components(model)
    theirs = Theirs(4)
    theirs.weights_, theirs.means_ = weights.numpy(), means.numpy()
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances.numpy()))
    np.testing.assert_allclose(model.log_prob(x), theirs.score_samples(x), atol=1e-8)
    np.testing.assert_allclose(model.encode(x), theirs.predict_proba(x), atol=1e-8)
    torch.testing.assert_close(
        (model.weights * model.scales).sum(1) / model.weights.sum(1),
        torch.ones(2, dtype=torch.float64),
    )


def test_one_shape_is_a_scale_mixture():
    x = rows() - torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)
    other = fitted(lambda: zoo.GaussianScaleMixture(3, 3, zero_mean=True), x)
    one = zoo.MixtureOfScaleMixtures(1, 3, 3).double().requires_grad_(False)
    one.logits.copy_(other.logits[None])
    one.log_scales.copy_(other.scales.log()[None])
    one.factor.copy_(torch.linalg.cholesky(other.covariance)[None])
    torch.testing.assert_close(one.log_prob(x), other.log_prob(x))
    found = fitted(lambda: zoo.MixtureOfScaleMixtures(1, 3, 3), x, steps=500, tol=1e-6)
    assert found.log_prob(x).mean() > other.log_prob(x).mean() - 1e-3


@pytest.mark.parametrize("name", ["pca", "ica", "pixels", "scale-mixtures"])
def test_density_integrates_to_one(name):
    small = {
        "pca": lambda: zoo.PCALaplace(2),
        "ica": lambda: zoo.ICA(2),
        "pixels": lambda: zoo.IndependentPixels(2, 3),
        "scale-mixtures": lambda: zoo.MixtureOfScaleMixtures(2, 2, 2),
    }[name]
    model = fitted(small, rows()[:, :2].contiguous())
    side = torch.linspace(-25.0, 25.0, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    total = model.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=2e-3)


# --- ICA -----------------------------------------------------------------------------------------


def test_ica_finds_the_sources_and_passes_the_truth_and_pca():
    x = rows(20_000)
    model = fitted(PRIORS["ica"], x, steps=500, tol=1e-7)
    truth = torch.linalg.inv(MIX.T)
    gain = (model.filters.detach() @ torch.linalg.inv(truth)).abs()
    assert (gain.max(1).values - 1.0).abs().max() < 0.03  # a permutation, but for signs
    assert (gain.sum(1) - gain.max(1).values).max() < 0.1
    shifted = zoo.ICA(3).double()
    shifted.load_state_dict(model.state_dict() | {"weight": truth})
    assert model.log_prob(x).mean() > shifted.log_prob(x).mean()
    assert model.log_prob(x).mean() > fitted(PRIORS["pca"], x).log_prob(x).mean() + 0.02


def test_ica_stops_where_no_filter_can_do_better():
    x = rows(2000)
    model = fitted(PRIORS["ica"], x, steps=1000, tol=1e-9)
    best = model.log_prob(x).mean()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        at = model.weight.clone()
        for _ in range(50):
            turn = torch.randn(3, 3, generator=generator, dtype=torch.float64)
            model.weight.copy_(at + 0.02 * turn @ at)
            assert model.log_prob(x).mean() < best


# --- restoration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PRIORS, *OTHERS])
def test_posterior_mean_is_that_of_importance_sampling(name):
    model = fitted((PRIORS | OTHERS)[name])
    torch.manual_seed(0)
    y, sigma = rows(6, seed=5) + 0.5 * torch.randn(6, 3, dtype=torch.float64), 0.5
    # many times over: ICA's answer is an average of draws
    ours = denoise_patches(model, y.repeat(50, 1), sigma).view(50, 6, 3).mean(0)
    drawn = model.sample(100_000).detach()
    weight = (-0.5 * torch.cdist(y, drawn).square() / sigma**2).softmax(1)
    expected = weight @ drawn
    variance = (weight @ drawn.square() - expected.square()).clamp_min(0.0)
    error = (variance * weight.square().sum(1, keepdim=True)).sqrt()
    slack = 0.012 if name == "ica" else 1e-6
    assert ((ours - expected).abs() < 5 * error + slack).all()


@pytest.mark.parametrize("name", [*PRIORS, *OTHERS])
def test_posterior_mean_has_less_error_than_the_mode_and_than_the_data(name):
    model = fitted((PRIORS | OTHERS)[name])
    torch.manual_seed(1)
    x = model.sample(1500).detach()
    y = x + 0.7 * torch.randn_like(x)
    mean, mode = (
        (denoise_patches(model, y, 0.7, how) - x).square().mean() for how in ("bls", "map")
    )
    assert mean < 0.49 * 0.95
    assert mean <= mode + 1e-12
    if name == "gaussian":
        return
    assert not torch.allclose(
        denoise_patches(model, y, 0.7), denoise_patches(model, y, 0.7, "map")
    )


def test_laplace_coordinate_against_quadrature():
    for y, scale, variance in [(0.3, 0.5, 1.0), (4.0, 0.1, 0.5), (-2.0, 1.0, 0.01), (60, 1, 4.0)]:

        def density(s, y=y, scale=scale, variance=variance):
            return math.exp(-abs(s) / scale - (s - y) ** 2 / (2 * variance) + abs(y) / scale)

        span = [min(0, y) - 9, max(0, y) + 9]
        points = {"points": [0.0, y], "limit": 200}
        total = integrate.quad(density, *span, **points)[0]
        expected = integrate.quad(lambda s: s * density(s), *span, **points)[0] / total
        given = (torch.tensor(float(v), dtype=torch.float64) for v in (y, scale))
        ours = laplace_posterior_mean(*given, variance)
        assert float(ours) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["pca", "ica"])
@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_mode_minimises_the_penalised_error(name, sigma):
    model = fitted(PRIORS[name])
    y = rows(5, seed=3)
    ours = model.denoise(y, sigma, "map")

    def loss(x, y):
        x = torch.as_tensor(x)[None]
        return float((x - y).square().sum() / (2 * sigma**2) - model.log_prob(x))

    for x, noisy in zip(ours, y, strict=True):
        best = optimize.minimize(
            loss, x.numpy(), args=(noisy,), method="Nelder-Mead", options={"xatol": 1e-8}
        )
        assert loss(x, noisy) < best.fun + 1e-6


def test_means_matter():
    """A prior that lies at 0.5 says 0.5 of patches that are nothing but noise."""
    x = 0.5 + 0.01 * rows(500)
    x = x - x.mean(0) + 0.5
    noise = 10.0 * torch.randn(20, 3, dtype=torch.float64)
    made = PRIORS | OTHERS
    made.pop("scale-mixtures")  # its mean is 0
    for make in made.values():
        for how in ("bls", "map"):
            found = denoise_patches(fitted(make, x, steps=20), noise, 10.0, how)
            assert (found - 0.5).abs().max() < 0.03


def test_bad_arguments_are_refused():
    model = fitted(PRIORS["gaussian"])
    for sigma, how in [(0.0, "bls"), (math.nan, "bls"), ("1", "bls"), (1.0, "mean")]:
        for call in (model.denoise, lambda *a: denoise_patches(zoo.GaussianMixture(1, 3), *a)):
            with pytest.raises(DataError, match="sigma|estimate"):
                call(rows(5), sigma, how)
    with pytest.raises(DataError, match="x: got nan"):
        model.denoise(torch.full((2, 3), torch.nan), 0.1)
    with pytest.raises(DataError, match="x: got nan"):
        denoise_patches(zoo.GaussianMixture(1, 3), torch.full((2, 3), torch.nan), 0.1)
    with pytest.raises(DataError, match="prior: got FVSBN"):
        denoise_patches(zoo.FVSBN(3), rows(5), 0.1)


# --- dead leaves ---------------------------------------------------------------------------------


def test_leaves_have_the_covariance_of_the_story():
    model = small_leaves(grid=(60, 60), edge_probability=0.7).double()
    torch.manual_seed(0)
    x = model.sample(200_000)
    weights, means, covariances = components(model)
    expected = (weights[:, None, None] * covariances).sum(0)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert (x.mean(0) - 0.5).abs().max() < 0.002
    torch.testing.assert_close(torch.cov(x.T), expected, rtol=0.02, atol=1e-4)
    # heavy tails: kurtosis of the difference of two neighbours far above that of a normal, 3
    difference = x[:, 0] - x[:, 1]
    assert (difference**4).mean() / difference.var() ** 2 > 5.0


def test_the_edge_is_found_where_it_is():
    model = small_leaves(noise_sd=0.005, contrasts=(0.005, 0.02), grid=(24, 12)).double()
    torch.manual_seed(0)
    angle = torch.linspace(0.1, 3.0, 30, dtype=torch.float64)
    cover = model.leaves.cover(torch.ones(30), angle, torch.zeros(30, dtype=torch.float64))
    x = 0.3 + 0.4 * cover + 0.005 * torch.randn(30, 9, dtype=torch.float64)
    edge, cosine, sine = model.encode(x).unbind(1)
    assert edge.min() > 0.95
    found = torch.atan2(sine, cosine) / 2
    assert torch.sin(found - angle).abs().max() < 0.2
    assert model.encode(torch.full((3, 9), 0.6, dtype=torch.float64))[:, 0].max() < 0.3


def test_em_finds_the_shares_of_edges_and_contrasts():
    truth = small_leaves(edge_probability=0.25, contrasts=(0.01, 0.1)).double()
    with torch.no_grad():
        truth.logits.copy_(torch.tensor([0.8, 0.2]).log())
    torch.manual_seed(0)
    x = truth.sample(3000)
    model = small_leaves(contrasts=(0.01, 0.1)).double()
    zoo.fit(model, x, zoo.EM(steps=40), progress=False)
    assert float(model.edge_probability) == pytest.approx(0.25, abs=0.05)
    assert float(model.weights[0]) == pytest.approx(0.8, abs=0.05)


@pytest.mark.slow
@pytest.mark.slow
def test_bound_of_leaves_is_close_to_the_density_on_a_fine_grid():
    model = small_leaves().double()
    torch.manual_seed(0)
    x = model.sample(40)
    zoo.fit(model, x, zoo.EM(steps=1), progress=False)
    fine = small_leaves(grid=(90, 45)).double()
    fine.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("grid")}, strict=False
    )
    expected = []
    for rows in x.split(5):  # few at a time: the grid takes much memory
        flat, edged = fine._log_joint(rows)
        expected.append(torch.cat([flat, edged.flatten(1)], 1).logsumexp(1))
    expected = torch.cat(expected)
    bound = model.log_prob(x, num_samples=1000)
    assert (bound - expected).abs().max() < 0.35
    assert (bound - expected).mean().abs() < 0.05


def test_leaves_take_noise_off():
    model = small_leaves().double()
    torch.manual_seed(0)
    x = model.sample(300)
    y = x + 0.1 * torch.randn_like(x)
    mean, mode = ((model.denoise(y, 0.1, how) - x).square().mean() for how in ("bls", "map"))
    linear = fitted(lambda: zoo.MultivariateGaussian(9), model.sample(5000)).denoise(y, 0.1)
    assert mean < 0.97 * (linear - x).square().mean()
    assert mean < mode
