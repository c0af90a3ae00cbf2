"""Labels that are known, unknown or wrong, and what else a classifier checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.discrete.columns import Features
from ppl_zoo.models.discrete.sparse import multiply

__all__ = [
    "ObservedLabel",
    "bayes_rule",
    "check_labels",
    "check_shapes",
    "dirichlet_multinomial",
    "given",
    "known",
]


def known(y: Tensor) -> Tensor:
    """Tell which labels are known: neither -1 nor NaN."""
    return y >= 0


class ObservedLabel(TorchDistribution):
    """The label as it is told: the class z itself; -1 or NaN, which say nothing, have mass 1.

    Parameters
    ----------
    z
        Class of each row.
    """

    arg_constraints: dict = {}
    support = constraints.real

    def __init__(self, z: Tensor) -> None:
        self.z = z
        super().__init__(z.shape, torch.Size(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ObservedLabel:
        """Expand to a larger batch."""
        return ObservedLabel(self.z.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """0 for the class itself or an unknown one, -inf for another."""
        wrong = known(value) & (value != self.z)
        zero = torch.zeros((), device=value.device)
        return torch.where(wrong, zero - torch.inf, zero)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Tell the class."""
        return self.z.expand(torch.Size(sample_shape) + self.batch_shape).clone()


def bayes_rule(joint: Tensor, prior: Tensor) -> Tensor:
    """Turn log densities of rows and classes ``(n, C)`` into probabilities of classes.

    A row that no class can explain says nothing: it gets the prior ``(C,)``.
    """
    out = joint.mT.contiguous().softmax(0).mT  # five times as fast along the first dimension
    lost = out[:, :1].isnan()
    return torch.where(lost, prior, out) if bool(lost.any()) else out


def check_options(num_classes: int, smoothing: float, weight: float) -> None:
    """Refuse options of a classifier that are out of range."""
    if num_classes < 2:
        raise DataError(f"num_classes: got {num_classes}, expected 2 or more")
    if not smoothing >= 0:
        raise DataError(f"variance_smoothing: got {smoothing}, expected 0 or more")
    if not 0 <= weight <= 1:
        raise DataError(f"unlabelled_weight: got {weight}, expected 0 to 1")


def check_shapes(rows: Rows, num_features: int) -> None:
    """Refuse x and y of other shapes than ``(n, num_features)`` and ``(n,)``."""
    sizes = rows.sizes()
    if len(sizes[0]) != 2 or sizes[0][1] != num_features:
        raise DataError(f"x: got shape {sizes[0]}, expected (n, {num_features})")
    if len(sizes) > 1 and sizes[1] != (len(rows),):
        raise DataError(f"y: got shape {sizes[1]}, expected ({len(rows)},)")


def check_labels(y: Tensor, num_classes: int, unknown: bool = True) -> None:
    """Refuse labels that are no class.

    Raises
    ------
    DataError
        If a label is not one of 0 ... C-1 (nor -1 or NaN, where it may be unknown).
    """
    y = y.double()
    fine = (y == y.floor()) & (y >= (-1 if unknown else 0)) & (y < num_classes)
    bad = ~(fine | y.isnan()) if unknown else ~fine
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        rest = ", or -1 or NaN where unknown" if unknown else ""
        raise DataError(
            f"y: got {float(y[row]):g} in row {row}, expected 0 to {num_classes - 1}{rest}"
        )


def dirichlet_multinomial(x: Tensor, concentration: Tensor) -> Tensor:
    """Log probability of counts but for the multinomial coefficient, the rates integrated out.

    Parameters
    ----------
    x
        Counts ``(n, d)``, dense or sparse.
    concentration
        Dirichlet parameters ``(C, d)``.

    Returns
    -------
    Tensor
        ``(n, C)``.
    """
    total = concentration.sum(-1)
    length = x @ torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    lead = total.lgamma() - (total + length.unsqueeze(-1)).lgamma()
    parts = []
    for a in concentration:  # a class at a time, to hold one copy of x only
        if x.layout == torch.strided:
            parts.append(((a + x).lgamma() - a.lgamma()).sum(-1))
        else:
            own = a[x.col_indices()]
            rises = (own + x.values()).lgamma() - own.lgamma()
            rises = torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), rises, x.shape)
            parts.append(multiply(rises, torch.ones_like(a)[None])[:, 0])
    return lead + torch.stack(parts, -1)


def given(
    values: Any, num: int, num_features: int, num_classes: int
) -> tuple[Tensor | None, Tensor | None]:
    """Read what ``sample`` is to hold: rows ``(num, d)`` and classes ``(num,)``.

    Raises
    ------
    DataError
        If a name, a shape or a class is wrong.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping) or set(values) - {"x", "y"}:
        raise DataError(f"given: got {values!r}, expected {{'x': row}}, {{'y': class}} or both")
    x, y = values.get("x"), values.get("y")
    if x is not None:
        x = torch.as_tensor(x, dtype=torch.float64)
        if x.shape not in ((num_features,), (num, num_features)):
            raise DataError(
                f"given x: got shape {tuple(x.shape)}, expected ({num_features},) or "
                f"({num}, {num_features})"
            )
        x = x.expand(num, num_features)
    if y is not None:
        y = torch.as_tensor(y)
        if y.shape not in ((), (num,)):
            raise DataError(f"given y: got shape {tuple(y.shape)}, expected () or ({num},)")
        y = y.expand(num)
        check_labels(y, num_classes, unknown=False)
        y = y.long()
    return x, y


def no_counts(features: Features) -> None:
    """Refuse to hold some counts of a row: their length would have to be known."""
    if features.block("multinomial") is not None:
        raise DataError("given: got x of a model of counts, expected {'y': class} only")
