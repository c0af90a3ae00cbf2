"""Clipped normal distribution on [0, 1]: noise as sensors and image files clip it."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["ClippedNormal"]

HALF_LOG_2PI = 0.9189385332046727


class ClippedNormal(TorchDistribution):
    """Distribution of ``clip(Normal(loc, scale), 0, 1)``.

    Between 0 and 1 it has the density of the normal; 0 and 1 themselves have the mass of its
    tails. Modelling clipped noise as normal instead biases bright and dark places of an image
    towards the middle.

    Parameters
    ----------
    loc, scale
        Mean and sd before clipping.

    References
    ----------
    Tobin 1958, Estimation of relationships for limited dependent variables,
    https://doi.org/10.2307/1907382; for images Foi 2009, Clipped noisy images: heteroskedastic
    modeling and practical denoising, https://doi.org/10.1016/j.sigpro.2009.04.035.

    Examples
    --------
    >>> import torch
    >>> d = ClippedNormal(torch.tensor(1.0), torch.tensor(0.1))
    >>> round(float(d.log_prob(torch.tensor(1.0)).exp()), 3)  # half of the mass is above 1
    0.5
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval

    def __init__(self, loc: Any, scale: Any, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        # scale before it is broadcast: less to compute
        self._own_scale = torch.as_tensor(scale).to(self.loc)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClippedNormal:
        """Return the distribution with its batch dimensions expanded."""
        new = self._get_checked_instance(ClippedNormal, _instance)
        shape = torch.Size(batch_shape)
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        new._own_scale = self._own_scale
        super(ClippedNormal, new).__init__(shape, validate_args=False)
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the normal and clip."""
        return Normal(self.loc, self.scale).sample(torch.Size(sample_shape)).clamp(0.0, 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in (0, 1), log mass at 0 and 1; in nats."""
        z = (value - self.loc) / self._own_scale
        inside = -0.5 * z.square() - (self._own_scale.log() + HALF_LOG_2PI)
        clipped = ((value <= 0) | (value >= 1)).expand(z.shape)
        sign = torch.where(value <= 0, 1.0, -1.0).to(z.dtype).expand(z.shape)
        # only where needed: few values are clipped, and log_ndtr is slow
        tail = torch.special.log_ndtr(z[clipped] * sign[clipped])
        return inside.masked_scatter(clipped, tail)
