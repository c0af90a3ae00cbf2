"""Sample-average approximation: variational inference with fixed draws.

With the same standard normals throughout, the sample average of the ELBO is a deterministic
function of the guide's parameters (Giordano, Ingram & Broderick 2024,
https://arxiv.org/abs/2304.05527; Burroni, Domke & Sheldon 2023,
https://arxiv.org/abs/2302.00847). L-BFGS, preconditioned by Laplace's approximation, maximises it
to the limit of the arithmetic. Fresh draws then estimate the ELBO; where the sample average
overestimates it, the number of draws is doubled. Where the guide is the zoo's to choose and few
draws of the best normal are effective, or another mode was found, a mixture of skewed normals
takes its place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import ConvergenceError
from ppl_zoo.core.functions import user_programs
from ppl_zoo.core.khat import smoothed_share
from ppl_zoo.core.model import Model
from ppl_zoo.core.random import chain_seed, fork_generators, quasi_normals, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.skewed_normal import SkewedComponent, SkewedNormal
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext
from ppl_zoo.solvers.fixed_draws.families import (
    Family,
    NormalGuide,
    family_of,
    read_location,
    site_names,
    write_parameters,
)
from ppl_zoo.solvers.fixed_draws.laplace import NormalApproximation, approximate
from ppl_zoo.solvers.fixed_draws.lbfgs import LBFGS
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential
from ppl_zoo.solvers.fixed_draws.skewed import mix, skew, weigh
from ppl_zoo.solvers.guides import (
    AutoNonCentredNormal,
    AutoSkewedNormal,
    GuideSpec,
    Pair,
    copy_guide,
    make_pair,
)
from ppl_zoo.solvers.loop import (
    Chain,
    pack_chains,
    pad_history,
    raise_if_all_diverged,
    run_chains,
)

__all__ = [
    "Choice",
    "FixedDrawsChain",
    "NoStartError",
    "solve_with_fixed_draws",
]

#: fixed draws to begin with, by engine: fewer where Pyro evaluates them one by one
NUM_DRAWS = {"xla": 512, "interpreted": 128}
#: draws are doubled at most so often, and where the sample average overestimates the ELBO by more
#: than so many nats
MAX_DOUBLINGS, MAX_OPTIMISM_NATS = 3, 0.02
#: the ELBO is reported from so many sets of fresh draws
NUM_FRESH_SETS = 8
#: fresh draws in each set, and numbers in the data that all of them may read
MIN_FRESH_DRAWS, MAX_FRESH_DRAWS, MAX_NUMBERS_READ = 64, 2048, 2**28
#: L-BFGS has converged when its decrement is below this, in nats or relative to the objective,
#: and the largest entry of the gradient is below its own bound
TOLERANCE_NATS, RELATIVE_TOLERANCE, MAX_GRADIENT = 1e-8, 1e-13, 1e-2
#: points that Laplace's approximation is tried from, by the first chain and by each other one
NUM_STARTS, NUM_STARTS_OF_RESTARTS = 4, 2
#: all of so many starts are tried for other modes where there are at most so many latents
NUM_STARTS_FOR_MODES, MAX_LATENTS_FOR_MODES = 8, 32
#: starts beside the chain's own are uniform within this of 0 on the unconstrained scale
START_RADIUS = 2.0
#: two starts found the same optimum where their ELBOs (nats) and means (sds) differ by less
SAME_OPTIMUM = 0.05
#: steps after which the coordinates of a hierarchy are scaled anew, by the guide as it stands
STEPS_TO_WHITEN = 50
#: a centring of 0 or 1 begins this far from its end, so that it can move
MIN_CENTRING = 0.1
#: steps of L-BFGS that each centring is tried with
MAX_TRIAL_STEPS = 100
#: latents of a hierarchy that are turned from centred to non-centred one by one, at most
MAX_TURNED = 8
#: the guide stays normal where so large a share of its draws is effective
ENOUGH_EFFECTIVE = 0.9
#: effective draws that a skewed guide is fitted to, at least
MIN_EFFECTIVE_DRAWS = 100.0
#: an optimum is another mode where it is so many sds away, by its own measure and the best one's,
#: and its evidence is within so many nats of the best one's
SDS_APART, MAX_NATS_BELOW = 3.0, 7.0
#: another mode lies within so many sds of where it was found; beyond, the fit has run down the
#: neck of a funnel, where differences round to 0 and the density seems to be without bound
MAX_DRIFT = 30.0
#: weighted draws of a skewed guide, and fixed draws of it a latent
NUM_WEIGHTED, DRAWS_PER_LATENT = 8192, 32
#: a log scale that exceeds Laplace's by this much means an improper posterior
MAX_LOG_WIDENING = 12.0
#: sds from the mean at which the density's tails are compared before a posterior is refused
TAIL_STEPS = (10.0, 1000.0)
#: the widening that these sds count at most, as a logarithm
MAX_LOG_STEP = 40.0


@dataclass
class Choice:
    """Objective of an SVI fit, and why it was chosen.

    Attributes
    ----------
    potential
        The potential energy for a fit with fixed draws; None for stochastic gradients.
    guide
        The guide as the user gave it, or the name of the default.
    reason
        In words.
    may_skew
        Whether a normal guide may give way to a mixture of skewed ones.
    """

    potential: BatchedPotential | None
    guide: GuideSpec
    reason: str
    may_skew: bool = False


class NoStartError(ConvergenceError):
    """No normal near any start has a finite ELBO."""


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
        If the posterior is improper, so that the ELBO has no maximum.
    """
    chains = []
    for index in range(restarts):
        seed = chain_seed(context.seed, index)
        set_seed(seed, rows.device)
        own = model
        if index > 0:
            own = model.fresh()
            own.load_state_dict(model.state_dict())
        guide = choice.guide if index == 0 else copy_guide(choice.guide)
        pair = make_pair(own, guide, rows, None, index)
        latents = list(site_names(user_programs(pair.guide)[0]))
        if latents != list(choice.potential.problem.places):
            raise NoStartError(f"the guide has the latents {latents} and not all of the model's")
        chain = FixedDrawsChain(
            index,
            own,
            pair.guide,
            seed=seed,
            potential=choice.potential,
            pair=pair,
            rows=rows,
            may_skew=choice.may_skew,
        )
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
        label=f"SVI {model.model_name}",
        context=context,
    )
    result = solution()
    raise_if_all_diverged(chains, result)
    return result


