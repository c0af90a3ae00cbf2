"""The distribution of a Markov chain's sequences, and what they are checked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.errors import DataError

__all__ = ["SequenceLaw", "check_sequences"]


class SequenceLaw(TorchDistribution):
    """Sequences of a Markov chain of order k.

    Parameters
    ----------
    tables
        k tables ``(..., S^t, S)`` of the first states given those before, then the transitions
        ``(..., S^k, S)``.
    length
        Number of states in a sequence.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, tables: Sequence[Tensor], length: int) -> None:
        self.tables, self.length = list(tables), length
        shape = torch.broadcast_shapes(*(t.shape[:-2] for t in tables))
        super().__init__(shape, torch.Size([length]), validate_args=False)

    @property
    def _order(self) -> int:
        return len(self.tables) - 1

    def expand(self, batch_shape: Any, _instance: Any = None) -> SequenceLaw:
        """Expand to a larger batch."""
        tables = [t.expand(*batch_shape, *t.shape[-2:]) for t in self.tables]
        return SequenceLaw(tables, self.length)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of sequences ``(..., length)``, which end where NaN or -1 begins."""
        seen = value >= 0
        states = torch.where(seen, value, 0).long()
        num_states, total = self.tables[-1].shape[-1], 0.0
        past = torch.zeros(states.shape[:-1], dtype=torch.long, device=states.device)
        for t, table in enumerate(self.tables[:-1][: self.length]):
            step = _cells(table, (past * num_states + states[..., t]).unsqueeze(-1))
            total = total + torch.where(seen[..., t : t + 1], step, 1.0).log().sum(-1)
            past = past * num_states + states[..., t]
        if self.length > self._order:
            code = torch.zeros_like(states[..., self._order :])
            for lag in range(self._order + 1):
                code = code * num_states + states[..., lag : self.length - self._order + lag]
            step = _cells(self.tables[-1], code)
            total = total + torch.where(seen[..., self._order :], step, 1.0).log().sum(-1)
        return total

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw sequences."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            if not self.batch_shape:
                start = torch.empty(math.prod(shape), 0, dtype=torch.long, device=self._device)
                return self.go_on(start).reshape(*shape, self.length)
            flat = [t.expand(*self.batch_shape, *t.shape[-2:]).flatten(0, -3) for t in self.tables]
            laws = [SequenceLaw(parts, self.length) for parts in zip(*flat, strict=True)]
            drawn = torch.stack([law.sample(sample_shape) for law in laws], -2)
            return drawn.reshape(*shape, self.length)

    @property
    def _device(self) -> torch.device:
        return self.tables[-1].device

    def go_on(self, start: Tensor) -> Tensor:
        """Draw the rest of sequences that begin with ``start (n, t)``; tables of one chain."""
        num_states, columns = self.tables[-1].shape[-1], list(start.unbind(-1))
        for t in range(start.shape[-1], self.length):
            table = self.tables[min(t, self._order)]
            past = torch.zeros(len(start), dtype=torch.long, device=start.device)
            for column in columns[max(0, t - self._order) : t]:
                past = past * num_states + column
            columns.append(torch.multinomial(table[past], 1)[:, 0])
        return torch.stack(columns, -1).to(self.tables[-1].dtype)


def _cells(table: Tensor, code: Tensor) -> Tensor:
    """Cells of tables ``(..., R, S)`` at flat codes ``(..., T)``."""
    flat = table.flatten(-2)
    if flat.ndim == 1:
        return flat[code]
    if flat.shape[-2] == 1 and code.ndim <= 2:  # the plate of rows: one table for all
        return flat.squeeze(-2)[..., code]
    shape = torch.broadcast_shapes(flat.shape[:-1], code.shape[:-1])
    flat = flat.expand(*shape, flat.shape[-1])
    return flat.gather(-1, code.expand(*shape, code.shape[-1]))


def check_sequences(x: Tensor, num_states: int, gaps: str = "end") -> None:
    """Refuse unknown states, and what is missing before the end.

    Parameters
    ----------
    x
        Sequences ``(n, T)``.
    num_states
        Number of states.
    gaps
        "end" if sequences may end in NaN or -1, "none" if not.

    Raises
    ------
    DataError
        At the first such state, with its place.
    """
    x = x.double()
    gone = x.isnan() | (x == -1)
    states = (x == x.floor()) & (x >= 0) & (x < num_states)
    late = gone.cumsum(-1) > 0  # from the first gap on
    bad = ~states if gaps == "none" else torch.where(late, ~gone, ~states)
    if gaps == "end" and x.shape[-1]:
        bad[:, 0] |= gone[:, 0]
    if bool(bad.any()):
        row, time = bad.nonzero()[0].tolist()
        rest = "" if gaps == "none" else ", with NaN or -1 after the end of a sequence only"
        raise DataError(
            f"x: got {x[row, time].item():g} in row {row} at time {time}, expected states 0 to "
            f"{num_states - 1}{rest}"
        )
