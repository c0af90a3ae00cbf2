"""Autoregressive models: p(x) = prod_i p(x_i | x_<i), exact densities."""

from ppl_zoo.models.autoregressive.deep_nade import DeepNADE
from ppl_zoo.models.autoregressive.fvsbn import FVSBN
from ppl_zoo.models.autoregressive.made import MADE
from ppl_zoo.models.autoregressive.nade import NADE
from ppl_zoo.models.autoregressive.order_ensemble import OrderEnsemble
from ppl_zoo.models.autoregressive.pixelcnn import PixelCNN
from ppl_zoo.models.autoregressive.recurrent import RecurrentAR
from ppl_zoo.models.autoregressive.rnade import RNADE
from ppl_zoo.models.autoregressive.transformer import TransformerAR

__all__ = [
    "FVSBN",
    "MADE",
    "NADE",
    "RNADE",
    "DeepNADE",
    "OrderEnsemble",
    "PixelCNN",
    "RecurrentAR",
    "TransformerAR",
]
