"""The joint distribution of an autoregressive model, as one Pyro distribution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

if TYPE_CHECKING:
    from ppl_zoo.models.autoregressive.base import AutoregressiveModel

__all__ = ["ChainRule"]


class ChainRule(TorchDistribution):
    """Rows of an autoregressive model: scored in one pass, drawn by its walk."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real

    def __init__(self, owner: AutoregressiveModel, batch_shape: tuple[int, ...] = ()) -> None:
        self.owner = owner
        super().__init__(
            torch.Size(batch_shape), torch.Size(owner.event_shape), validate_args=False
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainRule:
        """Take another batch shape."""
        return ChainRule(self.owner, tuple(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Score rows ``(..., *event_shape)``."""
        score = self.owner.score(value)
        return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows by the model's walk."""
        shape = tuple(sample_shape) + tuple(self.batch_shape)
        return self.owner.sample(math.prod(shape)).reshape(*shape, *self.event_shape)
