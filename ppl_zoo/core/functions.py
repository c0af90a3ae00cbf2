"""Plain Pyro functions as models, and guides of the user's own.

Both run in the parameter store of their chain, with the arguments that they were written for:
what holds numbers is data; numbers, flags, text, None and objects go through as they are.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.named_data import ANY, arguments_in_frame, encode, learn_names
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import describe, first_run
from ppl_zoo.core.tracing.sites import is_sample, whole_plates
from ppl_zoo.core.tracing.traceable import traceable

__all__ = ["Arguments", "FunctionModel", "GuideProgram", "Slot", "module_of", "user_programs"]


@dataclass(frozen=True)
class Slot:
    """Place of a tensor within the arguments."""

    index: int


@dataclass(frozen=True)
class Arguments:
    """Arguments of a program: slots for tensors, all else as it was given.

    Attributes
    ----------
    names
        Names of the tensors: of the argument, or within it (``batch['x']``, ``sequences[0]``).
    args, kwargs
        Positional and keyword arguments.
    """

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def read(cls, data: Any, signature: inspect.Signature) -> tuple[Arguments, list[Any]]:
        """Split arguments into the arrays that they hold and what is left.

        Raises
        ------
        DataError
            If the program cannot be called with them.
        """
        args, kwargs = _bind(data, signature)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise DataError(f"data: {error}; the program takes {signature}") from error
        positional = [p.name for p in signature.parameters.values() if p.kind in _POSITIONAL]
        positional += [f"args[{i}]" for i in range(len(positional), len(args))]
        arrays: list[Any] = []
        names: list[str] = []

        def take(name: str, array: Any) -> Slot:
            arrays.append(array)
            names.append(name)
            return Slot(len(arrays) - 1)

        pairs = zip(positional, args, strict=False)
        places = tuple(_map_arrays(take, value, name) for name, value in pairs)
        named = {key: _map_arrays(take, value, key) for key, value in kwargs.items()}
        return cls(tuple(names), places, named), arrays

    def fill(self, tensors: tuple[Tensor, ...]) -> tuple[tuple, dict[str, Any]]:
        """Return positional and keyword arguments with these tensors."""
        return _fill(self.args, tensors), _fill(self.kwargs, tensors)

    def to_record(self) -> dict[str, Any]:
        """Write as JSON holds it; what JSON does not hold is only noted."""
        return {
            "names": list(self.names),
            "args": _to_json(self.args),
            "kwargs": {key: _to_json(value) for key, value in self.kwargs.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Arguments:
        """Read what :meth:`to_record` wrote.

        Raises
        ------
        DataError
            If an argument was not saved.
        """
        kwargs = {key: _from_json(value) for key, value in record["kwargs"].items()}
        return cls(tuple(record["names"]), _from_json(record["args"]), kwargs)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _map_arrays(take: Callable[[str, Any], Slot], value: Any, name: str) -> Any:
    """Put slots in the place of the arrays within containers."""
    if _is_array(value):
        return take(name, value)
    if isinstance(value, dict):
        return {k: _map_arrays(take, v, f"{name}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        inner = [_map_arrays(take, v, f"{name}[{i}]") for i, v in enumerate(value)]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    return value


def _fill(value: Any, tensors: tuple[Tensor, ...]) -> Any:
    if isinstance(value, Slot):
        return tensors[value.index]
    if isinstance(value, dict):
        return {k: _fill(v, tensors) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        inner = [_fill(v, tensors) for v in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    return value


def _to_json(value: Any) -> dict[str, Any]:
    if isinstance(value, Slot):
        return {"tensor": value.index}
    if isinstance(value, (str, int, float, bool, type(None))):
        return {"value": value}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_to_json(v) for v in value]}
    if type(value) is dict and all(isinstance(k, str) for k in value):
        return {"dict": {k: _to_json(v) for k, v in value.items()}}
    return {"unsaved": repr(value)}


def _from_json(record: Mapping[str, Any]) -> Any:
    ((kind, held),) = record.items()
    if kind == "unsaved":
        raise DataError(f"the argument {held} was not saved: pass zoo.load(path, data=...)")
    if kind == "dict":
        return {k: _from_json(v) for k, v in held.items()}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_from_json(v) for v in held)
    return Slot(held) if kind == "tensor" else held


class FunctionModel(Model):
    """A model from a plain function; made by ``zoo.fit(function, data, ...)``.

    Parameters
    ----------
    function
        The generative program: a function, a method, or a module (``PyroModule``).
    """

    queries = {"log_prob": "bound", "sample": "estimate", "encode": "estimate"}
    any_rows = False
    follows_data_dtype = False  # as_rows sees to it: arrays keep theirs

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        # past nn.Module: the store holds the parameters of a program that is a module
        object.__setattr__(self, "function", function)
        self.call: Arguments | None = None

    def model(self, *data: Any) -> Any:
        """Run the function."""
        args, kwargs = self.arguments(*data)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        """Write the name of the function."""
        return f"FunctionModel({self.model_name})"

    @property
    def model_name(self) -> str:
        """Name of the function."""
        function = self.function
        return getattr(function, "__name__", None) or type(function).__name__

    @property
    def signature(self) -> inspect.Signature:
        """Arguments of the function."""
        if isinstance(self.function, nn.Module):
            return inspect.signature(self.function.forward)
        return inspect.signature(self.function)

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the tensors in the arguments of the function."""
        return tuple(self.signature.parameters) if self.call is None else self.call.names

    def arguments(self, *data: Any) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments that the program was written for."""
        return (data, {}) if self.call is None else self.call.fill(data)

    def as_rows(self, data: Any) -> Rows:
        """Read the arguments of the function; arrays keep their dtype.

        A program without data has one row of nothing.
        """
        call, arrays = Arguments.read(data, self.signature)
        pairs = zip(call.names, arrays, strict=True)
        arrays = [_wide_integers(self._codes(name, array)) for name, array in pairs]
        counted = next((i for i, a in enumerate(arrays) if np.ndim(a) > 0), None)
        if counted is None:
            counted = len(arrays)
            arrays.append(torch.zeros(1))
        try:
            rows = Rows(tuple(arrays), self.device, None, counted)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.model_name}: {error}") from error
        if self.example is None and self.dtype != torch.float64 and rows.is_double:
            self.double()
        self.call = call
        return rows

    def learn_names(self, data: Any) -> None:
        """Take the names of words and categories, which become codes, from the data of a fit."""
        call, arrays = Arguments.read(data, self.signature)
        pairs = zip(call.names, arrays, strict=True)
        found = {name: learn_names(name, array, ANY) for name, array in pairs}
        self.data_names = {name: names for name, names in found.items() if names is not None}

    def _codes(self, name: str, array: Any) -> Any:
        """Words and categories as codes, to be used as indices.

        Raises
        ------
        DataError
            If one is missing: as an index, -1 would be the last.
        """
        names = self.data_names.get(name)
        codes = encode(name, array, ANY, names)
        if names is not None and names.categories and np.isnan(codes).any():
            row = int(np.isnan(codes).nonzero()[0][0])
            raise DataError(
                f"{name}: got a missing value in row {row}, expected one of "
                f"{list(names.categories[0].states[:8])}; leave such rows out, df.dropna()"
            )
        return codes

    def named_coords(self) -> dict[str, tuple[str, ...]]:
        """Names of categories, for plates that have the name of their argument, or its plural."""
        out = {}
        for name, names in self.data_names.items():
            for known in names.categories.values():
                plurals = (name, f"{name}s", f"{name.removesuffix('y')}ies", f"{name}_plate")
                out |= dict.fromkeys(plurals, known.states)
        return out

    def rows_of(self, tensors: tuple[Tensor, ...]) -> Rows:
        """Take tensors as the function's own arguments hold them as rows."""
        counted = next((i for i, t in enumerate(tensors) if t.ndim > 0), 0)
        return Rows(tensors, self.device, None, counted)

    def remember(self, rows: Rows, guide: Any = None) -> None:
        """Keep the data and the guide: a program may take no other number of rows."""
        self.recall(tuple(zip(rows.all(), rows.per_row, strict=True)), guide)

    def _template(self, given: dict) -> tuple[tuple, set[str]]:
        """Arguments to run the function on: those of the fit, unless some are given."""
        if any(name in given for name in self.argument_names):
            return super()._template(given)
        data = tuple(tensor for tensor, _ in self.example)
        return data, {s.name for s in self.sites(*data).values() if s.kind == "observed"}

    def fresh(self) -> FunctionModel:
        """Make another model of the function, whose parameters start anew."""
        other = super().fresh()
        other.call = self.call
        return other

    def find_data_plate(self, data: Any) -> str | None:
        """Name the outermost plate over all observed rows, which is the plate over the data."""
        if self.data_plate is None and self.argument_names:
            rows = data if isinstance(data, Rows) else self.rows_of(data)
            for site in describe(self._trace(rows)).values():
                for name, _, size in site.plates[:1]:
                    if site.kind == "observed" and size == len(rows):
                        self.data_plate = name
        return self.data_plate

    def _trace(self, rows: Rows) -> Trace:
        """Run the function with all rows of its plates, if it can."""
        try:
            with whole_plates():
                return first_run(self, rows.all())
        except (RuntimeError, ValueError, IndexError):
            self._takes_all = False  # data of a batch stand for those of a larger plate
            return first_run(self, rows.all())

    def check_data(self, rows: Rows) -> None:
        """Take any numbers: the program may mask what is missing; see :meth:`validate`."""

    def validate(self, rows: Rows) -> None:
        """Refuse what the base class does, and a density that is NaN.

        Raises
        ------
        DataError
            Names the observed site, and the argument that holds NaN.
        """
        super().validate(rows)
        trace = first_run(self, rows.all())
        with traceable():
            trace.compute_log_prob()
        for name, node in trace.nodes.items():
            if is_sample(node) and node["is_observed"] and bool(node["log_prob"].isnan().any()):
                arrays = zip(self.argument_names, rows.all(), strict=False)
                held = [n for n, t in arrays if t.is_floating_point() and bool(t.isnan().any())]
                source = f", which is in {', '.join(held)}" if held else ""
                raise DataError(
                    f"site {name!r}: got a log density of nan{source}; expected finite numbers, "
                    "or observations masked where they are missing (poutine.mask)"
                )

    def __deepcopy__(self, memo: dict[int, Any]) -> FunctionModel:
        """Copy the parameters; the function stays the same object."""
        memo[id(self.function)] = self.function
        return copy._reconstruct(self, memo, *self.__reduce_ex__(4))


