"""Quality, colour, noise level, files and what counts as an image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging import (
    estimate_noise,
    from_opponent,
    psnr,
    read_image,
    ssim,
    to_opponent,
    write_image,
)
from ppl_zoo.imaging.colour import noise_gains
from ppl_zoo.imaging.validation import as_image


def scene(height=96, width=112):
    """Draw a smooth image with an edge and some texture."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = 0.4 + 0.2 * torch.sin(row / 17.0) + 0.2 * (column > 0.6 * width + 0.2 * row)
    return (image + 0.05 * torch.sin(column * 1.3) * (row > 70)).float()


def test_psnr_and_ssim_are_those_of_scikit_image():
    clean = scene()
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    expected = peak_signal_noise_ratio(clean.numpy(), noisy.numpy(), data_range=1.0)
    assert psnr(noisy, clean) == pytest.approx(expected, abs=1e-4)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(clean.numpy(), noisy.numpy(), data_range=1.0, **options)
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-5)
    colour = torch.stack([noisy, clean, noisy], -1), torch.stack([clean] * 3, -1)
    assert ssim(*colour) == pytest.approx((2 * expected + 1) / 3, abs=1e-5)
    assert psnr(clean, clean) == float("inf") and ssim(clean, clean) == pytest.approx(1.0)
    with pytest.raises(DataError, match="that of the reference"):
        psnr(clean, clean[1:])


def test_opponent_colours_go_there_and_back_and_keep_noise_apart():
    image = torch.rand(20, 30, 3, dtype=torch.float64)
    there = to_opponent(image)
    torch.testing.assert_close(from_opponent(there), image)
    assert float(there.min()) >= 0 and float(there.max()) <= 1
    noise = torch.randn(200, 200, 3, generator=torch.Generator().manual_seed(0))
    moved = (to_opponent(noise) - to_opponent(torch.zeros(1, 1, 3))).reshape(-1, 3)
    torch.testing.assert_close(moved.std(0), torch.tensor(noise_gains()), rtol=0.02, atol=0)
    correlation = torch.corrcoef(moved.T) - torch.eye(3)
    assert float(correlation.abs().max()) < 0.02


@pytest.mark.parametrize("grey_levels", [5, 15, 25, 50])
def test_the_noise_level_is_found(grey_levels):
    sigma = grey_levels / 255
    noise = torch.randn(96, 112, generator=torch.Generator().manual_seed(3))
    assert estimate_noise(scene() + sigma * noise) == pytest.approx(sigma, rel=0.06)


def test_the_noise_level_of_flat_and_colour_images():
    assert estimate_noise(torch.full((32, 32), 0.5)) == 0.0
    noise = torch.randn(96, 112, 3, generator=torch.Generator().manual_seed(3))
    colour = scene()[..., None] + 0.1 * noise
    assert estimate_noise(colour) == pytest.approx(0.1, rel=0.05)
    with pytest.raises(DataError, match="16 x 16"):
        estimate_noise(torch.zeros(9, 40))


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (9, 7, 4)])
def test_files_keep_images_of_8_bits(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 256, shape)
    image = torch.from_numpy(values / 255.0).float()
    path = write_image(tmp_path / "image.png", image)
    torch.testing.assert_close(read_image(path), image)


def test_files_of_16_bits_transparency_palettes_and_grey(tmp_path):
    from PIL import Image

    ramp = torch.linspace(0, 1, 4096).reshape(64, 64)
    path = write_image(tmp_path / "deep.png", ramp, bits=16)
    assert float((read_image(path) - ramp).abs().max()) < 1 / 65535
    opaque = torch.cat([torch.rand(8, 8, 3), torch.ones(8, 8, 1)], -1)
    assert read_image(write_image(tmp_path / "opaque.png", opaque)).shape == (8, 8, 3)
    Image.new("RGB", (6, 5), (255, 0, 0)).quantize(4).save(tmp_path / "palette.png")
    palette = read_image(tmp_path / "palette.png")
    assert palette.shape == (5, 6, 3) and palette[0, 0].tolist() == [1.0, 0.0, 0.0]
    grey = read_image(tmp_path / "palette.png", grey=True)
    torch.testing.assert_close(grey, torch.full((5, 6), 0.299))
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="no image that can be read"):
        read_image(tmp_path / "text.png")


def test_whole_numbers_become_parts_of_one():
    assert as_image(np.array([[0, 255]], dtype=np.uint8)).tolist() == [[0.0, 1.0]]
    assert as_image(np.array([[0, 65535]], dtype=np.uint16)).tolist() == [[0.0, 1.0]]
    assert as_image(np.zeros((3, 3))).dtype == torch.float64
    assert as_image(torch.zeros(3, 3, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3), "expected \\(height, width\\)"),
        (torch.zeros(3, 3, 5), "1 to 4 channels"),
        (torch.zeros(3, 3, dtype=torch.int64), "got torch.int64, expected floats.*value_range"),
        (torch.tensor([[0.0, float("nan")]]), "1 values that are NaN"),
        (torch.tensor([[0.0, 255.0]]), "divide grey levels by 255"),
        ("photo.png", "photo.png: no such file"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(DataError, match=message):
        as_image(image)
