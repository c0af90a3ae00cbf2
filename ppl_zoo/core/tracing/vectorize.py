"""Vectorised draws: one run of a program under ``torch.vmap`` stands for many.

Under ``vmap`` a program sees the tensors of a single draw, so that it need not broadcast
(``x @ b``, ``weights[0]``, ``locs[z]``). A program that reads values in Python, or writes into
tensors of its own, runs draw by draw.
"""

from __future__ import annotations

import contextlib
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ppl_zoo.core.tracing.traceable import traceable

__all__ = ["is_batched", "over_draws", "vmapped"]

Values = dict[str, Tensor]

#: functions whose results are written into, so that they need a value for each draw
_FACTORIES = frozenset(
    getattr(owner, name)
    for kind in ("empty", "zeros", "ones", "full")
    for owner, name in (
        (torch, kind),
        (torch, f"{kind}_like"),
        (Tensor, f"new_{kind}"),
    )
) | {Tensor.new}


def over_draws(
    single: Callable[[Values], Values],
    num_draws: int,
    block: int,
    given: Mapping[str, Tensor] | None = None,
) -> Values:
    """Call ``single`` once for each draw, vectorised where its program allows it.

    Parameters
    ----------
    single
        ``single(values)`` makes one draw, ``{name: tensor}``.
    num_draws
        Draws in all.
    block
        Draws made at once, so that they fit into memory.
    given
        What each draw is given, ``{name: (num_draws, ...)}``.

    Returns
    -------
    dict
        ``{name: (num_draws, ...)}``.
    """
    given, parts, vectorises = dict(given or {}), [], num_draws > 1
    for start in range(0, num_draws, block):
        count = min(block, num_draws - start)
        chosen = {name: value[start : start + count] for name, value in given.items()}
        part = vmapped(single, chosen, count) if vectorises else None
        if part is None:
            vectorises = False
            rows = [single({k: v[i] for k, v in chosen.items()}) for i in range(count)]
            part = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        parts.append(part)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def vmapped(single: Callable[[Values], Values], given: Values, count: int) -> Values | None:
    """Make ``count`` draws in one run; None where the program cannot be vectorised."""

    def run(index: Tensor, values: Values) -> Values:
        with _Batched(index):
            return single(values)

    try:
        with traceable(), _plain_functions(), warnings.catch_warnings():
            # an operation without a rule of its own runs in a loop: slower, and right
            warnings.filterwarnings("ignore", message=".*performance drop")
            # torch.binomial of a count that all draws share
            warnings.filterwarnings("ignore", message="An output with one or more elements was")
            device = next((v.device for v in given.values()), torch.get_default_device())
            index = torch.arange(count, device=device)
            return torch.vmap(run, randomness="different")(index, given)
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, NotImplementedError):
        return None  # whatever it was, draw by draw it is met again if it is no fault of vmap


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for those of many draws, so that its values cannot be read."""
    return torch._C._functorch.is_batchedtensor(tensor)


class _Batched(TorchFunctionMode):
    """Torch-function mode that gives each draw its own copy of tensors that are written into.

    ``torch.empty(3).normal_()`` would be refused, since all draws would share it.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.zero = index * 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func == Tensor.data.__get__:
            return args[0].detach()
        if func is Tensor.requires_grad_:
            return args[0]  # Pyro's parameter store asks for gradients; there are none here
        if func is Tensor.__setitem__ and _is_mask(args[1]) and not isinstance(args[2], Tensor):
            return args[0].masked_fill_(args[1], args[2])  # indexing by a mask has no rule
        result = func(*args, **(kwargs or {}))
        if func in _FACTORIES and isinstance(result, Tensor):
            zero = self.zero.to(result.device)
            return (
                result | zero.bool()
                if result.dtype == torch.bool
                else result + zero.to(result.dtype)
            )
        return result


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


@contextlib.contextmanager
def _plain_functions() -> Iterator[None]:
    """Let hand-written autograd functions run their forward pass alone: no gradient is asked."""

    def apply(cls: type[torch.autograd.Function], *args: Any) -> Any:
        context = types.SimpleNamespace(
            needs_input_grad=(False,) * len(args),
            save_for_backward=lambda *_: None,
            mark_non_differentiable=lambda *_: None,
            set_materialize_grads=lambda *_: None,
        )
        return cls.forward(context, *args)

    with mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)):
        yield
