"""State of a torch optimizer as tensors and plain values: nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["PLAIN_TYPES", "pack_optimizer_state", "unpack_optimizer_state"]

#: what JSON holds
PLAIN_TYPES = (int, float, str, bool, type(None), list)


def pack_optimizer_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's ``state_dict()`` into tensors by name and values that JSON holds.

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
            elif isinstance(value, PLAIN_TYPES):
                plain[name] = value
            else:
                raise TypeError(f"optimizer state {name}: cannot save a {type(value).__name__}")
    return tensors, {"state": plain, "groups": state["param_groups"]}


def unpack_optimizer_state(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the ``state_dict()`` that was packed, for an optimizer over the same parameters."""
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
    return {"state": state, "param_groups": groups}
