"""Rows of which only some features are known: the others drawn by Metropolis within Gibbs.

Rezende et al. (2014) alternate z ~ guide(z | x) and x ~ p(x | z), which is right only if the guide
is. Mattei & Frellsen (2018, https://arxiv.org/abs/1802.04826) accept or refuse z as an independent
Metropolis proposal, which makes the chain's distribution p(x_missing | x_known) itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_zoo.errors import DataError

__all__ = ["complete"]


def complete(model: Any, given: Any, num_samples: int, num_steps: int) -> Tensor:
    """Draw the free features, ``(num_samples, D)``; ``model`` is a VAE."""
    held = torch.as_tensor(given).to(model.device, model.dtype)
    if held.shape not in ((model.num_features,), (num_samples, model.num_features)):
        raise DataError(
            f"given: got {tuple(held.shape)}, expected ({model.num_features},) or "
            f"({num_samples}, {model.num_features}), NaN where free"
        )
    held = held.expand(num_samples, -1)
    free = held.isnan()
    model.likelihood.check(torch.where(free, torch.zeros_like(held), held))
    x = torch.where(free, model.sample(num_samples), held)
    z = model.guess(x)
    for _ in range(num_steps):
        proposed = model.guess(x)
        gain = model.log_joint(x, proposed) - model.log_joint(x, z)
        ratio = gain + model.log_guess(x, z) - model.log_guess(x, proposed)
        accepted = torch.rand_like(ratio).log() < ratio
        z = torch.where(accepted[:, None], proposed, z)
        drawn = model.row(z).sample().to(x)
        x = torch.where(free, drawn, held)
    return x
