"""A mixture of Gaussians over patches in cosine coordinates."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.imaging.patches import cosine_basis

__all__ = ["NoisyMixture", "PatchMixture", "by_component", "grouped", "inverse"]

#: noise levels whose constants are kept, some 10 MB each; restoration passes through ten
KEPT = 24


class PatchMixture:
    """A mixture over square patches in orthonormal cosine coordinates.

    Parameters
    ----------
    weights, means, covariances
        ``(K,)``, ``(K, D)``, ``(K, D, D)``. D is ``size^2`` for patches as they are, or
        ``size^2 - 1`` where the mean of a patch is left free: it is then taken off before and
        put back after, as for a prior of texture alone.

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
        #: coefficients by falling variance
        self.order = variance.argsort(descending=True)
        self._eigen: tuple[Tensor, Tensor] | None = None
        self._noisy: dict[tuple, NoisyMixture] = {}

    @classmethod
    def of(cls, prior: Any) -> PatchMixture:
        """Read a ``zoo.GaussianMixture`` (any kind of covariance) as a mixture over patches.

        A mixture of ``size^2`` features is one of pixels, row by row; one of ``size^2 - 1`` is
        one of cosine coefficients without the first (see
        :func:`ppl_zoo.imaging.cosine_basis`).

        Raises
        ------
        DataError
            If it is something else, or its size is not that of a patch.
        """
        if isinstance(prior, PatchMixture):
            return prior
        if not all(hasattr(prior, name) for name in ("weights", "means", "covariances", "kind")):
            raise DataError(
                f"prior: got {type(prior).__name__}, expected a zoo.GaussianMixture over patches "
                "or the name of a pretrained one"
            )
        weights, means, covariances = (
            t.double() for t in (prior.weights, prior.means, prior.covariances)
        )
        count, num_features = means.shape
        if prior.kind.name == "diagonal":
            covariances = torch.diag_embed(covariances)
        elif prior.kind.name == "spherical":
            eye = torch.eye(num_features, dtype=means.dtype, device=means.device)
            covariances = covariances[:, None, None] * eye
        covariances = covariances.expand(count, num_features, num_features)
        size = math.isqrt(num_features)
        if size**2 == num_features:
            basis = cosine_basis(size, dtype=means.dtype, device=means.device)
            means, covariances = means @ basis.mT, basis @ covariances @ basis.mT
        return cls(weights, means, covariances)

    def to(self, device: torch.device) -> PatchMixture:
        """Return the mixture on a device: itself where it is there."""
        if self.means.device == device:
            return self
        parts = (self.weights, self.means, self.covariances)
        return PatchMixture(*(t.to(device) for t in parts))

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``(K, D)`` and eigenvectors ``(K, D, D)``, found once."""
        if self._eigen is None:
            values, vectors = torch.linalg.eigh(self.covariances)
            self._eigen = values.clamp_min(0.0), vectors
        return self._eigen

    def under_noise(
        self, variance: float, block: int | None = None, dtype: torch.dtype = torch.float32
    ) -> NoisyMixture:
        """Return the constants for one noise level, from the last ones used where they are.

        Parameters
        ----------
        variance
            Of the noise of a pixel.
        block
            Coefficients whose products the score keeps; None for all.
        dtype
            Of the patches to come.
        """
        key = (float(variance), block, dtype)
        if key not in self._noisy:
            while len(self._noisy) >= KEPT:
                self._noisy.pop(next(iter(self._noisy)))
            self._noisy[key] = NoisyMixture(self, float(variance), block, dtype)
        return self._noisy[key]


# ---- A mixture of Gaussians over patches, made ready for a noise level.
#
# Under noise of variance v each component is Normal(mean, covariance + v I), and both questions
# that restoration asks have closed answers: which component a noisy patch y belongs to,
#
#     score_k(y) = log weight_k - 1/2 log det C_k - 1/2 (y - m_k)' C_k^-1 (y - m_k),
#     C_k = S_k + v I,
#
# and what the patch was, ``m_k + S_k (S_k + v I)^-1 (y - m_k)``. The score is linear in the
# products y_i y_j, so that one matrix product scores many patches under all components. In the
# cosine basis few coefficients correlate much: with ``block=16`` the products among the 16
# coefficients of largest variance are kept, and squares elsewhere (183 features instead of 2016;
# 441 with ``block=28``); this is the exact score of the mixture whose covariances are a block and
# a diagonal. Where the two best are close, their exact scores decide.

#: an estimate counts (error variance / noise variance + offset) ^ -power in an average
TRUST_OFFSET, TRUST_POWER = 0.05, 0.75


class NoisyMixture:
    """Scores and estimates of noisy patches, for one noise level.

    Parameters
    ----------
    mixture
        The prior, a ``PatchMixture``.
    variance
        Of the noise of a pixel.
    block
        Coefficients whose products the score keeps; None for all.
    dtype
        Of the patches to come.
    """

    def __init__(
        self, mixture: Any, variance: float, block: int | None, dtype: torch.dtype
    ) -> None:
        self.mixture, self.variance, self.dtype = mixture, variance, dtype
        num_features = mixture.means.shape[1]
        self.block = num_features if block is None else min(block, num_features)
        self.first = int(mixture.free_mean)  # the first coefficient that the mixture knows
        basis = cosine_basis(mixture.size, dtype=torch.float64, device=mixture.means.device)
        # from pixels to coefficients, by falling variance
        self.analysis = basis[mixture.order + self.first].to(dtype)
        self.coefficients, self.offset = self._scores()
        self.filters, self.bias = self._filters()
        self._roots: Tensor | None = None
        # for exact scores: log weight_k - 1/2 log det (S_k + v I), and the means in pixels
        log_det = (mixture.eigen()[0] + variance).log().sum(1)
        self.constant = (mixture.weights.clamp_min(1e-30).log() - 0.5 * log_det).to(dtype)
        flat = (mixture.means @ self._pixels()[self.first :]).to(dtype)
        self.flat = None if mixture.centred else flat
        # what an estimate counts where patches overlap: more, the less error is expected of it
        error = self.error_variance().mean(1) / variance
        self.trust = (error + TRUST_OFFSET) ** -TRUST_POWER if variance > 0 else error + 1.0
        # what one would count of whose patch nothing but a free mean is in doubt
        self.surest = (self.first / mixture.size**2 + TRUST_OFFSET) ** -TRUST_POWER
        self.trusted = self.filters * self.trust[:, None, None]
        self.trusted_bias = None if self.bias is None else self.bias * self.trust[:, None]
        # the components' numbers as the last bits of floats, see _leaders
        count, whole = len(self.trust), torch.int32 if dtype.itemsize == 4 else torch.int64
        self.last_bits = 2 ** (count - 1).bit_length() - 1
        self.number = torch.arange(count, dtype=whole, device=basis.device)[:, None]
        self.group = max(n for n in range(1, 1 + max(1, min(8, count // 16))) if count % n == 0)

    def _scores(self) -> tuple[Tensor, Tensor]:
        """Coefficients ``(K, F)`` of the features, and constants ``(K, 1)``."""
        mixture, order, n = self.mixture, self.mixture.order, self.block
        covariance, means = mixture.covariances, mixture.means[:, order]
        near = covariance[:, order[:n, None], order[:n]]
        near = near + self.variance * torch.eye(n, dtype=near.dtype, device=near.device)
        far = covariance.diagonal(dim1=1, dim2=2)[:, order[n:]] + self.variance
        factor = torch.linalg.cholesky(near)
        precision = torch.cholesky_inverse(factor)
        log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(-1) + far.log().sum(-1)
        pull = torch.cat([(precision @ means[:, :n, None])[..., 0], means[:, n:] / far], 1)
        precision.diagonal(dim1=1, dim2=2).mul_(0.5)
        rows, columns = torch.triu_indices(n, n, device=near.device)
        parts = [-precision[:, rows, columns], -0.5 / far]
        constant = mixture.weights.clamp_min(1e-30).log() - 0.5 * log_det
        constant = constant - 0.5 * (pull * means).sum(-1)
        constant = constant - 0.5 * means.shape[1] * math.log(2.0 * math.pi)
        if not mixture.centred:
            parts.append(pull)
        coefficients = torch.cat(parts, 1)
        return coefficients.to(self.dtype), constant[:, None].to(self.dtype)

    def _filters(self) -> tuple[Tensor, Tensor | None]:
        """Matrices ``(K, d, d)`` from pixels to estimated pixels, and their constants."""
        means, pixels = self.mixture.means, self._pixels()
        values, vectors = self.mixture.eigen()
        known = pixels[self.first :]
        waves = vectors.mT @ known  # eigenvectors in pixels
        filters = waves.mT @ (waves * (values / (values + self.variance))[..., None])
        bias = None
        if not self.mixture.centred:
            flat = means @ known
            bias = (flat - (filters @ flat[..., None])[..., 0]).to(self.dtype)
        if self.first:
            filters = filters + pixels[:1].mT @ pixels[:1]
        return filters.to(self.dtype), bias

    # ---- patches ----------------------------------------------------------------------------

    def chunk_size(self) -> int:
        """Patches whose features fit into a core's cache, on each core; more on a GPU."""
        width = self.coefficients.shape[1] + len(self.coefficients)
        if self.coefficients.device.type != "cpu":
            return max(1024, 2**28 // width)
        return max(64, 2**18 // width) * torch.get_num_threads()

    def scores(self, patches: Float[Tensor, "n d"]) -> Float[Tensor, "k n"]:
        """Log joint densities of component and patch, ``(K, n)``."""
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
        return self._leaders(patches, False)[0]

    def _leaders(self, patches: Tensor, two: bool) -> tuple[Tensor, ...]:
        """Best component of each patch; with ``two``, the next, and how far it lies below.

        The last bits of each score are made the component's number (some .01 nats in float32),
        which the greatest of them then carries along: faster by far than an argmax down columns.
        The next is that of another group of components, in which it is nearly always.
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

    def lost(self, patches: Float[Tensor, "n d"], exact: NoisyMixture) -> float:
        """Nats a patch by which the better of two leaders lies below the best component."""
        scores = exact.scores(patches)
        leaders = self._leaders(patches, True)[:2]
        kept = torch.stack([scores.gather(0, k.long()[None])[0] for k in leaders]).amax(0)
        return float((scores.amax(0) - kept).mean())

    def estimate(self, patches: Float[Tensor, "n d"], component: Tensor) -> Tensor:
        """Estimate patches by the filter of the given components, ``(n, d)``."""
        return by_component(patches, component, self.filters, self.bias)

    def draw_error(self, component: Tensor) -> Float[Tensor, "n d"]:
        """Draw what the posterior of each patch adds to its estimate, in pixels, ``(n, d)``."""
        if self._roots is None:
            values, vectors = self.mixture.eigen()
            spread = (values * self.variance / (values + self.variance)).sqrt()
            roots = (vectors * spread.unsqueeze(-2)).mT @ self._pixels()[self.first :]
            if self.first:  # nothing but the data is known of a free mean
                flat = self._pixels()[:1].expand(len(roots), 1, -1) * math.sqrt(self.variance)
                roots = torch.cat([flat, roots], 1)
            self._roots = roots.to(self.dtype)
        noise = torch.randn(
            len(component), self.mixture.size**2, dtype=self.dtype, device=component.device
        )
        return by_component(noise, component, self._roots, None)

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
        like = self.mixture.means
        return cosine_basis(self.mixture.size, dtype=like.dtype, device=like.device)

    def restore(self, patches: Float[Tensor, "n d"], doubt: float = 0.0) -> tuple[Tensor, Tensor]:
        """Estimate patches under their most probable components, for averaging.

        Returns
        -------
        tuple
            Estimates times what they count, ``(n, d)``, and what they count, ``(n,)``.
        """
        exact = self.block == self.mixture.means.shape[1] or len(self.filters) == 1
        # below this the rounding of y . estimate / variance is larger than any doubt
        if exact or doubt == 0.0 or self.variance < 128 * torch.finfo(self.dtype).eps:
            component = self.choose(patches)
            weighted = by_component(patches, component, self.trusted, self.trusted_bias)
            return weighted, self.trust[component.int()]
        component, second, gap = self._leaders(patches, True)
        rows = (gap > -doubt).nonzero().squeeze(1)
        count, second = len(patches), second[rows]
        both = torch.cat([component, second])
        source = torch.cat([torch.arange(count, device=rows.device), rows])
        out, order, chosen = grouped(patches, both, self.trusted, self.trusted_bias, source)
        score = self._exact_scores(chosen, out, both[order].int())
        place = inverse(order)
        swap = score[place[count:]] > score[place[rows]]
        swapped, place, other = rows[swap], place[:count], place[count:][swap]
        place[swapped], component[swapped] = other, second[swap]
        return out.index_select(0, place), self.trust[component.int()]

    def _exact_scores(self, patches: Tensor, weighted: Tensor, component: Tensor) -> Tensor:
        """Log joint densities of pairs ``(n,)`` from estimates, but for ``-|y|^2 / (2 variance)``.

        As ``estimate = y - variance (S + variance I)^-1 (y - mean)``, the exact quadratic form
        is a dot product away.
        """
        trust = self.trust[component]
        product = torch.linalg.vecdot(patches, weighted) / trust
        if self.flat is not None:
            left = patches - weighted / trust[:, None]
            product = product + torch.linalg.vecdot(self.flat[component], left)
        return self.constant[component] + product / (2.0 * self.variance)


# ---- Multiply many rows, each with one of many matrices: rows of the same matrix together.


def inverse(order: Tensor) -> Tensor:
    """Return where each went of what a permutation put in order."""
    return torch.empty_like(order).index_copy_(
        0, order, torch.arange(len(order), device=order.device)
    )


def grouped(
    rows: Tensor,
    component: Tensor,
    matrices: Tensor,
    bias: Tensor | None,
    source: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply each row with the matrix of its component; rows of a component together.

    ``source`` says which row each of ``component`` is for. Returns the products by component,
    for which place of ``component`` each is, and the rows in that order.
    """
    sorted_component, order = component.sort()
    counts = sorted_component.int().bincount(minlength=len(matrices))
    chosen = rows.index_select(0, order if source is None else source[order])
    # one call for all groups where there is one: for float32 on a CPU, aligned to 16 bytes
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


def by_component(rows: Tensor, component: Tensor, matrices: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply each row with the matrix of its component."""
    out, order, _ = grouped(rows, component, matrices, bias)
    return out.index_select(0, inverse(order))
