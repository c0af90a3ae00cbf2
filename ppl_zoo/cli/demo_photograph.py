"""The photograph that the demo restores: how well, and how sure of it."""

from __future__ import annotations

import time

import torch

from ppl_zoo import imaging
from ppl_zoo.cli.restoring import picture_of
from ppl_zoo.cli.terminal import note
from ppl_zoo.diagnostics.report import Section, picture
from ppl_zoo.restoration import restore

__all__ = ["restored_photograph"]


def restored_photograph(device: str) -> Section:
    """Denoise the photograph that comes with the package."""
    note("Photograph: noise of 25 grey levels taken off by EPLL")
    clean, sigma = imaging.example_photograph(), 25.0 / 255.0
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    done = restore(noisy, None, sigma, method="posterior", device=device, progress=False)
    seconds = time.perf_counter() - started
    before, after = (imaging.psnr(image.cpu(), clean) for image in (noisy, done.image))
    error = float((done.image.cpu() - clean).square().mean().sqrt())
    note(f"    {before:.2f} -> {after:.2f} dB, {seconds:.1f} s")
    return Section(
        anchor="photograph",
        title="A photograph restored, with the uncertainty of each pixel",
        text="Noise of 25 grey levels, taken off with a mixture of 200 Gaussians over 8x8 patches "
        "(EPLL). The sd is posterior: the tilings of the image into patches, each exact, put "
        "together.",
        queries={},
        facts=(
            ("noisy", f"{before:.2f} dB"),
            ("restored", f"{after:.2f} dB"),
            ("posterior sd", f"{255.0 * float(done.sd.square().mean().sqrt()):.2f} grey levels"),
            ("actual error", f"{255.0 * error:.2f} grey levels"),
            ("time", f"{seconds:.1f} s"),
        ),
        pictures=(picture(picture_of(noisy, done), "Input, result, and posterior sd."),),
        references=(
            (
                "Zoran & Weiss (2011). From learning models of natural image patches to whole "
                "image restoration.",
                "https://doi.org/10.1109/ICCV.2011.6126278",
            ),
        ),
        commands=("ppl-zoo restore photo.png --sigma 25",),
    )