def _solution(chains: list[FixedDrawsChain], choice: Choice) -> Solution:
    """Solution of the chains as they stand."""
    for chain in chains:
        chain.write_guide()
    _make_alike(chains)
    tensors, values = pack_chains(chains)
    return Solution(
        parameters=stack_chains([read_parameters(c.model, c.guide) for c in chains]),
        history={"objective": pad_history(chains)},
        objective=np.array([c.final_objective for c in chains]),
        stopped=tuple(c.stopped or "interrupted" for c in chains),
        guide=chains[0].guide,
        summed_out=chains[0].pair.summed_out,
        engine=choice.potential.engine,
        state_tensors=tensors,
        state_values={"objective": "fixed-draws", "reason": choice.reason, **values},
    )


def _make_alike(chains: Sequence[FixedDrawsChain]) -> None:
    """Give all chains guides of one shape, where one has become a mixture of skewed normals."""
    skewed = [c for c in chains if isinstance(c.guide, AutoSkewedNormal)]
    if not skewed:
        return
    for chain in chains:
        if chain not in skewed and chain.optimizer is not None:
            chain.take(SkewedNormal.of([chain.component()], torch.zeros(1).double()))
    guides = [c.guide for c in chains if isinstance(c.guide, AutoSkewedNormal)]
    num_components = max(len(g.logits) for g in guides)
    for guide in guides:
        guide.set(guide.get_posterior().padded(num_components), guide.centring)


@dataclass
class _Place:
    """Where the optimizer stands at one centring."""

    potential: BatchedPotential
    start: NormalApproximation
    elbo: float


def _centring(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0)))


