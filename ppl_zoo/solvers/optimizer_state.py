"""The state of a torch optimizer as named tensors and plain values, so that nothing is pickled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["pack_optimizer", "unpack_optimizer"]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors by name and values that JSON holds.

    Returns
    -------
    tensors
        ``{"PARAMETER.KEY": tensor}``.
    plain
        ``{"state": {"PARAMETER.KEY": value}, "groups": [...]}``.

    Raises
    ------
    TypeError
        If the optimizer keeps something else than tensors and plain values.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            name = f"{index}.{key}"
            if isinstance(value, Tensor):
                tensors[name] = value.detach().clone()
            elif isinstance(value, list) and value and all(isinstance(v, Tensor) for v in value):
                plain[name] = {"tensors": len(value)}  # the history of L-BFGS
                tensors |= {f"{name}.{i}": v.detach().clone() for i, v in enumerate(value)}
            elif isinstance(value, (int, float, str, bool, type(None), list)):
                plain[name] = value
            else:
                raise TypeError(f"optimizer state {name}: cannot save a {type(value).__name__}")
    return tensors, {"state": plain, "groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]
) -> None:
    """Put a packed state into an optimizer over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if index.isdigit() and "." not in key:
            state.setdefault(int(index), {})[key] = value
    for name, value in plain["state"].items():
        index, _, key = name.partition(".")
        if isinstance(value, dict):
            value = [tensors[f"{name}.{i}"] for i in range(value["tensors"])]
        state.setdefault(int(index), {})[key] = value
    groups = [
        {k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in plain["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
