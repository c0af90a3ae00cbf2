"""Multiply many rows, each with one of many matrices: rows of the same matrix together."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["by_component", "grouped", "inverse"]


def inverse(order: Tensor) -> Tensor:
    """Return where each went of what a permutation put in order."""
    return torch.empty_like(order).index_copy_(
        0, order, torch.arange(len(order), device=order.device)
    )


def grouped(
    rows: Tensor,
    component: Tensor,
    matrices: Tensor,
    bias: Tensor | None,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply each row with the matrix of its component; rows of a component together.

    ``source`` says which row each of ``component`` is for. Returns the products by component,
    for which place of ``component`` each is, and the rows in that order.
    """
    sorted_component, order = component.sort()
    counts = sorted_component.int().bincount(minlength=len(matrices))
    chosen = rows.index_select(0, order if source is None else source[order])
    # one call for all groups where there is one: for float32 on a CPU, aligned to 16 bytes
    if chosen.device.type == "cpu" and chosen.dtype == torch.float32 and chosen.shape[1] % 4 == 0:
        ends = counts.cumsum(0).int()
        out = torch.nn.functional.grouped_mm(chosen, matrices, offs=ends)
    else:
        out, sizes = torch.empty_like(chosen), counts.tolist()
        for part, matrix, result in zip(
            chosen.split(sizes), matrices, out.split(sizes), strict=True
        ):
            if len(part):
                torch.mm(part, matrix, out=result)
    if bias is not None:
        out += bias[sorted_component.int()]
    return out, order, chosen


def by_component(rows: Tensor, component: Tensor, matrices: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply each row with the matrix of its component."""
    out, order, _ = grouped(rows, component, matrices, bias)
    return out.index_select(0, inverse(order))
