"""Units of columns: their mean and standard deviation, in which a model computes.

A column may hold seconds since 1970 or metres to the equator. Computed as ``(x - centre) /
spread``, a model depends neither on its offset nor on its unit, and priors mean the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ppl_zoo.models.common.moments import column_moments

__all__ = ["Units"]


class Units(nn.Module):
    """Centre and spread of each column; 0 and 1 before they are read.

    Parameters
    ----------
    shape
        Of a row.

    Attributes
    ----------
    centre, spread
        Buffers of that shape, in units of the column; a constant column has spread 1.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(list(shape)))
        self.register_buffer("spread", torch.ones(list(shape)))
        self.centre: Tensor
        self.spread: Tensor

    @torch.no_grad()
    def read(self, chunks: Iterable[Tensor]) -> None:
        """Take mean and sd from the data, ``(n, *shape)`` chunk by chunk."""
        centre, variance = column_moments(chunks)
        self.centre.copy_(centre)
        self.spread.copy_(torch.where(variance > 0, variance, 1.0).sqrt())

    def standardise(self, x: Tensor) -> Tensor:
        """Rows in these units."""
        return (x - self.centre) / self.spread

    def restore(self, z: Tensor) -> Tensor:
        """Inverse of :meth:`standardise`."""
        return self.centre + self.spread * z
