"""Samplers of EPLL's posterior over images: tilings and split Gibbs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.posterior import PosteriorDraws
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.imaging.operators import Identity
from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.images.patch_mixture import PatchMixture
from ppl_zoo.restoration.half_quadratic import HalfQuadraticSplitting, make_schedule
from ppl_zoo.restoration.split_gibbs import SplitChains, tempering_factor
from ppl_zoo.restoration.tilings import draw_tilings, tiling_moments

__all__ = ["SplitGibbs", "Tiling"]

#: standard deviations between image and copy, from fast mixing to little bias; as many sweeps of
#: each
COUPLING_SDS = (0.1, 0.07, 0.05, 0.035, 0.025, 0.018)
#: pixels of all chains in memory at once
MAX_CHAIN_PIXELS = 2**24


@options(num_draws="num_samples")
@dataclass(frozen=True, repr=False)
class Tiling(Solver):
    """Posterior draws of noisy images by tilings, see :mod:`ppl_zoo.restoration.tilings`.

    Parameters
    ----------
    num_samples
        Number of draws; independent of one another, in two chains so that R-hat is defined.
    quality, stride
        Options of the mode on which the draws are centred, as for :func:`restore`.
    """

    num_samples: int = 64
    quality: str = "best"
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        if self.num_samples < 8:
            raise DataError(f"num_samples: got {self.num_samples}, expected 8 or more")

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw images; see :func:`ppl_zoo.fit`."""
        if not isinstance(model, EPLL) or not isinstance(model.operator, Identity):
            raise DataError("Tiling: expected an EPLL model without an operator")
        (channels, noise), mixture = rows.all(), model.mixture.to(rows.device)
        schedule = make_schedule(self.quality, self.stride)
        mode = HalfQuadraticSplitting(
            channels, noise, model.operator, mixture, schedule, context.progress
        ).mode()
        draws, means, sds = [], [], []
        count = PatchGrid(tuple(mode.shape[-2:]), mixture.size).count(mode)
        for channel, (y, sd) in enumerate(zip(channels, noise.tolist(), strict=True)):
            tilings = tiling_moments(y, mixture, sd**2)
            mean = (tilings.mean + (count - 1.0) * mode[channel]) / count
            set_seed(chain_seed(context.seed, channel), y.device)
            deviations = draw_tilings(y, mixture, sd**2, 2 * (self.num_samples // 2))
            draws.append(mean + tilings.shrinkage() * deviations)
            means.append(mean)
            sds.append(tilings.error().sqrt())
        return _solution(model, rows, torch.stack(draws, 1), torch.stack(means), torch.stack(sds))


@options(num_draws="num_samples")
@dataclass(frozen=True, repr=False)
class SplitGibbs(Solver):
    """Posterior draws of images behind an operator, see :mod:`ppl_zoo.restoration.split_gibbs`.

    Every draw is the last state of its own chain, which starts at the posterior mode, under its
    own tiling. Draws are centred on the mode, which is more accurate than their means, and their
    sd is tempered pixel by pixel, by what averaging over tilings gains: a power law for each
    operator, from training images.

    Parameters
    ----------
    num_samples
        Number of draws; independent of one another, in two chains so that R-hat is defined.
    quality, stride
        Options of the mode on which the draws are centred, as for :func:`restore`.
    sweeps
        Sweeps of each chain at each of six standard deviations between image and copy.
    tempering
        Sd of the posterior in units of that of the chains, one number for all pixels; None for
        the power law from training images.
    """

    num_samples: int = 64
    quality: str = "best"
    stride: int | None = None
    sweeps: int = 3
    tempering: float | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name, least in (("num_samples", 8), ("sweeps", 1)):
            if getattr(self, name) < least:
                raise DataError(f"{name}: got {getattr(self, name)}, expected {least} or more")

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw images; see :func:`ppl_zoo.fit`."""
        if not isinstance(model, EPLL):
            raise DataError(f"SplitGibbs: got a {type(model).__name__}, expected an EPLL model")
        (channels, noise), mixture = rows.all(), model.mixture.to(rows.device)
        schedule, operator = make_schedule(self.quality, self.stride), model.operator
        mode = HalfQuadraticSplitting(
            channels, noise, operator, mixture, schedule, context.progress
        ).mode()
        # an image of one patch has no other tiling: there, nothing is tempered
        share = 1.0 / PatchGrid(tuple(mode.shape[-2:]), mixture.size).count(mode)
        draws, means, sds = [], [], []
        num_draws, silent = 2 * (self.num_samples // 2), None if context.progress else True
        with tqdm(total=num_draws * len(mode), desc="draws", disable=silent) as bar:
            for channel, (y, sd) in enumerate(zip(channels, noise.tolist(), strict=True)):
                set_seed(chain_seed(context.seed, channel), y.device)
                found = self._last_states(y, sd, model, mixture, mode[channel], num_draws, bar)
                centre = found.mean(0)
                mean = share * centre + (1.0 - share) * mode[channel]
                factor: float | Tensor | None = self.tempering
                if factor is None:
                    factor = tempering_factor(found.std(0), operator)
                found = mean + (share + (1.0 - share) * factor) * (found - centre)
                draws.append(found)
                means.append(mean)
                sds.append(found.std(0))
        return _solution(model, rows, torch.stack(draws, 1), torch.stack(means), torch.stack(sds))

    def _last_states(
        self,
        y: Tensor,
        sd: float,
        model: EPLL,
        mixture: PatchMixture,
        mode: Tensor,
        num_draws: int,
        bar: tqdm,
    ) -> Tensor:
        """Return the last images of the chains, ``(num_draws, height, width)``."""
        size, images = mixture.size, []
        # where an image is a single patch wide, its tiling has no other offset
        down, across = (min(size, length - size + 1) for length in mode.shape)
        offsets = torch.cat(
            [torch.randperm(down * across) for _ in range(1 + num_draws // (down * across))]
        )
        offsets = [divmod(offset, across) for offset in offsets[:num_draws].tolist()]
        most = max(1, MAX_CHAIN_PIXELS // mode.numel())
        for first in range(0, num_draws, most):
            part = offsets[first : first + most]
            chains = SplitChains(y, sd, model.operator, mixture, mode, part)
            for rho in COUPLING_SDS:
                for _ in range(self.sweeps):
                    image = chains.sweep(rho)
            images.append(image)
            bar.update(len(part))
        return torch.cat(images)


def _solution(model: Model, rows: Rows, draws: Tensor, means: Tensor, sds: Tensor) -> Solution:
    """Solution with draws ``(draw, image, height, width)`` split into two chains."""
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
