"""Units of columns: their mean and standard deviation, in which a model computes.

A column may hold seconds since 1970 or metres to the equator. Computed as ``(x - centre) /
spread``, a model depends neither on its offset nor on its unit, and priors mean the same
everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

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
    def read(self, chunks: Iterable[Tensor], shared: bool = False) -> None:
        """Take mean and sd from the data, ``(n, *shape)`` chunk by chunk.

        Parameters
        ----------
        chunks
            The data.
        shared
            Whether all columns have one spread: the root of their mean variance.
        """
        centre, variance = column_moments(chunks)
        if shared:
            variance = variance.mean().expand_as(variance)
        self.centre.copy_(centre)
        self.spread.copy_(torch.where(variance > 0, variance, 1.0).sqrt())

    def equals(self, other: Units) -> bool:
        """Whether both have the same centre and spread."""
        return torch.equal(self.centre, other.centre) and torch.equal(self.spread, other.spread)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *args: Any
    ) -> None:
        """Load the state of a module; a run saved before there were units has 0 and 1."""
        state_dict.setdefault(f"{prefix}centre", torch.zeros_like(self.centre))
        state_dict.setdefault(f"{prefix}spread", torch.ones_like(self.spread))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def standardise(self, x: Tensor) -> Tensor:
        """Rows in these units."""
        return (x - self.centre) / self.spread

    def restore(self, z: Tensor) -> Tensor:
        """Inverse of :meth:`standardise`."""
        return self.centre + self.spread * z
