"""Patches of an image: extraction, averaging, and their cosine basis."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["PatchGrid", "average_patches", "cosine_basis", "extract_patches", "sum_patches"]


def cosine_basis(
    size: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Float[Tensor, "d d"]:
    """Orthonormal two-dimensional cosine basis (DCT-II) of square patches.

    Parameters
    ----------
    size
        Rows and columns of a patch.
    dtype, device
        Dtype and device of the result.

    Returns
    -------
    Tensor
        ``(size^2, size^2)``; row ``u * size + v`` is the cosine of frequency (u, v) over
        the pixels of a patch, row by row. Row 0 is constant, so that coefficient 0 is ``size``
        times the mean of a patch.
    """
    place = torch.arange(size, dtype=torch.float64)
    wave = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2.0 / size)
    wave[0] = math.sqrt(1.0 / size)
    return torch.kron(wave, wave).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class _Side:
    """Starts of patches along one side: evenly spaced, and one at each end if need be."""

    length: int
    size: int
    stride: int
    offset: int

    @functools.cached_property
    def starts(self) -> list[int]:
        """First pixels of the patches."""
        last = self.length - self.size
        return sorted({0, *range(self.offset, last + 1, self.stride), last})

    @functools.cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Runs of evenly spaced starts: index of the first, first start, how many."""
        starts, found = self.starts, [0]
        for index in range(1, len(starts)):
            if starts[index] - starts[index - 1] != self.stride:
                found.append(index)
        ends = [*found[1:], len(starts)]
        return [(i, starts[i], end - i) for i, end in zip(found, ends, strict=True)]

    def count(self) -> Tensor:
        """Patches that cover each pixel, ``(length,)``."""
        change, starts = torch.zeros(self.length + 1), torch.tensor(self.starts)
        change[starts] += 1.0
        change[starts + self.size] -= 1.0
        return change[:-1].cumsum(0)


