"""EPLL: the contract, patch posteriors in closed form, fast selection against exact."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging import Blur, Downsample, Mask, PatchGrid, cosine_basis
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.restoration.half_quadratic import Schedule, average_estimates, average_scales, split
from ppl_zoo.restoration.split_gibbs import SplitChains
from ppl_zoo.restoration.tilings import draw_tilings, tiling_moments


def mixture_parts(size=4, components=3, free_mean=True, means=0.0, seed=0):
    """Weights, means and covariances that fall with frequency, as those of photographs do."""
    random = torch.Generator().manual_seed(seed)
    count = size**2 - free_mean
    decay = torch.linspace(0.0, 4.0, count, dtype=torch.float64).neg().exp()
    factor = torch.randn(components, count, count, generator=random, dtype=torch.float64)
    factor = 0.1 * decay[:, None] * (factor / count**0.5 + torch.eye(count))
    factor = factor * torch.logspace(-1, 0.5, components, dtype=torch.float64)[:, None, None]
    weights = torch.rand(components, generator=random, dtype=torch.float64) + 0.2
    loc = means * torch.randn(components, count, generator=random, dtype=torch.float64)
    return weights / weights.sum(), loc, factor @ factor.mT + 1e-4 * torch.eye(count)


def small_model():
    """EPLL with 3 components over 4 x 4 patches."""
    return zoo.EPLL(*mixture_parts())


@pytest.mark.slow
def test_contract():
    zoo.testing.check_model(small_model, lambda: (torch.rand(2, 7, 9), torch.tensor([0.1, 0.2])))


# --- one patch ---------------------------------------------------------------------------------


def closed_form(parts, code, variance):
    """Posterior of coefficients by the textbook, in float64: weights, means, covariances."""
    weights, means, covariances = parts
    noisy = covariances + variance * torch.eye(means.shape[1], dtype=means.dtype)
    posterior = (MultivariateNormal(means, noisy).log_prob(code[:, None]) + weights.log()).softmax(
        -1
    )
    gain = covariances @ torch.linalg.inv(noisy)
    mean = means + ((code[:, None] - means)[..., None, :] @ gain.mT)[..., 0, :]
    return posterior, mean, covariances - gain @ covariances


@pytest.mark.parametrize("free_mean", [True, False])
@pytest.mark.parametrize("means", [0.0, 0.3])
def test_scores_and_estimates_of_patches_are_those_of_the_textbook(free_mean, means):
    parts = mixture_parts(free_mean=free_mean, means=means)
    patches = 0.3 * torch.randn(50, 16, dtype=torch.float64) + 0.5
    noisy = PatchMixture(*parts).under_noise(0.01, None, torch.float64)
    basis = cosine_basis(4, dtype=torch.float64)
    first = int(free_mean)
    code = patches @ basis.T
    posterior, mean, covariance = closed_form(parts, code[:, first:], 0.01)
    scores = noisy.scores(patches)
    torch.testing.assert_close(scores.softmax(0).T, posterior)
    likelihood = MixtureSameFamily(
        Categorical(parts[0]),
        MultivariateNormal(parts[1], parts[2] + 0.01 * torch.eye(16 - first)),
    )
    torch.testing.assert_close(scores.logsumexp(0), likelihood.log_prob(code[:, first:]))
    assert torch.equal(noisy.choose(patches).long(), posterior.argmax(1))
    for k in range(3):
        estimate = noisy.estimate(patches, torch.full((50,), k))
        expected = mean[:, k] @ basis[first:] + code[:, :first] @ basis[:first]
        torch.testing.assert_close(estimate, expected)
        spread = ((covariance[k] @ basis[first:]) * basis[first:]).sum(0)
        torch.testing.assert_close(
            noisy.error_variance()[k], spread + first * 0.01 / 16, rtol=1e-6, atol=1e-12
        )


def test_the_block_score_is_exact_for_a_block_and_a_diagonal():
    weights, means, covariances = mixture_parts(components=4, means=0.2)
    mixture = PatchMixture(weights, means, covariances)
    near = torch.zeros(15, dtype=torch.bool)
    near[mixture.order[:5]] = True
    kept = (near[:, None] & near) | torch.eye(15, dtype=torch.bool)
    cut = PatchMixture(weights, means, torch.where(kept, covariances, 0.0))
    patches = 0.2 * torch.randn(40, 16, dtype=torch.float64)
    fast = mixture.under_noise(0.01, 5, torch.float64)
    exact = cut.under_noise(0.01, None, torch.float64)
    torch.testing.assert_close(fast.scores(patches), exact.scores(patches))


@pytest.mark.slow
def test_an_image_of_one_patch_has_the_closed_form_posterior():
    parts = mixture_parts(components=3, means=0.1)
    model = zoo.EPLL(*parts).double()
    y, variance = 0.5 + 0.1 * torch.randn(1, 4, 4, dtype=torch.float64), 0.02
    basis = cosine_basis(4, dtype=torch.float64)
    code = y.reshape(1, 16) @ basis.T
    posterior, mean, covariance = closed_form(parts, code[:, 1:], variance)
    centre = posterior[0] @ mean[0]
    off = mean[0] - centre
    spread = (posterior[0][:, None, None] * (covariance + off[:, :, None] * off[:, None])).sum(0)
    expected = centre @ basis[1:] + code[0, 0] * basis[0]
    sd = (((spread @ basis[1:]) * basis[1:]).sum(0) + variance * basis[0] ** 2).sqrt()
    noise = torch.full((1,), math.sqrt(variance), dtype=torch.float64)
    fit = zoo.fit(model, (y, noise), zoo.Tiling(num_samples=1000), progress=False)
    found = fit.solution.state_tensors
    torch.testing.assert_close(found["mean"].flatten(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["sd"].square().mean(), sd.square().mean())
    draws = fit.posterior(500)["image"].reshape(1000, 16)
    assert float(((draws.mean(0) - expected) / sd).abs().max()) < 4.5 / 1000**0.5
    torch.testing.assert_close(draws.std(0), sd, rtol=0.12, atol=0)
    # the whole distribution, along one coefficient
    along = draws @ basis[1]
    marginal = MixtureSameFamily(
        Categorical(posterior[0]),
        torch.distributions.Normal(mean[0, :, 0], covariance[:, 0, 0].sqrt()),
    )
    place = marginal.cdf(along).sort().values
    assert float((place - torch.linspace(0, 1, 1000)).abs().max()) < 0.055


# --- images ------------------------------------------------------------------------------------


def test_the_means_of_components_count():
    """A prior with mean one half and hardly any spread restores everything to one half."""
    covariance = 1e-6 * torch.eye(64)[None]
    mixture = PatchMixture(torch.ones(1), torch.full((1, 64), 0.5) @ cosine_basis(8).T, covariance)
    y = torch.rand(20, 20)
    out = zoo.restore(y, sigma=0.2, prior=mixture, progress=False).image
    # the last level leaves one part in 65 to the data
    torch.testing.assert_close(out, torch.full((20, 20), 0.5), atol=0.51 / 65, rtol=0)
    prior = zoo.GaussianMixture(1, 64)
    prior.set_parameters(torch.ones(1), torch.full((1, 64), 0.5), covariance)
    again = zoo.restore(y, sigma=0.2, prior=prior, progress=False).image
    torch.testing.assert_close(out, again, atol=1e-4, rtol=0)


def test_bands_do_not_change_the_result(monkeypatch):
    mixture = PatchMixture(*mixture_parts())
    image = torch.rand(33, 29)
    noisy, grid = mixture.under_noise(0.01, 6), PatchGrid((33, 29), 4, 3, (1, 2))
    whole = average_estimates(image, noisy, grid)
    monkeypatch.setattr("ppl_zoo.restoration.half_quadratic.MAX_PATCHES_PER_BAND", 40)
    torch.testing.assert_close(average_estimates(image, noisy, grid), whole)


def test_splitting_with_one_component_is_a_linear_filter_found_by_brute_force():
    """One Gaussian, one level: average of Wiener-filtered patches, then the data step."""
    weights, means, covariances = mixture_parts(components=1)
    mixture = PatchMixture(weights, means, covariances)
    y, variance = torch.rand(9, 8, dtype=torch.float64), 0.01
    basis = cosine_basis(4, dtype=torch.float64)
    gain = covariances[0] @ torch.linalg.inv(covariances[0] + variance * torch.eye(15))
    filter_ = basis[1:].T @ gain @ basis[1:] + basis[:1].T @ basis[:1]
    total, count = torch.zeros_like(y), torch.zeros_like(y)
    for i in range(6):
        for j in range(5):
            patch = filter_ @ y[i : i + 4, j : j + 4].flatten()
            total[i : i + 4, j : j + 4] += patch.reshape(4, 4)
            count[i : i + 4, j : j + 4] += 1
    schedule = Schedule(stride=1, block=None, scales=1)
    found = split(y, mixture, lambda a, p: (y * 50 + a * p) / (50 + p), [variance], schedule)
    torch.testing.assert_close(found, (y * 50 + total / count * 100) / 150)


def half(image, place):
    """Means of squares that begin one pixel earlier where ``place`` says so, by brute force."""
    down, across = place
    height, width = image.shape
    rows = [[r for r in (2 * i - down, 2 * i - down + 1)] for i in range((height + down + 1) // 2)]
    columns = [[2 * j - across, 2 * j - across + 1] for j in range((width + across + 1) // 2)]
    clip = [[min(max(r, 0), height - 1) for r in pair] for pair in rows]
    sides = [[min(max(c, 0), width - 1) for c in pair] for pair in columns]
    return (
        torch.stack([torch.stack([image[r][:, c].mean() for c in sides]) for r in clip]),
        rows,
        columns,
    )


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_the_image_at_half_its_size_corrects_means_of_squares(level):
    """One Gaussian: everywhere as sure, so the means move by one share towards those found."""
    mixture = PatchMixture(*mixture_parts(components=1))
    image, variance = torch.rand(11, 12, dtype=torch.float64), 0.01
    options = {"stride": 1, "block": None, "shift": False}
    alone = Schedule(**options, scales=1)
    fine, sure = average_scales(image, mixture, variance, alone, level)
    place = divmod(level * 3 % 4, 2)
    small, rows, columns = half(image, place)
    coarse, trust = average_scales(
        small, mixture, variance / 4, Schedule(stride=4, block=None, shift=False, scales=1), level
    )
    torch.testing.assert_close(trust, trust[:1, :1].expand_as(trust))
    assert 0.0 < float(trust[0, 0]) < 1.0 and 0.0 < float(sure.max()) < 1.0
    expected, means = fine.clone(), half(fine, place)[0]
    for i, pair in enumerate(rows):
        for j, sides in enumerate(columns):
            for r in pair:
                for c in sides:
                    if 0 <= r < 11 and 0 <= c < 12:
                        expected[r, c] += trust[i, j] * (coarse[i, j] - means[i, j])
    found, _ = average_scales(image, mixture, variance, Schedule(**options, scales=2), level)
    torch.testing.assert_close(found, expected)
    # no half of an image narrower than two patches
    narrow = [
        average_scales(image[:7], mixture, variance, s, 0)[0]
        for s in (alone, Schedule(**options, scales=3))
    ]
    torch.testing.assert_close(narrow[0], narrow[1])


def test_places_move_over_all_of_a_stride():
    for stride in range(1, 9):
        offsets = [Schedule(stride=stride).offset(level, stride) for level in range(6)]
        assert all(0 <= v < stride for pair in offsets for v in pair)
        assert len(set(offsets)) >= min(6, stride)


def test_draws_of_tilings_are_calibrated_for_images_of_independent_patches():
    """An image made of one tiling's patches: its own tiling's posterior covers it."""
    parts = mixture_parts(components=2)
    mixture, variance = PatchMixture(*parts), 0.01
    basis = cosine_basis(4, dtype=torch.float64)
    component = torch.multinomial(parts[0], 400, replacement=True)
    code = MultivariateNormal(parts[1], parts[2]).sample((400,))[torch.arange(400), component]
    x = PatchGrid((80, 80), 4, 4).sum(code @ basis[1:] + 0.5)
    y = x + variance**0.5 * torch.randn_like(x)
    tilings = tiling_moments(y, mixture, variance, stride=4)
    error = (tilings.mean - x).square().mean()
    torch.testing.assert_close(tilings.within.mean(), error, rtol=0.06, atol=0)
    assert float(tilings.between.abs().max()) < 1e-12
    draws = draw_tilings(y, mixture, variance, 32)
    assert draws.shape == (32, 80, 80) and float(draws.mean().abs()) < 0.01


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(Mask(torch.rand(4, 4) > 0.4), marks=pytest.mark.slow),
        pytest.param(Blur(torch.rand(3, 2), "circular"), marks=pytest.mark.slow),
        Downsample(2),
    ],
)
def test_split_gibbs_draws_from_the_closed_form_behind_an_operator(operator):
    """One patch: the posterior under a mixture smoothed by rho, in closed form."""
    weights, means, covariances = mixture_parts(components=3, means=0.1)
    mixture, sd, rho = PatchMixture(weights, means, covariances), 0.05, 0.1
    shape, eye = (2, 2) if isinstance(operator, Downsample) else (4, 4), torch.eye(16).double()
    matrix = torch.stack([operator(e.reshape(4, 4)).flatten() for e in eye], 1)
    y = 0.5 + 0.2 * torch.randn(shape, dtype=torch.float64)
    y = operator(y) if isinstance(operator, Mask) else y
    # coefficients as pixels, with a normal mean, and the copy's noise
    basis = cosine_basis(4, dtype=torch.float64)
    loc = torch.cat([torch.full((3, 1), 2.0).double(), means], 1) @ basis
    wide = torch.nn.functional.pad(covariances, (1, 0, 1, 0))
    wide[:, 0, 0] = 1.0  # (0.25 * 4)^2
    prior = basis.T @ wide @ basis + rho**2 * eye
    seen = matrix @ prior @ matrix.T + sd**2 * torch.eye(len(matrix)).double()
    off = y.flatten() - loc @ matrix.T
    posterior = MultivariateNormal(torch.zeros(len(matrix)).double(), seen).log_prob(off)
    posterior = (posterior + weights.log()).softmax(0)
    gain = prior @ matrix.T @ torch.linalg.inv(seen)
    each = loc + (gain @ off[..., None])[..., 0]
    centre = posterior @ each
    left = each - centre
    spread = prior - gain @ matrix @ prior + left[:, :, None] * left[:, None]
    spread = (posterior[:, None, None] * spread).sum(0)
    chains = SplitChains(
        y, sd, operator, mixture, torch.full((4, 4), 0.5).double(), [(0, 0)] * 1500
    )
    for _ in range(150):
        image = chains.sweep(rho)
    image = image.reshape(1500, 16)
    root = spread.diagonal().sqrt()
    assert float(((image.mean(0) - centre) / root).abs().max()) < 4.5 / 1500**0.5
    assert float((image.T.cov() - spread).norm() / spread.norm()) < 0.12


@pytest.mark.parametrize(
    "operator", [Mask(torch.rand(20, 17) > 0.4), Blur(torch.ones(3, 3)), Downsample(2)]
)
def test_split_gibbs_is_a_solver_whose_draws_keep_to_the_data(operator):
    model = zoo.EPLL.of(PatchMixture(*mixture_parts(components=4)), operator)
    shape = (20, 17) if isinstance(operator, Mask) else (10, 9)
    y, noise = 0.5 + 0.1 * torch.rand(2, *shape), torch.tensor([0.01, 0.02])
    fit = zoo.fit(model, (y, noise), zoo.SplitGibbs(num_samples=12), progress=False)
    draws = fit.posterior(6)["image"]
    assert draws.shape == (2, 6, 2, *operator.image_shape(shape))
    mean, sd = (fit.solution.state_tensors[name] for name in ("mean", "sd"))
    assert bool((sd > 0).all()) and bool(draws.isfinite().all())
    torch.testing.assert_close(draws.flatten(0, 1).mean(0), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(draws.flatten(0, 1).std(0), sd, atol=1e-5, rtol=0)
    off = operator(draws.flatten(0, 1)) - (operator(y) if isinstance(operator, Mask) else y)
    assert float((off / noise[:, None, None]).square().mean().sqrt()) < 3.0
    again = zoo.fit(model, (y, noise), zoo.SplitGibbs(num_samples=12), progress=False)
    assert torch.equal(again.posterior(6)["image"], draws)


def test_patch_log_likelihood_is_the_sum_over_patches():
    parts = mixture_parts(means=0.1)
    model = zoo.EPLL(*parts).double()
    image = torch.rand(2, 7, 6, dtype=torch.float64)
    prior = MixtureSameFamily(Categorical(parts[0]), MultivariateNormal(*parts[1:]))
    basis = cosine_basis(4, dtype=torch.float64)[1:]
    expected = [
        prior.log_prob(PatchGrid((7, 6), 4).extract(one) @ basis.T).sum()
        + 12 * 0.5 * 15 * math.log(2 * math.pi)
        for one in image
    ]
    torch.testing.assert_close(model.patch_log_likelihood(image), torch.stack(expected))


@pytest.mark.parametrize(
    "operator", [Mask(torch.rand(7, 9) > 0.3), Blur(torch.ones(3, 3)), zoo.imaging.Downsample(2)]
)
def test_operators_enter_the_model(operator):
    model = zoo.EPLL.of(PatchMixture(*mixture_parts()), operator)
    y = torch.rand(1, 7, 9)
    sites = model.sites(y, torch.tensor([0.1]))
    assert sites["image"].shape == (1, *operator.image_shape((7, 9)))
    fit = zoo.fit(model, (y, torch.tensor([0.1])), zoo.SVI(guide="delta", steps=5), progress=False)
    assert math.isfinite(fit.objective)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchMixture.of(zoo.GaussianMixture(2, 17)), "got 17 features"),
        (lambda: PatchMixture.of("gmm"), "got str"),
        (lambda: zoo.EPLL.of(zoo.GaussianMixture(2, 16), 3), "operator: got a int"),
        (lambda: zoo.EPLL(*mixture_parts(), factor=2, mask=torch.ones(4, 4)), "one at most"),
        (lambda: fit_small(torch.rand(1, 3, 9), torch.ones(1)), "3 x 9 pixels, expected 4 x 4"),
        (lambda: fit_small(torch.rand(1, 9, 9), torch.zeros(1)), "noise: got 0 or less"),
        (lambda: fit_small(torch.rand(2, 9, 9), torch.ones(3)), "noise: got"),
        (lambda: fit_small(torch.rand(9, 9), torch.ones(9)), "expected \\(n, height, width\\)"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_samples": 7}, "num_samples: got 7"), ({"sweeps": 0}, "sweeps: got 0")],
)
def test_options_of_split_gibbs_are_checked(options, message):
    with pytest.raises(DataError, match=message):
        zoo.SplitGibbs(**options)
    with pytest.raises(DataError, match="got a GaussianMixture, expected an EPLL model"):
        zoo.fit(zoo.GaussianMixture(2, 3), torch.rand(9, 3), zoo.SplitGibbs(), progress=False)


def fit_small(y, noise):
    """Try to fit."""
    return zoo.fit(small_model(), (y, noise), zoo.SVI(steps=2), progress=False)


@pytest.mark.parametrize("free_mean", [True, False])
@pytest.mark.parametrize("means", [0.0, 0.3])
def test_close_components_are_told_apart_by_exact_scores(free_mean, means):
    # two components of the same variances, which only products of coefficients tell apart
    num_features = 16 - free_mean
    root = torch.randn(2, num_features, num_features, dtype=torch.float64)
    covariance = root @ root.mT
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    covariance = 0.04 * covariance / sd[:, :, None] / sd[:, None]
    centres = means * torch.randn(2, num_features, dtype=torch.float64)
    mixture = PatchMixture(torch.tensor([0.4, 0.6]), centres, covariance)
    patches = 0.2 * torch.randn(200, 16, dtype=torch.float64) + 0.5
    exact = mixture.under_noise(0.01, None, torch.float64)
    block = mixture.under_noise(0.01, 2, torch.float64)
    assert (block.choose(patches) != exact.choose(patches)).any()
    # of two components the two best are all
    for ours, expected in zip(block.restore(patches, 1e9), exact.restore(patches), strict=True):
        torch.testing.assert_close(ours, expected)
    for ours, expected in zip(block.restore(patches, 0.0), exact.restore(patches), strict=True):
        assert not torch.equal(ours, expected)
