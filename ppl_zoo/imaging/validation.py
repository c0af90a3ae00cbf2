"""Validation of image input."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.imaging.files import read_image

__all__ = ["as_channels", "as_image", "check_noise_sd", "check_unit_interval"]

#: integer types that are read, and their value of white
WHITE_LEVEL = {torch.uint8: 255.0, torch.uint16: 65535.0}
#: how far noise may take a value outside of [0, 1]
MAX_EXCESS = 3.0
#: share of the values that noise does not take further than `NUM_SDS` of its own and
#: `TOLERANCE` beyond [0, 1], however dark the image
MAX_SHARE_BEYOND, NUM_SDS, TOLERANCE = 0.01, 3.0, 0.05


def as_image(
    image: Any,
    ignore: Tensor | None = None,
    value_range: Any = None,
) -> Tensor:
    """Read an image as float32 or float64 in [0, 1].

    Parameters
    ----------
    image
        Tensor, array or nested list ``(height, width)`` or ``(height, width, channels)`` with 1
        to 4 channels, of floats, or of integers of 8 or 16 bits; or a path, or an image of Pillow
        (:func:`ppl_zoo.imaging.read_image`).
    ignore
        Mask ``(height, width)`` of observed pixels: the others may hold anything and become 0.
    value_range
        The values of black and white; default (0, 1), and those of their type for integers.

    Raises
    ------
    DataError
        If it is something else, or has NaN, infinite values or values far beyond the range.
    """
    if isinstance(image, str | Path) or _is_pillow(image):
        image = read_image(image)
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
    if value_range is not None:
        black, white = _check_range(value_range)
        whole = not values.is_floating_point()
        values = ((values.double() if whole else values) - black) / (white - black)
        values = values.float() if whole else values
    elif values.dtype in WHITE_LEVEL:
        values = values.float() / WHITE_LEVEL[values.dtype]
    if values.dtype not in (torch.float32, torch.float64):
        if not values.is_floating_point():
            raise DataError(
                f"image: got {values.dtype}, expected floats in [0, 1], uint8 or uint16, or "
                "value_range=(black, white)"
            )
        values = values.float()
    if ignore is not None and tuple(ignore.shape) == shape[:2]:
        observed = ignore.to(values.device)
        values = torch.where(observed if values.ndim == 2 else observed[..., None], values, 0.0)
    if not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise DataError(f"image: got {count} values that are NaN or infinite, expected numbers")
    if values.numel() and float(values.abs().max()) > 1.0 + MAX_EXCESS:
        mend = (
            "divide grey levels by 255, or say value_range=(0, 255)"
            if value_range is None
            else f"from the value_range {value_range}"
        )
        raise DataError(
            f"image: got values from {float(values.min()):.4g} to {float(values.max()):.4g}, "
            f"expected [0, 1] ({mend})"
        )
    return values


def check_unit_interval(values: Tensor, noise_sd: float) -> None:
    """Refuse an image more of whose values lie outside of [0, 1] than its noise explains.

    Parameters
    ----------
    values
        The image, without transparency.
    noise_sd
        Standard deviation of its noise.

    Raises
    ------
    DataError
        Says how values of another range, such as -1 to 1, are given.
    """
    margin = NUM_SDS * noise_sd + TOLERANCE
    beyond = (values < -margin) | (values > 1.0 + margin)
    share = float(beyond.double().mean())
    if share > MAX_SHARE_BEYOND:
        raise DataError(
            f"image: got values from {float(values.min()):.4g} to {float(values.max()):.4g}, "
            f"{share:.0%} of them further from [0, 1] than noise of sd {noise_sd:.3g} takes them; "
            "say which values are black and white: value_range=(-1, 1), or value_range=(0, 1) if "
            "these are"
        )


def _check_range(value_range: Any) -> tuple[float, float]:
    try:
        black, white = map(float, value_range)
    except (TypeError, ValueError):
        black = white = 0.0
    if not (math.isfinite(black) and math.isfinite(white) and black < white):
        raise DataError(
            f"value_range: got {value_range!r}, expected the values of black and white, such as "
            "(-1, 1) or (0, 255)"
        )
    return black, white


def _is_pillow(image: Any) -> bool:
    """Whether it is an image of Pillow, which is imported only if somebody has done so."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


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
