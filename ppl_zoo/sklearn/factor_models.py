"""Factor models as scikit-learn's transformers: factor analysis, probabilistic PCA, Bayesian."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ppl_zoo import models
from ppl_zoo.sklearn.estimator import Integer, Real, ZooEstimator, as_array, as_dtype
from ppl_zoo.solvers import CAVI, EM

__all__ = ["BayesianFactorAnalysis", "FactorAnalysis", "ProbabilisticPCA"]


class FactorEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ZooEstimator):
    """Factor model as a transformer: rows to the posterior means of their factors, and back."""

    def _takes_nan(self) -> bool:
        return self.missing

    def __sklearn_tags__(self) -> Tags:
        """Say that float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        """Number of factors, for the names of the output's columns."""
        return len(self.components_)

    def _read_fit(
        self, X: Any, own: SimpleNamespace, most_below: int = 0
    ) -> tuple[np.ndarray, int]:
        """Read X, and the number of factors, at most D less ``most_below``."""
        X = self._read(X, fitting=True, ensure_min_features=1 + most_below)
        most = X.shape[1] - most_below
        num = most if own.n_components is None else own.n_components
        if not 1 <= num <= most:
            raise ValueError(f"n_components: got {num}, expected 1 to {most} for this X")
        return X, num

    def _learn(self) -> None:
        """Set the attributes that all factor models have."""
        model = self.fit_.model
        self.mean_ = as_array(model.mean)
        self.components_ = as_array(model.loadings.mT)
        self.noise_variance_ = as_array(model.noise)

    def _density(self) -> models.FactorAnalysis:
        """Return the model whose density and draws stand for the fit's."""
        return self.fit_.model

    def transform(self, X: Any) -> np.ndarray:
        """Posterior mean of the factors of each row, ``(n, K)``."""
        X = self._read(X, fitting=False)
        return as_array(self.fit_.model.encode(X)).astype(X.dtype, copy=False)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Mean of the rows of these factors, ``(n, D)``.

        Parameters
        ----------
        X
            Factors ``(n, K)``.
        """
        check_is_fitted(self)
        return np.asarray(X) @ self.components_ + self.mean_

    def score_samples(self, X: Any) -> np.ndarray:
        """Log density of each row, in nats, ``(n,)``."""
        X = self._read(X, fitting=False)
        return as_array(self._density().log_prob(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log density of the rows, in nats."""
        return float(self.score_samples(X).mean(dtype=np.float64))

    def get_covariance(self) -> np.ndarray:
        """Covariance of X, ``(D, D)``."""
        check_is_fitted(self)
        noise = np.broadcast_to(self.noise_variance_, self.mean_.shape)
        return self.components_.T @ self.components_ + np.diag(noise)

    def get_precision(self) -> np.ndarray:
        """Inverse of the covariance of X, ``(D, D)``."""
        return np.linalg.inv(self.get_covariance())

    def sample(self, n_samples: Integer = 1) -> np.ndarray:
        """Draw rows, ``(n_samples, D)``."""
        if n_samples < 1:
            raise ValueError(f"n_samples: got {n_samples}, expected 1 or more")
        with self._random():
            return as_array(self._density().sample(n_samples))


