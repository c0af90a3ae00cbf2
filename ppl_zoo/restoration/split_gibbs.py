"""Posterior draws of an image behind any linear operator: split Gibbs under a tiling.

A tiling cuts the image into patches that do not overlap, so that the patch prior is a proper
density of images z. With a copy x of z, ``x ~ Normal(z, rho^2)`` and ``y ~ Normal(A x, sigma^2)``
(Vono, Dobigeon & Chainais 2019), both conditionals are drawn exactly:

    z | x     patch by patch, a mixture in closed form: component, then patch
    x | z, y  normal; the least squares of the operator with perturbed right-hand sides

(Orieux, Feron & Giovannelli 2012). A small rho is close to the posterior of the tiling, a large
one mixes faster; what mixes slowly is what the data say little of.

Each chain has a tiling of its own. Outside of the image the patches of its border go on, where
nothing is seen. The mean of a patch, which a prior of texture leaves free, is normal here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.operators import Blur, Downsample, Identity, LinearOperator, Mask
from ppl_zoo.models.images.patch_mixture import NoisyMixture, PatchMixture

__all__ = [
    "LAWS",
    "SEEN",
    "PowerLaw",
    "SplitChains",
    "fit_law",
    "local_spread",
    "width",
    "with_mean",
]

#: mean and sd of the means of patches, in units of the image: grey, and as wide as images are
LEVEL, LEVEL_SD = 0.5, 0.25


def with_mean(mixture: PatchMixture) -> PatchMixture:
    """Return the mixture with a normal prior of a patch's mean, where that was free."""
    if not mixture.free_mean:
        return mixture
    means = torch.nn.functional.pad(mixture.means, (1, 0), value=LEVEL * mixture.size)
    covariances = torch.nn.functional.pad(mixture.covariances, (1, 0, 1, 0))
    covariances[:, 0, 0] = (LEVEL_SD * mixture.size) ** 2
    return PatchMixture(mixture.weights, means, covariances)


