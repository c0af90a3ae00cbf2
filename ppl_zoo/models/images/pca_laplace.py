"""Principal component analysis with independent Laplace coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.images.linear_sources import LinearSources, principal_axes

__all__ = ["PCALaplace", "laplace_posterior_mean"]


class PCALaplace(LinearSources):
    """Independent Laplace distributions along the principal axes.

    Generative model, for each row n::

        sources[n] ~ Laplace(0, 1)                                     (D,)
        x[n]       = mean + sum_d scales[d] * sources[n, d] * axes[d]   (D,)

    The axes are those of the covariance, so that the fit is closed: scales[d] is the mean
    absolute coordinate along axis d. Coordinates are denoised independently: the posterior mean is
    closed, the mode is a soft threshold at ``sigma^2 / scale``.

    Parameters
    ----------
    num_features
        Number of features, D.

    Attributes
    ----------
    mean, scales
        ``(D,)``, in units of x.
    axes
        ``(D, D)``, orthonormal rows, by falling variance.
    filters, basis
        ``(D, D)``: from x to sources, and back.

    References
    ----------
    Zoran & Weiss (2011), From learning models of natural image patches to whole image
    restoration, https://doi.org/10.1109/ICCV.2011.6126278. Posterior mean: Pericchi & Smith
    (1992), Exact and approximate posterior moments for a normal location parameter, JRSS B 54.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.distributions.Laplace(0.0, torch.tensor([3.0, 1.0])).sample((20_000,))
    >>> model = zoo.PCALaplace(num_features=2)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.scales.round(decimals=1)
    tensor([3., 1.])
    >>> model.denoise(torch.tensor([[5.0, 0.1]]), sigma=1.0, estimate="map").shape
    torch.Size([1, 2])
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {})
    event_dims = {"x": ("feature",)}

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features: got {num_features}, expected 1 or more")
        self.num_features = num_features
        self.register_buffer("loc", torch.zeros(num_features))
        self.register_buffer("axes", torch.eye(num_features))
        self.log_scales = nn.Parameter(torch.zeros(num_features))

    @property
    def scales(self) -> Float[Tensor, " d"]:
        """Mean absolute coordinate along each axis, in units of x."""
        return self.log_scales.detach().exp()

    @property
    def filters(self) -> Float[Tensor, "d d"]:
        """Filters: rows whose products with ``x - mean`` are the unit sources."""
        return self.axes * (-self.log_scales).exp()[:, None]

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Set mean and principal axes to those of the data, and scales of equal variance."""
        mean, variances, axes = principal_axes(rows)
        self.loc.copy_(mean)
        self.axes.copy_(axes)
        self.log_scales.copy_(0.5 * (variances / 2.0).log())

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: sums of absolute coordinates ``(D,)``."""
        code = (batch[0] - self.loc) @ self.axes.mT
        density = self._log_density(code * (-self.log_scales).exp())
        return {
            "log_likelihood": density.double().sum(),
            "num_rows": density.new_tensor(len(density), dtype=torch.float64),
            "lengths": code.abs().double().sum(0),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: scales are mean absolute coordinates."""
        scales = statistics["lengths"] / statistics["num_rows"]
        self.log_scales.copy_(scales.clamp_min(1e-30).log())

    # ---- denoising --------------------------------------------------------------------------

    def _posterior_mean(self, y: Tensor, variance: float) -> Tensor:
        code = (y - self.loc) @ self.axes.mT
        return self.loc + laplace_posterior_mean(code, self.scales, variance) @ self.axes

    def _posterior_mode(self, y: Tensor, variance: float) -> Tensor:
        code = (y - self.loc) @ self.axes.mT
        shrunk = code.sign() * (code.abs() - variance / self.scales).clamp_min(0.0)
        return self.loc + shrunk @ self.axes


def laplace_posterior_mean(y: Tensor, scale: Tensor, variance: float) -> Tensor:
    """Posterior mean of ``s ~ Laplace(0, scale)`` given ``y = s + Normal(0, variance)``.

    The posterior is a normal distribution shifted down by ``variance / scale`` above 0 and
    shifted up below, so the mean weights the two shifts by the masses of the halves.
    """
    sd, shift = math.sqrt(variance), variance / scale
    above = torch.special.log_ndtr((y - shift) / sd) - y / scale
    below = torch.special.log_ndtr(-(y + shift) / sd) + y / scale
    return y - shift * torch.tanh(0.5 * (above - below))
