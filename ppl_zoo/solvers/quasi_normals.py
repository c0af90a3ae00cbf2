"""Standard normals that fill space evenly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["quasi_normals"]


def quasi_normals(num_draws: int, size: int, seed: int, whiten: bool = False) -> Tensor:
    """Return scrambled Sobol normals and their mirror images, ``(num_draws, size)``, float64.

    Parameters
    ----------
    num_draws
        Even; half of them are drawn, the others are their negatives, so that odd moments are 0.
    size
        Dimensions, fewer than half of ``num_draws`` if they are to be whitened.
    seed
        Of the scrambling (Owen 1998, https://doi.org/10.1006/jcom.1998.0487).
    whiten
        Make the second moments the identity exactly, too. Averages of quadratics are then exact,
        and so is the optimum of a fit to a Gaussian.
    """
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed % 2**31)
    uniform = engine.draw(num_draws // 2, dtype=torch.float64)
    normals = math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-10, 1 - 1e-10) - 1)
    if whiten:
        moments = normals.T @ normals / len(normals)
        factor = torch.linalg.cholesky(moments)
        normals = torch.linalg.solve_triangular(factor, normals.T, upper=False).T
    return torch.cat([normals, -normals])
