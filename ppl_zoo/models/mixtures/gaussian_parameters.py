"""The parameters of a Gaussian mixture: read, set, checked, and made ready for the E-step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_zoo.data.rows import Rows
from ppl_zoo.model import Model
from ppl_zoo.models.mixtures import gaussian_checks as checks
from ppl_zoo.models.mixtures.coordinates import Coordinates
from ppl_zoo.models.mixtures.covariance import Kind
from ppl_zoo.models.mixtures.gaussian_prior import Prior
from ppl_zoo.models.mixtures.gaussian_statistics import Scorer
from ppl_zoo.models.mixtures.missing import MissingScorer

__all__ = ["GaussianParameters"]

TINY = 1e-30


class GaussianParameters(Model):
    """What ``GaussianMixture`` rests on; it makes the attributes named here."""

    num_components: int
    num_features: int
    kind: Kind
    prior: Prior
    coordinates: Coordinates
    logits: nn.Parameter
    loc: nn.Parameter
    scale: Any

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters."""
        k, d = self.num_components, self.num_features
        return k - 1 + k * d + self.kind.num_free(k, d)

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Probability of each component."""
        return self.logits.detach().softmax(0)

    @property
    def means(self) -> Float[Tensor, "k d"]:
        """Mean of each component, in units of x."""
        return self.loc.detach()

    @property
    def covariances(self) -> Float[Tensor, "..."]:
        """Covariances by kind, in units of x squared."""
        return self.kind.covariances(self.scale.detach())

    @torch.no_grad()
    def set_parameters(self, weights: Any, means: Any, covariances: Any) -> None:
        """Set all parameters.

        Parameters
        ----------
        weights, means, covariances
            Arrays of the shapes of the attributes of these names.

        Raises
        ------
        DataError
            If a shape is wrong, a weight is negative, they do not sum to one, or a covariance is
            not positive definite.
        """
        weights, means, covariances = (
            t.to(self.device)
            for t in checks.parameters(
                weights, means, covariances, self.kind, tuple(self.scale.shape), self.loc.shape
            )
        )
        if not self.coordinates.known:  # the moments of the mixture stand for those of the data
            self._centre(*self.kind.moments(weights, means, covariances))
        self._set(weights.clamp_min(TINY).log(), means, self.kind.factor(covariances))

    def check_data(self, rows: Rows) -> None:
        """Refuse data that cannot be fitted, and say what was expected.

        Raises
        ------
        DataError
            If x is not a floating array ``(n, D)`` with n >= K, has infinite values, NaN (unless
            missing=True) or constant features, or weights are not finite and non-negative.
        """
        self._check_rows(rows)
        checks.fittable(rows, self.num_components)

    # ---- plumbing ---------------------------------------------------------------------------

    def _check_rows(self, rows: Rows) -> None:
        checks.shapes(rows, self.num_features)
        super().check_data(rows)

    @torch.no_grad()
    def _joints(self, x: Any) -> Iterator[Tensor]:
        """Log joint densities of assignments and rows ``(K, n)``, a chunk at a time."""
        rows = self.as_rows((x,))
        self._check_rows(rows)
        scorer = self._ready()
        for (chunk,) in rows.chunks(scorer.chunk_size()):
            y = self.coordinates.rows(chunk.to(scorer.dtype))
            yield scorer.log_joint(y).to(self.dtype)

    def _ready(self) -> Scorer | MissingScorer:
        """Return the scorer of the present parameters; it is kept until they change."""
        tensors = (*self.parameters(), *self.coordinates.buffers())
        key = tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)
        if self._scorer[0] != key:
            stretch = self.coordinates.log_stretch()
            parts = (self.kind, self._log_weights(), *self._inside(), stretch)
            if self.allow_missing:
                scorer = MissingScorer(*parts)
            else:
                scorer = Scorer(*parts, self.dtype, self._workspace)
            self.__dict__["_scorer"] = (key, scorer)
        return self._scorer[1]

    def _partial_scorer(self) -> MissingScorer:
        """Score rows of x itself with NaN, whatever the model was made for."""
        parameters = self.loc.detach().double(), self._scale64()
        return MissingScorer(self.kind, self._log_weights(), *parameters)

    def _log_weights(self) -> Tensor:
        return self.logits.detach().double().log_softmax(0)

    def _scale64(self) -> Tensor:
        return transform_to(self.kind.constraint)(self.scale_unconstrained.detach().double())

    def _inside(self) -> tuple[Tensor, Tensor]:
        return self.coordinates.inside(self.loc.detach(), self._scale64())

    def _centre(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the coordinates of the E-step, and default priors, from the moments of data."""
        self.coordinates.take(mean, covariance)
        self.prior.set_default(mean, covariance.diagonal() if self.kind.matrix else covariance)

    def _store(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> None:
        """Keep parameters that are given in whitened coordinates."""
        self._set(log_weights, *self.coordinates.outside(means, scale))

    def _set(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> None:
        self.logits.copy_(log_weights)
        self.loc.copy_(means)
        self.scale_unconstrained.copy_(transform_to(self.kind.constraint).inv(scale))
