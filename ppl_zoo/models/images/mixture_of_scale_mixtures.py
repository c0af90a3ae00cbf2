"""Mixture of Gaussian scale mixtures: covariances of patches, each at several contrasts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.model import Array
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.images.patch_denoising import (
    Components,
    GaussianMixturePrior,
    sum_statistics,
)

__all__ = ["MixtureOfScaleMixtures"]

#: least eigenvalue of a covariance, in units of the data's variance
RELATIVE_EIGENVALUE_FLOOR = 1e-7
#: least factor of a covariance
MIN_SCALE = 1e-6
#: expected rows below which a component keeps its parameters
MIN_COUNT = 1e-3
#: rows whose log joint is in memory at once
MAX_ROWS_PER_CHUNK = 8192


class MixtureOfScaleMixtures(GaussianMixturePrior):
    """Zero-mean Gaussians that share K covariances, each at J scales.

    Generative model, for each row n::

        shape[n], level[n] ~ Categorical(weights)                       one of K x J
        x[n]               ~ Normal(0, scales[shape, level] * covariances[shape])     (D,)

    Between a scale mixture (K = 1) and a mixture of Gaussians (J = 1): contrast varies within a
    shape, so that no shapes are needed for it. Scales of a shape have mean 1.

    Parameters
    ----------
    num_shapes, num_scales, num_features
        Number of shapes K, of scales of each shape J, and of features D.

    Attributes
    ----------
    weights, scales, covariances
        ``(K, J)``, ``(K, J)`` without units, ``(K, D, D)`` in units of x squared.

    References
    ----------
    Zoran & Weiss (2012), Natural images, Gaussian mixtures and dead leaves,
    https://proceedings.neurips.cc/paper/2012/hash/8cb22bdd0b7ba1ab13d742e22eed8da2-Abstract.html.
    Guerrero-Colon, Simoncelli & Portilla (2008), Image denoising using mixtures of Gaussian
    scale mixtures, https://doi.org/10.1109/ICIP.2008.4711817.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> loud = (torch.rand(1000, 1) < 0.2).float()
    >>> x = (1.0 + 9.0 * loud) * torch.randn(1000, 2)
    >>> model = zoo.MixtureOfScaleMixtures(num_shapes=1, num_scales=2, num_features=2)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.encode(x).shape, model.denoise(x, sigma=1.0).shape
    (torch.Size([1000, 2]), torch.Size([1000, 2]))
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {"steps": 200, "tol": 1e-3})
    event_dims = {"x": ("feature",)}

    def __init__(self, num_shapes: int, num_scales: int, num_features: int) -> None:
        super().__init__()
        for name, value in (
            ("num_shapes", num_shapes),
            ("num_scales", num_scales),
            ("num_features", num_features),
        ):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected 1 or more")
        self.num_shapes, self.num_scales = num_shapes, num_scales
        self.num_features = num_features
        self.logits = nn.Parameter(torch.zeros(num_shapes, num_scales))
        self.log_scales = nn.Parameter(torch.linspace(-1.0, 1.0, num_scales).repeat(num_shapes, 1))
        # Cholesky factors of the covariances
        self.factor = nn.Parameter(torch.eye(num_features).repeat(num_shapes, 1, 1))
        self.register_buffer("floor", torch.zeros(()))

    @property
    def weights(self) -> Float[Tensor, "k j"]:
        """Probability of each shape at each scale."""
        return self.logits.detach().flatten().softmax(0).view_as(self.logits)

    @property
    def scales(self) -> Float[Tensor, "k j"]:
        """Factors of each shape's covariance."""
        return self.log_scales.detach().exp()

    @property
    def covariances(self) -> Float[Tensor, "k d d"]:
        """Covariance of each shape at scale 1."""
        factor = self.factor.detach().tril()
        return factor @ factor.mT

    def components(self) -> Components:
        """Mixture of all K x J Gaussians."""
        covariances = self.scales[..., None, None] * self.covariances[:, None]
        means = self.scales.new_zeros(self.scales.numel(), self.num_features)
        return Components(self.weights.flatten(), means, covariances.flatten(0, 1))

    # ---- the generative model and its posterior ---------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw shape and scale of each row, then the row."""
        sd = (0.5 * self.log_scales).exp()[..., None, None]
        factors = (sd * self.factor.tril()[:, None]).flatten(0, 1)
        zero = torch.zeros_like(factors[:, 0])
        with self.observations("observations", x):
            z = pyro.sample(
                "assignment",
                dist.Categorical(logits=self.logits.flatten()),
                infer={"enumerate": "parallel"},
            )
            pyro.sample("x", dist.MultivariateNormal(zero[z], scale_tril=factors[z]), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw assignments from their exact posterior."""
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            logits = self._log_joint(x)
        with self.observations("observations", x):
            pyro.sample("assignment", dist.Categorical(logits=logits))

    def _log_joint(self, x: Tensor) -> Tensor:
        """Log joint density of row and assignment, ``(n, K J)``."""
        factor = self.factor.tril()
        y = torch.linalg.solve_triangular(factor, x.mT.expand(len(factor), -1, -1), upper=False)
        squares = y.square().sum(1).mT  # (n, K)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        log_norm = 0.5 * self.num_features * (math.log(2.0 * math.pi) + self.log_scales)
        weight = self.logits.flatten().log_softmax(0).view_as(self.logits)
        lengths = 0.5 * squares[..., None] * (-self.log_scales).exp()
        return (weight - log_norm - log_det[:, None] - lengths).flatten(1)

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Initialise shapes from clusters of directions, scales from quantiles of lengths."""
        validation.check_fittable(rows, self.num_shapes * self.num_scales)
        mean, covariance = moments(rows, matrix=True)
        second = covariance + torch.outer(mean, mean)
        self.floor.copy_(RELATIVE_EIGENVALUE_FLOOR * second.diagonal().mean())
        some = rows.spread(10_000)[0].double()
        unit = some / some.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        anchors = torch.randperm(len(some), device=unit.device)[: self.num_shapes]
        label = (unit @ unit[anchors].mT).abs().argmax(-1)
        levels = torch.linspace(0.02, 0.98, self.num_scales + 2).to(some)[1:-1]
        whole = unit.mT @ unit / len(unit)
        for k in range(self.num_shapes):
            own = unit[label == k]
            shape = (own.mT @ own + self.num_features * whole) / (len(own) + self.num_features)
            size = some[label == k].square().sum(-1)
            scales = size.quantile(levels) if len(own) else some.square().sum(-1).quantile(levels)
            self.factor[k].copy_(self._factor(scales.mean() * shape))
            self.log_scales[k].copy_((scales / scales.mean()).clamp_min(MIN_SCALE).log())
        self.logits.zero_()

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: counts ``(K, J)`` and products of rows ``(K, J, D, D)``."""
        return sum_statistics(map(self._statistics, batch[0].split(MAX_ROWS_PER_CHUNK)))

    def _statistics(self, x: Tensor) -> dict[str, Tensor]:
        joint = self._log_joint(x)
        log_density = joint.logsumexp(-1)
        r = (joint - log_density[:, None]).exp()
        products = torch.stack([(x * p[:, None]).mT @ x for p in r.unbind(-1)])
        return {
            "log_likelihood": log_density.double().sum(),
            "counts": r.double().sum(0).view_as(self.logits),
            "products": products.double().unflatten(0, self.logits.shape),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: covariances given the scales, then scales given the covariances."""
        counts, products = statistics["counts"], statistics["products"]
        scales = self.log_scales.double().exp()
        total = counts.sum(-1)
        second = (products / scales[..., None, None]).sum(1)
        for k in (total > MIN_COUNT).nonzero()[:, 0].tolist():
            factor = self._factor(second[k] / total[k])
            inverse = torch.cholesky_inverse(factor)
            lengths = (inverse * products[k]).sum((-2, -1))
            found = lengths / (self.num_features * counts[k].clamp_min(MIN_COUNT))
            found = torch.where(counts[k] > MIN_COUNT, found, scales[k]).clamp_min(MIN_SCALE)
            self.factor[k].copy_(factor)
            self.log_scales[k].copy_(found.log())
        self.logits.copy_((counts / counts.sum()).clamp_min(1e-30).log())

    def _factor(self, covariance: Tensor) -> Tensor:
        """Cholesky factor of the likelihood's maximum, given the least eigenvalue."""
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(float(self.floor))
        return torch.linalg.cholesky((vectors * values) @ vectors.mT)

    @torch.no_grad()
    def relabel(self) -> None:
        """Order shapes by falling weight and scales rising, normalised to mean 1 in each shape."""
        weights = self.weights / self.weights.sum(1, keepdim=True).clamp_min(1e-30)
        unit = (weights * self.scales).sum(1)
        self.factor.mul_(unit.sqrt()[:, None, None])
        self.log_scales.sub_(unit.log()[:, None])
        order = self.weights.sum(1).argsort(descending=True, stable=True)
        for parameter in (self.logits, self.log_scales, self.factor):
            parameter.copy_(parameter[order].clone())
        order = self.log_scales.argsort(dim=1, stable=True)
        for parameter in (self.logits, self.log_scales):
            parameter.copy_(parameter.gather(1, order))

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([joint.logsumexp(-1) for joint in self._log_joints(x)])

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n kj"]:
        """Posterior probability of each shape at each scale, ``(n, K J)``, row by row."""
        return torch.cat([joint.softmax(-1) for joint in self._log_joints(x)])

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows, ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` is not None: ``GaussianMixture`` samples conditionally.
        """
        validation.refuse_given(given, self, "use a GaussianMixture")
        z = torch.multinomial(self.weights.flatten(), num_samples, replacement=True)
        noise = torch.randn(num_samples, self.num_features, dtype=self.dtype, device=self.device)
        noise = noise * (0.5 * self.log_scales).exp().flatten()[z][:, None]
        shape = z // self.num_scales
        factor = self.factor.tril()
        for k in shape.unique().tolist():
            rows = shape == k
            noise[rows] = noise[rows] @ factor[k].mT
        return noise

    def _log_joints(self, x: Array) -> list[Tensor]:
        """Log joint densities of row and assignment, a chunk of rows each."""
        return [self._log_joint(y) for y, *_ in self.batches(x, size=MAX_ROWS_PER_CHUNK)]
