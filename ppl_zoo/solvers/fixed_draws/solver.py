"""SVI with fixed draws: the bound averaged over the same normals throughout is a plain function.

Sample-average approximation (Giordano, Ingram & Broderick 2024, https://arxiv.org/abs/2304.05527;
Burroni, Domke & Sheldon 2023, https://arxiv.org/abs/2302.00847). A deterministic objective can be
climbed by a quasi-Newton method to its very top, in coordinates that Laplace's approximation has
evened out. Fresh draws then say what the bound really is; where the fixed ones flattered it,
their number is doubled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, load_chain, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext
from ppl_zoo.solvers.fixed_draws.families import Family, family_of, location, write
from ppl_zoo.solvers.fixed_draws.laplace import Normal, approximate
from ppl_zoo.solvers.fixed_draws.lbfgs import LBFGS
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential
from ppl_zoo.solvers.guides import make_pair
from ppl_zoo.solvers.loop import (
    Chain,
    pad_history,
    past_objective,
    raise_if_all_diverged,
    run_chains,
)

__all__ = ["FixedDrawsChain", "NoStartError", "quasi_normals", "solve_with_fixed_draws"]


@dataclass
class Choice:
    """How to climb, and why.

    Attributes
    ----------
    points
        The potential energy for a fit with fixed draws; None for stochastic gradients.
    guide
        The guide's name or class.
    reason
        In words.
    """

    points: BatchedPotential | None
    guide: Any
    reason: str


def solve_with_fixed_draws(
    choice: Choice,
    model: Model,
    rows: Rows,
    context: FitContext,
    *,
    restarts: int,
    steps: int,
) -> Solution:
    """Fit the guide of each chain.

    Raises
    ------
    NoStartError
        If no chain finds a start.
    ConvergenceError
        If the bound has no end.
    """
    chains = []
    for index in range(restarts):
        seed = chain_seed(context.seed, index)
        set_seed(seed, rows.device)
        own = model
        if index > 0:
            own = model.fresh()
            own.load_state_dict(model.state_dict())
        pair = make_pair(own, choice.guide, rows, None, index)
        chain = FixedDrawsChain(index, own, pair.guide, seed=seed, points=choice.points, pair=pair)
        if context.resume is not None:
            chain.restore(context.resume)
        chains.append(chain)

    def solution() -> Solution:
        return _solution(chains, choice)

    def advance(active: Sequence[FixedDrawsChain]) -> int:
        for chain in active:
            try:
                chain.advance(steps)
            except ConvergenceError as error:
                chain.stopped, chain.error = "diverged", error
        return 1

    run_chains(
        chains,
        advance,
        solution,
        max_steps=steps,
        label=f"SVI {type(model).__name__}",
        context=context,
    )
    result = solution()
    raise_if_all_diverged(chains, result)
    return result


def _solution(chains: list[FixedDrawsChain], choice: Choice) -> Solution:
    tensors, values = {}, {"objective": "fixed-draws", "reason": choice.reason}
    for chain in chains:
        chain.write()
        packed, values[str(chain.index)] = chain.pack()
        tensors |= {f"{chain.index}.{k}": v for k, v in packed.items()}
    last = [c.objective[-1] if c.objective else np.nan for c in chains]
    return Solution(
        parameters=stack_chains([read_parameters(c.model, c.guide) for c in chains]),
        history={"objective": pad_history(chains)},
        objective=np.array(
            [
                np.nan if c.error is not None else c.elbo if np.isfinite(c.elbo) else end
                for c, end in zip(chains, last, strict=True)
            ]
        ),
        stopped=tuple(c.stopped or "interrupted" for c in chains),
        guide=chains[0].guide,
        summed_out=chains[0].pair.summed_out,
        engine=choice.points.engine,
        state_tensors=tensors,
        state_values=values,
    )


# ---- One climb of the bound with fixed draws, from its start to its top.

#: draws to begin with, fewer where Pyro runs them one by one
DRAWS = {"xla": 512, "interpreted": 128}
#: times that their number may be doubled, where they flatter the bound by so many nats
DOUBLINGS, FLATTERY = 3, 0.02
#: sets of fresh draws that the bound is reported from, draws in each, and numbers of data that
#: they may read together
SETS, FRESH, READ = 8, (64, 2048), 2**28
#: a climb has arrived when less than this is left to gain, in nats
LEFT = 1e-8
#: starts of the first chain
STARTS = 4
#: a scale that is this many times e wider than Laplace's has no end
WIDEST = 12.0


class NoStartError(ConvergenceError):
    """No normal near any start has a finite bound."""


@dataclass
class FixedDrawsChain(Chain):
    """A climb from one start."""

    seed: int = 0
    points: BatchedPotential | None = None
    pair: Any = None
    start: Normal | None = None
    family: Family | None = None
    normals: Tensor | None = None
    climber: LBFGS | None = None
    elbo: float = np.nan
    elbo_error: float = np.nan
    kept: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Find a normal close to the posterior and set the climb up."""
        starts = _starts(location(self.guide), self.index, self.seed)
        num_draws = DRAWS[self.points.engine]
        normals = quasi_normals(self._enough(num_draws // 2), self.points.size, self.seed, True)
        best: Normal | None = None
        for z in starts:
            found = approximate(self.points, self.points.hessian, z, normals.numpy())
            if found is not None and best is not None and _same(found, best):
                break  # two roads lead there
            if found is not None and (best is None or found.elbo > best.elbo):
                best = found
        if best is None:
            raise NoStartError(
                f"{type(self.model).__name__}: no normal near {len(starts)} starts has a finite "
                "bound; check the scale of the data and the support of the model"
            )
        self.start = best
        self.set_up(num_draws)

    def set_up(self, num_draws: int, theta: np.ndarray | None = None) -> None:
        """Fix so many draws; ``theta`` is where the climb goes on."""
        self.family = family_of(self.guide, self.start)
        size = self.family.num_normals
        self.normals = quasi_normals(self._enough(num_draws, size), size, self.seed, True)
        theta = self.family.start().numpy() if theta is None else theta
        self.climber = LBFGS(self.negative_bound, theta)

    def _enough(self, num_draws: int, size: int = 0) -> int:
        while num_draws < 4 * max(size, self.points.size):  # fewer do not pin a covariance down
            num_draws *= 2
        return num_draws

    def negative_bound(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the average bound of the fixed draws, and its gradient."""
        leaf = torch.from_numpy(theta).clone().requires_grad_()
        with torch.enable_grad():
            draws, entropy = self.family.draw(leaf, self.normals)
            energies, slopes = self.points(draws.detach().numpy())
            with np.errstate(invalid="ignore", over="ignore"):
                value = float(energies.mean()) - entropy.item()
            if not (np.isfinite(value) and np.isfinite(slopes).all()):
                return np.inf, np.full_like(theta, np.nan)
            outer = (torch.from_numpy(slopes) / len(slopes), -torch.ones_like(entropy))
            (gradient,) = torch.autograd.grad((draws, entropy), leaf, outer)
        return value, gradient.numpy()

    def advance(self, max_steps: int) -> None:
        """Take one iteration; notes the bound after it."""
        if self.climber is None:
            self.begin()
        climber = self.climber
        moved = climber.step()
        self.objective.append(-climber.value)
        if not np.isfinite(climber.value):
            raise NoStartError(f"{type(self.model).__name__}: the bound is not finite")
        self._look_for_an_end()
        left = max(LEFT, 1e-13 * abs(climber.value))
        arrived = not moved or climber.decrement < left
        if not arrived and len(self.objective) < max_steps:
            return
        self.elbo, self.elbo_error = self.fresh_bound()
        flattered = -climber.value - self.elbo > FLATTERY + 2 * self.elbo_error
        most = self._enough(DRAWS[self.points.engine], self.family.num_normals) * 2**DOUBLINGS
        if arrived and flattered and len(self.normals) < most:
            if len(self.objective) < max_steps:
                self.set_up(2 * len(self.normals), climber.x)
                return
            arrived = False
        steep = float(np.abs(climber.gradient).max()) > 1e-2
        self.stopped = "converged" if arrived and not steep else "max_steps"

    def fresh_bound(self) -> tuple[float, float]:
        """Bound in nats from draws that the climb has not seen, and its standard error."""
        theta = torch.from_numpy(self.climber.x)
        found = []
        width = FRESH[0]
        while width < FRESH[1] and 2 * width * SETS * self.points.numbers <= READ:
            width *= 2
        for index in range(SETS):
            seed = chain_seed(self.seed, self.index, index + 1)
            normals = quasi_normals(width, self.family.num_normals, seed)
            draws, entropy = self.family.draw(theta, normals)
            # the normals' own log density as a control variate: no noise at the exact posterior
            excess = 0.5 * (normals.square().sum(1).mean().item() - normals.shape[1])
            with np.errstate(invalid="ignore", over="ignore"):
                found.append(entropy.item() + excess - self.points(draws.numpy())[0].mean())
        return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(SETS))

    def _look_for_an_end(self) -> None:
        """Refuse a posterior that the family spreads over without end."""
        size = self.family.size
        widths = self.climber.x[size : 2 * size]
        if widths.max() < WIDEST:
            return
        place = int(widths.argmax())
        places = self.points.problem.places
        site = next(name for name, (first, end, _) in places.items() if first <= place < end)
        raise ConvergenceError(
            f"{type(self.model).__name__}: the posterior of {site!r} widens without end; is it "
            "proper? A flat prior needs data that say where the latent lies"
        )

    def write(self) -> None:
        """Put the parameters into the guide."""
        if self.climber is not None:
            write(self.guide, self.family, torch.from_numpy(self.climber.x))

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what resuming takes."""
        if self.climber is None:
            return {}, {"num_draws": 0}
        climber = self.climber
        arrays = {"mean": self.start.mean, "factor": self.start.factor, "theta": climber.x}
        if climber.steps:
            arrays |= {"steps": np.stack(climber.steps), "changes": np.stack(climber.changes)}
        values = {"num_draws": len(self.normals), "elbo": None, "elbo_error": None}
        if np.isfinite(self.elbo):
            values |= {"elbo": self.elbo, "elbo_error": self.elbo_error}
        return {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, values

    def restore(self, resume: Solution) -> None:
        """Go on from where a solution stands."""
        load_chain(self.model, self.guide, resume.parameters, self.index)
        self.objective = past_objective(resume, self.index)
        if resume.stopped[self.index] == "converged":
            self.stopped = "converged"
        prefix = f"{self.index}."
        held = {
            k.removeprefix(prefix): v.cpu().clone().numpy()
            for k, v in resume.state_tensors.items()
            if k.startswith(prefix)
        }
        values = resume.state_values[str(self.index)]
        if not values["num_draws"]:
            return
        self.start = Normal(held["mean"], held["factor"], np.nan)
        self.set_up(values["num_draws"], held["theta"])
        self.climber.steps = list(held.get("steps", ()))
        self.climber.changes = list(held.get("changes", ()))
        if values["elbo"] is not None:
            self.elbo, self.elbo_error = values["elbo"], values["elbo_error"]


def _starts(first: np.ndarray, index: int, seed: int) -> list[np.ndarray]:
    """Choose where to look: chains from their own starts, the first one from several."""
    rng = np.random.default_rng(chain_seed(seed, index))
    count = STARTS if index == 0 else 2
    return [first, *(rng.uniform(-2, 2, first.shape) for _ in range(count - 1))]


def _same(one: Normal, other: Normal) -> bool:
    apart = np.linalg.solve(one.factor, other.mean - one.mean)
    return bool(abs(one.elbo - other.elbo) < 0.05 and np.abs(apart).max() < 0.05)


# ---- Standard normals that fill space evenly.


def quasi_normals(num_draws: int, size: int, seed: int, whiten: bool = False) -> Tensor:
    """Return scrambled Sobol normals and their mirror images, ``(num_draws, size)``, float64.

    Parameters
    ----------
    num_draws
        Even; half of them are drawn, the others are their negatives, so that odd moments are 0.
    size
        Dimensions, fewer than half of ``num_draws`` if they are to be whitened.
    seed
        Of the scrambling (Owen 1998, https://doi.org/10.1006/jcom.1998.0487).
    whiten
        Make the second moments the identity exactly, too. Averages of quadratics are then exact,
        and so is the optimum of a fit to a Gaussian.
    """
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed % 2**31)
    uniform = engine.draw(num_draws // 2, dtype=torch.float64)
    normals = math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-10, 1 - 1e-10) - 1)
    if whiten:
        moments = normals.T @ normals / len(normals)
        factor = torch.linalg.cholesky(moments)
        normals = torch.linalg.solve_triangular(factor, normals.T, upper=False).T
    return torch.cat([normals, -normals])
