"""E-step of Gaussian mixtures: scores, responsibilities and moments, a chunk at a time.

A Gaussian log density is linear in the products x_i x_j and in x_i, so that one matrix product
scores a chunk of rows under every component, and a second one sums the moments:

    phi(x) = [x_i x_j (i <= j), x_i]      E = A phi + c      M = R phi'

with the products that the covariance type needs (all pairs, squares, or the norm alone).
That is half the arithmetic of whitening the rows for each component, and both products run at
the speed of the matrix unit. The price is cancellation: rounding is relative to |mu|^2 / sigma^2.
So rows are centred and whitened globally before, and ill-conditioned components (tight and far
from the centre, for which the rounding would still show) are scored and summed by their
differences from the mean, in float64. Sums over chunks are float64.

Rows with missing values are scored and completed pattern by pattern (Ghahramani & Jordan 1994,
Supervised learning from incomplete data via an EM approach, NeurIPS 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ppl_zoo.models.common.conjugate import LOG_2PI
from ppl_zoo.models.common.missing import marginal_factor
from ppl_zoo.models.mixtures.covariance import COVARIANCE_TYPES, CovarianceType
from ppl_zoo.models.mixtures.whitening import Whitening

__all__ = ["BufferPool", "MissingScorer", "Scorer", "expected_statistics"]

#: rounding of a row's score that is let through, in nats (a standard deviation)
MAX_ROUNDING_NATS = 1e-3
#: smaller responsibilities do not enter the moments of ill-conditioned components
MIN_RESPONSIBILITY = 1e-12
#: log responsibility, but for the normaliser, that counts as 0
MIN_LOG_RESPONSIBILITY = -60.0


class BufferPool:
    """Pool of buffers that all chunks share, so that no chunk has to be given fresh pages."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return an uninitialised ``(rows, columns)`` tensor that the next take may overwrite."""
        flat = self.buffers.get(name)
        fits = flat is not None and flat.numel() >= rows * columns
        if not fits or (flat.dtype, flat.device) != (like.dtype, like.device):
            flat = self.buffers[name] = like.new_empty(rows * columns)
        return flat[: rows * columns].view(rows, columns)

    def __deepcopy__(self, memo: dict) -> BufferPool:
        """Return an empty pool: copies of a model share no memory, nor copy what is in it."""
        return BufferPool()