class SplitChains:
    """Chains of images, each under its tiling.

    Parameters
    ----------
    data, sd
        ``(rows, columns)`` of what was seen, and the standard deviation of its noise.
    operator
        A.
    mixture
        Prior of the patches; means of patches are made proper.
    start
        First image ``(height, width)``.
    places
        Where the tiling of each chain begins, (down, across), each below the size of a patch.
    """

    def __init__(
        self,
        data: Tensor,
        sd: float,
        operator: LinearOperator,
        mixture: PatchMixture,
        start: Tensor,
        places: list[tuple[int, int]],
    ) -> None:
        self.data, self.sd, self.operator = data, sd, operator
        self.mixture = with_mean(mixture)
        self.size, (height, width) = mixture.size, start.shape
        offsets = torch.tensor(places, device=start.device)
        self.chain = torch.arange(len(places), device=start.device)[:, None, None]
        self.rows = (offsets[:, :1] + torch.arange(height, device=start.device))[:, :, None]
        self.columns = (offsets[:, 1:] + torch.arange(width, device=start.device))[:, None]
        # enough patches for every place; border pixels go on outside, to start with
        down, across = (-(-(n + self.size - 1) // self.size) for n in (height, width))
        self.tiles = len(places), down, across
        line = (torch.arange(down * self.size, device=start.device) - offsets[:, :1])[:, :, None]
        column = (torch.arange(across * self.size, device=start.device) - offsets[:, 1:])[:, None]
        self.whole = start[line.clamp(0, height - 1), column.clamp(0, width - 1)]

    @property
    def images(self) -> Tensor:
        """The chains' images, ``(chains, height, width)``."""
        return self.whole[self.chain, self.rows, self.columns]

    def sweep(self, rho: float) -> Tensor:
        """Draw all once; ``rho`` is the standard deviation between the image and its copy."""
        around = self._draw_patches(rho)
        around = around + rho * torch.randn_like(around)
        inside = around[self.chain, self.rows, self.columns]
        data = self.data + self.sd * torch.randn(
            len(inside), *self.data.shape, dtype=inside.dtype, device=inside.device
        )
        image = self.operator.fit(data, self.sd**-2, inside, rho**-2)
        around[self.chain, self.rows, self.columns] = image
        self.whole = around
        return image

    def _draw_patches(self, rho: float) -> Tensor:
        """Draw z given x, the wide images."""
        count, down, across = self.tiles
        size, noisy = self.size, self.mixture.under_noise(rho**2, None, self.whole.dtype)
        patches = self.whole.reshape(count, down, size, across, size).transpose(2, 3)
        patches = patches.reshape(-1, size**2)
        component = torch.cat([_choose(noisy, part) for part in patches.split(4096)])
        drawn = noisy.estimate(patches, component) + noisy.draw_error(component)
        drawn = drawn.reshape(count, down, across, size, size).transpose(2, 3)
        return drawn.reshape(self.whole.shape)


def _choose(noisy: NoisyMixture, patches: Tensor) -> Tensor:
    """Draw components from their posterior, by Gumbel's maximum."""
    scores = noisy.scores(patches)
    noise = torch.empty_like(scores).exponential_().log_()
    return (scores - noise).argmax(0)


# ---- How wide the draws of split Gibbs are around one image: a law for each kind of operator.
#
# Draws lie under tilings of their own, and are put around one image that knows more than a tiling
# does. What that takes off their spread s is most where the tilings agree: in smooth places. On
# training images the error of the image follows ``gain * s * (s / 0.05)^(power - 1)`` closely, s
# averaged over 5 x 5 pixels, with a power above one. A pixel that was itself seen is another
# matter: its error is that of the data, which no tiling knows better, and its draws keep their
# spread, times a number near one.

#: spread of draws, in units of the image, to which a gain refers
UNIT = 0.05
#: pixels across over which the spread is averaged
ACROSS = 5
#: no pixel is made narrower or wider than by these
LIMITS = (0.3, 2.0)


class PowerLaw(NamedTuple):
    """Error of the image from the spread of the draws: ``gain * s * (s / UNIT)^(power - 1)``."""

    gain: float
    power: float


#: from 24 images of BSDS300's training part, by `benchmarks/epll.py --parts tempering`
LAWS = {
    Blur: PowerLaw(0.84, 1.69),
    Mask: PowerLaw(0.70, 1.37),
    Downsample: PowerLaw(0.65, 1.56),
    Identity: PowerLaw(0.83, 1.0),
}
#: of pixels that a mask lets through
SEEN = 1.13


def width(sd: Tensor, operator: LinearOperator) -> Tensor:
    """Factor by which draws of this standard deviation are made narrower, pixel by pixel.

    Parameters
    ----------
    sd
        Standard deviation of the draws, ``(height, width)``.
    operator
        What they were drawn behind.
    """
    law = LAWS[type(operator)]
    seen = operator.mask.to(sd.device) if isinstance(operator, Mask) else None
    unseen = None if seen is None else ~seen
    local = local_spread(sd, unseen)
    factor = (law.gain * (local / UNIT) ** (law.power - 1.0)).clamp(*LIMITS)
    return factor if seen is None else factor.masked_fill(seen, SEEN)


def local_spread(sd: Tensor, where: Tensor | None = None) -> Tensor:
    """Root of the mean variance around each pixel; only of pixels ``where`` that is true."""
    weight = torch.ones_like(sd) if where is None else where.to(sd)
    total, count = (
        torch.nn.functional.avg_pool2d(t[None, None], ACROSS, 1, ACROSS // 2)[0, 0]
        for t in (weight * sd.square(), weight)
    )
    return (total / count.clamp_min(1e-9)).sqrt()


def fit_law(error: Tensor, spread: Tensor, bins: int = 16) -> PowerLaw:
    """Fit the law to pixels: a line through logarithms, of bins of equal count.

    Parameters
    ----------
    error, spread
        What the image is off, and :func:`local_spread`, of the same pixels ``(n,)``.
    bins
        By spread; mean squares are taken in each.

    Raises
    ------
    DataError
        If there are fewer pixels than bins.
    """
    if len(error) < bins:
        raise DataError(f"error: got {len(error)} pixels, expected {bins} or more")
    order = spread.argsort()
    x, y = (
        torch.stack([part.double().square().mean().log() / 2.0 for part in t[order].chunk(bins)])
        for t in (spread, error)
    )
    x = x - torch.tensor(UNIT, dtype=x.dtype).log()
    power = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return PowerLaw(float((y.mean() - power * x.mean()).exp()) / UNIT, power)
