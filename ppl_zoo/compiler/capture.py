"""Capture: a Pyro program run once, and every tensor operation below its handlers recorded.

A Pyro program is static once its shapes are known. ``make_fx`` runs objective and gradients once
and records the aten operations; plates, replay and enumeration vanish, as they do under JAX's
tracing. Gradients are taken by autograd while recording, so that ``detach``, surrogate losses
and hand-written ``autograd.Function`` mean what they mean in torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyro
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.stateless import _reparametrize_module
from torch.overrides import TorchFunctionMode

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
            lines.append(f"{node.name} {node.op} {node.target} {node.args} {node.kwargs} {kind}")
            if node.op == "get_attr":
                constant = getattr(self.graph, node.target).detach().cpu()
                lines.append(hashlib.sha256(constant.numpy().tobytes()).hexdigest())
        return "\n".join(lines)


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
    places = {}
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
            with torch.enable_grad():
                loss = objective(*inputs[len(parameters) :])
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return loss.detach(), *(
            torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradients, strict=True)
        )

    table = torch._decomp.core_aten_decompositions()
    inputs = (*values, *data)
    try:
        with _no_checks_of_values(), torch.random.fork_rng(devices=[]):
            graph = make_fx(run, decomposition_table=table)(*inputs)
            functional = torch.func.functionalize(graph, remove="mutations_and_views")
            graph = make_fx(functional, decomposition_table=table)(*inputs)
    except Exception as error:
        # whatever the program did that a graph cannot hold; the caller runs it uncompiled
        raise CaptureError(f"{_line_of_user(error)} ({_first_line(error)})") from error
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return Captured(graph, parameters)


class _Answers(TorchFunctionMode):
    """Answer Pyro's own questions about values; the user's program gets no answer.

    Pyro's ELBOs call ``item`` for the loss they report and ask for the truth of masks; these
    only guard. A program that branches on a value has no static graph, and make_fx says so.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (Tensor.item, Tensor.__bool__) and _asked_by_library():
            return args[0].detach() if func is Tensor.item else True
        return func(*args, **(kwargs or {}))


def _asked_by_library() -> bool:
    frame = sys._getframe(1)
    between = (__name__, "jaxtyping", "beartype")  # checks of types stand between while testing
    while frame is not None:
        caller = frame.f_globals.get("__name__", "")
        if not caller.startswith(between) and not frame.f_code.co_filename.startswith("<"):
            return caller.partition(".")[0] in ("pyro", "torch")
        frame = frame.f_back
    return False


@contextlib.contextmanager
def _no_checks_of_values() -> Iterator[None]:
    """Switch off checks of values, which a graph cannot do, and put them back."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with (
            mock.patch("pyro.util.torch_isnan", lambda x: False),
            mock.patch("pyro.util.torch_isinf", lambda x: False),
            pyro.validation_enabled(False),
        ):
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def _line_of_user(error: BaseException) -> str:
    """Describe the innermost line of the traceback that is the user's own."""
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        parts = frame.filename.replace("\\", "/").split("/")
        library = {"pyro", "torch", "site-packages", "contextlib.py", "functools.py"} & set(parts)
        inside = "ppl_zoo" in parts and "models" not in parts
        if not library and not inside and not frame.filename.startswith("<"):
            found = frame
    if found is None:
        return "a line of the library"
    source = linecache.getline(found.filename, found.lineno or 0).strip()
    return f"{found.filename}:{found.lineno}: `{source}`"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
