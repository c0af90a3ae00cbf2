"""Mixture of Gaussians: each row comes from one of K normal distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import transform_to

from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common import validation
from ppl_zoo.models.common.missing import MarginalNormal, MissingScorer, condition
from ppl_zoo.models.mixtures.covariance import KINDS, Kind
from ppl_zoo.models.mixtures.em_statistics import BufferPool, Scorer
from ppl_zoo.models.mixtures.initialization import start
from ppl_zoo.models.mixtures.prior import Prior
from ppl_zoo.models.mixtures.whitening import Whitening, moments

__all__ = ["GaussianMixture", "GaussianParameters", "OnlineEM", "draw_rows"]


# ---- The parameters of a Gaussian mixture: read, set, checked, and made ready for the E-step.

TINY = 1e-30


class GaussianParameters(Model):
    """What ``GaussianMixture`` rests on; it makes the attributes named here."""

    num_components: int
    num_features: int
    kind: Kind
    prior: Prior
    coordinates: Whitening
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
            for t in validation.parameters(
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
        validation.check_fittable(rows, self.num_components)

    # ---- plumbing ---------------------------------------------------------------------------

    def _check_rows(self, rows: Rows) -> None:
        validation.check_features(rows, self.num_features, second="sample_weight")
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


# ---- A Gaussian mixture learns from a stream of batches: online EM.


class OnlineEM:
    """What a mixture with an E-step and an M-step does with one batch after the other."""

    prior: Prior
    coordinates: Whitening
    num_seen: Tensor
    num_updates: Tensor
    as_rows: Callable[[Any], Rows]
    initialize: Callable[..., None]
    expected_statistics: Callable[..., dict[str, Tensor]]
    maximize: Callable[[Mapping[str, Tensor]], None]

    def partial_fit(self, x: Array, sample_weight: Array | None = None) -> Any:
        """Learn from one batch of a stream: a step of online EM.

        The statistics of all batches so far are averaged with weight ``(t + 2)^-0.6`` on the
        newest (Cappe & Moulines 2009, On-line EM for latent data models, JRSS B 71). The first
        batch chooses the start, unless the model has been fitted.

        Parameters
        ----------
        x
            Rows ``(n, D)``; at least K in the first batch.
        sample_weight
            What a row counts, ``(n,)``.

        Returns
        -------
        GaussianMixture
            This model.

        Raises
        ------
        DataError
            As ``zoo.fit`` does.
        """
        rows = self.as_rows((x,) if sample_weight is None else (x, sample_weight))
        first = not self.num_seen > 0
        self.check_data(rows) if first else self._check_rows(rows)
        if first:
            self.initialize(rows)
        chunks = [self.expected_statistics(*chunk) for chunk in rows.chunks(65536)]
        new = {name: sum(chunk[name] for chunk in chunks) for name in chunks[0]}
        seen, step = self.num_seen + new["num_rows"], 1.0
        if not first:
            step = float((self.num_updates + 2.0) ** -0.6)
            old = self.prior.statistics(
                self.num_seen, self.logits, *self._inside(), self.coordinates
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


class GaussianMixture(OnlineEM, GaussianParameters):
    """Mixture of Gaussians.

    For each row n::

        assignment[n] ~ Categorical(weights)
        x[n]          ~ Normal(means[assignment[n]], covariances[assignment[n]])

    With a prior (``weight_concentration`` above 1, ``mean_strength`` above 0, a larger
    ``covariance_strength``) the fit is the posterior mode. The priors are conjugate, so that EM
    keeps closed steps. With a = weight_concentration, kappa = mean_strength, lambda and Psi0 =
    covariance_strength and covariance_prior, the log prior is, but for a constant::

        (a - 1) sum_k log weights[k] - 1/2 sum_k [ lambda log|S_k| + lambda tr(Psi0 S_k^-1)
                                        + kappa (mu_k - m)' S_k^-1 (mu_k - m) ]

    which is a Dirichlet(a) and a normal-inverse-Wishart(m, kappa, Psi, nu) with Psi = lambda
    Psi0 and nu = lambda - D - 2 (nu = lambda - D - 1 if kappa = 0). A mean over kappa and a
    covariance over lambda imagined rows: both fade as a component gains rows, and keep one valid
    that has a single row or none.

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
        ``(K,)``; ``(K, D)``; ``(K, D, D)``, ``(D, D)``, ``(K, D)`` or ``(K,)`` by kind. In
        units of x, and its square.

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

    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "exact",
        "sample": "exact",
        "encode": "exact",
    }
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("EM", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {"x": ("feature",)}

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
        validation.options(
            num_components,
            num_features,
            covariance,
            init,
            weight_concentration,
            mean_strength,
            covariance_strength,
        )
        self.num_components, self.num_features = num_components, num_features
        self.kind, self.init, self.allow_missing = KINDS[covariance], init, missing
        self.prior = Prior(
            self.kind,
            num_features,
            weight_concentration,
            mean_prior,
            mean_strength,
            covariance_prior,
            covariance_strength,
        )
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.zeros(num_components, num_features))
        unit = self.kind.start(num_components, num_features)
        self.scale = PyroParam(unit, self.kind.constraint)
        self.coordinates = Whitening(self.kind, num_features, missing)
        self.register_buffer("num_seen", torch.zeros(()))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.__dict__.update(_workspace=BufferPool(), _scorer=(None, None))

    # ---- the generative story and its posterior ---------------------------------------------

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

    def _component(self, z: Any) -> Any:
        if self.allow_missing:
            scale = self.scale
            if self.kind.name != "tied":
                scale = scale[z]
            if self.kind.name == "spherical":
                scale = scale.unsqueeze(-1).expand(*scale.shape, self.num_features)
            return MarginalNormal(self.loc[z], scale, self.kind.matrix)
        return self.kind.component(self.loc, self.scale, z)

    # ---- EM; its step for one batch of a stream is in ``gaussian_stream`` -------------------

    @torch.no_grad()
    def initialize(self, *data: Any) -> None:
        """Centre on the data and choose a start.

        Parameters
        ----------
        *data
            ``Rows``, or what ``model`` takes.
        """
        rows = data[0] if isinstance(data[0], Rows) else self.as_rows(data)
        self._centre(*moments(rows, self.kind.matrix))
        self.num_seen.zero_()
        self.num_updates.zero_()
        self._store(*start(rows, self.kind, self.coordinates, self.num_components, self.init))

    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: expected sufficient statistics, additive over rows.

        Parameters
        ----------
        *batch
            x ``(n, D)`` and perhaps sample weights ``(n,)``.

        Returns
        -------
        dict
            float64, in whitened coordinates: "counts" ``(K,)``, "sums" ``(K, D)``, "squares"
            (as the kind of covariance needs them); "log_likelihood" and "num_rows", ``()``.
        """
        with torch.no_grad():
            x, weight = batch[0], batch[1] if len(batch) > 1 else None
            scorer = self._ready()
            statistics = scorer.zeros()
            size = max(1, math.ceil(len(x) / math.ceil(len(x) / scorer.chunk_size())))
            for first in range(0, len(x), size):
                part = None if weight is None else weight[first : first + size]
                y = self.coordinates.rows(x[first : first + size].to(scorer.dtype))
                scorer.accumulate(y, part, statistics)
            return scorer.finish(statistics)

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step, in place: the mode of the parameters given expected statistics."""
        means = self.coordinates.means_inside(self.loc)
        self._store(*self.prior.maximize(statistics, means, self.coordinates))
        self.num_seen.copy_(statistics["counts"].sum())

    def log_prior(self) -> Float[Tensor, ""]:
        """Log density of the prior at the parameters, but for a constant."""
        return self.prior.log_density(self.logits, self.loc, self.scale)

    @torch.no_grad()
    def relabel(self) -> None:
        """Order components by falling weight, ties by the first coordinate of the mean."""
        order = self.loc[:, 0].argsort(stable=True)
        order = order[self.logits[order].argsort(descending=True, stable=True)]
        own = () if self.kind.name == "tied" else (self.scale_unconstrained,)
        for parameter in (self.logits, self.loc, *own):
            parameter.copy_(parameter[order].clone())

    # ---- queries ----------------------------------------------------------------------------

    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``."""
        return torch.cat([joint.logsumexp(0) for joint in self._joints(x)])

    def encode(self, x: Array) -> Float[Tensor, "n k"]:
        """Posterior probability of each component (responsibilities), ``(n, K)``."""
        return torch.cat([joint.softmax(0).mT for joint in self._joints(x)])

    def predict(self, x: Array) -> Int[Tensor, " n"]:
        """Return the most probable component of each row, ``(n,)``."""
        return torch.cat([joint.argmax(0) for joint in self._joints(x)])

    @torch.no_grad()
    def sample(self, num_samples: int, given: Array | None = None) -> Float[Tensor, "n d"]:
        """Draw rows, all anew or with some features held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(D,)`` or ``(num_samples, D)``: values to be held, NaN where free; the free ones
            are drawn from their exact conditional distribution.

        Returns
        -------
        Tensor
            ``(num_samples, D)``.

        Raises
        ------
        DataError
            If ``given`` has another shape.
        """
        held, logits = None, self.logits.expand(num_samples, -1)
        if given is not None:
            held = validation.read_given(given, num_samples, (self.num_features,), self.loc)
            logits = self._partial_scorer().log_joint(held.mT).mT
        z = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        return draw_rows(self, z, held)

    def bic(self, x: Array) -> float:
        """Bayesian information criterion (Schwarz 1978), lower is better."""
        log_prob = self.log_prob(x)
        penalty = self.num_free_parameters * math.log(len(log_prob))
        return penalty - 2.0 * float(log_prob.sum(dtype=torch.float64))

    def aic(self, x: Array) -> float:
        """Akaike's information criterion (1974), lower is better."""
        return 2.0 * (self.num_free_parameters - float(self.log_prob(x).sum(dtype=torch.float64)))


