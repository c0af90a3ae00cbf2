"""Capture: a Pyro program run once, and every tensor operation below its handlers recorded.

A Pyro program is static once its shapes are known. ``make_fx`` runs objective and gradients once
and records the aten operations; plates, replay and enumeration vanish, as they do under JAX's
tracing. Gradients are taken by autograd while recording, so that ``detach``, surrogate losses
and hand-written ``autograd.Function`` mean what they mean in torch.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyro
import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, has_proxy_slot, make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["CaptureError", "Captured", "capture"]


def _folder(file: str | None) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(file or "")), "")


#: folders whose lines are not the user's own, and one inside them whose lines are as good
_LIBRARIES = (
    *map(_folder, (pyro.__file__, torch.__file__, os.__file__)),
    _folder(_folder(__file__)[:-1]),
)
_MODELS = os.path.join(_LIBRARIES[-1], "models", "")


class CaptureError(RuntimeError):
    """A program that has no static graph; the message names the line that is in the way."""


@dataclass
class Captured:
    """Objective and gradients as one functional aten graph.

    ``graph(*parameters, *data)`` returns ``(loss, *gradients)``.
    """

    graph: torch.fx.GraphModule
    parameters: list[nn.Parameter]
    program: Callable[..., Any] | None = None
    inputs: tuple[Tensor, ...] = ()

    @property
    def num_operations(self) -> int:
        """Length of the graph."""
        return sum(node.op == "call_function" for node in self.graph.graph.nodes)

    def fingerprint(self) -> str:
        """Text that is the same for graphs that compute the same; constants count by value."""
        lines = []
        for node in self.graph.graph.nodes:
            value = node.meta.get("val")
            kind = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
            if node.op == "get_attr":  # whose name counts how many constants came before
                constant = getattr(self.graph, node.target).detach().cpu().contiguous()
                content = constant.reshape(-1).view(torch.uint8).numpy().tobytes()
                digest = hashlib.sha256(content).hexdigest()
                lines.append(f"{node.name} {tuple(constant.shape)} {constant.dtype} {digest}")
                continue
            lines.append(f"{node.name} {node.op} {node.target} {node.args} {node.kwargs} {kind}")
        return "\n".join(lines)

    def line_of(self, operation: str) -> str | None:
        """Find the line of the user that calls for an aten operation; None if torch does."""
        if self.program is None:
            return None
        try:
            with _no_checks_of_values(), torch.random.fork_rng(devices=[]), _StopAt(operation):
                self.program(*self.inputs)
        except _FoundError as error:
            return _line_of_user(error)
        except Exception:  # noqa: BLE001 - the line is a help only, the error is told without it
            return None
        return None


def capture(
    objective: Callable[..., Tensor], modules: Sequence[nn.Module], data: tuple[Tensor, ...]
) -> Captured:
    """Record ``objective(*data)`` and its gradients.

    Parameters
    ----------
    objective
        Runs the Pyro programs and returns a scalar to minimise.
    modules
        Hold the parameters; those that require gradients become inputs of the graph.
    data
        Become inputs as well.

    Raises
    ------
    CaptureError
        If the program asks for the value of a tensor, naming the line that does.
    """
    places: dict[int, tuple[nn.Parameter, list]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                places.setdefault(id(parameter), (parameter, []))[1].append((module, name))
    parameters = [parameter for parameter, _ in places.values()]
    values = [p.detach().clone() for p in parameters]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [p.detach().requires_grad_() for p in inputs[: len(parameters)]]
        with contextlib.ExitStack() as stack:
            for module in modules:
                own = {
                    name: leaf
                    for leaf, (_, found) in zip(leaves, places.values(), strict=True)
                    for where, name in found
                    if where is module
                }
                stack.enter_context(_reparametrize_module(module, own))
            stack.enter_context(_Answers())
            stack.enter_context(_Refuses(modules, inputs))
            with torch.enable_grad():
                loss = objective(*inputs[len(parameters) :])
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return loss.detach(), *(
            torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradients, strict=True)
        )

    table = _decompositions()
    inputs = (*values, *data)
    try:
        with (
            _no_checks_of_values(),
            _as_found(modules),
            _default_type(inputs),  # of all stages, so that numbers are promoted alike
            torch.random.fork_rng(devices=[]),
            # one for all shapes: make_fx would build one, with a stack trace, for each operation
            tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))),
        ):
            recorded = make_fx(run, decomposition_table=table)(*inputs)
            _refuse_kept_state(recorded)
            functional = torch.func.functionalize(recorded, remove="mutations_and_views")
            graph = make_fx(functional, decomposition_table=table)(*inputs)
            _compare(recorded, graph, inputs)
    except Exception as error:
        # whatever the program did that a graph cannot hold; the caller runs it uncompiled
        raise CaptureError(f"{_line_of_user(error)} ({_first_line(error)})") from error
    graph.graph.eliminate_dead_code()
    _fold_indices(graph)
    graph.recompile()
    return Captured(graph, parameters, run, inputs)


@functools.cache
def _decompositions() -> dict:
    return torch._decomp.core_aten_decompositions()


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


class _Answers(TorchFunctionMode):
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


class _Refuses(TorchDispatchMode):
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


class _FoundError(Exception):
    """Raised where an operation is called that is looked for."""


class _StopAt(TorchDispatchMode):
    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = _plain_name(operation)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if _plain_name(func.overloadpacket.__name__) == self.operation:
            raise _FoundError(self.operation)
        return func(*args, **(kwargs or {}))


def _plain_name(operation: str) -> str:
    return operation.removesuffix("_functional").removesuffix("_copy").removesuffix("_")


@contextlib.contextmanager
def _default_type(inputs: tuple[Tensor, ...]) -> Iterator[None]:
    before = torch.get_default_dtype()
    kinds = {t.dtype for t in inputs if t.is_floating_point()}
    torch.set_default_dtype(kinds.pop() if len(kinds) == 1 else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _as_found(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put back what a run of the program changes in the buffers."""
    buffers = [b for module in modules for b in module.buffers()]
    before = [b.detach().clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def _compare(
    recorded: torch.fx.GraphModule, graph: torch.fx.GraphModule, inputs: tuple[Tensor, ...]
) -> None:
    """Refuse a graph that is not what was recorded, for the same noise."""
    results = []
    for module in (recorded, graph):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            results.append(module(*(x.clone() for x in inputs)))
    for one, other in zip(*results, strict=True):
        size = one.abs().nan_to_num(0, 0, 0).max() if one.numel() else 0.0
        if not torch.allclose(one, other, 1e-3, 1e-3 * float(size) + 1e-6, equal_nan=True):
            raise ValueError("the graph without views and mutations gives another result")


def _fold_indices(graph: torch.fx.GraphModule) -> None:
    """Make constants of the indices that do not depend on inputs or chance.

    Masks decide on shapes, so that XLA has to know them; of integers it knows where they point.
    """
    known: dict[torch.fx.Node, Any] = {}

    def value(node: torch.fx.Node) -> Any:
        if node not in known:
            known[node] = None
            tags = getattr(node.target, "tags", ())
            random = torch.Tag.nondeterministic_seeded in tags
            if node.op == "get_attr":
                known[node] = getattr(graph, node.target)
            elif node.op == "call_function" and not random:
                before = {n: value(n) for n in node.all_input_nodes}
                if all(v is not None for v in before.values()):
                    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), before.get)
                    known[node] = node.target(*args, **kwargs)
        return known[node]

    packets = (torch.ops.aten.index, torch.ops.aten.index_put)
    for node in list(graph.graph.nodes):
        if getattr(node.target, "overloadpacket", None) not in packets:
            continue
        for index in node.args[1]:
            if index is None or index.op == "get_attr":
                continue
            known_index = value(index)
            if known_index is not None:
                name = f"_index_{index.name}"
                graph.register_buffer(name, known_index)
                with graph.graph.inserting_before(node):
                    constant = graph.graph.get_attr(name)
                constant.meta["val"] = known_index
                node.replace_input_with(index, constant)
    graph.graph.eliminate_dead_code()


