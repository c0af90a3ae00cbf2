"""Regressions as scikit-learn's estimators: logistic, Bayesian logistic and Bayesian linear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import type_of_target

from ppl_zoo import models
from ppl_zoo.sklearn.estimator import Integer, Real, ZooEstimator, as_array
from ppl_zoo.solvers import CAVI, EM

__all__ = ["BayesianLinearRegression", "BayesianLogisticRegression", "LogisticRegression"]


class ProbabilityClassifier(ClassifierMixin, ZooEstimator):
    """Classifier that decides by the probabilities of its model."""

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, ``(n,)``."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class given the row, ``(n, C)``."""
        X = self._read(X, fitting=False)
        return as_array(self.fit_.model.predict_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probability of each class given the row, ``(n, C)``."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


class LogisticRegression(ProbabilityClassifier):
    """Logistic regression of two classes or more, :class:`ppl_zoo.LogisticRegression`.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the ridge penalty, the square of the weights' prior sd; ``inf`` for
        maximum likelihood.
    tol : float, default=1e-6
        Stop when the gain still to come is less, in nats a row.
    max_iter : int, default=1000
        Most steps of EM, which begins at the optimum that L-BFGS finds.
    random_state : int, RandomState or None, default=None
        Seed of the fit, which draws nothing.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_ : ndarray of shape (C,)
        Labels.
    coef_, intercept_ : ndarray
        ``(C, D)`` and ``(C,)``; ``(1, D)`` and ``(1,)`` for two classes.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["low", "low", "high", "high"]
    >>> classifier = zoo.sklearn.LogisticRegression().fit(X, y)
    >>> classifier.predict([[0.5], [2.5]])
    array(['low', 'high'], dtype='<U4')
    """

    def __init__(
        self,
        C: Real = 1.0,
        *,
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.C = C
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def _takes_sparse(self) -> bool:
        return True

    def fit(self, X: Any, y: Any) -> LogisticRegression:
        """Fit the mode of the weights.

        Parameters
        ----------
        X
            Rows ``(n, D)``, dense or sparse.
        y
            Labels of any type, ``(n,)``.
        """
        own = self._options()
        X, y = self._read(X, y, fitting=True)
        codes = self._encode_labels(y)
        if not own.C > 0:
            raise ValueError(f"C: got {own.C}, expected more than 0")
        with self._in_own_words():
            model = models.LogisticRegression(
                X.shape[1], len(self.classes_), prior_scale=math.sqrt(own.C)
            )
            solver = EM(steps=own.max_iter, tol=own.tol)
            model = self._solve(model, solver, X, codes)
        self.coef_ = as_array(model.weights)
        self.intercept_ = as_array(model.intercept)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits of the classes, ``(n, C)``; of the second of two, ``(n,)``."""
        X = self._read(X, fitting=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores


class BayesianLogisticRegression(ProbabilityClassifier):
    """Logistic regression of two classes with a posterior of its coefficients, by CAVI.

    Parameters
    ----------
    prior_scale, intercept_scale : float, default=2.5 and 10.0
        Prior sds, per sd of X.
    tol : float, default=1e-6
        Stop when the gain of the bound still to come is less, in nats a row.
    max_iter : int, default=1000
        Most iterations.
    random_state : int, RandomState or None, default=None
        Seed of the fit, which draws nothing.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        Labels.
    coef_, intercept_ : ndarray
        Posterior means, ``(1, D)`` and ``(1,)``.
    fit_ : ppl_zoo.Fit
        The fit beneath: ``fit_.posterior()`` draws coefficients.

    See Also
    --------
    ppl_zoo.BayesianLogisticRegression : The model, how far its sds are to be trusted, references.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> classifier = zoo.sklearn.BayesianLogisticRegression().fit(X, X[:, 0] > 0.0)
    >>> classifier.predict([[-1.0, 0.0], [1.0, 0.0]])
    array([False,  True])
    """

    def __init__(
        self,
        *,
        prior_scale: Real = 2.5,
        intercept_scale: Real = 10.0,
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.prior_scale = prior_scale
        self.intercept_scale = intercept_scale
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Tags:
        """Say that there are two classes."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any) -> BayesianLogisticRegression:
        """Fit the posterior of the coefficients.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Labels of two classes, ``(n,)``.
        """
        own = self._options()
        X, y = self._read(X, y, fitting=True)
        codes = self._encode_labels(y)
        if len(self.classes_) > 2:
            # in the words that scikit-learn has for it
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(y)}: got {len(self.classes_)} classes"
            )
        with self._in_own_words():
            model = models.BayesianLogisticRegression(
                X.shape[1], prior_scale=own.prior_scale, intercept_scale=own.intercept_scale
            )
            solver = CAVI(steps=own.max_iter, tol=own.tol)
            model = self._solve(model, solver, X, codes)
        coefficients = as_array(model.coefficients.to(model.dtype))
        self.coef_, self.intercept_ = coefficients[None, :-1], coefficients[-1:]
        return self


