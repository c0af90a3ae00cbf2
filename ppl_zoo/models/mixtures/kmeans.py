"""Seeds for mixtures: k-means++ and a few steps of Lloyd."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["kmeans"]


def kmeans(
    x: Float[Tensor, "n d"],
    num_clusters: int,
    weight: Float[Tensor, " n"] | None = None,
    num_steps: int = 10,
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " n"]]:
    """Cluster rows; the features should have like scales.

    Seeds are drawn far from one another (k-means++: Arthur & Vassilvitskii 2007), each the best
    of a few candidates, and then moved by Lloyd's algorithm (1982).

    Parameters
    ----------
    x
        Rows ``(n, d)``.
    num_clusters
        Number of clusters, at most n.
    weight
        What a row counts, ``(n,)``.
    num_steps
        Most steps of Lloyd.

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
