"""Products with sparse rows (CSR), and sums of log table cells: the cost of discrete models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.tracing.vectorize import is_batched

__all__ = ["multiply", "pick", "weighted_logs"]


class _SparseProduct(torch.autograd.Function):
    """Product ``x @ w`` for sparse x (CSR); torch's own gradient takes 30 times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.x = x
        return x @ w.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        x = ctx.x
        if x.device.type != "cpu":
            return None, x.mT @ gradient
        from scipy.sparse import csr_array

        parts = (x.values(), x.col_indices(), x.crow_indices())
        csr = csr_array(tuple(p.numpy() for p in parts), shape=tuple(x.shape))
        return None, torch.from_numpy(csr.T @ gradient.contiguous().numpy())


def multiply(x: Tensor, w: Tensor) -> Tensor:
    """Sum of ``x * w`` over features, for every class.

    Parameters
    ----------
    x
        Rows ``(..., d)``, or a sparse matrix ``(n, d)`` (CSR).
    w
        ``(..., C, d)``; dimensions on the left, of draws, broadcast against those of the rows.

    Returns
    -------
    Tensor
        ``(..., C)``.
    """
    if x.layout != torch.strided:
        return _SparseProduct.apply(x, w.mT)
    if w.ndim == 2:
        return x @ w.mT
    if w.shape[-3] == 1 and x.ndim > 1:  # the plate of rows: the same table for all
        return x @ w.squeeze(-3).mT
    return (x.unsqueeze(-2) * w).sum(-1)


def weighted_logs(x: Tensor, p: Tensor) -> Tensor:
    """Sum of ``x * log(p)`` over features, 0 log 0 = 0; shapes as for ``multiply``."""
    out = multiply(x, p.clamp_min(torch.finfo(p.dtype).tiny).log())
    # gradients are taken in the E-step, at tables of the same data: none of its rows has p = 0
    if not p.requires_grad and (is_batched(p) or bool((p == 0).any())):
        impossible = multiply(x, (p == 0).to(p.dtype)) > 0
        out = out.masked_fill(impossible, -torch.inf)
    return out


def pick(p: Tensor, states: Tensor) -> Tensor:
    """Cells ``p[..., states]``: p ``(..., d, K)``, states ``(..., d)``, both broadcast."""
    shape = torch.broadcast_shapes(p.shape[:-1], states.shape)
    chosen = p.expand(*shape, p.shape[-1]).gather(-1, states.expand(shape).unsqueeze(-1))
    return chosen.squeeze(-1)
