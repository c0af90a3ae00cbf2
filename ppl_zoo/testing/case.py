"""A model under test, with data: what the clauses of the contract ask of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.model import Model
from ppl_zoo.fitting.run import default_solver, fit

__all__ = ["Case", "ContractError", "close", "demand", "shortened"]


class ContractError(AssertionError):
    """A clause of the contract that a model breaks."""


def demand(holds: bool, message: str) -> None:
    """Raise a ``ContractError`` unless something holds."""
    if not holds:
        raise ContractError(message)


@dataclasses.dataclass
class Case:
    """A model to be checked, with data."""

    make_model: Callable[[], Model]
    make_data: Callable[[], Any]
    solver: Any

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

    def rows(self, model: Model) -> Any:
        """Read the data as the model's rows."""
        return model.as_rows(self.data())

    def fitted(self, seed: int = 0) -> Any:
        """Fit the model for a few steps."""
        model = self.model()
        solver = self.solver or shortened(default_solver(model))
        return fit(model, self.data(), solver, device="cpu", seed=seed, progress=False)


def shortened(solver: Any) -> Any:
    """Cut a solver short: a few steps show the contract, convergence is another matter."""
    short = {"steps": 30, "max_steps": 5, "restarts": 1}
    names = {f.name for f in dataclasses.fields(solver)}
    return dataclasses.replace(solver, **{k: v for k, v in short.items() if k in names})


def close(a: Tensor, b: Tensor, tol: float = 1e-3) -> bool:
    """Whether two tensors agree to a relative or absolute error."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tol, atol=tol)
