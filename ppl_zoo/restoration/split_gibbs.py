"""Split Gibbs sampler: posterior draws of an image behind any linear operator, under a tiling.

A tiling cuts the image into patches that do not overlap, so that the patch prior is a proper
density of images z. With a copy x of z, ``x ~ Normal(z, rho^2)`` and ``y ~ Normal(A x, sigma^2)``
(Vono, Dobigeon & Chainais 2019), both conditionals are drawn exactly:

    z | x     patch by patch, a mixture in closed form: component, then patch
    x | z, y  normal; the least squares of the operator with perturbed right-hand sides

(Orieux, Feron & Giovannelli 2012). A small rho is close to the posterior of the tiling, a large
one mixes faster; slowest are the directions of which the data have little information.

Each chain has its own tiling. Patches at the border extend outside of the image, where nothing is
observed. The mean of a patch, which has a flat prior in a prior of texture, is normal here.

Tempering: draws under one tiling are centred on one image that is more accurate than a tiling's
mean, so that their sd s is too large, most so where the tilings agree: in smooth places. On
training images the error of the image follows ``gain * s * (s / 0.05)^(power - 1)`` closely, s
averaged over 5 x 5 pixels, with a power above one: a power law for each operator. Observed pixels
behind a mask differ: their error is that of the data, whatever the tiling, and their draws keep
their sd, times a factor near one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.operators import Blur, Downsample, Identity, LinearOperator, Mask
from ppl_zoo.models.images.patch_mixture import NoisyMixture, PatchMixture

__all__ = [
    "OBSERVED_PIXEL_FACTOR",
    "POWER_LAWS",
    "PowerLaw",
    "SplitChains",
    "fit_power_law",
    "local_sd",
    "tempering_factor",
]


class PowerLaw(NamedTuple):
    """Power law of the image's error: ``gain * s * (s / REFERENCE_SD)^(power - 1)``, s the sd."""

    gain: float
    power: float


#: error of the image by operator, from 24 images of BSDS300's training part, by
#: `benchmarks/epll.py --parts tempering`
POWER_LAWS: dict[type[LinearOperator], PowerLaw] = {
    Blur: PowerLaw(0.84, 1.69),
    Mask: PowerLaw(0.70, 1.37),
    Downsample: PowerLaw(0.65, 1.56),
    Identity: PowerLaw(0.83, 1.0),
}
#: factor of the sd of observed pixels behind a mask, from the same images
OBSERVED_PIXEL_FACTOR = 1.13
#: sd of draws, in units of the image, to which a gain refers
REFERENCE_SD = 0.05
#: rows and columns of pixels over which variances of draws are averaged
SD_WINDOW = 5
#: least and largest factor of the sd of a pixel
FACTOR_LIMITS = (0.3, 2.0)
#: mean and sd of the means of patches, in units of the image: grey, and as wide as in photographs
PATCH_MEAN, PATCH_MEAN_SD = 0.5, 0.25


