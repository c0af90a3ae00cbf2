"""Priors of images and their patches."""

from ppl_zoo.models.images.dead_leaves import MiniDeadLeaves
from ppl_zoo.models.images.deep_image_prior import DeepImagePrior
from ppl_zoo.models.images.epll import EPLL
from ppl_zoo.models.images.ica import ICA
from ppl_zoo.models.images.independent_pixels import IndependentPixels
from ppl_zoo.models.images.mixture_of_scale_mixtures import MixtureOfScaleMixtures
from ppl_zoo.models.images.multivariate_gaussian import MultivariateGaussian
from ppl_zoo.models.images.patch_denoising import denoise_patches
from ppl_zoo.models.images.patch_initialization import start_patch_mixture
from ppl_zoo.models.images.pca_laplace import PCALaplace

__all__ = [
    "EPLL",
    "ICA",
    "DeepImagePrior",
    "IndependentPixels",
    "MiniDeadLeaves",
    "MixtureOfScaleMixtures",
    "MultivariateGaussian",
    "PCALaplace",
    "denoise_patches",
    "start_patch_mixture",
]
