"""Skewed guides: nested variational inference, and adaptive importance sampling of the scales.

The normal that fits a hierarchy best is too narrow along the logarithms of its scales, and its
importance weights say so. Directions along which the curvature of the density changes most are
found from the gradients of draws; given these few, the others are close to normal. Their
conditional normal is fitted by its ELBO over a wide spread of the leading directions, as INLA
nests Laplace's approximation (Rue, Martino & Chopin 2009,
https://doi.org/10.1111/j.1467-9868.2008.00700.x); the leading directions' own density is then
fitted to importance-weighted draws by maximum likelihood, which covers the tails that an ELBO
leaves out (Cappe et al. 2008, Adaptive importance sampling in general mixture classes,
https://doi.org/10.1007/s11222-008-9059-x).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.khat import psis_weights, smoothed_share
from ppl_zoo.core.random import chain_seed, quasi_normals
from ppl_zoo.core.skewed_normal import MAX_DIRECTIONS, SkewedComponent, SkewedNormal
from ppl_zoo.solvers.fixed_draws.laplace import NormalApproximation
from ppl_zoo.solvers.fixed_draws.lbfgs import LBFGS

__all__ = ["Weighted", "mix", "skew", "weigh"]

#: the relative change of curvature a sd that makes a direction a leading one
MIN_CHANGE = 0.3
#: rounds of conditional and leading fits, and steps of L-BFGS in each
NUM_ROUNDS, MAX_STEPS = 4, 60
#: the first round spreads the leading directions by so many sds of the normal's, later ones by
#: the fitted density up to so many
FIRST_SPREAD, MAX_SPREAD = 1.5, 8.0
#: with fewer effective draws than this no further round is taken
HOPELESS = 20.0
#: a spread that has no finite density is made narrower so often
MAX_NARROWINGS = 6
#: fits stop where L-BFGS expects to gain less, in nats
TOLERANCE_NATS = 1e-4
#: weight of a tail, as a logarithm, at most: the exponential of a draw has to stay a number
MAX_LOG_TAIL = 0.7
#: prior draws' worth of zeros that slopes, skew and tail are shrunk by
PRIOR_DRAWS = 5.0
#: iterations of EM for the weights of a mixture's components, and the least that is kept
EM_ITERATIONS, MIN_SHARE = 50, 0.002

Energy = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass
class Weighted:
    """Draws of a density with their importance weights.

    Attributes
    ----------
    draws, log_weights
        ``(draw, D)`` and ``(draw,)``, minus infinity where the density is no number.
    share
        Share of the draws that are effective once the weights are smoothed.
    """

    draws: Tensor
    log_weights: Tensor
    share: float

    @property
    def log_evidence(self) -> float:
        """Log of the mean weight, in nats."""
        return float(self.log_weights.logsumexp(0)) - math.log(len(self.log_weights))


def weigh(
    energy: Energy, component: SkewedComponent, num_draws: int, seed: int, wide: bool = False
) -> Weighted:
    """Draw from a component and weight the draws by the density over their own.

    ``wide`` draws the leading directions with the tails of Student's t, so that no part of the
    density is left out.
    """
    normals = quasi_normals(num_draws, len(component.loc), seed)
    excess: Tensor | float = 0.0
    if wide:
        normals, excess = _widened(normals, component.num_directions)
    draws, log_prob = component.transform(normals)
    log_prob = log_prob + excess
    with np.errstate(all="ignore"):
        log_weights = -torch.from_numpy(energy(draws.numpy())[0]) - log_prob
    log_weights = log_weights.nan_to_num(nan=-math.inf, posinf=-math.inf)
    return Weighted(draws, log_weights, smoothed_share(log_weights))


def _widened(normals: Tensor, num_directions: int) -> tuple[Tensor, Tensor]:
    """Make leading standard normals Student's t of 4 degrees of freedom, as quantiles.

    Returns them with how much their log density exceeds the normals' own, in closed form (Shaw
    2006, https://doi.org/10.21314/JCF.2006.150).
    """
    leading = normals[:, :num_directions]
    below = torch.special.ndtr(-leading.abs())  # of the lower tail, where it is exact
    root = (4 * below * (1 - below)).clamp(max=1.0).sqrt()
    t = leading.sign() * 2 * ((root.acos() / 3).cos() / root - 1).clamp(min=0.0).sqrt()
    log_t = math.log(0.375) - 2.5 * (0.25 * t.square()).log1p()
    excess = log_t + 0.5 * t.square() + 0.5 * math.log(2 * math.pi)
    return torch.cat([t, normals[:, num_directions:]], 1), excess.sum(1)


def skew(
    energy: Energy, normal: NormalApproximation, num_fixed: int, num_draws: int, seed: int
) -> tuple[SkewedComponent, Weighted]:
    """Fit a skewed component to a density, from the normal that fits it best.

    Returns the one of some rounds that has the most effective draws, and these.

    Parameters
    ----------
    energy
        Minus log density and gradient at ``(n, D)``.
    normal
        The start.
    num_fixed, num_draws
        Fixed draws of a conditional fit, and weighted draws of a leading one.
    seed
        Of both.
    """
    component = _leading_directions(energy, normal, num_fixed, chain_seed(seed, 1))
    size, num_directions = len(normal.mean), component.num_directions
    pooled: list[Weighted] = []
    best: tuple[SkewedComponent, Weighted] | None = None
    for index in range(NUM_ROUNDS):
        normals = quasi_normals(num_fixed, size, chain_seed(seed, 2, index), whiten=True)
        if index == 0:
            leading = FIRST_SPREAD * normals[:, :num_directions]
        else:
            drawn = component.coordinates(component.transform(normals)[0])[:, :num_directions]
            leading = drawn.clamp(-MAX_SPREAD, MAX_SPREAD)
        if num_directions < size:
            component = _fit_conditional(energy, component, leading, normals[:, num_directions:])
        pooled.append(weigh(energy, component, num_draws, chain_seed(seed, 3, index), wide=True))
        component = _fit_leading(component, pooled)
        found = weigh(energy, component, num_draws, chain_seed(seed, 4))
        if best is None or found.share > best[1].share:
            best = component, found
        if pooled[-1].share * num_draws < HOPELESS:
            break  # too many directions matter
    return best


def _leading_directions(
    energy: Energy, normal: NormalApproximation, num_draws: int, seed: int
) -> SkewedComponent:
    """Rotate a normal so that the directions that change the curvature most come first.

    By Stein's identity ``E[r_i e_j e_k]``, ``r`` being what the gradient at ``e`` differs from a
    normal's by, is the mean of the third derivative: how direction ``k`` changes the curvature
    between ``i`` and ``j``. The leading directions are the right singular vectors of the table of
    ``iik``; the others are turned to the eigenvectors of what the first of them changes, so that
    their covariance stays diagonal along it.
    """
    normals = quasi_normals(4 * num_draws, len(normal.mean), seed, whiten=True).numpy()
    with np.errstate(all="ignore"):
        gradients = energy(normal.mean + normals @ normal.factor.T)[1] @ normal.factor
    excess = gradients - normals
    kept = np.isfinite(excess).all(1)
    excess, normals = excess[kept], normals[kept]
    count = max(1, len(normals))
    _, changes, rotation = np.linalg.svd((excess * normals).T @ normals / count)
    k = min(MAX_DIRECTIONS, len(changes), max(1, int((changes > MIN_CHANGE).sum())))
    leading, others = rotation[:k], rotation[k:]
    along = (normals @ leading[0])[:, None]
    change = (excess @ others.T).T @ (normals @ others.T * along) / count
    others = np.linalg.eigh(change + change.T)[1].T @ others
    mean, factor = torch.from_numpy(normal.mean).clone(), torch.from_numpy(normal.factor).clone()
    turned = torch.from_numpy(np.ascontiguousarray(np.concatenate([leading, others]).T))
    return SkewedComponent.of_normal(mean, factor, turned, k)


def _fit_conditional(
    energy: Energy, start: SkewedComponent, leading: Tensor, normals: Tensor
) -> SkewedComponent:
    """Fit the normal of the other coordinates given the leading ones ``(n, K)``, by its ELBO."""
    k, size = start.num_directions, len(start.loc)
    rows, columns = torch.tril_indices(size - k, size - k, -1)
    parts = [start.shift[k:], start.log_scale[k:], start.slopes[k:], start.scale_slopes[k:]]
    parts.append(start.mixing[rows, columns])
    shapes = [p.shape for p in parts]

    def component(theta: Tensor) -> SkewedComponent:
        pieces = theta.split([s.numel() for s in shapes])
        shift, log_scale, slopes, scale_slopes, lower = (
            piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)
        )
        unit = torch.eye(size - k, dtype=theta.dtype)
        return replace(
            start,
            shift=torch.cat([start.shift[:k], shift]),
            log_scale=torch.cat([start.log_scale[:k], log_scale]),
            slopes=torch.cat([start.slopes[:k], slopes]),
            scale_slopes=torch.cat([start.scale_slopes[:k], scale_slopes]),
            mixing=unit.index_put((rows, columns), lower),
        )

    def negative_elbo(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(theta).clone().requires_grad_()
        with torch.enable_grad():
            own = component(leaf)
            others, log_scale = own.others(leading, normals)
            draws = own.vectors(torch.cat([leading, others], -1))
            entropy = log_scale.sum(1).mean()
            with np.errstate(all="ignore"):
                energies, gradients = energy(draws.detach().numpy())
                value = float(energies.mean()) - entropy.item()
            if not (np.isfinite(value) and np.isfinite(gradients).all()):
                return np.inf, np.full(len(theta), np.nan)
            outer = (torch.from_numpy(gradients) / len(draws), -torch.ones_like(entropy))
            (gradient,) = torch.autograd.grad((draws, entropy), leaf, outer)
        return value, gradient.numpy()

    theta = torch.cat([p.flatten() for p in parts]).numpy()
    for _ in range(MAX_NARROWINGS):
        optimizer = LBFGS(negative_elbo, theta)
        if np.isfinite(optimizer.value):
            break
        leading = 0.7 * leading
    else:
        return start
    for _ in range(MAX_STEPS):
        if not optimizer.step() or optimizer.decrement < TOLERANCE_NATS:
            break
    return component(torch.from_numpy(optimizer.x))


def _fit_leading(start: SkewedComponent, pooled: Sequence[Weighted]) -> SkewedComponent:
    """Fit the density of the leading coordinates to weighted draws, one after the other.

    Draws of all rounds count, each round by its effective draws.
    """
    pooled = [found for found in pooled if found.share > 0.0]
    if not pooled:
        return start
    total = sum(found.share for found in pooled)
    weights = torch.cat([psis_weights(f.log_weights) * f.share / total for f in pooled])
    kept = weights > 1e-6 * weights.max()
    weights = weights[kept] / weights[kept].sum()
    draws = torch.cat([f.draws for f in pooled])[kept]
    leading = start.coordinates(draws)[:, : start.num_directions]
    shrinkage = PRIOR_DRAWS * float(weights.square().sum())
    own = replace(start)
    for i in range(start.num_directions):
        own = _fit_coordinate(own, i, leading, weights, shrinkage)
    return own


def _fit_coordinate(
    start: SkewedComponent, i: int, leading: Tensor, weights: Tensor, shrinkage: float
) -> SkewedComponent:
    """Fit shift, scale, skew and tail of one leading coordinate by maximum likelihood."""
    place, columns = torch.tensor(i), (torch.tensor(i), torch.arange(2 * i))
    held = {
        "shift": (start.shift, (place,)),
        "log_scale": (start.log_scale, (place,)),
        "skew": (start.skew, (place,)),
        "log_tail": (start.log_tail, (place,)),
        "slopes": (start.slopes, columns),
        "scale_slopes": (start.scale_slopes, columns),
    }
    values = [tensor[index] for tensor, index in held.values()]

    def component(theta: Tensor) -> SkewedComponent:
        pieces = theta.split([v.numel() for v in values])
        named = zip(held.items(), pieces, values, strict=True)
        return replace(
            start,
            **{
                name: tensor.index_put(index, piece.reshape(value.shape))
                for (name, (tensor, index)), piece, value in named
            },
        )

    def negative_likelihood(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(theta).clone().requires_grad_()
        with torch.enable_grad():
            own = component(leaf)
            if bool((own.log_tail[i] > MAX_LOG_TAIL).any()):
                return np.inf, np.full(len(theta), np.nan)
            value = -(weights @ own.leading_log_prob(i, leading))
            value = value + shrinkage * leaf[2:].square().sum()
            (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    theta = torch.cat([v.flatten() for v in values]).numpy()
    optimizer = LBFGS(negative_likelihood, theta)
    for _ in range(MAX_STEPS):
        if not optimizer.step() or optimizer.decrement < TOLERANCE_NATS / 10:
            break
    return component(torch.from_numpy(optimizer.x))


def mix(components: Sequence[SkewedComponent], found: Sequence[Weighted]) -> SkewedNormal:
    """Mix components by the evidence of each.

    The weights maximise the likelihood of importance-weighted draws of all components, by EM:
    what two components both cover counts once.
    """
    plain = SkewedNormal.of(components, torch.zeros(len(components), dtype=torch.float64))
    if len(components) == 1:
        return plain
    draws = torch.cat([f.draws for f in found])
    each = torch.stack([c.log_prob(draws) for c in components], 1)
    joint = torch.cat(
        [f.log_weights + c.log_prob(f.draws) for f, c in zip(found, components, strict=True)]
    )
    log_shares = torch.tensor([f.log_evidence for f in found]).log_softmax(0)
    proposal = each.logsumexp(1) - math.log(len(components))
    weights = psis_weights(joint - proposal)
    for _ in range(EM_ITERATIONS):
        parts = (each + log_shares).softmax(1)
        log_shares = (weights @ parts).log()
    kept = [i for i, share in enumerate(log_shares.exp().tolist()) if share > MIN_SHARE]
    return SkewedNormal.of([components[i] for i in kept], log_shares[kept])
