"""Opponent colour space: brightness and two colour differences, each like a grey image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["from_opponent", "noise_gains", "to_opponent"]

#: brightness, red against blue, green against both: nearly uncorrelated in photographs, and the
#: rows are orthogonal, so that white noise stays independent
OPPONENT_MATRIX = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, 0.0, -1 / 2), (1 / 4, -1 / 2, 1 / 4))


def _matrix(like: Tensor) -> Tensor:
    return torch.tensor(OPPONENT_MATRIX, dtype=torch.float64, device=like.device)


def _shift(like: Tensor) -> Tensor:
    return torch.tensor((0.0, 0.5, 0.5), dtype=like.dtype, device=like.device)


def to_opponent(image: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Opponent colours of red, green and blue (the last dimension).

    Each is in [0, 1] if these are; grey has differences of one half.
    """
    return image @ _matrix(image).mT.to(image.dtype) + _shift(image)


def from_opponent(image: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Red, green and blue of opponent colours."""
    back = torch.linalg.inv(_matrix(image)).mT.to(image.dtype)
    return (image - _shift(image)) @ back


def noise_gains() -> tuple[float, float, float]:
    """Noise gain of each opponent colour: its noise sd where red, green and blue have sd 1."""
    return tuple(sum(value**2 for value in row) ** 0.5 for row in OPPONENT_MATRIX)
