"""Half-quadratic splitting: EPLL's coordinate ascent over component, patch and image.

EPLL (Zoran & Weiss 2011) restores an image x from y = A x + noise as the maximum of

    -|A x - y|^2 / (2 sigma^2) + sum_i log p(patch_i(x)).

Every patch is given a copy z_i, tied to the image by ``-beta/2 |patch_i(x) - z_i|^2``. With beta
held, each step raises the objective: the component of each patch, the patches (a Wiener filter),
the image (least squares). beta then grows, which draws the copies to the image.

Photographs look alike at all sizes, so the same prior holds for the image at half its size
(Papyan & Elad 2016): there, patches see what is too coarse for them here, with half the noise.
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
    "LEAST_NOISE",
    "QUALITIES",
    "Schedule",
    "Splitting",
    "average_restored",
    "average_scales",
    "make_schedule",
    "split",
]

#: patches in memory at once, on a CPU
BAND = 2**15
#: patches of an image by which a block is judged
PROBED = 1024
#: variance of noise of 15 grey levels, to which a tolerance refers; what a block loses falls as
#: the noise grows, about by this power of the variance
PROBED_VARIANCE, FALL = (15.0 / 255.0) ** 2, 0.75


@dataclass(frozen=True)
class Schedule:
    """How half-quadratic splitting goes: its levels, and how closely patches are looked at.

    Parameters
    ----------
    betas
        Weights of the tie between image and patches, in units of the precision of the noise.
    stride
        Every how many pixels a patch begins.
    block
        Coefficients whose products choose the component; None for all (exact).
    doubt
        Where the two best components differ by less, in nats, exact scores decide.
    tolerance
        What the choice by a block may lose, in nats a patch, on a sample of the patches, at noise
        of 15 grey levels; in an image where it loses more, such as one full of fine stripes, all
        products are kept. None not to look.
    shift
        Whether the places of the patches move from level to level, so that over the levels many
        more patches are seen than in one.
    scales
        In how many sizes the image is looked at, each half of the one before.
    """

    betas: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    stride: int = 3
    block: int | None = 16
    doubt: float = 3.0
    tolerance: float | None = None
    shift: bool = True
    scales: int = 3

    def grid(self, shape: tuple[int, int], size: int, level: int, scale: int) -> PatchGrid:
        """Where patches stand: at smaller scales, fewer do."""
        stride = self.stride if scale == 0 else min(size, max(4, self.stride))
        return PatchGrid(shape, size, stride, self.offset(level, stride))

    def count(self, shape: tuple[int, int], size: int) -> int:
        """Return about how many patches a level looks at."""
        shapes = [tuple(n >> scale for n in shape) for scale in range(self.scales)]
        grids = enumerate(s for s in shapes if min(s) >= size)
        return sum(len(self.grid(shape, size, 0, scale)) for scale, shape in grids)

    def offset(self, level: int, stride: int) -> tuple[int, int]:
        """Where patches begin at a level; successive ones lie far apart."""
        if not self.shift:
            return (0, 0)
        places = stride**2
        # golden steps through all places, none twice
        step = max(1, round(0.618 * places))
        while math.gcd(step, places) > 1:
            step -= 1
        return divmod(level * step % places, stride)


def average_restored(
    image: Tensor,
    noisy: NoisyMixture,
    grid: PatchGrid,
    progress: Callable[[int], object] | None = None,
    doubt: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Estimate all patches of an image and average them, a band of rows at a time.

    Where patches overlap, an estimate counts the more, the less error its component expects:
    some .05 dB more than a plain mean.

    Parameters
    ----------
    image
        ``(height, width)``.
    noisy
        The prior under the noise that ties patches to the image.
    grid
        Where the patches stand.
    progress
        Called with the number of patches done since the last call.
    doubt
        See :class:`Schedule`.

    Returns
    -------
    tuple
        The average, and what the estimates of each pixel counted, summed.
    """
    band = BAND if image.device.type == "cpu" else 32 * BAND
    rows = max(1, band // grid.num_columns)
    total, count = torch.zeros_like(image), torch.zeros_like(image)
    for first in range(0, grid.num_rows, rows):
        part = slice(first, min(first + rows, grid.num_rows))
        patches = grid.extract(image, part)
        weighted, weight = noisy.restore(patches, doubt)
        grid.sum(weighted, part, out=total)
        grid.spread(weight, part, out=count)
        if progress is not None:
            progress(len(patches))
    return total.div_(count), count


def average_scales(
    image: Tensor,
    prior: PatchMixture,
    variance: float,
    schedule: Schedule,
    level: int,
    progress: Callable[[int], object] | None = None,
    scale: int = 0,
) -> tuple[Tensor, Tensor]:
    """Average the estimates of all patches, and correct their 2 x 2 means by those at half size.

    The means are moved the nearer to those at half size, the surer these are: all the way where
    nothing but the mean of a patch is in doubt.

    Parameters
    ----------
    image
        ``(height, width)``.
    prior
        Prior of the patches.
    variance
        Of the noise that ties patches to the image.
    schedule, level
        Stride, block, shift and scales; which level this is.
    progress
        See :func:`average_restored`.
    scale
        How often the image has been halved.

    Returns
    -------
    tuple
        The average, and how sure it is, from 0 to 1.
    """
    noisy = prior.under_noise(variance, schedule.block, image.dtype)
    grid = schedule.grid(tuple(image.shape), prior.size, level, scale)
    average, sure = average_restored(image, noisy, grid, progress, schedule.doubt)
    if scale + 1 < schedule.scales and min(image.shape) >= 2 * prior.size:
        place = divmod(level * 3 % 4, 2)
        half, means = _halve(image, place), _halve(average, place)
        found, trust = average_scales(
            half, prior, variance / 4.0, schedule, level, progress, scale + 1
        )
        (down, across), (height, width) = place, image.shape
        change = trust.mul_(found.sub_(means)).repeat_interleave(2, 0).repeat_interleave(2, 1)
        average += change[down : down + height, across : across + width]
    return average, sure.div_(grid.count(sure)).div_(noisy.surest)


def _halve(image: Tensor, place: tuple[int, int]) -> Tensor:
    """Means of 2 x 2 pixels that begin one pixel up or left if ``place`` says so."""
    (height, width), (down, across) = image.shape, place
    sides = across, (width + across) % 2, down, (height + down) % 2
    wide = torch.nn.functional.pad(image[None, None], sides, mode="replicate")[0, 0]
    lines = wide[::2] + wide[1::2]
    return (lines[:, ::2] + lines[:, 1::2]).mul_(0.25)


def _settle(schedule: Schedule, image: Tensor, prior: PatchMixture, variance: float) -> Schedule:
    """Keep all products of coefficients for an image on which a block loses much."""
    block, tolerance = schedule.block, schedule.tolerance
    if block is None or tolerance is None or block >= prior.means.shape[1]:
        return schedule
    grid = PatchGrid(tuple(image.shape), prior.size, prior.size)
    patches = grid.extract(image, slice(None, None, max(1, grid.num_rows // 32)))
    patches = patches[:: max(1, len(patches) // PROBED)]
    noisy, exact = (prior.under_noise(variance, b, image.dtype) for b in (block, None))
    tolerance *= (PROBED_VARIANCE / variance) ** FALL
    return replace(schedule, block=None) if noisy.lost(patches, exact) > tolerance else schedule


def split(
    start: Tensor,
    prior: PatchMixture,
    data_step: Callable[[Tensor, float], Tensor],
    variances: Sequence[float],
    schedule: Schedule,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Run the levels.

    Parameters
    ----------
    start
        First image ``(height, width)``.
    prior
        Prior of the patches.
    data_step
        ``data_step(average, precision)``: the image that maximises the fit to the data less
        ``precision / 2 |x - average|^2``.
    variances
        ``1 / beta`` of each level, in units of a pixel's variance.
    schedule
        Stride, block, shift and scales.
    progress
        See :func:`average_restored`.
    """
    image, schedule = start, _settle(schedule, start, prior, variances[0])
    for level, variance in enumerate(variances):
        average, _ = average_scales(image, prior, variance, schedule, level, progress)
        image = data_step(average, 1.0 / variance)
    return image


# ---- The posterior mode of an image by splitting: which levels, for which operator and quality.

#: options of ``Schedule``
QUALITIES: dict[str, dict[str, Any]] = {
    "exact": {"stride": 1, "block": None, "shift": False, "scales": 1},
    "best": {"stride": 3, "scales": 3, "block": 28, "doubt": 4.0, "tolerance": 0.1},
    "fast": {"stride": 4, "scales": 2},
    "fastest": {"stride": 7, "scales": 2, "doubt": 0.0, "betas": (1.0, 4.0, 8.0, 16.0, 32.0)},
}
#: precisions of the ties while missing pixels are found, and how often each
FILLING = ((40.0, 1), (160.0, 2), (640.0, 3), (2560.0, 5), (10240.0, 6))
#: the least sd of noise: data without noise are then fitted to a fourth of a grey level
LEAST_NOISE = 1e-3


@dataclass
class Splitting:
    """An image by channels ``(n, height, width)``, and all that restoring it takes."""

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
        """Climb to the posterior mode by splitting, ``(n, height, width)``."""
        out, sides = [], [self.variances(float(sd)) for sd in self.noise]
        schedule = self.schedule
        if not isinstance(self.operator, Identity):
            # what ties patches and image is not noise that halving an image would average out:
            # another scale lost .02 dB on training images
            schedule = replace(schedule, scales=1, tolerance=None)
        grids = schedule.count(self.shape, self.mixture.size)
        with self.bar(grids * sum(map(len, sides))) as update:
            for data, sd, variances in zip(self.channels, self.noise, sides, strict=True):
                data_step = functools.partial(_data_step, self.operator, data, float(sd) ** -2)
                start = self.operator.first_guess(data)
                out.append(split(start, self.mixture, data_step, variances, schedule, update))
        return torch.stack(out)

    def variances(self, sd: float) -> list[float]:
        """Variances of the ties between patches and image, level by level."""
        if isinstance(self.operator, Identity):
            return [sd**2 / beta for beta in self.schedule.betas]
        if isinstance(self.operator, (Mask, Downsample)):
            return [1.0 / beta for beta, times in FILLING for _ in range(times)]
        return [1.0 / (50.0 * 2.0**level) for level in range(7)]

    @contextmanager
    def bar(self, total: int) -> Iterator[Callable[[int], object]]:
        """Show how many patches are done."""
        silent = None if self.progress else True
        with tqdm(total=total, desc="patches", disable=silent, unit_scale=True) as bar:
            yield bar.update


def make_schedule(quality: str, stride: int | None) -> Schedule:
    """Read the options of a quality, with another stride where one is given."""
    return Schedule(**(QUALITIES[quality] | ({} if stride is None else {"stride": stride})))


def _data_step(
    operator: LinearOperator, data: Tensor, precision: float, average: Tensor, pull: float
) -> Tensor:
    return operator.fit(data, precision, average, pull)
