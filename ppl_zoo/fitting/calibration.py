"""Simulation-based calibration (SBC): the ranks of true values among posterior draws.

Two tests of the ranks: that they are uniform (SBC), and the cheaper one that they are symmetric
about the middle (variational SBC), which asks for an unbiased posterior of any width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from ppl_zoo.core.display import html_table, html_text
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.random import chain_seed, fork_generators, set_seed
from ppl_zoo.core.solver import Solver
from ppl_zoo.core.tracing import describe, simulate
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit_many

__all__ = ["Calibration", "calibrate"]

#: simulations that are fitted in one batch
SIMULATIONS_PER_BATCH = 50
#: tests of the ranks
METHODS = ("sbc", "vsbc")
#: level of all tests of one calibration together
LEVEL = 0.05
#: random signs that the p-value of a symmetry test comes from
NUM_SIGNS = 4000


@dataclass(frozen=True, repr=False)
class Calibration:
    """Ranks of true values among posterior draws.

    Attributes
    ----------
    ranks
        ``{scalar: (simulation,)}``, from 0 to ``num_draws``; uniform if the solver is calibrated.
    num_draws
        Posterior draws that each true value was ranked among.
    failed
        Simulations whose fit ended in an error; they are left out.
    refused
        Simulations that :class:`ppl_zoo.Auto` had no answer to that holds. They are left out as
        well: given the data, the truth has the posterior's distribution whatever the solver says
        of itself, so that ranks of the others are uniform all the same.
    method
        "sbc" or "vsbc", the test of the verdict.
    """

    ranks: dict[str, np.ndarray]
    num_draws: int
    failed: int = 0
    refused: int = 0
    method: str = "sbc"

    def ecdf_difference(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Grid on (0, 1), and the distribution function of the ranks minus it."""
        fractions = (self.ranks[name] + 0.5) / (self.num_draws + 1)
        grid = np.linspace(0, 1, self.num_draws + 2)[1:-1]
        return grid, (fractions[:, None] <= grid).mean(0) - grid

    def band(self, level: float = 0.95) -> np.ndarray:
        """Half width of the band that all of a uniform curve lies in with this probability.

        Simultaneous, as Sailynoja et al. 2022 (https://arxiv.org/abs/2103.10522), found by
        simulating uniform ranks.
        """
        num = len(next(iter(self.ranks.values())))
        rng = np.random.default_rng(0)
        grid = np.linspace(0, 1, self.num_draws + 2)[1:-1]
        width = np.sqrt(grid * (1 - grid) / num)
        ranks = rng.integers(0, self.num_draws + 1, (1000, num))
        fractions = np.sort((ranks + 0.5) / (self.num_draws + 1), axis=1)
        curves = np.stack([np.searchsorted(row, grid, side="right") for row in fractions]) / num
        return width * np.quantile(np.abs((curves - grid) / width).max(1), level)

    def symmetry(self, name: str) -> float:
        """P-value of a Kolmogorov-Smirnov test that the ranks are symmetric about the middle.

        The distance is that of the distribution functions of the fractions p and 1 - p; its
        distribution is exact, by random signs of p - 1/2 (Butler 1969, A test for symmetry using
        the sample distribution function, https://doi.org/10.1214/aoms/1177697401).
        """
        offsets = self.ranks[name] - self.num_draws / 2
        heights, places = np.unique(np.abs(offsets), return_inverse=True)
        rng = np.random.default_rng(0)
        signs = rng.choice([-1.0, 1.0], (NUM_SIGNS, len(offsets)))
        # what lies to the right less what lies to the left, from the outside in
        distances = []
        for sign in (np.sign(offsets)[None], signs * (offsets != 0)):
            steps = np.zeros((len(sign), len(heights)))
            np.add.at(steps, (slice(None), places), sign)
            distances.append(np.abs(steps[:, ::-1].cumsum(1)).max(1))
        (own,), drawn = distances
        return float((1 + (drawn >= own).sum()) / (1 + NUM_SIGNS))

    @property
    def verdict(self) -> tuple[str, ...]:
        """What is wrong, in words; empty where nothing is.

        By SBC where a curve leaves its band; by VSBC where ranks are not symmetric.
        """
        if self.method == "vsbc":
            return self._asymmetric()
        found = []
        # one level for all scalars together (Bonferroni), so that many do not cry wolf
        band = self.band(1 - LEVEL / len(self.ranks))
        for name, ranks in self.ranks.items():
            _, curve = self.ecdf_difference(name)
            if not (np.abs(curve) > band).any():
                continue
            centred = (ranks + 0.5) / (self.num_draws + 1) - 0.5
            excess = (12 * centred.var() - 1) / math.sqrt(0.8 / len(ranks))  # in standard errors
            # ranks that lie at both ends have a mean that wanders further
            shift = centred.mean() * math.sqrt(len(ranks)) / max(12**-0.5, centred.std())
            how = []
            if excess > 3:
                how.append("are too narrow: overconfident")
            if abs(shift) > 3:
                how.append("lie too low" if shift > 0 else "lie too high")
            if not how:
                how.append("are too wide" if excess < 0 else "are too narrow: overconfident")
            found.append(f"posteriors of {name} {', and '.join(how)}")
        return tuple(found)

    def _asymmetric(self) -> tuple[str, ...]:
        """Name the scalars whose posteriors lie to one side of the truth."""
        found = []
        for name, ranks in self.ranks.items():
            p = self.symmetry(name)
            if p < LEVEL / len(self.ranks):
                side = "low" if ranks.mean() > self.num_draws / 2 else "high"
                found.append(f"posteriors of {name} lie too {side} (p = {p:.2g})")
        return tuple(found)

    def __repr__(self) -> str:
        """Write what was simulated, and how many scalars are off."""
        num = len(next(iter(self.ranks.values()), ()))
        return (
            f"Calibration({len(self.ranks)} scalars, {num} simulations, {self.num_draws} draws "
            f"each; {len(self.verdict)} findings)"
        )

    def _repr_html_(self) -> str:
        """Show what was found."""
        return html_table(repr(self), {}, html_text("verdict", str(self)))

    def __str__(self) -> str:
        """Summarise in words."""
        num = len(next(iter(self.ranks.values())))
        head = f"{num} simulations, {self.num_draws} draws each"
        head += f", {self.failed} failed" if self.failed else ""
        head += f", {self.refused} refused" if self.refused else ""
        passed = "calibrated" if self.method == "sbc" else "no bias found; widths were not tested"
        return "\n".join([head, *(f"! {v}" for v in self.verdict)] + [passed] * (not self.verdict))

    def plot(self) -> Any:
        """Draw each scalar's distribution function less the uniform one, with the band."""
        from ppl_zoo.diagnostics.plots.checks import plot_ranks

        return plot_ranks(self)


