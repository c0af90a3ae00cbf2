"""Lowering: a captured aten graph as a JAX function.

The graph is interpreted with JAX arrays, operation by operation, by the table in ``ops/``; shapes
and types of all results are held against torch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from ppl_zoo.compiler.capture import Captured
from ppl_zoo.compiler.scan import ScanStep
from ppl_zoo.compiler.xla.broadcasting import (
    Broadcasted,
    apply_to_broadcasted,
    broadcast,
    contract,
    materialize,
)
from ppl_zoo.compiler.xla.cache import refuse_forked, use_disk_cache
from ppl_zoo.compiler.xla.ops.dtypes import jax_dtype
from ppl_zoo.compiler.xla.ops.random import RANDOM
from ppl_zoo.compiler.xla.ops.table import TABLE

__all__ = [
    "LoweredGraph",
    "LoweringError",
    "lower",
    "operation_name",
    "supports",
    "to_jax",
    "to_torch",
]

use_disk_cache()  # before anything is compiled

#: the operation behind every normal draw, the one that reparametrised guides are made of
_NORMAL = "normal_functional"
#: operations that create a tensor, of the default type where none is given
_CREATION = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn")
_CREATION += ("scalar_tensor", "zeros", "randint", "randperm")
#: operations whose results are stored before they are used
_STORED = ("addmm", "baddbmm", "bmm", "convolution", "mm", "mv", "dot", "sum")
#: operations of an expression without sharing, from which XLA does not fuse them
MAX_WRITTEN_OUT = 2**28
#: arguments that say where and how a tensor is stored, not what it holds
_STORAGE_ARGUMENTS = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


class LoweringError(RuntimeError):
    """A graph with an operation that the table lacks or that XLA cannot run."""

    def __init__(self, message: str, operation: str = "") -> None:
        super().__init__(message)
        self.operation = operation


def supports(device: torch.device) -> bool:
    """Whether JAX runs on the device that torch has its tensors on."""
    wanted = "cpu" if device.type == "cpu" else "gpu"
    try:
        return bool(jax.devices(wanted))
    except RuntimeError:
        return False


def operation_name(target: Any) -> str:
    """Return the name of an aten operation without namespace and overload, such as "add"."""
    packet = getattr(target, "overloadpacket", target)
    return getattr(packet, "__name__", str(packet))


def to_jax(tensor: Tensor) -> jax.Array:
    """Hand a tensor to JAX, on the same device; on a CPU as a copy.

    No program is compiled for it, as ``jnp.asarray`` does for every new shape.
    """
    if tensor.device.type == "cpu":
        return jax.device_put(np.array(tensor.detach().numpy()))
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def to_torch(array: jax.Array, like: Tensor) -> Tensor:
    """Hand an array back, on the device and in the type of ``like``."""
    if like.device.type == "cpu":
        return torch.from_numpy(np.array(array)).to(like.dtype)
    return torch.from_dlpack(array).to(like.dtype)


def lower(captured: Captured) -> LoweredGraph:
    """Return a captured graph as a JAX function.

    Raises
    ------
    LoweringError
        If the table lacks an operation, or XLA cannot run one as torch does; the message names
        it, and the line of the user that calls for it.
    """
    refuse_forked()
    graph = captured.graph
    used: dict[str, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            used.setdefault(operation_name(node.target), node.target)
    for step in graph.meta.get("scans", ()):
        for node in (*step.forward.graph.nodes, *step.backward.graph.nodes):
            if node.op == "call_function":
                used.setdefault(operation_name(node.target), node.target)
    for name in sorted(used.keys() - TABLE.keys() - RANDOM.keys() - _SCANS.keys() - {"getitem"}):
        error = LoweringError(f"XLA has no lowering for the operation {used[name]}", name)
        raise _with_line(error, captured)
    for node in graph.graph.nodes:
        if operation_name(node.target).startswith("as_strided") and not _is_dense(node.args[0]):
            error = LoweringError(f"{node.target} reads memory, which XLA does not show", "")
            raise _with_line(error, captured)
    lowered = LoweredGraph(graph)
    examples = [n.meta.get("val") for n in graph.graph.nodes if n.op == "placeholder"]
    if all(isinstance(e, Tensor) for e in examples):
        shapes = [jax.ShapeDtypeStruct(tuple(e.shape), jax_dtype(e.dtype)) for e in examples]
        try:
            jax.eval_shape(lowered, jax.random.key(0), *shapes)
        except LoweringError as error:
            raise _with_line(error, captured) from error
    return lowered


def _is_dense(node: torch.fx.Node) -> bool:
    """Whether a tensor is contiguous and begins where its storage begins."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_contiguous() and value.storage_offset() == 0


def _with_line(error: LoweringError, captured: Captured) -> LoweringError:
    line = captured.line_of(error.operation) if error.operation else None
    return LoweringError(f"{error}, called at {line}", error.operation) if line else error


