"""A normal variable that is clipped to [0, 1], as sensors and image files clip noise."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["ClippedNormal"]


class ClippedNormal(TorchDistribution):
    """What is left of ``Normal(loc, scale)`` after ``clip(0, 1)``.

    Between 0 and 1 it has the density of the normal; 0 and 1 themselves have the mass of what
    was beyond. Taking clipped noise for normal noise instead pulls bright and dark places of an
    image towards the middle.

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
    >>> round(float(d.log_prob(torch.tensor(1.0)).exp()), 3)  # half of the mass is beyond 1
    0.5
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval

    def __init__(self, loc: Any, scale: Any, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self._narrow = torch.as_tensor(scale).to(self.loc)  # not broadcast: less to compute
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClippedNormal:
        """Return the distribution with its batch dimensions expanded."""
        new = self._get_checked_instance(ClippedNormal, _instance)
        shape = torch.Size(batch_shape)
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        new._narrow = self._narrow
        super(ClippedNormal, new).__init__(shape, validate_args=False)
        return new

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw and clip."""
        return Normal(self.loc, self.scale).sample(torch.Size(sample_shape)).clamp(0.0, 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in (0, 1), log mass at 0 and 1; in nats."""
        off = (value - self.loc) / self._narrow
        inside = -0.5 * off.square() - (self._narrow.log() + 0.9189385332046727)
        cut = ((value <= 0) | (value >= 1)).expand(off.shape)
        sign = torch.where(value <= 0, 1.0, -1.0).to(off.dtype).expand(off.shape)
        # few values are cut off, and a tail takes long
        beyond = torch.special.log_ndtr(off[cut] * sign[cut])
        return inside.masked_scatter(cut, beyond)
