"""Weights of the pretrained models: safetensors files in half precision, without zeros."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from ppl_zoo import models
from ppl_zoo.core.errors import RunError
from ppl_zoo.core.model import Model
from ppl_zoo.models.mixtures import GaussianMixture

__all__ = ["PRETRAINED", "load_pretrained", "pack", "unpack"]

#: description of each pretrained model
PRETRAINED: dict[str, str] = {
    "gmm200-patches": "200 Gaussians over 8x8 patches of photographs, cosine coefficients",
    "gmm20-patches": "20 Gaussians over 8x8 patches of photographs, cosine coefficients",
    "vae-mnist": "VAE 784-200-200-50 of binary MNIST, dynamic binarization",
    "vae-mnist-fixed": "the same net, fixed binarization",
    "iwae-mnist": "the same net by the bound of 50 weighted draws, dynamic binarization",
    "fvsbn-mnist": "FVSBN of binary MNIST, fixed binarization",
    "nade-mnist": "NADE of binary MNIST, fixed binarization",
    "pixelcnn-mnist": "PixelCNN of binary MNIST, fixed binarization",
    "transformer-mnist": "TransformerAR of binary MNIST, fixed binarization",
    "made-mnist": "two MADE, in two orders, of binary MNIST, fixed binarization",
}


def load_pretrained(name: str, device: str | torch.device = "cpu") -> Model:
    """Load a pretrained model.

    Parameters
    ----------
    name
        One of :data:`PRETRAINED`.
    device
        Where to put it.

    Raises
    ------
    RunError
        If there is none of that name.
    """
    if name not in PRETRAINED:
        raise RunError(f"got {name!r}, expected a pretrained model: {', '.join(PRETRAINED)}")
    tensors, metadata = _read(name)
    if "class" in metadata:  # a packed state dict of a class of the zoo
        net = getattr(models, metadata["class"])(**json.loads(metadata["config"]))
        net.load_state_dict(unpack(tensors))
        return net.to(device)
    return _read_patch_mixture(tensors).to(device)


def _read_patch_mixture(tensors: dict[str, Tensor]) -> GaussianMixture:
    """Mixture of Gaussians over 8x8 patches without their mean: 63 cosine coefficients."""
    factors = torch.zeros(len(tensors["weights"]), 63, 63, dtype=torch.float64)
    rows, columns = torch.tril_indices(63, 63)
    factors[:, rows, columns] = tensors["factors"].double()
    weights = tensors["weights"].double()
    model = GaussianMixture(len(weights), 63)
    means = torch.zeros(len(weights), 63, dtype=torch.float64)
    model.set_parameters(weights / weights.sum(), means, factors @ factors.mT)
    return model


@lru_cache(maxsize=2)
def _read(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file, and the metadata of its header."""
    content = files("ppl_zoo.models.pretrained").joinpath(f"{name}.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load(content), header.get("__metadata__", {})


def pack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pack a state dict in half precision, without zeros.

    Half of the weights of a masked net are never used: of a tensor with zeros the other values
    are kept, and a bit mask.
    """
    out = {}
    for name, tensor in weights.items():
        half = tensor.cpu().half().contiguous()
        kept = half != 0
        if kept.all():
            out[name] = half
        else:
            out[f"{name}/values"] = half[kept]
            out[f"{name}/bits"] = torch.from_numpy(np.packbits(kept.flatten().numpy()))
            out[f"{name}/shape"] = torch.tensor(half.shape)
    return out


def unpack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unpack a state dict of :func:`pack`, in single precision."""
    out = {}
    for name, tensor in tensors.items():
        whole, _, part = name.partition("/")
        if not part:
            out[name] = tensor.float()
        elif part == "values":
            shape = tensors[f"{whole}/shape"].tolist()
            bits = np.unpackbits(tensors[f"{whole}/bits"].numpy(), count=int(np.prod(shape)))
            full = torch.zeros(shape)
            full[torch.from_numpy(bits.astype(bool)).reshape(shape)] = tensor.float()
            out[whole] = full
    return out
