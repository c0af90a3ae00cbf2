"""Normalising flows, from zuko, as Pyro distributions; the extra ``flows`` brings zuko."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_zoo.core.display import Sized
from ppl_zoo.core.errors import DataError

__all__ = ["Flow", "FlowPrior"]


class Flow(dist.TorchDistribution):
    """A flow's distribution over ``(size,)``; draws are reparametrised.

    Parameters
    ----------
    inner
        A distribution of zuko.
    batch_shape
        Of independent copies.
    loc, scale
        ``(size,)``: shift and stretch what the flow gives.
    """

    arg_constraints: dict = {}
    has_rsample = True

    def __init__(
        self, inner: Any, batch_shape: Any = None, *, loc: Any = 0.0, scale: Any = 1.0
    ) -> None:
        self.inner, self.loc = inner, loc
        self.scale = torch.as_tensor(scale)
        shape = inner.batch_shape if batch_shape is None else torch.Size(batch_shape)
        super().__init__(shape, inner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """All real vectors."""
        return constraints.real_vector

    def expand(self, batch_shape: Any, _instance: Any = None) -> Flow:
        """Return independent copies."""
        shape = torch.broadcast_shapes(self.batch_shape, tuple(batch_shape))
        return Flow(self.inner, shape, loc=self.loc, scale=self.scale)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """``(*sample_shape, *batch_shape, size)``."""
        own = len(self.inner.batch_shape)
        lead = tuple(sample_shape) + tuple(self.batch_shape[: len(self.batch_shape) - own])
        return self.loc + self.scale * self.inner.rsample(lead)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(..., size)`` to ``(...)``."""
        log_prob = self.inner.log_prob((value - self.loc) / self.scale)
        log_prob = log_prob - self.scale.log().expand(self.event_shape).sum()
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))


class FlowPrior(Sized, nn.Module):
    """A masked autoregressive flow as the prior of latents (Papamakarios et al. 2017).

    Parameters
    ----------
    size
        Number of latents, 2 or more.
    num_transforms, hidden
        Layers of the flow, and the widths of their nets.
    """

    def __init__(self, size: int, num_transforms: int = 3, hidden: tuple = (64, 64)) -> None:
        super().__init__()
        self.flow = make_flow(size, num_transforms, hidden)

    def forward(self) -> Flow:
        """Return the distribution over ``(size,)``."""
        return Flow(self.flow())


def make_flow(size: int, num_transforms: int = 3, hidden: tuple = (64, 64), **options: Any) -> Any:
    """Return a masked autoregressive flow of zuko.

    Raises
    ------
    DataError
        If zuko is not installed, or there is but one dimension to order.
    """
    try:
        from zuko.flows import MAF
    except ImportError as error:
        raise DataError("flows need zuko: pip install 'ppl_zoo[flows]'") from error
    if size < 2:
        raise DataError(f"flow: got {size} dimension, expected 2 or more")
    return MAF(size, transforms=num_transforms, hidden_features=hidden, **options)
