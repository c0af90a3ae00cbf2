"""Pareto k-hat of importance weights: how far a guide can be trusted."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

__all__ = ["KHAT_DRAWS", "khat", "khat_of_rows"]

#: draws that k-hat is estimated from, at least; with 1,000 it moves by 0.2
KHAT_DRAWS = 4000
#: quantile of the rows' k-hats that stands for all rows
ROW_QUANTILE = 0.9


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


def khat_of_rows(log_weights: Float[Tensor, "draws rows"]) -> float:
    """Pareto k-hat of local latents: the value that nine rows of ten are below.

    Each row has importance weights of its own, given global latents; the maximum over many rows
    would be the noise of the estimate.

    Parameters
    ----------
    log_weights
        log p(x_n, z_n) - log q(z_n) of each row n, ``(draws, rows)``.

    Returns
    -------
    float
        The 90 % quantile of the rows' k-hats; NaN where no row has a finite one.
    """
    each = [khat(weights) for weights in log_weights.mT]
    return float(np.nanquantile(each, ROW_QUANTILE)) if np.isfinite(each).any() else math.nan