class GuideProgram:
    """A guide of the user's own, run in the parameter store of its model.

    Parameters
    ----------
    program
        A function, or a module: ``EasyGuide``, an autoguide object, an ``nn.Module``.
    model
        The model, whose arguments it takes.
    """

    def __init__(self, program: Callable[..., Any], model: Model) -> None:
        self.program, self.model = program, model

    @property
    def module(self) -> nn.Module | None:
        """The module that holds parameters of its own; None for a function."""
        return self.program if isinstance(self.program, nn.Module) else None

    def __call__(self, *data: Any) -> Any:
        """Run the program."""
        args, kwargs = self.model.arguments(*data)
        with self.model.declared.scope(self.model, self.module):
            return self.program(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Read what the user's guide has (``median``, ``quantiles``)."""
        if name.startswith("__") or name == "program":
            raise AttributeError(name)
        return getattr(self.program, name)


def user_programs(*programs: Any) -> tuple[Callable[..., Any], ...]:
    """Return the user's own programs inside of the zoo's wrappers."""
    held = {FunctionModel: "function", GuideProgram: "program"}
    return tuple(getattr(p, held[type(p)]) if type(p) in held else p for p in programs)


def module_of(guide: Any) -> nn.Module | None:
    """Return the module that holds a guide's own parameters; None where there is none."""
    if isinstance(guide, GuideProgram):
        return guide.module
    return guide if isinstance(guide, nn.Module) else None


def _bind(data: Any, signature: inspect.Signature) -> tuple[tuple, dict[str, Any]]:
    """Read data as the arguments of a program."""
    if data is None:
        return (), {}
    if isinstance(data, Mapping):
        names = signature.parameters
        if any(name in names for name in data):
            unknown = [name for name in data if name not in names]
            if unknown:
                raise DataError(f"data: got {unknown[0]!r}, expected the names {tuple(names)}")
            return (), dict(data)
        takes_dict = any(p.default is p.empty for p in names.values())
        if data and not takes_dict:
            unknown = next(name for name in data if name not in names)
            raise DataError(f"data: got {unknown!r}, expected the names {tuple(names)}")
        return ((data,) if takes_dict else ()), {}
    parameters = signature.parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind in _POSITIONAL]
    if len(signature.parameters) > 1:
        data = arguments_in_frame(data, required, tuple(signature.parameters))
        if isinstance(data, Mapping):
            return (), dict(data)
    several = isinstance(data, tuple) and not hasattr(data, "_fields")
    if several or (
        isinstance(data, list) and any(isinstance(p, (Tensor, np.ndarray)) for p in data)
    ):
        return tuple(data), {}
    return (data,), {}


def _is_array(value: Any) -> bool:
    """Whether this holds numbers to be read as a tensor."""
    if isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "to_numpy"):
        return True
    if hasattr(value, "tocsr"):
        return True
    return isinstance(value, list) and bool(value) and all(map(_is_number_or_list, value))


def _wide_integers(array: Any) -> Any:
    """Widen small integers: torch takes uint8 as a mask, and int8 not at all, as an index."""
    if isinstance(array, Tensor) and array.dtype in (torch.uint8, torch.int8, torch.int16):
        return array.long()
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.dtype.itemsize < 4:
        return array.astype(np.int64)
    return array


def _is_number_or_list(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_number_or_list, value))
    return isinstance(value, (bool, int, float, np.number))
