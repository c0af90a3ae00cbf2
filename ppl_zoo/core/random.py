"""Random numbers: seeds by chain and step, the caller's random state, scrambled Sobol normals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ppl_zoo.core.one_at_a_time import running

__all__ = ["chain_seed", "fork_generators", "quasi_normals", "set_seed"]


def chain_seed(seed: int, chain: int, step: int = -1) -> int:
    """Seed of one step of one chain.

    Noise is a function of (seed, chain, step), as with JAX's keys: a chain does not depend on
    how many others run beside it, and a resumed fit needs no saved random state.
    """
    mixed = seed & 0xFFFFFFFF
    for part in (chain + 1, step + 2):  # splitmix64, one round a part
        mixed = (mixed + 0x9E3779B97F4A7C15 * part) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1


def set_seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of the device in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@contextmanager
def fork_generators(device: torch.device) -> Iterator[None]:
    """Leave the caller's random state as it was; other threads wait."""
    with running(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def quasi_normals(num_draws: int, size: int, seed: int, whiten: bool = False) -> Tensor:
    """Scrambled Sobol normals.

    Standard normals that cover space evenly, and their mirror images.

    Parameters
    ----------
    num_draws
        Even; half of them are drawn, the others are their negatives (antithetic draws), so that
        odd moments are 0.
    size
        Dimensions, fewer than half of ``num_draws`` if they are to be whitened.
    seed
        Of the scrambling (Owen 1998, https://doi.org/10.1006/jcom.1998.0487).
    whiten
        Make the second moments the identity exactly, too. Averages of quadratics are then exact,
        and so is the optimum of a fit to a Gaussian.

    Returns
    -------
    Tensor
        ``(num_draws, size)``, float64.
    """
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed % 2**31)
    uniform = engine.draw(num_draws // 2, dtype=torch.float64)
    normals = math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-10, 1 - 1e-10) - 1)
    if whiten:
        moments = normals.T @ normals / len(normals)
        factor = torch.linalg.cholesky(moments)
        normals = torch.linalg.solve_triangular(factor, normals.T, upper=False).T
    return torch.cat([normals, -normals])
