"""Linear response: covariances of a mean-field fit, from how its means respond to a tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pyro.infer import autoguide
from torch import Tensor
from torch.distributions import biject_to

from ppl_zoo.core.display import Described
from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.functions import user_programs
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import quasi_normals
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import first_run
from ppl_zoo.core.tracing.sites import Program
from ppl_zoo.solvers.fixed_draws.families import read_location, read_scales
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential

__all__ = ["LinearResponse", "linear_response"]

#: step of the central differences of the Hessian, in standard deviations and in log scales
DIFFERENCE_STEP = 1e-4


@dataclass(frozen=True, repr=False)
class LinearResponse(Described):
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
    model: Model, rows: Rows, guide: Program | None, *, num_draws: int = 512, seed: int = 0
) -> LinearResponse:
    """Correct the covariance of a mean-field fit at its optimum.

    If the log posterior is tilted by ``t . f(z)``, the posterior means of f move by their
    covariance times t, to first order; the means of a fit do so up to their own error. Their
    derivative follows from the Hessian of the ELBO with fixed draws (Giordano, Broderick & Jordan
    2018, https://jmlr.org/papers/v19/17-670.html). Exact for a Gaussian.

    Parameters
    ----------
    model, rows, guide
        Those of a fit; the guide is an ``AutoNormal`` or ``AutoDiagonalNormal`` at its optimum.
    num_draws, seed
        Of the fixed draws.

    Raises
    ------
    QueryError
        If the guide is not mean field, or the fit has not converged to an optimum.
    """
    guide = user_programs(guide)[0]  # an object of the user's is wrapped
    if not isinstance(guide, (autoguide.AutoNormal, autoguide.AutoDiagonalNormal)):
        raise QueryError(
            f"linear response: got the guide {type(guide).__name__}, expected mean field "
            "(guide='normal'), the others have covariances of their own"
        )
    potential = BatchedPotential(model, rows)
    size, loc, scale = potential.size, read_location(guide), read_scales(guide)
    while num_draws < 4 * size:
        num_draws *= 2
    normals = quasi_normals(num_draws, size, seed, whiten=True).numpy()
    hessian = _hessian(potential, loc, scale, normals)
    jacobian, mean, labels = _jacobian_of_means(potential, loc, scale, normals)
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError as error:
        raise QueryError(
            "linear response: the bound is no maximum here; fit to convergence first"
        ) from error
    covariance = jacobian @ np.linalg.solve(hessian, jacobian.T)
    sd, first = {}, 0
    for name, value in mean.items():
        part = np.sqrt(np.diag(covariance)[first : first + value.size])
        sd[name], first = part.reshape(value.shape), first + value.size
    return LinearResponse(mean, sd, covariance, labels)


def _hessian(
    potential: BatchedPotential, loc: np.ndarray, scale: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """Hessian of minus the fixed-draw ELBO in (means, log scales), by central differences.

    Gradients of the potential suffice: two averages over the draws for each parameter.
    """
    size = len(loc)

    def gradient(mean: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
        sd = scale * np.exp(log_scale)
        gradients = potential(mean + sd * normals)[1]
        return np.concatenate([gradients.mean(0), (gradients * normals).mean(0) * sd - 1])

    zeros = np.zeros(size)
    out = np.empty((2 * size, 2 * size))
    for index in range(size):
        shift = np.zeros(size)
        shift[index] = DIFFERENCE_STEP * scale[index]
        ahead, back = gradient(loc + shift, zeros), gradient(loc - shift, zeros)
        out[index] = (ahead - back) / (2 * shift[index])
        shift[index] = DIFFERENCE_STEP
        ahead, back = gradient(loc, shift), gradient(loc, -shift)
        out[size + index] = (ahead - back) / (2 * DIFFERENCE_STEP)
    return (out + out.T) / 2


def _jacobian_of_means(
    potential: BatchedPotential, loc: np.ndarray, scale: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, ...]]:
    """Jacobian of the constrained means by (means, log scales); the means, and their labels."""
    theta = torch.cat([torch.from_numpy(loc), torch.zeros(len(loc), dtype=torch.float64)])
    theta.requires_grad_()
    size = len(loc)
    sd = torch.from_numpy(scale) * theta[size:].exp()
    draws: Tensor = theta[:size] + sd * torch.from_numpy(normals)
    trace = first_run(potential.problem.model, potential.problem.data)
    means, found, labels = {}, [], []
    for name, (first, end, shape) in potential.problem.places.items():
        transform = biject_to(trace.nodes[name]["fn"].support)
        value = transform(draws[:, first:end].reshape(-1, *shape)).mean(0)
        means[name] = value.detach().numpy()
        flat = value.flatten()
        found += list(flat)
        labels += [name] if flat.numel() == 1 else [f"{name}[{i}]" for i in range(flat.numel())]
    rows = [torch.autograd.grad(v, theta, retain_graph=True)[0].numpy() for v in found]
    return np.stack(rows), means, tuple(labels)
