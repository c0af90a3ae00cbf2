"""Pareto-smoothed importance sampling: k-hat, effective draws, and reweighted moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

__all__ = [
    "KHAT_DRAWS",
    "Reweighted",
    "effective_share",
    "khat",
    "khat_of_rows",
    "psis_weights",
    "resample",
    "smoothed_share",
]

#: draws that k-hat is estimated from, at least; with 1,000 it moves by 0.2
KHAT_DRAWS = 4000
#: quantile of the rows' k-hats that stands for all rows
ROW_QUANTILE = 0.9
#: errors of a moment below this are small
SMALL_ERROR = 0.05
#: weights are constant where so small a share of the draws is lost to them: the shape of their
#: tail is then that of rounding
CONSTANT_SHARE = 1e-4


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
    tail = _tail(log_weights)
    return math.nan if tail is None else tail.shape


@dataclass(frozen=True)
class _Tail:
    """Generalised Pareto distribution of the largest weights, in units of the largest."""

    shape: float
    scale: float
    cutoff: float
    count: int


def _tail(log_weights: Tensor) -> _Tail | None:
    """Fit the largest weights; None where the weights are constant."""
    lw = log_weights.detach().double().flatten().cpu()
    if not bool(torch.isfinite(lw).any()):
        return _Tail(math.inf, math.nan, math.nan, 0)
    finite = lw[torch.isfinite(lw)]
    rounding = 64 * torch.finfo(log_weights.dtype).eps * max(1.0, float(finite.abs().max()))
    spread = float(finite.max() - finite.min())
    if len(finite) == len(lw) and spread <= rounding or 1 - effective_share(lw) < CONSTANT_SHARE:
        return None
    lw = (lw - lw[torch.isfinite(lw)].max()).sort().values
    count = math.ceil(min(0.2 * len(lw), 3.0 * math.sqrt(len(lw))))
    cutoff = max(math.log(1e-15), float(lw[-count - 1]))
    tail = lw[lw > cutoff]
    if len(tail) < 5:
        return _Tail(math.inf, math.nan, cutoff, len(tail))  # a handful carries all the weight
    shape, scale = fit_generalized_pareto(tail.exp() - math.exp(cutoff))
    return _Tail(float(shape), float(scale), cutoff, len(tail))


def effective_share(log_weights: Float[Tensor, " draws"]) -> float:
    """Share of the draws that are effective under their weights: ``(sum w)^2 / (n sum w^2)``.

    1 for constant weights, 0 where one draw of very many carries all, or a weight is not a
    number (Kish 1965, Survey Sampling).
    """
    lw = log_weights.detach().double().flatten().cpu()
    if bool(lw.isnan().any()) or bool((lw == math.inf).any()):
        return 0.0
    both = 2 * lw.logsumexp(0) - (2 * lw).logsumexp(0)
    return float(both.exp() / len(lw)) if math.isfinite(both) else 0.0


def psis_weights(log_weights: Float[Tensor, " draws"]) -> Float[Tensor, " draws"]:
    """Normalised importance weights, the largest replaced by quantiles of their Pareto fit.

    Parameters
    ----------
    log_weights
        log p(x, z) - log q(z) of independent draws z of q, ``(draws,)``.

    Returns
    -------
    Tensor
        ``(draws,)``, float64, summing to 1; those of draws without a finite weight are 0.

    References
    ----------
    Vehtari et al. 2015, Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646.
    """
    lw = log_weights.detach().double().flatten().cpu()
    lw = torch.where(torch.isfinite(lw), lw, -math.inf)
    weights = (lw - lw.max()).exp()
    tail = _tail(log_weights)
    if tail is not None and math.isfinite(tail.shape) and tail.count >= 5:
        order = weights.argsort()[-tail.count :]
        p = (torch.arange(tail.count, dtype=torch.float64) + 0.5) / tail.count
        excess = (
            -torch.log1p(-p)
            if abs(tail.shape) < 1e-8
            else torch.expm1(-tail.shape * torch.log1p(-p)) / tail.shape
        )
        weights[order] = (math.exp(tail.cutoff) + tail.scale * excess).clamp(max=1.0)
    return weights / weights.sum()


def resample(
    log_weights: Float[Tensor, " draws"], count: int, rng: np.random.Generator
) -> Int[Tensor, " count"]:
    """Resample draws by their smoothed importance weights, in random order.

    By systematic resampling, so that draws repeat no more than they must.

    Parameters
    ----------
    log_weights
        log p(x, z) - log q(z) of independent draws z of q, ``(draws,)``.
    count
        Indices wanted.

    Returns
    -------
    Tensor
        ``(count,)``, indices into the draws.

    References
    ----------
    Kitagawa 1996, Monte Carlo filter and smoother, https://doi.org/10.2307/1390750.
    """
    weights = psis_weights(log_weights).numpy()
    places = (rng.uniform() + np.arange(count)) / count
    picked = np.searchsorted(weights.cumsum() * (1 - 1e-12), places).clip(max=len(weights) - 1)
    return torch.from_numpy(rng.permutation(picked))


def smoothed_share(log_weights: Float[Tensor, " draws"]) -> float:
    """Share of the draws that are effective under their weights or, if more, the smoothed ones.

    One draw in thousands may halve the share of the raw weights; weights that are nearly constant
    have no tail to smooth. 0 where no weight is a number, or one is infinite.
    """
    raw = effective_share(log_weights)
    if raw == 0.0:
        return 0.0
    weights = psis_weights(log_weights)
    return max(raw, float(1 / weights.square().sum() / len(weights)))


@dataclass(frozen=True)
class Reweighted:
    """Mean and sd of a scalar under importance weights, beside those of the draws alone.

    Attributes
    ----------
    mean_error, sd_error
        What the draws' mean is off, in reweighted sds, and their sd, relative: positive where the
        guide's is larger.
    mean_noise, sd_noise
        Standard errors of both.
    mean_khat, sd_khat
        k-hat of the draws' own terms of each moment (Vehtari et al. 2015), of an error that is not
        small: above 0.5 the terms have no variance, and the standard error means nothing. NaN
        where it was not needed.
    """

    mean_error: float
    sd_error: float
    mean_noise: float
    sd_noise: float
    mean_khat: float = math.nan
    sd_khat: float = math.nan

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Reweighted:
        """Compare draws ``(n,)`` with the same under normalised weights ``(n,)``."""
        mean = float(weights @ values)
        centred = values - mean
        sd = math.sqrt(max(float(weights @ centred**2), 0.0))
        if sd == 0.0 or np.ptp(values) == 0.0:  # of a constant, rounding leaves some
            return cls(math.nan, math.nan, math.nan, math.nan)
        z, extra = centred / sd, weights - 1.0 / len(values)
        mean_error, sd_error = float(z.mean()), float(values.std() / sd - 1.0)
        khats = {}
        for kind, error, power in (("mean", mean_error, 1), ("sd", sd_error, 2)):
            if abs(error) > SMALL_ERROR:
                terms = power * np.log(np.maximum(np.abs(z), 1e-300))
                khats[f"{kind}_khat"] = khat(torch.from_numpy(terms))
        return cls(
            mean_error=mean_error,
            sd_error=sd_error,
            mean_noise=float(np.sqrt(np.sum(extra**2 * z**2))),
            sd_noise=float(0.5 * np.sqrt(np.sum(extra**2 * (z**2 - 1.0) ** 2))),
            **khats,
        )


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
