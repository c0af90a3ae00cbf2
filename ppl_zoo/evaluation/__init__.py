"""Evaluation of latent-variable models: estimates and bounds of log p(x), active units."""

from ppl_zoo.evaluation.active_units import LatentUse, latent_use
from ppl_zoo.evaluation.marginal_likelihood import (
    RowEstimate,
    Sandwich,
    annealed,
    importance_sampling,
    iwae_bound,
    prior_sampling,
    sandwich,
    uniform_sampling,
)

__all__ = [
    "LatentUse",
    "RowEstimate",
    "Sandwich",
    "annealed",
    "importance_sampling",
    "iwae_bound",
    "latent_use",
    "prior_sampling",
    "sandwich",
    "uniform_sampling",
]
