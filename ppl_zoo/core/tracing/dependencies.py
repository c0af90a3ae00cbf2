"""Dependencies between the sites of a program: the data flow of one run, operation by operation.

Each tensor is known by the sources that it was computed from: sites, parameters, arguments. The
value of a site is a source of its own, so that only direct dependencies are found. Values that a
program reads in Python (``if z > 0``) leave no operation: all that is sampled afterwards counts as
depending on them, and the line is named.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ppl_zoo.core.tracing.sites import Program, feasible_point, is_sample
from ppl_zoo.core.tracing.traceable import traceable

__all__ = [
    "DependencyTrace",
    "PlateFrame",
    "Source",
    "TracedArgument",
    "TracedSite",
    "trace_dependencies",
    "without_wrappers",
]


class Source(NamedTuple):
    """Something that values are computed from.

    Attributes
    ----------
    kind
        "site", "parameter" or "input" (an argument of the program).
    name
        Its name among those of its kind.
    """

    kind: str
    name: str


class PlateFrame(NamedTuple):
    """Plate that a site lies in.

    Attributes
    ----------
    name
        Name of the plate.
    size, full_size
        Rows that the run has, and rows that they stand for.
    dim
        Batch dimension, counted from the right; None for a sequential plate.
    index
        Which row of a sequential plate.
    """

    name: str
    size: int
    full_size: int
    dim: int | None
    index: int | None


class TracedArgument(NamedTuple):
    """Argument of a distribution.

    Attributes
    ----------
    value
        The tensor.
    sources
        What it is computed from.
    same
        The source whose values it holds unchanged; None where it is computed.
    """

    value: Tensor
    sources: frozenset[Source]
    same: Source | None


@dataclass(frozen=True)
class TracedSite:
    """A sample statement with what its distribution depends on.

    Attributes
    ----------
    name
        Name of the site.
    fn
        The distribution; of ``pyro.deterministic`` a Delta.
    value
        Value of the run.
    observed, deterministic
        Whether it is observed, and whether it is a ``pyro.deterministic``.
    plates
        From the outermost to the innermost.
    sources
        What the distribution, its mask and its scale are computed from.
    by_python
        Those of the sources that may only have decided, by a value read in Python, which
        statement came next.
    observes
        The argument that is its observed value, all of it; else None.
    arguments
        Tensors that the distribution was given, by its names for them.
    """

    name: str
    fn: Any
    value: Tensor
    observed: bool
    deterministic: bool
    plates: tuple[PlateFrame, ...]
    sources: frozenset[Source]
    by_python: frozenset[Source]
    observes: Source | None
    arguments: Mapping[str, TracedArgument]


@dataclass
class DependencyTrace:
    """Sites of one run of a program with their dependencies, in the order of the program.

    Attributes
    ----------
    sites
        By name.
    parameters
        ``{name: (shape, constraint)}`` of those that the sites depend on or the program declares.
    reads
        ``{line of the user: sources}`` where values were read in Python.
    """

    sites: dict[str, TracedSite] = field(default_factory=dict)
    parameters: dict[str, tuple[tuple[int, ...], Any]] = field(default_factory=dict)
    reads: dict[str, frozenset[Source]] = field(default_factory=dict)


def trace_dependencies(
    program: Program,
    data: tuple[Tensor, ...],
    *,
    inputs: Mapping[str, Tensor] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
) -> DependencyTrace:
    """Run a program once and find what each of its sites depends on directly.

    Parameters
    ----------
    program
        The Pyro program.
    data
        Its arguments.
    inputs
        Those of the arguments that are sources, by name.
    parameters
        Parameters that modules of the program hold, by name; what ``pyro.param`` declares is
        found.

    Returns
    -------
    DependencyTrace
    """
    flow = _DataFlow()
    for kind, held in (("input", inputs or {}), ("parameter", parameters or {})):
        for name, tensor in held.items():
            flow.mark(tensor, Source(kind, name), shared=True)
    found = DependencyTrace()
    for name, tensor in (parameters or {}).items():
        found.parameters[name] = (tuple(tensor.shape), None)
    sites = _Sites(flow, found)
    with torch.no_grad(), poutine.block(), traceable(), _Reads(flow), _Operations(flow), sites:
        program(*data)
    found.reads = flow.reads
    return found


# What tensors are computed from.


#: operations whose results have the shape of their first tensor, not its values
_SHAPED_LIKE = {
    getattr(torch.ops.aten, name)
    for name in (
        *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
        *("randint_like", "new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full"),
    )
}
#: operations whose results hold the values of their only tensor, or all of them repeated
_SAME_VALUES = {
    getattr(torch.ops.aten, name)
    for name in (
        *("alias", "clone", "contiguous", "detach", "expand", "lift_fresh", "permute", "repeat"),
        *("squeeze", "t", "transpose", "unsqueeze", "view", "_reshape_alias", "_to_copy"),
        *("_unsafe_view", "reshape"),
    )
}
#: functions that read the values of tensors into a new one
_MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
#: methods that hand the memory of a tensor to Python, past torch's operations
_READS = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.__reduce_ex__)

_NONE: frozenset[Source] = frozenset()


class _DataFlow:
    """Sources of the tensors of a run, and of the memory that they lie in."""

    def __init__(self) -> None:
        self.tensors = WeakIdKeyDictionary()  # sources, and the one whose values a tensor holds
        # of memory: sources of the tensors made in it, and of what was written into it later
        self.made: dict[int, frozenset[Source]] = {}
        self.written: dict[int, frozenset[Source]] = {}
        self._alive: dict[int, StorageWeakRef] = {}  # keeps their numbers from being used again
        self.control = _NONE
        self.reads: dict[str, frozenset[Source]] = {}
        self.within: list[set[Source]] = []  # reads within a distribution's own methods
        self.calls: list[set[Source]] = []  # and within torch's own functions

    def mark(self, tensor: Tensor, source: Source, shared: bool = False) -> None:
        """Let a tensor be a source; with ``shared`` all that lies in its memory as well."""
        self.tensors[tensor] = (frozenset({source}), source)
        memory = self._memory(tensor)
        if shared and memory is not None:
            self.made[memory] = self.made.get(memory, _NONE) | {source}

    def of(self, tensor: Tensor) -> frozenset[Source]:
        """Return the sources of a tensor."""
        return self.entry(tensor)[0]

    def entry(self, tensor: Tensor) -> tuple[frozenset[Source], Source | None]:
        """Return the sources of a tensor, and the one whose values it holds unchanged."""
        memory = self._memory(tensor)
        known = self.tensors.get(tensor)
        if known is None:
            known = (self.made.get(memory, _NONE), None)
        written = self.written.get(memory, _NONE)
        return (known[0] | written, None) if written else known

    def union(self, values: Any) -> frozenset[Source]:
        """Return the sources of all tensors in nested lists, tuples and dicts."""
        return _NONE.union(*(self.of(t) for t in tree_leaves(values) if isinstance(t, Tensor)))

    def note(self, operation: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        """Follow an operation of aten."""
        packet = getattr(operation, "overloadpacket", operation)
        sources = self.union((args[1:] if packet in _SHAPED_LIKE else args, kwargs))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        schema = operation._schema
        if schema.is_mutable:
            given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
            writes = [a.name for a in schema.arguments if a.is_write]
            for tensor in tree_leaves([given.get(name) for name in writes]):
                if isinstance(tensor, Tensor):
                    self.write(tensor, sources)
        if not sources:
            return
        if not made:
            self.read(sources)  # a number
        elif torch.Tag.dynamic_output_shape in operation.tags and _by_values(packet, args):
            self._decide(sources)  # the shape, which Python knows
        same = None
        if packet in _SAME_VALUES:
            same = next(self.entry(t)[1] for t in tree_leaves(args) if isinstance(t, Tensor))
        for tensor in made:
            self.tensors[tensor] = (sources, same)
            memory = self._memory(tensor)
            if memory is not None:
                self.made[memory] = self.made.get(memory, _NONE) | sources

    def write(self, tensor: Tensor, sources: frozenset[Source]) -> None:
        """Follow values into the memory of a tensor, where views of it find them."""
        memory = self._memory(tensor)
        if memory is not None and sources:
            self.written[memory] = self.written.get(memory, _NONE) | sources

    def read(self, sources: frozenset[Source]) -> None:
        """Follow values into Python, where they may decide on anything."""
        if self.calls:
            self.calls[-1].update(sources)
        else:
            self._decide(sources)

    def _decide(self, sources: frozenset[Source]) -> None:
        if self.within:
            self.within[-1].update(sources)
            return
        sources = frozenset(s for s in sources if s.kind != "input")  # data are not random
        if not sources:
            return
        self.control |= sources
        line = _line_of_user()
        self.reads[line] = self.reads.get(line, _NONE) | sources

    @contextmanager
    def call(self) -> Iterator[set[Source]]:
        """Collect the reads within a function of torch, as of ``x[i]``: of its result alone."""
        self.calls.append(set())
        try:
            yield self.calls[-1]
        finally:
            self.calls.pop()

    @contextmanager
    def own_reads(self) -> Iterator[set[Source]]:
        """Collect the reads of a distribution's own methods, which decide on nothing else."""
        self.within.append(set())
        try:
            yield self.within[-1]
        finally:
            self.within.pop()

    def _memory(self, tensor: Tensor) -> int | None:
        """Return the number of the memory that a tensor lies in; None where it has none."""
        try:
            storage = StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # sparse
            return None
        self._alive.setdefault(storage.cdata, storage)
        return storage.cdata


