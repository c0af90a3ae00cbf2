"""Class labels, some of which may be unknown: their distribution and their validation."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["ObservedLabel", "check_labels", "is_known"]


def is_known(y: Tensor) -> Tensor:
    """Mask of the labels that are known: neither -1 nor NaN."""
    return y >= 0


class ObservedLabel(TorchDistribution):
    """Distribution of an observed label: the class z itself; -1 or NaN, unknown, have mass 1.

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
        wrong = is_known(value) & (value != self.z)
        zero = torch.zeros((), device=value.device)
        return torch.where(wrong, zero - torch.inf, zero)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the class."""
        return self.z.expand(torch.Size(sample_shape) + self.batch_shape).clone()


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
            f"{_mend(y, num_classes)}"
        )


def _mend(y: Tensor, num_classes: int) -> str:
    """Say how many classes the labels ask for, where they are codes beyond those of the model."""
    known = y[~y.isnan()]
    if not bool(((known == known.floor()) & (known >= -1)).all()):
        return ""
    most = int(known.max())
    return f"; num_classes={most + 1} takes them" if num_classes <= most < len(y) else ""
