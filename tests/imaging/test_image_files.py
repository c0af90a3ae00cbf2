"""Image files as people bring them: each kind with the right values, or refused by name."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

import ppl_zoo as zoo
from ppl_zoo.core.errors import DataError
from ppl_zoo.data import from_path
from ppl_zoo.imaging import psnr, read_image, write_image
from ppl_zoo.imaging.validation import as_image, check_unit_interval

#: the tag of the EXIF data that says how a camera was held
ORIENTATION = 0x0112


@pytest.fixture
def save(tmp_path):
    """Save an image and return its path."""

    def write(image, name="image.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def ramp(height=24, width=32):
    """Grey levels that differ in both directions."""
    return (np.arange(height)[:, None] * 5 + np.arange(width) * 4).astype(np.uint8)


def scene():
    return torch.from_numpy(ramp(32, 32)).float() / 255.0


# --- modes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("1", (2, 3), 1), "a.png", 1.0),
        (Image.new("L", (2, 3), 51), "a.png", 0.2),
        (Image.new("I;16", (2, 3), 13107), "a.png", 0.2),
        (Image.new("I", (2, 3), 13107), "a.tif", 0.2),
        (Image.new("F", (2, 3), 0.25), "a.tif", 0.25),
        (Image.new("RGB", (2, 3), (51, 102, 255)), "a.png", [0.2, 0.4, 1.0]),
        (Image.new("RGBA", (2, 3), (51, 102, 255, 102)), "a.png", [0.2, 0.4, 1.0, 0.4]),
        (Image.new("RGBA", (2, 3), (51, 102, 255, 255)), "a.png", [0.2, 0.4, 1.0]),
        (Image.new("LA", (2, 3), (51, 102)), "a.png", [0.2, 0.4]),
        (Image.new("LA", (2, 3), (51, 255)), "a.png", 0.2),
        (Image.new("RGB", (2, 3), (51, 102, 255)).quantize(4), "a.png", [0.2, 0.4, 1.0]),
        (Image.new("RGB", (2, 3), (51, 102, 255)).quantize(4), "a.gif", [0.2, 0.4, 1.0]),
        # ink: cyan, magenta, yellow and black
        (Image.new("CMYK", (2, 3), (255, 0, 0, 0)), "a.tif", [0.0, 1.0, 1.0]),
        (Image.new("CMYK", (2, 3), (0, 0, 0, 204)), "a.tif", [0.2, 0.2, 0.2]),
    ],
)
def test_modes(save, image, name, expected):
    read = read_image(save(image, name))
    want = torch.tensor(expected)
    want = want.expand(3, 2, *want.shape)
    torch.testing.assert_close(read, want)
    torch.testing.assert_close(read_image(image), want)
    torch.testing.assert_close(as_image(save(image, name)), want)


def test_cmyk_of_a_jpeg(save):
    """JPEG's CMYK is stored inverted, by Adobe's mark."""
    read = read_image(save(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "a.jpg", quality=100))
    torch.testing.assert_close(read[8, 8], torch.tensor([0.0, 1.0, 1.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour(save, mode):
    image = Image.new(mode, (2, 1), 0 if mode != "RGB" else (0, 0, 0))
    image.putpixel((1, 0), 1 if mode != "RGB" else (255, 255, 255))
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
    read = read_image(save(image, transparency=0 if mode != "RGB" else (0, 0, 0)))
    assert read[0, :, -1].tolist() == [0.0, 1.0]
    assert read.shape == (1, 2, 2 if mode == "L" else 4)
    assert read[0, 0, 0] == 0.0 and read[0, 1, 0] == (1 / 255 if mode == "L" else 1.0)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).T),
        (8, lambda x: np.rot90(x, 1)),
    ],
)
def test_photographs_are_turned_as_their_camera_was(save, orientation, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(Image.fromarray(ramp()), exif=exif)
    expected = torch.from_numpy(turn(ramp()).copy()).float() / 255.0
    torch.testing.assert_close(read_image(path), expected)
    with Image.open(path) as image:
        torch.testing.assert_close(read_image(image), expected)
    torch.testing.assert_close(
        from_path(path.parent).train, expected.reshape(1, -1), atol=1e-6, rtol=0
    )


def test_frames_are_chosen(save, tmp_path):
    frames = [Image.new("L", (2, 2), level) for level in (51, 102, 153)]
    for name in ("a.gif", "a.tif", "a.png"):
        path = save(frames[0], name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=f"{name}: got 3 frames.*frame=0"):
            read_image(path)
        assert read_image(path, frame=1, grey=True)[0, 0] == pytest.approx(0.4)
        with pytest.raises(DataError, match="got frame 3, expected 0 to 2"):
            read_image(path, frame=3)
    # a telephone's photograph holds a preview beside itself
    path = save(frames[0], "a.mpo", save_all=True, append_images=frames[1:])
    path.rename(tmp_path / "photo.jpg")
    assert read_image(tmp_path / "photo.jpg")[0, 0] == pytest.approx(0.2, abs=0.01)


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.bmp", "a.webp"])
def test_truncated_files(save, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = save(Image.fromarray(noise), name)
    content = path.read_bytes()
    for size in (len(content) // 2, 30, 1, 0):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=f"{name}: got no image that can be read"):
            read_image(path)
        with pytest.raises(DataError, match=name):
            zoo.restore(path, progress=False)


def test_damaged_files_are_refused_by_name(save):
    chance = random.Random(0)
    for name in ("a.png", "a.jpg", "a.tif", "a.gif", "a.bmp"):
        path = save(Image.fromarray(ramp()), name)
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(chance.randint(1, 5)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            path.write_bytes(damaged)
            try:
                read = read_image(path)
                assert bool(read.isfinite().all())
            except DataError as error:
                assert name in str(error)


def test_decompression_bombs(save, monkeypatch):
    path = save(Image.new("1", (60, 50)))
    for limit in (1400, 2000):  # beyond twice the limit, and up to it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"image.png: .*3000 pixels.*MAX_IMAGE_PIXELS"):
            read_image(path)
        with pytest.raises(DataError, match=r"image.png: .*3000 pixels"):
            from_path(path.parent)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert read_image(path).shape == (50, 60)


def test_values_that_are_no_grey_levels(save, tmp_path):
    with pytest.raises(DataError, match="a.tif: .*integers from 70000 to 70000"):
        read_image(save(Image.new("I", (2, 2), 70000), "a.tif"))
    with pytest.raises(DataError, match="a.tif: .*integers from -1 to -1"):
        read_image(save(Image.new("I", (2, 2), -1), "a.tif"))
    with pytest.raises(DataError, match="a.tif: got 4 pixels that are NaN"):
        read_image(save(Image.new("F", (2, 2), float("nan")), "a.tif"))
    with pytest.raises(DataError, match="out.png: got an image with NaN"):
        write_image(tmp_path / "out.png", torch.full((2, 2), torch.nan))
    with pytest.raises(DataError, match="no such file"):
        zoo.restore(tmp_path / "none.png")
    with pytest.raises(DataError, match=str(tmp_path)):
        zoo.restore(tmp_path)


# --- restoration -------------------------------------------------------------------------------


def test_restore_takes_paths_and_images_of_pillow(save):
    noisy = scene() + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    image = Image.fromarray((noisy.clamp(0, 1) * 255).round().byte().numpy())
    path = save(image)
    options = {"sigma": 0.1, "quality": "fastest", "progress": False}
    want = zoo.restore(np.asarray(image).copy(), **options).image
    assert psnr(want, scene()) > psnr(noisy, scene()) + 5.0
    for given in (path, str(path), image, Image.open(io.BytesIO(path.read_bytes()))):
        assert torch.equal(zoo.restore(given, **options).image, want)


def test_restore_by_value_range():
    noisy = scene() + 0.05 * torch.randn(32, 32, generator=torch.Generator().manual_seed(2))
    options = {"sigma": 0.05, "quality": "fastest", "progress": False}
    want = zoo.restore(noisy, **options).image
    ranges = [((-1, 1), 2 * noisy - 1), ((0, 255), 255 * noisy), ((0.0, 1.0), noisy)]
    for value_range, given in ranges:
        done = zoo.restore(given, value_range=value_range, **options)
        torch.testing.assert_close(done.image, want, atol=1e-5, rtol=0)
        if value_range[1] != 1.0 or value_range[0]:
            for sigma in (0.05, None):
                with pytest.raises(DataError, match=r"got values from -?\d.*value_range="):
                    zoo.restore(given, **options | {"sigma": sigma})
    whole = (scene() * 255).round().long()
    done = zoo.restore(whole, value_range=(0, 255), **options)
    torch.testing.assert_close(
        done.image, zoo.restore(whole.byte(), **options).image, atol=1e-6, rtol=0
    )
    for wrong in ((1, 0), (0,), (0, float("nan")), "ab", 3):
        with pytest.raises(DataError, match="value_range: got"):
            zoo.restore(noisy, value_range=wrong, **options)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("noise_sd", [0.02, 0.1, 0.5, 1.0])
def test_noise_alone_is_not_taken_for_another_range(level, noise_sd):
    noise = torch.randn(200, 200, generator=torch.Generator().manual_seed(3))
    check_unit_interval(level + noise_sd * noise, noise_sd)
    with pytest.raises(DataError, match=r"value_range=\(-1, 1\)"):
        check_unit_interval(3.5 * (level + noise_sd * noise + 1.0), noise_sd / 4)


def test_the_command_restores_any_file(save, tmp_path, capsys):
    from ppl_zoo import cli

    noisy = 2.0 * scene() - 1.0
    path = save(Image.fromarray(noisy.numpy()), "float.tif")
    line = ["restore", str(path), "--sigma", "5", "--quality", "fastest", "--method", "map"]
    assert cli.main(line) == 2
    assert "value_range=(-1, 1)" in capsys.readouterr().err
    assert cli.main([*line, "--value-range", "-1", "1"]) == 0
    assert psnr(read_image(tmp_path / "float-restored.png"), scene()) > 30.0
    frames = [Image.fromarray(ramp(32, 32)), Image.new("L", (32, 32))]
    path = save(frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    line[1] = str(path)
    assert cli.main(line) == 2
    assert "moving.gif: got 2 frames" in capsys.readouterr().err
    assert cli.main([*line, "--frame", "0"]) == 0
