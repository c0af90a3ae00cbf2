"""What SVI found, written down."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from torch import Tensor

from ppl_zoo.solvers.climb import pad_history
from ppl_zoo.solvers.solution import Solution, read_parameters, stack_chains
from ppl_zoo.solvers.svi_chain import SVIChain

__all__ = ["solution_of"]


def solution_of(options: Any, chains: list[SVIChain], engine: str, reason: str) -> Solution:
    """Write down where chains stand."""
    own_guide = options.guide is None and chains[0].model.guide is not None
    tensors, values = {}, {"objective": "stochastic", "reason": reason}
    for chain in chains:
        packed, values[str(chain.index)] = chain.pack()
        tensors |= {f"{chain.index}.{k}": v for k, v in packed.items()}
    return Solution(
        parameters=stack_chains([_kept_parameters(c) for c in chains]),
        history={"objective": pad_history(chains)},
        objective=np.array([_final_objective(c) for c in chains]),
        stopped=tuple(c.stopped or "interrupted" for c in chains),
        guide=chains[0].model.guide if own_guide else chains[0].guide,
        summed_out=chains[0].pair.summed_out,
        engine=engine,
        state_tensors=tensors,
        state_values=values,
    )


def _kept_parameters(chain: SVIChain) -> dict[str, Tensor]:
    """Read the parameters that a chain answers with."""
    with chain.watch.shown() if chain.watch is not None else nullcontext():
        return read_parameters(chain.model, chain.guide)


def _final_objective(chain: SVIChain) -> float:
    """Median of the last estimates; of a watched chain, what held-out rows say for as many."""
    if chain.error is not None or not chain.objective:
        return np.nan
    if chain.watch is not None and chain.watch.score is not None:
        return chain.watch.score * chain.watch.num_rows
    return float(np.median(chain.objective[-100:]))
