"""Noise-level estimation: the sd of white noise from the noisy image alone."""

from __future__ import annotations

from typing import Any

import torch

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.patches import PatchGrid, cosine_basis

__all__ = ["estimate_noise"]

#: rows and columns of a patch
PATCH_SIZE = 8
#: share of the patches, the smoothest ones, whose high frequencies estimate the noise
SMOOTH_SHARE = 0.1
#: median of the absolute value of a standard normal variable
MEDIAN_ABS_NORMAL = 0.6744897501960817


def estimate_noise(image: Any) -> float:
    """Estimate the standard deviation of white Gaussian noise in an image.

    The tenth of the patches that have least energy in low frequencies is taken as smooth; the
    median size of their high frequencies estimates the noise. White noise has independent cosine
    coefficients, so that this selection does not bias the estimate.

    Parameters
    ----------
    image
        ``(height, width)``, 16 x 16 or more; or ``(height, width, channels)``, for which the
        root mean square over channels is returned.

    Returns
    -------
    float
        In units of the image. Where even the smoothest patches have texture it is too large.

    References
    ----------
    After Ponomarenko et al. (2007), An automatic approach to lossy compression of AVIRIS images,
    IGARSS, https://doi.org/10.1109/IGARSS.2007.4422833.
    """
    image = torch.as_tensor(image).double()
    if image.ndim == 3:
        each = [estimate_noise(channel) for channel in image.unbind(-1)]
        return float(torch.tensor(each).square().mean().sqrt())
    if image.ndim != 2 or min(image.shape) < 2 * PATCH_SIZE:
        raise DataError(
            f"image: got shape {tuple(image.shape)}, expected (height, width) of 16 x 16 or more"
        )
    patches = PatchGrid(tuple(image.shape), PATCH_SIZE, 2).extract(image)
    constant = (patches == patches[:, :1]).all(-1)
    if constant.all():
        return 0.0
    code = patches[~constant] @ cosine_basis(PATCH_SIZE, dtype=image.dtype, device=image.device).mT
    frequency = torch.arange(PATCH_SIZE, device=image.device)
    frequency = (frequency[:, None] + frequency).reshape(-1)
    low = code[:, (frequency > 0) & (frequency < 6)].square().sum(-1)
    smooth = low.argsort()[: max(16, int(SMOOTH_SHARE * len(low)))]
    high = code[smooth][:, frequency > 8]
    return float(high.abs().median() / MEDIAN_ABS_NORMAL)
