"""Starts of Markov chains: points near the posterior's mass, so that no chain is lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ppl_zoo.core.errors import ConvergenceError
from ppl_zoo.core.random import chain_seed, quasi_normals
from ppl_zoo.solvers.fixed_draws.laplace import (
    NormalApproximation,
    approximate,
    difference_hessian,
)

__all__ = ["find_starts", "uniform_starts"]

#: points tried in turn for a chain's start until one has a finite density, uniform within the
#: radius of 0 on the unconstrained scale
MAX_TRIES, START_RADIUS = 400, 2.0
#: points of a finite density of which the chain starts at the densest
NUM_COMPARED = 20
#: paths at most, and those that have to lead to one optimum for no others to be tried
MAX_PATHS, NUM_AGREEING = 8, 5
#: latents up to which paths are followed; each step takes twice as many gradients
MAX_LATENTS_FOR_PATHS = 32
#: draws that estimate an ELBO
NUM_NORMALS = 128
#: optima whose ELBOs are within so many nats are taken for one
SAME_OPTIMUM_NATS = 0.5
#: difference steps of Hessians, relative to posterior sds, by numpy's name of the dtype
DIFFERENCE_STEPS = {"float32": 1e-2, "float64": 1e-3}

#: ``evaluate(z)`` returns energies ``(chain, point)`` and gradients at ``z (chain, point, size)``
Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def find_starts(
    evaluate: Evaluate, num_chains: int, size: int, seed: int, dtype: str
) -> np.ndarray:
    """Start each chain by :func:`pathfinder_starts`; those of many latents, uniformly.

    Raises
    ------
    ConvergenceError
        If there is no point of a finite density.
    """
    if size > MAX_LATENTS_FOR_PATHS:
        return uniform_starts(evaluate, num_chains, size, seed)
    return pathfinder_starts(evaluate, num_chains, size, seed, dtype)


def uniform_starts(
    evaluate: Evaluate, num_chains: int, size: int, seed: int, num_compared: int = NUM_COMPARED
) -> np.ndarray:
    """Start each chain at the densest of some uniform points, ``(chain, size)``.

    Raises
    ------
    ConvergenceError
        If a chain finds no point of a finite density and gradient.
    """
    rngs = [np.random.default_rng(chain_seed(seed, chain)) for chain in range(num_chains)]
    lowest, starts = np.full(num_chains, np.inf), np.empty((num_chains, size))
    for _ in range(0, MAX_TRIES, num_compared):
        shape = (num_compared, size)
        z = np.stack([rng.uniform(-START_RADIUS, START_RADIUS, shape) for rng in rngs])
        energies = _finite(*evaluate(z))
        for chain in np.flatnonzero(np.isinf(lowest)):
            densest = energies[chain].argmin()
            lowest[chain], starts[chain] = energies[chain, densest], z[chain, densest]
        if np.isfinite(lowest).all():
            return starts
    raise ConvergenceError(
        f"no finite density within {START_RADIUS:g} of the middle of the unconstrained scale in "
        f"{MAX_TRIES} tries; pass init=fit"
    )


def pathfinder_starts(
    evaluate: Evaluate, num_chains: int, size: int, seed: int, dtype: str
) -> np.ndarray:
    """Start each chain at a draw of a normal near the posterior, ``(chain, size)``.

    Newton's method runs from several uniform points, and the best normal on each path is taken
    by its ELBO; each chain picks one of these in proportion to ``exp(ELBO)`` and draws from it.
    Multi-path Pathfinder (Zhang et al. 2022, https://jmlr.org/papers/v23/21-0889.html) with
    Newton's method in the place of L-BFGS. Where no path leads anywhere, :func:`uniform_starts`.

    Parameters
    ----------
    evaluate
        Potential energies and gradients; all chains have the same data.
    num_chains, size, seed
        The paths depend on the seed alone.
    dtype
        Of ``evaluate``: "float32" or "float64".

    Raises
    ------
    ConvergenceError
        If there is no point of a finite density to begin with.
    """

    def energy(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # the points are shared out among the chains
        count = -(-len(z) // num_chains)
        full = np.resize(z, (num_chains, count, size))
        values, gradients = evaluate(full)
        return values.reshape(-1)[: len(z)], gradients.reshape(-1, size)[: len(z)]

    step = np.full(size, DIFFERENCE_STEPS[dtype])

    def hessian(z: np.ndarray) -> np.ndarray:
        nonlocal step
        found, step = difference_hessian(energy, z, step, DIFFERENCE_STEPS[dtype])
        return found

    # of a chain that is not there: the paths are nobody's own
    rng = np.random.default_rng(chain_seed(seed, -1))
    shape = (MAX_PATHS, NUM_COMPARED, size)
    points = rng.uniform(-START_RADIUS, START_RADIUS, shape)
    heights = _finite(*energy(points.reshape(-1, size))).reshape(shape[:2])
    normals = quasi_normals(NUM_NORMALS, size, seed, whiten=True).numpy()
    found: list[NormalApproximation] = []
    for point in points[np.arange(MAX_PATHS), heights.argmin(1)]:
        normal = approximate(energy, hessian, point, normals)
        found += [] if normal is None else [normal]
        elbos = np.array([n.elbo for n in found])
        if (elbos > elbos.max(initial=-np.inf) - SAME_OPTIMUM_NATS).sum() >= NUM_AGREEING:
            break
    if not found:
        return uniform_starts(evaluate, num_chains, size, seed)
    weights = np.exp(elbos - elbos.max())
    z = np.empty((num_chains, size))
    for chain in range(num_chains):
        rng = np.random.default_rng(chain_seed(seed, chain))
        normal = found[rng.choice(len(found), p=weights / weights.sum())]
        z[chain] = normal.mean + normal.factor @ rng.standard_normal(size)
    lost = np.isinf(_finite(*evaluate(z[:, None]))[:, 0])
    z[lost] = found[int(elbos.argmax())].mean
    return z


def _finite(values: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return energies, infinite where they or their gradients are not finite."""
    return np.where(np.isfinite(values) & np.isfinite(gradients).all(-1), values, np.inf)
