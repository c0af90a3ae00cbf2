"""Posterior draws of images, as solvers of :class:`ppl_zoo.EPLL`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.posterior import PosteriorDraws
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.imaging.operators import Identity
from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.restoration.half_quadratic import Splitting, make_schedule
from ppl_zoo.restoration.split_gibbs import SplitChains, width
from ppl_zoo.restoration.tilings import draw_tilings, survey

__all__ = ["SplitGibbs", "Tiling"]

#: standard deviations between image and copy: wide ones first, to move; as many sweeps of each
RHOS = (0.1, 0.07, 0.05, 0.035, 0.025, 0.018)
#: pixels of all chains in memory at once
CHAINED = 2**24


@dataclass(frozen=True)
class Tiling(Solver):
    """Posterior draws of noisy images by tilings, see :mod:`ppl_zoo.restoration.tilings`.

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

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw; see :func:`ppl_zoo.fit`."""
        if not isinstance(model, EPLL) or not isinstance(model.operator, Identity):
            raise DataError("Tiling: expected an EPLL model without an operator")
        (channels, noise), mixture = rows.all(), model.mixture.to(rows.device)
        schedule = make_schedule(self.quality, self.stride)
        mode = Splitting(
            channels, noise, model.operator, mixture, schedule, context.progress
        ).mode()
        draws, means, sds = [], [], []
        count = PatchGrid(tuple(mode.shape[-2:]), mixture.size).count(mode)
        for channel, (y, sd) in enumerate(zip(channels, noise.tolist(), strict=True)):
            tilings = survey(y, mixture, sd**2)
            mean = (tilings.mean + (count - 1.0) * mode[channel]) / count
            set_seed(chain_seed(context.seed, channel), y.device)
            spread = draw_tilings(y, mixture, sd**2, 2 * (self.num_draws // 2))
            draws.append(mean + tilings.shrinkage() * spread)
            means.append(mean)
            sds.append(tilings.error().sqrt())
        return _solution(model, rows, torch.stack(draws, 1), torch.stack(means), torch.stack(sds))


@dataclass(frozen=True)
class SplitGibbs(Solver):
    """Posterior draws of images behind an operator, see :mod:`ppl_zoo.restoration.split_gibbs`.

    Every draw is the end of a chain of its own, which starts at the posterior mode, under a
    tiling of its own. Draws are put around the mode, for tilings agree on it better than on
    their means, and their spread is tempered pixel by pixel, by what averaging over tilings
    gains: a law for each kind of operator, from training images, see
    :mod:`ppl_zoo.restoration.split_gibbs`.

    Parameters
    ----------
    num_draws
        Draws in all; independent of one another, in two chains so that R-hat can be read.
    quality, stride
        Of the mode around which the draws lie, as for :func:`restore`.
    sweeps
        Of each chain at each distance of image and copy, of which there are six.
    tempering
        Spread of the posterior in units of that of the chains, one number for all pixels; None
        for the law from training images.
    """

    num_draws: int = 64
    quality: str = "best"
    stride: int | None = None
    sweeps: int = 3
    tempering: float | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name, least in (("num_draws", 8), ("sweeps", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name}: got {getattr(self, name)}, expected {least} or more")

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw; see :func:`ppl_zoo.fit`."""
        if not isinstance(model, EPLL):
            raise DataError(f"SplitGibbs: got a {type(model).__name__}, expected an EPLL model")
        (channels, noise), mixture = rows.all(), model.mixture.to(rows.device)
        schedule, operator = make_schedule(self.quality, self.stride), model.operator
        mode = Splitting(channels, noise, operator, mixture, schedule, context.progress).mode()
        # an image of one patch has no other tiling: there, nothing is tempered
        share = 1.0 / PatchGrid(tuple(mode.shape[-2:]), mixture.size).count(mode)
        draws, means, sds = [], [], []
        num_draws, silent = 2 * (self.num_draws // 2), None if context.progress else True
        with tqdm(total=num_draws * len(mode), desc="draws", disable=silent) as bar:
            for channel, (y, sd) in enumerate(zip(channels, noise.tolist(), strict=True)):
                set_seed(chain_seed(context.seed, channel), y.device)
                found = self._ends(y, sd, model, mixture, mode[channel], num_draws, bar)
                centre = found.mean(0)
                mean = share * centre + (1.0 - share) * mode[channel]
                factor: Any = self.tempering
                if factor is None:
                    factor = width(found.std(0), operator)
                found = mean + (share + (1.0 - share) * factor) * (found - centre)
                draws.append(found)
                means.append(mean)
                sds.append(found.std(0))
        return _solution(model, rows, torch.stack(draws, 1), torch.stack(means), torch.stack(sds))

    def _ends(
        self,
        y: Tensor,
        sd: float,
        model: EPLL,
        mixture: PatchMixture,
        mode: Tensor,
        num_draws: int,
        bar: Any,
    ) -> Tensor:
        """Return the last images of the chains, ``(num_draws, height, width)``."""
        size, ends = mixture.size, []
        # where an image is a single patch wide, tilings begin where it does
        down, across = (min(size, length - size + 1) for length in mode.shape)
        places = torch.cat(
            [torch.randperm(down * across) for _ in range(1 + num_draws // (down * across))]
        )
        places = [divmod(place, across) for place in places[:num_draws].tolist()]
        most = max(1, CHAINED // mode.numel())
        for first in range(0, num_draws, most):
            part = places[first : first + most]
            chains = SplitChains(y, sd, model.operator, mixture, mode, part)
            for rho in RHOS:
                for _ in range(self.sweeps):
                    image = chains.sweep(rho)
            ends.append(image)
            bar.update(len(part))
        return torch.cat(ends)


def _solution(model: Model, rows: Rows, draws: Tensor, means: Tensor, sds: Tensor) -> Solution:
    """Return draws ``(draw, image, height, width)`` as those of two chains."""
    images = draws.reshape(2, -1, *draws.shape[1:])
    one = read_parameters(model, None)
    return Solution(
        parameters=stack_chains([one, one]),
        history={"objective": np.full((2, 1), np.nan)},
        objective=np.full(2, np.nan),
        stopped=("converged", "converged"),
        guide=PosteriorDraws(model, {"image": images}, rows.all()),
        draws={"image": images},
        state_tensors={"mean": means, "sd": sds},
    )
