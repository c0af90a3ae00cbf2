"""Mass matrix, low rank plus diagonal, adapted in the warm-up by the Fisher divergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch import from_numpy as to_tensor

__all__ = ["MAX_RANK", "MassMatrix", "MassMatrixAdaptation", "fisher_estimate"]

#: directions of the low-rank part at most; a posterior of no more latents has a full matrix
MAX_RANK = 64
#: eigenvalues within ``[1 / CUTOFF, CUTOFF]`` are left at 1: to correct them gains little
CUTOFF = 2.0
#: ridge of both covariances in the scaled coordinates, divided by the number of draws
RIDGE = 1e-5
#: shares of the warm-up: of its early windows, and of its end, where the step size alone adapts
EARLY, FINAL = 0.3, 0.15
#: iterations of an early window, of the first later one, and between estimates within one
EARLY_WINDOW, WINDOW, BETWEEN = 10, 80, 20
#: each later window is so many times the one before
GROWTH = 1.5
#: the matrix adapts only in a warm-up of so many iterations
MIN_WARMUP = 20
#: iterations at the end of a warm-up for its step size, unless it is shorter than four times that
MIN_FINAL = 50


@dataclass
class MassMatrix:
    """Inverse mass matrices ``S S^T`` with ``S = diag(scale) (I + U diag(stretch) U^T)``.

    A chain samples ``y`` with ``z = S y``, whose mass matrix is the identity.

    Attributes
    ----------
    scale
        ``(chain, size)``.
    vectors
        ``U (chain, size, rank)``, orthonormal columns, or zero ones that do nothing.
    stretch
        ``(chain, rank)``: roots of the eigenvalues, minus 1.
    """

    scale: np.ndarray
    vectors: np.ndarray
    stretch: np.ndarray

    @classmethod
    def identity(cls, num_chains: int, size: int, rank: int) -> MassMatrix:
        """Return the matrix that all chains begin with."""
        return cls(
            np.ones((num_chains, size)),
            np.zeros((num_chains, size, rank)),
            np.zeros((num_chains, rank)),
        )

    def covariance(self) -> np.ndarray:
        """Return the inverse mass matrices ``(chain, size, size)``."""
        turned = np.eye(self.scale.shape[1]) + np.einsum(
            "cir,cr,cjr->cij", self.vectors, self.stretch, self.vectors
        )
        root = self.scale[:, :, None] * turned
        return root @ root.transpose(0, 2, 1)

    def gradients(self, turned: np.ndarray) -> np.ndarray:
        """Turn gradients by ``y`` into gradients by ``z``, both ``(chain, draw, size)``."""
        along = np.einsum("cdi,cir->cdr", turned, self.vectors)
        inverse = 1 / (1 + self.stretch) - 1
        back = np.einsum("cdr,cr,cir->cdi", along, inverse, self.vectors)
        return (turned + back) / self.scale[:, None]


def fisher_estimate(
    draws: np.ndarray, gradients: np.ndarray, rank: int, cutoff: float = CUTOFF
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate an inverse mass matrix that minimises the Fisher divergence to the draws.

    That is the divergence of a normal density from the posterior in the mean square of the
    difference of their scores (Seyboldt, Carlson & Carpenter 2026,
    https://arxiv.org/abs/2603.18845). The diagonal part has the variances
    ``sqrt(var(draws) / var(gradients))``. In its units the rest is the geometric mean of the
    covariance of the draws and the inverse covariance of the gradients, in the span of the
    leading directions of both. Exact for a normal density, from as many draws as latents.

    Parameters
    ----------
    draws, gradients
        Points and gradients of the log density there, ``(draw, size)``.
    rank
        Directions of the low-rank part at most.
    cutoff
        Eigenvalues within ``[1 / cutoff, cutoff]`` are left at 1.

    Returns
    -------
    scale, vectors, stretch
        ``(size,)``, ``(size, rank)`` and ``(rank,)``, as :class:`MassMatrix` has them.

    Raises
    ------
    FloatingPointError
        If a coordinate has no finite variance above 0.
    """
    count, size = draws.shape
    with np.errstate(all="ignore"):
        x, g = draws - draws.mean(0), gradients - gradients.mean(0)
        scale = ((x**2).mean(0) / (g**2).mean(0)) ** 0.25
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise FloatingPointError("a coordinate has no finite variance above 0")
    vectors, stretch = np.zeros((size, rank)), np.zeros(rank)
    if rank == 0:
        return scale, vectors, stretch
    x, g = x / scale / count**0.5, g * scale / count**0.5
    if size <= min(rank, count):
        basis = np.eye(size)
    else:
        leading = [np.linalg.svd(a, full_matrices=False)[2][:rank] for a in (x, g)]
        basis = np.linalg.qr(np.concatenate(leading).T)[0]
    roots, found = _geometric_mean(x @ basis, g @ basis, (RIDGE / count) ** 0.5)
    far = np.abs(np.log(roots))
    kept = np.argsort(-far)[:rank]
    kept = kept[2 * far[kept] > np.log(cutoff)]
    vectors[:, : len(kept)] = basis @ found[:, kept]
    stretch[: len(kept)] = roots[kept] - 1
    return scale, vectors, stretch


