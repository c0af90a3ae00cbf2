"""Bayesian mixture of Gaussians: conjugate priors of weights, means and precisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.mixtures.covariance import COVARIANCE_TYPES
from ppl_zoo.models.mixtures.em_statistics import expected_statistics
from ppl_zoo.models.mixtures.gaussian_mixture import check_options, read_parameters
from ppl_zoo.models.mixtures.initialization import initial_parameters
from ppl_zoo.models.mixtures.variational_posterior import VariationalPosterior

__all__ = ["BayesianGaussianMixture"]


class BayesianGaussianMixture(Model):
    """Mixture of Gaussians with a posterior over its parameters.

    Generative model::

        weights       ~ Dirichlet(weight_concentration, ...), or stick breaking
        precisions[k] ~ Wishart(degrees_of_freedom, covariance_prior^-1)
        means[k]      ~ Normal(mean_prior, (mean_strength * precisions[k])^-1)
        assignment[n] ~ Categorical(weights)
        x[n]          ~ Normal(means[assignment[n]], precisions[assignment[n]]^-1)

    q(weights) q(means, precisions) q(assignment), by CAVI. Components that the data do not support
    lose their rows when ``weight_concentration`` is small; :meth:`pruned` drops them. The sites of
    the precisions are their Cholesky factors, "factors" (for numbers "precisions"), and
    "covariances" is deterministic. Assignments are summed out of posterior draws.

    Parameters
    ----------
    num_components, num_features
        K, the most components, and D.
    covariance
        "full" (K matrices), "tied" (one for all), "diagonal" or "spherical".
    weights
        "dirichlet", or "dirichlet-process" (K sticks, the last takes what is left), whose
        components are kept in the order of falling size that its prior prefers.
    weight_concentration
        Parameter of the Dirichlet or of the sticks; 1 / K by default.
    mean_prior, mean_strength
        Centre ``(D,)`` of the means, by default that of the data, and the number of rows it
        counts for.
    covariance_prior, degrees_of_freedom
        Inverse scale of the Wishart, ``(D, D)`` or a diagonal ``(D,)``, by default the
        covariance of the data, and its degrees of freedom, by default D and more than D - 1. A
        diagonal precision is ``Gamma(degrees_of_freedom / 2, covariance_prior / 2)`` for each
        feature; a spherical one has D times that shape, and the sum of the rates.
    init
        Start of a fit: "k-means++" or "random", as of ``GaussianMixture``.

    References
    ----------
    Attias 2000, A variational Bayesian framework for graphical models, NeurIPS 12. Bishop 2006,
    Pattern Recognition and Machine Learning, section 10.2. Blei & Jordan 2006, Variational
    inference for Dirichlet process mixtures, https://doi.org/10.1214/06-BA104. Kurihara, Welling
    & Teh 2007, Collapsed variational Dirichlet process mixture models (the order), IJCAI.

    Examples
    --------
    >>> import torch
    >>> import ppl_zoo as zoo
    >>> _ = torch.manual_seed(0)
    >>> x = torch.cat([torch.randn(300, 2), torch.randn(100, 2) + 8.0])
    >>> mixture = zoo.BayesianGaussianMixture(num_components=6, num_features=2)
    >>> fit = zoo.fit(mixture, x, progress=False)
    >>> small = mixture.pruned()
    >>> small.num_components, [round(w, 2) for w in small.weights.tolist()]
    (2, [0.75, 0.25])
    """

    integers_are_numbers = True
    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "estimate",
        "sample": "estimate",
        "encode": "estimate",
    }
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("CAVI", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "weights": ("component",),
        "sticks": ("stick",),
        "means": ("component", "feature"),
        "factors": ("component", "feature", "feature_bis"),
        "precisions": ("component", "feature"),
        "covariances": ("component", "feature", "feature_bis"),
        "x": ("feature",),
    }

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance: str = "full",
        *,
        weights: str = "dirichlet",
        weight_concentration: float | None = None,
        mean_prior: Any = None,
        mean_strength: float = 1.0,
        covariance_prior: Any = None,
        degrees_of_freedom: float | None = None,
        init: str = "k-means++",
    ) -> None:
        super().__init__()
        check_options(num_components, num_features, covariance, init, 1.0, mean_strength, 1.0)
        self.num_components, self.num_features = num_components, num_features
        self.covariance_type, self.init = COVARIANCE_TYPES[covariance], init
        self.q = VariationalPosterior(
            self.covariance_type,
            num_components,
            num_features,
            weights,
            1.0 / num_components if weight_concentration is None else weight_concentration,
            mean_prior,
            mean_strength,
            covariance_prior,
            float(num_features) if degrees_of_freedom is None else degrees_of_freedom,
        )

    # ---- generative model and guide ---------------------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw weights, means and precisions, then the rows; ``x (n, D)``."""
        drawn, means, precisions = self.q.draw_prior()
        weights = self.q.weights.weights(drawn)
        covariances = self.q.precisions.covariances(precisions)
        pyro.deterministic("covariances", covariances, event_dim=self.q.scale.ndim)
        with self.observations("observations", x):
            z = pyro.sample(
                "assignment", dist.Categorical(weights), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", self.q.precisions.component(means, precisions, z), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw weights, means and precisions from q."""
        self.q.draw_posterior()

    # ---- CAVI -------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Take the priors that were not given from the data, and choose a start."""
        self.q.whiten_by(*moments(rows, self.covariance_type.matrix))
        log_weights, *parameters = initial_parameters(
            rows, self.covariance_type, self.q.coordinates, self.num_components, self.init
        )
        parameters = self.q.coordinates.unwhiten_parameters(*parameters)
        self.q.assign(log_weights.exp() * len(rows), *parameters)

    def expected_statistics(self, x: Tensor) -> dict[str, Tensor]:
        """Update q(assignment): its moments of rows ``(n, D)``, as of ``GaussianMixture``."""
        return expected_statistics(self.q.scorer(self.dtype), self.q.coordinates, x)

    def update_posterior(self, statistics: Mapping[str, Tensor], step: float = 1.0) -> None:
        """Update q(weights) q(means, precisions)."""
        self.q.update(statistics, step)

    def negative_kl(self) -> Float[Tensor, ""]:
        """-KL(q(weights, means, precisions) || p), in nats."""
        return self.q.negative_kl()

    @torch.no_grad()
    def relabel(self) -> None:
        """Order components by falling weight where they are exchangeable (no sticks)."""
        if self.q.weights.name == "dirichlet":
            self.q.reorder(self.q.counts.argsort(descending=True, stable=True))

    # ---- estimates --------------------------------------------------------------------------

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Posterior mean of the weights."""
        return self.q.mean_weights().to(self.dtype)

    @property
    def counts(self) -> Float[Tensor, " k"]:
        """Expected number of rows of each component."""
        return self.q.counts.clone()

    @property
    def means(self) -> Float[Tensor, "k d"]:
        """Posterior mean of the means, in units of x."""
        return self.q.loc.clone()

    @property
    def covariances(self) -> Float[Tensor, "..."]:
        """Inverses of the posterior means of the precisions, in units of x squared."""
        return self.covariance_type.covariances(self.q.scale)

    @torch.no_grad()
    def set_posterior(self, counts: Any, means: Any, covariances: Any) -> None:
        """Set q, after ``initialize``, from values of the attributes of these names.

        Raises
        ------
        DataError
            If a shape is wrong, a count is negative, or a covariance is not positive definite.
        """
        counts = torch.as_tensor(counts).double()
        total = counts.sum()
        fractions, means, covariances = read_parameters(
            counts / total,
            means,
            covariances,
            self.covariance_type,
            tuple(self.q.scale.shape),
            self.q.loc.shape,
        )
        self.q.assign(fractions * total, means, self.covariance_type.factor(covariances))

    @torch.no_grad()
    def pruned(self, least: float = 1.0) -> BayesianGaussianMixture:
        """Return the mixture of the components that have more than ``least`` expected rows.

        q of the others stays as it is; ``zoo.CAVI(initialize=False)`` goes on from there.

        Raises
        ------
        DataError
            If none has.
        """
        alive = (self.q.counts > least).nonzero()[:, 0]
        if not len(alive):
            raise DataError(f"least: got {least}, and no component has more expected rows")
        config = self.config | {
            "num_components": len(alive),
            "weight_concentration": float(self.q.concentration),
        }
        small = type(self)(**config).to(self.device, self.dtype)
        small.q.copy_from(self.q, alive)
        if self.example is not None:
            small.example = self.example
        return small

    # ---- queries ----------------------------------------------------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse data that cannot be fitted.

        Raises
        ------
        DataError
            If x is not a floating array ``(n, D)`` with n >= K, or has values that are not
            finite or constant features.
        """
        self._check_rows(rows)
        validation.check_fittable(rows, self.num_components)

    def _check_rows(self, rows: Rows) -> None:
        """Refuse rows of which no density can be taken; those of a query may be few."""
        validation.check_features(rows, self.num_features, second="sample_weight")
        super().check_data(rows)

    def _chunks(self, x: Array) -> Iterator[Tensor]:
        rows = self.as_rows((x,))
        self._check_rows(rows)
        return (chunk for (chunk,) in rows.chunks(4096))

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log predictive density of each row under q, ``(n,)``: a mixture of Student t."""
        predictive = self.q.predictive()
        return torch.cat([predictive.log_prob(c) for c in self._chunks(x)]).to(self.dtype)

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n k"]:
        """q(assignment) of each row (responsibilities), ``(n, K)``."""
        scorer = self.q.scorer(self.dtype)
        columns = (self.q.coordinates.whiten(c.to(scorer.dtype)) for c in self._chunks(x))
        return torch.cat([scorer.log_joint(y).softmax(0).mT for y in columns]).to(self.dtype)

    def predict(self, x: Array) -> Int[Tensor, " n"]:
        """Return the most probable component of each row, ``(n,)``."""
        return self.encode(x).argmax(1)

    @torch.no_grad()
    def sample(self, num_samples: int, given: None = None) -> Float[Tensor, "n d"]:
        """Draw rows from the predictive density, ``(num_samples, D)``."""
        return self.q.predictive().sample(num_samples).to(self.dtype)
