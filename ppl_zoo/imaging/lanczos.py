"""Lanczos down-sampling (windowed sinc), the operator of super-resolution benchmarks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.operators import LinearOperator

__all__ = ["Lanczos"]

#: zero crossings of the windowed sinc on each side
NUM_LOBES = 2


class Lanczos(LinearOperator):
    """Lanczos low-pass filter and down-sampling; border pixels are replicated.

    Parameters
    ----------
    factor
        Down-sampling factor of each side; sides of the image are multiples of it.

    References
    ----------
    Duchon 1979, Lanczos filtering in one and two dimensions,
    https://doi.org/10.1175/1520-0450(1979)018<1016:LFIOAT>2.0.CO;2.

    Examples
    --------
    >>> import torch
    >>> Lanczos(4)(torch.full((8, 12), 0.5))
    tensor([[0.5000, 0.5000, 0.5000],
            [0.5000, 0.5000, 0.5000]])
    """

    def __init__(self, factor: int) -> None:
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise DataError(f"factor: got {factor!r}, expected an integer, 1 or more")
        self.factor = factor
        reach = NUM_LOBES * factor
        # for an even factor, pixel centres lie half a pixel beside the centre of a block
        place = torch.arange(-reach, reach + 1, dtype=torch.float64) + 0.5 * (1 - factor % 2)
        place = place[place.abs() < reach] / factor
        taps = torch.sinc(place) * torch.sinc(place / NUM_LOBES)
        self.taps = taps / taps.sum()
        self._matrices: dict[tuple, Tensor] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """Filter and down-sample rows and columns."""
        height, width = image.shape[-2:]
        if height % self.factor or width % self.factor:
            raise DataError(f"image: got {height} x {width}, expected multiples of {self.factor}")
        return self._matrix(height, image) @ image @ self._matrix(width, image).mT

    def adjoint(self, data: Tensor) -> Tensor:
        """Distribute each value with the weights of the filter."""
        height, width = self.image_shape(tuple(data.shape[-2:]))
        return self._matrix(height, data).mT @ data @ self._matrix(width, data)

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        return tuple(n * self.factor for n in shape)

    def first_guess(self, data: Tensor) -> Tensor:
        """Bicubic interpolation."""
        size, lead = self.image_shape(tuple(data.shape[-2:])), data.shape[:-2]
        flat = data.reshape(1, math.prod(lead), *data.shape[-2:])
        flat = torch.nn.functional.interpolate(
            flat, size=size, mode="bicubic", align_corners=False
        )
        return flat.reshape(*lead, *size)

    def _matrix(self, length: int, like: Tensor) -> Tensor:
        """Resampling matrix ``(length / factor, length)`` of one dimension."""
        key = (length, like.dtype, like.device)
        if key not in self._matrices:
            rows = length // self.factor
            first = torch.arange(rows) * self.factor + (self.factor - len(self.taps)) // 2
            place = (first[:, None] + torch.arange(len(self.taps))).clamp(0, length - 1)
            matrix = torch.zeros(rows, length, dtype=torch.float64)
            matrix.scatter_add_(1, place, self.taps.expand(rows, -1).contiguous())
            self._matrices[key] = matrix.to(like)
        return self._matrices[key]
