"""Half-quadratic splitting: the posterior mode of EPLL by coordinate ascent.

EPLL (Zoran & Weiss 2011) restores an image x from y = A x + noise as the maximum of

    -|A x - y|^2 / (2 sigma^2) + sum_i log p(patch_i(x)).

Every patch is given a copy z_i, coupled to the image by ``-beta/2 |patch_i(x) - z_i|^2``. With
beta held, each step raises the objective: the component of each patch, the patches (a Wiener
filter), the image (least squares). beta then grows from level to level, so that copies and image
come to agree.

The statistics of photographs do not depend on scale, so the same prior holds for the image at half
its size (Papyan & Elad 2016): there, patches see structure that is too coarse for them at full
size, with half the noise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ppl_zoo.imaging.operators import Downsample, Identity, LinearOperator, Mask
from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.models.images.patch_mixture import NoisyMixture, PatchMixture

__all__ = [
    "QUALITIES",
    "HalfQuadraticSplitting",
    "Schedule",
    "average_estimates",
    "average_scales",
    "make_schedule",
    "split",
]

#: options of :class:`Schedule`, by the name of the quality
QUALITIES: dict[str, dict[str, Any]] = {
    "exact": {"stride": 1, "block": None, "shift": False, "scales": 1},
    "best": {"stride": 3, "scales": 3, "block": 28, "exact_margin": 4.0, "tolerance": 0.1},
    "fast": {"stride": 4, "scales": 2},
    "fastest": {
        "stride": 7,
        "scales": 2,
        "exact_margin": 0.0,
        "betas": (1.0, 4.0, 8.0, 16.0, 32.0),
    },
}
#: coupling precisions with missing pixels, and the number of levels with each
INPAINTING_LEVELS = ((40.0, 1), (160.0, 2), (640.0, 3), (2560.0, 5), (10240.0, 6))
#: coupling precisions behind a blur, a level each
DEBLURRING_PRECISIONS = tuple(50.0 * 2.0**level for level in range(7))
#: patches in memory at once on a CPU; on a GPU, this many times more
MAX_PATCHES_PER_BAND, GPU_BAND_FACTOR = 2**15, 32
#: number of patches of an image on which the loss of a block is measured
NUM_PROBED_PATCHES = 1024
#: variance of noise of 15 grey levels, to which a tolerance refers; the loss of a block falls as
#: the noise grows, about by this power of the variance
REFERENCE_VARIANCE, LOSS_POWER = (15.0 / 255.0) ** 2, 0.75


@dataclass(frozen=True)
class Schedule:
    """Schedule of half-quadratic splitting: its levels, its patches, its choice of components.

    Parameters
    ----------
    betas
        Precisions of the coupling of image and patches, in units of the precision of the noise.
    stride
        Pixels between the starts of two patches.
    block
        Number of coefficients whose products choose the component; None for all (exact).
    exact_margin
        Where the two best components differ by less, in nats, exact scores decide.
    tolerance
        Largest loss of the choice by a block, in nats a patch, on a sample of the patches, at
        noise of 15 grey levels; in an image where it loses more, such as one full of fine
        stripes, all products are used. None not to measure it.
    shift
        Whether the grid of patches moves from level to level, so that the levels together cover
        many more patches than one.
    scales
        Number of sizes of the image that patches are taken from, each half of the one before.
    """

    betas: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    stride: int = 3
    block: int | None = 16
    exact_margin: float = 3.0
    tolerance: float | None = None
    shift: bool = True
    scales: int = 3

    def grid(self, shape: tuple[int, int], size: int, level: int, scale: int) -> PatchGrid:
        """Grid of patches of a level at a scale; at smaller scales the stride is larger."""
        stride = self.stride if scale == 0 else min(size, max(4, self.stride))
        return PatchGrid(shape, size, stride, self.offset(level, stride))

    def count(self, shape: tuple[int, int], size: int) -> int:
        """Return about how many patches a level has."""
        shapes = [tuple(n >> scale for n in shape) for scale in range(self.scales)]
        grids = enumerate(s for s in shapes if min(s) >= size)
        return sum(len(self.grid(shape, size, 0, scale)) for scale, shape in grids)

    def offset(self, level: int, stride: int) -> tuple[int, int]:
        """Offset of the grid at a level; successive ones lie far apart."""
        if not self.shift:
            return (0, 0)
        num_offsets = stride**2
        # golden-ratio steps through all offsets, none twice
        step = max(1, round(0.618 * num_offsets))
        while math.gcd(step, num_offsets) > 1:
            step -= 1
        return divmod(level * step % num_offsets, stride)


def make_schedule(quality: str, stride: int | None) -> Schedule:
    """Schedule of a quality, with another stride where one is given."""
    return Schedule(**(QUALITIES[quality] | ({} if stride is None else {"stride": stride})))


@dataclass
class HalfQuadraticSplitting:
    """Posterior mode of an image by half-quadratic splitting.

    Parameters
    ----------
    channels
        Data of each channel, ``(n, rows, columns)``.
    noise
        Standard deviation of the noise of each channel, ``(n,)``.
    operator
        A, the same for all channels.
    mixture
        Prior of the patches.
    schedule
        Levels, patches and scales.
    progress
        Whether to show a progress bar.
    """

    channels: Tensor
    noise: Tensor
    operator: LinearOperator
    mixture: PatchMixture
    schedule: Schedule
    progress: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the restored image."""
        return self.operator.image_shape(tuple(self.channels.shape[-2:]))

    def mode(self) -> Tensor:
        """Compute the posterior mode, ``(n, height, width)``."""
        modes, levels = [], [self.variances(float(sd)) for sd in self.noise]
        schedule = self.schedule
        if not isinstance(self.operator, Identity):
            # behind an operator the coupling is no noise that halving an image would average
            # out: another scale lost .02 dB on training images
            schedule = replace(schedule, scales=1, tolerance=None)
        num_patches = schedule.count(self.shape, self.mixture.size)
        with self._progress_bar(num_patches * sum(map(len, levels))) as update:
            for data, sd, variances in zip(self.channels, self.noise, levels, strict=True):
                data_step = functools.partial(_data_step, self.operator, data, float(sd) ** -2)
                start = self.operator.first_guess(data)
                modes.append(split(start, self.mixture, data_step, variances, schedule, update))
        return torch.stack(modes)

    def variances(self, sd: float) -> list[float]:
        """Variances of the coupling of image and patches, level by level."""
        if isinstance(self.operator, Identity):
            return [sd**2 / beta for beta in self.schedule.betas]
        if isinstance(self.operator, (Mask, Downsample)):
            return [1.0 / beta for beta, times in INPAINTING_LEVELS for _ in range(times)]
        return [1.0 / beta for beta in DEBLURRING_PRECISIONS]

    @contextmanager
    def _progress_bar(self, total: int) -> Iterator[Callable[[int], object]]:
        """Show the number of patches that are done."""
        silent = None if self.progress else True
        with tqdm(total=total, desc="patches", disable=silent, unit_scale=True) as bar:
            yield bar.update