def compiler_options(graph: torch.fx.GraphModule) -> dict[str, str] | None:
    """Options that XLA needs to run a graph in a time that is linear in its operations.

    XLA's emitters of fused loops for CPUs write an expression out once for each of its uses. In a
    recursion (steps of an ODE's solver) these multiply from step to step.
    """
    sizes: dict[torch.fx.Node, int] = {}  # of each expression, without sharing
    for node in graph.graph.nodes:
        if node.op == "call_function":
            fused = operation_name(node.target) not in _STORED
            sizes[node] = 1 + sum(sizes.get(n, 0) for n in node.all_input_nodes) if fused else 1
            if sizes[node] > MAX_WRITTEN_OUT:
                return {"xla_disable_hlo_passes": "fusion"}
    return None


class LoweredGraph:
    """A captured graph as a JAX function, ``graph(key, *inputs, noise=None)``.

    It holds the graph and its constants, not the data of a fit.

    Attributes
    ----------
    num_normals
        Standard normals that one call draws.
    compiler_options
        For :func:`jax.jit`, where the graph needs any.
    """

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        self._graph = graph
        self._constants = {
            n.target: _constant(getattr(graph, n.target))
            for n in graph.graph.nodes
            if n.op == "get_attr"
        }
        normals = [n for n in graph.graph.nodes if operation_name(n.target) == _NORMAL]
        self.num_normals: int = sum(n.meta["val"].numel() for n in normals)
        self.compiler_options = compiler_options(graph)
        self._scans = {step.key: _LoweredStep(step) for step in graph.meta.get("scans", ())}

    def __call__(
        self, key: jax.Array | None, *inputs: jax.Array, noise: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Run the graph.

        Parameters
        ----------
        key
            Of the random operations; None for a graph without any.
        *inputs
            Parameters and data.
        noise
            ``(num_normals,)`` standard normals, used instead of drawing some for each operation.
        """
        interpreter = _JAXInterpreter(self._graph, self._constants, key, noise, self._scans)
        out = interpreter.run(*inputs, enable_io_processing=False)
        return tuple(materialize(value) for value in out)


def _constant(tensor: Tensor) -> np.ndarray | jax.Array:
    # a copy: what is changed in place later does not reach into a compiled program
    if not tensor.is_floating_point() and tensor.device.type == "cpu":
        return tensor.detach().numpy().copy()  # known while lowering: where an index points
    return to_jax(tensor if tensor.device.type == "cpu" else tensor.detach().clone())


class _JAXInterpreter(torch.fx.Interpreter):
    """Runs an aten graph with JAX arrays; every random operation gets a key of its own."""

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        constants: dict[str, Any],
        key: jax.Array | None,
        noise: jax.Array | None,
        scans: dict[int, _LoweredStep],
    ) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.constants, self.key, self.noise = constants, key, noise
        self.scans = scans
        self.num_random = 0  # random operations run so far
        self.num_taken = 0  # of the noise

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run an operation, and hold shape and type of the result against torch's."""
        self.expected = n.meta.get("val")
        first = n.args[0].meta.get("val") if n.args and isinstance(n.args[0], torch.fx.Node) else 0
        self.contiguous = isinstance(first, Tensor) and first.is_contiguous()
        try:
            result = self._contract(n)
            result = super().run_node(n) if result is None else result
        except LoweringError:
            raise
        except Exception as error:
            # a tracer's complaint or a bad shape: either way this graph cannot run here
            text = str(error).strip().splitlines()
            raise LoweringError(
                f"XLA cannot run {n.target}: {type(error).__name__}: {text[0] if text else ''}",
                operation_name(n.target),
            ) from error
        if n.op != "call_function":
            return result
        if isinstance(self.expected, (list, tuple)) and isinstance(result, (list, tuple)):
            pairs = zip(result, self.expected, strict=False)
            return type(result)(_as_expected(n, r, e) for r, e in pairs)
        return _as_expected(n, result, self.expected)

    def _contract(self, n: torch.fx.Node) -> Any:
        """Run a sum of a product as a matrix product, where that is what it is."""
        if operation_name(n.target) != "sum" or n.kwargs:
            return None
        product = n.args[0]
        if operation_name(product.target) != "mul" or product.kwargs:
            return None
        if not all(isinstance(factor, torch.fx.Node) for factor in product.args):
            return None
        return contract(*(self.env[factor] for factor in product.args), *n.args[1:])

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Look an operation up in the tables."""
        name = operation_name(target)
        if name == "getitem":
            return args[0][args[1]]
        shape = tuple(self.expected.shape) if isinstance(self.expected, Tensor) else None
        kwargs = {k: v for k, v in kwargs.items() if k not in _STORAGE_ARGUMENTS}
        if name not in ("index", "index_put"):  # which profit from constant indices
            args = map_aggregate(args, _as_jax)
        if any(isinstance(a, Broadcasted) for a in (*args, *kwargs.values())):
            result = apply_to_broadcasted(name, args, kwargs, shape)
            if result is not None:
                return result
        args = map_aggregate(args, materialize)
        kwargs = {k: materialize(v) for k, v in kwargs.items()}
        if name in ("expand", "expand_copy"):
            return broadcast(args[0], shape)
        if name in _SCANS:
            key, *given = args
            return _SCANS[name](self.scans[key], *given)
        if name in _CREATION and kwargs.get("dtype") is None and isinstance(self.expected, Tensor):
            kwargs["dtype"] = self.expected.dtype
        if name in ("_linalg_det", "_linalg_slogdet"):
            # torch factors the transpose of a row-major matrix, and its gradient knows
            kwargs["transposed"] = self.contiguous
        if name == _NORMAL and self.noise is not None:
            return self._normal(*args, **kwargs)
        if name in RANDOM:
            self.num_random += 1
            return RANDOM[name](jax.random.fold_in(self.key, self.num_random), *args, **kwargs)
        return TABLE[name](*args, **kwargs)

    def _normal(self, x: Any, mean: Any = 0.0, std: Any = 1.0, generator: None = None) -> Any:
        """Take the next of the normals that were drawn for the whole graph at once."""
        taken = self.noise[self.num_taken : self.num_taken + x.size].reshape(x.shape)
        self.num_taken += x.size
        return mean + std * taken.astype(x.dtype)

    def get_attr(self, target: str, args: tuple, kwargs: dict) -> np.ndarray | jax.Array:
        """Return a constant."""
        return self.constants[target]


def _as_jax(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def _as_expected(node: torch.fx.Node, result: Any, expected: Any) -> Any:
    if not isinstance(expected, Tensor) or result is None:
        return result
    if isinstance(result, Broadcasted):
        if result.shape == tuple(expected.shape):
            return Broadcasted(result.array.astype(jax_dtype(expected.dtype)), result.shape)
        result = result.materialize()
    result = jnp.asarray(result)
    if result.shape != tuple(expected.shape):
        raise LoweringError(
            f"XLA's {node.target} has shape {result.shape}, torch's {tuple(expected.shape)}",
            operation_name(node.target),
        )
    # torch's rules of promotion: a tensor without dimensions does not widen others
    return result.astype(jax_dtype(expected.dtype))


class _LoweredStep:
    """One step of a scan and its gradient, lowered."""

    def __init__(self, step: ScanStep) -> None:
        self.forward, self.backward = LoweredGraph(step.forward), LoweredGraph(step.backward)
        self.num_carry = step.num_carry


Arrays = Sequence[jax.Array]


def _run_scan(
    step: _LoweredStep, length: int, carry: Arrays, xs: Arrays, closure: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    """Last carry, second results, and the carries before each step."""

    def body(carry: tuple, x: tuple) -> tuple:
        out = step.forward(None, *carry, *x, *closure)
        return out[: step.num_carry], (out[step.num_carry :], carry)

    last, (ys, before) = jax.lax.scan(body, tuple(carry), tuple(xs), length)
    return last, ys, before


def _scan(
    step: _LoweredStep, length: int, carry: Arrays, xs: Arrays, closure: Arrays
) -> list[jax.Array]:
    last, ys, _ = _run_scan(step, length, carry, xs, closure)
    return [*last, *ys]


def _scan_backward(
    step: _LoweredStep,
    length: int,
    carry: Arrays,
    xs: Arrays,
    closure: Arrays,
    grads: Arrays,
) -> list[jax.Array]:
    _, _, before = _run_scan(step, length, carry, xs, closure)
    num_carry, num_xs = (
        sum(jnp.issubdtype(a.dtype, jnp.floating) for a in part) for part in (carry, xs)
    )

    def body(state: tuple, given: tuple) -> tuple:
        by_carry, by_closure = state
        carry, x, by_ys = given
        out = step.backward(None, *carry, *x, *closure, *by_carry, *by_ys)
        sums = (a + b for a, b in zip(by_closure, out[num_carry + num_xs :], strict=True))
        return (out[:num_carry], tuple(sums)), out[num_carry : num_carry + num_xs]

    floating = (c for c in closure if jnp.issubdtype(c.dtype, jnp.floating))
    start = (tuple(grads[:num_carry]), tuple(map(jnp.zeros_like, floating)))
    given = (tuple(before), tuple(xs), tuple(grads[num_carry:]))
    (by_carry, by_closure), by_xs = jax.lax.scan(body, start, given, length, reverse=True)
    return [*by_carry, *by_xs, *by_closure]


_SCANS = {"scan": _scan, "scan_backward": _scan_backward}
