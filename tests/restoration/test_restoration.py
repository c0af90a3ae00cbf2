"""``zoo.restore`` and ``ppl-zoo restore``: every kind of image, task and error."""

import json

import numpy as np
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.cli import main
from ppl_zoo.core.errors import DataError, RunError
from ppl_zoo.imaging import Blur, Downsample, Identity, Mask, psnr, read_image, write_image
from ppl_zoo.restoration.half_quadratic import QUALITIES

PRIOR = "gmm20-patches"
SD = 25 / 255


def scene(height=60, width=52):
    """Draw edges, a gradient and some texture."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = 0.3 + 0.3 * row / height + 0.25 * (column + 0.4 * row > 0.8 * width)
    return (image + 0.06 * torch.sin(1.1 * column) * (row > 0.6 * height)).float()


def noisy(image, seed=0):
    return image + SD * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


def restore(image, *arguments, **options):
    return zoo.restore(image, *arguments, prior=PRIOR, progress=False, **options)


@pytest.mark.parametrize("quality", ["exact", "best", "fast", "fastest"])
def test_denoising_gains_and_the_qualities_agree(quality):
    clean = scene()
    done = restore(noisy(clean), None, SD, quality=quality)
    assert done.image.shape == clean.shape and done.sd is None and done.fit is None
    assert psnr(done.image, clean) > psnr(noisy(clean), clean) + 9.0
    exact = restore(noisy(clean), None, SD, quality="exact").image
    assert psnr(done.image, clean) > psnr(exact, clean) - {"fastest": 0.6}.get(quality, 0.3)


def test_fast_selection_loses_nothing_on_the_same_patches(monkeypatch):
    clean = scene(80, 72)
    best = restore(noisy(clean), None, SD).image
    monkeypatch.setitem(QUALITIES, "best", {"stride": 2, "block": None})
    exact = restore(noisy(clean), None, SD).image
    assert abs(psnr(best, clean) - psnr(exact, clean)) < 0.1


@pytest.mark.parametrize("shape", [(8, 8), (8, 31), (9, 8), (23, 17)])
@pytest.mark.parametrize("quality", ["best", "fastest"])
def test_images_of_every_size(shape, quality):
    done = restore(torch.rand(shape), None, SD, quality=quality)
    assert done.image.shape == shape and bool(done.image.isfinite().all())


def test_constant_images_come_back():
    done = restore(torch.full((20, 20), 0.4), None, SD)
    torch.testing.assert_close(done.image, torch.full((20, 20), 0.4), atol=1e-4, rtol=0)
    assert restore(torch.full((20, 20), 0.4)).sigma == 0.0


def test_colour_gains_more_than_its_channels_alone():
    clean = torch.stack([scene(), 0.8 * scene(), 1.0 - scene()], -1)
    y = noisy(clean)
    together = restore(y, None, SD).image
    alone = torch.stack([restore(y[..., c], None, SD).image for c in range(3)], -1)
    assert together.shape == clean.shape
    assert psnr(together, clean) > psnr(alone, clean) + 0.5


def test_a_photograph_in_bands_is_the_same_photograph(monkeypatch):
    # products of another number of rows round otherwise, and single precision then chooses another
    # component for some patch on some processors
    y = noisy(torch.stack([scene(), 0.8 * scene(), 1.0 - scene()], -1)).double()
    whole = restore(y, None, SD, quality="fast").image
    assert whole.dtype == torch.float64
    # a row of patches at a time
    monkeypatch.setattr("ppl_zoo.restoration.half_quadratic.MAX_PATCHES_PER_BAND", 1)
    torch.testing.assert_close(restore(y, None, SD, quality="fast").image, whole)


def test_transparency_is_left_alone():
    image = torch.cat([scene()[..., None].expand(-1, -1, 3), torch.rand(60, 52, 1)], -1)
    done = restore(image, None, SD, method="posterior", num_draws=8)
    assert torch.equal(done.image[..., 3], image[..., 3])
    assert done.sd.shape == image.shape and bool((done.sd[..., 3] == 0).all())
    grey = restore(image[..., 2:], None, SD)
    assert grey.image.shape == (60, 52, 2)


def test_whole_numbers_of_8_and_16_bits_are_parts_of_one():
    clean = (scene() * 255).round()
    as_float = restore(clean / 255, None, SD).image
    as_bytes = restore(clean.numpy().astype(np.uint8), None, SD).image
    torch.testing.assert_close(as_bytes, as_float)
    deep = restore((clean * 257).numpy().astype(np.uint16), None, SD).image
    torch.testing.assert_close(deep, as_float)


def test_double_precision_stays():
    assert restore(scene().double(), None, SD).image.dtype == torch.float64


def test_the_noise_level_is_estimated():
    done = restore(noisy(scene(96, 96)))
    assert done.sigma == pytest.approx(SD, rel=0.1)


@pytest.mark.parametrize("boundary", ["valid", "circular"])
def test_deblurring(boundary):
    clean, random = scene(), torch.Generator().manual_seed(0)
    blur = Blur(torch.rand(5, 7, generator=random), boundary)
    y = blur(clean) + 0.01 * torch.randn(blur(clean).shape, generator=random)
    done = restore(y, blur, 0.01)
    assert done.image.shape == clean.shape
    assert psnr(done.image, clean) > psnr(blur.first_guess(y), clean) + 2.0


def test_inpainting_keeps_seen_pixels_and_ignores_what_unseen_ones_hold():
    clean = scene()
    seen = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    operator = Mask(seen)
    done = restore(torch.where(seen, clean, torch.nan), operator, 0.0)
    assert float((done.image - clean)[seen].abs().max()) < 0.01
    assert psnr(done.image, clean) > psnr(operator.first_guess(clean * seen), clean) + 2.0


def test_up_scaling():
    clean, operator = scene(), Downsample(2)
    y = operator(clean)
    done = restore(y, operator, 1 / 255)
    assert done.image.shape == clean.shape
    assert psnr(done.image, clean) > psnr(operator.first_guess(y), clean) + 0.2


def test_the_posterior_is_calibrated_and_its_draws_reach_arviz():
    clean = scene(96, 96)
    done = restore(noisy(clean), Identity(), SD, method="posterior", num_draws=32)
    mode = restore(noisy(clean), None, SD).image
    assert psnr(done.image, clean) > psnr(mode, clean) - 0.2
    error = (done.image - clean).square().mean().sqrt()
    assert 0.7 < float(done.sd.square().mean().sqrt() / error) < 1.4
    draws = done.fit.posterior(16)["image"]
    assert draws.shape == (2, 16, 1, 96, 96)
    spread = draws.flatten(0, 2).var(0).mean().sqrt()
    assert float(spread / done.sd.square().mean().sqrt()) == pytest.approx(1.0, abs=0.1)
    again = restore(noisy(clean), None, SD, method="posterior", num_draws=32)
    assert torch.equal(again.fit.posterior(16)["image"], draws)


def test_posterior_draws_in_arviz(tmp_path):
    import arviz as az

    done = restore(noisy(scene(12, 11)), None, SD, method="posterior", num_draws=40)
    posterior = done.fit.to_arviz(num_samples=20).posterior
    assert posterior["image"].dims == ("chain", "draw", "images", "row", "column")
    assert float(az.rhat(posterior)["image"].median()) < 1.05
    assert float(az.ess(posterior)["image"].median()) > 20
    done.fit.save(tmp_path / "run")
    again = zoo.load(tmp_path / "run", solver=zoo.Tiling(40))
    assert torch.equal(again.posterior(20)["image"], done.fit.posterior(20)["image"])


@pytest.mark.parametrize("task", ["deblur", "inpaint", "upscale"])
def test_the_posterior_behind_an_operator_covers_the_image(task):
    clean, random = scene(40, 36), torch.Generator().manual_seed(0)
    operator, sd = {
        "deblur": (Blur(torch.ones(5, 5)), 0.01),
        "inpaint": (Mask(torch.rand(clean.shape, generator=random) > 0.5), 0.01),
        "upscale": (Downsample(2), 0.01),
    }[task]
    y = operator(clean)
    y = y + sd * torch.randn(y.shape, generator=random)
    done = restore(y, operator, sd, method="posterior", num_draws=40)
    mode = restore(y, operator, sd).image
    assert done.image.shape == done.sd.shape == clean.shape
    assert psnr(done.image, clean) > psnr(mode, clean) - 0.2
    error = (done.image - clean).abs()
    # a drawing, smoother than photographs: the spread may be wide, and is not narrow
    assert 0.7 < float(done.sd.square().mean().sqrt() / error.square().mean().sqrt()) < 4.0
    assert float((error < 1.645 * done.sd).float().mean()) > 0.8
    if task == "inpaint":
        seen = operator.mask
        assert float(done.sd[~seen].mean()) > 1.5 * float(done.sd[seen].mean())


def test_the_posterior_behind_an_operator_reaches_arviz():
    import arviz as az

    clean, operator = scene(12, 10), Downsample(2)
    done = restore(operator(clean), operator, 0.01, method="posterior", num_draws=40)
    data = done.fit.to_arviz(num_samples=20)
    assert "log_likelihood" not in data  # the factor of the patches has no normaliser
    assert data.posterior["image"].dims == ("chain", "draw", "images", "row", "column")
    assert float(az.rhat(data.posterior)["image"].median()) < 1.05
    assert float(az.ess(data.posterior)["image"].median()) > 20


def test_mean_field_posterior():
    clean = scene(14, 14)
    done = restore(noisy(clean), None, SD, method="svi", steps=60)
    assert done.image.shape == done.sd.shape == clean.shape
    assert bool((done.sd > 0).all()) and float(done.sd.mean()) < SD
    assert psnr(done.image, clean) > psnr(noisy(clean), clean)


def test_a_prior_of_ones_own():
    prior = zoo.GaussianMixture(2, 16)
    assert restore_with(prior, torch.rand(9, 9)).image.shape == (9, 9)


def restore_with(prior, image):
    return zoo.restore(image, None, SD, prior, progress=False)


def test_pretrained_priors_load_by_name():
    model = zoo.load("gmm200-patches")
    assert (model.num_components, model.num_features) == (200, 63)
    assert float(model.weights.sum()) == pytest.approx(1.0)
    assert bool((model.means == 0).all()) and model.sample(3).shape == (3, 63)
    with pytest.raises(RunError, match="gmm20-patches"):
        zoo.restore(torch.rand(9, 9), None, SD, "gmm7", progress=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: restore(torch.rand(7, 30), None, SD), "7 x 30 pixels, expected 8 x 8"),
        (lambda: restore(torch.full((9, 9), float("nan")), None, SD), "81 values that are NaN"),
        (lambda: restore(torch.rand(9, 9), None, 25), "25 grey levels of 255 are 25 / 255"),
        (lambda: restore(torch.rand(9, 9), None, -0.1), "sigma: got -0.1"),
        (lambda: restore(torch.rand(9, 9), "blur", SD), "operator: got a str"),
        (lambda: restore(torch.rand(9, 9), None, SD, method="gibbs"), "method: got 'gibbs'"),
        (lambda: restore(torch.rand(9, 9), None, SD, quality="good"), "quality: got 'good'"),
        (lambda: restore(torch.rand(9, 9), None, SD, stride=9), "stride: got 9"),
        (lambda: restore(torch.rand(9, 9), Downsample(2)), "sigma: got None with a Downsample"),
        (lambda: restore(torch.rand(9, 9), Mask(torch.ones(9, 8)), 0.0), "mask: got"),
        (lambda: restore(torch.rand(9, 9), None, SD, method="posterior", num_draws=7), "got 7"),
        (lambda: restore(torch.rand(9, 9, 4), Downsample(2), SD), "transparency"),
        (lambda: restore(torch.rand(9, 9).long(), None, SD), "got torch.int64"),
        (lambda: restore_with(zoo.GaussianMixture(2, 10), torch.rand(9, 9)), "got 10 features"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()


# --- the command -------------------------------------------------------------------------------


def test_the_command_denoises_and_draws_a_figure(tmp_path, capsys):
    clean = scene()
    path = write_image(tmp_path / "photo.png", noisy(clean).clamp(0, 1))
    arguments = ["--sigma", "25", "--prior", PRIOR, "--draws", "8", "--json"]
    assert main(["restore", str(path), *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sigma"] == 25.0 and record["method"] == "posterior"
    assert 2.0 < record["mean_sd"] < 25.0
    assert psnr(read_image(tmp_path / "photo-restored.png"), clean) > 26.0
    figure = read_image(tmp_path / "photo-restored-figure.png")
    assert figure.shape[1] > 2 * figure.shape[0]


@pytest.mark.parametrize("task", ["deblur", "inpaint", "upscale"])
def test_the_command_does_the_other_tasks(tmp_path, capsys, task):
    path = write_image(tmp_path / "photo.png", torch.stack([scene()] * 3, -1))
    np.save(tmp_path / "kernel.npy", np.ones((3, 3)))
    write_image(tmp_path / "mask.png", (torch.rand(60, 52) > 0.3).float())
    files = {"deblur": "--kernel kernel.npy", "inpaint": "--mask mask.png", "upscale": ""}[task]
    files = [f if f.startswith("--") else str(tmp_path / f) for f in files.split()]
    out = tmp_path / "out.png"
    options = ["--task", task, "--prior", PRIOR, "--quality", "fast", "--out", str(out)]
    assert main(["restore", str(path), *options, *files]) == 0
    assert str(out) in capsys.readouterr().out
    expected = {"deblur": (62, 54, 3), "inpaint": (60, 52, 3), "upscale": (120, 104, 3)}[task]
    assert read_image(out).shape == expected
    if files:
        assert main(["restore", str(path), *options]) == 2
        assert files[0] in capsys.readouterr().err
