"""The optimum of a logistic regression, by L-BFGS in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppl_zoo.data.rows import Rows

if TYPE_CHECKING:
    from ppl_zoo.models.discrete.logistic import LogisticRegression

__all__ = ["climb_to_optimum"]


def climb_to_optimum(
    model: LogisticRegression, rows: Rows, max_steps: int = 2000, tol: float = 1e-10
) -> None:
    """Set weights and intercept to the mode, to rounding.

    Parameters
    ----------
    model
        The regression, changed in place.
    rows
        x and y.
    max_steps
        Most iterations.
    tol
        Stop when no derivative of the mean log posterior is larger.
    """
    wide = Rows(tuple(rows.arrays), rows.device, torch.float64)
    weights, intercept = (torch.zeros_like(p, dtype=torch.float64) for p in model.parameters())
    leaves = [weights.requires_grad_(), intercept.requires_grad_()]
    precision = model.prior_scale.double() ** -2
    solver = torch.optim.LBFGS(
        leaves,
        max_iter=max_steps,
        max_eval=2 * max_steps,
        tolerance_grad=tol,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        total = 0.5 * precision * (weights**2).sum() / len(wide)
        total.backward()
        for chunk in wide.chunks(4096):
            part = -model.log_likelihood(weights, intercept, *chunk).sum() / len(wide)
            part.backward()
            total = total.detach() + part.detach()
        return total

    with torch.enable_grad():
        solver.step(loss)
    model.weights.copy_(weights)
    model.intercept.copy_(intercept)
