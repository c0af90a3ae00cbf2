"""Guards of the capture: reads of values that are answered, and those that are refused.

A recorded graph holds for other parameters and data only if the program did not depend on a value
while it was recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    has_proxy_slot,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ppl_zoo.core.parameters import unescape

__all__ = [
    "AnswerGuards",
    "RejectConstants",
    "StateError",
    "refuse_held_parameters",
    "refuse_written_state",
]

#: modules of Pyro that read values only for checks, or for a number to report
_CHECKING_MODULES = (
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
#: methods that read a tensor's values past the operations that are recorded
_READS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__)

#: methods that hand a tensor's value to Python
_VALUES = (
    *(Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
    *(Tensor.tolist, Tensor.numpy),
)

_DETERMINANTS = (
    *(torch.det, torch.logdet, torch.slogdet, torch.linalg.det, torch.linalg.slogdet),
    *(Tensor.det, Tensor.logdet, Tensor.slogdet),
)


class StateError(ValueError):
    """A program that depends on what is no tensor; the message says on what."""


class AnswerGuards(TorchFunctionMode):
    """Torch-function mode that answers the reads of values by which Pyro only checks.

    Answered, where a module of Pyro's ELBOs and checks asks:

    - ``tensor.item()``, for the loss it reports: the tensor itself, detached;
    - ``bool(tensor)``, for masks and warnings: True.

    Handled for every caller:

    - ``item``, ``bool``, ``int``, ``float`` and ``tolist`` of a tensor that depends on neither
      inputs nor chance (the index of ``for i in pyro.plate(...)``): its value;
    - ``y[mask] = x[mask]`` and ``y[mask] = 0``, by a mask that depends on values: ``where``;
    - ``tensor.data``: the tensor, detached, so that it stays in the graph;
    - ``one_hot`` with a number of classes, ``torch.normal`` of tensors: by other operations;
    - determinants of matrices that are not contiguous: taken of a contiguous copy.

    Parameters
    ----------
    constants
        Knows which tensors depend on inputs or chance.

    Refused, since the value would stay in the graph as a constant: ``numpy``, ``tolist``,
    ``data_ptr`` and DLPack of a recorded tensor, ``torch.tensor`` and ``torch.as_tensor`` of a
    list that holds one. Any other ``item`` or ``bool`` (a program that branches on a value, a
    sampler that rejects) goes on to make_fx, which refuses it.

    Raises
    ------
    ValueError
        If a value is read past the recorded operations.
    """

    def __init__(self, constants: RejectConstants) -> None:
        super().__init__()
        self.constants = constants

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (Tensor.item, Tensor.__bool__) and _asked_by_check():
            return args[0].detach() if func is Tensor.item else True
        if func in _VALUES and not self.constants.depends(args[0]):
            with disable_proxy_modes_tracing():
                return func(*args, **(kwargs or {}))
        if func == Tensor.data.__get__:
            return args[0].detach()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and self._is_varying_mask(*args[:2]):
            if func is Tensor.__getitem__:
                return _Selection(*args)
            if isinstance(args[2], _Selection):
                args[2].write(args[0], args[1])
                return None
            if not isinstance(args[2], Tensor) or not args[2].dim():
                args[0].masked_fill_(args[1], args[2])
                return None
        if func is nn.functional.one_hot:
            codes, num_classes = _one_hot_arguments(*args, **(kwargs or {}))
            if num_classes > 0:
                states = torch.arange(num_classes, device=codes.device)
                return (codes[..., None] == states).long()
        if func is torch.normal and all(isinstance(a, Tensor) for a in args[:2]) and len(args) > 1:
            mean, std = torch.broadcast_tensors(*args[:2])
            return mean + std * torch.randn_like(mean)
        if func in _DETERMINANTS and not args[0].is_contiguous():
            # torch factors the transpose of a row-major matrix, and the gradient depends on
            # which; the functional graph has only row-major ones
            args = (args[0].contiguous(), *args[1:])
        if func in _READS and _is_recorded(args[0]):
            raise ValueError(f"Tensor.{func.__name__} reads a value while recording")
        if func is torch.tensor or func is torch.as_tensor:
            if any(map(_is_recorded, _leaves(args[0]))) and not isinstance(args[0], Tensor):
                raise ValueError(f"torch.{func.__name__} reads values; torch.stack does not")
        return func(*args, **(kwargs or {}))

    def _is_varying_mask(self, x: Any, index: Any) -> bool:
        """Whether an index is a mask of the whole tensor that depends on inputs or chance."""
        return (
            isinstance(index, Tensor)
            and index.dtype == torch.bool
            and index.shape == x.shape
            and index in self.constants.varies
        )


class _Selection:
    """What a mask selects, ``x[mask]``: it may be put where the mask is, ``y[mask] = x[mask]``.

    Anything else would need its shape, which depends on values.
    """

    def __init__(self, x: Tensor, mask: Tensor) -> None:
        self._x, self._mask = x, mask

    def write(self, y: Tensor, mask: Tensor) -> None:
        """Put it where the mask is."""
        if mask is not self._mask or y.shape != self._x.shape:
            self._refuse()
        y.copy_(torch.where(mask, self._x, y))

    @staticmethod
    def _refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("the shape that a mask selects depends on values")

    def __getattr__(self, name: str) -> Any:
        self._refuse()

    __torch_function__ = classmethod(lambda cls, *_: cls._refuse())
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refuse
    __rtruediv__ = __pow__ = __neg__ = __getitem__ = __len__ = __iter__ = __lt__ = __gt__ = _refuse


def _one_hot_arguments(codes: Tensor, num_classes: int = -1) -> tuple[Tensor, int]:
    return codes, num_classes


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


def _asked_by_check() -> bool:
    """Whether the innermost caller but for wrappers is a module of Pyro that only checks."""
    frame = sys._getframe(1)
    wrappers = (__name__, "jaxtyping", "beartype")  # type checks wrap functions while testing
    while frame is not None:
        caller = frame.f_globals.get("__name__", "")
        if not caller.startswith(wrappers) and not frame.f_code.co_filename.startswith("<"):
            return caller in _CHECKING_MODULES
        frame = frame.f_back
    return False


class RejectConstants(TorchDispatchMode):
    """Torch-dispatch mode that rejects what a graph would freeze at its value while recording.

    Rejected are operations whose output shape depends on values that vary (boolean indexing,
    ``nonzero``, ``masked_select`` by something computed from inputs or by chance; a constant mask
    is fine), and writes in place into buffers of the modules, which no call of the graph repeats.

    Parameters
    ----------
    modules
        Whose buffers must not be written into.
    inputs
        Of the graph: what is computed from them varies.

    Raises
    ------
    ValueError
        At such an operation, with its name.
    """

    def __init__(self, modules: Sequence[nn.Module], inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        # tensors computed from inputs or by chance, and those that were seen to be computed
        # from neither; of any other nothing is known
        self.varies = WeakIdKeyDictionary(dict.fromkeys(inputs, True))
        self.constant = WeakIdKeyDictionary()
        self.written: set[int] = set()  # storages that took values that vary
        buffers = [b for module in modules for b in module.buffers() if b.numel()]
        self.buffers = {b.untyped_storage().data_ptr() for b in buffers}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if torch.Tag.dynamic_output_shape in func.tags:
            deciding = _tensors(args[:1])
            if func.overloadpacket is torch.ops.aten.index:
                masks = (torch.bool, torch.uint8)
                deciding = [i for i in args[1] if i is not None and i.dtype in masks]
            elif func.overloadpacket is torch.ops.aten.masked_select:
                deciding = args[1:]
            if any(d in self.varies for d in deciding):
                raise ValueError(f"the shape that {func} returns depends on values")
        if func._schema.is_mutable:
            for value, argument in zip(args, func._schema.arguments, strict=False):
                if argument.is_write and isinstance(value, Tensor) and self._is_buffer(value):
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
            self.written |= {t.untyped_storage().data_ptr() for t in written}
        else:
            for tensor in _tensors(result):
                self.constant[tensor] = True
        return result

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor depends on inputs or chance, or may do so."""
        return (
            not isinstance(tensor, Tensor)
            or tensor in self.varies
            or tensor not in self.constant
            or tensor.untyped_storage().data_ptr() in self.written
        )

    def _is_buffer(self, value: Tensor) -> bool:
        return bool(value.numel()) and value.untyped_storage().data_ptr() in self.buffers