class SplitChains:
    """Chains of the split Gibbs sampler, each under its tiling.

    Parameters
    ----------
    data, sd
        Data ``(rows, columns)``, and the standard deviation of their noise.
    operator
        A.
    mixture
        Prior of the patches; a free mean is given a normal prior.
    start
        Initial image ``(height, width)``.
    offsets
        Offset of the tiling of each chain, (down, across), each below the size of a patch.
    """

    def __init__(
        self,
        data: Tensor,
        sd: float,
        operator: LinearOperator,
        mixture: PatchMixture,
        start: Tensor,
        offsets: list[tuple[int, int]],
    ) -> None:
        self.data, self.sd, self.operator = data, sd, operator
        self.mixture = _with_proper_mean(mixture)
        self.size, (height, width) = mixture.size, start.shape
        shift = torch.tensor(offsets, device=start.device)
        self.chain = torch.arange(len(offsets), device=start.device)[:, None, None]
        self.rows = (shift[:, :1] + torch.arange(height, device=start.device))[:, :, None]
        self.columns = (shift[:, 1:] + torch.arange(width, device=start.device))[:, None]
        # enough patches for every offset; outside, border pixels are replicated initially
        down, across = (-(-(n + self.size - 1) // self.size) for n in (height, width))
        self.tiles = len(offsets), down, across
        line = (torch.arange(down * self.size, device=start.device) - shift[:, :1])[:, :, None]
        column = (torch.arange(across * self.size, device=start.device) - shift[:, 1:])[:, None]
        self.extended = start[line.clamp(0, height - 1), column.clamp(0, width - 1)]

    @property
    def images(self) -> Tensor:
        """Images of the chains, ``(chains, height, width)``."""
        return self.extended[self.chain, self.rows, self.columns]

    def sweep(self, rho: float) -> Tensor:
        """Gibbs sweep; ``rho`` is the standard deviation between the image and its copy.

        Returns
        -------
        Tensor
            Images of the chains, ``(chains, height, width)``.
        """
        extended = self._draw_patches(rho)
        extended = extended + rho * torch.randn_like(extended)
        inside = extended[self.chain, self.rows, self.columns]
        data = self.data + self.sd * torch.randn(
            len(inside), *self.data.shape, dtype=inside.dtype, device=inside.device
        )
        image = self.operator.fit(data, self.sd**-2, inside, rho**-2)
        extended[self.chain, self.rows, self.columns] = image
        self.extended = extended
        return image

    def _draw_patches(self, rho: float) -> Tensor:
        """Draw z given x, the images extended to whole patches."""
        count, down, across = self.tiles
        size, noisy = self.size, self.mixture.under_noise(rho**2, None, self.extended.dtype)
        patches = self.extended.reshape(count, down, size, across, size).transpose(2, 3)
        patches = patches.reshape(-1, size**2)
        component = torch.cat([_draw_components(noisy, part) for part in patches.split(4096)])
        drawn = noisy.estimate(patches, component) + noisy.draw_error(component)
        drawn = drawn.reshape(count, down, across, size, size).transpose(2, 3)
        return drawn.reshape(self.extended.shape)


def _with_proper_mean(mixture: PatchMixture) -> PatchMixture:
    """Mixture with a normal prior of a patch's mean, where that was free."""
    if not mixture.free_mean:
        return mixture
    means = torch.nn.functional.pad(mixture.means, (1, 0), value=PATCH_MEAN * mixture.size)
    covariances = torch.nn.functional.pad(mixture.covariances, (1, 0, 1, 0))
    covariances[:, 0, 0] = (PATCH_MEAN_SD * mixture.size) ** 2
    return PatchMixture(mixture.weights, means, covariances)


def _draw_components(noisy: NoisyMixture, patches: Tensor) -> Tensor:
    """Draw components from their posterior, by the Gumbel-max trick."""
    scores = noisy.scores(patches)
    noise = torch.empty_like(scores).exponential_().log_()
    return (scores - noise).argmax(0)


def tempering_factor(sd: Tensor, operator: LinearOperator) -> Tensor:
    """Tempering factor of the sd of draws, pixel by pixel.

    Parameters
    ----------
    sd
        Standard deviation of the draws, ``(height, width)``.
    operator
        A of the posterior that they were drawn from.
    """
    gain, power = POWER_LAWS[type(operator)]
    observed = operator.mask.to(sd.device) if isinstance(operator, Mask) else None
    local = local_sd(sd, None if observed is None else ~observed)
    factor = (gain * (local / REFERENCE_SD) ** (power - 1.0)).clamp(*FACTOR_LIMITS)
    return factor if observed is None else factor.masked_fill(observed, OBSERVED_PIXEL_FACTOR)


def local_sd(sd: Tensor, where: Tensor | None = None) -> Tensor:
    """Root mean variance around each pixel, of the pixels where ``where`` is true."""
    weight = torch.ones_like(sd) if where is None else where.to(sd)
    total, count = (
        torch.nn.functional.avg_pool2d(t[None, None], SD_WINDOW, 1, SD_WINDOW // 2)[0, 0]
        for t in (weight * sd.square(), weight)
    )
    return (total / count.clamp_min(1e-9)).sqrt()


def fit_power_law(error: Tensor, sd: Tensor, bins: int = 16) -> PowerLaw:
    """Fit a power law to pixels: linear regression of logarithms, in bins of equal count.

    Parameters
    ----------
    error, sd
        Error of the image, and :func:`local_sd` of its draws, at the same pixels ``(n,)``.
    bins
        Number of bins by sd; mean squares are taken in each.

    Raises
    ------
    DataError
        If there are fewer pixels than bins.
    """
    if len(error) < bins:
        raise DataError(f"error: got {len(error)} pixels, expected {bins} or more")
    order = sd.argsort()
    x, y = (
        torch.stack([part.double().square().mean().log() / 2.0 for part in t[order].chunk(bins)])
        for t in (sd, error)
    )
    x = x - torch.tensor(REFERENCE_SD, dtype=x.dtype).log()
    power = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return PowerLaw(float((y.mean() - power * x.mean()).exp()) / REFERENCE_SD, power)
