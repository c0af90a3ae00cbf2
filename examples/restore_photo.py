"""Take the noise off a photograph, and look at how sure each pixel is.

    python examples/restore_photo.py [photo.png]

Draws of the restored image are independent; their spread is the uncertainty, and it can be read
like any other posterior: here as the probability that a pixel is brighter than its neighbour.
"""

import sys
from pathlib import Path

import torch

import ppl_zoo as zoo
from ppl_zoo.imaging import psnr, read_image, write_image


def main(photo: str | None = None, *, size: int = 160, draws: int = 64, out: str = ".") -> None:
    """Degrade a photograph by noise of 25 grey levels and restore it."""
    clean = zoo.imaging.example_photograph() if photo is None else read_image(photo, grey=True)
    clean, sigma = clean[-size:, :size], 25 / 255
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    found = zoo.imaging.estimate_noise(noisy)
    print(f"noise level: 25.0 grey levels, estimated {255 * found:.1f}")

    done = zoo.restore(noisy, None, sigma, method="posterior", num_draws=draws, progress=False)
    error = done.image - clean
    inside = (error.abs() < 1.645 * done.sd).float().mean()
    print(f"{psnr(noisy, clean):.2f} dB -> {psnr(done.image, clean):.2f} dB")
    print(
        f"error {255 * error.square().mean().sqrt():.2f} grey levels, "
        f"posterior sd {255 * done.sd.square().mean().sqrt():.2f}"
    )
    print(f"90 % intervals hold {100 * inside:.0f} % of the pixels")

    images = done.fit.posterior(draws // 2)["image"]  # (chain, draw, image, row, column)
    brighter = (images[..., 1:] > images[..., :-1]).float().mean((0, 1, 2))
    unsure = ((brighter > 0.1) & (brighter < 0.9)).float().mean()
    print(
        f"which of two neighbours is brighter is open (10-90 %) at {100 * unsure:.0f} % of places"
    )
    print(write_image(Path(out) / "restored.png", done.image))


if __name__ == "__main__":
    main(*sys.argv[1:2])
