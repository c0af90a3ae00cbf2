"""SVI with fixed draws: the bound averaged over the same normals throughout is a plain function.

Sample-average approximation (Giordano, Ingram & Broderick 2024, https://arxiv.org/abs/2304.05527;
Burroni, Domke & Sheldon 2023, https://arxiv.org/abs/2302.00847). A deterministic objective can be
climbed by a quasi-Newton method to its very top, in coordinates that Laplace's approximation has
evened out. Fresh draws then say what the bound really is; where the fixed ones flattered it,
their number is doubled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import climb, pad_history
from ppl_zoo.solvers.fixed_draws_chain import FixedDrawsChain, NoStartError
from ppl_zoo.solvers.guides import make_pair
from ppl_zoo.solvers.objectives import Choice
from ppl_zoo.solvers.solution import (
    Solution,
    chain_seed,
    read_parameters,
    set_seed,
    stack_chains,
)

__all__ = ["NoStartError", "solve_with_fixed_draws"]


def solve_with_fixed_draws(
    options: Any,
    choice: Choice,
    model: Model,
    rows: Rows,
    *,
    seed: int,
    progress: bool,
    resume: Solution | None,
    checkpoint: Callable[[Solution], object] | None,
    checkpoint_seconds: float,
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
    for index in range(options.restarts):
        set_seed(chain_seed(seed, index), rows.device)
        own = model
        if index > 0:
            own = model.fresh()
            own.load_state_dict(model.state_dict())
        pair = make_pair(own, choice.guide, rows, None, index)
        chain = FixedDrawsChain(
            index, own, pair.guide, seed=chain_seed(seed, index), points=choice.points, pair=pair
        )
        if resume is not None:
            chain.restore(resume)
        chains.append(chain)

    def solution() -> Solution:
        return _solution(chains, choice)

    def advance(active: Sequence[FixedDrawsChain]) -> int:
        for chain in active:
            try:
                chain.advance(options.steps)
            except ConvergenceError as error:
                chain.stopped, chain.error = "diverged", error
        return 1

    climb(
        chains,
        advance,
        solution,
        max_steps=options.steps,
        label=f"SVI {type(model).__name__}",
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
    )
    result = solution()
    lost = [chain for chain in chains if chain.error is not None]
    if len(lost) == len(chains):
        lost[0].error.solution = result
        raise lost[0].error
    for chain in lost:
        warnings.warn(f"{chain.error}; the other chains went on", stacklevel=4)
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
