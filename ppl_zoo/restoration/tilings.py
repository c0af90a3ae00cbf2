"""Tilings: posterior draws of a noisy image as a mixture of exact patch posteriors.

A tiling cuts the image into patches that do not overlap. Under a tiling the patch prior is a
proper density of images, and the posterior given ``y = x + noise`` is, patch by patch, a mixture
in closed form, from which draws are independent. Each of the ``size^2`` tilings t has a mean m_t
and a variance V_t of each pixel. With the average mean m = E m_t,

    E (x - m)^2 = E V_t - E (m_t - m)^2

where every tiling is calibrated: the error of an average is less than the average error by the
variance of its members (Krogh & Vedelsby 1995). So the variance of the draws around their own
tiling's mean is scaled from ``E V_t`` to that, and they are centred on one image.

That image is the posterior mode by half-quadratic splitting (more accurate than m), but for pixels
that few patches cover: with N the number of patches that cover a pixel it is
``(m + (N - 1) mode) / N``. For an image of one patch all this is its exact posterior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ppl_zoo.imaging.patches import PatchGrid
from ppl_zoo.models.images.patch_mixture import NoisyMixture, PatchMixture

__all__ = ["Tilings", "draw_tilings", "tiling_moments"]

#: components of a patch's posterior, the most probable ones; the others are negligible
MAX_COMPONENTS = 8
#: least variance of the average, as a share of that of a tiling
MIN_VARIANCE_SHARE = 0.05
#: patches in memory at once
MAX_TILING_PATCHES = 2**14
#: rows and columns of pixels over which variances are smoothed
SMOOTHING_WIDTH = 9


class Tilings(NamedTuple):
    """Moments of a pixel over all tilings, each ``(height, width)``.

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
        error = _smooth(self.within) - _smooth(self.between)
        return torch.maximum(error, MIN_VARIANCE_SHARE * _smooth(self.within))

    def shrinkage(self) -> Tensor:
        """Factor from the sd within a tiling to the sd around the average."""
        return (self.error() / _smooth(self.within)).sqrt()


def tiling_moments(
    y: Tensor,
    prior: PatchMixture,
    variance: float,
    stride: int = 2,
    progress: Callable[[int], object] | None = None,
) -> Tilings:
    """Posterior mean and variance of each pixel over the tilings.

    Parameters
    ----------
    y
        Noisy image ``(height, width)``.
    prior
        Prior of the patches.
    variance
        Variance of the noise.
    stride
        1 for all tilings, 2 for every fourth.
    progress
        Called with the number of patches done since the last call.
    """
    noisy = prior.under_noise(variance, None, y.dtype)
    error = noisy.error_variance()
    grid = PatchGrid(tuple(y.shape), prior.size, stride)
    rows = max(1, MAX_TILING_PATCHES // grid.num_columns)
    sums = [torch.zeros_like(y) for _ in range(3)]
    for first in range(0, grid.num_rows, rows):
        part = slice(first, min(first + rows, grid.num_rows))
        patches = grid.extract(y, part)
        mean, within = torch.zeros_like(patches), torch.zeros_like(patches)
        for weight, component in _probable_components(noisy, patches):
            estimate = noisy.estimate(patches, component)
            mean += weight * estimate
            within += weight * (estimate.square() + error[component])
        within -= mean.square()
        for total, value in zip(sums, (mean, within, mean.square()), strict=True):
            grid.sum(value, part, out=total)
        if progress is not None:
            progress(len(patches))
    count = grid.count(y)
    mean, within, square = (total / count for total in sums)
    return Tilings(mean, within.clamp_min(0.0), (square - mean.square()).clamp_min(0.0))


def draw_tilings(y: Tensor, prior: PatchMixture, variance: float, num_draws: int) -> Tensor:
    """Posterior draws under the tilings in turn, in random order, less the mean of the tiling.

    Parameters
    ----------
    y, prior, variance
        See :func:`tiling_moments`.
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
        mean, component = torch.zeros_like(patches), None
        uniform = torch.rand_like(patches[:, :1])
        for weight, candidate in _probable_components(noisy, patches):
            estimate = noisy.estimate(patches, candidate)
            mean += weight * estimate
            if component is None:
                component, chosen = candidate, estimate
            else:  # inverse transform sampling: the uniform falls into this component's interval
                here = (uniform >= 0.0).squeeze(1)
                component = torch.where(here, candidate, component)
                chosen = torch.where(here[:, None], estimate, chosen)
            uniform = uniform - weight
        deviation = chosen - mean + noisy.draw_error(component)
        draw.copy_(_assemble(deviation, grid))
    return out


def _probable_components(noisy: NoisyMixture, patches: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Posterior weights ``(n, 1)`` and components ``(n,)``, the most probable first."""
    found = [
        noisy.scores(part).mT.topk(min(MAX_COMPONENTS, len(noisy.filters)), dim=1)
        for part in patches.split(noisy.chunk_size())
    ]
    weights = torch.cat([f.values for f in found]).softmax(1)
    components = torch.cat([f.indices for f in found])
    for weight, component in zip(weights.unbind(1), components.unbind(1), strict=True):
        yield weight[:, None], component


def _assemble(patches: Tensor, grid: PatchGrid) -> Tensor:
    """Assemble an image without averaging: regular patches whole, the others in the gaps."""
    owners, places = [], []
    for side in (grid.down, grid.across):
        starts = side.starts
        regular = [(s - side.offset) % side.stride == 0 for s in starts]
        owner = torch.zeros(side.length, dtype=torch.long)
        for index in sorted(range(len(starts)), key=lambda i: regular[i]):
            owner[starts[index] : starts[index] + side.size] = index
        owners.append(owner.to(patches.device))
        begin = torch.tensor(starts)[owner]
        places.append((torch.arange(side.length) - begin).to(patches.device))
    patch = owners[0][:, None] * grid.num_columns + owners[1]
    return patches[patch, places[0][:, None] * grid.size + places[1]]


def _smooth(image: Tensor) -> Tensor:
    """Mean over a square of pixels, cut off at the border."""
    return torch.nn.functional.avg_pool2d(
        image[None, None],
        SMOOTHING_WIDTH,
        stride=1,
        padding=SMOOTHING_WIDTH // 2,
        count_include_pad=False,
    )[0, 0]
