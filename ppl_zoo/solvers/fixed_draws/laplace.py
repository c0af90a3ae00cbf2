"""Laplace's approximation, and what to do where it fails: the start of a fit with fixed draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.linalg import LinAlgError

__all__ = ["Normal", "approximate"]

#: Newton iterations of a climb, and step lengths that each tries
ITERATIONS, LENGTHS = 100, 2.0 ** np.arange(3, -30, -1)
#: points of a climb that are looked at
LOOKS = 8


@dataclass
class Normal:
    """A normal density: its mean, its lower triangular factor, and its ELBO in nats."""

    mean: np.ndarray
    factor: np.ndarray
    elbo: float


def approximate(
    energy: Callable[[np.ndarray], tuple],
    hessian: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    normals: np.ndarray,
) -> Normal | None:
    """Climb from a start to a mode, and return the best normal met on the way.

    The climb is Newton's, with the eigenvalues of the Hessian made positive. The normal at a
    point has the mean that one more step leads to and the inverse Hessian as covariance; at the
    mode that is Laplace's. A density may have no mode, or one far from its mass: all points are
    judged by their ELBO, as Pathfinder does (Zhang et al. 2022,
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
    Normal or None
        None if no normal has a finite ELBO.
    """
    with np.errstate(all="ignore"):  # what overflows is too far, and is looked at as such
        return _best(energy, normals, _climb(energy, hessian, start))


def _climb(
    energy: Callable[[np.ndarray], tuple],
    hessian: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return points, steps from them and roots of the inverse Hessian there."""
    found = []
    z = start
    value, gradient = (a[0] for a in energy(z[None]))
    for _ in range(ITERATIONS):
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            break
        curvature = hessian(z)
        if not np.isfinite(curvature).all():
            break
        scale, values, vectors = _spectrum(curvature)
        root = scale[:, None] * vectors / np.sqrt(values)  # root @ root.T is the covariance
        step = -root @ (root.T @ gradient)
        found.append((z, step, root))
        if -(step @ gradient) < 1e-12 * max(1.0, abs(value)):
            break
        tried = z + LENGTHS[:, None] * step
        values, gradients = energy(tried)
        best = int(np.nanargmin(np.where(np.isfinite(values), values, np.inf)))
        if not values[best] < value:
            break
        z, value, gradient = tried[best], values[best], gradients[best]
    return found


def _best(
    energy: Callable[[np.ndarray], tuple], normals: np.ndarray, found: list[tuple]
) -> Normal | None:
    """Pick the normal of the highest bound among those of some points."""
    picked = np.unique(np.linspace(0, len(found) - 1, min(LOOKS, len(found))).round().astype(int))
    best = None
    for index in picked:
        z, step, root = found[index]
        for width, moved in ((1.0, 1.0), (1.0, 0.0), (0.3, 0.0), (0.1, 0.0)):
            normal = _normal(energy, z + moved * step, width * root, normals)
            if normal is not None and (best is None or normal.elbo > best.elbo):
                best = normal
            if normal is not None:
                break
    return best


def _spectrum(hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, made positive, and vectors of the Hessian in units that even it out."""
    diagonal = np.abs(np.diag(hessian))
    scale = 1 / np.sqrt(np.where(diagonal > 1e-12, diagonal, 1.0))
    values, vectors = np.linalg.eigh(scale[:, None] * hessian * scale)
    return scale, np.maximum(np.abs(values), 1e-10), vectors


def _normal(
    energy: Callable[[np.ndarray], tuple], mean: np.ndarray, root: np.ndarray, normals: np.ndarray
) -> Normal | None:
    try:
        factor = np.linalg.qr(root.T, mode="r").T  # the same covariance, lower triangular
    except LinAlgError:
        return None
    # in one order of memory, as it will be when it is read back: products round alike
    factor = np.ascontiguousarray(factor * np.sign(np.diag(factor)))
    entropy = np.log(np.diag(factor)).sum() + len(mean) / 2 * math.log(2 * math.pi * math.e)
    elbo = entropy - energy(mean + normals @ factor.T)[0].mean()
    return Normal(mean, factor, float(elbo)) if np.isfinite(elbo) else None
