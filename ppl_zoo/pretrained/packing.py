"""Weights as the shipped files hold them: in half precision, without their zeros."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack", "unpack"]


def pack(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round to half precision; of a tensor that is zero in places, keep the rest and a bit each.

    Half of the weights of a masked net are never looked at.
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
    """Read what :func:`pack` wrote, in single precision."""
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
