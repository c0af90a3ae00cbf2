"""Masked linear layers and causal convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ShiftedConv2d", "degree_mask", "masked_linear"]


def degree_mask(outputs: Tensor, inputs: Tensor, strict: bool = False) -> Tensor:
    """Mask ``(outputs, inputs)`` of a layer: a unit sees units of its own degree or less.

    Parameters
    ----------
    outputs, inputs
        Degrees: the last place that a unit may depend on.
    strict
        Whether a unit sees smaller degrees only.
    """
    left, right = outputs.unsqueeze(-1), inputs.unsqueeze(-2)
    return left > right if strict else left >= right


def masked_linear(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply ``x @ (weight * mask).T + bias``."""
    return F.linear(x, torch.where(mask, weight, 0.0), bias)  # much faster than masked_fill


class ShiftedConv2d(nn.Conv2d):
    """Causal convolution: the padding shifts the image, so that a pixel sees earlier ones only.

    The half of the kernel that a mask would set to 0 is cut off instead: the same sums in half of
    the time.

    Parameters
    ----------
    in_channels, out_channels
        Channels.
    kernel_size
        Rows and columns.
    pad
        Zeros (left, right, top, bottom) around the image; -1 cuts one off, which shifts the image
        so that a pixel does not see itself.

    References
    ----------
    van den Oord et al. (2016), Conditional image generation with PixelCNN decoders, section 2.2,
    https://arxiv.org/abs/1606.05328.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        pad: tuple[int, int, int, int],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(n, in_channels, height, width)``."""
        return super().forward(F.pad(x, self.pad))
