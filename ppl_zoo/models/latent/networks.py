"""Encoder and decoder networks: multilayer perceptrons and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean

__all__ = [
    "ConvDecoder",
    "ConvEncoder",
    "check_activation",
    "image_shape",
    "mean_and_sd",
    "mlp",
    "start_output",
]

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "softplus": nn.Softplus}


def mlp(sizes: Sequence[int], activation: str = "tanh") -> nn.Sequential:
    """Multilayer perceptron, ``(..., sizes[0])`` to ``(..., sizes[-1])``, linear at the end.

    Weights start by the rule of Glorot & Bengio (2010), which suits tanh.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class ConvEncoder(nn.Module):
    """Convolutional encoder: two strided convolutions of flat images and a linear layer.

    Parameters
    ----------
    shape
        ``(channels, height, width)`` of an image; height and width divide by 4.
    num_outputs
        Dimension of the output.
    channels
        Of the two layers.
    """

    def __init__(
        self, shape: Sequence[int], num_outputs: int, channels: Sequence[int] = (32, 64)
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        inside = (channels[-1], shape[1] // 4, shape[2] // 4)
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], channels[0], 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(channels[0], channels[1], 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(math.prod(inside), num_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(..., pixels)`` to ``(..., num_outputs)``."""
        return self.layers(x.reshape(-1, *self.shape)).reshape(*x.shape[:-1], -1)


class ConvDecoder(nn.Module):
    """Convolutional decoder, the mirror of :class:`ConvEncoder`.

    Parameters
    ----------
    num_inputs
        Dimension of the input.
    shape
        ``(channels, height, width)`` of an image; height and width divide by 4.
    per_pixel
        Outputs a pixel.
    channels
        Of the two layers, as those of the encoder.
    """

    def __init__(
        self,
        num_inputs: int,
        shape: Sequence[int],
        per_pixel: int = 1,
        channels: Sequence[int] = (32, 64),
    ) -> None:
        super().__init__()
        inside = (channels[-1], shape[1] // 4, shape[2] // 4)
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, math.prod(inside)),
            nn.SiLU(),
            nn.Unflatten(-1, inside),
            nn.ConvTranspose2d(channels[1], channels[0], 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(channels[0], shape[0] * per_pixel, 4, 2, 1),
        )
        self.per_pixel = per_pixel

    def forward(self, z: Tensor) -> Tensor:
        """``(..., num_inputs)`` to ``(..., pixels * per_pixel)``, a pixel's numbers together."""
        out = self.layers(z.reshape(-1, z.shape[-1]))
        out = out.unflatten(1, (self.per_pixel, -1)).movedim(1, -1)
        return out.reshape(*z.shape[:-1], -1)


def check_activation(activation: str) -> None:
    """Refuse the name of an activation that the nets do not have.

    Raises
    ------
    DataError
        If there is none of that name.
    """
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise DataError(
            f"activation: got {activation!r}{did_you_mean(activation, ACTIVATIONS)}, "
            f"expected one of {known}"
        )


def image_shape(shape: Sequence[int] | None, num_features: int) -> tuple[int, int, int]:
    """Read ``(height, width)`` or ``(channels, height, width)``; a square if it is not given.

    Raises
    ------
    DataError
        If the shape does not hold ``num_features`` pixels or cannot be halved twice.
    """
    if shape is None:
        side = math.isqrt(num_features)
        shape = (side, side)
    full = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(full) != 3 or math.prod(full) != num_features or full[1] % 4 or full[2] % 4:
        raise DataError(
            f"shape: got {tuple(shape)} for {num_features} features, expected (height, width) or "
            "(channels, height, width) with that many pixels, height and width divisible by 4"
        )
    return full  # type: ignore[return-value]  # three numbers, as was just checked


def start_output(net: nn.Module, values: Tensor, per_pixel: int, num_pixels: int) -> None:
    """Start a net's outputs at these values, by the bias of its last layer."""
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.ConvTranspose2d))]
    last = layers[-1]
    with torch.no_grad():
        if isinstance(last, nn.Linear):
            last.bias.copy_(values)
        else:  # one bias a channel: the mean over its pixels
            channels = values.reshape(-1, num_pixels, per_pixel).mean(1)
            last.bias.copy_(channels.mT.flatten())


def mean_and_sd(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Split a net's outputs, ``(..., 2 * size)``, into means and sds of normals."""
    loc, raw = outputs.chunk(2, -1)
    return loc, raw.clamp(-12.0, 12.0).exp()
