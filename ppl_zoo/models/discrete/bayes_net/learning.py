"""Structures from data: the best tree, and greedy search with a tabu list."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.counts import as_columns, family_counts
from ppl_zoo.models.discrete.bayes_net.states import StateSpace, read_states

__all__ = ["SCORES", "NetLearning", "chow_liu_tree", "mutual_information", "search_structure"]

SCORES = ("bic", "bdeu")

Change = tuple[str, int, int]  # "add", "delete" or "reverse" an arrow; from, to


def mutual_information(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Empirical mutual information of all pairs of columns, in nats, ``(nodes, nodes)``."""
    offsets = torch.tensor([0, *np.cumsum(sizes)[:-1].tolist()], device=x.device)
    joint = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64, device=x.device)
    for part in x.split(65536):
        hot = torch.zeros(len(part), sum(sizes), dtype=torch.float32, device=x.device)
        hot.scatter_(1, part + offsets, 1.0)  # sums of up to 65,536 ones are exact in float32
        joint += (hot.T @ hot).double()
    joint /= len(x)
    single = joint.diagonal()
    terms = torch.where(joint > 0, joint * (joint / (single[:, None] * single)).log(), 0.0)
    owner = torch.repeat_interleave(torch.tensor(sizes, device=x.device))
    by_row = torch.zeros(len(sizes), sum(sizes), dtype=joint.dtype, device=x.device)
    by_row.index_add_(0, owner, terms)
    out = torch.zeros(len(sizes), len(sizes), dtype=joint.dtype, device=x.device)
    return out.index_add_(1, owner, by_row)


def chow_liu_tree(x: Tensor, sizes: Sequence[int]) -> list[list[int]]:
    """Parents of each node in the tree of greatest mutual information, rooted at node 0."""
    weights = mutual_information(x, sizes).cpu().numpy().copy()
    np.fill_diagonal(weights, -np.inf)
    parents: list[list[int]] = [[] for _ in sizes]
    best, nearest = weights[0].copy(), np.zeros(len(sizes), dtype=int)
    best[0] = -np.inf
    inside = np.zeros(len(sizes), dtype=bool)
    inside[0] = True
    for _ in range(len(sizes) - 1):  # Prim's algorithm
        node = int(np.where(inside, -np.inf, best).argmax())
        parents[node] = [int(nearest[node])]
        inside[node] = True
        closer = weights[node] > best
        best[closer], nearest[closer] = weights[node][closer], node
    return parents


@dataclass
class _Scorer:
    """Score of a node with its parents; each family is counted once."""

    columns: Tensor
    sizes: Sequence[int]
    score: str
    equivalent_sample_size: float

    def __post_init__(self) -> None:
        self.known: dict[tuple[int, frozenset[int]], float] = {}

    def __call__(self, node: int, parents: frozenset[int]) -> float:
        key = node, parents
        if key not in self.known:
            above = sorted(parents)
            counts = family_counts(self.columns, node, above, self.sizes, complete=True).double()
            self.known[key] = self._bic(counts) if self.score == "bic" else self._bdeu(counts)
        return self.known[key]

    def _bic(self, counts: Tensor) -> float:
        fit = torch.xlogy(counts, counts / counts.sum(-1, keepdim=True).clamp_min(1.0)).sum()
        penalty = 0.5 * math.log(self.columns.shape[1]) * len(counts) * (counts.shape[1] - 1)
        return float(fit) - penalty

    def _bdeu(self, counts: Tensor) -> float:
        row = torch.full_like(counts[:, 0], self.equivalent_sample_size / len(counts))
        cell = torch.full_like(counts, self.equivalent_sample_size / counts.numel())
        rows = row.lgamma() - (row + counts.sum(-1)).lgamma()
        return float(rows.sum() + ((cell + counts).lgamma() - cell.lgamma()).sum())


def search_structure(
    x: Tensor,
    sizes: Sequence[int],
    *,
    score: str = "bic",
    max_parents: int = 4,
    tabu: int = 10,
    patience: int = 20,
    max_steps: int = 10_000,
    equivalent_sample_size: float = 1.0,
) -> list[list[int]]:
    """Change one arrow at a time, the best change first, without undoing recent ones.

    Returns
    -------
    list
        Parents of each node in the best net that was met.
    """
    if score not in SCORES:
        raise DataError(f"score: got {score!r}, expected one of {SCORES}")
    count = len(sizes)
    scorer = _Scorer(as_columns(x), sizes, score, equivalent_sample_size)
    parents: list[frozenset[int]] = [frozenset() for _ in sizes]
    total = best = sum(scorer(node, parents[node]) for node in range(count))
    kept, recent, worse = list(parents), deque(maxlen=max(tabu, 0)), 0
    for _ in range(max_steps):
        gains = [
            (gain, change)
            for change in _changes(parents, max_parents)
            if change not in recent
            for gain in [_gain(scorer, parents, change)]
        ]
        if not gains:
            break
        gain, change = max(gains)
        if gain <= 1e-9 and not tabu:
            break
        recent.append(_undo(change))
        parents = _changed(parents, change)
        total += gain
        if total > best + 1e-9:
            best, kept, worse = total, list(parents), 0
        else:
            worse += 1
            if worse > patience:
                break
    return [sorted(above) for above in kept]