def split(
    start: Tensor,
    prior: PatchMixture,
    data_step: Callable[[Tensor, float], Tensor],
    variances: Sequence[float],
    schedule: Schedule,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Run half-quadratic splitting: patches and image in turn, level by level.

    Parameters
    ----------
    start
        Initial image ``(height, width)``.
    prior
        Prior of the patches.
    data_step
        ``data_step(average, precision)``: the image that maximises the log likelihood of the data
        less ``precision / 2 |x - average|^2``.
    variances
        ``1 / beta`` of each level, in units of a pixel's variance.
    schedule
        Stride, block, shift and scales.
    progress
        See :func:`average_estimates`.
    """
    image, schedule = start, _check_block(schedule, start, prior, variances[0])
    for level, variance in enumerate(variances):
        average, _ = average_scales(image, prior, variance, schedule, level, progress)
        image = data_step(average, 1.0 / variance)
    return image


def average_scales(
    image: Tensor,
    prior: PatchMixture,
    variance: float,
    schedule: Schedule,
    level: int,
    progress: Callable[[int], object] | None = None,
    scale: int = 0,
) -> tuple[Tensor, Tensor]:
    """Average the estimates of all patches, with 2 x 2 means corrected by those at half size.

    The higher the confidence at half size, the closer the means are moved to those found there:
    all the way where nothing but the mean of a patch is uncertain.

    Parameters
    ----------
    image
        ``(height, width)``.
    prior
        Prior of the patches.
    variance
        Variance of the noise that couples patches to the image.
    schedule, level
        Stride, block, shift and scales; number of the level.
    progress
        See :func:`average_estimates`.
    scale
        How often the image has been halved.

    Returns
    -------
    tuple
        The average, and its confidence from 0 to 1, ``(height, width)`` each.
    """
    noisy = prior.under_noise(variance, schedule.block, image.dtype)
    grid = schedule.grid(tuple(image.shape), prior.size, level, scale)
    average, weight = average_estimates(image, noisy, grid, progress, schedule.exact_margin)
    if scale + 1 < schedule.scales and min(image.shape) >= 2 * prior.size:
        offset = divmod(level * 3 % 4, 2)
        half, means = _halve(image, offset), _halve(average, offset)
        found, confidence = average_scales(
            half, prior, variance / 4.0, schedule, level, progress, scale + 1
        )
        (down, across), (height, width) = offset, image.shape
        change = confidence.mul_(found.sub_(means)).repeat_interleave(2, 0)
        change = change.repeat_interleave(2, 1)
        average += change[down : down + height, across : across + width]
    return average, weight.div_(grid.count(weight)).div_(noisy.max_weight)


def average_estimates(
    image: Tensor,
    noisy: NoisyMixture,
    grid: PatchGrid,
    progress: Callable[[int], object] | None = None,
    exact_margin: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Weighted average of the estimates of all patches of an image, a band of rows at a time.

    Where patches overlap, the weight of an estimate is the larger, the smaller the expected error
    under its component: some .05 dB more than a plain mean.

    Parameters
    ----------
    image
        ``(height, width)``.
    noisy
        The prior under the noise that couples patches to the image.
    grid
        Grid of the patches.
    progress
        Called with the number of patches done since the last call.
    exact_margin
        See :class:`Schedule`.

    Returns
    -------
    tuple
        The average, and the sum of the weights of the estimates of each pixel.
    """
    on_cpu = image.device.type == "cpu"
    band = MAX_PATCHES_PER_BAND if on_cpu else GPU_BAND_FACTOR * MAX_PATCHES_PER_BAND
    rows = max(1, band // grid.num_columns)
    total, count = torch.zeros_like(image), torch.zeros_like(image)
    for first in range(0, grid.num_rows, rows):
        part = slice(first, min(first + rows, grid.num_rows))
        patches = grid.extract(image, part)
        weighted, weight = noisy.restore(patches, exact_margin)
        grid.sum(weighted, part, out=total)
        grid.spread(weight, part, out=count)
        if progress is not None:
            progress(len(patches))
    return total.div_(count), count


def _halve(image: Tensor, offset: tuple[int, int]) -> Tensor:
    """Means of 2 x 2 pixels, the first ones ``offset`` (0 or 1 each) beyond the border."""
    (height, width), (down, across) = image.shape, offset
    sides = across, (width + across) % 2, down, (height + down) % 2
    padded = torch.nn.functional.pad(image[None, None], sides, mode="replicate")[0, 0]
    lines = padded[::2] + padded[1::2]
    return (lines[:, ::2] + lines[:, 1::2]).mul_(0.25)


def _check_block(
    schedule: Schedule, image: Tensor, prior: PatchMixture, variance: float
) -> Schedule:
    """Use all products of coefficients for an image in which a block exceeds the tolerance."""
    block, tolerance = schedule.block, schedule.tolerance
    if block is None or tolerance is None or block >= prior.means.shape[1]:
        return schedule
    grid = PatchGrid(tuple(image.shape), prior.size, prior.size)
    patches = grid.extract(image, slice(None, None, max(1, grid.num_rows // 32)))
    patches = patches[:: max(1, len(patches) // NUM_PROBED_PATCHES)]
    noisy, exact = (prior.under_noise(variance, b, image.dtype) for b in (block, None))
    tolerance *= (REFERENCE_VARIANCE / variance) ** LOSS_POWER
    exceeded = noisy.score_loss(patches, exact) > tolerance
    return replace(schedule, block=None) if exceeded else schedule


def _data_step(
    operator: LinearOperator, data: Tensor, precision: float, average: Tensor, pull: float
) -> Tensor:
    return operator.fit(data, precision, average, pull)
