"""Generative models, by family; each file reads like the textbook page of its model."""

from ppl_zoo.models import autoregressive, discrete, images, latent, mixtures, regression
from ppl_zoo.models.autoregressive import *
from ppl_zoo.models.discrete import *
from ppl_zoo.models.images import *
from ppl_zoo.models.latent import *
from ppl_zoo.models.mixtures import *
from ppl_zoo.models.regression import *

__all__ = [
    *regression.__all__,
    *discrete.__all__,
    *mixtures.__all__,
    *latent.__all__,
    *autoregressive.__all__,
    *images.__all__,
]
