"""Independent pixels: a univariate mixture of Gaussians for each feature, no correlation."""

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
from ppl_zoo.models.images.patch_denoising import PatchPrior, sum_statistics

__all__ = ["IndependentPixels"]

#: least variance of a component, in units of its feature's: one on equal values would have none
RELATIVE_VARIANCE_FLOOR = 1e-6
#: rows whose log joint is in memory at once
MAX_ROWS_PER_CHUNK = 8192


class IndependentPixels(PatchPrior):
    """Independent features, each with a mixture of K normal distributions.

    Generative model, for each row n and feature d::

        assignment[n, d] ~ Categorical(weights[d])
        x[n, d]          ~ Normal(means[d, assignment], scales[d, assignment])

    The simplest prior of a patch: it has the histogram of grey levels and no correlation between
    pixels. Fitted by EM, all features at once; the posterior of a pixel under noise is a mixture.

    Parameters
    ----------
    num_features
        Number of features, D.
    num_components
        Number of components of each feature, K.

    Attributes
    ----------
    weights, means, scales
        ``(D, K)``; means and scales (standard deviations) in units of x.

    References
    ----------
    Zoran & Weiss (2011), From learning models of natural image patches to whole image
    restoration, https://doi.org/10.1109/ICCV.2011.6126278.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.distributions.Laplace(0.0, 1.0).sample((2000, 3))
    >>> model = zoo.IndependentPixels(num_features=3, num_components=2)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> model.log_prob(x).shape, model.encode(x).shape, model.denoise(x, sigma=0.5).shape
    (torch.Size([2000]), torch.Size([2000, 3, 2]), torch.Size([2000, 3]))
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {"steps": 200, "tol": 1e-4})
    event_dims = {"x": ("feature",)}

    def __init__(self, num_features: int, num_components: int = 4) -> None:
        super().__init__()
        for name, value in (("num_features", num_features), ("num_components", num_components)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected 1 or more")
        self.num_features, self.num_components = num_features, num_components
        self.logits = nn.Parameter(torch.zeros(num_features, num_components))
        self.loc = nn.Parameter(torch.zeros(num_features, num_components))
        self.log_scale = nn.Parameter(torch.zeros(num_features, num_components))
        self.register_buffer("floor", torch.zeros(num_features))

    @property
    def weights(self) -> Float[Tensor, "d k"]:
        """Probability of each component of each feature."""
        return self.logits.detach().softmax(-1)

    @property
    def means(self) -> Float[Tensor, "d k"]:
        """Mean of each component."""
        return self.loc.detach()

    @property
    def scales(self) -> Float[Tensor, "d k"]:
        """Standard deviation of each component."""
        return self.log_scale.detach().exp()

    def _density(self) -> dist.Distribution:
        parts = dist.Normal(self.loc, self.log_scale.exp())
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts).to_event(1)

    def model(self, x: Tensor) -> None:
        """Draw each row; the components are summed out."""
        density = self._density()
        with self.observations("observations", x):
            pyro.sample("x", density, obs=x)

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Initialise means at quantiles of each feature, with scales from narrow to wide."""
        validation.check_fittable(rows, self.num_components)
        mean, variance = moments(rows, matrix=False)
        some = rows.spread(10_000)[0]
        levels = (torch.arange(self.num_components) + 0.5) / self.num_components
        quantiles = some.quantile(levels.to(some), 0).mT
        mean, sd = mean.to(some)[:, None], variance.sqrt().to(some)[:, None]
        self.loc.copy_(mean + 0.5 * (quantiles - mean))
        spread = torch.linspace(-1.5, 0.3, self.num_components).to(some)
        order = torch.rand_like(quantiles).argsort(-1)
        self.log_scale.copy_(sd.log() + spread[order])
        self.logits.zero_()
        self.floor.copy_(RELATIVE_VARIANCE_FLOOR * variance)

    def _log_joint(self, x: Tensor) -> Tensor:
        """Log joint density of pixel and component, ``(n, D, K)``."""
        z = (x[..., None] - self.loc) * (-self.log_scale).exp()
        log_norm = self.log_scale + 0.5 * math.log(2.0 * math.pi)
        return self.logits.log_softmax(-1) - 0.5 * z.square() - log_norm

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: counts, and moments about the present means, ``(D, K)`` each."""
        return sum_statistics(map(self._statistics, batch[0].split(MAX_ROWS_PER_CHUNK)))

    def _statistics(self, x: Tensor) -> dict[str, Tensor]:
        joint = self._log_joint(x)
        log_density = joint.logsumexp(-1)
        r = (joint - log_density[..., None]).exp()
        shift = x[..., None] - self.loc
        return {
            "log_likelihood": log_density.double().sum(),
            "counts": r.double().sum(0),
            "sums": (r * shift).double().sum(0),
            "squares": (r * shift.square()).double().sum(0),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: weights, means and scales of each feature."""
        counts, sums, squares = (statistics[k] for k in ("counts", "sums", "squares"))
        used = counts > 1e-6  # others keep their parameters
        safe = counts.clamp_min(1e-6)
        shift = sums / safe
        variance = (squares / safe - shift.square()).clamp_min(self.floor.double()[:, None])
        self.loc.add_(torch.where(used, shift, 0.0))
        self.log_scale.copy_(torch.where(used, 0.5 * variance.log(), self.log_scale.double()))
        self.logits.copy_((counts / counts.sum(-1, keepdim=True)).clamp_min(1e-30).log())

    @torch.no_grad()
    def relabel(self) -> None:
        """Order the components of each feature by rising scale."""
        order = self.log_scale.argsort(dim=-1, stable=True)
        for parameter in (self.logits, self.loc, self.log_scale):
            parameter.copy_(parameter.gather(-1, order))

    @torch.no_grad()
    def degenerate(self, *batch: Tensor) -> tuple[str, ...]:
        """Name features with a component that has collapsed onto one value, in words."""
        at_floor = (2 * self.log_scale).exp() <= 1.01 * self.floor[:, None]
        at_floor &= self.weights > 0
        return tuple(
            f"a component of feature {i} has collapsed onto one value; add uniform noise of a "
            "unit's width to x, or take fewer components"
            for i in at_floor.any(-1).nonzero()[:, 0].tolist()
        )

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([joint.logsumexp(-1).sum(-1) for joint in self._log_joints(x)])

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n d k"]:
        """Posterior probability of each component of each feature, ``(n, D, K)``."""
        return torch.cat([joint.softmax(-1) for joint in self._log_joints(x)])

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows, ``(num_samples, D)``; features are independent, so ``given`` is refused.

        Raises
        ------
        DataError
            If ``given`` is not None.
        """
        validation.refuse_given(given, self, "its features are independent")
        return self._density().sample((num_samples,))

    def _log_joints(self, x: Array) -> list[Tensor]:
        """Log joint densities of pixel and component, a chunk of rows each."""
        return [self._log_joint(y) for y, *_ in self.batches(x, size=MAX_ROWS_PER_CHUNK)]

    # ---- denoising --------------------------------------------------------------------------

    def _posterior(self, y: Tensor, variance: float) -> tuple[Tensor, Tensor]:
        """Posterior log weight and mean under each component, ``(n, D, K)``."""
        own = (2.0 * self.log_scale).exp()
        noisy, shift = own + variance, y[..., None] - self.loc
        score = self.logits.log_softmax(-1) - 0.5 * (shift.square() / noisy + noisy.log())
        return score, self.loc + own / noisy * shift

    def _posterior_mean(self, y: Tensor, variance: float) -> Tensor:
        score, mean = self._posterior(y, variance)
        return (score.softmax(-1) * mean).sum(-1)

    def _posterior_mode(self, y: Tensor, variance: float) -> Tensor:
        score, mean = self._posterior(y, variance)
        return mean.gather(-1, score.argmax(-1, keepdim=True))[..., 0]
