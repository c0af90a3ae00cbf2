"""Initial parameters of a Gaussian mixture: k-means++ or random rows."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.mixtures.covariance import CovarianceType
from ppl_zoo.models.mixtures.prior import posterior_mode
from ppl_zoo.models.mixtures.whitening import Whitening

__all__ = ["initial_parameters", "kmeans"]


def initial_parameters(
    rows: Rows,
    covariance_type: CovarianceType,
    whitening: Whitening,
    num_components: int,
    init: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return initial log weights ``(K,)``, means ``(K, D)`` and scales, whitened, float64.

    Parameters
    ----------
    rows
        The data; a random subsample of them is read.
    covariance_type, whitening, num_components
        Of the mixture.
    init
        "k-means++" or "random" (random rows as means, the covariance of all data for each).
    """
    x, weight = _subsample(rows, max(20_000, 100 * num_components))
    y = whitening.whiten(x).mT.double().nan_to_num(0.0)
    num_features = y.shape[1]
    if init == "random":
        means = y[torch.multinomial(weight, num_components)]
        one = y.new_ones(num_components)
        total = _squares(covariance_type, y, weight, torch.zeros_like(weight, dtype=torch.long), 1)
        total = total / (
            weight.sum() * (num_features if covariance_type.name == "spherical" else 1)
        )
        total = covariance_type.unpack(total, num_features)
        scale = covariance_type.factor(total, 0.0)
        if covariance_type.name != "tied":
            scale = scale.expand(num_components, *scale.shape[1:]).clone()
        return one.log() - math.log(num_components), means, scale
    _, labels = kmeans(whitening.standardise(x).float(), num_components, weight.float())
    counts = y.new_zeros(num_components).index_add_(0, labels, weight)
    sums = y.new_zeros(num_components, num_features).index_add_(0, labels, y * weight[:, None])
    means = sums / counts.clamp_min(1e-30)[:, None]
    # the pooled covariance as a prior: that of a cluster of few rows is never singular
    residual = (y - means[labels]) * weight.sqrt()[:, None]
    within = residual.mT @ residual if covariance_type.matrix else residual.square().sum(0)
    unit = (
        torch.eye(num_features).to(y) if covariance_type.matrix else torch.ones(num_features).to(y)
    )
    pooled = within / weight.sum() + 0.01 * unit
    squares = _squares(covariance_type, y, weight, labels, num_components)
    statistics = {"counts": counts, "sums": sums, "squares": squares}
    return posterior_mode(
        covariance_type, statistics, means, pooled, num_features + 2.0, concentration=1.1
    )


def _subsample(rows: Rows, size: int) -> tuple[Tensor, Tensor]:
    """At most ``size`` random rows that have weight, and their weights in float64."""
    if len(rows) > size:
        chosen = torch.randint(len(rows), (2 * size,)).unique()
        chosen = chosen[torch.randperm(len(chosen))[:size]].sort().values
        x, *weight = rows[chosen]
    else:
        x, *weight = rows.all()
    weight = weight[0].double() if weight else x.new_ones(len(x), dtype=torch.float64)
    return x, weight


def _squares(
    covariance_type: CovarianceType, y: Tensor, weight: Tensor, labels: Tensor, num: int
) -> Tensor:
    """Second moments of labelled rows, as the M-step reads them."""
    if covariance_type.name == "tied":
        return covariance_type.pack((y * weight[:, None]).mT @ y)
    if not covariance_type.matrix:
        squares = y**2 * weight[:, None]
        squares = squares.sum(-1) if covariance_type.name == "spherical" else squares
        return squares.new_zeros(num, *squares.shape[1:]).index_add_(0, labels, squares)
    out = []
    for k in range(num):
        own = labels == k
        out.append(covariance_type.pack((y[own] * weight[own, None]).mT @ y[own]))
    return torch.stack(out)


def kmeans(
    x: Float[Tensor, "n d"],
    num_clusters: int,
    weight: Float[Tensor, " n"] | None = None,
    num_steps: int = 10,
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """K-means clustering of rows, whose features should have like scales.

    Seeds are drawn far from one another (k-means++: Arthur & Vassilvitskii 2007), each the best
    of a few candidates, and then moved by Lloyd's algorithm (1982).

    Parameters
    ----------
    x
        Rows ``(n, d)``.
    num_clusters
        Number of clusters, at most n.
    weight
        Sample weights ``(n,)``.
    num_steps
        Largest number of Lloyd's iterations.

    Returns
    -------
    tuple
        Centres ``(k, d)`` and the cluster of each row ``(n,)``.
    """
    weight = torch.ones_like(x[:, 0]) if weight is None else weight
    norms = (x * x).sum(1)
    centres = _seeds(x, norms, weight, num_clusters)
    labels = _nearest(x, norms, centres)[1]
    for _ in range(num_steps):
        mass = x.new_zeros(num_clusters).index_add_(0, labels, weight)
        sums = torch.zeros_like(centres).index_add_(0, labels, x * weight[:, None])
        # a cluster that lost its rows stays where it is
        centres = torch.where((mass > 0)[:, None], sums / mass.clamp_min(1e-30)[:, None], centres)
        before, labels = labels, _nearest(x, norms, centres)[1]
        if torch.equal(before, labels):
            break
    return centres, labels


def _seeds(x: Tensor, norms: Tensor, weight: Tensor, num_clusters: int) -> Tensor:
    chosen = [torch.multinomial(weight, 1)]
    distance = _distances(x, norms, x[chosen[0]])[:, 0]
    num_candidates = 2 + num_clusters.bit_length() // 2
    for _ in range(1, num_clusters):
        chance = distance * weight
        if not chance.sum() > 0:  # fewer distinct rows than clusters
            chance = weight
        candidates = torch.multinomial(chance, num_candidates, replacement=True)
        reduced = torch.minimum(distance[:, None], _distances(x, norms, x[candidates]))
        best = (reduced * weight[:, None]).sum(0).argmin()
        distance = reduced[:, best]
        chosen.append(candidates[best][None])
    return x[torch.cat(chosen)]


def _distances(x: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
    """Squared distances ``(n, k)``."""
    squares = (centres * centres).sum(1)
    return (norms[:, None] - 2.0 * (x @ centres.mT) + squares).clamp_min(0.0)


def _nearest(x: Tensor, norms: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    return _distances(x, norms, centres).min(1)