def _geometric_mean(x: np.ndarray, g: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Geometric mean of ``A = x^T x + ridge^2`` and of the inverse of ``B``, the same of ``g``.

    With ``B = R^T R`` and ``R A R^T = V D^2 V^T`` it is ``W W^T``, ``W = R^-1 V D^(1/2)``. By
    decompositions of the roots: products would lose half the digits.

    Returns
    -------
    roots, vectors
        Roots of its eigenvalues, and its eigenvectors in columns.
    """
    below = ridge * np.eye(x.shape[1])
    root = np.linalg.qr(np.concatenate([g, below]), mode="r")
    lengths, turned = np.linalg.svd(np.concatenate([x, below]) @ root.T, full_matrices=False)[1:]
    vectors, roots, _ = np.linalg.svd(np.linalg.solve(root, turned.T * lengths**0.5))
    return roots, vectors


def estimates_in(num_warmup: int) -> dict[int, bool]:
    """Plan the warm-up: ``{iterations done: whether a window ends}`` for each estimate.

    Early windows of one length, later ones that grow, and a last part in which the step size
    alone adapts, as in nutpie (https://github.com/pymc-devs/nutpie). A window that leaves no
    room for its successor goes on to that last part.
    """
    if num_warmup < MIN_WARMUP:
        return {}
    end = num_warmup - max(round(FINAL * num_warmup), min(MIN_FINAL, num_warmup // 4))
    first = min(round(EARLY * num_warmup), end)
    plan = {i: True for i in range(EARLY_WINDOW, first + 1, EARLY_WINDOW)}
    begun, length = max(plan, default=0), float(WINDOW)
    while begun < end:
        last = begun + length * (1 + GROWTH) > end
        stop = end if last else begun + round(length)
        plan |= {i: False for i in range(begun + BETWEEN, stop, BETWEEN)}
        plan[stop] = True
        begun, length = stop, length * GROWTH
    return plan


class MassMatrixAdaptation:
    """Adaptation of the mass matrices of some chains, each from its own draws.

    An estimate takes the draws of the window that is open and of the one before.

    Parameters
    ----------
    num_chains, size
        Chains, and latents on the unconstrained scale.
    num_warmup
        Iterations of the warm-up.
    kind
        "low-rank", "diagonal" or "dense".

    Attributes
    ----------
    matrix
        As it stands.
    """

    def __init__(self, num_chains: int, size: int, num_warmup: int, kind: str) -> None:
        self.rank = {"low-rank": min(size, MAX_RANK), "diagonal": 0, "dense": size}[kind]
        self.cutoff = 1.0 if kind == "dense" else CUTOFF
        self.matrix = MassMatrix.identity(num_chains, size, self.rank)
        self.plan = estimates_in(num_warmup)
        self.draws = np.zeros((num_chains, 0, size))
        self.gradients = np.zeros((num_chains, 0, size))
        self.num_before = 0  # draws held of the window before

    def begin(self, gradients: np.ndarray) -> None:
        """Set the scales by the gradients at the start, ``(chain, size)``."""
        with np.errstate(all="ignore"):
            scale = np.abs(gradients) ** -0.5
        self.matrix.scale = np.where(np.isfinite(scale), scale, 1.0).clip(1e-10, 1e10)

    def remaining(self, iteration: int) -> int | None:
        """Count the iterations until the next estimate; None where none is left."""
        return min((i - iteration for i in self.plan if i > iteration), default=None)

    def add(self, draws: np.ndarray, turned: np.ndarray) -> None:
        """Add draws, with gradients of the log density by ``y``, ``(chain, draw, size)``."""
        self.draws = np.concatenate([self.draws, draws], 1)
        gradients = self.matrix.gradients(turned.astype(np.float64))
        self.gradients = np.concatenate([self.gradients, gradients], 1)

    def estimate(self, iteration: int) -> bool:
        """Estimate the matrices where the plan says so; whether a window has ended."""
        new = MassMatrix(*(a.copy() for a in vars(self.matrix).values()))
        for chain, (draws, gradients) in enumerate(zip(self.draws, self.gradients, strict=True)):
            good = np.isfinite(gradients).all(1)
            try:
                found = fisher_estimate(draws[good], gradients[good], self.rank, self.cutoff)
            except (FloatingPointError, np.linalg.LinAlgError):
                continue  # the chain has not moved: it keeps what it has
            new.scale[chain], new.vectors[chain], new.stretch[chain] = found
        self.matrix = new
        ended = self.plan[iteration]
        if ended:
            self.draws = self.draws[:, self.num_before :]
            self.gradients = self.gradients[:, self.num_before :]
            self.num_before = self.draws.shape[1]
        if self.remaining(iteration) is None:
            self.draws, self.gradients = self.draws[:, :0], self.gradients[:, :0]
            self.num_before = 0
        return ended

    def pack(self) -> dict[str, Tensor]:
        """State as tensors."""
        arrays = {**vars(self.matrix), "draws": self.draws, "gradients": self.gradients}
        arrays["num_before"] = np.array(self.num_before)
        return {f"mass_matrix.{name}": to_tensor(array.copy()) for name, array in arrays.items()}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Restore a packed state."""
        names = ("scale", "vectors", "stretch", "draws", "gradients", "num_before")
        found = [tensors[f"mass_matrix.{name}"].cpu().numpy() for name in names]
        self.matrix = MassMatrix(*found[:3])
        self.draws, self.gradients, self.num_before = found[3], found[4], int(found[5])
