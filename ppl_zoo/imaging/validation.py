"""Validation of image input."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows

__all__ = ["as_channels", "as_image", "check_noise_sd"]

#: integer types that are read, and their value of white
WHITE_LEVEL = {torch.uint8: 255.0, torch.uint16: 65535.0}
#: how far noise may take a value outside of [0, 1]
MAX_EXCESS = 3.0


def as_image(image: Any, ignore: Tensor | None = None) -> Tensor:
    """Read an image as float32 or float64 in [0, 1].

    Parameters
    ----------
    image
        Tensor, array or nested list ``(height, width)`` or ``(height, width, channels)`` with 1
        to 4 channels, of floats, or of integers of 8 or 16 bits.
    ignore
        Mask ``(height, width)`` of observed pixels: the others may hold anything and become 0.

    Raises
    ------
    DataError
        If it is something else, or has NaN, infinite values or values far beyond [0, 1].
    """
    if isinstance(image, np.ndarray):
        image = np.ascontiguousarray(image)
        image = image if image.flags.writeable else image.copy()
    try:
        values = torch.as_tensor(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"image: got {type(image).__name__}, expected an array: {error}") from None
    shape = tuple(values.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[-1] not in (1, 2, 3, 4)):
        raise DataError(
            f"image: got shape {shape}, expected (height, width) or (height, width, channels) "
            "with 1 to 4 channels"
        )
    if values.dtype in WHITE_LEVEL:
        values = values.float() / WHITE_LEVEL[values.dtype]
    elif values.dtype not in (torch.float32, torch.float64):
        if not values.is_floating_point():
            raise DataError(
                f"image: got {values.dtype}, expected floats in [0, 1], uint8 or uint16"
            )
        values = values.float()
    if ignore is not None and tuple(ignore.shape) == shape[:2]:
        observed = ignore.to(values.device)
        values = torch.where(observed if values.ndim == 2 else observed[..., None], values, 0.0)
    if not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise DataError(f"image: got {count} values that are NaN or infinite, expected numbers")
    if values.numel() and float(values.abs().max()) > 1.0 + MAX_EXCESS:
        raise DataError(
            f"image: got values from {float(values.min()):.4g} to {float(values.max()):.4g}, "
            "expected [0, 1] (divide grey levels by 255)"
        )
    return values


def as_channels(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Channels ``(channels, height, width)``, and transparency ``(1, height, width)`` if any."""
    channels = image[None] if image.ndim == 2 else image.movedim(-1, 0)
    if len(channels) in (2, 4):
        return channels[:-1].contiguous(), channels[-1:]
    return channels.contiguous(), None


def check_noise_sd(rows: Rows) -> None:
    """Refuse data of images whose second array is not a positive noise sd for each.

    Raises
    ------
    DataError
        If it is missing, of another shape than ``(n,)``, or 0 or less.
    """
    sizes = rows.sizes()
    if len(sizes) < 2 or sizes[1] != (len(rows),):
        raise DataError(f"noise: got {sizes[1:]}, expected ({len(rows)},), an sd for each")
    if not bool((rows.all()[1] > 0).all()):
        raise DataError("noise: got 0 or less, expected a positive sd for each image")
