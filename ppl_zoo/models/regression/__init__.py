"""Regression models: inputs x, an output y, and what is uncertain between them."""

from ppl_zoo.models.regression.eight_schools import EightSchools
from ppl_zoo.models.regression.linear import LinearRegression

__all__ = ["EightSchools", "LinearRegression"]
