"""Mixture models."""

from ppl_zoo.models.mixtures.gaussian import GaussianMixture

__all__ = ["GaussianMixture"]
