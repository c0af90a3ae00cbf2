"""The models, by family; each file reads like the textbook page of its model."""

from ppl_zoo.models.mixtures import GaussianMixture
from ppl_zoo.models.regression import EightSchools, LinearRegression

__all__ = ["EightSchools", "GaussianMixture", "LinearRegression"]