def refuse_written_state(graph: torch.fx.GraphModule) -> None:
    """Refuse a program that keeps state: a graph that writes into a constant or a view of one.

    Raises
    ------
    ValueError
        If an operation does, with its name.
    """
    state = {n for n in graph.graph.nodes if n.op == "get_attr" and "lift" not in n.name}
    for node in graph.graph.nodes:
        if node.op != "call_function" or not node.args:
            continue
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        if node.args[0] in state and any(r.alias_info is not None for r in schema.returns):
            state.add(node)  # a view
        if not schema.is_mutable:
            continue
        written = [
            value
            for value, argument in zip(node.args, schema.arguments, strict=False)
            if argument.is_write
        ]
        if state & {v for v in written if isinstance(v, torch.fx.Node)}:
            raise ValueError(f"{node.target} writes into a buffer, which a graph would forget")


def refuse_held_parameters(
    graph: torch.fx.GraphModule,
    owners: Iterable[tuple[nn.Parameter, list[tuple[nn.Module, str]]]],
) -> None:
    """Refuse a graph that holds a parameter as a constant, which no gradient would reach.

    A program that took the weight out of its module (``w = net.weight``) uses it past the module.

    Raises
    ------
    StateError
        With the parameter's name.
    """
    storages = {
        p.untyped_storage().data_ptr(): unescape(held[0][1].removeprefix("_declared."))
        for p, held in owners
        if p.numel()
    }
    for node in graph.graph.nodes:
        if node.op != "get_attr":
            continue
        constant = getattr(graph, node.target)
        if not isinstance(constant, Tensor) or not constant.numel():
            continue
        name = storages.get(constant.untyped_storage().data_ptr())
        if name is not None:
            raise StateError(f"the program reads the parameter {name!r} past its module")
