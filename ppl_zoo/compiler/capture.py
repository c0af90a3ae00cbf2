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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyro
import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module

from ppl_zoo.compiler.guards import AnswerGuards, RejectConstants, refuse_kept_state
from ppl_zoo.compiler.source_lines import line_of_operation, line_of_user

__all__ = ["CaptureError", "Captured", "capture"]


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
        with _no_checks_of_values():
            return line_of_operation(self.program, self.inputs, operation)


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
            stack.enter_context(AnswerGuards())
            stack.enter_context(RejectConstants(modules, inputs))
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
            refuse_kept_state(recorded)
            functional = torch.func.functionalize(recorded, remove="mutations_and_views")
            graph = make_fx(functional, decomposition_table=table)(*inputs)
            _compare(recorded, graph, inputs)
    except Exception as error:
        # whatever the program did that a graph cannot hold; the caller runs it uncompiled
        raise CaptureError(f"{line_of_user(error)} ({_first_line(error)})") from error
    graph.graph.eliminate_dead_code()
    _fold_indices(graph)
    graph.recompile()
    return Captured(graph, parameters, run, inputs)


@functools.cache
def _decompositions() -> dict:
    return torch._decomp.core_aten_decompositions()


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


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
