"""Multivariate normal distribution of patches: second-order structure alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.images.patch_denoising import Components, GaussianMixturePrior

__all__ = ["MultivariateGaussian"]


class MultivariateGaussian(GaussianMixturePrior):
    """A multivariate normal distribution, fitted by maximum likelihood in one step of EM.

    Generative model, for each row n::

        x[n] ~ Normal(mean, covariance)        (D,)

    Patches under it have the spectrum of photographs and no edges. Restoration is one linear
    (Wiener) filter, and the posterior's mean is its mode.

    Parameters
    ----------
    num_features
        Number of features, D.

    Attributes
    ----------
    mean, covariance
        ``(D,)`` in units of x, ``(D, D)`` in their square.

    References
    ----------
    Zoran & Weiss (2011), From learning models of natural image patches to whole image
    restoration, https://doi.org/10.1109/ICCV.2011.6126278.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(5000, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.4]])
    >>> model = zoo.MultivariateGaussian(num_features=2)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> torch.allclose(model.covariance, torch.cov(x.T, correction=0), atol=1e-4)
    True
    >>> model.denoise(x, sigma=0.1).shape
    torch.Size([5000, 2])
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {})
    event_dims = {
        "x": ("feature",),
        "mean": ("feature",),
        "covariance": ("feature", "feature_1"),
    }

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features: got {num_features}, expected 1 or more")
        self.num_features = num_features
        self.loc = nn.Parameter(torch.zeros(num_features))
        # the Cholesky factor of the covariance, with the logarithm of its diagonal
        self.factor = nn.Parameter(torch.zeros(num_features, num_features))

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of x."""
        return self.loc.detach()

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Covariance of x."""
        factor = self._factor().detach()
        return factor @ factor.mT

    def _factor(self) -> Tensor:
        return self.factor.tril(-1) + self.factor.diagonal().exp().diag()

    def components(self) -> Components:
        """Mixture of one Gaussian."""
        return Components(torch.ones_like(self.mean[:1]), self.mean[None], self.covariance[None])

    def _normal(self) -> dist.MultivariateNormal:
        return dist.MultivariateNormal(self.loc, scale_tril=self._factor(), validate_args=False)

    def model(self, x: Tensor) -> None:
        """Draw each row."""
        normal = self._normal()
        with self.observations("observations", x):
            pyro.sample("x", normal, obs=x)

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Initialise near the data, so that squares about the initial mean do not cancel."""
        validation.check_fittable(rows, 1)
        some = rows.spread(1000)[0]
        self.loc.copy_(some.mean(0))
        spread = (some - self.loc).square().mean(0).sqrt().clamp_min(1e-12)
        self.factor.copy_(spread.log().diag())

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """Sum rows ``(D,)`` and their products ``(D, D)`` about the present mean."""
        x = batch[0]
        centred = (x - self.loc).double()
        return {
            "log_likelihood": self._normal().log_prob(x).double().sum(),
            "num_rows": centred.new_tensor(len(x)),
            "sums": centred.sum(0),
            "squares": centred.mT @ centred,
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """Take mean and covariance of the data."""
        shift = statistics["sums"] / statistics["num_rows"]
        second = statistics["squares"] / statistics["num_rows"]
        factor, failed = torch.linalg.cholesky_ex(second - torch.outer(shift, shift))
        if failed or not factor.isfinite().all():
            raise DataError(
                "x: got rows in a subspace (features are linear functions of each other), "
                "expected a covariance of full rank; leave features out, or add noise"
            )
        self.loc.add_(shift)
        self.factor.copy_(factor.tril(-1) + factor.diagonal().log().diag())

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([self._normal().log_prob(y) for (y,) in self.batches(x, size=16384)])

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n d"]:
        """Whitened rows ``(n, D)``: independent standard normal under the model."""
        centred = self.checked_rows(x).all()[0] - self.loc
        return torch.linalg.solve_triangular(self._factor(), centred.mT, upper=False).mT

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows, ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` is not None: ``GaussianMixture`` with one component samples conditionally.
        """
        validation.refuse_given(given, self, "use a GaussianMixture of one component")
        return self._normal().sample((num_samples,))
