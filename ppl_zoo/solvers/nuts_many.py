"""NUTS on several data sets of one shape: the chains of all of them side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppl_zoo.data.rows import Rows
from ppl_zoo.model import Model
from ppl_zoo.solvers.drawn import PosteriorDraws
from ppl_zoo.solvers.nuts_numpyro import NumPyroEngine
from ppl_zoo.solvers.solution import Solution, read_parameters
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["sample_many"]


def sample_many(
    options: Any, model: Model, tables: Sequence[Rows], seed: int
) -> list[tuple[Model, Solution]]:
    """Draw from the posterior of each data set, as ``options``, a :class:`zoo.NUTS`, say.

    Raises
    ------
    CaptureError, ValueError, RuntimeError
        If XLA cannot run the model.
    ConvergenceError
        If a chain finds no start.
    """
    each = options.num_chains
    wide = dataclasses.replace(options, num_chains=each * len(tables))
    problem = Unconstrained(model, tables[0])
    data = [table.all() for table in tables for _ in range(each)]
    engine = NumPyroEngine(problem, options.kernel_options(), wide.num_chains, seed, data)
    engine.start(wide.find_start(problem, engine, seed))
    found = []
    total = options.num_warmup + options.num_samples
    while engine.iteration < total:
        warm = engine.iteration < options.num_warmup
        end = options.num_warmup if warm else total
        block = engine.advance(end - engine.iteration)
        if not warm:
            found.append(block)
    draws = engine.constrain(np.concatenate([block["z"] for block in found], 1))
    lp = np.concatenate([block["lp"] for block in found], 1).astype(np.float64)
    held = read_parameters(model, None)
    out = []
    for index in range(len(tables)):
        own = slice(index * each, (index + 1) * each)
        kept = {name: values[own] for name, values in draws.items()}
        copied = model.fresh()
        copied.load_state_dict(model.state_dict())
        solution = Solution(
            parameters={k: v.expand(each, *v.shape) for k, v in held.items()},
            history={"objective": lp[own]},
            objective=lp[own].mean(1),
            stopped=("max_steps",) * each,
            guide=PosteriorDraws(copied, kept, data[index * each]),
            summed_out=problem.summed_out,
            engine=engine.name,
            draws=kept,
        )
        out.append((copied, solution))
    return out