# ---- Rows of a Gaussian mixture drawn from their components, some features held.


def draw_rows(model: Any, z: Tensor, held: Tensor | None) -> Tensor:
    """Draw a row of each component that ``z`` names, ``(n, D)``.

    Parameters
    ----------
    model
        A ``GaussianMixture``.
    z
        Components, ``(n,)``.
    held
        ``(n, D)``: values to be held, NaN where free; the free ones are drawn given these.
    """
    noise = torch.randn(len(z), model.num_features, dtype=model.dtype, device=model.device)
    x = model.loc[z].detach().clone()
    for k in z.unique().tolist():
        rows, scale = (z == k).nonzero()[:, 0], model.scale
        scale = scale if model.kind.name == "tied" else scale[k]
        shift = noise[rows] @ scale.mT if model.kind.matrix else noise[rows] * scale
        x[rows] += shift
    if held is None or not model.kind.matrix:
        return x if held is None else torch.where(held.isnan(), x, held)
    covariances, parts = model.covariances.double(), []
    for rows in torch.arange(len(z), device=x.device).split(1024):
        own = covariances if model.kind.name == "tied" else covariances[z[rows]]
        own = own.expand(len(rows), -1, -1)
        parts.append(condition(x[rows].double(), held[rows].double(), own).to(x))
    return torch.cat(parts)
