"""Linear operators that spoil an image: y = A x + noise, with A' and the least squares of both.

Operators act on the last two dimensions, ``(..., height, width)``, so that the channels of a
colour image go through together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.errors import DataError

__all__ = ["Blur", "Downsample", "Identity", "LinearOperator", "Mask", "conjugate_gradients"]

#: conjugate gradients stop at this residual, relative to the right-hand side
TOLERANCE = 1e-5
MAX_STEPS = 200


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    target: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda x: x,
    *,
    tol: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> Tensor:
    """Solve ``apply(x) = target`` for a positive definite operator (Hestenes & Stiefel 1952).

    Parameters
    ----------
    apply, precondition
        The operator, and something close to its inverse.
    target, start
        Right-hand side and first guess.
    tol
        Residual at which to stop, relative to ``target``.
    max_steps
        Most steps.
    """
    x, residual = start, target - apply(start)
    z = precondition(residual)
    direction, product = z, (residual * z).sum()
    goal = tol * float(target.norm())
    for _ in range(max_steps):
        if float(residual.norm()) <= goal:
            break
        moved = apply(direction)
        step = product / (direction * moved).sum()
        x, residual = x + step * direction, residual - step * moved
        z = precondition(residual)
        before, product = product, (residual * z).sum()
        direction = z + (product / before) * direction
    return x


class LinearOperator:
    """What every operator can do; one of your own writes ``__call__`` and ``adjoint``."""

    def __call__(self, image: Tensor) -> Tensor:
        """Apply A to an image ``(..., height, width)``."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__; write one")

    def adjoint(self, data: Tensor) -> Tensor:
        """Apply A', for which ``(A x) . y = x . (A' y)``."""
        raise NotImplementedError(f"{type(self).__name__} has no adjoint; write one")

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        return shape

    def first_guess(self, data: Tensor) -> Tensor:
        """Return an image to start from; A' y by default."""
        return self.adjoint(data)

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Minimise ``precision |A x - data|^2 + pull |x - average|^2`` over images x.

        By conjugate gradients, unless the operator knows better.
        """

        def apply(x: Tensor) -> Tensor:
            return precision * self.adjoint(self(x)) + pull * x

        return conjugate_gradients(apply, precision * self.adjoint(data) + pull * average, average)


class Identity(LinearOperator):
    """Nothing but noise: A x = x."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def adjoint(self, data: Tensor) -> Tensor:
        """Return the data."""
        return data

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Average of data and ``average`` by their precisions."""
        share = precision / (precision + pull)
        return torch.lerp(average, data, share)


class Mask(LinearOperator):
    """Some pixels are seen, the others are 0: A x = mask * x.

    Parameters
    ----------
    mask
        ``(height, width)``, true (or 1) where a pixel is seen.
    """

    def __init__(self, mask: Any) -> None:
        mask = torch.as_tensor(mask)
        if mask.ndim != 2 or not ((mask == 0) | (mask == 1)).all():
            raise DataError(
                f"mask: got {mask.dtype} of shape {tuple(mask.shape)}, expected (height, width) "
                "of true and false (or 1 and 0)"
            )
        self.mask = mask.bool()

    def __call__(self, image: Tensor) -> Tensor:
        """Set unseen pixels to 0."""
        if image.shape[-2:] != self.mask.shape:
            raise DataError(
                f"mask: got {tuple(self.mask.shape)}, expected the size of the image, "
                f"{tuple(image.shape[-2:])}"
            )
        return image * self.mask.to(image)

    def adjoint(self, data: Tensor) -> Tensor:
        """Set unseen pixels to 0: A' = A."""
        return self(data)

    def first_guess(self, data: Tensor) -> Tensor:
        """Fill unseen pixels with the average of the seen ones around them."""
        value = self(data)
        seen = self.mask.to(data).expand_as(data)
        while not bool((seen > 0).all()):
            if not bool((seen > 0).any()):
                return torch.full_like(data, 0.5)
            around = [_box(t) for t in (seen, value)]
            new = (seen == 0) & (around[0] > 1e-6)
            value = torch.where(new, around[1] / around[0].clamp_min(1e-6), value)
            seen = torch.where(new, 1.0, seen)
        return value

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Average by precision where pixels are seen; ``average`` elsewhere."""
        share = precision / (precision + pull) * self.mask.to(data)
        return average + share * (data - average)


class Blur(LinearOperator):
    """Convolution with a kernel.

    Parameters
    ----------
    kernel
        ``(rows, columns)``, not all 0; brought to sum 1.
    boundary
        "valid": only pixels that the kernel sees whole, so that data are smaller than the image
        by the kernel less one; "circular": the image goes on at its other side.
    """

    def __init__(self, kernel: Any, boundary: str = "valid") -> None:
        kernel = torch.as_tensor(kernel)
        kernel = kernel if kernel.is_floating_point() else kernel.double()
        if kernel.ndim != 2 or not bool(kernel.isfinite().all()) or not float(kernel.sum()) > 0:
            raise DataError(
                f"kernel: got shape {tuple(kernel.shape)} with sum {float(kernel.sum()):.3g}, "
                "expected (rows, columns) of finite numbers with a positive sum"
            )
        if boundary not in ("valid", "circular"):
            raise DataError(f"boundary: got {boundary!r}, expected 'valid' or 'circular'")
        self.kernel, self.boundary = kernel / kernel.sum(), boundary
        self._spectra: dict[tuple, Tensor] = {}

    def __call__(self, image: Tensor) -> Tensor:
        """Convolve."""
        out = self._filter(image, self._spectrum(image))
        if self.boundary == "circular":
            return out
        rows, columns = (n - 1 for n in self.kernel.shape)
        return out[..., rows:, columns:]

    def adjoint(self, data: Tensor) -> Tensor:
        """Correlate."""
        if self.boundary == "valid":
            rows, columns = (n - 1 for n in self.kernel.shape)
            data = torch.nn.functional.pad(data, (columns, 0, rows, 0))
        return self._filter(data, self._spectrum(data).conj())

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        if self.boundary == "circular":
            return shape
        return tuple(n + k - 1 for n, k in zip(shape, self.kernel.shape, strict=True))

    def first_guess(self, data: Tensor) -> Tensor:
        """Return the data, their border pixels repeated outwards."""
        if self.boundary == "circular":
            return data
        (rows, columns), (height, width) = self.kernel.shape, data.shape[-2:]
        down = (torch.arange(height + rows - 1) - rows // 2).clamp(0, height - 1)
        across = (torch.arange(width + columns - 1) - columns // 2).clamp(0, width - 1)
        return data[..., down[:, None].to(data.device), across.to(data.device)]

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """In one step in the Fourier basis if circular, else with that as preconditioner."""
        power = self._spectrum(average).abs().square()
        inverse = 1.0 / (precision * power + pull)
        target = precision * self.adjoint(data) + pull * average
        if self.boundary == "circular":
            return self._filter(target, inverse)

        def apply(x: Tensor) -> Tensor:
            return precision * self.adjoint(self(x)) + pull * x

        return conjugate_gradients(apply, target, average, lambda r: self._filter(r, inverse))

    def _spectrum(self, image: Tensor) -> Tensor:
        """Fourier transform of the kernel in an image of this size."""
        key = (tuple(image.shape[-2:]), image.dtype, image.device)
        if key not in self._spectra:
            (height, width), (rows, columns) = image.shape[-2:], self.kernel.shape
            if rows > height or columns > width:
                raise DataError(
                    f"kernel: got {rows} x {columns}, expected at most the size of the image, "
                    f"{height} x {width}"
                )
            wide = torch.zeros(height, width, dtype=torch.float64, device=image.device)
            wide[:rows, :columns] = self.kernel
            if self.boundary == "circular":  # the centre of the kernel stays where it is
                wide = wide.roll((-(rows // 2), -(columns // 2)), (0, 1))
            kind = torch.complex128 if image.dtype == torch.float64 else torch.complex64
            self._spectra = {key: torch.fft.rfft2(wide).to(kind)}
        return self._spectra[key]

    @staticmethod
    def _filter(image: Tensor, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(image) * spectrum, s=image.shape[-2:])


class Downsample(LinearOperator):
    """Each pixel is the mean of a square of pixels.

    Parameters
    ----------
    factor
        Side of the square; sides of the image are multiples of it.
    """

    def __init__(self, factor: int) -> None:
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise DataError(f"factor: got {factor!r}, expected a whole number, 1 or more")
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """Average squares."""
        height, width = image.shape[-2:]
        f = self.factor
        if height % f or width % f:
            raise DataError(f"image: got {height} x {width}, expected multiples of {f}")
        return image.reshape(*image.shape[:-2], height // f, f, width // f, f).mean((-3, -1))

    def adjoint(self, data: Tensor) -> Tensor:
        """Spread each number evenly over its square."""
        return self._repeat(data) / self.factor**2

    def image_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the image of which data of this shape come."""
        return tuple(n * self.factor for n in shape)

    def first_guess(self, data: Tensor) -> Tensor:
        """Interpolate."""
        size, lead = self.image_shape(data.shape[-2:]), data.shape[:-2]
        flat = data.reshape(1, math.prod(lead), *data.shape[-2:])
        flat = torch.nn.functional.interpolate(
            flat, size=size, mode="bicubic", align_corners=False
        )
        return flat.reshape(*lead, *size)

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Move each square as a whole: A A' is 1 / factor^2 times the identity."""
        off = data - self(average)
        return average + self._repeat(off) * (precision / (precision + pull * self.factor**2))

    def _repeat(self, data: Tensor) -> Tensor:
        return data.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


def _box(image: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels, zero outside."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    return torch.nn.functional.avg_pool2d(flat, 3, stride=1, padding=1).reshape(image.shape)
