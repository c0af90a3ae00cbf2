"""Naive Bayes as scikit-learn's classifiers: mixed columns, and its four classes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ppl_zoo import models
from ppl_zoo.sklearn.estimator import Integer, Real, ZooEstimator, as_array, binarized

__all__ = ["BernoulliNB", "CategoricalNB", "GaussianNB", "MultinomialNB", "NaiveBayes"]

ROWS_PER_CHUNK = 4096


class NaiveBayesClassifier(ClassifierMixin, ZooEstimator):
    """Naive Bayes classifier; a subclass names its columns in ``_column_types``."""

    def _column_types(self) -> str | Sequence[str]:
        """Type of all columns, or of each."""
        raise NotImplementedError

    def _prior(self, own: SimpleNamespace) -> Mapping[str, Any]:
        """Options of the model about its prior, from the parameters."""
        raise NotImplementedError

    def _prepare(self, X: Any) -> Any:
        """Turn X into what the model takes."""
        return X

    def _has(self, column_type: str) -> bool:
        types = self._column_types()
        return column_type in ([types] if isinstance(types, str) else types)

    def _takes_nan(self) -> bool:
        return not self._has("multinomial")

    def _takes_sparse(self) -> bool:
        return self._column_types() in ("bernoulli", "multinomial")

    def __sklearn_tags__(self) -> Tags:
        """Say that counts are 0 and more, and codes are integers too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = self._column_types() in ("categorical", "multinomial")
        tags.input_tags.categorical = self._column_types() == "categorical"
        # of real numbers, which scikit-learn's checks offer, such columns keep little
        tags.classifier_tags.poor_score = self._column_types() in ("bernoulli", "multinomial")
        return tags

    def fit(self, X: Any, y: Any) -> NaiveBayesClassifier:
        """Fit in closed form.

        Parameters
        ----------
        X
            Rows ``(n, D)``; NaN where a value is missing (not counts).
        y
            Labels of any type, ``(n,)``.
        """
        X, y = self._read(X, y, fitting=True)
        codes = self._encode_labels(y)
        X = self._prepare(X)
        model = models.NaiveBayes(
            X.shape[1],
            len(self.classes_),
            self._column_types(),
            num_states=self._count_states(X),
            **self._prior(self._options()),
        )
        model = self._solve(model, None, X, codes)
        self.class_count_ = np.bincount(codes, minlength=len(self.classes_)).astype(X.dtype)
        self.class_log_prior_ = np.log(as_array(model.table("class_rates")))
        self._learn(model)
        return self

    def _learn(self, model: models.NaiveBayes) -> None:
        """Set the attributes of a column type."""

    def _count_states(self, X: Any) -> list[int] | None:
        """States of the categorical columns: the largest code and one more, at least two."""
        types = self._column_types()
        if types == "categorical":
            types = [types] * X.shape[1]
        if isinstance(types, str) or "categorical" not in types:
            return None
        columns = [i for i, t in enumerate(types) if t == "categorical" and i < X.shape[1]]
        return [int(np.nanmax(X[:, i], initial=1)) + 1 for i in columns]

    # ---- queries ----------------------------------------------------------------------------

    def _query(self, X: Any) -> Any:
        return self._prepare(self._read(X, fitting=False))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, ``(n,)``."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class given the row, ``(n, C)``.

        Parameters are integrated out where the classifier is ``bayesian``.
        """
        X = self._query(X)
        model = self.fit_.model
        return as_array(model.predict_proba(X, uncertainty=model.bayesian))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Log probability of each class given the row, ``(n, C)``."""
        check_is_fitted(self)
        if self.fit_.model.bayesian:
            with np.errstate(divide="ignore"):
                return np.log(self.predict_proba(X))
        joint = self.predict_joint_log_proba(X)
        return joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)

    def predict_joint_log_proba(self, X: Any) -> np.ndarray:
        """Log joint density of rows and classes, ``(n, C)``, but for the factorials of counts."""
        X = self._query(X)
        model = self.fit_.model
        parameters = model.point_parameters()
        chunks = model.batches(X, size=ROWS_PER_CHUNK)
        return np.concatenate([as_array(model.log_joint(parameters, x)) for (x,) in chunks])

    def score_samples(self, X: Any) -> np.ndarray:
        """Log density of each row, whatever its class, in nats, ``(n,)``."""
        X = self._query(X)
        return as_array(self.fit_.model.log_prob(X))

    def sample(self, n_samples: Integer = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows ``(n_samples, D)`` and their labels ``(n_samples,)``."""
        if n_samples < 1:
            raise ValueError(f"n_samples: got {n_samples}, expected 1 or more")
        with self._random() as model:
            drawn = model.sample(n_samples)
        return as_array(drawn["x"]), self.classes_[as_array(drawn["y"])]


class NaiveBayes(NaiveBayesClassifier):
    """Naive Bayes with columns of several types, :class:`ppl_zoo.NaiveBayes` as a classifier.

    Parameters
    ----------
    kind : {"gaussian", "bernoulli", "categorical", "multinomial"}, or one a column
        Types of the columns. Binary columns hold 0 and 1, categorical ones the codes 0, 1, ...,
        multinomial ones the counts of a row.
    alpha : float, default=1.0
        Added to every count of a table.
    var_smoothing : float, default=1e-9
        Added to every variance, in units of the variance of its column.
    bayesian : bool, default=False
        Whether the parameters have a posterior, over which ``predict_proba`` averages.
    random_state : int, RandomState or None, default=None
        Seed of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_, class_count_, class_log_prior_ : ndarray of shape (C,)
        Labels, rows of each, and log probability of each.
    fit_ : ppl_zoo.Fit
        The fit beneath.

    See Also
    --------
    ppl_zoo.NaiveBayes : The model and its references; it takes rows without a label too.

    Examples
    --------
    >>> import numpy as np, ppl_zoo as zoo
    >>> X = np.array([[1, 0.2], [1, 0.1], [0, 3.0], [np.nan, 2.9]])
    >>> y = np.array(["no", "no", "yes", "yes"])
    >>> classifier = zoo.sklearn.NaiveBayes(kind=["bernoulli", "gaussian"]).fit(X, y)
    >>> classifier.predict([[0, np.nan], [np.nan, 0.0]])
    array(['yes', 'no'], dtype='<U3')
    """

    def __init__(
        self,
        kind: Any = "gaussian",
        *,
        alpha: Real = 1.0,
        var_smoothing: Real = 1e-9,
        bayesian: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.kind = kind
        self.alpha = alpha
        self.var_smoothing = var_smoothing
        self.bayesian = bayesian
        self.random_state = random_state
        self.device = device

    def _column_types(self) -> str | Sequence[str]:
        return self.kind if isinstance(self.kind, str) else list(self.kind)

    def _prior(self, own: SimpleNamespace) -> Mapping[str, Any]:
        return {
            **_counts_prior(own.alpha, own.bayesian),
            "variance_smoothing": own.var_smoothing,
        }


class GaussianNB(NaiveBayesClassifier):
    """Gaussian naive Bayes.

    Parameters
    ----------
    var_smoothing : float, default=1e-9
        Added to every variance, in units of the variance of its column (scikit-learn takes that
        of the largest column).
    bayesian : bool, default=False
        Whether means and variances have a posterior, over which ``predict_proba`` averages.
    random_state : int, RandomState or None, default=None
        Seed of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_, class_count_, class_prior_, class_log_prior_ : ndarray of shape (C,)
        Labels, rows of each, and probability of each.
    theta_, var_ : ndarray of shape (C, D)
        Mean and variance of each column in each class.
    fit_ : ppl_zoo.Fit
        The fit beneath.
    """

    def __init__(
        self,
        *,
        var_smoothing: Real = 1e-9,
        bayesian: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.var_smoothing = var_smoothing
        self.bayesian = bayesian
        self.random_state = random_state
        self.device = device

    def _column_types(self) -> str:
        return "gaussian"

    def _prior(self, own: SimpleNamespace) -> Mapping[str, Any]:
        return {"variance_smoothing": own.var_smoothing, "bayesian": own.bayesian}

    def _learn(self, model: models.NaiveBayes) -> None:
        natural, units = model.numbers.point_naturals(), model.numbers.units()
        mean = natural["linear"] / natural["precisions"]
        self.theta_ = as_array(units["centre"] + units["spread"] * mean)
        self.var_ = as_array(units["spread"] ** 2 / natural["precisions"])
        self.class_prior_ = np.exp(self.class_log_prior_)


class BernoulliNB(NaiveBayesClassifier):
    """Naive Bayes of binary columns.

    Parameters
    ----------
    alpha : float, default=1.0
        Added to every count.
    binarize : float, default=0.0
        Threshold above which a value is 1; None takes X as it is.
    bayesian : bool, default=False
        Whether the rates have a posterior, over which ``predict_proba`` averages.
    random_state : int, RandomState or None, default=None
        Seed of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_, class_count_, class_log_prior_ : ndarray of shape (C,)
        Labels, rows of each, and log probability of each.
    feature_log_prob_ : ndarray of shape (C, D)
        Log probability of 1.
    fit_ : ppl_zoo.Fit
        The fit beneath.
    """

    def __init__(
        self,
        *,
        alpha: Real = 1.0,
        binarize: Real | None = 0.0,
        bayesian: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.alpha = alpha
        self.binarize = binarize
        self.bayesian = bayesian
        self.random_state = random_state
        self.device = device

    def _column_types(self) -> str:
        return "bernoulli"

    def _prior(self, own: SimpleNamespace) -> Mapping[str, Any]:
        return _counts_prior(own.alpha, own.bayesian)

    def _prepare(self, X: Any) -> Any:
        return binarized(X, self.binarize)

    def _learn(self, model: models.NaiveBayes) -> None:
        self.feature_log_prob_ = np.log(as_array(model.table("rates")[..., 1]))


class MultinomialNB(NaiveBayesClassifier):
    """Naive Bayes of counts, such as those of words.

    Parameters
    ----------
    alpha : float, default=1.0
        Added to every count.
    bayesian : bool, default=False
        Whether the rates have a posterior, over which ``predict_proba`` averages.
    random_state : int, RandomState or None, default=None
        Seed of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_, class_count_, class_log_prior_ : ndarray of shape (C,)
        Labels, rows of each, and log probability of each.
    feature_log_prob_ : ndarray of shape (C, D)
        Log probability of each column.
    fit_ : ppl_zoo.Fit
        The fit beneath.
    """

    def __init__(
        self,
        *,
        alpha: Real = 1.0,
        bayesian: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.alpha = alpha
        self.bayesian = bayesian
        self.random_state = random_state
        self.device = device

    def _column_types(self) -> str:
        return "multinomial"

    def _prior(self, own: SimpleNamespace) -> Mapping[str, Any]:
        return _counts_prior(own.alpha, own.bayesian)

    def _learn(self, model: models.NaiveBayes) -> None:
        self.feature_log_prob_ = np.log(as_array(model.table("word_rates")))


class CategoricalNB(NaiveBayesClassifier):
    """Naive Bayes of categorical columns, of the codes 0, 1, ...

    Parameters
    ----------
    alpha : float, default=1.0
        Added to every count.
    min_categories : int or array-like of shape (D,), default=None
        Least number of categories of the columns, which may have some that do not occur.
    bayesian : bool, default=False
        Whether the rates have a posterior, over which ``predict_proba`` averages.
    random_state : int, RandomState or None, default=None
        Seed of :meth:`sample`.
    device : str, default="auto"
        "auto" (a GPU where there is one), "cpu", "cuda".

    Attributes
    ----------
    classes_, class_count_, class_log_prior_ : ndarray of shape (C,)
        Labels, rows of each, and log probability of each.
    n_categories_ : ndarray of shape (D,)
        Categories of each column, at least two.
    fit_ : ppl_zoo.Fit
        The fit beneath.
    """

    def __init__(
        self,
        *,
        alpha: Real = 1.0,
        min_categories: Any = None,
        bayesian: bool = False,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.alpha = alpha
        self.min_categories = min_categories
        self.bayesian = bayesian
        self.random_state = random_state
        self.device = device

    def _column_types(self) -> str:
        return "categorical"

    def _prior(self, own: SimpleNamespace) -> Mapping[str, Any]:
        return _counts_prior(own.alpha, own.bayesian)

    def _count_states(self, X: Any) -> list[int]:
        least = 2 if self.min_categories is None else np.asarray(self.min_categories)
        if np.shape(least) not in ((), (X.shape[1],)):
            raise ValueError(
                f"min_categories: got shape {np.shape(least)}, expected () or ({X.shape[1]},)"
            )
        self.n_categories_ = np.maximum(super()._count_states(X), least)
        return self.n_categories_.tolist()


def _counts_prior(alpha: Real, bayesian: bool) -> dict[str, Any]:
    """Options of tables whose estimates are those of counts with ``alpha`` added to each.

    Raises
    ------
    ValueError
        If alpha is negative, or 0 where there is to be a posterior.
    """
    if not (alpha > 0 if bayesian else alpha >= 0):
        least = "more than 0" if bayesian else "0 or more"
        raise ValueError(f"alpha: got {alpha}, expected {least}")
    # the mode under Dirichlet(1 + alpha) is the mean under Dirichlet(alpha)
    return {"concentration": alpha if bayesian else 1.0 + alpha, "bayesian": bayesian}
