"""What a program may ask of tensors while it is recorded, and what a graph would hold fast."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode, has_proxy_slot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["AnswerGuards", "RejectConstants", "refuse_kept_state"]

#: modules of Pyro whose questions only guard, or make a number to report
_GUARDS = (
    "pyro.infer.elbo",
    "pyro.infer.renyi_elbo",
    "pyro.infer.trace_elbo",
    "pyro.infer.trace_mean_field_elbo",
    "pyro.infer.traceenum_elbo",
    "pyro.infer.tracegraph_elbo",
    "pyro.infer.tracetmc_elbo",
    "pyro.infer.util",
    "pyro.util",
)
#: ways to read a tensor below the operations that are recorded
_READS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__)

_DETERMINANTS = (
    *(torch.det, torch.logdet, torch.slogdet, torch.linalg.det, torch.linalg.slogdet),
    *(Tensor.det, Tensor.logdet, Tensor.slogdet),
)


class AnswerGuards(TorchFunctionMode):
    """Answer the questions about values that Pyro's ELBOs ask; no other gets an answer.

    The ELBOs call ``item`` for the loss they report and ask for the truth of masks; these only
    guard. A program that branches on a value, or a sampler that rejects, has no static graph,
    and make_fx says so. Values that are read past it would stay in the graph as constants.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (Tensor.item, Tensor.__bool__) and _asked_by_guard():
            return args[0].detach() if func is Tensor.item else True
        if func is Tensor.data.__get__:
            return args[0].detach()
        if func in _DETERMINANTS and not args[0].is_contiguous():
            # torch factors the transpose of a matrix that lies row by row, and the gradient
            # remembers which; the functional graph has only such matrices
            args = (args[0].contiguous(), *args[1:])
        if func in _READS and _is_recorded(args[0]):
            raise ValueError(f"Tensor.{func.__name__} reads a value while recording")
        if func is torch.tensor or func is torch.as_tensor:
            if any(map(_is_recorded, _leaves(args[0]))) and not isinstance(args[0], Tensor):
                raise ValueError(f"torch.{func.__name__} reads values; torch.stack does not")
        return func(*args, **(kwargs or {}))


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _is_recorded(value: Any) -> bool:
    mode = get_proxy_mode()
    return mode is not None and isinstance(value, Tensor) and has_proxy_slot(value, mode.tracer)


def _asked_by_guard() -> bool:
    frame = sys._getframe(1)
    between = (__name__, "jaxtyping", "beartype")  # checks of types stand between while testing
    while frame is not None:
        caller = frame.f_globals.get("__name__", "")
        if not caller.startswith(between) and not frame.f_code.co_filename.startswith("<"):
            return caller in _GUARDS
        frame = frame.f_back
    return False


class RejectConstants(TorchDispatchMode):
    """Refuse what a graph would hold fast at the value that it has while recording."""

    def __init__(self, modules: Sequence[nn.Module], inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        # what is computed from inputs or by chance; a mask that is not stays as it is
        self.varies = WeakIdKeyDictionary(dict.fromkeys(inputs, True))
        buffers = [b for module in modules for b in module.buffers() if b.numel()]
        self.kept = {b.untyped_storage().data_ptr() for b in buffers}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags:
            decides = _tensors(args[:1])
            if func.overloadpacket is torch.ops.aten.index:
                kinds = (torch.bool, torch.uint8)
                decides = [i for i in args[1] if i is not None and i.dtype in kinds]
            elif func.overloadpacket is torch.ops.aten.masked_select:
                decides = args[1:]
            if any(d in self.varies for d in decides):
                raise ValueError(f"the shape that {func} returns depends on values")
        if func._schema.is_mutable:
            for value, argument in zip(args, func._schema.arguments, strict=False):
                if argument.is_write and isinstance(value, Tensor) and self._is_kept(value):
                    raise ValueError(f"{func} writes into a buffer, which a graph would forget")
        given = _tensors((args, kwargs))
        varies = torch.Tag.nondeterministic_seeded in func.tags or any(
            t in self.varies for t in given
        )
        result = func(*args, **(kwargs or {}))
        if varies:
            written = _tensors(args[:1]) if func._schema.is_mutable else []
            for tensor in (*_tensors(result), *written):
                self.varies[tensor] = True
        return result

    def _is_kept(self, value: Tensor) -> bool:
        return bool(value.numel()) and value.untyped_storage().data_ptr() in self.kept


def refuse_kept_state(graph: torch.fx.GraphModule) -> None:
    """Refuse a program that writes into a tensor of its own from one step to the next."""
    kept = {n for n in graph.graph.nodes if n.op == "get_attr" and "lift" not in n.name}
    for node in graph.graph.nodes:
        if node.op != "call_function" or not node.args:
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        if node.args[0] in kept and any(r.alias_info is not None for r in schema.returns):
            kept.add(node)  # a view
        if not schema.is_mutable:
            continue
        written = [
            value
            for value, argument in zip(node.args, schema.arguments, strict=False)
            if argument.is_write
        ]
        if kept & {v for v in written if isinstance(v, torch.fx.Node)}:
            raise ValueError(f"{node.target} writes into a buffer, which a graph would forget")