def _by_values(packet: Any, args: tuple) -> bool:
    """Whether the shape of a result depends on values; of an index, where it is a mask."""
    if packet is not torch.ops.aten.index:
        return True
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


class _Operations(TorchDispatchMode):
    """Follow every operation of aten."""

    def __init__(self, flow: _DataFlow) -> None:
        super().__init__()
        self.flow = flow

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.flow.note(func, args, kwargs or {}, result)
        return result


class _Reads(TorchFunctionMode):
    """Follow the values that leave torch's operations, and those that come back."""

    def __init__(self, flow: _DataFlow) -> None:
        super().__init__()
        self.flow = flow

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func == Tensor.data.__get__:
            return args[0].detach()
        flow, kwargs = self.flow, kwargs or {}
        with flow.call() as reads:
            result = func(*args, **kwargs)
        if func in _READS:
            reads |= flow.of(args[0])
        if func in _MAKERS:
            reads |= flow.union((args, kwargs))
        if not reads:
            return result
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func is Tensor.__setitem__:
            flow.write(args[0], frozenset(reads))
        elif made and func not in _READS:
            for tensor in made:
                if not any(tensor is given for given in args):
                    flow.tensors[tensor] = (flow.of(tensor) | reads, None)
        else:
            flow.read(frozenset(reads))
        return result