def _changes(parents: Sequence[frozenset[int]], max_parents: int) -> Iterator[Change]:
    """All changes that leave no cycle."""
    count = len(parents)
    above = np.zeros((count, count), dtype=bool)  # [i, j]: a path leads from i to j
    order: list[int] = []
    waiting = set(range(count))
    while waiting:
        ready = [n for n in waiting if parents[n] <= set(order)]
        order += ready
        waiting -= set(ready)
    for node in order:
        for parent in parents[node]:
            above[:, node] |= above[:, parent]
            above[parent, node] = True
    for node in range(count):
        for parent in parents[node]:
            yield "delete", parent, node
            # turned round, it closes a cycle if another path leads the same way
            others = any(above[parent, p] for p in parents[node] if p != parent)
            if not others and len(parents[parent]) < max_parents:
                yield "reverse", parent, node
        if len(parents[node]) < max_parents:
            for parent in np.flatnonzero(~above[node]).tolist():
                if parent != node and parent not in parents[node]:
                    yield "add", parent, node


def _changed(parents: Sequence[frozenset[int]], change: Change) -> list[frozenset[int]]:
    kind, start, end = change
    out = list(parents)
    out[end] = out[end] | {start} if kind == "add" else out[end] - {start}
    if kind == "reverse":
        out[start] = out[start] | {end}
    return out


def _gain(scorer: _Scorer, parents: Sequence[frozenset[int]], change: Change) -> float:
    kind, start, end = change
    above = parents[end] | {start} if kind == "add" else parents[end] - {start}
    gain = scorer(end, above) - scorer(end, parents[end])
    if kind == "reverse":
        gain += scorer(start, parents[start] | {end}) - scorer(start, parents[start])
    return gain


def _undo(change: Change) -> Change:
    kind, start, end = change
    return {
        "add": ("delete", start, end),
        "delete": ("add", start, end),
        "reverse": ("reverse", end, start),
    }[kind]


# ---- How the structure of a Bayes net is learned from data, and its tables with it.


class NetLearning:
    """Structures from complete data, by class methods that return a net with its tables."""

    @classmethod
    def chow_liu(cls, data: Any, states: Any = None, **options: Any) -> Any:
        """Learn the tree of the highest likelihood, and its tables.

        Parameters
        ----------
        data
            Rows ``(n, nodes)`` of whole numbers, or a data frame or mapping of columns.
        states
            ``{node: names of its states}``; read off the data where left out.
        **options
            Of the model.

        References
        ----------
        Chow & Liu 1968, Approximating discrete probability distributions with dependence trees,
        https://doi.org/10.1109/TIT.1968.1054142
        """
        x, states = _learnable(data, states)
        sizes = [len(names) for names in states.values()]
        return cls._learned(chow_liu_tree(x, sizes), x, states, options)

    @classmethod
    def search(
        cls,
        data: Any,
        states: Any = None,
        *,
        score: str = "bic",
        max_parents: int = 4,
        tabu: int = 10,
        patience: int = 20,
        max_steps: int = 10_000,
        equivalent_sample_size: float = 1.0,
        **options: Any,
    ) -> Any:
        """Learn a structure by the best of single changes to arrows, and its tables.

        Parameters
        ----------
        data, states
            As for `chow_liu`.
        score
            "bic" or "bdeu".
        max_parents
            Most parents of a node.
        tabu, patience
            Changes that may not be undone, and steps without a better net before the search ends.
        max_steps
            Most changes.
        equivalent_sample_size
            Of BDeu's prior.
        **options
            Of the model.

        References
        ----------
        Heckerman, Geiger & Chickering 1995, Learning Bayesian networks,
        https://doi.org/10.1007/BF00994016
        """
        x, states = _learnable(data, states)
        sizes = [len(names) for names in states.values()]
        found = search_structure(
            x,
            sizes,
            score=score,
            max_parents=max_parents,
            tabu=tabu,
            patience=patience,
            max_steps=max_steps,
            equivalent_sample_size=equivalent_sample_size,
        )
        return cls._learned(found, x, states, options)

    @classmethod
    def _learned(cls, parents: list[list[int]], x: Tensor, states: Any, options: Any) -> Any:
        nodes = list(states)
        named = {nodes[i]: [nodes[p] for p in above] for i, above in enumerate(parents)}
        return cls(named, states, **options).learn(x)


def _learnable(data: Any, states: Any) -> tuple[Tensor, dict[str, tuple[str, ...]]]:
    """Rows and states of data whose structure is to be learned."""
    if states is None and (isinstance(data, Mapping) or hasattr(data, "columns")):
        states = {}
        for name in data:
            values = sorted(
                set(data[name].tolist() if hasattr(data[name], "tolist") else data[name])
            )
            whole = all(isinstance(v, (int, float)) and v == int(v) for v in values)
            states[str(name)] = int(max(values)) + 1 if whole else values
    elif states is None:
        x = torch.as_tensor(data)
        if x.ndim != 2 or not len(x):
            raise DataError(f"data: got shape {tuple(x.shape)}, expected (n, nodes)")
        width = len(str(x.shape[1] - 1))
        states = {f"x{i:0{width}d}": int(m) + 1 for i, m in enumerate(x.amax(0).tolist())}
    states = read_states(dict.fromkeys(states), states)
    alphabet = StateSpace(states)
    x = torch.as_tensor(alphabet.rows(data)).long()
    alphabet.check(x)
    if bool((x < 0).any()):
        raise DataError("data: got missing values, expected complete rows to learn a structure")
    return x, alphabet.states
