"""Sharp posterior draws of a noisy image: a mixture over tilings of exact patch posteriors.

A tiling cuts the image into patches that do not overlap. Under a tiling the patch prior is a
proper density of images, and the posterior given ``y = x + noise`` is, patch by patch, a mixture
in closed form, from which draws are independent. Each of the ``size^2`` tilings t has a mean m_t
and a variance V_t of each pixel. With the average mean m = E m_t,

    E (x - m)^2 = E V_t - E (m_t - m)^2

where every tiling is calibrated: the error of an average is less than the average error by what
its members differ (Krogh & Vedelsby 1995). So the spread of the draws around their own tiling's
mean is brought from ``E V_t`` to that, and they are put around one image.

That image is the posterior mode by splitting (the tilings agree on it better than on m), but
for pixels that few patches hold: with N the number of patches around a pixel it is
``(m + (N - 1) mode) / N``. In an image of one patch everything is the exact posterior of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.models.images.patch_mixture import NoisyMixture, PatchMixture

__all__ = ["Tilings", "draw_tilings", "survey"]

#: components of a patch that are told apart; the others have no weight to speak of
COMPONENTS = 8
#: least share of a tiling's variance that is left by averaging
LEAST = 0.05
BAND = 2**14


class Tilings(NamedTuple):
    """What all tilings say, each ``(height, width)``.

    Attributes
    ----------
    mean
        Average of the means of the tilings.
    within, between
        Average of their variances, and variance of their means.
    """

    mean: Tensor
    within: Tensor
    between: Tensor

    def error(self) -> Tensor:
        """Variance of a pixel around the average, smoothed over the width of a patch."""
        left = _smooth(self.within) - _smooth(self.between)
        return torch.maximum(left, LEAST * _smooth(self.within))

    def shrinkage(self) -> Tensor:
        """Factor from the spread within a tiling to that around the average."""
        return (self.error() / _smooth(self.within)).sqrt()


def survey(
    y: Tensor,
    prior: PatchMixture,
    variance: float,
    stride: int = 2,
    progress: Callable[[int], object] | None = None,
) -> Tilings:
    """Mean and variance of each pixel over the tilings.

    Parameters
    ----------
    y
        Noisy image ``(height, width)``.
    prior
        Prior of the patches.
    variance
        Of the noise.
    stride
        1 for all tilings, 2 for every fourth.
    progress
        Called with the number of patches done since the last call.
    """
    noisy = prior.under_noise(variance, None, y.dtype)
    spread = noisy.error_variance()
    grid = PatchGrid(tuple(y.shape), prior.size, stride)
    rows = max(1, BAND // grid.num_columns)
    sums = [torch.zeros_like(y) for _ in range(3)]
    for first in range(0, grid.num_rows, rows):
        part = slice(first, min(first + rows, grid.num_rows))
        patches = grid.extract(y, part)
        mean, within = torch.zeros_like(patches), torch.zeros_like(patches)
        for weight, component in _likely(noisy, patches):
            estimate = noisy.estimate(patches, component)
            mean += weight * estimate
            within += weight * (estimate.square() + spread[component])
        within -= mean.square()
        for total, value in zip(sums, (mean, within, mean.square()), strict=True):
            grid.sum(value, part, out=total)
        if progress is not None:
            progress(len(patches))
    count = grid.count(y)
    mean, within, square = (total / count for total in sums)
    return Tilings(mean, within.clamp_min(0.0), (square - mean.square()).clamp_min(0.0))


def draw_tilings(y: Tensor, prior: PatchMixture, variance: float, num_draws: int) -> Tensor:
    """Draw from the tilings in turn, in random order, less the mean of the tiling.

    Parameters
    ----------
    y, prior, variance
        See :func:`survey`.
    num_draws
        Number of draws.

    Returns
    -------
    Tensor
        ``(num_draws, height, width)``: deviations from the mean of each draw's tiling.
    """
    noisy, size = prior.under_noise(variance, None, y.dtype), prior.size
    order = torch.cat([torch.randperm(size**2) for _ in range(-(-num_draws // size**2))])
    out = y.new_empty(num_draws, *y.shape)
    for draw, place in zip(out, order.tolist(), strict=False):
        grid = PatchGrid(tuple(y.shape), size, size, divmod(place, size))
        patches = grid.extract(y)
        mean, component, left = torch.zeros_like(patches), None, torch.rand_like(patches[:, :1])
        for weight, likely in _likely(noisy, patches):
            estimate = noisy.estimate(patches, likely)
            mean += weight * estimate
            if component is None:
                component, chosen = likely, estimate
            else:  # the uniform number falls into this component's part
                here = (left >= 0.0).squeeze(1)
                component = torch.where(here, likely, component)
                chosen = torch.where(here[:, None], estimate, chosen)
            left = left - weight
        deviation = chosen - mean + noisy.draw_error(component)
        draw.copy_(_assemble(deviation, grid))
    return out


def _likely(noisy: NoisyMixture, patches: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights ``(n, 1)`` and components ``(n,)``, the most probable first."""
    found = [
        noisy.scores(part).mT.topk(min(COMPONENTS, len(noisy.filters)), dim=1)
        for part in patches.split(noisy.chunk_size())
    ]
    weights = torch.cat([f.values for f in found]).softmax(1)
    components = torch.cat([f.indices for f in found])
    for weight, component in zip(weights.unbind(1), components.unbind(1), strict=True):
        yield weight[:, None], component


def _assemble(patches: Tensor, grid: PatchGrid) -> Tensor:
    """Put patches together without averaging: even ones whole, the others in what is left."""
    owners, places = [], []
    for side in (grid.down, grid.across):
        starts = side.starts
        even = [(s - side.offset) % side.stride == 0 for s in starts]
        owner = torch.zeros(side.length, dtype=torch.long)
        for index in sorted(range(len(starts)), key=lambda i: even[i]):
            owner[starts[index] : starts[index] + side.size] = index
        owners.append(owner.to(patches.device))
        begin = torch.tensor(starts)[owner]
        places.append((torch.arange(side.length) - begin).to(patches.device))
    patch = owners[0][:, None] * grid.num_columns + owners[1]
    return patches[patch, places[0][:, None] * grid.size + places[1]]


def _smooth(image: Tensor) -> Tensor:
    """Mean over 9 x 9 pixels, fewer at the border."""
    return torch.nn.functional.avg_pool2d(
        image[None, None], 9, stride=1, padding=4, count_include_pad=False
    )[0, 0]
