"""Variable elimination: joint posteriors of some nodes, and their most probable states.

The nodes that are not asked for are summed out, one at a time; the evidence is put in first, and
what is neither asked for, nor observed, nor an ancestor of such nodes is left out, so that a query
may fit where the junction tree of the whole network does not.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.models.discrete.bayes_net.junction_tree import refuse_too_large

__all__ = ["Elimination"]

#: letters for the nodes of one product; one is left for the rows
LETTERS = string.ascii_letters[:-1]
ROWS = string.ascii_letters[-1]


@dataclass
class _Factor:
    """Factor of a product: its nodes, and its cells ``(states of each..., rows)``, or 1 row."""

    nodes: tuple[int, ...]
    cells: Tensor


class Elimination:
    """Variable elimination for rows with evidence at the same nodes.

    Parameters
    ----------
    parents, sizes, tables
        Parents of each node, its number of states, and its table
        ``(states of its parents..., states)`` or flat.
    x
        Evidence ``(rows, nodes)``, -1 where unobserved; the same nodes in all rows.
    soft
        Likelihoods ``{node: (states, rows)}``.
    kept
        Nodes that are asked for.

    References
    ----------
    Dechter 1999, Bucket elimination, https://doi.org/10.1016/S0004-3702(99)00059-4. Marginal MAP:
    Park & Darwiche 2004, Complexity results and approximation strategies for MAP explanations.
    """

    def __init__(
        self,
        parents: Sequence[tuple[int, ...]],
        sizes: Sequence[int],
        tables: Sequence[Tensor],
        x: Tensor,
        soft: Mapping[int, Tensor],
        kept: Sequence[int],
    ) -> None:
        self.sizes, self.x, self.kept = sizes, x, tuple(kept)
        self.like = tables[0]
        #: log of what the factors were scaled by, ``(rows,)``
        self.scale = self.like.new_zeros(len(x))
        seen = {n for n, column in enumerate(x.T) if bool((column >= 0).any())}
        needed, waiting = set(), [*kept, *seen, *soft]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting += parents[node]
        self.factors = [
            self._observe((*parents[node], node), tables[node], seen) for node in sorted(needed)
        ]
        for node, vectors in soft.items():
            self.factors.append(self._observe((node,), vectors, seen, rows=True))
        # an observed node that is asked for has one state left
        for node in seen & set(kept):
            states = torch.arange(sizes[node], device=x.device)[:, None]
            self.factors.append(_Factor((node,), (states == x[:, node]).to(self.like.dtype)))
        self.free = needed - seen - set(kept)

    def _observe(
        self, nodes: tuple[int, ...], table: Tensor, seen: set[int], rows: bool = False
    ) -> _Factor:
        """Put the evidence into a table: only the states that were observed remain."""
        shape = [self.sizes[n] for n in nodes]
        cells = table.reshape(*shape, table.shape[-1] if rows else 1)
        left = tuple(n for n in nodes if n not in seen)
        if len(left) < len(nodes):
            every = torch.arange(len(self.x), device=self.x.device)
            index: list[Tensor | slice] = []
            order = [i for i, n in enumerate(nodes) if n in seen]
            cells = cells.permute(*(i for i, n in enumerate(nodes) if n not in seen), *order, -1)
            index = [slice(None)] * len(left) + [self.x[:, nodes[i]] for i in order]
            last = every if cells.shape[-1] > 1 else torch.zeros_like(every)
            cells = cells[(*index, last)]
        return _Factor(left, cells)

    def joint(self) -> Tensor:
        """Joint probability of the nodes that are asked for and the evidence, but for `scale`.

        Returns
        -------
        Tensor
            ``(states of each..., rows)``.
        """
        free, _, cells = self.plan(maximise=False)
        self._check(cells)
        self._eliminate(free, maximise=False)
        return self._product(self.factors, self.kept)

    def most_probable(self) -> tuple[Tensor, Tensor]:
        """Most probable states ``(kept, rows)`` of the nodes asked for, and log probability.

        Sums come first, so that the order of elimination, and the size of the factors, is that of
        marginal MAP.
        """
        free, kept, cells = self.plan(maximise=True)
        self._check(cells)
        self._eliminate(free, maximise=False)
        choices = self._eliminate(kept, maximise=True)
        best = self._product(self.factors, ())
        states: dict[int, Tensor] = {}
        every = torch.arange(len(self.x), device=self.x.device)
        for node, others, choice in reversed(choices):
            column = every if choice.shape[-1] > 1 else torch.zeros_like(every)
            states[node] = choice[(*(states[n] for n in others), column)]
        found = [states[n].expand(len(self.x)) for n in self.kept]
        return torch.stack(found), best.expand(len(self.x)).log() + self.scale

    # ---- the order and the products ---------------------------------------------------------

    def plan(self, maximise: bool) -> tuple[list[int], list[int], int]:
        """Orders in which to sum nodes out and to maximise, and cells of the largest product."""
        scopes = [set(factor.nodes) for factor in self.factors]
        free, largest = self._order(self.free, scopes)
        if not maximise:
            return free, [], max(largest, math.prod(self.sizes[n] for n in self.kept))
        kept, cells = self._order(set(self.kept), scopes)
        return free, kept, max(largest, cells)

    def _order(self, nodes: set[int], scopes: list[set[int]]) -> tuple[list[int], int]:
        """Greedy order, the smallest product next; leaves the scopes that remain afterwards."""
        near: dict[int, set[int]] = {node: {node} for node in nodes}
        for scope in scopes:
            for node in scope & nodes:
                near[node] |= scope
        cells = {node: self._cells(own) for node, own in near.items()}
        order, largest = [], 1
        while near:
            node = min(cells, key=lambda n: (cells[n], n))
            largest = max(largest, cells.pop(node))
            rest = near.pop(node) - {node}
            order.append(node)
            for other in rest & near.keys():
                near[other] = (near[other] | rest) - {node}
                cells[other] = self._cells(near[other])
            scopes[:] = [scope for scope in scopes if node not in scope] + [rest]
        return order, largest

    def _cells(self, nodes: set[int]) -> int:
        return math.prod(self.sizes[n] for n in nodes)

    def _check(self, cells: int) -> None:
        """Refuse products that do not fit in memory, before any is computed."""
        told = f"its largest table has {float(cells):.3g} cells for a row of evidence"
        refuse_too_large("the query", told, cells * len(self.x), self.like)

    def _eliminate(
        self, order: Sequence[int], maximise: bool
    ) -> list[tuple[int, tuple[int, ...], Tensor]]:
        """Sum or maximise nodes out; the best states of the latter by those of other nodes."""
        choices = []
        for node in order:
            touched = [f for f in self.factors if node in f.nodes]
            self.factors = [f for f in self.factors if node not in f.nodes]
            others = tuple(sorted({n for f in touched for n in f.nodes} - {node}))
            cells = self._product(touched, (*others, node))
            if maximise:
                cells, choice = cells.max(-2)
                choices.append((node, others, choice))
            else:
                cells = cells.sum(-2)
            # products of many small numbers would underflow
            top = cells.flatten(0, -2).amax(0) if others else cells
            top = torch.where(top > 0, top, 1.0)
            self.scale = self.scale + top.log()
            self.factors.append(_Factor(others, cells / top))
        return choices

    def _product(self, factors: Sequence[_Factor], nodes: Sequence[int]) -> Tensor:
        """Product of factors, ``(states of each of nodes..., rows)``."""
        members = sorted({*nodes, *(n for f in factors for n in f.nodes)})
        if len(members) > len(LETTERS):
            raise QueryError(
                f"the query: got a product over {len(members)} nodes, expected at most "
                f"{len(LETTERS)}; ask for fewer nodes, or give evidence"
            )
        letter = {node: LETTERS[i] for i, node in enumerate(members)}
        result = self.like.new_ones([self.sizes[n] for n in nodes] + [1])
        out = "".join(letter[n] for n in nodes) + ROWS
        for factor in factors:
            own = "".join(letter[n] for n in factor.nodes) + ROWS
            rows = max(result.shape[-1], factor.cells.shape[-1])
            result = torch.einsum(
                f"{out},{own}->{out}",
                result.expand(*result.shape[:-1], rows),
                factor.cells.expand(*factor.cells.shape[:-1], rows),
            )
        return result
