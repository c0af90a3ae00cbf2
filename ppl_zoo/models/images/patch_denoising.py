"""Patches out of white noise: what each prior makes of ``y = x + sigma * noise``.

Two estimates of x: "bls" is the posterior mean, which has the least mean squared error, and
"map" the posterior mode. For a mixture of Gaussians the first is closed,

    E[x | y] = sum_k p(k | y) (m_k + S_k (S_k + v I)^-1 (y - m_k)),        v = sigma^2,

and "map" is, as in the papers on patches, the summand of the most probable component (the mode
of the whole density may sit on a spike that holds next to no probability).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.models.common import validation

__all__ = ["Components", "PatchPrior", "components", "denoise_patches"]


class Components(NamedTuple):
    """A mixture of Gaussians: weights ``(K,)``, means ``(K, D)``, covariances ``(K, D, D)``."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    covariances: Float[Tensor, "k d d"]


class PatchPrior(Model):
    """A prior over patches that can take white noise off; a model has ``_bls`` and ``_map``."""

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
        rows = self.as_rows(patches)
        self.check_data(rows)
        step = self._bls if estimate == "bls" else self._map
        return torch.cat([step(y, float(sigma) ** 2) for (y,) in rows.chunks(4096)])

    def _bls(self, y: Tensor, variance: float) -> Tensor:
        return _mixture_estimate(components(self), y, variance, "bls")

    def _map(self, y: Tensor, variance: float) -> Tensor:
        return _mixture_estimate(components(self), y, variance, "map")


@torch.no_grad()
def denoise_patches(
    prior: Any, patches: Any, sigma: Any, estimate: Any = "bls"
) -> Float[Tensor, "n d"]:
    """Take white noise off patches, with any prior of the zoo over patches.

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
    if hasattr(prior, "denoise"):
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


def components(prior: Any) -> Components:
    """Read a prior as a mixture of Gaussians with full covariances, float64.

    Raises
    ------
    DataError
        If it is none.
    """
    with torch.no_grad():
        if hasattr(prior, "components"):
            return Components(*(t.double() for t in prior.components()))
        if all(hasattr(prior, name) for name in ("weights", "scales", "mean", "covariance")):
            covariance = prior.scales[:, None, None] * prior.covariance
            means = prior.mean.expand(len(covariance), -1)
            return Components(prior.weights.double(), means.double(), covariance.double())
        if all(hasattr(prior, name) for name in ("weights", "means", "covariances", "kind")):
            means, covariances = prior.means.double(), prior.covariances.double()
            count, size = means.shape
            if prior.kind.name == "diagonal":
                covariances = torch.diag_embed(covariances)
            elif prior.kind.name == "spherical":
                eye = torch.eye(size, dtype=means.dtype, device=means.device)
                covariances = covariances[:, None, None] * eye
            return Components(prior.weights.double(), means, covariances.expand(count, size, size))
    raise DataError(
        f"prior: got {type(prior).__name__}, expected a prior over patches: a model with a method "
        "denoise, or a mixture of Gaussians"
    )


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
        counted = (posterior[:, k] > 1e-12).nonzero()[:, 0]
        mean = code[counted] @ vectors[k].mT.to(y) + mixture.means[k].to(y)
        out[counted] += posterior[counted, k, None] * mean
    return out