class FactorAnalysis(FactorEstimator):
    """Factor analysis by EM, :class:`ppl_zoo.FactorAnalysis` as a transformer.

    Parameters
    ----------
    n_components : int, default=None
        Number of factors K, at most D; D by default.
    tol : float, default=1e-6
        Stop when the gain still to come is less, in nats a row.
    max_iter : int, default=100
        Most passes over the data; where nothing is missing, each has a hundred steps of EM.
    missing : bool, default=False
        Whether NaN in X means "not observed"; such values are integrated out.
    random_state : int, RandomState or None, default=None
        Seed of the start, where values are missing, and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    components_ : ndarray of shape (K, D)
        Loadings, independent given X, the best determined first.
    mean_, noise_variance_ : ndarray of shape (D,)
        Mean, and variance of each feature's own noise.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) * [1.0, 2.0, 3.0] + 0.1 * rng.normal(size=(500, 3))
    >>> factors = zoo.sklearn.FactorAnalysis(n_components=1).fit(X)
    >>> factors.transform(X).shape, factors.components_.round(1)
    ((500, 1), array([[1., 2., 3.]]))
    """

    def __init__(
        self,
        n_components: Integer | None = None,
        *,
        tol: Real = 1e-6,
        max_iter: Integer = 100,
        missing: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.missing = missing
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> FactorAnalysis:
        """Fit by EM.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Not used.
        """
        own = self._options()
        X, num = self._read_fit(X, own)
        with self._in_own_words():
            model = models.FactorAnalysis(X.shape[1], num, own.missing)
            self._solve(model, EM(steps=own.max_iter, tol=own.tol), X)
        self._learn()
        return self


class ProbabilisticPCA(FactorEstimator):
    """Probabilistic PCA, :class:`ppl_zoo.ProbabilisticPCA` as a transformer.

    Its density is that of scikit-learn's ``PCA``, whose components are the directions of these,
    but for n in place of n - 1 in the variances.

    Parameters
    ----------
    n_components : int, default=None
        Number of factors K, less than D; D - 1 by default.
    tol : float, default=1e-6
        Stop when the gain still to come is less, in nats a row.
    max_iter : int, default=100
        Most passes over the data; the start is the optimum, where nothing is missing.
    missing : bool, default=False
        Whether NaN in X means "not observed"; such values are integrated out.
    random_state : int, RandomState or None, default=None
        Seed of the start, where values are missing, and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    components_ : ndarray of shape (K, D)
        Loadings: principal axes times the sd along each beyond the noise.
    mean_ : ndarray of shape (D,)
        Mean.
    noise_variance_ : float
        Variance of the noise.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) * [3.0, 4.0] + 0.1 * rng.normal(size=(500, 2))
    >>> pca = zoo.sklearn.ProbabilisticPCA(n_components=1).fit(X)
    >>> (pca.components_[0, 1] / pca.components_[0, 0]).round(1)
    np.float64(1.3)
    """

    def __init__(
        self,
        n_components: Integer | None = None,
        *,
        tol: Real = 1e-6,
        max_iter: Integer = 100,
        missing: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.missing = missing
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> ProbabilisticPCA:
        """Fit in closed form, or by EM where values are missing.

        Parameters
        ----------
        X
            Rows ``(n, D)``, of two features or more.
        y
            Not used.
        """
        own = self._options()
        X, num = self._read_fit(X, own, 1)
        with self._in_own_words():
            model = models.ProbabilisticPCA(X.shape[1], num, own.missing)
            self._solve(model, EM(steps=own.max_iter, tol=own.tol), X)
        self._learn()
        self.noise_variance_ = float(self.noise_variance_[0])
        return self


class BayesianFactorAnalysis(FactorEstimator):
    """Factor analysis with automatic relevance determination, by CAVI.

    Factors that the data do not need get loadings of zero: K is an upper bound.

    Parameters
    ----------
    n_components : int, default=None
        Most factors K, at most D; D by default.
    noise : {"diagonal", "isotropic"}, default="diagonal"
        A variance of the noise a feature, or one for all: Bayesian PCA.
    tol : float, default=1e-6
        Stop when the gain of the bound still to come is less, in nats a row.
    max_iter : int, default=1000
        Most iterations.
    missing : bool, default=False
        Whether NaN in X means "not observed"; such values are integrated out.
    random_state : int, RandomState or None, default=None
        Seed of the start, where values are missing, and of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    components_ : ndarray of shape (K, D)
        Posterior mean of the loadings, the most relevant factor first.
    mean_, noise_variance_ : ndarray of shape (D,)
        Estimates of the mean and of each feature's noise.
    num_relevant_ : int
        Factors that the data need.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    Notes
    -----
    Densities and draws are those of the factor model at these estimates; ``fit_.model.log_prob``
    averages over the posterior, by sampling.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 8)) + 0.3 * rng.normal(size=(300, 8))
    >>> zoo.sklearn.BayesianFactorAnalysis(n_components=6).fit(X).num_relevant_
    2
    """

    def __init__(
        self,
        n_components: Integer | None = None,
        *,
        noise: str = "diagonal",
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        missing: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.noise = noise
        self.tol = tol
        self.max_iter = max_iter
        self.missing = missing
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> BayesianFactorAnalysis:
        """Fit by coordinate ascent.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Not used.
        """
        own = self._options()
        X, num = self._read_fit(X, own)
        with self._in_own_words():
            model = models.BayesianFactorAnalysis(X.shape[1], num, own.noise, own.missing)
            model = self._solve(model, CAVI(steps=own.max_iter, tol=own.tol), X)
        self._learn()
        self.num_relevant_ = model.num_relevant()
        return self

    def _density(self) -> models.FactorAnalysis:
        model = self.fit_.model
        point = models.FactorAnalysis(model.num_features, model.num_factors, self.missing)
        as_dtype(point, self.mean_).to(model.device)
        with torch.no_grad():
            point.loc.copy_(model.mean)
            point.weight.copy_(model.loadings)
            point.log_noise.copy_(model.noise.log())
        return point
