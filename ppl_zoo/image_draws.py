"""Posterior draws of images, as solvers of :class:`ppl_zoo.EPLL`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.image_mode import Splitting, make_schedule
from ppl_zoo.imaging.operators import Identity
from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.model import Model
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.images.tilings import draw_tilings, survey
from ppl_zoo.solvers.drawn import PosteriorDraws
from ppl_zoo.solvers.solution import (
    Solution,
    chain_seed,
    read_parameters,
    set_seed,
    stack_chains,
)

__all__ = ["Tiling"]


@dataclass(frozen=True)
class Tiling:
    """Posterior draws of noisy images by tilings, see :mod:`ppl_zoo.models.images.tilings`.

    Parameters
    ----------
    num_draws
        Draws in all; independent of one another, in two chains so that R-hat can be read.
    quality, stride
        Of the mode around which the draws lie, as for :func:`restore`.
    """

    num_draws: int = 64
    quality: str = "best"
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if self.num_draws < 8:
            raise DataError(f"num_draws: got {self.num_draws}, expected 8 or more")

    def solve(
        self, model: Model, rows: Any, *, seed: int = 0, progress: bool = True, **_: Any
    ) -> Solution:
        """Draw; see :func:`ppl_zoo.fit`."""
        if not isinstance(model, EPLL) or not isinstance(model.operator, Identity):
            raise DataError("Tiling: expected an EPLL model without an operator")
        (channels, noise), mixture = rows.all(), model.mixture.to(rows.device)
        schedule = make_schedule(self.quality, self.stride)
        mode = Splitting(channels, noise, model.operator, mixture, schedule, progress).mode()
        draws, means, sds = [], [], []
        count = PatchGrid(tuple(mode.shape[-2:]), mixture.size).count(mode)
        for channel, (y, sd) in enumerate(zip(channels, noise.tolist(), strict=True)):
            tilings = survey(y, mixture, sd**2)
            mean = (tilings.mean + (count - 1.0) * mode[channel]) / count
            set_seed(chain_seed(seed, channel), y.device)
            spread = draw_tilings(y, mixture, sd**2, 2 * (self.num_draws // 2))
            draws.append(mean + tilings.shrinkage() * spread)
            means.append(mean)
            sds.append(tilings.error().sqrt())
        images = torch.stack(draws, 1)
        images = images.reshape(2, -1, *images.shape[1:])
        one = read_parameters(model, None)
        return Solution(
            parameters=stack_chains([one, one]),
            history={"objective": np.full((2, 1), np.nan)},
            objective=np.full(2, np.nan),
            stopped=("converged", "converged"),
            guide=PosteriorDraws(model, {"image": images}, rows.all()),
            draws={"image": images},
            state_tensors={"mean": torch.stack(means), "sd": torch.stack(sds)},
        )
