"""Half-quadratic splitting: EPLL's coordinate ascent over component, patch and image.

EPLL (Zoran & Weiss 2011) restores an image x from y = A x + noise as the maximum of

    -|A x - y|^2 / (2 sigma^2) + sum_i log p(patch_i(x)).

Every patch is given a copy z_i, tied to the image by ``-beta/2 |patch_i(x) - z_i|^2``. With beta
held, each step raises the objective: the component of each patch, the patches (a Wiener filter),
the image (least squares). beta then grows, which draws the copies to the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.models.images.noisy_mixture import NoisyMixture
from ppl_zoo.models.images.patch_mixture import PatchMixture

__all__ = ["Schedule", "average_restored", "split"]

#: patches in memory at once, on a CPU
BAND = 2**15


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
    shift
        Whether the places of the patches move from level to level, so that over the levels many
        more patches are seen than in one.
    """

    betas: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    stride: int = 2
    block: int | None = 16
    doubt: float = 3.0
    shift: bool = True

    def offset(self, level: int) -> tuple[int, int]:
        """Where patches begin at a level; successive ones lie far apart."""
        if not self.shift:
            return (0, 0)
        places = self.stride**2
        # golden steps through all places, none twice
        step = max(1, round(0.618 * places))
        while math.gcd(step, places) > 1:
            step -= 1
        return divmod(level * step % places, self.stride)


def average_restored(
    image: Tensor,
    noisy: NoisyMixture,
    grid: PatchGrid,
    progress: Callable[[int], object] | None = None,
    doubt: float = 0.0,
) -> Tensor:
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
    return total.div_(count)


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
        Stride, block and shift.
    progress
        See :func:`average_restored`.
    """
    image = start
    for level, variance in enumerate(variances):
        noisy = prior.under_noise(variance, schedule.block, image.dtype)
        grid = PatchGrid(tuple(image.shape), prior.size, schedule.stride, schedule.offset(level))
        average = average_restored(image, noisy, grid, progress, schedule.doubt)
        image = data_step(average, 1.0 / variance)
    return image
