"""Mixture models."""

from ppl_zoo.models.mixtures.bayesian_gaussian_mixture import BayesianGaussianMixture
from ppl_zoo.models.mixtures.gaussian_mixture import GaussianMixture
from ppl_zoo.models.mixtures.gaussian_scale_mixture import GaussianScaleMixture

__all__ = ["BayesianGaussianMixture", "GaussianMixture", "GaussianScaleMixture"]
