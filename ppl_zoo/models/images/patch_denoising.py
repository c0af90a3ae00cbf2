"""Patch denoising: estimates of x from ``y = x + sigma * noise`` under a prior over patches.

Two estimates of x: "bls" (Bayesian least squares) is the posterior mean, which has the least mean
squared error, and "map" the posterior mode. For a mixture of Gaussians the first is closed,

    E[x | y] = sum_k p(k | y) (m_k + S_k (S_k + v I)^-1 (y - m_k)),        v = sigma^2,

and "map" is, as in the papers on patches, the summand of the most probable component (the mode
of the whole density may sit on a spike that holds next to no probability).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.mixtures.bayesian_gaussian_mixture import BayesianGaussianMixture
from ppl_zoo.models.mixtures.gaussian_mixture import GaussianMixture
from ppl_zoo.models.mixtures.gaussian_scale_mixture import GaussianScaleMixture

__all__ = [
    "Components",
    "GaussianMixturePrior",
    "PatchPrior",
    "components",
    "denoise_patches",
    "sum_statistics",
]

#: least posterior probability of a component that enters a posterior mean
MIN_RESPONSIBILITY = 1e-12


class Components(NamedTuple):
    """A mixture of Gaussians: weights ``(K,)``, means ``(K, D)``, covariances ``(K, D, D)``."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    covariances: Float[Tensor, "k d d"]


@runtime_checkable
class Denoiser(Protocol):
    """A prior that has a method ``denoise``."""

    def denoise(self, patches: Any, sigma: Any, estimate: Any = "bls") -> Tensor:
        """Estimate patches from noisy ones; see :meth:`PatchPrior.denoise`."""
        ...


class PatchPrior(Model):
    """Prior over patches with a posterior mean and mode under white noise.

    A subclass sets ``num_features`` and writes ``_posterior_mean`` and ``_posterior_mode``.
    """

    integers_are_numbers = True

    num_features: int

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape."""
        validation.check_features(rows, self.num_features, second="sample_weight")
        super().check_data(rows)

    @torch.no_grad()
    def denoise(self, patches: Any, sigma: Any, estimate: Any = "bls") -> Float[Tensor, "n d"]:
        """Estimate patches from noisy ones.

        Parameters
        ----------
        patches
            ``(n, D)``, in the model's coordinates; noise is white there.
        sigma
            Standard deviation of the noise, in units of x.
        estimate
            "bls" for the posterior mean, "map" for the mode.

        Returns
        -------
        Tensor
            ``(n, D)``.

        Raises
        ------
        DataError
            If an argument is out of range.
        """
        _check(sigma, estimate)
        estimator = self._posterior_mean if estimate == "bls" else self._posterior_mode
        variance = float(sigma) ** 2
        return torch.cat([estimator(y, variance) for (y,) in self.batches(patches)])

    def _posterior_mean(self, y: Tensor, variance: float) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no _posterior_mean; write one")

    def _posterior_mode(self, y: Tensor, variance: float) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no _posterior_mode; write one")


class GaussianMixturePrior(PatchPrior):
    """Patch prior that is a mixture of Gaussians; a subclass writes ``components``."""

    def components(self) -> Components:
        """Weights, means and covariances of the mixture."""
        raise NotImplementedError(f"{type(self).__name__} has no components; write them")

    def _posterior_mean(self, y: Tensor, variance: float) -> Tensor:
        return _mixture_estimate(components(self), y, variance, "bls")

    def _posterior_mode(self, y: Tensor, variance: float) -> Tensor:
        return _mixture_estimate(components(self), y, variance, "map")


@torch.no_grad()
def denoise_patches(
    prior: Any, patches: Any, sigma: Any, estimate: Any = "bls"
) -> Float[Tensor, "n d"]:
    """Denoise patches under any prior of the zoo over patches.

    Parameters
    ----------
    prior
        A model with a method ``denoise``, or one that is a mixture of Gaussians
        (``GaussianMixture``, ``GaussianScaleMixture``).
    patches, sigma, estimate
        As for :meth:`PatchPrior.denoise`.

    Returns
    -------
    Tensor
        ``(n, D)``.

    Raises
    ------
    DataError
        If the prior is neither, or an argument is out of range.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> prior = zoo.GaussianMixture(1, 2)
    >>> prior.set_parameters([1.0], [[0.5, 0.5]], torch.eye(2)[None])
    >>> zoo.models.denoise_patches(prior, torch.zeros(1, 2), sigma=1.0)
    tensor([[0.2500, 0.2500]])
    """
    if isinstance(prior, Denoiser):
        return prior.denoise(patches, sigma, estimate)
    _check(sigma, estimate)
    mixture = components(prior)
    rows = prior.as_rows(patches)
    # not the prior's own check, which asks for rows that it could be fitted to
    validation.check_features(rows, prior.num_features, second="sample_weight")
    Model.check_data(prior, rows)
    variance = float(sigma) ** 2
    return torch.cat(
        [_mixture_estimate(mixture, y, variance, estimate) for (y,) in rows.chunks(4096)]
    )


@torch.no_grad()
def components(prior: Any) -> Components:
    """Read a prior as a mixture of Gaussians with full covariances, float64.

    Raises
    ------
    DataError
        If it is none.
    """
    if isinstance(prior, GaussianMixturePrior):
        return Components(*(t.double() for t in prior.components()))
    if isinstance(prior, GaussianScaleMixture):
        covariance = prior.scales[:, None, None] * prior.covariance
        means = prior.mean.expand(len(covariance), -1)
        return Components(prior.weights.double(), means.double(), covariance.double())
    if isinstance(prior, (GaussianMixture, BayesianGaussianMixture)):
        means = prior.means.double()
        covariances = prior.covariance_type.dense(prior.covariances.double(), *means.shape)
        return Components(prior.weights.double(), means, covariances)
    raise DataError(
        f"prior: got {type(prior).__name__}, expected a prior over patches: a model with a method "
        "denoise, or a mixture of Gaussians"
    )


def sum_statistics(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Sum expected statistics over chunks of rows, name by name."""
    total: dict[str, Tensor] = {}
    for part in parts:
        total = {name: total.get(name, 0) + value for name, value in part.items()}
    return total


