"""The E-step of Gaussian mixtures: scores, responsibilities and moments, a chunk at a time.

A Gaussian log density is linear in the products x_i x_j and in x_i, so that one matrix product
scores a chunk of rows under every component, and a second one sums the moments:

    phi(x) = [x_i x_j (i <= j), x_i]      E = A phi + c      M = R phi'

with the products that the kind of covariance needs (all pairs, squares, or the norm alone).
That is half the arithmetic of whitening the rows for each component, and both products run at
the speed of the matrix unit. The price is cancellation: rounding is relative to |mu|^2 / sigma^2.
So rows are centred and whitened globally before, and components for which the rounding would
still show (tight and far from the centre) are scored and summed by their differences from the
mean. Sums over chunks are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ppl_zoo.models.mixtures.covariance import KINDS, Kind

__all__ = ["Scorer", "BufferPool"]

#: rounding of a row's score that is let through, in nats (a standard deviation)
TOLERANCE = 1e-3
#: responsibilities below this do not enter the moments of components summed by differences
NEGLIGIBLE = 1e-12
#: log responsibility, up to a factor, that counts as 0
LEAST = -60.0


class BufferPool:
    """Memory that all chunks share, so that no chunk has to be given fresh pages."""

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
        """Return a new workspace: copies of a model share no memory, nor copy what is in it."""
        return BufferPool()


class Scorer:
    """A mixture in whitened coordinates, ready to score rows.

    Parameters
    ----------
    kind
        Kind of covariance.
    log_weights, means, scale
        float64: ``(K,)``, ``(K, D)``, and as the kind stores it.
    log_stretch
        Log diagonal of the whitening ``(D,)``: densities are those of the rows before it.
    dtype
        Type in which rows are scored. Tied covariances take float64: what is left of all data
        around all means may be tiny, and their arithmetic is little.
    workspace
        Memory to be reused.
    """

    def __init__(
        self,
        kind: Kind,
        log_weights: Tensor,
        means: Tensor,
        scale: Tensor,
        log_stretch: Tensor,
        dtype: torch.dtype,
        workspace: BufferPool,
    ) -> None:
        dtype = torch.float64 if kind.name == "tied" else dtype
        self.kind, self.dtype, self.workspace = kind, dtype, workspace
        self.num_components, self.num_features = means.shape
        num_features = self.num_features
        constant = log_weights - kind.log_det(scale, num_features) + log_stretch.sum()
        self.map = None
        if kind.name == "tied":  # in units of the shared factor a tied mixture is spherical
            self.map = torch.linalg.solve_triangular(scale, _eye(scale), upper=False)
            means, scale = means @ self.map.mT, scale.new_ones(len(means))
        self.basis = KINDS["spherical"] if kind.name == "tied" else kind
        # a few components at a time, since each makes several float64 matrices
        blocks = zip(scale.split(8), means.split(8), strict=True)
        parts = [self._coefficients(*block) for block in blocks]
        factor, coefficients, offset, rounding = (torch.cat(p) for p in zip(*parts, strict=True))
        constant = constant - 0.5 * num_features * math.log(2.0 * math.pi)
        # components that need differences from their mean, and those that do not
        close = rounding > TOLERANCE
        self.close, self.safe = close.nonzero()[:, 0], (~close).nonzero()[:, 0]
        self.close_list = self.close.tolist()
        self.doubt = 100.0 * rounding[self.close].to(dtype)[:, None]
        self.precision_factor, self.coefficients = factor, coefficients
        self.offset = (constant + offset).to(dtype)[:, None]
        self.constant, self.means64 = constant.to(dtype), means
        self.means = means.to(dtype)

    # ---- features and scores ----------------------------------------------------------------

    def chunk_size(self) -> int:
        """Rows in memory at once: some 12 MB on a CPU, more on a GPU."""
        width = self.coefficients.shape[1] + 2 * self.num_components + 2 * self.num_features
        elements = 2**22 if self.means.device.type == "cpu" else 2**26
        return max(64, min(65536, elements // width))

    def features(self, y: Tensor) -> Tensor:
        """Quadratic and linear features ``(F, n)`` of rows ``(D, n)``."""
        num_features, count = y.shape
        phi = self.workspace.take("features", self.coefficients.shape[1], count, y)
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
        scores = self.workspace.take("scores", self.num_components, y.shape[1], y)
        torch.addmm(self.offset, self.coefficients, phi, out=scores)
        if len(self.close):
            self._rescore(y, scores)
        return scores

    def _rescore(self, y: Tensor, scores: Tensor) -> None:
        """Score by differences, in place, the rows that may belong to a component.

        The others are those that a safe component explains better by more than any rounding.
        """
        approximate = scores[self.close]
        if len(self.safe):
            margin = 50.0 + self.doubt + 0.01 * approximate.abs()
            candidates = approximate > scores[self.safe].amax(0) - margin
        else:
            candidates = torch.ones_like(approximate, dtype=torch.bool)
        for _, k, rows in self._by_component(candidates):
            z = self._in_units(k, y[:, rows] - self.means[k, :, None])
            scores[k, rows] = self.constant[k] - 0.5 * (z * z).sum(0)

    def _by_component(self, chosen: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Slot, component and rows of close components, where ``(len(close), n)`` chooses any."""
        component, row = chosen.nonzero(as_tuple=True)
        counts = component.bincount(minlength=len(self.close)).tolist()
        for slot, (k, rows) in enumerate(zip(self.close_list, row.split(counts), strict=True)):
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
        close = (len(self.close), self.num_features)
        # of components that need differences: powers 0, 1 and 2 of x - mean
        out |= {"zeroth": new(close[0]), "first": new(close)}
        out["second"] = new(*close, close[1]) if self.basis.matrix else new(close)
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
        # numbers too small to matter become 0: denormal ones slow every product down
        r.sub_(top).clamp_min_(LEAST).exp_()
        torch.nn.functional.threshold_(r, 2.0 * math.exp(LEAST), 0.0)
        norm = r.sum(0)
        log_density = top + norm.log()
        r.div_(norm if weight is None else norm / weight)
        if weight is not None:
            log_density = log_density * weight
        statistics["log_likelihood"] += log_density.sum(dtype=torch.float64)
        statistics["num_rows"] += y.shape[1] if weight is None else weight.sum(dtype=torch.float64)
        statistics["counts"] += r.sum(1, dtype=torch.float64)
        moments = self.workspace.take("moments", *statistics["moments"].shape, y)
        torch.mm(r, phi.mT, out=moments)
        statistics["moments"] += moments
        if not len(self.close):
            return
        for slot, k, rows in self._by_component(r[self.close] > NEGLIGIBLE):
            difference, weights = y[:, rows] - self.means[k, :, None], r[k, rows]
            weighted = difference * weights
            statistics["zeroth"][slot] += weights.sum(dtype=torch.float64)
            statistics["first"][slot] += weighted.sum(1, dtype=torch.float64)
            if self.basis.matrix:
                statistics["second"][slot] += weighted @ difference.mT
            else:
                statistics["second"][slot] += (weighted * difference).sum(1, dtype=torch.float64)

    def finish(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take moments apart into ``sums`` and ``squares``, as the M-step reads them."""
        moments, num_features = statistics.pop("moments"), self.num_features
        powers = [statistics.pop(name) for name in ("zeroth", "first", "second")]
        if len(self.close):
            moments[self.close] = self._from_differences(*powers)
        sums, squares = moments[:, -num_features:], moments[:, :-num_features]
        if self.map is not None:
            sums = torch.linalg.solve_triangular(self.map, sums.mT, upper=False).mT
            squares = self.kind.pack(statistics.pop("total"))
        elif self.basis.name == "spherical":
            squares = squares[:, 0]
        return statistics | {"sums": sums, "squares": squares}

    # ---- the kinds --------------------------------------------------------------------------

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
        return factor.to(self.dtype), coefficients, offset, size * torch.finfo(self.dtype).eps

    def _in_units(self, k: int, difference: Tensor) -> Tensor:
        factor = self.precision_factor[k]
        if self.basis.name == "full":
            return factor @ difference
        return difference * (factor[:, None] if self.basis.name == "diagonal" else factor)

    def _from_differences(self, count: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Moments of the close components from powers of x - mean."""
        mean = self.means[self.close].double()
        sums = first + count[:, None] * mean
        # sum x x' = C + s m' + m s' - N m m' with s = sum x
        if self.basis.name == "spherical":
            second = (second.sum(-1) + self.basis.cross(count, sums, mean))[:, None]
        else:
            second = self.basis.pack(second + self.basis.cross(count, sums, mean))
        return torch.cat([second, sums], 1)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
