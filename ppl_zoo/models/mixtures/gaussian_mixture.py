"""Mixture of Gaussians: EM, online EM, missing values and conditional samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import Distribution, transform_to

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.missing import MarginalNormal, condition
from ppl_zoo.models.common.moments import moments
from ppl_zoo.models.mixtures.covariance import COVARIANCE_TYPES, CovarianceType
from ppl_zoo.models.mixtures.em_statistics import (
    BufferPool,
    MissingScorer,
    Scorer,
    expected_statistics,
)
from ppl_zoo.models.mixtures.initialization import initial_parameters
from ppl_zoo.models.mixtures.prior import ConjugateMixturePrior
from ppl_zoo.models.mixtures.whitening import Whitening

__all__ = ["GaussianMixture", "check_options", "read_parameters"]

#: starts of a fit: values of ``init``
STARTS = ("k-means++", "random")
#: smallest weight whose logarithm is stored
MIN_WEIGHT = 1e-30
#: rows of a batch of ``partial_fit`` that one E-step takes
MAX_ROWS_PER_CHUNK = 65536
#: rows whose conditional draws are made at once, a covariance matrix each
MAX_CONDITIONED_ROWS = 1024

#: a component has collapsed whose variance in one direction is less than this share of the data's
COLLAPSED_VARIANCE = 1e-5


class GaussianMixture(Model):
    """Mixture of Gaussians.

    Generative model, for each row n::

        assignment[n] ~ Categorical(weights)
        x[n]          ~ Normal(means[assignment[n]], covariances[assignment[n]])

    With a prior (``weight_concentration`` above 1, ``mean_strength`` above 0, a larger
    ``covariance_strength``) the fit is the posterior mode. The priors are conjugate, so that EM
    keeps closed steps. With a = weight_concentration, kappa = mean_strength, lambda and Psi0 =
    covariance_strength and covariance_prior, the log prior is, but for a constant::

        (a - 1) sum_k log weights[k] - 1/2 sum_k [ lambda log|S_k| + lambda tr(Psi0 S_k^-1)
                                        + kappa (mu_k - m)' S_k^-1 (mu_k - m) ]

    which is a Dirichlet(a) and a normal-inverse-Wishart(m, kappa, Psi, nu) with Psi = lambda
    Psi0 and nu = lambda - D - 2 (nu = lambda - D - 1 if kappa = 0). The prior mean counts for
    kappa pseudo-observations, the prior covariance for lambda: both fade as a component gains
    rows, and keep one valid that has a single row or none.

    Parameters
    ----------
    num_components, num_features
        K and D.
    covariance
        "full" (K matrices), "tied" (one for all), "diagonal" or "spherical".
    missing
        Whether NaN in x means "not observed"; such values are integrated out exactly.
    init
        Start of a fit: "k-means++" (seeds, then Lloyd, on a subsample) or "random" (random rows
        as means, the covariance of all data for each).
    weight_concentration
        Parameter of the symmetric Dirichlet prior of the weights, 1 or more.
    mean_prior, mean_strength
        m ``(D,)``, by default the mean of the data, and kappa.
    covariance_prior, covariance_strength
        Psi0, ``(D, D)`` or a diagonal ``(D,)``, by default the variances of the data, and
        lambda > 0.

    Attributes
    ----------
    weights, means, covariances
        ``(K,)``; ``(K, D)``; ``(K, D, D)``, ``(D, D)``, ``(K, D)`` or ``(K,)`` by
        covariance type. In units of x, and its square.

    References
    ----------
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM
    algorithm, JRSS B 39, https://doi.org/10.1111/j.2517-6161.1977.tb01600.x.
    McLachlan & Peel (2000), Finite Mixture Models, Wiley. Prior: Fraley & Raftery (2007),
    Bayesian regularization for normal mixture estimation, J. Classification 24.

    Examples
    --------
    >>> import torch
    >>> import ppl_zoo as zoo
    >>> mixture = zoo.GaussianMixture(num_components=2, num_features=2)
    >>> x = torch.cat([torch.randn(300, 2), torch.randn(100, 2) + 8.0])
    >>> fit = zoo.fit(mixture, x, zoo.EM(), progress=False)
    >>> [round(w, 2) for w in mixture.weights.tolist()]
    [0.75, 0.25]
    >>> mixture.log_prob(x).shape, mixture.encode(x).shape, mixture.sample(5).shape
    (torch.Size([400]), torch.Size([400, 2]), torch.Size([5, 2]))
    """

    integers_are_numbers = True
    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "exact",
        "sample": "exact",
        "encode": "exact",
    }
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("EM", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "weights": ("component",),
        "means": ("component", "feature"),
        "x": ("feature",),
    }

    num_seen: Tensor
    num_updates: Tensor

    def __init__(
        self,
        num_components: int,
        num_features: int,
        covariance: str = "full",
        *,
        missing: bool = False,
        init: str = "k-means++",
        weight_concentration: float = 1.0,
        mean_prior: Any = None,
        mean_strength: float = 0.0,
        covariance_prior: Any = None,
        covariance_strength: float = 1e-6,
    ) -> None:
        super().__init__()
        check_options(
            num_components,
            num_features,
            covariance,
            init,
            weight_concentration,
            mean_strength,
            covariance_strength,
        )
        self.num_components, self.num_features = num_components, num_features
        self.covariance_type = COVARIANCE_TYPES[covariance]
        self.init, self.allow_missing = init, missing
        self.prior = ConjugateMixturePrior(
            self.covariance_type,
            num_features,
            weight_concentration,
            mean_prior,
            mean_strength,
            covariance_prior,
            covariance_strength,
        )
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.zeros(num_components, num_features))
        unit = self.covariance_type.unit_scale(num_components, num_features)
        self.scale = PyroParam(unit, self.covariance_type.constraint)
        self.coordinates = Whitening(self.covariance_type, num_features, missing)
        # of online EM: rows so far, and batches
        self.register_buffer("num_seen", torch.zeros(()))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self._buffer_pool = BufferPool()
        # the parameters that it was made of, and the scorer
        self._scorer: tuple[tuple | None, Scorer | MissingScorer | None] = (None, None)

    # ---- generative model and posterior of the assignments ----------------------------------

    def model(self, x: Tensor, sample_weight: Tensor | None = None) -> None:
        """Draw an assignment for each row, then the row."""
        if not self.prior.is_negligible:
            pyro.factor("log_prior", self.log_prior())
        if sample_weight is None:
            with self.observations("observations", x):
                logits = self.logits
                z = pyro.sample(
                    "assignment", dist.Categorical(logits=logits), infer={"enumerate": "parallel"}
                )
                pyro.sample("x", self._component(z), obs=x)
            return
        # Pyro takes no weights of single rows around latents that it sums out: done here
        every = torch.arange(self.num_components, device=x.device)
        mixture = dist.MixtureSameFamily(
            dist.Categorical(logits=self.logits), self._component(every), validate_args=False
        )
        counted = sample_weight > 0  # a scale of zero is not allowed
        scale = torch.where(counted, sample_weight, torch.ones_like(sample_weight))
        with self.observations("observations", x), poutine.mask(mask=counted):
            with poutine.scale(scale=scale):
                pyro.sample("x", mixture, obs=x)

    def guide(self, x: Tensor, sample_weight: Tensor | None = None) -> None:
        """Draw assignments from their exact posterior (none where sample weights are given)."""
        if sample_weight is not None:
            return
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            joint = [self._component(k).log_prob(x) for k in range(self.num_components)]
            logits = torch.stack(joint, -1) + self.logits
        with self.observations("observations", x):
            pyro.sample("assignment", dist.Categorical(logits=logits))

    def _component(self, z: Tensor | int) -> Distribution:
        """Distribution of x given its component ``z``."""
        if self.allow_missing:
            scale = self.scale
            if self.covariance_type.name != "tied":
                scale = scale[z]
            if self.covariance_type.name == "spherical":
                scale = scale.unsqueeze(-1).expand(*scale.shape, self.num_features)
            return MarginalNormal(self.loc[z], scale, self.covariance_type.matrix)
        return self.covariance_type.component(self.loc, self.scale, z)

    def check_data(self, rows: Rows) -> None:
        """Refuse data that cannot be fitted.

        Raises
        ------
        DataError
            If x is not a floating array ``(n, D)`` with n >= K, has infinite values, NaN (unless
            missing=True) or constant features, or weights are not finite and non-negative.
        """
        self._check_rows(rows)
        validation.check_fittable(rows, self.num_components)

    def _check_rows(self, rows: Rows) -> None:
        """Refuse rows of which no density can be taken; those of a query may be few."""
        validation.check_features(rows, self.num_features, second="sample_weight")
        super().check_data(rows)

    @torch.no_grad()
    def degenerate(self, *batch: Tensor) -> tuple[str, ...]:
        """Name components that have collapsed onto few rows or a line of them, in words."""
        x = batch[0].double()
        x = x[~x.isnan().any(-1)]
        if len(x) <= self.num_features:
            return ()
        dense = self.covariance_type.dense(
            self.covariances.double(), self.num_components, self.num_features
        )
        # in units of the data, whatever their scales and correlations
        factor, failed = torch.linalg.cholesky_ex(x.mT.cov().reshape(dense.shape[1:]))
        if failed:
            return ()
        half = torch.linalg.solve_triangular(factor, dense, upper=False)
        unit = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        least = torch.linalg.eigvalsh(unit)[:, 0]
        used = self.weights > 0
        return tuple(
            f"component {k} has collapsed: its variance is {max(float(least[k]), 0.0):.1g} of the "
            f"data's in one direction, on {float(self.weights[k]):.1%} of the rows; take fewer "
            "components, another covariance, or a stronger covariance_prior"
            for k in ((least < COLLAPSED_VARIANCE) & used).nonzero()[:, 0].tolist()
        )

    # ---- parameters -------------------------------------------------------------------------

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters."""
        k, d = self.num_components, self.num_features
        return k - 1 + k * d + self.covariance_type.num_free_parameters(k, d)

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
        """Covariances, shaped by covariance type, in units of x squared."""
        return self.covariance_type.covariances(self.scale.detach())

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
        shapes = tuple(self.scale.shape), self.loc.shape
        parameters = read_parameters(weights, means, covariances, self.covariance_type, *shapes)
        weights, means, covariances = (t.to(self.device) for t in parameters)
        if not self.coordinates.known:  # the moments of the mixture stand for those of the data
            self._whiten_by(*self.covariance_type.moments(weights, means, covariances))
        scale = self.covariance_type.factor(covariances)
        self._assign(weights.clamp_min(MIN_WEIGHT).log(), means, scale)

    @torch.no_grad()
    def relabel(self) -> None:
        """Order components by falling weight, ties by the first coordinate of the mean."""
        order = self.loc[:, 0].argsort(stable=True)
        order = order[self.logits[order].argsort(descending=True, stable=True)]
        own = () if self.covariance_type.name == "tied" else (self.scale_unconstrained,)
        for parameter in (self.logits, self.loc, *own):
            parameter.copy_(parameter[order].clone())

    def log_prior(self) -> Float[Tensor, ""]:
        """Log density of the prior at the parameters, but for a constant."""
        return self.prior.log_density(self.logits, self.loc, self.scale)

    def _whiten_by(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the whitening of the E-step, and default priors, from moments of the data."""
        self.coordinates.fit(mean, covariance)
        variance = covariance.diagonal() if self.covariance_type.matrix else covariance
        self.prior.set_default(mean, variance)

    def _assign(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> None:
        """Set the parameters, in units of x."""
        self.logits.copy_(log_weights)
        self.loc.copy_(means)
        constrain = transform_to(self.covariance_type.constraint)
        self.scale_unconstrained.copy_(constrain.inv(scale))

    def _assign_whitened(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> None:
        """Set the parameters, given in whitened coordinates."""
        self._assign(log_weights, *self.coordinates.unwhiten_parameters(means, scale))

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, *data: Any) -> None:
        """Whiten by the data and choose a start.

        Parameters
        ----------
        *data
            ``Rows``, or what ``model`` takes.
        """
        rows = data[0] if isinstance(data[0], Rows) else self.as_rows(data)
        self._whiten_by(*moments(rows, self.covariance_type.matrix))
        self.num_seen.zero_()
        self.num_updates.zero_()
        start = initial_parameters(
            rows, self.covariance_type, self.coordinates, self.num_components, self.init
        )
        self._assign_whitened(*start)

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: expected sufficient statistics, additive over rows.

        Parameters
        ----------
        *batch
            x ``(n, D)`` and perhaps sample weights ``(n,)``.

        Returns
        -------
        dict
            float64, in whitened coordinates: "counts" ``(K,)``, "sums" ``(K, D)``, "squares" (as
            the covariance type needs them); "log_likelihood" and "num_rows", ``()``.
        """
        return expected_statistics(self._current_scorer(), self.coordinates, *batch)

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step, in place: the mode of the parameters given expected statistics."""
        means = self.coordinates.whiten_means(self.loc)
        self._assign_whitened(*self.prior.maximize(statistics, means, self.coordinates))
        self.num_seen.copy_(statistics["counts"].sum())

    def partial_fit(self, x: Array, sample_weight: Array | None = None) -> GaussianMixture:
        """Learn from one batch of a stream: a step of online EM.

        The statistics of all batches so far are averaged with weight ``(t + 2)^-0.6`` on the
        newest (Cappe & Moulines 2009, On-line EM for latent data models, JRSS B 71). The first
        batch chooses the start, unless the model has been fitted.

        Parameters
        ----------
        x
            Rows ``(n, D)``; at least K in the first batch.
        sample_weight
            Weight of each row, ``(n,)``.

        Returns
        -------
        GaussianMixture
            This model.

        Raises
        ------
        DataError
            As ``zoo.fit`` does.
        """
        first = not self.num_seen > 0
        batch = (x,) if sample_weight is None else (x, sample_weight)
        if first:
            self.adopt_dtype(batch)
        rows = self.as_rows(batch)
        self.check_data(rows) if first else self._check_rows(rows)
        if first:
            self.initialize(rows)
        chunks = [self.expected_statistics(*chunk) for chunk in rows.chunks(MAX_ROWS_PER_CHUNK)]
        new = {name: sum(chunk[name] for chunk in chunks) for name in chunks[0]}
        seen = self.num_seen + new["num_rows"]
        if not first:
            step = float((self.num_updates + 2.0) ** -0.6)
            old = self.prior.statistics_at_mode(
                self.num_seen, self.logits, *self._whitened_parameters(), self.coordinates
            )
            new = {
                name: (1 - step) * old[name] / self.num_seen + step * new[name] / new["num_rows"]
                for name in old
            }
            new = {name: value * seen for name, value in new.items()}
        self.maximize(new)
        self.num_seen.copy_(seen)
        self.num_updates += 1
        return self

    # ---- queries ----------------------------------------------------------------------------

    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([joint.logsumexp(0) for joint in self._log_joints(x)])

    def encode(self, x: Array) -> Float[Tensor, "n k"]:
        """Posterior probability of each component (responsibilities), ``(n, K)``."""
        return torch.cat([joint.softmax(0).mT for joint in self._log_joints(x)])

    def predict(self, x: Array) -> Int[Tensor, " n"]:
        """Return the most probable component of each row, ``(n,)``."""
        return torch.cat([joint.argmax(0) for joint in self._log_joints(x)])

    @torch.no_grad()
    def sample(
        self, num_samples: int, given: Array | Mapping[str, Any] | None = None
    ) -> Float[Tensor, "n d"]:
        """Draw rows, all features or those that are not given.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(D,)`` or ``(num_samples, D)``: values to be held, NaN where free; the free ones
            are drawn from their exact conditional distribution. Or ``{column: value}``, after a
            fit to a data frame.

        Returns
        -------
        Tensor
            ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` has another shape.
        """
        if given is None:
            logits = self.logits.expand(num_samples, -1)
            return self._draw(torch.multinomial(logits.softmax(-1), 1)[:, 0])
        held = validation.read_given(
            self.coded("x", given), num_samples, (self.num_features,), self.loc
        )
        logits = self._marginal_scorer().log_joint(held.mT).mT
        z = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        return self._condition(self._draw(z), z, held)

    def bic(self, x: Array) -> float:
        """Bayesian information criterion (Schwarz 1978), lower is better."""
        log_prob = self.log_prob(x)
        penalty = self.num_free_parameters * math.log(len(log_prob))
        return penalty - 2.0 * float(log_prob.sum(dtype=torch.float64))

    def aic(self, x: Array) -> float:
        """Akaike's information criterion (1974), lower is better."""
        return 2.0 * (self.num_free_parameters - float(self.log_prob(x).sum(dtype=torch.float64)))

    def _draw(self, z: Tensor) -> Tensor:
        """Draw a row of each component in ``z (n,)``, ``(n, D)``."""
        matrix, tied = self.covariance_type.matrix, self.covariance_type.name == "tied"
        noise = torch.randn(len(z), self.num_features, dtype=self.dtype, device=self.device)
        x = self.loc[z].detach().clone()
        for k in z.unique().tolist():
            rows, scale = (z == k).nonzero()[:, 0], self.scale
            scale = scale if tied else scale[k]
            x[rows] += noise[rows] @ scale.mT if matrix else noise[rows] * scale
        return x

    def _condition(self, x: Tensor, z: Tensor, held: Tensor) -> Tensor:
        """Turn draws ``x (n, D)`` of components ``z`` into draws given the values ``held``."""
        if not self.covariance_type.matrix:
            return torch.where(held.isnan(), x, held)
        covariances, parts = self.covariances.double(), []
        for rows in torch.arange(len(z), device=x.device).split(MAX_CONDITIONED_ROWS):
            own = covariances if self.covariance_type.name == "tied" else covariances[z[rows]]
            own = own.expand(len(rows), -1, -1)
            parts.append(condition(x[rows].double(), held[rows].double(), own).to(x))
        return torch.cat(parts)

    # ---- scores of rows ---------------------------------------------------------------------

    @torch.no_grad()
    def _log_joints(self, x: Array) -> Iterator[Tensor]:
        """Log joint densities of assignments and rows ``(K, n)``, a chunk at a time."""
        rows = self.as_rows((x,))
        self._check_rows(rows)
        scorer = self._current_scorer()
        for (chunk,) in rows.chunks(scorer.chunk_size()):
            y = self.coordinates.whiten(chunk.to(scorer.dtype))
            yield scorer.log_joint(y).to(self.dtype)

    def _current_scorer(self) -> Scorer | MissingScorer:
        """Return the scorer of the present parameters; it is kept until they change."""
        tensors = (*self.parameters(), *self.coordinates.buffers())
        key = tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)
        if self._scorer[0] != key:
            jacobian = self.coordinates.log_jacobian()
            parts = (self._log_weights(), *self._whitened_parameters(), jacobian)
            if self.allow_missing:
                scorer = MissingScorer(self.covariance_type, *parts)
            else:
                scorer = Scorer(self.covariance_type, *parts, self.dtype, self._buffer_pool)
            self._scorer = (key, scorer)
        return self._scorer[1]

    def _marginal_scorer(self) -> MissingScorer:
        """Return a scorer of rows of x itself with NaN, whatever the model was made for."""
        parameters = self.loc.detach().double(), self._double_scale()
        return MissingScorer(self.covariance_type, self._log_weights(), *parameters)

    def _log_weights(self) -> Tensor:
        return self.logits.detach().double().log_softmax(0)

    def _double_scale(self) -> Tensor:
        constrain = transform_to(self.covariance_type.constraint)
        return constrain(self.scale_unconstrained.detach().double())

    def _whitened_parameters(self) -> tuple[Tensor, Tensor]:
        """Means ``(K, D)`` and scales in whitened coordinates, float64."""
        return self.coordinates.whiten_parameters(self.loc.detach(), self._double_scale())


def check_options(
    num_components: int,
    num_features: int,
    covariance: str,
    init: str,
    weight_concentration: float,
    mean_strength: float,
    covariance_strength: float,
) -> None:
    """Refuse options of a mixture out of range.

    Raises
    ------
    ValueError
        Saying what was given and what was expected.
    """
    for name, value in (("num_components", num_components), ("num_features", num_features)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected 1 or more")
    if covariance not in COVARIANCE_TYPES:
        expected = tuple(COVARIANCE_TYPES)
        raise ValueError(
            f"covariance: got {covariance!r}{did_you_mean(covariance, expected)}, "
            f"expected one of {expected}"
        )
    if init not in STARTS:
        raise ValueError(
            f"init: got {init!r}{did_you_mean(init, STARTS)}, expected one of {STARTS}"
        )
    if not weight_concentration >= 1:
        raise ValueError(
            f"weight_concentration: got {weight_concentration}, expected 1 or more "
            "(below, the mode has components of weight zero)"
        )
    if not mean_strength >= 0:
        raise ValueError(f"mean_strength: got {mean_strength}, expected 0 or more")
    if not covariance_strength > 0:
        raise ValueError(
            f"covariance_strength: got {covariance_strength}, expected more than 0 "
            "(without any, a component of one row has no covariance)"
        )


def read_parameters(
    weights: Any,
    means: Any,
    covariances: Any,
    covariance_type: CovarianceType,
    scale_shape: tuple[int, ...],
    means_shape: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Read and check parameters of a mixture, in float64.

    Parameters
    ----------
    weights, means, covariances
        Arrays ``(K,)``, ``(K, D)``, and of the shape of the scale.
    covariance_type
        Of the mixture.
    scale_shape, means_shape
        Shape of its scale; (K, D).

    Raises
    ------
    DataError
        If a shape is wrong, a weight is negative, they do not sum to one, or a covariance is not
        positive definite.
    """
    read = []
    for name, value, expected in (
        ("weights", weights, means_shape[:1]),
        ("means", means, means_shape),
        ("covariances", covariances, scale_shape),
    ):
        tensor = torch.as_tensor(value).detach().double()
        if tuple(tensor.shape) != tuple(expected):
            raise DataError(f"{name}: got shape {tuple(tensor.shape)}, expected {tuple(expected)}")
        if not tensor.isfinite().all():
            raise DataError(f"{name}: got NaN or infinite values, expected finite numbers")
        read.append(tensor)
    weights, means, covariances = read
    if (weights < 0).any() or abs(float(weights.sum()) - 1.0) > 1e-3:
        raise DataError(
            f"weights: got least {float(weights.min()):g} and sum {float(weights.sum()):g}, "
            "expected numbers of 0 or more that sum to 1"
        )
    if covariance_type.matrix:
        symmetric = torch.allclose(covariances, covariances.mT, rtol=1e-4, atol=1e-6)
        valid = symmetric and not torch.linalg.cholesky_ex(covariances).info.any()
        expected = "symmetric positive definite matrices"
    else:
        valid, expected = bool((covariances > 0).all()), "positive variances"
    if not valid:
        raise DataError(f"covariances: got others, expected {expected}")
    return weights / weights.sum(), means, covariances
