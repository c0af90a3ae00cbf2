"""Images as plain tensors: patches, linear operators, quality, colour, noise level and files."""

from ppl_zoo.imaging.colour import from_opponent, to_opponent
from ppl_zoo.imaging.files import example_photograph, read_image, write_image
from ppl_zoo.imaging.lanczos import Lanczos
from ppl_zoo.imaging.noise import estimate_noise
from ppl_zoo.imaging.operators import Blur, Downsample, Identity, LinearOperator, Mask
from ppl_zoo.imaging.patches import (
    PatchGrid,
    average_patches,
    cosine_basis,
    extract_patches,
    sum_patches,
)
from ppl_zoo.imaging.quality import psnr, ssim

__all__ = [
    "Blur",
    "Downsample",
    "Identity",
    "Lanczos",
    "LinearOperator",
    "Mask",
    "PatchGrid",
    "average_patches",
    "cosine_basis",
    "estimate_noise",
    "example_photograph",
    "extract_patches",
    "from_opponent",
    "psnr",
    "read_image",
    "ssim",
    "sum_patches",
    "to_opponent",
    "write_image",
]
