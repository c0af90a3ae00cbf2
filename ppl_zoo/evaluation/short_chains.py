"""Short Markov chains begun at a guide's draws: do they stay where the guide puts them.

Hamiltonian Monte Carlo leaves the posterior as it is. Of draws that come from it, means and
standard deviations do not change, however long the chains; of draws that do not, they move
towards the posterior's, and tell how far off the guide is even where so few of its importance
weights count that these tell nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from pyro.infer.autoguide import AutoContinuous
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.random import chain_seed, fork_generators
from ppl_zoo.core.tracing.vectorize import over_draws
from ppl_zoo.diagnostics.verdicts import Drift
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential

__all__ = ["run_short_chains"]

#: chains; transitions of each, leapfrog steps of a transition, and transitions that set the step
NUM_CHAINS, NUM_TRANSITIONS, NUM_LEAPFROG, NUM_ADAPTED = 2048, 20, 8, 8
#: acceptance that the step aims at (Beskos et al. 2013, https://arxiv.org/abs/1001.4460)
TARGET_ACCEPTANCE = 0.8
#: a gradient is cut off there: the trajectory is lost in any case, and nothing shall overflow
MAX_GRADIENT = 1e100
#: draws a latent from which a covariance is estimated; with fewer only its diagonal is
DRAWS_PER_LATENT = 4
#: draws of the guide that its own moments are taken of
NUM_GUIDE_DRAWS = 2**13
#: correlation of a chain's end with its start, at most: the change is divided by 1 less it
MAX_CORRELATION = 0.999
#: numbers in the data that all chains may read, all in all
MAX_NUMBERS_READ = 1e11


def run_short_chains(fit: FittedModel) -> dict[str, Drift]:
    """Run a chain from each of some draws of a fit's guide, all at once.

    Returns
    -------
    dict
        The drift of each scalar ``"site[i, j]"``, on the model's own scale; empty where the guide
        has no unconstrained coordinates, the density is not compiled, or the data are too many.
    """
    guide = fit.guide
    if not isinstance(guide, AutoContinuous) or fit.rows is None:
        return {}
    try:
        potential = BatchedPotential(fit.model, fit.rows)
    except (DataError, RuntimeError, ValueError):
        return {}
    reads = potential.numbers_per_point * NUM_CHAINS * NUM_TRANSITIONS * NUM_LEAPFROG
    if reads > MAX_NUMBERS_READ or getattr(guide, "latent_dim", 0) != potential.size:
        return {}
    problem, centring = potential.problem, getattr(guide, "centring", None)
    if centring is not None:
        centring = centring.detach().cpu().double()
        potential = potential.centred(centring.numpy())
    with fork_generators(fit.model.device), torch.no_grad():
        torch.manual_seed(chain_seed(fit.seed, 0, -12))
        start = guide.get_posterior().sample((NUM_GUIDE_DRAWS,)).cpu().double()
        end = torch.from_numpy(_hamiltonian(potential, start[:NUM_CHAINS].numpy(), fit.seed))

        def values(point: dict[str, Tensor]) -> dict[str, Tensor]:
            return problem.values(point["z"], *problem.data, centring=centring)

        with problem.model.defaults():
            before, after = (
                over_draws(values, len(z), NUM_CHAINS, {"z": z}) for z in (start, end)
            )
    out = {}
    for site in problem.places:
        columns = before[site].reshape(len(start), -1).numpy()
        ends = after[site].reshape(len(end), -1).numpy()
        for place, index in enumerate(np.ndindex(before[site].shape[1:])):
            name = f"{site}[{', '.join(map(str, index))}]" if index else site
            every = columns[:, place]
            if np.ptp(every) > 0:
                out[name] = _drift(every, every[:NUM_CHAINS], ends[:, place])
    return out


def _drift(every: np.ndarray, start: np.ndarray, end: np.ndarray) -> Drift:
    """Compare moments of the guide with those of the chains' ends.

    A chain whose end correlates by r with its start has gone 1 - r of the way: the change is
    extrapolated, and the starts serve as control variates.
    """
    sd = float(end.std()) or 1.0
    centre = float(end.mean())
    errors, noises = [], []
    for power in (1, 2):
        guide, before, after = ((values - centre) ** power for values in (every, start, end))
        r = float(np.corrcoef(before, after)[0, 1]) if before.std() > 0 else 1.0
        r = min(max(r, 0.0), MAX_CORRELATION)
        controlled = (after - r * before) / (1.0 - r)
        errors.append(float(guide.mean() - controlled.mean()))
        noises.append(float(np.sqrt(controlled.var() / len(after) + guide.var() / len(guide))))
    variance = max(1.0 + (errors[1] - errors[0] ** 2) / sd**2, 0.0)
    return Drift(
        errors[0] / sd, noises[0] / sd, float(np.sqrt(variance)) - 1.0, noises[1] / (2 * sd**2)
    )


def _hamiltonian(potential: BatchedPotential, z: np.ndarray, seed: int) -> np.ndarray:
    """Hamiltonian Monte Carlo of all chains, in units of the draws' covariance; their ends."""
    rng = np.random.default_rng(chain_seed(seed, 0, -13))
    num, size = z.shape
    centre = z.mean(0)
    if num >= DRAWS_PER_LATENT * size:
        scale = np.linalg.cholesky(np.atleast_2d(np.cov(z.T)) + 1e-12 * np.eye(size))
    else:
        scale = np.diag(z.std(0) + 1e-12)
    x = np.linalg.solve(scale, (z - centre).T).T

    def energy(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(all="ignore"):
            value, gradient = potential(centre + at @ scale.T)
        bad = ~np.isfinite(value) | ~np.isfinite(gradient).all(1)
        gradient = np.where(bad[:, None], 0.0, gradient).clip(-MAX_GRADIENT, MAX_GRADIENT)
        return np.where(bad, np.inf, value), gradient @ scale

    step = 0.5 * size**-0.25
    value, gradient = energy(x)
    for transition in range(NUM_TRANSITIONS):
        momentum = rng.standard_normal(x.shape)
        # uneven steps, so that no trajectory closes on itself
        width = step * rng.uniform(0.7, 1.3, (num, 1))
        at, g = x, gradient
        p = momentum - 0.5 * width * g
        for leap in range(NUM_LEAPFROG):
            at = at + width * p
            new, g = energy(at)
            p = p - (width if leap + 1 < NUM_LEAPFROG else 0.5 * width) * g
        with np.errstate(all="ignore"):
            gain = value + 0.5 * (momentum**2).sum(1) - new - 0.5 * (p**2).sum(1)
        probability = np.exp(np.minimum(np.nan_to_num(gain, nan=-np.inf), 0.0))
        accepted = rng.uniform(size=num) < probability
        x, gradient = (np.where(accepted[:, None], *pair) for pair in ((at, x), (g, gradient)))
        value = np.where(accepted, new, value)
        if transition < NUM_ADAPTED:
            step *= np.exp((probability.mean() - TARGET_ACCEPTANCE) / np.sqrt(transition + 1))
    return centre + x @ scale.T