def _refuse_kept_state(graph: torch.fx.GraphModule) -> None:
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


def _dirichlet_of_gammas(concentration: Tensor) -> Tensor:
    """Draw as torch does, with the gradient of normalised gammas, which XLA has."""
    gammas = torch._standard_gamma(concentration)
    return gammas / gammas.sum(-1, keepdim=True)


@contextlib.contextmanager
def _no_checks_of_values() -> Iterator[None]:
    """Switch off checks of values, which a graph cannot do, and put them back."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with (
            mock.patch("torch.distributions.dirichlet._Dirichlet.apply", _dirichlet_of_gammas),
            mock.patch("pyro.util.torch_isnan", lambda x: False),
            mock.patch("pyro.util.torch_isinf", lambda x: False),
            pyro.validation_enabled(False),
            sdpa_kernel(SDPBackend.MATH),  # made of operations that the table has
        ):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def _line_of_user(error: BaseException) -> str:
    """Describe the innermost line of the traceback that is the user's own."""
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        name = os.path.abspath(frame.filename)
        library = "site-packages" in name or name.startswith(_LIBRARIES)
        library = library and not name.startswith(_MODELS)
        if not library and not frame.filename.startswith("<"):
            found = frame
    if found is None:
        return "a line of the library"
    source = linecache.getline(found.filename, found.lineno or 0).strip()
    return f"{found.filename}:{found.lineno}: `{source}`"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