class Scorer:
    """E-step of a mixture in whitened coordinates, with parameters as coefficients of products.

    Parameters
    ----------
    covariance_type
        Of the mixture.
    log_weights, means, scale
        float64: ``(K,)``, ``(K, D)``, and as the type stores it.
    log_jacobian
        Log diagonal of the whitening ``(D,)``: densities are those of the rows before it.
    dtype
        Type in which rows are scored. Tied covariances take float64: their scatter, all second
        moments less those of the means, may be tiny, and their arithmetic is little.
    buffers
        Memory to be reused.
    """

    def __init__(
        self,
        covariance_type: CovarianceType,
        log_weights: Tensor,
        means: Tensor,
        scale: Tensor,
        log_jacobian: Tensor,
        dtype: torch.dtype,
        buffers: BufferPool,
    ) -> None:
        tied = covariance_type.name == "tied"
        dtype = torch.float64 if tied else dtype
        self.covariance_type, self.dtype, self.buffers = covariance_type, dtype, buffers
        self.num_components, self.num_features = means.shape
        num_features = self.num_features
        constant = log_weights - covariance_type.log_det(scale, num_features) + log_jacobian.sum()
        self.map = None
        if tied:  # in units of the shared factor a tied mixture is spherical
            self.map = torch.linalg.solve_triangular(scale, _eye(scale), upper=False)
            means, scale = means @ self.map.mT, scale.new_ones(len(means))
        self.basis = COVARIANCE_TYPES["spherical"] if tied else covariance_type
        # a few components at a time, since each makes several float64 matrices
        blocks = zip(scale.split(8), means.split(8), strict=True)
        parts = [self._coefficients(*block) for block in blocks]
        factor, coefficients, offset, rounding = (torch.cat(p) for p in zip(*parts, strict=True))
        constant = constant - 0.5 * num_features * LOG_2PI
        ill = rounding > MAX_ROUNDING_NATS
        self.ill_conditioned = ill.nonzero()[:, 0]
        self.well_conditioned = (~ill).nonzero()[:, 0]
        self.ill_conditioned_list = self.ill_conditioned.tolist()
        self.score_margin = 100.0 * rounding[self.ill_conditioned].to(dtype)[:, None]
        self.precision_factor, self.coefficients = factor, coefficients
        self.offset = (constant + offset).to(dtype)[:, None]
        self.constant64, self.means64 = constant, means

    # ---- features and scores ----------------------------------------------------------------

    def chunk_size(self) -> int:
        """Rows in memory at once: some 12 MB on a CPU, more on a GPU."""
        width = self.coefficients.shape[1] + 2 * self.num_components + 2 * self.num_features
        elements = 2**22 if self.means64.device.type == "cpu" else 2**26
        return max(64, min(65536, elements // width))

    def features(self, y: Tensor) -> Tensor:
        """Quadratic and linear features ``(F, n)`` of rows ``(D, n)``."""
        num_features, count = y.shape
        phi = self.buffers.take("features", self.coefficients.shape[1], count, y)
        if self.basis.name == "full":
            start = 0
            for i in range(num_features):
                torch.mul(y[i:], y[i], out=phi[start : start + num_features - i])
                start += num_features - i
        elif self.basis.name == "diagonal":
            torch.mul(y, y, out=phi[:num_features])
        else:
            torch.sum(y * y, 0, out=phi[0])
        phi[-num_features:] = y
        return phi

    def scores(self, y: Tensor, phi: Tensor) -> Tensor:
        """Log joint density ``(K, n)`` of rows and assignments."""
        scores = self.buffers.take("scores", self.num_components, y.shape[1], y)
        torch.addmm(self.offset, self.coefficients, phi, out=scores)
        if len(self.ill_conditioned):
            self._rescore(y, scores)
        return scores

    def _rescore(self, y: Tensor, scores: Tensor) -> None:
        """Score by differences, in place, the rows that may belong to a component.

        The others are those that a well-conditioned component explains better by more than any
        rounding.
        """
        approximate = scores[self.ill_conditioned]
        if len(self.well_conditioned):
            margin = 50.0 + self.score_margin + 0.01 * approximate.abs()
            candidates = approximate > scores[self.well_conditioned].amax(0) - margin
        else:
            candidates = torch.ones_like(approximate, dtype=torch.bool)
        for _, k, rows in self._by_component(candidates):
            z = self._in_units(k, y[:, rows].double() - self.means64[k, :, None])
            scores[k, rows] = (self.constant64[k] - 0.5 * (z * z).sum(0)).to(self.dtype)

    def _by_component(self, chosen: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Slot, component and rows of ill-conditioned components, ``chosen`` by ``(slot, n)``."""
        component, row = chosen.nonzero(as_tuple=True)
        counts = component.bincount(minlength=len(self.ill_conditioned)).tolist()
        for slot, (k, rows) in enumerate(
            zip(self.ill_conditioned_list, row.split(counts), strict=True)
        ):
            if len(rows):
                yield slot, k, rows

    def log_joint(self, y: Tensor) -> Tensor:
        """Log joint density ``(K, n)`` of whitened rows ``(D, n)``, in shared memory."""
        y = y if self.map is None else self.map.to(self.dtype) @ y
        return self.scores(y, self.features(y))

    # ---- moments ----------------------------------------------------------------------------

    def zeros(self) -> dict[str, Tensor]:
        """Statistics of no rows."""
        new = self.means64.new_zeros
        products = self.coefficients.shape[1]
        out = {"log_likelihood": new(()), "num_rows": new(()), "counts": new(self.num_components)}
        if self.map is not None:
            out["total"] = new(self.num_features, self.num_features)
        ill = (len(self.ill_conditioned), self.num_features)
        # of ill-conditioned components: powers 0, 1 and 2 of x - mean
        out |= {"zeroth": new(ill[0]), "first": new(ill)}
        out["second"] = new(*ill, ill[1]) if self.basis.matrix else new(ill)
        return out | {"moments": new(self.num_components, products)}

    def accumulate(self, y: Tensor, weight: Tensor | None, statistics: dict[str, Tensor]) -> None:
        """Add the expected statistics of whitened rows ``(D, n)`` in place."""
        if self.map is not None:
            weighted = y if weight is None else y * weight
            statistics["total"] += weighted.double() @ y.double().mT
            y = self.map.to(self.dtype) @ y
        phi = self.features(y)
        r = self.scores(y, phi)
        top = r.amax(0)
        # responsibilities too small to matter become 0: denormal numbers slow every product down
        r.sub_(top).clamp_min_(MIN_LOG_RESPONSIBILITY).exp_()
        torch.nn.functional.threshold_(r, 2.0 * math.exp(MIN_LOG_RESPONSIBILITY), 0.0)
        norm = r.sum(0)
        log_density = top + norm.log()
        r.div_(norm if weight is None else norm / weight)
        if weight is not None:
            log_density = log_density * weight
        statistics["log_likelihood"] += log_density.sum(dtype=torch.float64)
        statistics["num_rows"] += y.shape[1] if weight is None else weight.sum(dtype=torch.float64)
        statistics["counts"] += r.sum(1, dtype=torch.float64)
        moments = self.buffers.take("moments", *statistics["moments"].shape, y)
        torch.mm(r, phi.mT, out=moments)
        statistics["moments"] += moments
        if not len(self.ill_conditioned):
            return
        for slot, k, rows in self._by_component(r[self.ill_conditioned] > MIN_RESPONSIBILITY):
            difference = y[:, rows].double() - self.means64[k, :, None]
            weights = r[k, rows].double()
            weighted = difference * weights
            statistics["zeroth"][slot] += weights.sum()
            statistics["first"][slot] += weighted.sum(1)
            if self.basis.matrix:
                statistics["second"][slot] += weighted @ difference.mT
            else:
                statistics["second"][slot] += (weighted * difference).sum(1)

    def finish(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split moments into ``sums`` and ``squares``, as the M-step reads them."""
        moments, num_features = statistics.pop("moments"), self.num_features
        powers = [statistics.pop(name) for name in ("zeroth", "first", "second")]
        if len(self.ill_conditioned):
            moments[self.ill_conditioned] = self._from_differences(*powers)
        sums, squares = moments[:, -num_features:], moments[:, :-num_features]
        if self.map is not None:
            sums = torch.linalg.solve_triangular(self.map, sums.mT, upper=False).mT
            squares = self.covariance_type.pack(statistics.pop("total"))
        elif self.basis.name == "spherical":
            squares = squares[:, 0]
        return statistics | {"sums": sums, "squares": squares}

    # ---- by covariance type -----------------------------------------------------------------

    def _coefficients(self, scale: Tensor, means: Tensor) -> tuple[Tensor, ...]:
        """Precision factors, coefficients, constants, and the rounding of a score in nats.

        The rounding is that of a typical row of the component itself, whose products have the
        size of their second moments; errors of single products are taken as independent.
        """
        if self.basis.name == "full":
            eye = _eye(scale).expand_as(scale)
            factor = torch.linalg.solve_triangular(scale, eye, upper=False)
            precision = factor.mT @ factor
            linear = (precision @ means[:, :, None])[..., 0]
            second = (scale**2).sum(-1) + means**2
            size = (precision**2 * second[:, :, None] * second[:, None, :]).sum((1, 2)).sqrt()
            precision.diagonal(dim1=1, dim2=2).mul_(0.5)
            quadratic = -self.basis.pack(precision)
        elif self.basis.name == "diagonal":
            factor = 1.0 / scale
            precision = factor**2
            linear, quadratic = precision * means, -0.5 * precision
            size = (1.0 + precision * means**2).square().sum(-1).sqrt()
        else:
            factor = 1.0 / scale
            precision = factor[:, None] ** 2
            linear, quadratic = precision * means, -0.5 * precision
            size = self.num_features + (precision * means**2).sum(-1)
        coefficients = torch.cat([quadratic, linear], 1).to(self.dtype)
        offset = -0.5 * (linear * means).sum(-1)
        return factor, coefficients, offset, size * torch.finfo(self.dtype).eps

    def _in_units(self, k: int, difference: Tensor) -> Tensor:
        factor = self.precision_factor[k]
        if self.basis.name == "full":
            return factor @ difference
        return difference * (factor[:, None] if self.basis.name == "diagonal" else factor)

    def _from_differences(self, count: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Moments of the ill-conditioned components from powers of x - mean."""
        mean = self.means64[self.ill_conditioned]
        sums = first + count[:, None] * mean
        # sum x x' = C + s m' + m s' - N m m' with s = sum x
        if self.basis.name == "spherical":
            second = (second.sum(-1) + self.basis.cross_terms(count, sums, mean))[:, None]
        else:
            second = self.basis.pack(second + self.basis.cross_terms(count, sums, mean))
        return torch.cat([second, sums], 1)


class MissingScorer:
    """E-step for rows with missing values (NaN), in float64, by patterns of missing features.

    Parameters and methods are those of :class:`Scorer`. ``log_jacobian`` None stands for rows
    that are not whitened.
    """

    dtype = torch.float64

    def __init__(
        self,
        covariance_type: CovarianceType,
        log_weights: Tensor,
        means: Tensor,
        scale: Tensor,
        log_jacobian: Tensor | None = None,
    ) -> None:
        self.log_jacobian = torch.zeros_like(means[0]) if log_jacobian is None else log_jacobian
        self.covariance_type, self.log_weights = covariance_type, log_weights
        self.means, self.scale = means, scale
        self.num_components, self.num_features = means.shape
        covariance = covariance_type.covariances(scale)
        if covariance_type.matrix:
            self.covariance = covariance.expand(self.num_components, -1, -1)
        else:
            self.variance = covariance.reshape(self.num_components, -1).expand_as(means)

    def chunk_size(self) -> int:
        """Rows in memory at once."""
        return max(16, 2**21 // (self.num_components * self.num_features))

    def zeros(self) -> dict[str, Tensor]:
        """Statistics of no rows."""
        new, k = self.means.new_zeros, self.num_components
        shape = (
            (k, *self.covariance.shape[1:]) if self.covariance_type.matrix else self.means.shape
        )
        return {
            "log_likelihood": new(()),
            "num_rows": new(()),
            "counts": new(k),
            "sums": new(self.means.shape),
            "squares": new(shape),
        }

    def log_joint(self, y: Tensor) -> Tensor:
        """Log joint density ``(K, n)`` of rows ``(D, n)`` and assignments."""
        out = self.means.new_empty(self.num_components, y.shape[1])
        for rows, part, observed in self._patterns(y):
            out[:, rows] = self._score(part, observed)[0]
        return out

    def accumulate(self, y: Tensor, weight: Tensor | None, statistics: dict[str, Tensor]) -> None:
        """Add the expected statistics of rows ``(D, n)`` in place."""
        weight = y.new_ones(y.shape[1]) if weight is None else weight
        weight = weight.to(self.means.dtype)
        for rows, part, observed in self._patterns(y):
            joint, factor, z = self._score(part, observed)
            log_density = joint.logsumexp(0)
            r = (joint - log_density).exp() * weight[rows]
            statistics["log_likelihood"] += (log_density * weight[rows]).sum()
            statistics["num_rows"] += weight[rows].sum()
            statistics["counts"] += r.sum(1)
            filled, spread = self._complete(part, observed, r, factor, z)
            weighted = filled * r[:, None]
            statistics["sums"] += weighted.sum(-1)
            if self.covariance_type.matrix:
                statistics["squares"] += weighted @ filled.mT + spread
            else:
                statistics["squares"] += (weighted * filled).sum(-1) + spread

    def finish(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring ``squares`` into the form that the M-step reads."""
        squares = statistics["squares"]
        if self.covariance_type.name == "tied":
            squares = squares.sum(0)
        elif self.covariance_type.name == "spherical":
            squares = squares.sum(-1)
        return statistics | {"squares": self.covariance_type.pack(squares)}

    def _patterns(self, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows, values with 0 for NaN, and the observed features, ``(D, 1)`` or ``(D, n)``."""
        y = y.to(self.means.dtype)
        observed = ~y.isnan()
        y = torch.where(observed, y, torch.zeros_like(y))
        if not self.covariance_type.matrix:
            yield torch.arange(y.shape[1], device=y.device), y, observed
            return
        patterns, index = observed.mT.unique(dim=0, return_inverse=True)
        for p, pattern in enumerate(patterns):
            rows = (index == p).nonzero()[:, 0]
            yield rows, y[:, rows], pattern[:, None]

    def _score(self, y: Tensor, observed: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        difference = torch.where(observed, y - self.means[:, :, None], self.means.new_zeros(()))
        if self.covariance_type.matrix:
            factor = marginal_factor(self.covariance, observed[:, 0])
            z = torch.linalg.solve_triangular(factor, difference, upper=False)
            log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
        else:
            factor = None
            z = difference / self.variance.sqrt()[:, :, None]
            log_det = 0.5 * self.variance.log() @ observed.to(y.dtype)
        constant = 0.5 * LOG_2PI - self.log_jacobian
        normaliser = constant @ observed.to(y.dtype) + log_det
        return self.log_weights[:, None] - 0.5 * (z * z).sum(1) - normaliser, factor, z

    def _complete(
        self, y: Tensor, observed: Tensor, r: Tensor, factor: Tensor | None, z: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean given the observed features ``(K, D, n)``, and summed conditional covariance."""
        means = self.means[:, :, None]
        if factor is None:
            filled = torch.where(observed, y, means)
            return filled, self.variance * (r @ (~observed).to(r.dtype).mT)
        across = torch.where(observed, self.covariance, self.covariance.new_zeros(()))
        across = torch.linalg.solve_triangular(factor, across, upper=False)
        filled = torch.where(observed, y, means + across.mT @ z)
        missing = ~(observed | observed.mT)
        spread = torch.where(missing, self.covariance - across.mT @ across, 0.0)
        return filled, spread * r.sum(1)[:, None, None]


def expected_statistics(
    scorer: Scorer | MissingScorer, whitening: Whitening, x: Tensor, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Sum the expected sufficient statistics of rows, in chunks that fit the caches.

    Parameters
    ----------
    scorer, whitening
        Of the mixture.
    x
        Rows ``(n, D)``.
    weight
        Sample weights ``(n,)``.

    Returns
    -------
    dict
        float64, in whitened coordinates: "counts" ``(K,)``, "sums" ``(K, D)``, "squares" (as the
        covariance type needs them); "log_likelihood" and "num_rows", ``()``.
    """
    statistics = scorer.zeros()
    size = max(1, math.ceil(len(x) / math.ceil(len(x) / scorer.chunk_size())))
    for first in range(0, len(x), size):
        part = None if weight is None else weight[first : first + size]
        y = whitening.whiten(x[first : first + size].to(scorer.dtype))
        scorer.accumulate(y, part, statistics)
    return scorer.finish(statistics)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
