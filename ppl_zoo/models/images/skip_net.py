"""An encoder-decoder with skip connections, as a function of one vector of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ppl_zoo.core.errors import DataError

__all__ = ["PRESETS", "Double", "SkipNet", "convolve", "mix", "mix_into_planes", "normalise"]

SLOPE = 0.2
#: pixels of a level below which bfloat16 does not pay
SMALL = 1024

#: "paper": for a GPU; "fast": some 20 times less to compute, for a CPU
PRESETS: dict[str, dict] = {
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
    """The net of Ulyanov, Vedaldi & Lempitsky: noise in, an image out.

    Each level halves the size (3 x 3 convolution of stride 2, another 3 x 3), hands the result to
    the next one, doubles what comes back, puts some channels of its own input beside it (the
    skip) and mixes them (3 x 3, then 1 x 1). All convolutions but the last are followed by batch
    normalisation and a leaky ReLU. Defaults are the paper's for denoising.

    It has no parameters of its own: the weights are one vector, so that they can be a latent
    variable, and one optimizer step is one operation. Activations and weights lie in memory with
    channels last, where convolutions are fast on CPUs and GPUs.

    Parameters
    ----------
    num_outputs, num_inputs
        Channels of the image and of the noise.
    down, up, skip
        Channels at each level, from the finest: of the encoder, the decoder, and the skip (0 for
        none). As many as there are levels.
    upsampling
        "bilinear" or "nearest".
    padding
        "reflect" or "zeros", around 3 x 3 convolutions.
    mixing
        Whether the decoder has 1 x 1 convolutions.
    narrow
        Whether these bring the channels down to those of the finer level before the size
        doubles, instead of the 3 x 3 convolution after it: the finest level has most to compute.
    join_norm
        Whether what comes back and the skip are normalised (again) before they are mixed.

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
        """Heights and widths are multiples of this."""
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
            joined = skip + (down if last else self._handed(level + 1))
            if self.join_norm:
                out[f"join{level}.gain"] = out[f"join{level}.shift"] = (joined,)
            layer(f"up{level}", joined, up, 3)
            if self.mixing:
                layer(f"mix{level}", up, self._handed(level), 1)
        out["out"] = (self.num_outputs, 1, 1, self._handed(0))
        out["out.shift"] = (self.num_outputs,)
        return out

    def _handed(self, level: int) -> int:
        """Channels that a level hands to the finer one."""
        return self.up[level - 1] if self.mixing and self.narrow and level else self.up[level]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the pieces of the vector of weights."""
        return tuple(math.prod(shape) for shape in self.shapes.values())

    @property
    def optimizer_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the pieces of the vector as matrices, where they are 3 x 3 convolutions."""
        wide = [len(shape) == 4 and shape[1] > 1 for shape in self.shapes.values()]
        return [
            (shape[0], size // shape[0]) if matrix else (size,)
            for shape, size, matrix in zip(self.shapes.values(), self.sizes, wide, strict=True)
        ]

    @property
    def num_weights(self) -> int:
        """Length of the vector of weights."""
        return sum(self.sizes)

    def start(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw weights to start from, ``(num_weights,)``: uniform within 1 / sqrt(fan-in)."""
        parts = []
        for name, shape in self.shapes.items():
            part = torch.full(shape, float(name.endswith("gain")), device="cpu")
            if len(shape) == 4 or name == "out.shift":
                bound = math.prod(self.shapes[name.removesuffix(".shift")][1:]) ** -0.5
                part.uniform_(-bound, bound, generator=generator)
            parts.append(part.flatten())
        return torch.cat(parts)

    def prior(self) -> tuple[Tensor, Tensor]:
        """Mean and sd of independent normal weights, each ``(num_weights,)``.

        Convolutions keep the variance of what they are given (He et al. 2015,
        https://arxiv.org/abs/1502.01852), gains lie around 1, shifts around 0.
        """
        locs, scales = [], []
        for name, shape in self.shapes.items():
            scale = (2 / math.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 1.0
            locs.append(torch.full((math.prod(shape),), float(name.endswith("gain"))))
            scales.append(torch.full((math.prod(shape),), scale))
        return torch.cat(locs), torch.cat(scales)

    def __call__(self, z: Tensor, theta: Tensor, low: bool = False) -> Tensor:
        """Make images of noise.

        Parameters
        ----------
        z
            ``(n, num_inputs, height, width)``, sides multiples of ``multiple``.
        theta
            ``(num_weights,)``.
        low
            Whether 3 x 3 convolutions multiply in bfloat16, and add in float32 as ever. All else
            stays as it is: on a CPU only they gain by it.

        Returns
        -------
        Tensor
            ``(n, num_outputs, height, width)`` in (0, 1).
        """
        # one split has one backward: slices would each make a gradient of full length
        w, pixels = {}, z.shape[-2] * z.shape[-1]
        for (name, shape), piece in zip(self.shapes.items(), theta.split(self.sizes), strict=True):
            if low and len(shape) == 4 and shape[1] > 1 and pixels >= SMALL * 4 ** int(name[-1]):
                # small images lose by it: there is less to multiply than to convert
                piece = piece.bfloat16()
            w[name] = piece.view(shape).permute(0, 3, 1, 2) if len(shape) == 4 else piece
        z = z.contiguous(memory_format=torch.channels_last)
        x = self._level(0, z, w)
        return mix_into_planes(x, w["out"], w["out.shift"]).sigmoid()

    def _level(self, level: int, x: Tensor, w: dict[str, Tensor]) -> Tensor:
        parts = [self._layer(f"skip{level}", x, w)] if self.skip[level] else []
        deep = self._layer(f"down{level}", x, w, stride=2)
        deep = self._layer(f"deep{level}", deep, w)
        if level + 1 < len(self.down):
            deep = self._level(level + 1, deep, w)
        if self.upsampling == "bilinear":
            parts.append(Double.apply(deep))
        else:
            parts.append(functional.interpolate(deep, scale_factor=2, mode="nearest"))
        joined = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if self.join_norm:
            joined = normalise(joined, w[f"join{level}.gain"], w[f"join{level}.shift"])
        out = self._layer(f"up{level}", joined, w)
        return self._layer(f"mix{level}", out, w) if self.mixing else out

    def _layer(self, name: str, x: Tensor, w: dict[str, Tensor], stride: int = 1) -> Tensor:
        """Convolve, normalise, cut."""
        weight, kind = w[name], x.dtype
        if weight.shape[-1] == 1:
            x = mix(x, weight)
        elif self.padding == "reflect":
            wide = functional.pad(x, (1,) * 4, mode="reflect").to(weight.dtype)
            x = convolve(wide, weight, stride, 0).to(kind)
        else:
            x = convolve(x.to(weight.dtype), weight, stride, 1).to(kind)
        x = normalise(x, w[f"{name}.gain"], w[f"{name}.shift"])
        return functional.leaky_relu(x, SLOPE, inplace=True)


# ---- Layers of the skip net, with the memory layouts and gradients that are fast.

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
