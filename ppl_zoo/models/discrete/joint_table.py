"""A distribution of a few discrete variables, cell by cell."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.errors import DataError

__all__ = ["JointTable"]


class JointTable(TorchDistribution):
    """Rows of discrete variables whose joint table is written out.

    Parameters
    ----------
    cells
        Probabilities ``(..., prod(sizes))``, the last variable changing fastest.
    sizes
        Number of states of each variable.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, cells: Tensor, sizes: tuple[int, ...]) -> None:
        self.cells, self.sizes = cells, sizes
        super().__init__(cells.shape[:-1], torch.Size([len(sizes)]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> JointTable:
        """Expand to a larger batch."""
        return JointTable(self.cells.expand(*batch_shape, -1), self.sizes)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of rows ``(..., num_variables)``, NaN where missing."""
        if not value.is_floating_point() or not bool(value.isnan().any()):
            return self._chosen(self.cells, value.long(), self.sizes).log()
        flat, lead = value.reshape(-1, value.shape[-1]), value.shape[:-1]
        patterns, which = flat.isnan().unique(dim=0, return_inverse=True)
        shape = torch.broadcast_shapes(self.cells.shape[:-1], lead)
        out = self.cells.new_zeros(shape)
        for index, missing in enumerate(patterns):
            here = (which == index).reshape(lead)
            part = self._marginal(missing.tolist())
            x = torch.where(missing, 0.0, value.nan_to_num()).long()
            sizes = [1 if m else s for m, s in zip(missing.tolist(), self.sizes, strict=True)]
            out = torch.where(here, self._chosen(part, x, sizes).log(), out)
        return out

    def _marginal(self, missing: list[bool]) -> Tensor:
        """Cells with the missing variables summed out, which then have one state."""
        lead = self.cells.shape[:-1]
        table = self.cells.reshape(*lead, *self.sizes)
        dims = [len(lead) + d for d, m in enumerate(missing) if m]
        return (table.sum(dims) if dims else table).reshape(*lead, -1)

    def _chosen(self, cells: Tensor, x: Tensor, sizes: Any) -> Tensor:
        code = self._code(x, sizes)
        if cells.ndim == 1:
            return cells[code]
        if cells.shape[-2] == 1 and code.ndim == 1:  # the plate of rows
            return cells.squeeze(-2)[..., code]
        shape = torch.broadcast_shapes(cells.shape[:-1], code.shape)
        cells = cells.expand(*shape, cells.shape[-1])
        return cells.gather(-1, code.expand(shape).unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def _code(x: Tensor, sizes: Any) -> Tensor:
        code = torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)
        for d, size in enumerate(sizes):
            code = code * size + x[..., d]
        return code

    def _rows(self, code: Tensor) -> Tensor:
        columns = []
        for size in reversed(self.sizes):
            columns.append(code % size)
            code = code // size
        return torch.stack(columns[::-1], -1).to(self.cells.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            flat = self.cells.reshape(-1, self.cells.shape[-1])
            drawn = _draw(flat, math.prod(sample_shape))  # (tables, samples)
            return self._rows(drawn.mT.reshape(shape))

    def sample_given(self, held: Tensor) -> Tensor:
        """Draw the NaN of rows ``(n, num_variables)`` given the rest; the table is a single one.

        Raises
        ------
        DataError
            If a row has probability 0.
        """
        every = self._rows(torch.arange(self.cells.shape[-1], device=held.device))
        parts = []
        for rows in held.split(max(1, 2**22 // every.numel())):
            fits = ((rows.unsqueeze(1) == every) | rows.isnan().unsqueeze(1)).all(-1)
            cells = fits * self.cells
            if bool((cells.sum(-1) == 0).any()):
                raise DataError("given: got values of probability 0, expected possible ones")
            parts.append(self._rows(_draw(cells, 1)[:, 0]))
        return torch.cat(parts)

    def check(self, x: Tensor) -> None:
        """Refuse states that a variable does not have.

        Raises
        ------
        DataError
            At the first one, with its place.
        """
        x = x if x.is_floating_point() else x.double()
        sizes = torch.as_tensor(self.sizes, device=x.device)
        bad = ~x.isnan() & ~((x == x.floor()) & (x >= 0) & (x < sizes))
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            raise DataError(
                f"x: got {x[row, column].item():g} in row {row}, column {column}, expected 0 to "
                f"{self.sizes[column] - 1}, or NaN if missing"
            )


def _draw(cells: Tensor, count: int) -> Tensor:
    """Draw cell numbers ``(tables, count)``; multinomial() itself stops at 2^24 cells."""
    return torch.multinomial(cells, count, replacement=True)
