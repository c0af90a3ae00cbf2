"""The conditionals of NADE without D copies of the hidden layer.

The activation of hidden unit h before variable i is ``a_i = c + sum_{j < i} W_j f(x_j)``: each
differs from the one before by a rank-1 update. Forward walks the variables with one running
activation; backward walks back, undoing the updates, so that nothing has to be kept for it
(Larochelle & Murray 2011). Autograd would keep all D activations: gigabytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["nade_conditionals"]

#: rows walked at once: their activations should stay in a core's second cache
ROWS = 128
#: variables whose activations are made by one triangular product, where the walk cannot be used
BLOCK = 28


def nade_conditionals(f: Tensor, W: Tensor, c: Tensor, V: Tensor, b: Tensor) -> Tensor:
    """Parameters of every conditional, ``(n, D, P)``.

    Parameters
    ----------
    f
        What the net sees of each variable, ``(n, D, I)``.
    W, c
        Input weights ``(D, I, H)`` and biases ``(H,)`` of the hidden units.
    V, b
        Output weights ``(D, P, H)`` and biases ``(D, P)``.
    """
    if f.requires_grad or _is_recorded(f):
        return _blocks(f, W, c, V, b)
    return _Nade.apply(f, W, c, V, b)


def _is_recorded(f: Tensor) -> bool:
    """Whether a compiler records the operations: it wants no walk and no values."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def _blocks(f: Tensor, W: Tensor, c: Tensor, V: Tensor, b: Tensor) -> Tensor:
    """Make the conditionals a block of variables at a time, by plain differentiable tensors."""
    size, parts = f.shape[1], []
    a = c.expand(f.shape[0], -1)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        own = torch.einsum("nji,jih->njh", f[:, start:stop], W[start:stop])
        before = F.pad(own[:, :-1].cumsum(1), (0, 0, 1, 0))
        h = torch.sigmoid(a.unsqueeze(1) + before)
        parts.append(torch.einsum("njh,jph->njp", h, V[start:stop]) + b[start:stop])
        a = a + own.sum(1)
    return torch.cat(parts, 1)


def _segments(f: Tensor) -> list[tuple[int, int]]:
    """Find runs of variables that share an activation: it changes after one that is not 0.

    On a GPU, looking would cost more than it saves.
    """
    size = f.shape[1]
    if f.device.type != "cpu":
        return [(i, i + 1) for i in range(size)]
    ends = ((f != 0).any(-1).any(0).nonzero()[:, 0] + 1).tolist()
    if not ends or ends[-1] != size:
        ends.append(size)
    return list(zip([0, *ends[:-1]], ends, strict=True))


class _Nade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, f: Tensor, W: Tensor, c: Tensor, V: Tensor, b: Tensor) -> Tensor:
        n, size, _ = f.shape
        num_parameters, num_hidden = V.shape[1:]
        out = f.new_empty(n, size, num_parameters)
        last = f.new_empty(n, num_hidden)
        for start in range(0, n, ROWS):
            rows = slice(start, start + ROWS)
            part = f[rows]
            a = c.repeat(part.shape[0], 1)
            h = torch.empty_like(a)
            for first, end in _segments(part):
                torch.sigmoid(a, out=h)
                some = h @ V[first:end].flatten(0, 1).T
                out[rows, first:end] = some.unflatten(1, (end - first, num_parameters))
                a.addmm_(part[:, end - 1], W[end - 1])
            last[rows] = a
        ctx.save_for_backward(f, W, V, last)
        return out.add_(b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        f, W, V, last = ctx.saved_tensors
        dW, dV = torch.zeros_like(W), torch.zeros_like(V)
        dc = last.new_zeros(last.shape[1])
        for start in range(0, f.shape[0], ROWS):
            rows = slice(start, start + ROWS)
            part, g, a = f[rows], grad[rows], last[rows].clone()
            da, h, dh = torch.zeros_like(a), torch.empty_like(a), torch.empty_like(a)
            for first, end in reversed(_segments(part)):
                seen = part[:, end - 1]
                dW[end - 1].addmm_(seen.T, da)  # what came later saw this variable
                a.addmm_(seen, W[end - 1], alpha=-1.0)
                torch.sigmoid(a, out=h)
                some = g[:, first:end].flatten(1)
                dV[first:end].view(-1, h.shape[1]).addmm_(some.T, h)
                torch.mm(some, V[first:end].flatten(0, 1), out=dh)
                torch.ops.aten.sigmoid_backward.grad_input(dh, h, grad_input=dh)
                da.add_(dh)
            dc += da.sum(0)
        return None, dW, dc, dV, grad.sum(0)
