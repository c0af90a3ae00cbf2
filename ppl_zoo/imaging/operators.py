"""Linear operators that spoil an image: y = A x + noise, with A' and the least squares of both.

Operators act on the last two dimensions, ``(..., height, width)``, so that the channels of a
colour image go through together.
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
    """Nothing but noise: A x = x."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def adjoint(self, data: Tensor) -> Tensor:
        """Return the data."""
        return data

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Average of data and ``average`` by their precisions."""
        share = precision / (precision + pull)
        return torch.lerp(average, data, share)


class Mask(LinearOperator):
    """Some pixels are seen, the others are 0: A x = mask * x.

    Parameters
    ----------
    mask
        ``(height, width)``, true (or 1) where a pixel is seen.
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
        """Set unseen pixels to 0."""
        if image.shape[-2:] != self.mask.shape:
            raise DataError(
                f"mask: got {tuple(self.mask.shape)}, expected the size of the image, "
                f"{tuple(image.shape[-2:])}"
            )
        return image * self.mask.to(image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Set unseen pixels to 0: A' = A."""
        return self(data)

    def first_guess(self, data: Tensor) -> Tensor:
        """Fill unseen pixels with the average of the seen ones around them."""
        value = self(data)
        seen = self.mask.to(data).expand_as(data)
        while not bool((seen > 0).all()):
            if not bool((seen > 0).any()):
                return torch.full_like(data, 0.5)
            around = [_box(t) for t in (seen, value)]
            new = (seen == 0) & (around[0] > 1e-6)
            value = torch.where(new, around[1] / around[0].clamp_min(1e-6), value)
            seen = torch.where(new, 1.0, seen)
        return value

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Average by precision where pixels are seen; ``average`` elsewhere."""
        share = precision / (precision + pull) * self.mask.to(data)
        return average + share * (data - average)


class Downsample(LinearOperator):
    """Each pixel is the mean of a square of pixels.

    Parameters
    ----------
    factor
        Side of the square; sides of the image are multiples of it.
    """

    def __init__(self, factor: int) -> None:
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise DataError(f"factor: got {factor!r}, expected a whole number, 1 or more")
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """Average squares."""
        height, width = image.shape[-2:]
        f = self.factor
        if height % f or width % f:
            raise DataError(f"image: got {height} x {width}, expected multiples of {f}")
        return image.reshape(*image.shape[:-2], height // f, f, width // f, f).mean((-3, -1))

    def adjoint(self, data: Tensor) -> Tensor:
        """Spread each number evenly over its square."""
        return self._repeat(data) / self.factor**2

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        return tuple(n * self.factor for n in shape)

    def first_guess(self, data: Tensor) -> Tensor:
        """Interpolate."""
        size, lead = self.image_shape(data.shape[-2:]), data.shape[:-2]
        flat = data.reshape(1, math.prod(lead), *data.shape[-2:])
        flat = torch.nn.functional.interpolate(
            flat, size=size, mode="bicubic", align_corners=False
        )
        return flat.reshape(*lead, *size)

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Move each square as a whole: A A' is 1 / factor^2 times the identity."""
        off = data - self(average)
        return average + self._repeat(off) * (precision / (precision + pull * self.factor**2))

    def _repeat(self, data: Tensor) -> Tensor:
        return data.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


def _box(image: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels, zero outside."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    return torch.nn.functional.avg_pool2d(flat, 3, stride=1, padding=1).reshape(image.shape)
