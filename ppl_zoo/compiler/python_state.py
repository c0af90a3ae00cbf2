"""Python state of a program: what it reads beside tensors, and may change from run to run.

A recorded graph holds the numbers, flags and lists that a program saw while it was recorded. A
counter, a list that grows or a draw from ``random`` would stay as they were then.
"""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import random
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from ppl_zoo.compiler.source_lines import is_library

__all__ = ["PythonState"]

#: containers longer than this are watched by their length, arrays of more bytes by their identity
MAX_WATCHED_ITEMS, MAX_WATCHED_BYTES = 1000, 100_000
#: how deep objects within objects are followed
MAX_DEPTH = 8
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: what modules keep of themselves
_INTERNALS = frozenset(vars(PyroModule())) | {
    "config",
    "example",
    "fitted_guide",
    "_total",
    "_opened",
}


class PythonState:
    """What programs read beside tensors, at one time: closures, globals, attributes, generators.

    Parameters
    ----------
    programs
        Functions, methods, modules or objects with such inside.
    """

    def __init__(self, programs: Iterable[Callable[..., Any]]) -> None:
        self.programs = tuple(programs)
        self.found = self._read()

    def changed(self) -> str:
        """Say what has changed since, with its two values; empty if nothing has."""
        now = self._read()
        for path in sorted(self.found.keys() | now.keys()):
            before, after = self.found.get(path, "nothing"), now.get(path, "nothing")
            if before is not after and before != after and repr(before) != repr(after):
                if path in _GENERATORS:
                    return f"draws from {path}, whose numbers a graph would repeat"
                shown = f" ({before} to {after})" if isinstance(after, _PLAIN) else ""
                return f"changes {path}{shown} as it runs, which a graph would forget"
        return ""

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        seen: set[int] = set()
        for program in self.programs:
            for path, value in _walk(program, _name_of(program), seen, 0):
                found[path] = value
        return found


#: names of the generators that modules share
_GENERATORS = ("random", "numpy.random")


def _walk(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the paths and values of all that may change, as plain values."""
    if isinstance(value, _PLAIN):
        yield path, value
        return
    if id(value) in seen or depth > MAX_DEPTH:
        return
    seen.add(id(value))
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Tensor):
        if not isinstance(value, nn.Parameter):
            yield path, id(value)
    elif isinstance(value, np.ndarray):
        small = value.nbytes <= MAX_WATCHED_BYTES and value.dtype != object
        yield path, value.tobytes() if small else id(value)
    elif isinstance(value, np.random.Generator):
        yield path, repr(value.bit_generator.state)
    elif isinstance(value, random.Random):
        yield path, value.getstate()
    elif isinstance(value, torch.Generator):
        yield path, bytes(value.get_state().numpy())
    elif isinstance(value, itertools.count):
        yield path, repr(value)
    elif isinstance(value, types.GeneratorType):
        yield path, None if value.gi_frame is None else value.gi_frame.f_lasti
    elif isinstance(value, (list, tuple, collections.deque, set, frozenset)):
        yield f"len({path})", len(value)
        if len(value) <= MAX_WATCHED_ITEMS and not isinstance(value, (set, frozenset)):
            inner = ((f"{path}[{i}]", v) for i, v in enumerate(list(value)))
    elif isinstance(value, dict):
        yield f"len({path})", len(value)
        if len(value) <= MAX_WATCHED_ITEMS:
            inner = ((f"{path}[{k!r}]", v) for k, v in list(value.items()))
    elif isinstance(value, functools.partial):
        inner = (
            ("", value.func),
            (f"{path}.args", value.args),
            (f"{path}.keywords", value.keywords),
        )
    elif isinstance(value, types.MethodType):
        inner = ((path, value.__func__), ("self", value.__self__))
    elif isinstance(value, types.FunctionType):
        value = inspect.unwrap(value)
        if isinstance(value, types.FunctionType) and not is_library(value.__code__.co_filename):
            inner = _of_function(value)
    elif isinstance(getattr(value, "__self__", None), np.random.RandomState):
        yield "numpy.random", repr(np.random.get_state(legacy=False))
    elif value is random or isinstance(getattr(value, "__self__", None), random.Random):
        # only where a program names it: others draw from it as well
        yield "random", random.getstate()
    elif value in (np, np.random) if isinstance(value, types.ModuleType) else False:
        yield "numpy.random", repr(np.random.get_state(legacy=False))
    elif isinstance(value, types.ModuleType) or _is_of_library(value):
        if isinstance(value, nn.Module):  # a container of torch may hold modules of the user
            inner = ((f"{path}.{k}", v) for k, v in value._modules.items())
    elif isinstance(value, type):
        inner = (
            (f"{value.__name__}.{k}", v)
            for k, v in list(vars(value).items())
            if not k.startswith("__") and isinstance(v, (*_PLAIN, list, dict))
        )
    else:
        inner = _of_object(value, path)
    for name, part in inner:
        yield from _walk(part, name or path, seen, depth + 1)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function reads: closure, defaults, and the globals that it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue  # not bound yet
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"{function.__name__}.__defaults__[{index}]", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield name, value
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        waiting += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        for name in code.co_names:
            if name in function.__globals__:
                yield name, function.__globals__[name]


def _of_object(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object of the user's, and what its methods read."""
    yield f"type({path})", type(value)
    for cls in type(value).__mro__:
        if not _is_of_library(cls):
            for name, method in list(vars(cls).items()):
                if isinstance(method, types.FunctionType):
                    yield name, method
    for name, part in list(getattr(value, "__dict__", {}).items()):
        if not (isinstance(value, nn.Module) and name in _INTERNALS):
            yield f"{path}.{name}", part
    if isinstance(value, nn.Module):
        for name, part in value._modules.items():
            yield f"{path}.{name}", part


def _is_of_library(value: Any) -> bool:
    cls = value if isinstance(value, type) else type(value)
    module = getattr(cls, "__module__", None) or ""
    return module.partition(".")[0] in ("torch", "pyro", "ppl_zoo", "numpy", "jax", "builtins")


def _name_of(program: Any) -> str:
    return getattr(program, "__name__", None) or type(program).__name__
