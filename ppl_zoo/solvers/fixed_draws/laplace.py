"""Laplace's approximation, from a mode or from the path to it: the start of fixed draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.linalg import LinAlgError

__all__ = ["NormalApproximation", "approximate", "difference_hessian"]

#: iterations of Newton's method
MAX_ITERATIONS = 100
#: lengths that the line search of each iteration compares, in Newton steps
STEP_LENGTHS = 2.0 ** np.arange(3, -30, -1)
#: points of Newton's path at which normals are compared, evenly spaced
MAX_POINTS_COMPARED = 8
#: normals that are tried at a point until one has a finite ELBO: the scale, in units of
#: Laplace's, and the part of the Newton step that the mean is moved by
TRIED_SCALES_AND_MOVES = ((1.0, 1.0), (1.0, 0.0), (0.3, 0.0), (0.1, 0.0))

Energy = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Hessian = Callable[[np.ndarray], np.ndarray]


@dataclass
class NormalApproximation:
    """A normal density: its mean, its lower triangular factor, and its ELBO in nats."""

    mean: np.ndarray
    factor: np.ndarray
    elbo: float


def approximate(
    energy: Energy, hessian: Hessian, start: np.ndarray, normals: np.ndarray
) -> NormalApproximation | None:
    """Run Newton's method from a start to a mode, and return the best normal on its path.

    The eigenvalues of the Hessian are made positive. The normal at a point has the mean that one
    more Newton step leads to and the inverse Hessian as covariance; at the mode that is
    Laplace's. A density may have no mode, or one far from its mass: points of the path are
    compared by their ELBO, as Pathfinder does (Zhang et al. 2022,
    https://jmlr.org/papers/v23/21-0889.html).

    Parameters
    ----------
    energy
        ``energy(z)`` returns energies ``(n,)`` and gradients ``(n, size)`` at ``z (n, size)``.
    hessian
        ``hessian(z)`` returns ``(size, size)`` at ``z (size,)``.
    start
        ``(size,)``.
    normals
        Standard normals ``(n, size)`` that estimate the ELBO.

    Returns
    -------
    NormalApproximation or None
        None if no normal has a finite ELBO.
    """
    with np.errstate(all="ignore"):  # an overflow is a step too long, and treated as such
        return _best_normal(energy, normals, _newton_path(energy, hessian, start))


def difference_hessian(
    energy: Energy, z: np.ndarray, step: np.ndarray, relative: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hessian at ``z (size,)`` by central differences of gradients, exact for a quadratic.

    Returns
    -------
    hessian, step
        ``(size, size)``, and the ``step (size,)`` of the next call: ``relative`` times the
        standard deviations that the diagonal of this one implies.
    """
    shifts = np.diag(step)
    gradients = energy(np.concatenate([z + shifts, z - shifts]))[1]
    rows = (gradients[: len(z)] - gradients[len(z) :]) / (2 * step[:, None])
    hessian = (rows + rows.T) / 2
    scale = np.abs(np.diag(hessian))
    if np.isfinite(scale).all():
        step = np.clip(relative / np.sqrt(np.maximum(scale, 1e-300)), 1e-10, relative)
    return hessian, step


@dataclass
class _PathPoint:
    """A point of Newton's path: the step from it, and a root of the inverse Hessian there."""

    z: np.ndarray
    step: np.ndarray
    root: np.ndarray


def _newton_path(energy: Energy, hessian: Hessian, start: np.ndarray) -> list[_PathPoint]:
    path = []
    z = start
    value, gradient = (a[0] for a in energy(z[None]))
    for _ in range(MAX_ITERATIONS):
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            break
        curvature = hessian(z)
        if not np.isfinite(curvature).all():
            break
        scale, eigenvalues, vectors = _positive_spectrum(curvature)
        root = scale[:, None] * vectors / np.sqrt(eigenvalues)  # root @ root.T: the covariance
        step = -root @ (root.T @ gradient)
        path.append(_PathPoint(z, step, root))
        if -(step @ gradient) < 1e-12 * max(1.0, abs(value)):
            break
        tried = z + STEP_LENGTHS[:, None] * step
        values, gradients = energy(tried)
        best = int(np.nanargmin(np.where(np.isfinite(values), values, np.inf)))
        if not values[best] < value:
            break
        z, value, gradient = tried[best], values[best], gradients[best]
    return path


def _best_normal(
    energy: Energy, normals: np.ndarray, path: list[_PathPoint]
) -> NormalApproximation | None:
    """Pick the normal of the highest ELBO among those at some points of the path."""
    count = min(MAX_POINTS_COMPARED, len(path))
    picked = np.unique(np.linspace(0, len(path) - 1, count).round().astype(int))
    best = None
    for point in (path[index] for index in picked):
        for scale, move in TRIED_SCALES_AND_MOVES:
            normal = _make_normal(energy, point.z + move * point.step, scale * point.root, normals)
            if normal is not None and (best is None or normal.elbo > best.elbo):
                best = normal
            if normal is not None:
                break
    return best


def _positive_spectrum(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale a Hessian to a unit diagonal; scales, eigenvalues made positive, eigenvectors."""
    diagonal = np.abs(np.diag(hessian))
    scale = 1 / np.sqrt(np.where(diagonal > 1e-12, diagonal, 1.0))
    values, vectors = np.linalg.eigh(scale[:, None] * hessian * scale)
    return scale, np.maximum(np.abs(values), 1e-10), vectors


def _make_normal(
    energy: Energy, mean: np.ndarray, root: np.ndarray, normals: np.ndarray
) -> NormalApproximation | None:
    """Make the normal of covariance ``root @ root.T``; None if its ELBO is not finite."""
    try:
        factor = np.linalg.qr(root.T, mode="r").T  # the same covariance, lower triangular
    except LinAlgError:
        return None
    # C order, as it will have when it is read from disk: products then round alike
    factor = np.ascontiguousarray(factor * np.sign(np.diag(factor)))
    entropy = np.log(np.diag(factor)).sum() + len(mean) / 2 * math.log(2 * math.pi * math.e)
    elbo = entropy - energy(mean + normals @ factor.T)[0].mean()
    return NormalApproximation(mean, factor, float(elbo)) if np.isfinite(elbo) else None
