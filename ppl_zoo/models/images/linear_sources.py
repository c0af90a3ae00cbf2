"""Linear models of independent Laplace sources: the base of PCALaplace and ICA.

The posterior of x under noise has no closed form for filters that are not orthogonal: its mode is
found by the alternating direction method of multipliers, its mean by a Gibbs sampler.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Transform, constraints

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.images.patch_denoising import PatchPrior

__all__ = ["MIN_SOURCE", "LinearSources", "gibbs_mean", "principal_axes", "sparse_mode"]

#: least absolute value of a source where it is a divisor
MIN_SOURCE = 1e-6
#: rows that the Gibbs sampler holds precision matrices of at once
MAX_ROWS_PER_BLOCK = 512


class LinearSources(PatchPrior):
    """Linear model ``x = loc + filters^-1 s`` of unit Laplace sources s.

    A subclass has the buffer ``loc`` and writes the property ``filters``.
    """

    loc: Tensor

    @property
    def filters(self) -> Float[Tensor, "d d"]:
        """Filters: rows whose products with ``x - mean`` are the sources, in units of 1 / x."""
        raise NotImplementedError(f"{type(self).__name__} has no filters; write them")

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of x."""
        return self.loc.detach()

    @property
    def basis(self) -> Float[Tensor, "d d"]:
        """Basis functions: the columns of the inverse of the filters."""
        return torch.linalg.inv(self.filters.detach())

    def _density(self) -> dist.TransformedDistribution:
        unit = dist.Laplace(torch.zeros_like(self.loc), torch.ones_like(self.loc)).to_event(1)
        return dist.TransformedDistribution(unit, [_Mixing(self.loc, self.filters)])

    def model(self, x: Tensor) -> None:
        """Draw each row; its sources are a function of it, so that no latent is left."""
        density = self._density()
        with self.observations("observations", x):
            pyro.sample("x", density, obs=x)

    def _log_density(self, sources: Tensor) -> Tensor:
        """Log density of rows from their sources."""
        log_det = torch.linalg.slogdet(self.filters)[1]
        return log_det - (sources.abs() + math.log(2.0)).sum(-1)

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return self._log_density(self.encode(x))

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n d"]:
        """Compute the sources of each row ``(n, D)``, independent unit Laplace under the model."""
        return (self.checked_rows(x).all()[0] - self.loc) @ self.filters.mT

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows, ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` is not None.
        """
        validation.refuse_given(given, self)
        return self._density().sample((num_samples,))


class _Mixing(Transform):
    """Linear mixing of sources, ``x = loc + filters^-1 s``."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, filters: Tensor) -> None:
        super().__init__()
        self.loc, self.filters = loc, filters

    def _call(self, s: Tensor) -> Tensor:
        return self.loc + s @ torch.linalg.inv(self.filters).mT

    def _inverse(self, x: Tensor) -> Tensor:
        return (x - self.loc) @ self.filters.mT

    def log_abs_det_jacobian(self, s: Tensor, x: Tensor) -> Tensor:
        """Log of the absolute Jacobian determinant, a constant."""
        return -torch.linalg.slogdet(self.filters)[1].expand(s.shape[:-1])


def principal_axes(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Principal component analysis: mean, falling variances ``(D,)`` and axes ``(D, D)``.

    Axes are rows; all is float64.

    Raises
    ------
    DataError
        If the rows lie in a subspace.
    """
    validation.check_fittable(rows, 2)
    mean, covariance = moments(rows, matrix=True)
    variances, axes = torch.linalg.eigh(covariance)
    if not variances[0] > 1e-13 * variances[-1]:
        raise DataError(
            "x: got rows in a subspace (features are linear functions of each other), expected "
            "a covariance of full rank; leave features out, or add noise"
        )
    return mean, variances.flip(0), axes.mT.flip(0)


# ---- posterior mode and mean under noise --------------------------------------------------


def sparse_mode(y: Tensor, filters: Tensor, variance: float, num_steps: int = 200) -> Tensor:
    """Posterior mode: the x that minimises ``|x - y|^2 / (2 variance) + sum_d |filters_d . x|``.

    By the alternating direction method of multipliers: a linear solve for x, a soft threshold
    for the sources (Boyd et al. 2011, https://doi.org/10.1561/2200000016).

    Parameters
    ----------
    y
        Noisy rows without the mean, ``(n, D)``.
    filters
        ``(D, D)``.
    variance
        Variance of the noise.
    num_steps
        Iterations of the method.
    """
    gram = filters.mT @ filters
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    # the penalty parameter of each source, so that its two terms are of one size
    weight = 1.0 / (variance * filters.square().sum(-1)).clamp(1e-4, 1e8)
    inverse = torch.linalg.inv(eye / variance + (filters.mT * weight) @ filters)
    x, sources, dual = y, y @ filters.mT, torch.zeros_like(y)
    for _ in range(num_steps):
        x = (y / variance + ((sources - dual) * weight) @ filters) @ inverse.mT
        code = x @ filters.mT + dual
        sources = code.sign() * (code.abs() - 1.0 / weight).clamp_min(0.0)
        dual = code - sources
    return x


def gibbs_mean(
    y: Tensor, filters: Tensor, variance: float, num_draws: int = 60, burn_in: int = 20
) -> Tensor:
    """Posterior mean by a Gibbs sampler of rows and the variances of their sources.

    Given variances t_d of the sources, a row is normal; given the row, 1 / t_d is inverse
    Gaussian with mean 1 / |source| and shape 1 (Park & Casella 2008,
    https://doi.org/10.1198/016214508000000337). The estimate averages
    the conditional means (Rao-Blackwell).

    Parameters
    ----------
    y, filters, variance
        As for :func:`sparse_mode`.
    num_draws, burn_in
        Sweeps that are averaged, and sweeps before them.
    """
    # float64: precisions of sources near 0 are large
    dtype, y, filters = y.dtype, y.double(), filters.double()
    total = torch.zeros_like(y)
    for part, out in zip(
        y.split(MAX_ROWS_PER_BLOCK), total.split(MAX_ROWS_PER_BLOCK), strict=True
    ):
        eye = torch.eye(len(filters), dtype=y.dtype, device=y.device) / variance
        x = part
        for sweep in range(burn_in + num_draws):
            precision = _inverse_gaussian(1.0 / (x @ filters.mT).abs().clamp_min(MIN_SOURCE))
            matrix = eye + (filters.mT * precision[:, None]) @ filters
            factor = torch.linalg.cholesky(matrix)
            mean = torch.cholesky_solve(part[..., None] / variance, factor)
            noise = torch.randn_like(part)[..., None]
            x = (mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True))[..., 0]
            if sweep >= burn_in:
                out += mean[..., 0]
    return (total / num_draws).to(dtype)


def _inverse_gaussian(mean: Tensor) -> Tensor:
    """Draw inverse Gaussian variables of shape 1 (Michael, Schucany & Haas 1976)."""
    chi = torch.randn_like(mean).square()
    half = 0.5 * mean * chi
    # the smaller root, in the form that does not cancel
    root = mean / (1.0 + half + (half * (half + 2.0)).sqrt())
    return torch.where(torch.rand_like(mean) * (mean + root) <= mean, root, mean * mean / root)
