"""Model under test with its data, and the assertions that contract clauses use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solver import Solver
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import default_solver, fit
from ppl_zoo.solvers.coordinate_ascent import CoordinateAscent

__all__ = ["Case", "ContractError", "close", "demand"]


class ContractError(AssertionError):
    """Violation of a clause of the contract by a model."""


def demand(holds: bool, message: str) -> None:
    """Raise a ``ContractError`` unless something holds."""
    if not holds:
        raise ContractError(message)


@dataclasses.dataclass
class Case:
    """Model under test: how to make it and its data, and the solver to fit it by."""

    make_model: Callable[[], Model]
    make_data: Callable[[], Any]
    solver: Solver | None

    def model(self) -> Model:
        """Make the model, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make_model()

    def data(self) -> Any:
        """Make the data, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make_data()

    def rows(self, model: Model) -> Rows:
        """Read the data as the model's rows."""
        return model.as_rows(self.data())

    def fitted(self, seed: int = 0) -> Fit:
        """Fit the model for a few steps."""
        model = self.model()
        solver = self.solver_of(model)
        return fit(model, self.data(), solver, device="cpu", seed=seed, progress=False)

    def solver_of(self, model: Model) -> Solver:
        """Return the solver to fit the model by, cut short where none was given."""
        return self.solver or _shortened(default_solver(model))


def _shortened(solver: Solver) -> Solver:
    """Cut a solver short: the contract does not need convergence."""
    short = {"steps": 5 if isinstance(solver, CoordinateAscent) else 30, "restarts": 1}
    names = {f.name for f in dataclasses.fields(solver)}
    return dataclasses.replace(solver, **{k: v for k, v in short.items() if k in names})


def close(a: Tensor, b: Tensor, tol: float = 1e-3) -> bool:
    """Whether two tensors agree to a relative or absolute error."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tol, atol=tol)
