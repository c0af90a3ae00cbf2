"""Plain Pyro functions as models, with ``pyro.param`` and ``pyro.module`` inside.

Parameters that a function declares are kept in a module of its own, made when it first runs, so
that Pyro's global store is neither read nor written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import describe, trace_program

__all__ = ["FunctionModel", "FunctionProgram"]


class FunctionProgram(nn.Module):
    """A Pyro program written as a function, with the parameters it declares.

    Parameters
    ----------
    function
        ``def model(...)`` or ``def guide(...)``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        # past nn.Module: a program that is a module keeps its parameters to itself
        object.__setattr__(self, "function", function)
        self.constraints: dict[str, Any] = {}
        self.declared = nn.ParameterDict()
        self.adopted = nn.ModuleDict()

    def forward(self, *data: Any) -> Any:
        """Run the function, its parameters taken from here."""
        with mock.patch.object(pyro, "module", self._adopt), _OwnParameters(self):
            return self.function(*data)

    def _adopt(
        self, name: str, module: nn.Module, update_module_params: bool = False
    ) -> nn.Module:
        key = _key(name)
        if key not in self.adopted:
            self.adopted[key] = module
        return module

    def value(self, name: str, initial: Any, constraint: Any) -> Tensor:
        """Return a declared parameter on its constrained scale, made at its first use."""
        key = _key(name)
        if key not in self.declared:
            if initial is None:
                raise DataError(f"pyro.param({name!r}) has no initial value")
            with torch.no_grad():
                start = torch.as_tensor(initial() if callable(initial) else initial)
                start = start.to(torch.get_default_dtype())
                self.declared[key] = nn.Parameter(transform_to(constraint).inv(start).clone())
            self.constraints[key] = constraint
        return transform_to(self.constraints[key])(self.declared[key])


class _OwnParameters(Messenger):
    """Answer ``pyro.param`` from a program's own parameters."""

    def __init__(self, program: FunctionProgram) -> None:
        super().__init__()
        self.program = program

    def _pyro_param(self, msg: dict) -> None:
        name, *rest = msg["args"]
        initial = rest[0] if rest else msg["kwargs"].get("init_tensor")
        constraint = msg["kwargs"].get("constraint", constraints.real)
        msg["value"] = self.program.value(name, initial, constraint)
        msg["done"] = True


class FunctionModel(Model):
    """A model from a plain function; made by ``zoo.fit(function, data, ...)``.

    Parameters
    ----------
    function
        The generative program.
    """

    queries = {"log_prob": "bound", "sample": "estimate", "encode": "estimate"}

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.program = FunctionProgram(function)

    def model(self, *data: Any) -> Any:
        """Run the function."""
        return self.program(*data)

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the arguments of the function."""
        return tuple(inspect.signature(self.program.function).parameters)

    def find_data_plate(self, data: Any) -> str | None:
        """Name the outermost plate over all observed rows, which is the plate over the data."""
        if self.data_plate is None:
            data = data.all() if isinstance(data, Rows) else data
            for site in describe(trace_program(self, data)).values():
                for name, _, size in site.plates[:1]:
                    if site.kind == "observed" and size == len(data[0]):
                        self.data_plate = name
        return self.data_plate


def _key(name: str) -> str:
    return name.replace(".", "__")  # torch keeps the dot for itself
