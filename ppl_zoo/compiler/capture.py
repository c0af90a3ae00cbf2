"""Capture of a Pyro program: one run of it, recorded as a graph of tensor operations.

A Pyro program is static once its shapes are known. ``make_fx`` runs objective and gradients once
and records the aten operations; plates, replay and enumeration vanish, as they do under JAX's
tracing. Gradients are taken by autograd while recording, so that ``detach``, surrogate losses
and hand-written ``autograd.Function`` mean what they mean in torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import linecache
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.stateless import _reparametrize_module

from ppl_zoo.compiler.guards import (
    AnswerGuards,
    RejectConstants,
    StateError,
    refuse_held_parameters,
    refuse_written_state,
)
from ppl_zoo.compiler.python_state import PythonState
from ppl_zoo.compiler.recording import functional, record
from ppl_zoo.compiler.scan import recorded_scans
from ppl_zoo.compiler.source_lines import line_of_operation, line_of_user, site_of_density
from ppl_zoo.core.tracing.traceable import traceable

__all__ = ["CaptureError", "Captured", "capture"]


#: evaluations at inputs that are moved by a rounding error, and how many times the difference
#: that they make may be one of rounding inside
NUM_SHAKEN, MAX_SHAKEN_RATIO = 4, 5.0


class CaptureError(RuntimeError):
    """A program without a static graph; the message names the line that prevents one."""


@dataclass
class Captured:
    """Objective and gradients as one functional aten graph.

    Attributes
    ----------
    graph
        ``graph(*parameters, *data)`` returns ``(loss, *gradients)``.
    parameters
        The parameters, in the order of the graph's inputs.
    program
        The recorded function of the same inputs, kept to name lines of the user.
    inputs
        Those that it was recorded with.
    state
        Python state of the programs when it was recorded.
    """

    graph: torch.fx.GraphModule
    parameters: list[nn.Parameter]
    program: Callable[..., Any] | None = None
    inputs: tuple[Tensor, ...] = ()
    state: PythonState | None = None

    @property
    def num_operations(self) -> int:
        """Number of operations in the graph."""
        return sum(node.op == "call_function" for node in self.graph.graph.nodes)

    @property
    def num_numbers(self) -> int:
        """Numbers that all operations of one run compute: the measure of its cost."""
        values = (node.meta.get("val") for node in self.graph.graph.nodes)
        return sum(v.numel() for v in values if isinstance(v, Tensor))

    @property
    def wide(self) -> bool:
        """Whether anything is computed in float64, if only in between."""
        values = (node.meta.get("val") for node in self.graph.graph.nodes)
        return any(isinstance(v, Tensor) and v.dtype == torch.float64 for v in values)

    def fingerprint(self) -> str:
        """Text that is the same for graphs that compute the same; constants count by value."""
        lines = []
        for node in self.graph.graph.nodes:
            value = node.meta.get("val")
            meta = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
            if node.op == "get_attr":  # its target only numbers the constants
                constant = getattr(self.graph, node.target).detach().cpu()
                flat = constant.flatten().clone(memory_format=torch.contiguous_format)
                content = flat.view(torch.uint8).numpy().tobytes()
                digest = hashlib.sha256(content).hexdigest()
                lines.append(f"{node.name} {tuple(constant.shape)} {constant.dtype} {digest}")
                continue
            lines.append(f"{node.name} {node.op} {node.target} {node.args} {node.kwargs} {meta}")
        return "\n".join(lines)

    def outdated(self, parameters: Sequence[Tensor], data: tuple[Tensor, ...]) -> str:
        """Hold the graph against the program, at the same noise; says what differs, if anything.

        Python state that changes after the capture (by the time, by a callback) is found so.
        """
        if self.state is not None and (changed := self.state.changed()):
            return f"the program {changed}"
        if self.program is None:
            return ""
        inputs = (*(p.detach().clone() for p in parameters), *data)
        of_program, of_graph = _at(self.program, inputs), _at(self.graph, inputs)
        if _agree(of_program, of_graph):
            return ""
        # near a singular matrix rounding alone moves the result as much
        shaken = [_at(self.program, _shaken(inputs, seed)) for seed in range(NUM_SHAKEN)]
        if _within(of_graph, of_program, shaken):
            return ""
        return "the program gives another result than when its graph was recorded"

    def line_of(self, operation: str) -> str | None:
        """Find the line of the user that calls for an aten operation; None if torch does."""
        if self.program is None:
            return None
        with _recordable():
            return line_of_operation(self.program, self.inputs, operation)


def capture(
    objective: Callable[..., Tensor],
    modules: Sequence[nn.Module],
    data: tuple[Tensor, ...],
    programs: Sequence[Callable[..., Any]] = (),
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
    programs
        The user's programs, whose Python state is watched.

    Raises
    ------
    CaptureError
        If the program asks for the value of a tensor, naming the line that does.
    """
    owners: dict[int, tuple[nn.Parameter, list[tuple[nn.Module, str]]]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                owners.setdefault(id(parameter), (parameter, []))[1].append((module, name))
    parameters = [parameter for parameter, _ in owners.values()]
    values = [p.detach().clone() for p in parameters]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [p.detach().requires_grad_() for p in inputs[: len(parameters)]]
        with contextlib.ExitStack() as stack:
            for module in modules:
                own = {
                    name: leaf
                    for leaf, (_, names) in zip(leaves, owners.values(), strict=True)
                    for owner, name in names
                    if owner is module
                }
                stack.enter_context(_reparametrize_module(module, own))
            constants = RejectConstants(modules, (*inputs, *leaves))
            stack.enter_context(AnswerGuards(constants))
            stack.enter_context(constants)
            with torch.enable_grad():
                loss = objective(*inputs[len(parameters) :])
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return loss.detach(), *(
            torch.zeros_like(p) if g is None else g for p, g in zip(leaves, gradients, strict=True)
        )

    inputs = (*values, *data)
    try:
        with (
            _forgotten_sources(),
            _recordable(),
            _restored_buffers(modules),
            _default_dtype(inputs),  # of all stages, so that numbers are promoted alike
            torch.random.fork_rng(devices=[]),
            # one for all shapes: make_fx would build one, with a stack trace, for each operation
            tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))),
            recorded_scans() as scans,
        ):
            state = PythonState(programs)
            recorded = record(run, inputs)
            if changed := state.changed():
                raise StateError(f"the program {changed}")
            refuse_written_state(recorded)
            refuse_held_parameters(recorded, owners.values())
            graph = functional(recorded, inputs)
            if graph is not recorded:
                _compare(recorded, graph, inputs)
    except StateError as error:
        raise CaptureError(str(error)) from error
    except Exception as error:
        # whatever the program did that a graph cannot hold; the caller runs it uncompiled
        where = line_of_user(error)
        if not where:
            site = site_of_density(error)
            where = f"the density of the site {site!r}" if site else "a gradient"
            where += ", after the program has run"
        raise CaptureError(f"{where}: {_reason(error)}") from error
    with _forgotten_sources():
        graph.graph.eliminate_dead_code()
        _fold_indices(graph)
        graph.recompile()
    graph.meta["scans"] = scans  # which its operations name by their keys alone
    return Captured(graph, parameters, run, inputs, state)


