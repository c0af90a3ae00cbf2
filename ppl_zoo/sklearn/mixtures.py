"""Mixtures as scikit-learn's density estimators: Gaussian, Bayesian Gaussian and Bernoulli."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import DensityMixin
from sklearn.utils.validation import _check_sample_weight

from ppl_zoo import models
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.sklearn.estimator import Integer, Real, ZooEstimator, as_array, as_dtype, binarized
from ppl_zoo.solvers import CAVI, EM

__all__ = [
    "BayesianGaussianMixture",
    "BernoulliMixture",
    "GaussianMixture",
    "GaussianScaleMixture",
]

#: scikit-learn's names of covariance types, and the zoo's
COVARIANCE_TYPES = {"full": "full", "tied": "tied", "diag": "diagonal", "spherical": "spherical"}
#: scikit-learn's names of starts, and the zoo's
STARTS = {
    "kmeans": "k-means++",
    "k-means++": "k-means++",
    "random_from_data": "random",
    "random": "random",
}
#: scikit-learn's names of priors of the weights, and the zoo's
WEIGHT_PRIORS = {"dirichlet_process": "dirichlet-process", "dirichlet_distribution": "dirichlet"}


class MixtureEstimator(DensityMixin, ZooEstimator):
    """Mixture as a density estimator; ``encode`` of its model has the responsibilities."""

    def _prepare(self, X: Any) -> Any:
        """Turn X into what the model takes."""
        return X

    def _query(self, X: Any) -> Any:
        return self._prepare(self._read(X, fitting=False))

    def _learn(self, num_rows: float) -> None:
        """Set the attributes that all mixtures have."""
        model = self.fit_.model
        self.converged_ = self.fit_.stopped == "converged"
        self.lower_bound_ = self.fit_.objective / num_rows
        self.weights_ = as_array(model.weights)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fit, and return the most probable component of each row, ``(n,)``."""
        return self.fit(X).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable component of each row, ``(n,)``."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each component given the row (responsibilities), ``(n, K)``."""
        X = self._query(X)
        return as_array(self.fit_.model.encode(X))

    def score_samples(self, X: Any) -> np.ndarray:
        """Log density of each row, in nats, ``(n,)``."""
        X = self._query(X)
        return as_array(self.fit_.model.log_prob(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log density of the rows, in nats."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def sample(self, n_samples: Integer = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows and the components behind them.

        Parameters
        ----------
        n_samples
            Number of rows.

        Returns
        -------
        tuple
            X ``(n_samples, n_features)``; components ``(n_samples,)``, drawn from their
            probabilities given the row.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples: got {n_samples}, expected 1 or more")
        with self._random() as model:
            x = model.sample(n_samples)
            z = model.encode(x).multinomial(1)[:, 0]
        return as_array(x), as_array(z)


class GaussianMixture(MixtureEstimator):
    """Mixture of Gaussians by EM, :class:`ppl_zoo.GaussianMixture` as an estimator.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        One matrix a component, one for all, a diagonal or a variance a component.
    tol : float, default=1e-6
        Stop when the gain still to come is less, in nats a row (scikit-learn's is the last gain).
    max_iter : int, default=1000
        Most iterations of a start.
    n_init : int, default=1
        Number of starts, of which the best is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        How a start is chosen: k-means of rows (the first two), or random rows as means.
    weights_init, means_init, precisions_init : array-like, default=None
        A start of one's own, ``(K,)``, ``(K, D)`` and as ``covariances_``; what is not given is
        taken from ``init_params``, and there is one start.
    weight_concentration : float, default=1.0
        Dirichlet prior of the weights, 1 for none.
    covariance_strength : float, default=1e-6
        Rows that the prior of the covariances, the variances of the data, counts for.
    missing : bool, default=False
        Whether NaN in X means "not observed"; such values are integrated out.
    random_state : int, RandomState or None, default=None
        Seed of the starts and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    weights_, means_, covariances_ : ndarray
        ``(K,)``, ``(K, D)``, and ``(K, D, D)``, ``(D, D)``, ``(K, D)`` or ``(K,)``.
    converged_ : bool
        Whether the best start came to rest.
    lower_bound_ : float
        Log likelihood and log prior of the fit, in nats a row.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    See Also
    --------
    ppl_zoo.GaussianMixture : The model, its priors and references.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(300, 2)), rng.normal(size=(100, 2)) + 8.0])
    >>> mixture = zoo.sklearn.GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> mixture.weights_.round(2), mixture.predict([[0.0, 0.0], [8.0, 8.0]])
    (array([0.75, 0.25]), array([0, 1]))
    """

    def __init__(
        self,
        n_components: Integer = 1,
        *,
        covariance_type: str = "full",
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        n_init: Integer = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        weight_concentration: Real = 1.0,
        covariance_strength: Real = 1e-6,
        missing: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.weight_concentration = weight_concentration
        self.covariance_strength = covariance_strength
        self.missing = missing
        self.random_state = random_state
        self.device = device

    def _takes_nan(self) -> bool:
        return self.missing

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> GaussianMixture:
        """Fit by EM.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Not used.
        sample_weight
            Weight of each row, ``(n,)``: as if it were there so many times.
        """
        own = self._options()
        X = self._read(X, fitting=True)
        data = [X]
        if sample_weight is not None:
            data.append(_check_sample_weight(sample_weight, X, dtype=X.dtype))
        with self._in_own_words():
            model = models.GaussianMixture(
                own.n_components,
                X.shape[1],
                _chosen("covariance_type", own.covariance_type, COVARIANCE_TYPES),
                init=_chosen("init_params", own.init_params, STARTS),
                missing=own.missing,
                weight_concentration=own.weight_concentration,
                covariance_strength=own.covariance_strength,
            )
            solver = EM(steps=own.max_iter, tol=own.tol, restarts=own.n_init)
            given = own.weights_init, own.means_init, own.precisions_init
            if any(value is not None for value in given):
                self._start(as_dtype(model, X), data)
                solver = EM(steps=own.max_iter, tol=own.tol, initialize=False)
            self._solve(model, solver, *data)
        self._learn(len(X) if sample_weight is None else float(data[1].sum()))
        self.means_ = as_array(self.fit_.model.means)
        self.covariances_ = as_array(self.fit_.model.covariances)
        return self

    def _start(self, model: models.GaussianMixture, data: list[np.ndarray]) -> None:
        """Begin at the start that was given."""
        with fork_generators(model.device):
            set_seed(self._seed(), model.device)
            model.check_data(model.as_rows(tuple(data)))
            model.initialize(*data)
        covariances = model.covariances.detach()
        if self.precisions_init is not None:
            precisions = np.asarray(self.precisions_init, dtype=np.float64)
            matrix = self.covariance_type in ("full", "tied")
            covariances = np.linalg.inv(precisions) if matrix else 1.0 / precisions
        model.set_parameters(
            model.weights.detach() if self.weights_init is None else self.weights_init,
            model.means.detach() if self.means_init is None else self.means_init,
            covariances,
        )

    def bic(self, X: Any) -> float:
        """Bayesian information criterion of rows, lower is better."""
        X = self._query(X)
        return self.fit_.model.bic(X)

    def aic(self, X: Any) -> float:
        """Akaike's information criterion of rows, lower is better."""
        X = self._query(X)
        return self.fit_.model.aic(X)


class BayesianGaussianMixture(MixtureEstimator):
    """Bayesian mixture of Gaussians by CAVI, :class:`ppl_zoo.BayesianGaussianMixture`.

    Components that the data do not support lose their rows: K is an upper bound.

    Parameters
    ----------
    n_components : int, default=1
        Most components K.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        One matrix a component, one for all, a diagonal or a variance a component.
    tol : float, default=1e-6
        Stop when the gain of the bound still to come is less, in nats a row.
    max_iter : int, default=1000
        Most iterations of a start.
    n_init : int, default=1
        Number of starts, of which the best is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        How a start is chosen: k-means of rows (the first two), or random rows as means.
    weight_concentration_prior_type : {"dirichlet_process", "dirichlet_distribution"}
        Prior of the weights.
    weight_concentration_prior : float, default=None
        Its concentration; 1 / K by default.
    mean_precision_prior : float, default=None
        Rows that the prior of a mean counts for; 1 by default.
    mean_prior : array-like of shape (D,), default=None
        Its centre; the mean of the data by default.
    degrees_of_freedom_prior : float, default=None
        Of the Wishart; D by default.
    covariance_prior : array-like of shape (D, D) or (D,), default=None
        Its inverse scale; the covariance of the data by default.
    random_state : int, RandomState or None, default=None
        Seed of the starts and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    weights_, means_, covariances_ : ndarray
        Posterior means; of the covariances the inverses of those of the precisions.
    converged_ : bool
        Whether the best start came to rest.
    lower_bound_ : float
        Evidence lower bound, in nats a row.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    See Also
    --------
    ppl_zoo.BayesianGaussianMixture : The model and its references.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(size=(300, 2)), rng.normal(size=(100, 2)) + 8.0])
    >>> mixture = zoo.sklearn.BayesianGaussianMixture(n_components=5, random_state=0).fit(X)
    >>> (mixture.weights_ > 0.05).sum()
    np.int64(2)
    """

    def __init__(
        self,
        n_components: Integer = 1,
        *,
        covariance_type: str = "full",
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        n_init: Integer = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: Real | None = None,
        mean_precision_prior: Real | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: Real | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> BayesianGaussianMixture:
        """Fit by coordinate ascent.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Not used.
        """
        own = self._options()
        X = self._read(X, fitting=True)
        strength = own.mean_precision_prior
        with self._in_own_words():
            kind = own.weight_concentration_prior_type
            model = models.BayesianGaussianMixture(
                own.n_components,
                X.shape[1],
                _chosen("covariance_type", own.covariance_type, COVARIANCE_TYPES),
                weights=_chosen("weight_concentration_prior_type", kind, WEIGHT_PRIORS),
                weight_concentration=own.weight_concentration_prior,
                mean_prior=own.mean_prior,
                mean_strength=1.0 if strength is None else strength,
                covariance_prior=own.covariance_prior,
                degrees_of_freedom=own.degrees_of_freedom_prior,
                init=_chosen("init_params", own.init_params, STARTS),
            )
            solver = CAVI(steps=own.max_iter, tol=own.tol, restarts=own.n_init)
            self._solve(model, solver, X)
        self._learn(len(X))
        self.means_ = as_array(self.fit_.model.means)
        self.covariances_ = as_array(self.fit_.model.covariances)
        return self


class GaussianScaleMixture(MixtureEstimator):
    """Mixture of Gaussians that differ in scale only: a density with heavy tails.

    Parameters
    ----------
    n_components : int, default=2
        Number of scales K.
    zero_mean : bool, default=False
        Whether the mean is held at 0.
    tol : float, default=1e-6
        Stop when the gain still to come is less, in nats a row.
    max_iter : int, default=1000
        Most iterations.
    random_state : int, RandomState or None, default=None
        Seed of the start and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    weights_, scales_ : ndarray of shape (K,)
        Probability of each scale, and factors of the covariance, whose mean is 1.
    mean_, covariance_ : ndarray of shape (D,) and (D, D)
        Of X.
    converged_ : bool
        Whether the fit came to rest.
    lower_bound_ : float
        Log likelihood of the fit, in nats a row.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    See Also
    --------
    ppl_zoo.GaussianScaleMixture : The model and its references.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2)) * np.where(rng.random((2000, 1)) < 0.2, 5.0, 1.0)
    >>> heavy = zoo.sklearn.GaussianScaleMixture(n_components=2, random_state=0).fit(X)
    >>> np.sqrt(heavy.scales_[1] / heavy.scales_[0]).round(), heavy.weights_.round(1)
    (np.float64(5.0), array([0.8, 0.2]))
    """

    def __init__(
        self,
        n_components: Integer = 2,
        *,
        zero_mean: bool = False,
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.zero_mean = zero_mean
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> GaussianScaleMixture:
        """Fit by EM.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Not used.
        """
        own = self._options()
        X = self._read(X, fitting=True)
        with self._in_own_words():
            model = models.GaussianScaleMixture(own.n_components, X.shape[1], own.zero_mean)
            model = self._solve(model, EM(steps=own.max_iter, tol=own.tol), X)
        self._learn(len(X))
        self.scales_ = as_array(model.scales)
        self.mean_ = as_array(model.mean)
        self.covariance_ = as_array(model.covariance)
        return self


class BernoulliMixture(MixtureEstimator):
    """Mixture of independent binary features, :class:`ppl_zoo.BernoulliMixture`.

    Also known as latent class analysis. X holds 0 and 1, and NaN where a value is missing.

    Parameters
    ----------
    n_components : int, default=1
        Number of components K.
    concentration, weight_concentration : float, default=1.01 and 1.0
        Dirichlet priors of the rates and of the weights.
    bayesian : bool, default=False
        Whether rates and weights have a posterior (by CAVI), not a point (by EM).
    binarize : float, default=None
        Threshold above which a value is 1; None takes X as it is.
    tol : float, default=1e-6
        Stop when the gain still to come is less, in nats a row.
    max_iter : int, default=1000
        Most iterations of a start.
    n_init : int, default=1
        Number of starts, of which the best is kept.
    random_state : int, RandomState or None, default=None
        Seed of the starts and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    weights_, rates_ : ndarray
        ``(K,)``; probability of 1 by component and feature, ``(K, D)``.
    converged_ : bool
        Whether the best start came to rest.
    lower_bound_ : float
        Objective of the fit, in nats a row.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> X = np.array([[1, 1, 0]] * 30 + [[0, 0, 1]] * 10)
    >>> mixture = zoo.sklearn.BernoulliMixture(n_components=2, random_state=0).fit(X)
    >>> mixture.weights_.round(2), mixture.predict([[1, np.nan, np.nan]])
    (array([0.75, 0.25]), array([0]))
    """

    def __init__(
        self,
        n_components: Integer = 1,
        *,
        concentration: Real = 1.01,
        weight_concentration: Real = 1.0,
        bayesian: bool = False,
        binarize: Real | None = None,
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        n_init: Integer = 1,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.concentration = concentration
        self.weight_concentration = weight_concentration
        self.bayesian = bayesian
        self.binarize = binarize
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.random_state = random_state
        self.device = device

    def _takes_nan(self) -> bool:
        return True

    def _prepare(self, X: Any) -> Any:
        return binarized(X, self.binarize)

    def fit(self, X: Any, y: Any = None) -> BernoulliMixture:
        """Fit by EM, or by coordinate ascent where ``bayesian``.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Not used.
        """
        own = self._options()
        X = self._prepare(self._read(X, fitting=True))
        with self._in_own_words():
            model = models.BernoulliMixture(
                own.n_components,
                X.shape[1],
                concentration=own.concentration,
                weight_concentration=own.weight_concentration,
                bayesian=own.bayesian,
            )
            options = {"steps": own.max_iter, "tol": own.tol, "restarts": own.n_init}
            self._solve(model, CAVI(**options) if own.bayesian else EM(**options), X)
        self._learn(len(X))
        self.rates_ = as_array(self.fit_.model.rates)
        return self


def _chosen(name: str, value: Any, names: dict[str, str]) -> str:
    """Return the zoo's name of an option.

    Raises
    ------
    ValueError
        If it is none of ``names``.
    """
    if value not in names:
        raise ValueError(f"{name}: got {value!r}, expected one of {tuple(names)}")
    return names[value]
