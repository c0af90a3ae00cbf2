"""Restoration problem: a degraded image with the options of a restoration, and its solution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.solver import Solver
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit, load
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
    prior, method, quality, stride, num_draws, steps, net, seed, progress, checkpoint
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
    checkpoint: Path | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the restored image."""
        return self.operator.image_shape(tuple(self.channels.shape[-2:]))

    def fit(self, model: Model, data: Any, solver: Solver, stage: str = "") -> Fit:
        """Fit a model with these options; go on from the checkpoint, if it holds this fit.

        Parameters
        ----------
        model, data, solver
            As for :func:`ppl_zoo.fit`.
        stage
            Folder of the checkpoint that this fit has, where there are several.

        Raises
        ------
        DataError
            If the checkpoint is that of another image or of other options.
        """
        options = {"device": self.channels.device, "seed": self.seed, "progress": self.progress}
        if self.checkpoint is None:
            return fit(model, data, solver, **options)
        place = self.checkpoint / stage if stage else self.checkpoint
        if not (place / "fit.json").exists():
            return fit(model, data, solver, checkpoint=place, **options)
        before = load(place, model=model, solver=solver, device=self.channels.device)
        held = None if before.rows is None else before.rows.all()
        given = model.as_rows(data).all()
        same = held is not None and all(map(torch.equal, held, given)) and before.seed == self.seed
        if not same:
            raise DataError(
                f"checkpoint: {place} holds the run of another image, noise or seed; take another "
                "folder, or remove it"
            )
        return fit(model, data, solver, checkpoint=place, resume=before, **options)


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