@contextlib.contextmanager
def _forgotten_sources() -> Iterator[None]:
    """Drop the Python sources of graphs, which torch.fx keeps for tracebacks and never frees."""
    sources = torch.fx.graph_module._loader.eval_cache
    before = set(sources)
    try:
        yield
    finally:
        for name in sources.keys() - before:
            sources.pop(name, None)
            linecache.cache.pop(name, None)


@contextlib.contextmanager
def _default_dtype(inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Take the inputs' floating dtype as torch's default, where they have one in common."""
    before = torch.get_default_dtype()
    dtypes = {t.dtype for t in inputs if t.is_floating_point()}
    torch.set_default_dtype(dtypes.pop() if len(dtypes) == 1 else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _restored_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the buffers that a run of the program changes."""
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
    """Refuse a functional graph that gives other results than the recorded one, same noise."""
    results = []
    for module in (recorded, graph):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            results.append(module(*(x.clone() for x in inputs)))
    if not _agree(*results):
        raise ValueError("the graph without views and mutations gives another result")


def _at(run: Callable[..., Sequence[Tensor]], inputs: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Evaluate at the same noise each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _recordable():
        torch.manual_seed(0)
        return run(*inputs)


def _shaken(inputs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Move floating inputs by a rounding error, up or down."""
    rng = torch.Generator().manual_seed(seed)

    def move(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        signs = torch.randint(0, 2, x.shape, generator=rng).to(x) * 2 - 1
        return x * (1 + 2 * torch.finfo(x.dtype).eps * signs)

    return tuple(map(move, inputs))


def _within(ones: Sequence[Tensor], others: Sequence[Tensor], shaken: list) -> bool:
    """Whether two evaluations differ by no more than rounding of the inputs may explain."""
    for number, (one, other) in enumerate(zip(ones, others, strict=True)):
        moved = torch.stack([results[number] - other for results in shaken]).abs().amax(0)
        if not bool(((one - other).abs() <= MAX_SHAKEN_RATIO * moved.max()).all()):
            return False
    return True


def _agree(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two evaluations of loss and gradients agree but for rounding."""
    sizes = [float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0 for one in ones]
    # a gradient that is 0 but for rounding (a bias before batch normalisation) is a difference of
    # numbers as large as the others
    least = 1e-6 + 1e-7 * max(sizes, default=0.0)
    return all(
        torch.allclose(one, other, 1e-3, 1e-3 * size + least, equal_nan=True)
        for one, other, size in zip(ones, others, sizes, strict=True)
    )


def _fold_indices(graph: torch.fx.GraphModule) -> None:
    """Make constants of the indices that do not depend on inputs or chance.

    Masks decide on shapes, so that XLA needs them as constants; constant integer indices lower to
    views and permutations.
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
                inputs = {n: value(n) for n in node.all_input_nodes}
                if all(v is not None for v in inputs.values()):
                    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), inputs.get)
                    known[node] = node.target(*args, **kwargs)
        return known[node]

    packets = (torch.ops.aten.index, torch.ops.aten.index_put)
    for node in list(graph.graph.nodes):
        if getattr(node.target, "overloadpacket", None) not in packets:
            continue
        for index in node.args[1]:
            if index is None or index.op == "get_attr":
                continue
            constant_index = value(index)
            if constant_index is not None:
                name = f"_index_{index.name}"
                graph.register_buffer(name, constant_index)
                with graph.graph.inserting_before(node):
                    constant = graph.graph.get_attr(name)
                constant.meta["val"] = constant_index
                node.replace_input_with(index, constant)
    graph.graph.eliminate_dead_code()


@contextlib.contextmanager
def _recordable() -> Iterator[None]:
    """Let programs be recorded: no validation, and attention in operations of the table."""
    with traceable(), sdpa_kernel(SDPBackend.MATH):
        yield


#: what torch says of a program that has no static graph, in the words of one who wrote it
_REASONS = (
    ("value out of a tracing tensor", "it reads the value of a tensor (if, item(), int())"),
    ("data-dependent", "it reads the value of a tensor (if, item(), int())"),
    ("depends on values", "the shape of a tensor depends on values (a mask as index, nonzero)"),
    ("reads a value", "it reads the values of a tensor (numpy(), tolist())"),
    ("writes into a buffer", "it changes a tensor that it keeps from run to run"),
    ("reads values; torch.stack", "torch.tensor reads the values of tensors, torch.stack not"),
)


def _reason(error: BaseException) -> str:
    """Say why there is no graph, in the words of the program's author."""
    text = str(error).strip()
    for pattern, reason in _REASONS:
        if pattern in text:
            return reason
    lines = text.splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
