"""Skip net: an encoder-decoder with skip connections, as a function of one vector of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ppl_zoo.core.errors import DataError

__all__ = ["PRESETS", "BilinearUpsampling", "SkipNet"]

#: slope of the leaky ReLU below 0
NEGATIVE_SLOPE = 0.2
#: pixels of a level below which bfloat16 is not faster
MIN_BFLOAT16_PIXELS = 1024
#: input channels of a convolution from which the weights' gradient is computed plane by plane
MIN_WIDE_CHANNELS = 96

#: "paper": for a GPU; "fast": some 20 times less to compute, for a CPU
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "fast": {
        "num_inputs": 8,
        "down": (16, 32, 64, 64, 64),
        "up": (16, 32, 64, 64, 64),
        "skip": (0, 4, 4, 4, 4),
        "narrow": True,
    },
}


@dataclass(frozen=True)
class SkipNet:
    """Encoder-decoder of Ulyanov, Vedaldi & Lempitsky, from noise to an image.

    Each level halves the size (3 x 3 convolution of stride 2, another 3 x 3), passes the result to
    the next level, upsamples its output, concatenates some channels of its own input (the skip
    connection) and mixes them (3 x 3, then 1 x 1). All convolutions but the last are followed by
    batch normalisation and a leaky ReLU. Defaults are the paper's for denoising.

    It has no parameters of its own: the weights are one vector, so that they can be a latent
    variable, and one optimizer step is one operation. Activations and weights are channels last
    in memory, where convolutions are fast on CPUs and GPUs.

    Parameters
    ----------
    num_outputs, num_inputs
        Channels of the image and of the noise.
    down, up, skip
        Channels at each level, from the finest: of the encoder, the decoder, and the skip
        connection (0 for none). One number a level.
    upsampling
        "bilinear" or "nearest".
    padding
        "reflect" or "zeros", around 3 x 3 convolutions.
    mixing
        Whether the decoder has 1 x 1 convolutions.
    narrow
        Whether these reduce the channels to those of the finer level before upsampling, instead
        of the 3 x 3 convolution after it: the finest level has most to compute.
    join_norm
        Whether the concatenated channels are normalised (again) before they are mixed.

    Examples
    --------
    >>> import torch
    >>> net = SkipNet(num_inputs=4, down=(8, 8), up=(8, 8), skip=(2, 0))
    >>> theta = net.start(torch.Generator().manual_seed(0))
    >>> net(torch.rand(1, 4, 16, 12), theta).shape
    torch.Size([1, 3, 16, 12])
    """

    num_outputs: int = 3
    num_inputs: int = 32
    down: tuple[int, ...] = (128, 128, 128, 128, 128)
    up: tuple[int, ...] = (128, 128, 128, 128, 128)
    skip: tuple[int, ...] = (4, 4, 4, 4, 4)
    upsampling: str = "bilinear"
    padding: str = "reflect"
    mixing: bool = True
    narrow: bool = False
    join_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        levels = {len(self.down), len(self.up), len(self.skip)}
        if len(levels) != 1 or not self.down:
            raise DataError(
                f"net: got {len(self.down)} levels down, {len(self.up)} up and {len(self.skip)} "
                "skips, expected as many of each, 1 or more"
            )
        if min(*self.down, *self.up, self.num_inputs, self.num_outputs) < 1 or min(self.skip) < 0:
            raise DataError("net: got a level without channels, expected 1 or more (skips: 0)")
        if self.upsampling not in ("bilinear", "nearest"):
            raise DataError(
                f"upsampling: got {self.upsampling!r}, expected 'bilinear' or 'nearest'"
            )
        if self.padding not in ("reflect", "zeros"):
            raise DataError(f"padding: got {self.padding!r}, expected 'reflect' or 'zeros'")

    @property
    def multiple(self) -> int:
        """Factor of the coarsest level: heights and widths of the noise are multiples of it."""
        return 2 ** len(self.down)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights; convolutions ``(out, rows, columns, in)``."""
        out: dict[str, tuple[int, ...]] = {}

        def layer(name: str, before: int, after: int, size: int) -> int:
            out[name] = (after, size, size, before)
            out[f"{name}.gain"] = out[f"{name}.shift"] = (after,)
            return after

        into = self.num_inputs
        for level, (down, up, skip) in enumerate(zip(self.down, self.up, self.skip, strict=True)):
            if skip:
                layer(f"skip{level}", into, skip, 1)
            layer(f"down{level}", into, down, 3)
            into = layer(f"deep{level}", down, down, 3)
            last = level + 1 == len(self.down)
            joined = skip + (down if last else self.num_outputs_of(level + 1))
            if self.join_norm:
                out[f"join{level}.gain"] = out[f"join{level}.shift"] = (joined,)
            layer(f"up{level}", joined, up, 3)
            if self.mixing:
                layer(f"mix{level}", up, self.num_outputs_of(level), 1)
        out["out"] = (self.num_outputs, 1, 1, self.num_outputs_of(0))
        out["out.shift"] = (self.num_outputs,)
        return out

    def num_outputs_of(self, level: int) -> int:
        """Channels that a level passes to the finer one."""
        return self.up[level - 1] if self.mixing and self.narrow and level else self.up[level]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the pieces of the vector of weights."""
        return tuple(math.prod(shape) for shape in self.shapes.values())

    @property
    def optimizer_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the pieces of the vector as matrices, where they are 3 x 3 convolutions."""
        matrices = [len(shape) == 4 and shape[1] > 1 for shape in self.shapes.values()]
        return [
            (shape[0], size // shape[0]) if matrix else (size,)
            for shape, size, matrix in zip(self.shapes.values(), self.sizes, matrices, strict=True)
        ]

    @property
    def num_weights(self) -> int:
        """Length of the vector of weights."""
        return sum(self.sizes)

    def start(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw initial weights, ``(num_weights,)``: uniform within 1 / sqrt(fan-in)."""
        parts = []
        for name, shape in self.shapes.items():
            part = torch.full(shape, float(name.endswith("gain")), device="cpu")
            if len(shape) == 4 or name == "out.shift":
                bound = math.prod(self.shapes[name.removesuffix(".shift")][1:]) ** -0.5
                part.uniform_(-bound, bound, generator=generator)
            parts.append(part.flatten())
        return torch.cat(parts)

    def prior(self) -> tuple[Tensor, Tensor]:
        """Prior mean and sd of independent normal weights, each ``(num_weights,)``.

        Convolutions preserve the variance of their inputs (He et al. 2015,
        https://arxiv.org/abs/1502.01852), gains lie around 1, shifts around 0.
        """
        locs, scales = [], []
        for name, shape in self.shapes.items():
            scale = (2 / math.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 1.0
            locs.append(torch.full((math.prod(shape),), float(name.endswith("gain"))))
            scales.append(torch.full((math.prod(shape),), scale))
        return torch.cat(locs), torch.cat(scales)

    def __call__(self, z: Tensor, theta: Tensor, bfloat16: bool = False) -> Tensor:
        """Evaluate the net: images of noise.

        Parameters
        ----------
        z
            ``(n, num_inputs, height, width)``, sides multiples of ``multiple``.
        theta
            ``(num_weights,)``.
        bfloat16
            Whether 3 x 3 convolutions multiply in bfloat16, and add in float32 as ever. All other
            layers stay in float32: on a CPU only these convolutions are faster.

        Returns
        -------
        Tensor
            ``(n, num_outputs, height, width)`` in (0, 1).
        """
        # one split has one backward: slices would each make a gradient of full length
        w, pixels = {}, z.shape[-2] * z.shape[-1]
        for (name, shape), piece in zip(self.shapes.items(), theta.split(self.sizes), strict=True):
            if bfloat16 and len(shape) == 4 and shape[1] > 1:
                # small images lose by it: there is less to multiply than to convert
                if pixels >= MIN_BFLOAT16_PIXELS * 4 ** int(name[-1]):
                    piece = piece.bfloat16()
            w[name] = piece.view(shape).permute(0, 3, 1, 2) if len(shape) == 4 else piece
        z = z.contiguous(memory_format=torch.channels_last)
        x = self._level(0, z, w)
        return _mix_to_planes(x, w["out"], w["out.shift"]).sigmoid()

    def _level(self, level: int, x: Tensor, w: dict[str, Tensor]) -> Tensor:
        """Encode, evaluate the coarser levels, decode."""
        parts = [self._layer(f"skip{level}", x, w)] if self.skip[level] else []
        deep = self._layer(f"down{level}", x, w, stride=2)
        deep = self._layer(f"deep{level}", deep, w)
        if level + 1 < len(self.down):
            deep = self._level(level + 1, deep, w)
        if self.upsampling == "bilinear":
            parts.append(BilinearUpsampling.apply(deep))
        else:
            parts.append(functional.interpolate(deep, scale_factor=2, mode="nearest"))
        joined = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if self.join_norm:
            joined = _batch_norm(joined, w[f"join{level}.gain"], w[f"join{level}.shift"])
        out = self._layer(f"up{level}", joined, w)
        return self._layer(f"mix{level}", out, w) if self.mixing else out

    def _layer(self, name: str, x: Tensor, w: dict[str, Tensor], stride: int = 1) -> Tensor:
        """Convolution, batch normalisation, leaky ReLU."""
        weight, dtype = w[name], x.dtype
        if weight.shape[-1] == 1:
            x = _mix(x, weight)
        elif self.padding == "reflect":
            padded = functional.pad(x, (1,) * 4, mode="reflect").to(weight.dtype)
            x = _convolve(padded, weight, stride, 0).to(dtype)
        else:
            x = _convolve(x.to(weight.dtype), weight, stride, 1).to(dtype)
        x = _batch_norm(x, w[f"{name}.gain"], w[f"{name}.shift"])
        return functional.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


# ---- layers, with the memory layouts and gradients that are fast ----------------------------


def _batch_norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Batch normalisation by the statistics of the images given."""
    return functional.batch_norm(x, None, None, gain, shift, training=True)


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """3 x 3 convolution with zero padding."""
    wide = weight.shape[1] >= MIN_WIDE_CHANNELS
    if wide and weight.device.type == "cpu" and weight.dtype != torch.bfloat16:
        return _WideConvolution.apply(x, weight, stride, padding)
    return functional.conv2d(x, weight, None, stride, padding)


class _WideConvolution(torch.autograd.Function):
    """Convolution whose weights' gradient is computed with contiguous planes.

    With many channels, that gradient takes a CPU twice as long with channels last, and no other.
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


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    """1 x 1 convolution as a matrix product: with channels last it needs no copies."""
    out = functional.linear(x.permute(0, 2, 3, 1), weight[..., 0, 0])
    return out.permute(0, 3, 1, 2)


def _mix_to_planes(x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """1 x 1 convolution to few channels, as contiguous planes: a wide product is twice as fast."""
    n, _, height, width = x.shape
    matrix, base = weight[..., 0, 0].expand(n, -1, -1), shift[:, None].expand(n, -1, 1)
    return torch.baddbmm(base, matrix, x.flatten(2)).unflatten(2, (height, width))


class BilinearUpsampling(torch.autograd.Function):
    """Bilinear upsampling by 2 with a faster backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Interpolate."""
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Apply the adjoint along rows, then along columns."""
        return _upsampling_adjoint(_upsampling_adjoint(grad, 2), 3)


def _upsampling_adjoint(x: Tensor, dim: int) -> Tensor:
    """Adjoint of upsampling along a side: 3/4 of each pair and 1/4 of the pixels beside it.

    At the border the pixels beside are the border's own.
    """
    count = x.shape[dim] // 2
    pairs = x.unflatten(dim, (count, 2))
    first, second = pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)
    out = (first + second).mul_(0.75)
    out.narrow(dim, 1, count - 1).add_(second.narrow(dim, 0, count - 1), alpha=0.25)
    out.narrow(dim, 0, count - 1).add_(first.narrow(dim, 1, count - 1), alpha=0.25)
    out.select(dim, 0).add_(first.select(dim, 0), alpha=0.25)
    out.select(dim, -1).add_(second.select(dim, -1), alpha=0.25)
    return out
