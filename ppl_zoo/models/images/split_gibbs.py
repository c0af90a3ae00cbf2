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

import torch
from torch import Tensor

from ppl_zoo.imaging.operators import LinearOperator
from ppl_zoo.models.images.noisy_mixture import NoisyMixture
from ppl_zoo.models.images.patch_mixture import PatchMixture

__all__ = ["SplitChains", "with_mean"]

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
