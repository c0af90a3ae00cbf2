"""XLA: a captured graph as a JAX function."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from ppl_zoo.compiler.capture import Captured
from ppl_zoo.compiler.xla.broadcasting import Broadcasted, contract, run_spread, spread
from ppl_zoo.compiler.xla.ops.dtypes import jax_dtype
from ppl_zoo.compiler.xla.ops.random import RANDOM
from ppl_zoo.compiler.xla.ops.table import TABLE

__all__ = ["LoweringError", "lower", "supports"]

# JAX would take three quarters of a GPU's memory at its first use
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _keep_programs() -> None:
    """Keep compiled programs in a folder of the user's, so that other processes start at once.

    JAX's own settings (``JAX_COMPILATION_CACHE_DIR``) come first; ``PPL_ZOO_XLA_CACHE=off``
    keeps nothing, and another value is the folder. It holds at most a gigabyte.
    """
    folder = os.environ.get("PPL_ZOO_XLA_CACHE") or str(pooch.os_cache("ppl_zoo") / "xla")
    if folder == "off" or jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", 2**30)


_keep_programs()


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


def name_of(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    return getattr(packet, "__name__", str(packet))


#: the operation behind every normal draw, the one that reparametrised guides are made of
NORMAL = "normal_functional"
#: operations that make a tensor of the default type where they are told none
_MADE = ("arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "scalar_tensor")
_MADE += ("zeros", "randint", "randperm")
#: arguments that say where and how, not what
_PLACES = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


class _Lowered(torch.fx.Interpreter):
    """Walks an aten graph with JAX arrays; every random operation gets a key of its own."""

    def __init__(
        self, graph: torch.fx.GraphModule, constants: dict[str, Any], key: Any, noise: Any
    ) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.constants, self.key, self.drawn = constants, key, 0
        self.noise, self.used = noise, 0

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
                name_of(n.target),
            ) from error
        if n.op != "call_function":
            return result
        if isinstance(self.expected, (list, tuple)) and isinstance(result, (list, tuple)):
            pairs = zip(result, self.expected, strict=False)
            return type(result)(_as_expected(n, r, e) for r, e in pairs)
        return _as_expected(n, result, self.expected)

    def _contract(self, n: torch.fx.Node) -> Any:
        """Run a sum of a product as a matrix product, where that is what it is."""
        if name_of(n.target) != "sum" or name_of(n.args[0].target) != "mul" or n.kwargs:
            return None
        factors = n.args[0].args
        if n.args[0].kwargs or not all(isinstance(f, torch.fx.Node) for f in factors):
            return None
        return contract(*(self.env[f] for f in factors), *n.args[1:])

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Look an operation up in the tables."""
        name = name_of(target)
        if name == "getitem":
            return args[0][args[1]]
        shape = tuple(self.expected.shape) if isinstance(self.expected, Tensor) else None
        kwargs = {k: v for k, v in kwargs.items() if k not in _PLACES}
        if name not in ("index", "index_put"):  # which like to know where they point
            args = map_aggregate(args, _array)
        if any(isinstance(a, Broadcasted) for a in (*args, *kwargs.values())):
            result = run_spread(name, args, kwargs, shape)
            if result is not None:
                return result
        args, kwargs = map_aggregate(args, _whole), {k: _whole(v) for k, v in kwargs.items()}
        if name in ("expand", "expand_copy"):
            return spread(args[0], shape)
        if name in _MADE and kwargs.get("dtype") is None and isinstance(self.expected, Tensor):
            kwargs["dtype"] = self.expected.dtype
        if name in ("_linalg_det", "_linalg_slogdet"):
            # torch factors the transpose of a matrix that lies row by row, and its gradient knows
            kwargs["transposed"] = self.contiguous
        if name == NORMAL and self.noise is not None:
            return self._normal(*args, **kwargs)
        if name in RANDOM:
            self.drawn += 1
            return RANDOM[name](jax.random.fold_in(self.key, self.drawn), *args, **kwargs)
        return TABLE[name](*args, **kwargs)

    def _normal(self, x: Any, mean: Any = 0.0, std: Any = 1.0, generator: Any = None) -> Any:
        """Take the next of the normals that were drawn for the whole graph at once."""
        taken = self.noise[self.used : self.used + x.size].reshape(x.shape)
        self.used += x.size
        return mean + std * taken.astype(x.dtype)

    def get_attr(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Return a constant."""
        return self.constants[target]


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, Broadcasted) else value


def _array(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def _as_expected(node: torch.fx.Node, result: Any, expected: Any) -> Any:
    if not isinstance(expected, Tensor) or result is None:
        return result
    if isinstance(result, Broadcasted):
        if result.shape == tuple(expected.shape):
            return Broadcasted(result.array.astype(jax_dtype(expected.dtype)), result.shape)
        result = result.whole()
    result = jnp.asarray(result)
    if result.shape != tuple(expected.shape):
        raise LoweringError(
            f"XLA's {node.target} has shape {result.shape}, torch's {tuple(expected.shape)}",
            name_of(node.target),
        )
    # torch's rules of promotion: a tensor without dimensions does not widen others
    return result.astype(jax_dtype(expected.dtype))


def to_jax(tensor: Tensor) -> Any:
    """Hand a tensor to JAX, on the same device."""
    if tensor.device.type == "cpu":
        return jnp.asarray(tensor.detach().numpy())
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def to_torch(array: Any, like: Tensor) -> Tensor:
    """Hand an array back."""
    if like.device.type == "cpu":
        return torch.from_numpy(np.array(array)).to(like.dtype)
    return torch.from_dlpack(array).to(like.dtype)


def lower(captured: Captured) -> Callable[..., tuple]:
    """Return ``function(key, *inputs, noise=None)``, the graph in JAX.

    ``noise`` are ``function.num_normals`` standard normals, to be used instead of drawing some
    for every operation that wants them.

    Raises
    ------
    LoweringError
        If the table lacks an operation, or XLA cannot run one as torch does; the message names
        it, and the line of the user that calls for it.
    """
    graph = captured.graph
    used: dict[str, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            used.setdefault(name_of(node.target), node.target)
    for name in sorted(used.keys() - TABLE.keys() - RANDOM.keys() - {"getitem"}):
        error = LoweringError(f"XLA has no lowering for the operation {used[name]}", name)
        raise _with_line(error, captured)
    for node in graph.graph.nodes:
        if name_of(node.target).startswith("as_strided") and not _fills_its_storage(node.args[0]):
            error = LoweringError(f"{node.target} reads memory, which XLA does not show", "")
            raise _with_line(error, captured)
    constants = {
        # a copy: what is changed in place later does not reach into a compiled block
        n.target: _constant(getattr(graph, n.target))
        for n in graph.graph.nodes
        if n.op == "get_attr"
    }

    def function(key: Any, *inputs: Any, noise: Any = None) -> tuple:
        lowered = _Lowered(graph, constants, key, noise)
        out = lowered.run(*inputs, enable_io_processing=False)
        return tuple(_whole(value) for value in out)

    normals = [n.meta["val"] for n in graph.graph.nodes if name_of(n.target) == NORMAL]
    function.num_normals = sum(value.numel() for value in normals)

    examples = [n.meta.get("val") for n in graph.graph.nodes if n.op == "placeholder"]
    if all(isinstance(e, Tensor) for e in examples):
        shapes = [jax.ShapeDtypeStruct(tuple(e.shape), jax_dtype(e.dtype)) for e in examples]
        try:
            jax.eval_shape(function, jax.random.key(0), *shapes)
        except LoweringError as error:
            raise _with_line(error, captured) from error
    return function


def _constant(tensor: Tensor) -> Any:
    if not tensor.is_floating_point() and tensor.device.type == "cpu":
        return tensor.detach().numpy().copy()  # known while lowering: where an index points
    return jnp.array(to_jax(tensor), copy=True)


def _fills_its_storage(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_contiguous() and value.storage_offset() == 0


def _with_line(error: LoweringError, captured: Captured) -> LoweringError:
    line = captured.line_of(error.operation) if error.operation else None
    return LoweringError(f"{error}, called at {line}", error.operation) if line else error