def _logits(centring: np.ndarray) -> np.ndarray:
    inside = np.clip(centring, 1e-9, 1.0 - 1e-9)
    return np.log(inside) - np.log1p(-inside)


@dataclass(kw_only=True)
class FixedDrawsChain(Chain):
    """Chain of a fit with fixed draws: one run of L-BFGS, from its start to an optimum.

    Attributes
    ----------
    seed
        Of the fixed draws and of the starts.
    potential, pair, rows
        The potential energy, model and guide as programs, and the data.
    start
        The best normal approximation near the starts; scales the coordinates.
    family, normals, optimizer
        The ELBO's sample average: the guide's family, the fixed normals ``(draw, size)``, and
        L-BFGS at work on it. None before the first step, as ``start``.
    may_skew, optima
        Whether the guide may become a mixture of skewed normals, and the optima that the starts
        led to.
    share
        Share of the guide's draws that are effective by their importance weights; NaN where the
        guide was asked for by name.
    elbo, elbo_error
        ELBO from fresh draws and its standard error, in nats; NaN until L-BFGS has converged.
    """

    seed: int
    potential: BatchedPotential
    pair: Pair
    rows: Rows
    start: NormalApproximation | None = None
    family: Family | None = None
    normals: Tensor | None = None
    optimizer: LBFGS | None = None
    may_skew: bool = False
    optima: list[NormalApproximation] = field(default_factory=list)
    elbo: float = np.nan
    elbo_error: float = np.nan
    share: float = np.nan

    @property
    def final_objective(self) -> float:
        """ELBO from fresh draws; before these, the last sample average; NaN without any."""
        if self.error is not None:
            return np.nan
        if np.isfinite(self.elbo):
            return self.elbo
        return self.objective[-1] if self.objective else np.nan

    @property
    def normal(self) -> NormalGuide:
        """The normal autoguide, without the program around an object of the user's."""
        return user_programs(self.pair.guide)[0]

    def begin(self) -> None:
        """Find a normal close to the posterior, and fix the draws."""
        if self.num_recentred:
            # its own: the chains share the potential, not the centring
            self.potential = self.potential.centred(np.ones(self.num_recentred))
        starts = self._starts()
        num_draws = NUM_DRAWS[self.potential.engine]
        normals = quasi_normals(
            self._sufficient(num_draws // 2), self.potential.size, self.seed, whiten=True
        )
        for z in starts:
            found = self._approximate(z, normals)
            if found is not None and any(_same_optimum(found, other) for other in self.optima):
                if not self.may_skew or self.potential.size > MAX_LATENTS_FOR_MODES:
                    break  # two starts found the same optimum: it is likely the only one
            elif found is not None:
                self.optima.append(found)
        best = max(self.optima, key=lambda normal: normal.elbo, default=None)
        if best is None:
            raise NoStartError(
                f"{self.model.model_name}: no normal near {len(starts)} starts has a finite "
                "bound; check the scale of the data and the support of the model"
            )
        self.start = best
        self.fix_draws(num_draws)
        if self.num_recentred:
            self._recentre(starts[0], normals)

    @property
    def num_recentred(self) -> int:
        """Latents of a hierarchy whose centring the guide chooses."""
        chosen = isinstance(self.normal, AutoNonCentredNormal)
        return len(self.potential.centring) if chosen else 0

    def _approximate(self, z: np.ndarray, normals: Tensor) -> NormalApproximation | None:
        return approximate(self.potential, self.potential.hessian, z, normals.numpy())

    def _recentre(self, first: np.ndarray, normals: Tensor) -> None:
        """Choose for each latent of a hierarchy whether it is centred, by the ELBO.

        All as written and all non-centred are compared after some steps of each, and then one
        after the other is turned.
        """
        count = len(self.potential.centring)
        self._try_steps()
        best = self._place()
        self._turn(np.zeros(count), first, normals)
        best = max(best, self._place(), key=lambda place: place.elbo)
        for row in np.eye(count) if 1 < count <= MAX_TURNED else ():
            self._return_to(best)
            self._turn(np.abs(best.potential.centring.round() - row), first, normals)
            if self._place().elbo > best.elbo + SAME_OPTIMUM:
                best = self._place()
        self._return_to(best)

    def _turn(self, centring: np.ndarray, first: np.ndarray, normals: Tensor) -> None:
        """Take some steps at another centring, from here or from the first point."""
        here = self.family.centre(self.theta).numpy()
        before = self.potential.centring
        self.potential = self.potential.centred(centring.clip(MIN_CENTRING, 1 - MIN_CENTRING))
        points = [self.potential.from_centring(here, before), first]
        found = [self._approximate(z, normals) for z in points if np.isfinite(z).all()]
        found = [normal for normal in found if normal is not None]
        if not found:
            self.optimizer.value = np.inf
            return
        self.start = max(found, key=lambda normal: normal.elbo)
        self.fix_draws(NUM_DRAWS[self.potential.engine])
        self._try_steps()

    def _try_steps(self) -> None:
        for _ in range(MAX_TRIAL_STEPS):
            if not self.optimizer.step() or self.optimizer.decrement < SAME_OPTIMUM / 10:
                break

    def _place(self) -> _Place:
        return _Place(
            self.potential.centred(self.centring), self._whitened(), -self.optimizer.value
        )

    @property
    def centring(self) -> np.ndarray:
        """How far each latent of a hierarchy is centred."""
        return _centring(self._split(self.optimizer.x)[1])

    def _whitened(self) -> NormalApproximation:
        """Return the guide as it stands, which gives better coordinates than the start."""
        theta = self.theta
        factor = np.ascontiguousarray(self.family.scale_tril(theta).numpy())
        return NormalApproximation(
            self.family.centre(theta).numpy(), factor, -float(self.optimizer.value)
        )

    def _return_to(self, place: _Place) -> None:
        self.potential, self.start = place.potential, place.start
        self.fix_draws(NUM_DRAWS[self.potential.engine])

    def _starts(self) -> list[np.ndarray]:
        """Points to start Newton's method from: the guide's own location, and random ones."""
        first = read_location(self.normal)
        rng = np.random.default_rng(chain_seed(self.seed, self.index))
        count = NUM_STARTS if self.index == 0 else NUM_STARTS_OF_RESTARTS
        if self.may_skew and len(first) <= MAX_LATENTS_FOR_MODES:
            count = NUM_STARTS_FOR_MODES
        radius = START_RADIUS
        return [first, *(rng.uniform(-radius, radius, first.shape) for _ in range(count - 1))]

    def fix_draws(self, num_draws: int, theta: np.ndarray | None = None) -> None:
        """Fix so many draws and start L-BFGS; at ``theta``, or at the normal approximation."""
        self.family = family_of(self.normal, self.start)
        size = self.family.num_normals
        num_draws = self._sufficient(num_draws, size)
        self.normals = quasi_normals(num_draws, size, self.seed, whiten=True)
        if theta is None:
            theta = self.family.start().numpy()
            if self.num_recentred:
                theta = np.concatenate([theta, _logits(self.potential.centring)])
        self.optimizer = LBFGS(self.negative_elbo, theta)

    def _sufficient(self, num_draws: int, size: int = 0) -> int:
        """Double a number of draws until they determine a covariance."""
        while num_draws < 4 * max(size, self.potential.size):
            num_draws *= 2
        return num_draws

    def negative_elbo(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the ELBO's sample average over the fixed draws, and its gradient."""
        theta, logits = self._split(theta)
        if len(logits):
            self.potential.centring = _centring(logits)
        leaf = torch.from_numpy(theta).clone().requires_grad_()
        with torch.enable_grad():
            draws, entropy = self.family.draw(leaf, self.normals)
            energies, gradients, by_centring = self.potential.at(draws.detach().numpy())
            with np.errstate(invalid="ignore", over="ignore"):
                value = float(energies.mean()) - entropy.item()
            if not (np.isfinite(value) and np.isfinite(gradients).all()):
                return np.inf, np.full(len(theta) + len(logits), np.nan)
            outer = (torch.from_numpy(gradients) / len(gradients), -torch.ones_like(entropy))
            (gradient,) = torch.autograd.grad((draws, entropy), leaf, outer)
        if not len(logits):
            return value, gradient.numpy()
        share = self.potential.centring
        by_logits = by_centring.mean(0) * share * (1.0 - share)
        return value, np.concatenate([gradient.numpy(), by_logits])

    def _split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Part the parameters of the family from the logits of the centring."""
        end = len(self.family.start())
        return theta[:end], theta[end:]

    @property
    def theta(self) -> Tensor:
        """Parameters of the family, where the optimizer stands."""
        theta, logits = self._split(self.optimizer.x)
        if len(logits):
            self.potential.centring = _centring(logits)  # a line search may have left another
        return torch.from_numpy(theta)

    def advance(self, max_steps: int) -> None:
        """Take one iteration of L-BFGS, and record the ELBO's sample average after it.

        Raises
        ------
        NoStartError
            If there is no start with a finite ELBO.
        ConvergenceError
            If the posterior is improper.
        """
        if self.optimizer is None:
            self.begin()
        optimizer = self.optimizer
        moved = optimizer.step()
        self.objective.append(-optimizer.value)
        if not np.isfinite(optimizer.value):
            raise NoStartError(f"{self.model.model_name}: the bound is not finite")
        self._refuse_improper()
        tolerance = max(TOLERANCE_NATS, RELATIVE_TOLERANCE * abs(optimizer.value))
        converged = not moved or optimizer.decrement < tolerance
        exhausted = len(self.objective) >= max_steps
        if not (converged or exhausted):
            if self.num_recentred and len(self.objective) % STEPS_TO_WHITEN == 0:
                self.start = self._whitened()
                self.fix_draws(len(self.normals))
            return
        self.elbo, self.elbo_error = self.fresh_elbo()
        if converged and self._needs_more_draws():
            if not exhausted:
                self.fix_draws(2 * len(self.normals), optimizer.x)
                return
            converged = False
        stationary = float(np.abs(optimizer.gradient).max()) <= MAX_GRADIENT
        if converged and stationary and self.may_skew:
            self._skew()
        self.stopped = "converged" if converged and stationary else "max_steps"

    def component(self) -> SkewedComponent:
        """Return the normal guide as it stands, as a component without leading directions."""
        normal = self._whitened()
        mean, factor = torch.from_numpy(normal.mean), torch.from_numpy(normal.factor)
        return SkewedComponent.of_normal(mean, factor, torch.eye(len(mean)).double(), 0)

    def _skew(self) -> None:
        """Turn to a mixture of skewed normals where it has more effective draws, or more modes."""
        num_draws = NUM_WEIGHTED
        while num_draws * self.potential.numbers_per_point > MAX_NUMBERS_READ and num_draws > 1024:
            num_draws //= 2
        num_fixed = self._sufficient(num_draws // 4, DRAWS_PER_LATENT // 4 * self.potential.size)
        normals = [self._whitened(), *self._other_modes()]
        components, found = [], []
        for index, normal in enumerate(normals):
            seed = chain_seed(self.seed, self.index, index + 2 + NUM_FRESH_SETS)
            mean, factor = torch.from_numpy(normal.mean), torch.from_numpy(normal.factor)
            unit = torch.eye(len(mean), dtype=torch.float64)
            component = SkewedComponent.of_normal(mean, factor, unit, 0)
            weighted = weigh(self.potential, component, num_draws, seed)
            if weighted.share < ENOUGH_EFFECTIVE:
                other, again = skew(self.potential, normal, num_fixed, num_draws, seed)
                if again.share > max(weighted.share, MIN_EFFECTIVE_DRAWS / num_draws):
                    component, weighted = other, again
            components.append(component)
            found.append(weighted)
        self.share = found[0].share
        if len(components) == 1 and components[0].num_directions == 0:
            return
        self.take(mix(components, found))
        weights = self._log_weights(num_draws)
        self.share = smoothed_share(weights)
        self.elbo = float(weights.mean())
        self.elbo_error = float(weights.std()) / math.sqrt(len(weights))

    def _log_weights(self, num_draws: int) -> Tensor:
        """Log importance weights of draws of a skewed guide."""
        density = self.guide.get_posterior()
        with fork_generators(torch.device("cpu")):
            set_seed(chain_seed(self.seed, self.index, 1), torch.device("cpu"))
            draws = density.sample((num_draws,)).double()
        return -torch.from_numpy(self.potential(draws.numpy())[0]) - density.log_prob(draws)

    def _other_modes(self) -> list[NormalApproximation]:
        """Fit a normal to each other mode that the starts led to, near the best one's height."""
        here = self._whitened()
        potential, start, optimizer = self.potential, self.start, self.optimizer
        family, normals = self.family, self.normals
        found = [here]
        written = np.ones(len(potential.centring))
        for optimum in sorted(self.optima, key=lambda normal: -normal.elbo):
            mean = optimum.mean
            if len(written):
                mean = potential.from_centring(mean, written)
            if optimum.elbo < here.elbo - MAX_NATS_BELOW or not _apart(optimum, mean, found):
                continue
            self.start = self._approximate(mean, normals) if len(written) else optimum
            if self.start is None:
                continue
            self.family = family_of(self.normal, self.start)
            self.optimizer = LBFGS(self.negative_elbo, self.family.start().numpy())
            self._try_steps()  # the centring stays that of the best mode
            other = self._whitened()
            high = other.elbo > here.elbo - MAX_NATS_BELOW
            drift = np.linalg.solve(optimum.factor, other.mean - mean)
            stayed = float(np.abs(drift).max()) < MAX_DRIFT
            if high and stayed and _apart(other, other.mean, found):
                found.append(other)
        self.potential, self.start, self.optimizer = potential, start, optimizer
        self.family, self.normals = family, normals
        return found[1:]

    def take(self, density: SkewedNormal) -> None:
        """Take a mixture of skewed normals as the guide."""
        self._become_skewed(len(density.logits))
        self.guide.set(density, torch.from_numpy(self.potential.centring))

    def _become_skewed(self, num_components: int) -> None:
        spec = functools.partial(AutoSkewedNormal, num_components=num_components)
        self.guide = make_pair(self.model, spec, self.rows, None, self.index).guide

    def _needs_more_draws(self) -> bool:
        """Whether the sample average overestimates the ELBO, and draws may be doubled."""
        optimism = -self.optimizer.value - self.elbo
        num_draws = self._sufficient(NUM_DRAWS[self.potential.engine], self.family.num_normals)
        return (
            optimism > MAX_OPTIMISM_NATS + 2 * self.elbo_error
            and len(self.normals) < num_draws * 2**MAX_DOUBLINGS
        )

    def fresh_elbo(self) -> tuple[float, float]:
        """ELBO in nats from draws other than the fixed ones, and its standard error."""
        theta = self.theta
        found = []
        num_draws = MIN_FRESH_DRAWS
        numbers = NUM_FRESH_SETS * self.potential.numbers_per_point
        while num_draws < MAX_FRESH_DRAWS and 2 * num_draws * numbers <= MAX_NUMBERS_READ:
            num_draws *= 2
        for index in range(NUM_FRESH_SETS):
            seed = chain_seed(self.seed, self.index, index + 1)
            normals = quasi_normals(num_draws, self.family.num_normals, seed)
            draws, entropy = self.family.draw(theta, normals)
            # the normals' own log density as a control variate: no noise at the exact posterior
            excess = 0.5 * (normals.square().sum(1).mean().item() - normals.shape[1])
            with np.errstate(invalid="ignore", over="ignore"):
                energy = self.potential(draws.numpy())[0].mean()
                found.append(entropy.item() + excess - energy)
        return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(NUM_FRESH_SETS))

    def _refuse_improper(self) -> None:
        """Refuse a posterior over which the guide widens without limit."""
        size = self.family.size
        log_widening = self.optimizer.x[size : 2 * size]
        if log_widening.max() < MAX_LOG_WIDENING:
            return
        widest = int(log_widening.argmax())
        if self._falls_off(widest, float(log_widening[widest])):
            return  # the start was narrow, in the neck of a funnel
        places = self.potential.problem.places
        site = next(name for name, (first, end, _) in places.items() if first <= widest < end)
        raise ConvergenceError(
            f"{self.model.model_name}: the posterior of {site!r} widens without end; is it "
            "proper? A flat prior needs data that say where the latent lies"
        )

    def _falls_off(self, coordinate: int, log_widening: float) -> bool:
        """Whether the density falls faster than 1/t on both sides along a coordinate."""
        centre = self.family.centre(self.theta).numpy()
        direction = self.start.factor[:, coordinate] * math.exp(min(log_widening, MAX_LOG_STEP))
        near, far = TAIL_STEPS
        steps = np.array([-far, -near, near, far])[:, None] * direction
        with np.errstate(all="ignore"):
            energies = np.nan_to_num(self.potential(centre + steps)[0], nan=np.inf)
        excess = math.log(far / near)
        below, above = energies[0] - energies[1], energies[3] - energies[2]
        return bool(all(not np.isfinite(rise) or rise > excess for rise in (below, above)))

    def write_guide(self) -> None:
        """Set the guide's parameters to the current ones."""
        if self.optimizer is not None and not isinstance(self.guide, AutoSkewedNormal):
            write_parameters(self.normal, self.family, self.theta)
            if isinstance(self.normal, AutoNonCentredNormal):
                self.normal.centring.copy_(torch.from_numpy(self.potential.centring))

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that resuming takes, beside the parameters."""
        if self.optimizer is None:
            return {}, {"num_draws": 0}
        optimizer = self.optimizer
        arrays = {"mean": self.start.mean, "factor": self.start.factor, "theta": optimizer.x}
        if self.num_recentred:
            arrays["centring"] = self.potential.centring
        if optimizer.steps:
            arrays |= {"steps": np.stack(optimizer.steps), "changes": np.stack(optimizer.changes)}
        values = {"num_draws": len(self.normals), "elbo": None, "elbo_error": None}
        if np.isfinite(self.elbo):
            values |= {"elbo": self.elbo, "elbo_error": self.elbo_error}
        if np.isfinite(self.share):
            values["share"] = self.share
        return {k: torch.from_numpy(v.copy()) for k, v in arrays.items()}, values

    def restore(self, resume: Solution) -> None:
        """Go on from where a solution stands."""
        if "guide.logits" in resume.parameters:
            self._become_skewed(resume.parameters["guide.logits"].shape[1])
        tensors, values = self.load_solution(resume)
        if not values["num_draws"]:
            return
        held = {k: v.cpu().clone().numpy() for k, v in tensors.items()}
        if len(held.get("centring", ())):
            self.potential = self.potential.centred(held["centring"])
        self.start = NormalApproximation(held["mean"], held["factor"], np.nan)
        self.fix_draws(values["num_draws"], held["theta"])
        self.optimizer.steps = list(held.get("steps", ()))
        self.optimizer.changes = list(held.get("changes", ()))
        if values["elbo"] is not None:
            self.elbo, self.elbo_error = values["elbo"], values["elbo_error"]
        self.share = values.get("share", np.nan)


def _apart(
    normal: NormalApproximation, mean: np.ndarray, others: Sequence[NormalApproximation]
) -> bool:
    """Whether a normal of this mean lies far from all others, by its own sds and by theirs."""
    return all(
        np.abs(np.linalg.solve(factor, mean - other.mean)).max() > SDS_APART
        for other in others
        for factor in (normal.factor, other.factor)
    )


def _same_optimum(one: NormalApproximation, other: NormalApproximation) -> bool:
    apart = np.linalg.solve(one.factor, other.mean - one.mean)
    close = abs(one.elbo - other.elbo) < SAME_OPTIMUM
    return bool(close and np.abs(apart).max() < SAME_OPTIMUM)