class PatchGrid:
    """Grid of overlapping square patches that cover an image of any size.

    Patches begin at every ``stride``-th row and column from ``offset`` on, and also at the first
    and the last possible ones, so that every pixel is covered. :meth:`sum` is the adjoint of
    :meth:`extract`.

    Parameters
    ----------
    shape
        Height and width of the image.
    size
        Rows and columns of a patch.
    stride
        Pixels between the starts of two patches, down and across; at most ``size``.
    offset
        First of the evenly spaced starts, less than ``stride``: (down, across).

    Raises
    ------
    DataError
        If the image is smaller than a patch, or stride or offset are out of range.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        size: int = 8,
        stride: int = 1,
        offset: tuple[int, int] = (0, 0),
    ) -> None:
        if min(shape) < size:
            raise DataError(
                f"image: got {shape[0]} x {shape[1]} pixels, expected {size} x {size} (a patch) "
                "or more"
            )
        if not 1 <= stride <= size:
            raise DataError(f"stride: got {stride}, expected 1 to {size}")
        if not all(0 <= place < stride for place in offset):
            raise DataError(f"offset: got {offset}, expected 0 to {stride - 1}")
        self.shape, self.size, self.stride = shape, size, stride
        self.down, self.across = (
            _Side(length, size, stride, place) for length, place in zip(shape, offset, strict=True)
        )
        self.num_rows, self.num_columns = len(self.down.starts), len(self.across.starts)

    def __repr__(self) -> str:
        """Write how many patches there are, and their size."""
        rows, columns = self.shape
        return (
            f"PatchGrid({self.num_rows} x {self.num_columns} patches of {self.size} x {self.size} "
            f"in {rows} x {columns} pixels)"
        )

    def __len__(self) -> int:
        """Return the number of patches."""
        return self.num_rows * self.num_columns

    def extract(self, image: Tensor, rows: slice = slice(None)) -> Float[Tensor, "n d"]:
        """Extract patches.

        Parameters
        ----------
        image
            ``(height, width)``.
        rows
            Rows of patches to extract; all by default.

        Returns
        -------
        Tensor
            ``(num_patches, size^2)``, row by row, the pixels of a patch row by row.
        """
        size, starts = self.size, self.down.starts[rows]
        inside = torch.arange(size, device=image.device)
        lines = torch.tensor(starts, device=image.device)[:, None] + inside
        strips = image[lines]  # (rows of patches, size, width)
        out = image.new_empty(len(starts), self.num_columns, size, size)
        for index, start, count in self.across.runs:
            part = strips[..., start : start + (count - 1) * self.stride + size]
            windows = part.unfold(2, size, self.stride)
            out[:, index : index + count] = windows.transpose(1, 2)
        return out.reshape(-1, size * size)

    def sum(
        self, patches: Tensor, rows: slice = slice(None), out: Tensor | None = None
    ) -> Float[Tensor, "height width"]:
        """Sum patches at their positions in the image.

        Parameters
        ----------
        patches
            ``(num_patches, size^2)``.
        rows
            Rows of patches that are given; all by default.
        out
            Image to add to; a new one by default.
        """
        size, width = self.size, self.shape[1]
        out = patches.new_zeros(self.shape) if out is None else out
        starts = self.down.starts[rows]
        patches = patches.reshape(len(starts), self.num_columns, size, size)
        strips = patches.new_zeros(len(starts), size, width)
        for index, start, count in self.across.runs:
            part = patches[:, index : index + count].transpose(1, 2)
            for j in range(size):
                end = start + j + (count - 1) * self.stride + 1
                strips[..., start + j : end : self.stride] += part[..., j]
        return self._add_strips(strips, rows, out)

    def spread(
        self, values: Tensor, rows: slice = slice(None), out: Tensor | None = None
    ) -> Float[Tensor, "height width"]:
        """Add one value a patch ``(num_patches,)`` to all of its pixels; see :meth:`sum`."""
        out = values.new_zeros(self.shape) if out is None else out
        starts = self.down.starts[rows]
        values = values.reshape(len(starts), self.num_columns)
        strips = values.new_zeros(len(starts), self.shape[1])
        for index, start, count in self.across.runs:
            for j in range(start, start + self.size):
                end = j + (count - 1) * self.stride + 1
                strips[:, j : end : self.stride] += values[:, index : index + count]
        return self._add_strips(strips[:, None].expand(-1, self.size, -1), rows, out)

    def _add_strips(self, strips: Tensor, rows: slice, out: Tensor) -> Tensor:
        """Add strips ``(rows of patches, size, width)`` at the starts of their rows."""
        first = range(len(self.down.starts))[rows].start
        for index, start, count in self.down.runs:
            low, high = max(index, first), min(index + count, first + len(strips))
            begin = start + (low - index) * self.stride
            for i in range(self.size if high > low else 0):
                end = begin + i + (high - low - 1) * self.stride + 1
                out[begin + i : end : self.stride] += strips[low - first : high - first, i]
        return out

    def count(self, like: Tensor) -> Float[Tensor, "height width"]:
        """Count the patches that cover each pixel, 1 or more."""
        down, across = (side.count().to(like) for side in (self.down, self.across))
        return down[:, None] * across

    def average(self, patches: Tensor) -> Float[Tensor, "height width"]:
        """Average patches: each pixel is the mean over the patches that cover it."""
        return self.sum(patches) / self.count(patches)


def extract_patches(image: Tensor, size: int = 8, stride: int = 1) -> Float[Tensor, "n d"]:
    """Patches of an image ``(height, width)``; see :class:`PatchGrid`."""
    return PatchGrid(tuple(image.shape), size, stride).extract(image)


def sum_patches(
    patches: Tensor, shape: tuple[int, int], size: int = 8, stride: int = 1
) -> Float[Tensor, "height width"]:
    """Sum of patches at their positions in an image: the adjoint of :func:`extract_patches`."""
    return PatchGrid(tuple(shape), size, stride).sum(patches)


def average_patches(
    patches: Tensor, shape: tuple[int, int], size: int = 8, stride: int = 1
) -> Float[Tensor, "height width"]:
    """Average of overlapping patches as an image; see :meth:`PatchGrid.average`."""
    return PatchGrid(tuple(shape), size, stride).average(patches)
