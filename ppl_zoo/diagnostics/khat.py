"""Pareto k-hat: how far importance weights of a guide can be trusted."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

__all__ = ["khat"]


def khat(log_weights: Float[Tensor, " draws"]) -> float:
    """Shape of a generalised Pareto distribution fitted to the largest weights.

    Below 0.5 the guide is close to the posterior, above 0.7 it is not. Use 4,000 draws or more;
    with 1,000 the estimate moves by 0.2.

    Parameters
    ----------
    log_weights
        log p(x, z) - log q(z) of independent draws z of q, ``(draws,)``.

    Returns
    -------
    float
        k-hat; NaN where the weights are constant to rounding (q is exact).

    References
    ----------
    Vehtari et al. 2015, Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646.
    Yao et al. 2018, Yes, but did it work?, https://arxiv.org/abs/1802.02538.
    """
    lw = log_weights.detach().double().flatten().cpu()
    lw = (lw - lw.max()).sort().values
    eps = 64 * torch.finfo(log_weights.dtype).eps * max(1.0, float(log_weights.abs().max()))
    if float(lw[-1] - lw[0]) <= eps:
        return math.nan
    count = math.ceil(min(0.2 * len(lw), 3.0 * math.sqrt(len(lw))))
    cutoff = max(math.log(1e-15), float(lw[-count - 1]))
    tail = lw[lw > cutoff]
    if len(tail) < 5:
        return math.inf  # a handful of draws carries all the weight
    shape, _ = fit_generalized_pareto(tail.exp() - math.exp(cutoff))
    return float(shape)
