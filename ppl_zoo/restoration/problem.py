"""Restoration problem: a degraded image with the options of a restoration, and its solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_zoo.fitting.result import Fit
from ppl_zoo.imaging.operators import LinearOperator
from ppl_zoo.solvers.early_stopping.solver import EarlyStopping

__all__ = ["MIN_NOISE_SD", "ImageEstimate", "RestorationProblem"]

#: least noise sd that is assumed, in units of the image: a fourth of a grey level
MIN_NOISE_SD = 1e-3


@dataclass(frozen=True)
class RestorationProblem:
    """Inverse problem ``channels = operator(image) + noise``, and how to solve it.

    Attributes
    ----------
    channels
        The degraded image, ``(channels, rows, columns)``.
    operator
        The degradation before noise.
    sigma, sigma_known
        Standard deviation of the noise, and whether it was given, not estimated.
    prior, method, quality, stride, num_draws, steps, net, seed, progress
        Options of :func:`ppl_zoo.restore`.
    """

    channels: Tensor
    operator: LinearOperator
    sigma: float
    sigma_known: bool
    prior: Any
    method: str | EarlyStopping
    quality: str
    stride: int | None
    num_draws: int
    steps: int | None
    net: Any
    seed: int
    progress: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the restored image."""
        return self.operator.image_shape(tuple(self.channels.shape[-2:]))

    @property
    def fit_options(self) -> dict[str, Any]:
        """Options of :func:`ppl_zoo.fit`."""
        device = self.channels.device
        return {"device": device, "seed": self.seed, "progress": self.progress}


@dataclass(frozen=True)
class ImageEstimate:
    """Estimate of the image by a method.

    Attributes
    ----------
    image, sd
        Image and posterior sd, ``(channels, height, width)``; sd is None for a point estimate.
    fit
        The fit behind them; None for a mode without one.
    """

    image: Tensor
    sd: Tensor | None = None
    fit: Fit | None = None
