"""SVI on several data sets of one shape: captured and compiled once, and side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import climb
from ppl_zoo.solvers.engine_interpreted import Interpreted, Minibatches
from ppl_zoo.solvers.engines import choose_engine, window_of
from ppl_zoo.solvers.fixed_draws import solve_with_fixed_draws
from ppl_zoo.solvers.objectives import Choice, choose_objective
from ppl_zoo.solvers.solution import Solution, chain_seed, set_seed
from ppl_zoo.solvers.svi_record import solution_of
from ppl_zoo.solvers.svi_setup import make_chain

__all__ = ["fit_many"]

Found = tuple[Model, Solution] | None


def fit_many(options: Any, model: Model, tables: Sequence[Rows], seed: int) -> list[Found]:
    """Fit as ``options``, a :class:`zoo.SVI`, say; None for a data set to be fitted alone."""
    choice = choose_objective(options, model.fresh(), tables[0], seed)
    if choice.points is None:
        return _side_by_side(options, choice, model, tables, seed)
    return [_climb(options, choice, model, rows, seed + i) for i, rows in enumerate(tables)]


def _climb(options: Any, choice: Choice, model: Model, rows: Rows, seed: int) -> Found:
    """Fit by fixed draws, the density compiled for all data sets."""
    own = model.fresh()
    if options.initialize:
        set_seed(chain_seed(seed, 0), rows.device)
        with torch.no_grad():
            own.initialize(rows)
    # what the graph holds as constants has to be the same for these data
    constants = dict(choice.points.problem.model.named_buffers())
    if any(
        not torch.equal(b.cpu().to(constants[k]), constants[k]) for k, b in own.named_buffers()
    ):
        return None
    try:
        solution = solve_with_fixed_draws(
            options,
            dataclasses.replace(choice, points=choice.points.on(rows)),
            own,
            rows,
            seed=seed,
            progress=False,
            resume=None,
            checkpoint=None,
            checkpoint_seconds=0.0,
        )
    except ConvergenceError:
        return None
    return own, solution


def _side_by_side(
    options: Any, choice: Choice, model: Model, tables: Sequence[Rows], seed: int
) -> list[Found]:
    """Fit by stochastic gradients, one chain for each data set."""
    alone = [None] * len(tables)
    plain = type(options)()
    held_apart = ("restarts", "patience", "average", "alternate", "precision")
    if any(getattr(options, name) != getattr(plain, name) for name in held_apart):
        return alone
    chains = [
        make_chain(options, model.fresh(), rows, seed, index, None, None)
        for index, rows in enumerate(tables)
    ]
    batches = Minibatches(seed, options.batch_size, len(tables[0]))
    interpreted = Interpreted(tables[0], batches, seed, options.clip_norm)
    engine = choose_engine(
        options.compile, chains, interpreted, options.steps, options.window, tables
    )
    if engine.name != "xla":
        return alone
    for chain in chains:
        chain.plateau.window = options.window or window_of(engine.name, options.steps)
    climb(
        chains,
        partial(options.advance, engine),
        lambda: solution_of(options, chains, engine.name, choice.reason),
        max_steps=options.steps,
        label=f"SVI {type(model).__name__}",
        progress=False,
    )
    engine.sync()
    return [
        None
        if chain.error is not None
        else (chain.model, solution_of(options, [chain], engine.name, choice.reason))
        for chain in chains
    ]
