"""Read the shipped weights: a file of safetensors for each name."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import torch
from safetensors.torch import load

from ppl_zoo import models
from ppl_zoo.errors import RunError
from ppl_zoo.models.mixtures import GaussianMixture
from ppl_zoo.pretrained.packing import unpack

__all__ = ["PRETRAINED", "load_pretrained"]

#: name and what it is
PRETRAINED: dict[str, str] = {
    "gmm200-patches": "200 Gaussians over 8x8 patches of photographs, cosine coefficients",
    "gmm20-patches": "20 Gaussians over 8x8 patches of photographs, cosine coefficients",
    "vae-mnist": "VAE 784-200-200-50 of MNIST in black and white, dynamic binarization",
    "vae-mnist-fixed": "the same net, fixed binarization",
    "iwae-mnist": "the same net by the bound of 50 weighted draws, dynamic binarization",
    "fvsbn-mnist": "FVSBN of MNIST in black and white, fixed binarization",
    "nade-mnist": "NADE of MNIST in black and white, fixed binarization",
    "pixelcnn-mnist": "PixelCNN of MNIST in black and white, fixed binarization",
    "transformer-mnist": "TransformerAR of MNIST in black and white, fixed binarization",
    "made-mnist": "two MADE, in two orders, of MNIST in black and white, fixed binarization",
}


def load_pretrained(name: str, device: Any = "cpu") -> Any:
    """Load a model that this project trained.

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
    tensors, told = _read(name)
    if "class" in told:  # a state dict in half precision, of a class of the zoo
        net = getattr(models, told["class"])(**json.loads(told["config"]))
        net.load_state_dict(unpack(tensors))
        return net.to(device)
    factors = torch.zeros(len(tensors["weights"]), 63, 63, dtype=torch.float64)
    rows, columns = torch.tril_indices(63, 63)
    factors[:, rows, columns] = tensors["factors"].double()
    weights = tensors["weights"].double()
    model = GaussianMixture(len(weights), 63)
    means = torch.zeros(len(weights), 63, dtype=torch.float64)
    model.set_parameters(weights / weights.sum(), means, factors @ factors.mT)
    return model.to(device)


@lru_cache(maxsize=2)
def _read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of a file, and what its header tells of them."""
    content = files("ppl_zoo.pretrained").joinpath(f"{name}.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return load(content), header.get("__metadata__", {})
