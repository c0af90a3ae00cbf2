"""Counts of a node's states by its parents' configuration: what tables and scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_columns", "configuration", "family_counts"]


def as_columns(x: Tensor) -> Tensor:
    """Turn rows into columns, ``(nodes, rows)``; half as wide, which is faster to read."""
    return x.to(torch.int32).T.contiguous()


def configuration(columns: Any, nodes: Sequence[int], sizes: Sequence[int]) -> Tensor | None:
    """Return the number of a joint state, the last node changing fastest; None for no nodes."""
    code = None
    for node in nodes:
        code = columns[node] if code is None else code * sizes[node] + columns[node]
    return code


def family_counts(
    columns: Tensor,
    node: int,
    above: Sequence[int],
    sizes: Sequence[int],
    *,
    complete: bool = False,
) -> Tensor:
    """Count the states of a node by its parents' configuration, in rows where all are known.

    Parameters
    ----------
    columns
        ``(nodes, rows)``, -1 where missing.
    node, above
        The node and its parents.
    sizes
        Number of states of every node.
    complete
        Whether nothing is missing in any row, which saves looking.

    Returns
    -------
    Tensor
        ``(configurations, states)``, whole numbers.
    """
    family = (*above, node)
    shape = torch.Size([sizes[n] for n in family])
    chosen = {n: columns[n] for n in family}
    if not complete:
        known = torch.stack([c >= 0 for c in chosen.values()]).all(0)
        chosen = {n: c[known] for n, c in chosen.items()}
    code = configuration(chosen, family, sizes)
    return code.bincount(minlength=shape.numel()).view(-1, sizes[node])
