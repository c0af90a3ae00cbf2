"""Covariances that mean field leaves out, from how its means respond to a push."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import biject_to

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.solvers.fixed_draws.families import location
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential
from ppl_zoo.solvers.fixed_draws.solver import quasi_normals

__all__ = ["LinearResponse", "linear_response"]


@dataclass(frozen=True)
class LinearResponse:
    """Corrected means and covariance of a mean-field fit, on the model's own scale.

    Attributes
    ----------
    mean, sd
        ``{site: array}`` of the site's shape.
    covariance
        Of all latents together, ``(size, size)``, in the order of ``labels``.
    labels
        ``site`` or ``site[i]`` of each row.
    """

    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    covariance: np.ndarray
    labels: tuple[str, ...]


def linear_response(
    model: Model, rows: Rows, guide: Any, *, num_draws: int = 512, seed: int = 0
) -> LinearResponse:
    """Correct the covariance of a mean-field fit at its optimum.

    Were the log posterior pushed by ``t . f(z)``, the fit's means of f would move by their
    posterior covariance times t, up to the error of the means themselves. The derivative follows
    from the Hessian of the fixed-draw bound (Giordano, Broderick & Jordan 2018,
    https://jmlr.org/papers/v19/17-670.html). Exact for a Gaussian.

    Parameters
    ----------
    model, rows, guide
        A fit's; the guide is an ``AutoNormal`` or ``AutoDiagonalNormal`` at its optimum.
    num_draws, seed
        Of the fixed draws.

    Raises
    ------
    QueryError
        If the guide is not mean field, or the fit has not come to an optimum.
    """
    if type(guide).__name__ not in ("AutoNormal", "AutoDiagonalNormal"):
        raise QueryError(
            f"linear response: got the guide {type(guide).__name__}, expected mean field "
            "(guide='normal'), the others have covariances of their own"
        )
    points = BatchedPotential(model, rows)
    size, loc = points.size, location(guide)
    scale = _scales(guide)
    while num_draws < 4 * size:
        num_draws *= 2
    normals = quasi_normals(num_draws, size, seed, whiten=True).numpy()
    hessian = _hessian(points, loc, scale, normals)
    slopes, mean, labels = _slopes(points, loc, scale, normals)
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError as error:
        raise QueryError(
            "linear response: the bound is no maximum here; fit to convergence first"
        ) from error
    covariance = slopes @ np.linalg.solve(hessian, slopes.T)
    sd, first = {}, 0
    for name, value in mean.items():
        part = np.sqrt(np.diag(covariance)[first : first + value.size])
        sd[name], first = part.reshape(value.shape), first + value.size
    return LinearResponse(mean, sd, covariance, labels)


def _scales(guide: Any) -> np.ndarray:
    if type(guide).__name__ == "AutoDiagonalNormal":
        return guide.scale.detach().cpu().double().numpy()
    parts = [
        guide._get_loc_and_scale(name)[1].detach().flatten()
        for name, _ in guide.prototype_trace.iter_stochastic_nodes()
    ]
    return torch.cat(parts).cpu().double().numpy()


def _hessian(
    points: BatchedPotential, loc: np.ndarray, scale: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """Hessian of minus the fixed-draw bound in (means, log scales), by central differences.

    A step of one parameter moves all draws, so that gradients suffice: two averages of them for
    each parameter.
    """
    size = len(loc)
    step = 1e-4

    def gradient(mean: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
        spread = scale * np.exp(log_scale)
        slopes = points(mean + spread * normals)[1]
        return np.concatenate([slopes.mean(0), (slopes * normals).mean(0) * spread - 1])

    zeros = np.zeros(size)
    out = np.empty((2 * size, 2 * size))
    for place in range(size):
        shift = np.zeros(size)
        shift[place] = step * scale[place]
        ahead, back = gradient(loc + shift, zeros), gradient(loc - shift, zeros)
        out[place] = (ahead - back) / (2 * shift[place])
        shift[place] = step
        ahead, back = gradient(loc, shift), gradient(loc, -shift)
        out[size + place] = (ahead - back) / (2 * step)
    return (out + out.T) / 2


def _slopes(
    points: BatchedPotential, loc: np.ndarray, scale: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, ...]]:
    """Return derivatives of the constrained means by (means, log scales), means, and labels."""
    theta = torch.cat([torch.from_numpy(loc), torch.zeros(len(loc), dtype=torch.float64)])
    theta.requires_grad_()
    size = len(loc)
    spread = torch.from_numpy(scale) * theta[size:].exp()
    draws: Tensor = theta[:size] + spread * torch.from_numpy(normals)
    trace = trace_program(points.problem.model, points.problem.data)
    means, found, labels = {}, [], []
    for name, (first, end, shape) in points.problem.places.items():
        transform = biject_to(trace.nodes[name]["fn"].support)
        value = transform(draws[:, first:end].reshape(-1, *shape)).mean(0)
        means[name] = value.detach().numpy()
        flat = value.flatten()
        found += list(flat)
        labels += [name] if flat.numel() == 1 else [f"{name}[{i}]" for i in range(flat.numel())]
    slopes = [torch.autograd.grad(v, theta, retain_graph=True)[0].numpy() for v in found]
    return np.stack(slopes), means, tuple(labels)
