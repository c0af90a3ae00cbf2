"""Estimators: what all models share as scikit-learn's estimators."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data
from torch import Tensor

from ppl_zoo.core.model import Model
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.core.solver import Solver
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit

__all__ = ["Integer", "Real", "ZooEstimator", "as_array", "as_dtype", "binarized"]

#: numbers as users and their grids of parameters give them
Integer = int | np.integer
Real = float | int | np.floating | np.integer

#: the zoo's words for parameters, and scikit-learn's
PARAMETERS = {
    "num_components": "n_components",
    "num_factors": "n_components",
    "steps": "max_iter",
    "restarts": "n_init",
    "covariance": "covariance_type",
}


class ZooEstimator(BaseEstimator):
    """Model of the zoo as an estimator of scikit-learn.

    A subclass makes the model and the solver in ``fit`` and hands them to :meth:`_solve`. It has
    the parameters ``random_state`` and ``device``. Data in float64 and float32 keep their dtype,
    all else is taken in float64. All rows are used: none are held out.

    Attributes
    ----------
    fit_ : ppl_zoo.Fit
        The fit: ``fit_.check()``, ``fit_.to_arviz()``, ``fit_.posterior()``, ``fit_.model``.
    n_iter_ : int
        Iterations of the best start.
    n_features_in_, feature_names_in_
        Columns of X, and their names where X was a data frame.
    """

    def _takes_nan(self) -> bool:
        """Whether NaN in X means "not observed"."""
        return False

    def _takes_sparse(self) -> bool:
        """Whether X may be a sparse matrix."""
        return False

    def __sklearn_tags__(self) -> Tags:
        """Say what X may be."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._takes_nan()
        tags.input_tags.sparse = self._takes_sparse()
        return tags

    # ---- data in, numbers out ---------------------------------------------------------------

    def _read(self, X: Any, y: Any = "no_validation", *, fitting: bool, **options: Any) -> Any:
        """Read X, or X and y, as floating arrays; refuse what they cannot be.

        Raises
        ------
        ValueError
            In scikit-learn's words: shapes, names and order of the features, values.
        """
        if not fitting:
            check_is_fitted(self)
        takes_nan = self._takes_nan() and not issparse(X)  # models read NaN in dense arrays only
        read = validate_data(
            self,
            X,
            y,
            reset=fitting,
            dtype=[np.float64, np.float32],
            accept_sparse="csr" if self._takes_sparse() else False,
            ensure_all_finite="allow-nan" if takes_nan else True,
            ensure_min_samples=2 if fitting else 1,
            **options,
        )
        if get_tags(self).input_tags.positive_only:
            check_non_negative(read[0] if isinstance(read, tuple) else read, type(self).__name__)
        return read

    def _encode_labels(self, y: Any) -> np.ndarray:
        """Set ``classes_``, and return the codes of labels.

        Raises
        ------
        ValueError
            If y is no target of a classification, or has one class only.
        """
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: got one class only, {self.classes_[0]!r}, expected two classes or more"
            )
        return codes.astype(np.int64)

    def _seed(self) -> int:
        """Seed of a fit or a draw: ``random_state`` itself where it is an integer."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    @contextmanager
    def _random(self) -> Iterator[Model]:
        """Have the fitted model draw by ``random_state``, torch's own state left alone."""
        check_is_fitted(self)
        model = self.fit_.model
        with fork_generators(model.device), model.defaults():
            set_seed(self._seed(), model.device)
            yield model

    # ---- the fit ----------------------------------------------------------------------------

    def _options(self) -> SimpleNamespace:
        """Parameters as Python's own numbers, which a saved fit can hold."""
        given = self.get_params(deep=False).items()
        return SimpleNamespace(
            **{name: v.item() if isinstance(v, np.generic) else v for name, v in given}
        )

    def _solve(self, model: Model, solver: Solver | None, *data: Any) -> Model:
        """Fit a model, in the dtype of X; set ``fit_`` and ``n_iter_``."""
        as_dtype(model, data[0])
        self.fit_: Fit = fit(
            model,
            data,
            solver,
            validation=None,
            device=self.device,
            seed=self._seed(),
            progress=False,
        )
        solution = self.fit_.solution
        # the last objective takes an E-step of its own
        self.n_iter_ = int(solution.steps[solution.best]) - 1
        if self.fit_.stopped == "interrupted":
            raise KeyboardInterrupt  # a search over parameters is to end, not to go on
        if self.fit_.stopped != "converged":
            warnings.warn(
                f"{type(self).__name__} did not converge in {self.n_iter_} iterations: raise "
                "max_iter, or tol",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self.fit_.model

    @contextmanager
    def _in_own_words(self) -> Iterator[None]:
        """Let errors about options name the parameters of the estimator."""
        try:
            yield
        except ValueError as error:
            words = re.compile(r"\b(" + "|".join(PARAMETERS) + r")(?=[:=])")
            raise ValueError(words.sub(lambda m: PARAMETERS[m[0]], str(error))) from error


def as_dtype(model: Model, X: Any) -> Model:
    """Have a model compute in the dtype of X, one of codes and counts too."""
    return model.to(torch.float64 if X.dtype == np.float64 else torch.float32)


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array of its own."""
    return tensor.detach().cpu().numpy().copy()


def binarized(X: Any, threshold: Real | None) -> Any:
    """Set values above a threshold to 1 and others to 0, NaN as it is; None for X itself.

    Raises
    ------
    ValueError
        If X is sparse and the threshold is negative: its zeros would become ones.
    """
    if threshold is None:
        return X
    if issparse(X):
        if threshold < 0:
            raise ValueError(f"binarize: got {threshold}, expected 0 or more for a sparse X")
        return (X > threshold).astype(X.dtype)
    return np.where(np.isnan(X), X, X > threshold).astype(X.dtype)
