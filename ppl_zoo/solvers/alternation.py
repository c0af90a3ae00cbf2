"""Variational EM: steps of the guide's parameters and of the model's in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.tracing.sites import is_sample

__all__ = ["Alternation"]


@dataclass(frozen=True)
class Alternation:
    """Turns of the E-step (phi, of the guide) and the M-step (theta, of the model).

    Neal & Hinton 1998, A view of the EM algorithm that justifies incremental, sparse, and other
    variants: both climb the one bound, each in its own coordinates.
    """

    phi: tuple[Tensor, ...]
    theta: tuple[Tensor, ...]
    e_steps: int
    m_steps: int

    @classmethod
    def of(cls, turns: Sequence[int], pair: Any, parameters: Sequence[Tensor], data: tuple) -> Any:
        """Tell the guide's parameters from the model's: the guide's draws depend on them.

        Raises
        ------
        DataError
            If one of the two has none.
        """
        with torch.enable_grad(), poutine.block():
            trace = poutine.trace(pair.guide).get_trace(*data)
            trace.compute_log_prob()
            total: Any = 0.0
            for node in trace.nodes.values():
                if is_sample(node):
                    value = node["value"]
                    total = total + node["log_prob"].sum()
                    total = total + (value.sum() if value.requires_grad else 0.0)
        gradients: Sequence[Any] = [None] * len(parameters)
        if isinstance(total, Tensor) and total.requires_grad:
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        pairs = list(zip(parameters, gradients, strict=True))
        phi = tuple(p for p, g in pairs if g is not None)
        theta = tuple(p for p, g in pairs if g is None)
        if not phi or not theta:
            which = "guide" if not phi else "model"
            raise DataError(
                f"alternate: the {which} has no parameters of its own, so there is nothing to "
                "take turns with; leave alternate out"
            )
        return cls(phi, theta, *turns)

    def hold(self, step: int) -> None:
        """Take the gradients from those whose turn it is not."""
        turn = step % (self.e_steps + self.m_steps)
        for parameter in self.theta if turn < self.e_steps else self.phi:
            parameter.grad = None