@one_at_a_time
def calibrate(
    model: Model,
    data: Any,
    solver: Solver | None = None,
    num_simulations: int = 200,
    *,
    method: str = "sbc",
    num_draws: int = 99,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Fit data simulated from the model's own prior, and rank the truth among posterior draws.

    Parameters
    ----------
    model
        A model whose latents have proper priors.
    data
        Arguments of the model, for shapes and inputs; what is observed is simulated anew.
    solver
        As for :func:`ppl_zoo.fit`. What compiles is compiled once for all simulations, and NUTS
        and SVI with stochastic gradients take the steps of many simulations side by side.
    num_simulations
        Number of data sets.
    method
        "sbc" tests that the ranks are uniform: that posteriors have the right place, width and
        shape. "vsbc" (variational SBC) tests that they are symmetric about the middle, which
        finds a guide whose centre is off, by some 50 simulations; a guide that is too narrow or
        too wide passes, as mean field often is.
    num_draws
        Posterior draws to rank among.

    Returns
    -------
    Calibration

    Raises
    ------
    DataError
        If nothing among the data is observed.

    References
    ----------
    Talts et al. 2018, Validating Bayesian inference algorithms with simulation-based calibration,
    https://arxiv.org/abs/1804.06788. Yao et al. 2018, Yes, but did it work? Evaluating
    variational inference, https://arxiv.org/abs/1802.02538.
    """
    if method not in METHODS:
        raise ValueError(f"calibrate: got method={method!r}, expected one of {METHODS}")
    rows = model.as_rows(getattr(data, "train", data)).all()
    observed = model.observed_arguments(*rows)
    if not observed:
        raise DataError(f"{model.model_name} observes none of its arguments")
    ranks: dict[str, list[int]] = {}
    failed = refused = 0
    with tqdm(total=num_simulations, desc="calibrate", disable=None if progress else True) as bar:
        for first in range(0, num_simulations, SIMULATIONS_PER_BATCH):
            numbers = range(first, min(first + SIMULATIONS_PER_BATCH, num_simulations))
            truths = [_simulated(model, rows, seed, number) for number in numbers]
            tables = [
                tuple(
                    truth[observed[name]] if name in observed else given
                    for name, given in zip(model.argument_names, rows, strict=False)
                )
                for truth in truths
            ]
            for truth, done in zip(
                truths, fit_many(model, tables, solver, seed=seed + first), strict=True
            ):
                bar.update()
                if done is None:
                    failed += 1
                    continue
                if done.ladder and not done.ladder[-1].holds:
                    refused += 1
                    continue
                for label, rank in _ranks(done, truth, num_draws):
                    ranks.setdefault(label, []).append(rank)
    if not ranks:
        raise DataError(
            f"no simulation gave ranks ({failed} of {num_simulations} fits failed, {refused} were "
            "refused)"
        )
    found = {k: np.array(v) for k, v in ranks.items()}
    return Calibration(found, num_draws, failed, refused, method)


def _simulated(model: Model, rows: tuple, seed: int, number: int) -> dict[str, Tensor]:
    with fork_generators(model.device), model.defaults():
        set_seed(chain_seed(seed, number), model.device)
        return simulate(model, rows)


def _ranks(done: Fit, truth: dict[str, Tensor], num_draws: int) -> Iterator[tuple[str, int]]:
    """Rank each true scalar among the draws of its posterior."""
    draws = _thinned(done, num_draws)
    with done.model.defaults():
        program = poutine.condition(done.model, truth)
        kinds = describe(poutine.trace(program).get_trace(*done.data()))
    for name, values in draws.items():
        if kinds[name].discrete or not truth[name].is_floating_point():
            continue
        below = (values < truth[name]).sum(0).reshape(-1)
        for place, rank in enumerate(below.tolist()):
            yield (f"{name}[{place}]" if below.numel() > 1 else name), rank


def _thinned(done: Fit, num_draws: int) -> dict[str, Tensor]:
    """Evenly spaced draws of all chains of a sampler, or of the best chain of a guide."""
    if done.solution.draws is None:
        return {k: v[done.solution.best] for k, v in done.posterior(num_draws).items()}
    out = {}
    for name, values in done.solution.draws.items():
        flat = values.reshape(-1, *values.shape[2:])
        out[name] = flat[torch.linspace(0, len(flat) - 1, num_draws).round().long()]
    return out
