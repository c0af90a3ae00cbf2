"""Blocks of SVI steps of all chains, in one XLA program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.solvers.engine_interpreted import Interpreted
from ppl_zoo.solvers.step_graph import graph_of
from ppl_zoo.solvers.svi_chain import SVIChain

__all__ = ["Compiled"]


class Compiled:
    """A block of steps of all chains at a time, in one XLA program.

    ``tables`` are the data of each chain, where they have some of their own.

    Raises
    ------
    CaptureError
        If the programs have no static graph.
    ValueError
        If XLA cannot do what the fit asks for; says what.
    """

    name = "xla"

    def __init__(
        self,
        chains: Sequence[SVIChain],
        interpreted: Interpreted,
        window: int,
        tables: Sequence[Rows] | None = None,
    ) -> None:
        from ppl_zoo.compiler import xla, xla_svi

        self.chains, self.interpreted, self.window = chains, interpreted, window
        chain, rows = chains[0], interpreted.rows
        if not xla.supports(rows.device):
            raise ValueError(f"JAX does not run on {rows.device} here")
        if chain.alternation is not None:
            raise ValueError("the compiled loop moves all parameters in every step")
        options = _adam_options(chain, interpreted.clip_norm)
        captured, self.order = graph_of(chains, interpreted)
        data = rows.all()
        if tables is not None:
            columns = zip(*(table.all() for table in tables), strict=True)
            data = tuple(torch.stack(column) for column in columns)
        self.stepper = xla_svi.Stepper(
            captured,
            data,
            rows.per_row,
            xla_svi.AdamOptions(**options),
            interpreted.seed,
            tables is not None,
        )
        self.loaded = False

    def advance(self, chains: Sequence[SVIChain], max_steps: int) -> int:
        """Take the steps that are left in the stopping rule's window."""
        if not self.loaded:
            self.stepper.load([self._read(chain) for chain in self.chains])
            self.loaded = True
        step = len(chains[0].objective)
        count = min(self.window - step % self.window, max_steps - step)
        active = {chain.index for chain in chains}
        rates = np.zeros((count, len(self.chains), 3))
        for chain in chains:
            rates[:, chain.index] = _rates(chain, count)
        values = self.stepper.run(
            [step] * len(self.chains),
            rates,
            np.array([chain.index in active for chain in self.chains]),
            self._index(step, count),
        )
        for chain in chains:
            row = values[chain.index]
            if np.isfinite(row).all() and chain.skipped == 0:
                chain.objective.extend(row.tolist())
                continue
            self.sync()
            for value in row.tolist():
                chain.note(value, self.interpreted.data(chain, step))
        return count

    def vector(self, chain: SVIChain) -> Tensor:
        """All parameters of a chain."""
        return torch.from_numpy(self.stepper.flat(chain.index))

    def sync(self) -> None:
        """Write parameters and optimizer states back into the chains."""
        if not self.loaded:
            return
        like = [self.chains[0].parameters[i] for i in self.order]
        for chain, state in zip(self.chains, self.stepper.unload(like), strict=True):
            if chain.stopped == "converged" and not chain.objective:
                continue
            counts = self.stepper.counts()
            for place, (value, first, second) in zip(self.order, state, strict=True):
                parameter = chain.parameters[place]
                with torch.no_grad():
                    parameter.copy_(value)
                chain.optimizer.state[parameter] = {
                    "step": torch.tensor(float(counts[chain.index])),
                    "exp_avg": first,
                    "exp_avg_sq": second,
                }

    def _read(self, chain: SVIChain) -> list[tuple[Tensor, Tensor, Tensor, int]]:
        out = []
        for place in self.order:
            parameter = chain.parameters[place]
            state = chain.optimizer.state.get(parameter, {})
            zeros = torch.zeros_like(parameter)
            first, second = state.get("exp_avg", zeros), state.get("exp_avg_sq", zeros)
            out.append((parameter.detach(), first, second, int(state.get("step", 0))))
        return out

    def _index(self, step: int, count: int) -> np.ndarray | None:
        batches = self.interpreted.batches
        if batches.size is None:
            return None
        rows = [
            [batches.rows(chain.index, s).numpy() for chain in self.chains]
            for s in range(step, step + count)
        ]
        return np.array(rows)


def _adam_options(chain: SVIChain, clip_norm: float | None) -> dict[str, Any]:
    optimizer = chain.optimizer
    groups = optimizer.param_groups
    if type(optimizer) is not torch.optim.Adam or len(groups) != 1:
        raise ValueError(f"the compiled loop has Adam, not {type(optimizer).__name__}")
    for option in ("amsgrad", "maximize", "decoupled_weight_decay"):
        if groups[0].get(option):
            raise ValueError(f"the compiled loop has Adam without {option}")
    return {
        "eps": groups[0]["eps"],
        "weight_decay": groups[0]["weight_decay"],
        "clip_norm": clip_norm,
    }


def _rates(chain: SVIChain, count: int) -> np.ndarray:
    """Learning rate, beta1 and beta2 of the steps to come, ``(step, 3)``."""
    group = chain.optimizer.param_groups[0]

    def now() -> tuple[float, float, float]:
        return float(group["lr"]), *map(float, group["betas"])

    if chain.schedule is None:
        return np.tile(now(), (count, 1))
    chain.optimizer._opt_called = True  # the steps are taken elsewhere; torch would warn
    rates = []
    for _ in range(count):
        rates.append(now())
        chain.schedule.step()
    return np.array(rates)
