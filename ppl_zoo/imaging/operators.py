"""Linear operators of the degradation y = A x + noise: identity, mask and down-sampling.

Each has its adjoint A' and its regularised least squares. Operators act on the last two
dimensions, ``(..., height, width)``, so that all channels of a colour image go together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.blur import Blur
from ppl_zoo.imaging.linear_operator import LinearOperator

__all__ = ["Blur", "Downsample", "Identity", "LinearOperator", "Mask"]


class Identity(LinearOperator):
    """Identity operator, for an image with noise alone: A x = x."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def adjoint(self, data: Tensor) -> Tensor:
        """Return the data."""
        return data

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Precision-weighted average of ``data`` and ``average``."""
        share = precision / (precision + pull)
        return torch.lerp(average, data, share)


class Mask(LinearOperator):
    """Mask operator: some pixels are observed, the others are 0, A x = mask * x.

    Parameters
    ----------
    mask
        ``(height, width)``, true (or 1) where a pixel is observed.
    """

    def __init__(self, mask: Any) -> None:
        mask = torch.as_tensor(mask)
        if mask.ndim != 2 or not ((mask == 0) | (mask == 1)).all():
            raise DataError(
                f"mask: got {mask.dtype} of shape {tuple(mask.shape)}, expected (height, width) "
                "of true and false (or 1 and 0)"
            )
        self.mask = mask.bool()

    def __call__(self, image: Tensor) -> Tensor:
        """Set unobserved pixels to 0."""
        if image.shape[-2:] != self.mask.shape:
            raise DataError(
                f"mask: got {tuple(self.mask.shape)}, expected the size of the image, "
                f"{tuple(image.shape[-2:])}"
            )
        return image * self.mask.to(image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Set unobserved pixels to 0: A' = A."""
        return self(data)

    def first_guess(self, data: Tensor) -> Tensor:
        """Fill unobserved pixels with the average of the observed ones around them."""
        value = self(data)
        filled = self.mask.to(data).expand_as(data)
        while not bool((filled > 0).all()):
            if not bool((filled > 0).any()):
                return torch.full_like(data, 0.5)
            around = [_box_filter(t) for t in (filled, value)]
            new = (filled == 0) & (around[0] > 1e-6)
            value = torch.where(new, around[1] / around[0].clamp_min(1e-6), value)
            filled = torch.where(new, 1.0, filled)
        return value

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Precision-weighted average where pixels are observed; ``average`` elsewhere."""
        share = precision / (precision + pull) * self.mask.to(data)
        return average + share * (data - average)


class Downsample(LinearOperator):
    """Down-sampling operator: each pixel is the mean of a square block of pixels.

    Parameters
    ----------
    factor
        Side of a block; sides of the image are multiples of it.
    """

    def __init__(self, factor: int) -> None:
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise DataError(f"factor: got {factor!r}, expected an integer, 1 or more")
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """Average blocks."""
        height, width = image.shape[-2:]
        f = self.factor
        if height % f or width % f:
            raise DataError(f"image: got {height} x {width}, expected multiples of {f}")
        return image.reshape(*image.shape[:-2], height // f, f, width // f, f).mean((-3, -1))

    def adjoint(self, data: Tensor) -> Tensor:
        """Distribute each value evenly over its block."""
        return self._repeat(data) / self.factor**2

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        return tuple(n * self.factor for n in shape)

    def first_guess(self, data: Tensor) -> Tensor:
        """Bicubic interpolation."""
        size, lead = self.image_shape(data.shape[-2:]), data.shape[:-2]
        flat = data.reshape(1, math.prod(lead), *data.shape[-2:])
        flat = torch.nn.functional.interpolate(
            flat, size=size, mode="bicubic", align_corners=False
        )
        return flat.reshape(*lead, *size)

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Shift each block by a constant: A A' is 1 / factor^2 times the identity."""
        off = data - self(average)
        return average + self._repeat(off) * (precision / (precision + pull * self.factor**2))

    def _repeat(self, data: Tensor) -> Tensor:
        return data.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


def _box_filter(image: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels, with zero padding."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    return torch.nn.functional.avg_pool2d(flat, 3, stride=1, padding=1).reshape(image.shape)
