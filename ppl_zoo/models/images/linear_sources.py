"""Independent Laplace sources behind a linear map: what PCALaplace and ICA share."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Transform, constraints

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.model import Array
from ppl_zoo.models.images.patch_denoising import PatchPrior
from ppl_zoo.models.mixtures import gaussian_checks as checks
from ppl_zoo.models.mixtures.coordinates import moments

__all__ = ["LinearSources", "principal_axes"]


class Unmix(Transform):
    """``x = loc + filters^-1 s``, of sources s."""

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
        """Log volume of x for a volume of s, the same everywhere."""
        return -torch.linalg.slogdet(self.filters)[1].expand(s.shape[:-1])


class LinearSources(PatchPrior):
    """``x = loc + filters^-1 s`` with unit Laplace sources s; a model offers the filters."""

    num_features: int
    loc: Tensor

    @property
    def filters(self) -> Float[Tensor, "d d"]:
        """Rows that find the sources in ``x - mean``, in units of 1 / x."""
        raise NotImplementedError(f"{type(self).__name__} has no filters; write them")

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of x."""
        return self.loc.detach()

    @property
    def basis(self) -> Float[Tensor, "d d"]:
        """What a unit of each source adds to x: the columns of the inverse of the filters."""
        return torch.linalg.inv(self.filters.detach())

    def _density(self) -> dist.TransformedDistribution:
        unit = dist.Laplace(torch.zeros_like(self.loc), torch.ones_like(self.loc)).to_event(1)
        return dist.TransformedDistribution(unit, [Unmix(self.loc, self.filters)])

    def model(self, x: Tensor) -> None:
        """Draw the sources of each row, which are its mixture: one density, no latent left."""
        density = self._density()
        with self.observations("observations", x):
            pyro.sample("x", density, obs=x)

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape."""
        checks.shapes(rows, self.num_features)
        super().check_data(rows)

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
        """Find the sources of each row ``(n, D)``: independent unit Laplace under the model."""
        rows = self.as_rows(x)
        self.check_data(rows)
        return (rows.all()[0] - self.loc) @ self.filters.mT

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows, ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` is not None.
        """
        if given is not None:
            raise DataError(f"given: {type(self).__name__} holds no features, expected None")
        return self._density().sample((num_samples,))


def principal_axes(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(D,)``, variances ``(D,)`` by falling size and axes ``(D, D)`` (rows), float64.

    Raises
    ------
    DataError
        If the rows lie in a subspace.
    """
    checks.fittable(rows, 2)
    mean, covariance = moments(rows, matrix=True)
    variances, axes = torch.linalg.eigh(covariance)
    if not variances[0] > 1e-13 * variances[-1]:
        raise DataError(
            "x: got rows in a subspace (features are linear functions of each other), expected "
            "a covariance of full rank; leave features out, or add noise"
        )
    return mean, variances.flip(0), axes.mT.flip(0)
