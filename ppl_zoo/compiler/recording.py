"""Recording of functions as aten graphs, without writes in place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

__all__ = ["functional", "record"]


@functools.cache
def _decompositions() -> dict:
    return torch._decomp.core_aten_decompositions()


def record(function: Callable[..., Any], inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Record one run of a function of tensors, in core aten operations."""
    return make_fx(function, decomposition_table=_decompositions())(*inputs)


def functional(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Return the graph without writes in place; itself where it has none.

    Only where something is written does it matter what is a view.
    """
    if not any(_writes(node) for node in graph.graph.nodes):
        return graph
    return record(torch.func.functionalize(graph, remove="mutations_and_views"), inputs)


def _writes(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
