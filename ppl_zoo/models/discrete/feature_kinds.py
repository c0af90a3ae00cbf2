"""The four kinds of columns, and how each scores rows under every class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.models.discrete.products import multiply, pick, weighted_logs

__all__ = ["KINDS", "SCORES", "TABLES", "Block", "log_factorial"]

KINDS = ("bernoulli", "categorical", "multinomial", "gaussian")
#: how the table of a kind is called; numbers have none
TABLES = {"bernoulli": "rates", "categorical": "state_rates", "multinomial": "word_rates"}


@dataclass(frozen=True)
class Block:
    """Columns of one kind.

    Attributes
    ----------
    kind, table
        Its kind, and the name of its table (of its numbers' statistics).
    columns
        Where they are in a row.
    num_states
        States of each column; 0 for counts and numbers.
    """

    kind: str
    table: str
    columns: Any
    size: int
    num_states: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table of one class."""
        return (self.size, self.num_states) if self.num_states else (self.size,)


def _binary(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    table = parts[block.table]
    no, yes = table[..., 0], table[..., 1]
    if x.layout != torch.strided:
        # zeros are left out: all columns are "no" but for those that are stored
        ones = torch.ones(x.shape[1], dtype=table.dtype, device=x.device)
        return multiply(x, _log(yes) - _log(no)) + multiply(ones, _log(no))
    known = ~x.isnan()
    x = torch.where(known, x, 0.0).to(table.dtype)
    return weighted_logs(x, yes) + weighted_logs(known.to(x.dtype) - x, no)


def _states(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    known = ~x.isnan() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    chosen = pick(parts[block.table], torch.where(known, x, 0).long().unsqueeze(-2))
    return torch.where(known.unsqueeze(-2), chosen, 1.0).log().sum(-1)


def _counts(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    # a row's length is Poisson, so that the words are independent Poisson counts
    means = parts[block.table] * parts["log_length"].exp()
    return weighted_logs(x.to(means.dtype), means) + parts["minus_length"]


def _numbers(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    known = ~x.isnan()
    y = (torch.where(known, x, 0.0) - parts["centre"]) / parts["spread"]
    y = torch.where(known, y, 0.0).double()  # the squares of three terms cancel
    out = multiply(y, parts["linear"].double()) + multiply(
        -0.5 * y * y, parts["precisions"].double()
    )
    out = out + multiply(known.double(), parts["constant"].double())
    unit = (known * (parts["spread"].log() + 0.5 * math.log(2.0 * math.pi))).sum(-1)
    return (out - unit.unsqueeze(-1)).to(x.dtype)


def log_factorial(x: Tensor) -> Tensor:
    """Log x!, from a table where x are small whole numbers: lgamma is slow."""
    whole = x.int()
    if x.numel() > 1000 and bool((whole == x).all()) and (most := int(whole.max())) < 1000:
        table = torch.arange(1, most + 2, dtype=x.dtype, device=x.device).lgamma()
        return table[whole]
    return (x + 1.0).lgamma()


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


#: log density of the columns of one block under every class, ``(..., C)``
SCORES = {
    "bernoulli": _binary,
    "categorical": _states,
    "multinomial": _counts,
    "gaussian": _numbers,
}
