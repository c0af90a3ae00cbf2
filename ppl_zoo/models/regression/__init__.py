"""Bayesian regression models: outputs y given inputs x."""

from ppl_zoo.models.regression.bayesian_linear_regression import BayesianLinearRegression
from ppl_zoo.models.regression.bayesian_logistic_regression import BayesianLogisticRegression
from ppl_zoo.models.regression.eight_schools import EightSchools
from ppl_zoo.models.regression.linear_regression import LinearRegression

__all__ = [
    "BayesianLinearRegression",
    "BayesianLogisticRegression",
    "EightSchools",
    "LinearRegression",
]
