"""Minibatches, and the engine that takes a step at a time by Pyro's interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.solvers.solution import chain_seed, set_seed
from ppl_zoo.solvers.svi_chain import SVIChain

__all__ = ["Interpreted", "Minibatches"]


class Minibatches:
    """Rows of each step: the passes' own permutations, one after the other, cut into batches."""

    def __init__(self, seed: int, size: int | None, total: int) -> None:
        self.seed, self.total = seed, total
        self.size = size if size and size < total else None
        self._kept: dict[tuple[int, int], Tensor] = {}

    def rows(self, chain: int, step: int) -> Tensor:
        """Choose rows ``(batch,)``; each row comes once a pass, and each batch is of one size."""
        number, place = divmod(step * self.size, self.total)
        chosen = self._pass(chain, number)[place : place + self.size]
        if len(chosen) < self.size:  # the end of one pass and the beginning of the next
            rest = self._pass(chain, number + 1)[: self.size - len(chosen)]
            chosen = torch.cat([chosen, rest])
        return chosen

    def _pass(self, chain: int, number: int) -> Tensor:
        key = (chain, number)
        if key not in self._kept:
            self._kept = {k: v for k, v in self._kept.items() if k[0] != chain or k[1] >= number}
            generator = torch.Generator().manual_seed(chain_seed(self.seed, chain, -3 - number))
            self._kept[key] = torch.randperm(self.total, generator=generator)
        return self._kept[key]


class Interpreted:
    """One step at a time, chain by chain, by Pyro's interpreter."""

    name = "interpreted"

    def __init__(
        self, rows: Rows, batches: Minibatches, seed: int, clip_norm: float | None
    ) -> None:
        self.rows, self.batches, self.seed, self.clip_norm = rows, batches, seed, clip_norm
        self.full = rows.all() if batches.size is None else ()

    def data(self, chain: SVIChain, step: int) -> tuple[Tensor, ...]:
        """Return the rows that one step sees."""
        if self.batches.size is None:
            return self.full
        return self.rows[self.batches.rows(chain.index, step)]

    def advance(self, chains: Sequence[SVIChain], max_steps: int) -> int:
        """Take one step of each chain."""
        for chain in chains:
            step = len(chain.objective)
            set_seed(chain_seed(self.seed, chain.index, step), self.rows.device)
            chain.step(self.data(chain, step), len(self.rows), self.clip_norm)
        return 1

    def vector(self, chain: SVIChain) -> Tensor:
        """All parameters of a chain."""
        return torch.cat([p.detach().flatten() for p in chain.parameters])

    def sync(self) -> None:
        """Do nothing: the chains hold their parameters themselves."""
