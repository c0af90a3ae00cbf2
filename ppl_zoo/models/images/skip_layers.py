"""Layers of the skip net, with the memory layouts and gradients that are fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Double", "convolve", "mix", "mix_into_planes", "normalise"]

#: input channels from which the gradient of the weights has a way of its own
WIDE = 96


def normalise(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Bring each channel to mean 0 and variance 1 over the images given, then scale."""
    return functional.batch_norm(x, None, None, gain, shift, training=True)


def convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolve 3 x 3, with zeros around."""
    if weight.device.type == "cpu" and weight.dtype != torch.bfloat16 and weight.shape[1] >= WIDE:
        return _WideConvolution.apply(x, weight, stride, padding)
    return functional.conv2d(x, weight, None, stride, padding)


class _WideConvolution(torch.autograd.Function):
    """Convolution whose weights' gradient takes images plane by plane.

    With many channels, channels last take a CPU twice as long for that gradient, and for no other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.options = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        return functional.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Each gradient in the layout that is fast."""
        x, weight = ctx.saved_tensors
        back, dx, dw = torch.ops.aten.convolution_backward, None, None
        if ctx.needs_input_grad[0]:
            dx = back(grad, x, weight, None, *ctx.options, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            planes = (t.contiguous() for t in (grad, x, weight))
            dw = back(*planes, None, *ctx.options, [False, True, False])[1]
        return dx, dw, None, None


def mix(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve 1 x 1, as a product of matrices: with channels last it needs no copies."""
    out = functional.linear(x.permute(0, 2, 3, 1), weight[..., 0, 0])
    return out.permute(0, 3, 1, 2)


def mix_into_planes(x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """Convolve 1 x 1 into few channels, one plane each: a wide product is twice as fast."""
    n, _, height, width = x.shape
    matrix, base = weight[..., 0, 0].expand(n, -1, -1), shift[:, None].expand(n, -1, 1)
    return torch.baddbmm(base, matrix, x.flatten(2)).unflatten(2, (height, width))


class Double(torch.autograd.Function):
    """Bilinear doubling with a faster backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Interpolate."""
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Gather along rows, then along columns."""
        return _gather(_gather(grad, 2), 3)


def _gather(x: Tensor, dim: int) -> Tensor:
    """Halve a side: 3/4 of each pair, 1/4 of the pixels beside it; those beyond the border."""
    count = x.shape[dim] // 2
    pairs = x.unflatten(dim, (count, 2))
    first, second = pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)
    out = (first + second).mul_(0.75)
    out.narrow(dim, 1, count - 1).add_(second.narrow(dim, 0, count - 1), alpha=0.25)
    out.narrow(dim, 0, count - 1).add_(first.narrow(dim, 1, count - 1), alpha=0.25)
    out.select(dim, 0).add_(first.select(dim, 0), alpha=0.25)
    out.select(dim, -1).add_(second.select(dim, -1), alpha=0.25)
    return out
