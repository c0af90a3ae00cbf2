"""Image quality: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["psnr", "ssim"]


def psnr(image: Any, reference: Any, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(peak^2 / mean squared error)``.

    Parameters
    ----------
    image, reference
        Images of equal shape.
    peak
        The largest value that a pixel can have.
    """
    image, reference = _as_pair(image, reference)
    error = (image - reference).square().mean()
    return float(10.0 * torch.log10(peak**2 / error))


def ssim(image: Any, reference: Any, peak: float = 1.0) -> float:
    """Mean structural similarity, 1 for equal images.

    Wang, Bovik, Sheikh & Simoncelli (2004), https://doi.org/10.1109/TIP.2003.819861, with its
    Gaussian window of 11 x 11 pixels and sd 1.5, over the pixels whose window lies inside
    the image.

    Parameters
    ----------
    image, reference
        ``(height, width)`` or ``(height, width, channels)``, 11 x 11 or more.
    peak
        The largest value that a pixel can have.
    """
    image, reference = _as_pair(image, reference)
    if image.ndim == 2:
        image, reference = image[..., None], reference[..., None]
    if image.ndim != 3 or min(image.shape[:2]) < 11:
        raise DataError(f"ssim: got shape {tuple(image.shape)}, expected 11 x 11 pixels or more")
    place = torch.arange(-5.0, 6.0, dtype=torch.float64, device=image.device)
    window = torch.exp(-0.5 * (place / 1.5) ** 2)
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        x = x.permute(2, 0, 1)[:, None]
        x = torch.nn.functional.conv2d(x, window[None, None, :, None])
        return torch.nn.functional.conv2d(x, window[None, None, None, :])

    a, b = blur(image), blur(reference)
    var_a, var_b = blur(image**2) - a**2, blur(reference**2) - b**2
    cov = blur(image * reference) - a * b
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    value = (2 * a * b + c1) * (2 * cov + c2) / ((a**2 + b**2 + c1) * (var_a + var_b + c2))
    return float(value.mean())


def _as_pair(image: Any, reference: Any) -> tuple[Tensor, Tensor]:
    image, reference = (torch.as_tensor(t).double() for t in (image, reference))
    if image.shape != reference.shape:
        raise DataError(
            f"image: got shape {tuple(image.shape)}, expected that of the reference, "
            f"{tuple(reference.shape)}"
        )
    return image, reference
