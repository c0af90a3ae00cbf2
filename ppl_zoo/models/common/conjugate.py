"""Gamma moments and divergence, and Gauss-Hermite quadrature, for conjugate models; float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["LOG_2PI", "expected_log_gamma", "gamma_kl", "gauss_hermite"]

LOG_2PI = math.log(2.0 * math.pi)


def expected_log_gamma(shape: Tensor, rate: Tensor) -> Tensor:
    """E[log t] of t ~ Gamma(shape, rate)."""
    return torch.digamma(shape) - rate.log()


def gamma_kl(shape: Tensor, rate: Tensor, prior_shape: Tensor, prior_rate: Tensor) -> Tensor:
    """KL(Gamma(shape, rate) || Gamma(prior_shape, prior_rate)), elementwise, in nats."""
    return (
        (shape - prior_shape) * torch.digamma(shape)
        - torch.lgamma(shape)
        + torch.lgamma(prior_shape)
        + prior_shape * (rate.log() - prior_rate.log())
        + shape * (prior_rate - rate) / rate
    )


def gauss_hermite(like: Tensor, num_nodes: int = 64) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and log weights ``(num_nodes,)`` of a standard normal (Golub-Welsch).

    ``sum_i exp(log_weights[i]) f(nodes[i])`` approximates E[f(z)], z ~ Normal(0, 1).
    """
    off = torch.arange(1, num_nodes, dtype=torch.float64, device=like.device).sqrt()
    nodes, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
    return nodes, vectors[0].square().clamp_min(1e-300).log()
