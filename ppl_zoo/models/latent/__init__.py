"""Models with continuous latent variables."""

from ppl_zoo.models.latent.bayesian_factor_analysis import BayesianFactorAnalysis
from ppl_zoo.models.latent.factor_analysis import FactorAnalysis
from ppl_zoo.models.latent.hierarchical_vae import HierarchicalVAE
from ppl_zoo.models.latent.ising import Ising
from ppl_zoo.models.latent.linear_vae import LinearVAE
from ppl_zoo.models.latent.normal_gamma import NormalGamma
from ppl_zoo.models.latent.probabilistic_pca import ProbabilisticPCA
from ppl_zoo.models.latent.vae import VAE

__all__ = [
    "VAE",
    "BayesianFactorAnalysis",
    "FactorAnalysis",
    "HierarchicalVAE",
    "Ising",
    "LinearVAE",
    "NormalGamma",
    "ProbabilisticPCA",
]
