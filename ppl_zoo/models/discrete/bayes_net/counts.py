"""Contingency counts of a node's states by the configuration of its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_columns", "configuration_index", "family_counts"]


def as_columns(x: Tensor) -> Tensor:
    """Columns of rows, contiguous ``(nodes, rows)``; int32, which is faster to read."""
    return x.to(torch.int32).T.contiguous()


def configuration_index(
    columns: Sequence[Any] | Mapping[int, Tensor] | Tensor,
    nodes: Sequence[int],
    sizes: Sequence[int],
) -> Tensor | None:
    """Flat index of a joint state of nodes, the last changing fastest; None for no nodes.

    Parameters
    ----------
    columns
        State of each node, by its index: tensors of one shape, or that broadcast.
    nodes
        The nodes that count.
    sizes
        Number of states of every node.
    """
    code = None
    for node in nodes:
        code = columns[node] if code is None else code * sizes[node] + columns[node]
    return code


def family_counts(
    columns: Tensor,
    node: int,
    parents: Sequence[int],
    sizes: Sequence[int],
    *,
    complete: bool = False,
) -> Tensor:
    """Count the states of a node by its parents' configuration, in rows where all are observed.

    Parameters
    ----------
    columns
        ``(nodes, rows)``, -1 where missing.
    node, parents
        The node and its parents.
    sizes
        Number of states of every node.
    complete
        Whether no value is missing, which saves the test.

    Returns
    -------
    Tensor
        ``(configurations, states)``, integers.
    """
    family = (*parents, node)
    shape = torch.Size([sizes[n] for n in family])
    chosen = {n: columns[n] for n in family}
    if not complete:
        observed = torch.stack([c >= 0 for c in chosen.values()]).all(0)
        chosen = {n: c[observed] for n, c in chosen.items()}
    code = configuration_index(chosen, family, sizes)
    return code.bincount(minlength=shape.numel()).view(-1, sizes[node])