def _check(sigma: Any, estimate: Any) -> None:
    if not (isinstance(sigma, (int, float)) and math.isfinite(sigma) and sigma > 0):
        raise DataError(f"sigma: got {sigma!r}, expected a finite number above 0")
    if estimate not in ("bls", "map"):
        raise DataError(f"estimate: got {estimate!r}, expected 'bls' or 'map'")


def _mixture_estimate(mixture: Components, y: Tensor, variance: float, estimate: str) -> Tensor:
    """Posterior mean, or the mean under the most probable component; component by component."""
    rows = y.double()
    values, vectors = torch.linalg.eigh(mixture.covariances)
    values = values.clamp_min(0.0)
    codes, scores = [], rows.new_empty(len(rows), len(values))
    for k, (value, vector) in enumerate(zip(values, vectors, strict=True)):
        code = (rows - mixture.means[k]) @ vector
        noisy = value + variance
        scores[:, k] = -0.5 * (code.square() / noisy + noisy.log()).sum(-1)
        codes.append((code * (value / noisy)).to(y.dtype))
    posterior = (scores + mixture.weights.clamp_min(1e-300).log()).softmax(-1)
    if estimate == "map":
        posterior = torch.nn.functional.one_hot(posterior.argmax(-1), len(values)).to(posterior)
    posterior = posterior.to(y.dtype)
    out = torch.zeros_like(y)
    for k, code in enumerate(codes):
        counted = (posterior[:, k] > MIN_RESPONSIBILITY).nonzero()[:, 0]
        mean = code[counted] @ vectors[k].mT.to(y) + mixture.means[k].to(y)
        out[counted] += posterior[counted, k, None] * mean
    return out
