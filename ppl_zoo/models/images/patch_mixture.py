"""Mixtures of Gaussians over patches: the prior, and its posterior at a noise level.

Both are in cosine coordinates (DCT-II). Under noise of variance v each component of the prior is
Normal(mean, covariance + v I), and both questions of denoising have closed answers: the component
of a noisy patch y,

    score_k(y) = log weight_k - 1/2 log det C_k - 1/2 (y - m_k)' C_k^-1 (y - m_k),
    C_k = S_k + v I,

and the patch itself, ``m_k + S_k (S_k + v I)^-1 (y - m_k)``, a Wiener filter. The score is linear
in the products y_i y_j, so that one matrix product scores many patches under all components. In
the cosine basis few coefficients correlate much: with ``block=16`` the products among the 16
coefficients of largest variance are kept, and squares elsewhere (183 features instead of 2016;
441 with ``block=28``); this is the exact score of the mixture whose covariances are a block and
a diagonal. Where the scores of the two best components are close, their exact scores decide.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.patches import cosine_basis
from ppl_zoo.models.images.patch_denoising import components
from ppl_zoo.models.mixtures.bayesian_gaussian_mixture import BayesianGaussianMixture
from ppl_zoo.models.mixtures.gaussian_mixture import GaussianMixture

__all__ = ["NoisyMixture", "PatchMixture", "grouped_product"]

#: noise levels whose constants are cached, some 10 MB each; a restoration has about ten
MAX_CACHED_NOISE_LEVELS = 24
#: weight of an estimate in an average over patches: (error variance / noise variance + offset) ^
#: -power
WEIGHT_OFFSET, WEIGHT_POWER = 0.05, 0.75


class PatchMixture:
    """Mixture of Gaussians over square patches in orthonormal cosine coordinates.

    Parameters
    ----------
    weights, means, covariances
        ``(K,)``, ``(K, D)``, ``(K, D, D)``. D is ``size^2`` for a prior of whole
        patches, or ``size^2 - 1`` for one of texture alone: the mean of a patch is then free (it
        has a flat prior).

    Attributes
    ----------
    size
        Rows and columns of a patch.
    free_mean
        Whether the mean of a patch is free.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        num_features = means.shape[1]
        self.size = math.isqrt(num_features + 1)
        self.free_mean = self.size**2 == num_features + 1
        if not self.free_mean:
            self.size = math.isqrt(num_features)
        if self.size**2 - self.free_mean != num_features or self.size < 2:
            raise DataError(
                f"prior: got {num_features} features, expected size^2 (the pixels of a patch) or "
                "size^2 - 1 (its cosine coefficients without the mean)"
            )
        self.weights, self.means = weights.double(), means.double()
        weights, means, covariances = self.weights, self.means, covariances.double()
        self.covariances = covariances
        self.centred = not bool(means.any())
        variance = (weights[:, None] * (covariances.diagonal(dim1=1, dim2=2) + means**2)).sum(0)
        # coefficients by falling variance
        self.order = variance.argsort(descending=True)
        self._eigen: tuple[Tensor, Tensor] | None = None
        self._noisy: dict[tuple, NoisyMixture] = {}

    @classmethod
    def of(cls, prior: Any) -> PatchMixture:
        """Read a ``zoo.GaussianMixture`` (any covariance type) as a mixture over patches.

        A mixture of ``size^2`` features is one of pixels, row by row; one of ``size^2 - 1`` is
        one of cosine coefficients without the first (see
        :func:`ppl_zoo.imaging.cosine_basis`).

        Raises
        ------
        DataError
            If it is another object, or its size is not that of a patch.
        """
        if isinstance(prior, PatchMixture):
            return prior
        if not isinstance(prior, (GaussianMixture, BayesianGaussianMixture)):
            raise DataError(
                f"prior: got {type(prior).__name__}, expected a zoo.GaussianMixture over patches "
                "or the name of a pretrained one"
            )
        weights, means, covariances = components(prior)
        size = math.isqrt(means.shape[1])
        if size**2 == means.shape[1]:
            basis = cosine_basis(size, dtype=means.dtype, device=means.device)
            means, covariances = means @ basis.mT, basis @ covariances @ basis.mT
        return cls(weights, means, covariances)

    def to(self, device: torch.device) -> PatchMixture:
        """Copy of the mixture on a device; itself if it is there."""
        if self.means.device == device:
            return self
        parts = (self.weights, self.means, self.covariances)
        return PatchMixture(*(t.to(device) for t in parts))

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(K, D)`` and eigenvectors ``(K, D, D)``, cached."""
        if self._eigen is None:
            values, vectors = torch.linalg.eigh(self.covariances)
            self._eigen = values.clamp_min(0.0), vectors
        return self._eigen

    def under_noise(
        self, variance: float, block: int | None = None, dtype: torch.dtype = torch.float32
    ) -> NoisyMixture:
        """Make the mixture ready for one noise level; the last ones used are cached.

        Parameters
        ----------
        variance
            Variance of the noise of a pixel.
        block
            Number of coefficients whose products are in the score; None for all.
        dtype
            Dtype of the patches to come.
        """
        key = (float(variance), block, dtype)
        if key not in self._noisy:
            while len(self._noisy) >= MAX_CACHED_NOISE_LEVELS:
                self._noisy.pop(next(iter(self._noisy)))
            self._noisy[key] = NoisyMixture(self, float(variance), block, dtype)
        return self._noisy[key]


class NoisyMixture:
    """Mixture of Gaussians over patches under white noise: scores and estimates of noisy patches.

    Parameters
    ----------
    mixture
        The prior.
    variance
        Variance of the noise of a pixel.
    block
        Number of coefficients whose products are in the score; None for all.
    dtype
        Dtype of the patches to come.

    Attributes
    ----------
    filters, bias
        Wiener filters, ``(K, d, d)`` and ``(K, d)``: the estimate of a patch given its component
        is ``filters[k] y + bias[k]``, in pixels; bias is None for a mixture of mean zero.
    weight
        Weight of an estimate by component where patches overlap, ``(K,)``: the larger, the smaller
        its expected error.
    max_weight
        Weight of an estimate that is uncertain in the free mean alone.
    """

    def __init__(
        self, mixture: PatchMixture, variance: float, block: int | None, dtype: torch.dtype
    ) -> None:
        self.mixture, self.variance, self.dtype = mixture, variance, dtype
        num_features = mixture.means.shape[1]
        self.block = num_features if block is None else min(block, num_features)
        self.first = int(mixture.free_mean)  # first coefficient with a prior
        basis = cosine_basis(mixture.size, dtype=torch.float64, device=mixture.means.device)
        # from pixels to coefficients, by falling variance
        self.analysis = basis[mixture.order + self.first].to(dtype)
        self.coefficients, self.offset = self._score_parameters()
        self.filters, self.bias = self._wiener_filters()
        self._roots: Tensor | None = None
        # for exact scores: log weight_k - 1/2 log det (S_k + v I), and the means in pixels
        log_det = (mixture.eigen()[0] + variance).log().sum(1)
        self.constant = (mixture.weights.clamp_min(1e-30).log() - 0.5 * log_det).to(dtype)
        means = (mixture.means @ self._pixels()[self.first :]).to(dtype)
        self.mean_pixels = None if mixture.centred else means
        error = self.error_variance().mean(1) / variance
        self.weight = (error + WEIGHT_OFFSET) ** -WEIGHT_POWER if variance > 0 else error + 1.0
        self.max_weight = (self.first / mixture.size**2 + WEIGHT_OFFSET) ** -WEIGHT_POWER
        bias = None if self.bias is None else self.bias * self.weight[:, None]
        self._weighted = self.filters * self.weight[:, None, None], bias
        # the components' numbers as the last bits of floats, see _best_components
        count, integers = len(self.weight), torch.int32 if dtype.itemsize == 4 else torch.int64
        self.last_bits = 2 ** (count - 1).bit_length() - 1
        self.number = torch.arange(count, dtype=integers, device=basis.device)[:, None]
        self.group = max(n for n in range(1, 1 + max(1, min(8, count // 16))) if count % n == 0)

    def _score_parameters(self) -> tuple[Tensor, Tensor]:
        """Coefficients ``(K, F)`` of the features, and constants ``(K, 1)``."""
        mixture, order, n = self.mixture, self.mixture.order, self.block
        covariance, means = mixture.covariances, mixture.means[:, order]
        near = covariance[:, order[:n, None], order[:n]]
        near = near + self.variance * torch.eye(n, dtype=near.dtype, device=near.device)
        far = covariance.diagonal(dim1=1, dim2=2)[:, order[n:]] + self.variance
        factor = torch.linalg.cholesky(near)
        precision = torch.cholesky_inverse(factor)
        log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(-1) + far.log().sum(-1)
        linear = torch.cat([(precision @ means[:, :n, None])[..., 0], means[:, n:] / far], 1)
        precision.diagonal(dim1=1, dim2=2).mul_(0.5)
        rows, columns = torch.triu_indices(n, n, device=near.device)
        parts = [-precision[:, rows, columns], -0.5 / far]
        constant = mixture.weights.clamp_min(1e-30).log() - 0.5 * log_det
        constant = constant - 0.5 * (linear * means).sum(-1)
        constant = constant - 0.5 * means.shape[1] * math.log(2.0 * math.pi)
        if not mixture.centred:
            parts.append(linear)
        coefficients = torch.cat(parts, 1)
        return coefficients.to(self.dtype), constant[:, None].to(self.dtype)

    def _wiener_filters(self) -> tuple[Tensor, Tensor | None]:
        """Wiener filters ``(K, d, d)`` from noisy to estimated pixels, and their constants."""
        means, pixels = self.mixture.means, self._pixels()
        values, vectors = self.mixture.eigen()
        known = pixels[self.first :]
        axes = vectors.mT @ known  # eigenvectors in pixels
        filters = axes.mT @ (axes * (values / (values + self.variance))[..., None])
        bias = None
        if not self.mixture.centred:
            pixel_means = means @ known
            bias = (pixel_means - (filters @ pixel_means[..., None])[..., 0]).to(self.dtype)
        if self.first:
            filters = filters + pixels[:1].mT @ pixels[:1]
        return filters.to(self.dtype), bias

    def chunk_size(self) -> int:
        """Count the patches whose features fit into the cores' caches; more on a GPU."""
        width = self.coefficients.shape[1] + len(self.coefficients)
        if self.coefficients.device.type != "cpu":
            return max(1024, 2**28 // width)
        return max(64, 2**18 // width) * torch.get_num_threads()

    def scores(self, patches: Float[Tensor, "n d"]) -> Float[Tensor, "k n"]:
        """Log joint densities of component and patch, ``(K, n)``, exact for the block."""
        y, n = self.analysis @ patches.mT, self.block
        features = y.new_empty(self.coefficients.shape[1], len(patches))
        rows, squares = y[:n].unbind(0), len(y) - n
        sizes = [*range(n, 0, -1), squares]
        parts = features.split([*sizes, len(features) - sum(sizes)])
        for i, row in enumerate(rows):
            torch.mul(y[i:n], row, out=parts[i])
        torch.mul(y[n:], y[n:], out=parts[n])
        if not self.mixture.centred:
            parts[-1].copy_(y)
        return torch.addmm(self.offset, self.coefficients, features)

    def choose(self, patches: Float[Tensor, "n d"]) -> Tensor:
        """Most probable component of each patch, ``(n,)``."""
        return self._best_components(patches, False)[0]

    def _best_components(self, patches: Tensor, two: bool) -> tuple[Tensor, ...]:
        """Best component of each patch; with ``two``, the second best and its gap in nats.

        The last bits of each score are replaced by the component's number (some .01 nats in
        float32), so that a maximum is an argmax too: faster by far than an argmax down columns.
        The second best is that of another group of components, in which it is nearly always. The
        gap is 0 or less.
        """
        parts = []
        for part in patches.split(self.chunk_size()):
            scores = self.scores(part)
            scores.view(self.number.dtype).bitwise_and_(~self.last_bits).bitwise_or_(self.number)
            groups = scores.view(-1, self.group, len(part)).amax(1)
            found = [groups.amax(0)]
            if two:
                groups.masked_fill_(groups == found[0], -torch.inf)
                found.append(groups.amax(0))
            parts.append(found)
        best = [torch.cat(column) for column in zip(*parts, strict=True)]
        numbers = [(t.view(self.number.dtype) & self.last_bits).short() for t in best]
        return (*numbers, best[1] - best[0]) if two else (numbers[0],)

    def score_loss(self, patches: Float[Tensor, "n d"], exact: NoisyMixture) -> float:
        """Mean loss of the better of the two best components, in nats a patch under ``exact``."""
        scores = exact.scores(patches)
        best = self._best_components(patches, True)[:2]
        kept = torch.stack([scores.gather(0, k.long()[None])[0] for k in best]).amax(0)
        return float((scores.amax(0) - kept).mean())

    def estimate(self, patches: Float[Tensor, "n d"], component: Tensor) -> Tensor:
        """Estimate patches by the filters of the given components, ``(n, d)``."""
        return grouped_product(patches, component, self.filters, self.bias)

    def draw_error(self, component: Tensor) -> Float[Tensor, "n d"]:
        """Draw from the posterior of each patch less its mean, in pixels, ``(n, d)``."""
        if self._roots is None:
            values, vectors = self.mixture.eigen()
            spread = (values * self.variance / (values + self.variance)).sqrt()
            roots = (vectors * spread.unsqueeze(-2)).mT @ self._pixels()[self.first :]
            if self.first:  # the posterior of a free mean is its likelihood
                free = self._pixels()[:1].expand(len(roots), 1, -1) * math.sqrt(self.variance)
                roots = torch.cat([free, roots], 1)
            self._roots = roots.to(self.dtype)
        noise = torch.randn(
            len(component), self.mixture.size**2, dtype=self.dtype, device=component.device
        )
        return grouped_product(noise, component, self._roots, None)

    def error_variance(self) -> Float[Tensor, "k d"]:
        """Posterior variance of each pixel given the component, ``(K, d)``."""
        values, vectors = self.mixture.eigen()
        spread = values * self.variance / (values + self.variance)
        pixels = self._pixels()
        out = ((vectors.mT @ pixels[self.first :]).square() * spread[..., None]).sum(1)
        if self.first:
            out = out + self.variance * pixels[0].square()
        return out.to(self.dtype)

    def _pixels(self) -> Tensor:
        """Cosine basis ``(d, d)``, one coefficient a row."""
        like = self.mixture.means
        return cosine_basis(self.mixture.size, dtype=like.dtype, device=like.device)

    def restore(
        self, patches: Float[Tensor, "n d"], exact_margin: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Estimate patches under their most probable components, for a weighted average.

        Parameters
        ----------
        patches
            Noisy patches ``(n, d)``.
        exact_margin
            Where the scores of the two best components differ by less, in nats, exact scores
            decide.

        Returns
        -------
        tuple
            Estimates times their weights, ``(n, d)``, and their weights, ``(n,)``.
        """
        exact = self.block == self.mixture.means.shape[1] or len(self.filters) == 1
        # below this variance the rounding of y . estimate / variance exceeds any margin
        if exact or exact_margin == 0.0 or self.variance < 128 * torch.finfo(self.dtype).eps:
            component = self.choose(patches)
            weighted = grouped_product(patches, component, *self._weighted)
            return weighted, self.weight[component.int()]
        component, second, gap = self._best_components(patches, True)
        rows = (gap > -exact_margin).nonzero().squeeze(1)
        count, second = len(patches), second[rows]
        both = torch.cat([component, second])
        source = torch.cat([torch.arange(count, device=rows.device), rows])
        out, order, chosen = _sorted_product(patches, both, *self._weighted, source)
        score = self._exact_scores(chosen, out, both[order].int())
        place = _inverse_permutation(order)
        swap = score[place[count:]] > score[place[rows]]
        swapped, place, other = rows[swap], place[:count], place[count:][swap]
        place[swapped], component[swapped] = other, second[swap]
        return out.index_select(0, place), self.weight[component.int()]

    def _exact_scores(self, patches: Tensor, weighted: Tensor, component: Tensor) -> Tensor:
        """Exact log joint densities ``(n,)`` from estimates, less ``-|y|^2 / (2 variance)``.

        As ``estimate = y - variance (S + variance I)^-1 (y - mean)``, the exact quadratic form
        is a dot product of patch and estimate.
        """
        weight = self.weight[component]
        product = torch.linalg.vecdot(patches, weighted) / weight
        if self.mean_pixels is not None:
            residual = patches - weighted / weight[:, None]
            product = product + torch.linalg.vecdot(self.mean_pixels[component], residual)
        return self.constant[component] + product / (2.0 * self.variance)


def grouped_product(
    rows: Tensor, component: Tensor, matrices: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply each row with the matrix of its component and add a bias (a grouped product).

    Parameters
    ----------
    rows, component
        ``(n, d)``, and the component of each row ``(n,)``.
    matrices, bias
        ``(K, d, d)``, and ``(K, d)`` or None.
    """
    out, order, _ = _sorted_product(rows, component, matrices, bias)
    return out.index_select(0, _inverse_permutation(order))


def _sorted_product(
    rows: Tensor,
    component: Tensor,
    matrices: Tensor,
    bias: Tensor | None,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply as :func:`grouped_product` does, sorted by component.

    Parameters
    ----------
    rows, component, matrices, bias
        As there.
    source
        Row of each of ``component``; None if they are one to one.

    Returns
    -------
    tuple
        Products by component, their indices into ``component``, and the rows in that order.
    """
    sorted_component, order = component.sort()
    counts = sorted_component.int().bincount(minlength=len(matrices))
    chosen = rows.index_select(0, order if source is None else source[order])
    # one call for all groups where torch has one: float32 on a CPU, rows aligned to 16 bytes
    if chosen.device.type == "cpu" and chosen.dtype == torch.float32 and chosen.shape[1] % 4 == 0:
        ends = counts.cumsum(0).int()
        out = torch.nn.functional.grouped_mm(chosen, matrices, offs=ends)
    else:
        out, sizes = torch.empty_like(chosen), counts.tolist()
        for part, matrix, result in zip(
            chosen.split(sizes), matrices, out.split(sizes), strict=True
        ):
            if len(part):
                torch.mm(part, matrix, out=result)
    if bias is not None:
        out += bias[sorted_component.int()]
    return out, order, chosen


def _inverse_permutation(order: Tensor) -> Tensor:
    """Inverse of a permutation."""
    return torch.empty_like(order).index_copy_(
        0, order, torch.arange(len(order), device=order.device)
    )
