"""Scikit-learn estimators over the zoo: mixtures, naive Bayes, regressions and factor models.

Names and parameters are scikit-learn's where it has the same thing, so that the import is all
that changes. ``fit_`` of a fitted estimator is the :class:`ppl_zoo.Fit` beneath.
"""

try:
    from ppl_zoo.sklearn.factor_models import (
        BayesianFactorAnalysis,
        FactorAnalysis,
        ProbabilisticPCA,
    )
    from ppl_zoo.sklearn.mixtures import (
        BayesianGaussianMixture,
        BernoulliMixture,
        GaussianMixture,
        GaussianScaleMixture,
    )
    from ppl_zoo.sklearn.naive_bayes import (
        BernoulliNB,
        CategoricalNB,
        GaussianNB,
        MultinomialNB,
        NaiveBayes,
    )
    from ppl_zoo.sklearn.regression import (
        BayesianLinearRegression,
        BayesianLogisticRegression,
        LogisticRegression,
    )
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "sklearn":
        raise
    raise ImportError("zoo.sklearn needs scikit-learn: pip install 'ppl_zoo[sklearn]'") from error

__all__ = [
    "BayesianFactorAnalysis",
    "BayesianGaussianMixture",
    "BayesianLinearRegression",
    "BayesianLogisticRegression",
    "BernoulliMixture",
    "BernoulliNB",
    "CategoricalNB",
    "FactorAnalysis",
    "GaussianMixture",
    "GaussianNB",
    "GaussianScaleMixture",
    "LogisticRegression",
    "MultinomialNB",
    "NaiveBayes",
    "ProbabilisticPCA",
]