_PPL_ZOO = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
_LIBRARIES = tuple(
    os.path.join(os.path.dirname(os.path.abspath(module.__file__ or "")), "")
    for module in (torch, pyro)
) + (os.path.join(_PPL_ZOO, ""),)
#: within these, programs
_MODELS = os.path.join(_PPL_ZOO, "models", "")


def _line_of_user() -> str:
    """Describe the innermost line that is the user's own, or of a model of the zoo."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code.co_filename
        library = "site-packages" in code or code.startswith(("<", *_LIBRARIES))
        if code.startswith(_MODELS) or not library:
            source = linecache.getline(code, frame.f_lineno).strip()
            return f"{os.path.basename(code)}:{frame.f_lineno}: `{source}`"
        frame = frame.f_back
    return "a line that is not known"


# Sites and what their distributions hold.


class _Sites(Messenger):
    """Record each statement, and let its value be a source of its own."""

    def __init__(self, flow: _DataFlow, found: DependencyTrace) -> None:
        super().__init__()
        self.flow, self.found = flow, found
        self.given: dict[str, dict[str, TracedArgument]] = {}

    def _pyro_sample(self, msg: dict) -> None:
        held = _arguments_of(msg["fn"]).items()  # before a draw makes more of them (probs, logits)
        self.given[msg["name"]] = {k: TracedArgument(t, *self.flow.entry(t)) for k, t in held}
        self.flow.within.append(set())  # what a sampler reads decides on its own draw only
        auxiliary = msg["infer"].get("is_auxiliary")  # whose draws are not sources of their own
        if msg["value"] is None and is_sample(msg) and not auxiliary:
            msg["value"] = feasible_point(msg["fn"])

    def _pyro_post_sample(self, msg: dict) -> None:
        self.flow.within.pop()
        # autoguides draw from auxiliary sites; factors are auxiliary too, and count
        if not is_sample(msg) or (msg["infer"].get("is_auxiliary") and not msg["is_observed"]):
            return
        flow, name, fn = self.flow, msg["name"], msg["fn"]
        given = msg["infer"].get("_given", msg["value"])
        observes = flow.entry(given)[1] if isinstance(given, Tensor) else None
        value = msg["value"]
        value = value.clone() if isinstance(value, Tensor) else torch.as_tensor(value)
        own = Source("site", name)
        flow.mark(value, own)
        held = list(_tensors_of(fn))
        with flow.own_reads() as reads:
            try:
                density = [fn.log_prob(value)]
            except NotImplementedError:
                density = []
        values = [*density, *held, msg["mask"], msg["scale"]]
        direct = (flow.union(values) | reads) - {own}
        self.found.sites[name] = TracedSite(
            name=name,
            fn=fn,
            value=value,
            observed=bool(msg["is_observed"]),
            deterministic=bool(msg["infer"].get("_deterministic")),
            plates=tuple(_frame(f) for f in msg["cond_indep_stack"]),
            sources=frozenset(direct | flow.control),
            by_python=flow.control - direct,
            observes=observes if msg["is_observed"] else None,
            arguments=self.given[name],
        )
        msg["value"] = value

    def _pyro_post_param(self, msg: dict) -> None:
        value = msg["value"]
        if not isinstance(value, Tensor):
            return
        known = {s for s in self.flow.of(value) if s.kind == "parameter"}
        source = known.pop() if len(known) == 1 else Source("parameter", msg["name"])
        self.flow.mark(value, source)
        constraint = msg["kwargs"].get("constraint")
        self.found.parameters[source.name] = (tuple(value.shape), constraint)


def _frame(frame: Any) -> PlateFrame:
    full = frame.full_size if frame.full_size is not None else frame.size
    dim = frame.dim if frame.vectorized else None
    index = None if frame.vectorized else frame.counter
    return PlateFrame(frame.name, int(frame.size), int(full), dim, index)


def _arguments_of(fn: Any) -> dict[str, Tensor]:
    """Arguments that a distribution was given, not those that it computes when it is asked."""
    fn = without_wrappers(fn)
    names = getattr(fn, "arg_constraints", {})
    if isinstance(fn, pyro.distributions.Delta):
        names = ["v"]
    elif isinstance(fn, pyro.distributions.Unit):
        names = ["log_factor"]
    found = {}
    for name in names:
        # a lazy property is a subclass of property
        if name in vars(fn) or type(getattr(type(fn), name, None)) is property:
            value = getattr(fn, name)
            if isinstance(value, (Tensor, int, float)):
                found[name] = torch.as_tensor(value)
    return found


def without_wrappers(fn: Any) -> Any:
    """Return a distribution without its masks and expansions; transforms are its own."""
    while type(fn).__name__ in _WRAPPERS and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


_WRAPPERS = ("Independent", "ExpandedDistribution", "MaskedDistribution")


def _tensors_of(value: Any, seen: set[int] | None = None) -> Iterator[Tensor]:
    """Tensors that a distribution holds: in its arguments, bases, transforms and nets."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        return
    parts: Iterable[Any] = ()
    if isinstance(value, nn.Module):
        parts = [*value.parameters(), *value.buffers()]
    elif isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    if isinstance(value, _HOLDERS):
        # what a transform has cached is of its last call, for another site perhaps
        held = [v for k, v in vars(value).items() if not k.startswith("_cached")]
        parts = [*parts, *held]
    for part in parts:
        yield from _tensors_of(part, seen)


_HOLDERS: tuple[type, ...] = (
    torch.distributions.Distribution,
    torch.distributions.Transform,
    torch.distributions.constraints.Constraint,
)
