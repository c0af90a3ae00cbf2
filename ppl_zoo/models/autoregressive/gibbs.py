"""Gibbs sampling of some variables given the others, by the exact log probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ppl_zoo.models.autoregressive.base import AutoregressiveModel

__all__ = ["gibbs"]


def gibbs(model: AutoregressiveModel, x: Tensor, free: Tensor, num_sweeps: int) -> Tensor:
    """Draw free variables anew, one after another, each given all others.

    p(x_i | all others) is in proportion to p(x), so that a variable takes a pass for each of its
    values; a sweep leaves the distribution of what is free given what is held as it is.

    Parameters
    ----------
    model
        A model of discrete variables.
    x
        Rows ``(n, D)`` to start at.
    free
        Which variables are drawn, ``(n, D)`` bool.
    num_sweeps
        Times that every free variable is drawn, each time in another order.

    Returns
    -------
    Tensor
        ``(n, D)``.
    """
    x, count = x.clone(), model.output.num_values
    values = torch.arange(count, dtype=x.dtype, device=x.device)
    somewhere = free.any(0).nonzero()[:, 0]
    for _ in range(num_sweeps):
        for i in somewhere[torch.randperm(len(somewhere), device=x.device)].tolist():
            rows = free[:, i].nonzero()[:, 0]
            tried = x[rows].repeat(count, 1)
            tried[:, i] = values.repeat_interleave(len(rows))
            scores = model.score(tried.reshape(-1, *model.event_shape)).reshape(count, -1)
            x[rows, i] = values[torch.multinomial(scores.T.softmax(-1), 1)[:, 0]]
    return x
