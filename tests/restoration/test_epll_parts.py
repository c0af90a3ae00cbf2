"""Parts of EPLL: grouped products, power laws of the error, initialisation of EM."""

import pytest
import torch
from torch.distributions import MultivariateNormal

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging import Downsample, Mask, PatchGrid, cosine_basis
from ppl_zoo.models.images import start_patch_mixture
from ppl_zoo.models.images.patch_mixture import PatchMixture, grouped_product
from ppl_zoo.restoration.half_quadratic import Schedule, split
from ppl_zoo.restoration.split_gibbs import (
    OBSERVED_PIXEL_FACTOR,
    POWER_LAWS,
    fit_power_law,
    tempering_factor,
)


@pytest.mark.parametrize("features", [16, 25])
@pytest.mark.parametrize("biased", [False, True])
def test_rows_are_multiplied_by_the_matrices_of_their_components(features, biased):
    """The one call for all groups, and the loop where rows are not aligned to 16 bytes."""
    rows, matrices = torch.randn(60, features), torch.randn(9, features, features)
    bias = torch.randn(9, features) if biased else None
    component = torch.randint(0, 4, (60,)).mul(2).short()  # some have no rows
    expected = torch.stack(
        [
            r @ matrices[k] + (bias[k] if biased else 0.0)
            for r, k in zip(rows, component.int(), strict=True)
        ]
    )
    found = grouped_product(rows, component, matrices, bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    again = grouped_product(
        rows.double(), component, matrices.double(), None if bias is None else bias.double()
    )
    torch.testing.assert_close(again.float(), expected, rtol=1e-5, atol=1e-5)


def test_the_law_of_the_spread_is_found_and_brings_draws_to_the_error():
    spread = 0.01 + 0.1 * torch.rand(20_000)
    error = torch.randn(20_000) * 0.7 * spread * (spread / 0.05) ** 0.4
    found = fit_power_law(error, spread)
    assert found.gain == pytest.approx(0.7, rel=0.05)
    assert found.power == pytest.approx(1.4, abs=0.05)
    with pytest.raises(DataError, match="3 pixels"):
        fit_power_law(error[:3], spread[:3])


def test_seen_pixels_keep_to_their_noise_and_do_not_count_for_the_others():
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[::2] = True
    sd = torch.where(mask, 0.01, 0.08)
    factor = tempering_factor(sd, Mask(mask))
    gain, power = POWER_LAWS[Mask]
    assert torch.equal(factor[mask], torch.full((72,), OBSERVED_PIXEL_FACTOR))
    expected = torch.full((72,), gain * (0.08 / 0.05) ** (power - 1.0))
    torch.testing.assert_close(factor[~mask], expected, rtol=1e-5, atol=0)
    # smooth places: the wider the draws, the nearer to the error they are
    narrow, wide = (
        float(tempering_factor(torch.full((9, 9), s), Downsample(2)).mean()) for s in (0.02, 0.09)
    )
    assert narrow < 0.7 * wide


def test_where_a_block_loses_much_all_products_decide():
    """Textures that differ in the correlation of two fine coefficients alone."""
    covariance = torch.diag(torch.linspace(1.0, 0.05, 15, dtype=torch.float64)).repeat(3, 1, 1)
    for sign, one in zip((0.0, 0.9, -0.9), covariance, strict=True):
        one[13, 14] = one[14, 13] = sign * (one[13, 13] * one[14, 14]).sqrt()
    mixture = PatchMixture(torch.full((3,), 1 / 3), torch.zeros(3, 15), 0.1 * covariance)
    draws = MultivariateNormal(torch.zeros(15).double(), mixture.covariances).sample((1024,))
    code = draws.transpose(0, 1).flatten(0, 1)
    patches = (code @ cosine_basis(4, dtype=torch.float64)[1:])[torch.randperm(3072)]
    image = 0.5 + PatchGrid((128, 384), 4, 4).sum(patches)
    variance = 1e-3
    block, exact = (mixture.under_noise(variance, b, torch.float64) for b in (8, None))
    scores = exact.scores(patches)
    by_hand = scores.amax(0) - scores.gather(0, block.choose(patches).long()[None])[0]
    assert 0.01 < block.score_loss(patches, exact) <= float(by_hand.mean())
    assert exact.score_loss(patches, exact) == 0.0

    def run(**options):
        schedule = Schedule(stride=4, scales=1, exact_margin=0.0, shift=False, **options)
        return split(image, mixture, lambda average, pull: average, [variance], schedule)

    kept, whole = run(block=8), run(block=None)
    assert float((kept - whole).abs().max()) > 1e-3
    assert torch.equal(run(block=8, tolerance=1e9), kept)
    assert torch.equal(run(block=8, tolerance=0.0), whole)


def test_the_start_of_a_patch_mixture_divides_by_contrast():
    scale = torch.cat([torch.full((300, 1), 0.01), torch.full((300, 1), 1.0)])
    x = scale * torch.randn(600, 15)
    prior = start_patch_mixture(x, 8)
    assert prior.weights.shape == (8,) and float(prior.weights.sum()) == pytest.approx(1.0)
    assert float(prior.means.abs().max()) == 0.0
    total = prior.covariances.diagonal(dim1=1, dim2=2).mean(1).sort().values
    assert float(total[3]) < 1e-3 and float(total[4]) > 0.3
    fit = zoo.fit(prior, x, zoo.EM(steps=5, initialize=False), device="cpu", progress=False)
    assert fit.objective > 600 * 15 * -1.5 and float(prior.means.abs().max()) < 1e-6
    with pytest.raises(DataError, match="num_components: got 700"):
        start_patch_mixture(x, 700)