class BayesianLinearRegression(RegressorMixin, ZooEstimator):
    """Linear regression with a posterior of its coefficients and noise, by CAVI.

    Parameters
    ----------
    relevance : {"each", "shared", "fixed"}, default="each"
        Prior precision of the weights: one each, learnt (automatic relevance determination, as
        ``ARDRegression``), one for all, learnt (as ``BayesianRidge``), or its prior mean, with
        which the posterior is exact.
    relevance_shape, relevance_rate : float, default=0.5
        Gamma prior of that precision, in units of the noise's.
    noise_shape, noise_rate : float, default=1.0 and None
        Gamma prior of the noise's precision, in units of y; next to nothing by default.
    intercept_scale : float, default=100.0
        Prior sd of the level at the mean of X, in units of the noise's sd.
    tol : float, default=1e-6
        Stop when the gain of the bound still to come is less, in nats a row.
    max_iter : int, default=1000
        Most iterations.
    random_state : int, RandomState or None, default=None
        Seed of the fit, which draws nothing.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    coef_, intercept_ : ndarray of shape (D,), float
        Posterior means.
    sigma_ : ndarray of shape (D, D)
        Posterior covariance of the weights.
    alpha_ : float
        Posterior mean of the noise's precision, 1 / y squared.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    See Also
    --------
    ppl_zoo.BayesianLinearRegression : The model and its references.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = 2.0 + 3.0 * X[:, 0] + 0.1 * rng.normal(size=200)
    >>> regression = zoo.sklearn.BayesianLinearRegression().fit(X, y)
    >>> mean, sd = regression.predict([[1.0, 0.0, 0.0]], return_std=True)
    >>> mean.round(1), sd.round(1)
    (array([5.]), array([0.1]))
    """

    def __init__(
        self,
        *,
        relevance: str = "each",
        relevance_shape: Real = 0.5,
        relevance_rate: Real = 0.5,
        noise_shape: Real = 1.0,
        noise_rate: Real | None = None,
        intercept_scale: Real = 100.0,
        tol: Real = 1e-6,
        max_iter: Integer = 1000,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.relevance = relevance
        self.relevance_shape = relevance_shape
        self.relevance_rate = relevance_rate
        self.noise_shape = noise_shape
        self.noise_rate = noise_rate
        self.intercept_scale = intercept_scale
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> BayesianLinearRegression:
        """Fit the posterior of coefficients, noise and relevances.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        y
            Responses, ``(n,)``.
        """
        own = self._options()
        X, y = self._read(X, y, fitting=True, y_numeric=True)
        with self._in_own_words():
            model = models.BayesianLinearRegression(
                X.shape[1],
                own.relevance,
                noise_shape=own.noise_shape,
                noise_rate=own.noise_rate,
                relevance_shape=own.relevance_shape,
                relevance_rate=own.relevance_rate,
                intercept_scale=own.intercept_scale,
            )
            solver = CAVI(steps=own.max_iter, tol=own.tol)
            model = self._solve(model, solver, X, y)
        coefficients = as_array(model.coefficients.to(model.dtype))
        self.coef_, self.intercept_ = coefficients[:-1], coefficients[-1]
        unit = float(model.units.y.spread) ** 2
        shape, rate = float(model.q_shape), float(model.q_rate) * unit
        self.alpha_ = shape / rate
        scale = as_array(model.units.coefficient_map())
        scale = scale @ np.linalg.inv(as_array(model.q_precision.double())) @ scale.T
        self.sigma_ = (rate / (shape - 1.0) * scale[:-1, :-1]).astype(X.dtype)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predictive mean of y.

        Parameters
        ----------
        X
            Rows ``(n, D)``.
        return_std
            Whether to return its sd too, of coefficients and noise.

        Returns
        -------
        ndarray or tuple
            Mean ``(n,)``; sd ``(n,)``.
        """
        X = self._read(X, fitting=False)
        predictive = self.fit_.model.predictive(X)
        mean = as_array(predictive.loc).astype(X.dtype)
        return (mean, as_array(predictive.stddev).astype(X.dtype)) if return_std else mean
