"""Blur: convolution of an image with a kernel, valid or circular."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.linear_operator import LinearOperator, conjugate_gradients

__all__ = ["Blur"]


class Blur(LinearOperator):
    """Blur operator: convolution with a kernel.

    Parameters
    ----------
    kernel
        ``(rows, columns)``, not all 0; brought to sum 1.
    boundary
        "valid": only pixels where the whole kernel lies inside the image, so that data are smaller
        than the image by the kernel less one; "circular": the image is periodic.
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
        """Convolve the image with the kernel."""
        out = self._filter(image, self._spectrum(image))
        if self.boundary == "circular":
            return out
        rows, columns = (n - 1 for n in self.kernel.shape)
        return out[..., rows:, columns:]

    def adjoint(self, data: Tensor) -> Tensor:
        """Correlate the data with the kernel, the adjoint of convolution."""
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
        """Return the data with replicated border pixels."""
        if self.boundary == "circular":
            return data
        (rows, columns), (height, width) = self.kernel.shape, data.shape[-2:]
        down = (torch.arange(height + rows - 1) - rows // 2).clamp(0, height - 1)
        across = (torch.arange(width + columns - 1) - columns // 2).clamp(0, width - 1)
        return data[..., down[:, None].to(data.device), across.to(data.device)]

    def fit(self, data: Tensor, precision: float, average: Tensor, pull: float) -> Tensor:
        """Regularised least squares, in the Fourier basis if circular.

        Else by conjugate gradients with the circular solution as preconditioner.
        """
        power = self._spectrum(average).abs().square()
        inverse = 1.0 / (precision * power + pull)
        target = precision * self.adjoint(data) + pull * average
        if self.boundary == "circular":
            return self._filter(target, inverse)

        def apply(x: Tensor) -> Tensor:
            return precision * self.adjoint(self(x)) + pull * x

        return conjugate_gradients(apply, target, average, lambda r: self._filter(r, inverse))

    def _spectrum(self, image: Tensor) -> Tensor:
        """Transfer function: Fourier transform of the kernel, padded to the image's size."""
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
            dtype = torch.complex128 if image.dtype == torch.float64 else torch.complex64
            self._spectra = {key: torch.fft.rfft2(wide).to(dtype)}
        return self._spectra[key]

    @staticmethod
    def _filter(image: Tensor, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(image) * spectrum, s=image.shape[-2:])
