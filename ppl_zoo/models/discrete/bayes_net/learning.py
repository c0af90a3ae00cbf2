"""Structure learning of Bayesian networks: Chow-Liu trees and greedy search with a tabu list."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.categories import infer_states, named_columns
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.models.discrete.bayes_net.counts import as_columns, family_counts
from ppl_zoo.models.discrete.bayes_net.states import StateSpace, as_array, read_states

__all__ = ["StructureLearning"]

SCORES = ("bic", "bdeu", "k2")
MIN_GAIN_NATS = 1e-9  # differences of scores below are rounding
ROWS_PER_CHUNK = 65_536
MAX_CELLS_PER_FAMILY = 2**22  # larger tables are no candidates

Change = tuple[str, int, int]  # "add", "delete" or "reverse" an arrow; from, to
Network = TypeVar("Network", bound="StructureLearning")


class StructureLearning:
    """Structure learning from complete data, by class methods; a base class of `BayesNet`."""

    # of BayesNet, which is made as cls(parents, states, **options)
    learn: Callable[..., Any]

    @classmethod
    def chow_liu(cls: type[Network], data: Any, states: Any = None, **options: Any) -> Network:
        """Chow-Liu tree: the tree of the highest likelihood, and its tables.

        Parameters
        ----------
        data
            A data frame (pandas, polars) or mapping of columns; or rows ``(n, nodes)``, as a
            tensor of codes or an array.
        states
            ``{node: names of its states}``; where left out, the categories of a column, or the
            values that occur in it, in their order.
        **options
            Of the model.

        References
        ----------
        Chow & Liu 1968, Approximating discrete probability distributions with dependence trees,
        https://doi.org/10.1109/TIT.1968.1054142
        """
        x, states = _read_complete(data, states)
        sizes = [len(names) for names in states.values()]
        return cls._learned(_chow_liu_tree(x, sizes), x, states, options)

    @classmethod
    def search(
        cls: type[Network],
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
    ) -> Network:
        """Score-based search: the best change of one arrow at a time, with a tabu list.

        Tables of more than four million cells are not considered.

        Parameters
        ----------
        data, states
            As for `chow_liu`.
        score
            "bic", "bdeu" or "k2": the log evidence under a uniform prior of every row.
        max_parents
            Maximal number of parents of a node.
        tabu, patience
            Recent changes that may not be undone; steps without a better network before the search
            ends.
        max_steps
            Maximal number of changes.
        equivalent_sample_size
            Of the BDeu score's prior.
        **options
            Of the model.

        References
        ----------
        Heckerman, Geiger & Chickering 1995, Learning Bayesian networks,
        https://doi.org/10.1007/BF00994016. K2: Cooper & Herskovits 1992, A Bayesian method for the
        induction of probabilistic networks from data, https://doi.org/10.1007/BF00994110
        """
        x, states = _read_complete(data, states)
        sizes = [len(names) for names in states.values()]
        parents = _search_structure(
            x,
            sizes,
            score=score,
            max_parents=max_parents,
            tabu=tabu,
            patience=patience,
            max_steps=max_steps,
            equivalent_sample_size=equivalent_sample_size,
        )
        return cls._learned(parents, x, states, options)

    @classmethod
    def _learned(
        cls: type[Network],
        parents: list[list[int]],
        x: Tensor,
        states: Mapping[str, Sequence[str]],
        options: Mapping[str, Any],
    ) -> Network:
        """Build the network of a structure, and learn its tables."""
        nodes = list(states)
        named = {nodes[i]: [nodes[p] for p in own] for i, own in enumerate(parents)}
        return cls(named, states, **options).learn(x)


def _read_complete(data: Any, states: Any) -> tuple[Tensor, dict[str, tuple[str, ...]]]:
    """Rows and states of complete data; states are inferred from the data where None."""
    named = named_columns(data)
    if named is None:
        x = data if isinstance(data, Tensor) else as_array("data", data)
        if x.ndim != 2 or not len(x):
            raise DataError(f"data: got shape {tuple(x.shape)}, expected (n, nodes)")
        width = len(str(x.shape[1] - 1))
        names = list(states) if isinstance(states, Mapping) else []
        if len(names) != x.shape[1]:
            names = [f"x{i:0{width}d}" for i in range(x.shape[1])]
        if states is None:
            states = {n: _states_of_codes(n, c) for n, c in zip(names, x.T, strict=True)}
    elif states is None:
        states = {name: infer_states(name, column) for name, column in named.items()}
    state_space = StateSpace(read_states(dict.fromkeys(states), states))
    x = torch.as_tensor(state_space.rows(data)).long()
    state_space.check(x)
    missing = (x < 0).sum(0).tolist()
    if any(missing):
        node = next(n for n, count in zip(state_space.nodes, missing, strict=True) if count)
        raise DataError(
            f"data: got {missing[state_space.index[node]]} missing values in column {node!r}, "
            f"expected complete rows to learn a structure; drop them, df.dropna(), or make them a "
            f"state, df[{node!r}].fillna('unknown')"
        )
    return x, state_space.states


def _states_of_codes(name: str, column: Tensor | np.ndarray) -> int | tuple[str, ...]:
    """States of a column without a name: codes from 0, or an array's values where none is 0."""
    numbers = isinstance(column, Tensor) or column.dtype.kind in "iuf"
    if not numbers or not (isinstance(column, Tensor) or column.min() <= 0):
        return infer_states(name, column)
    column = column[~column.isnan()] if isinstance(column, Tensor) else column[~np.isnan(column)]
    return int(column.max()) + 1 if len(column) else 1


def _mutual_information(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Empirical mutual information of all pairs of columns, in nats, ``(nodes, nodes)``."""
    offsets = torch.tensor([0, *np.cumsum(sizes)[:-1].tolist()], device=x.device)
    joint = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64, device=x.device)
    for part in x.split(ROWS_PER_CHUNK):
        hot = torch.zeros(len(part), sum(sizes), dtype=torch.float32, device=x.device)
        hot.scatter_(1, part + offsets, 1.0)  # sums of a chunk's ones are exact in float32
        joint += (hot.T @ hot).double()
    joint /= len(x)
    single = joint.diagonal()
    terms = torch.where(joint > 0, joint * (joint / (single[:, None] * single)).log(), 0.0)
    owner = torch.repeat_interleave(torch.tensor(sizes, device=x.device))
    by_row = torch.zeros(len(sizes), sum(sizes), dtype=joint.dtype, device=x.device)
    by_row.index_add_(0, owner, terms)
    out = torch.zeros(len(sizes), len(sizes), dtype=joint.dtype, device=x.device)
    return out.index_add_(1, owner, by_row)


def _chow_liu_tree(x: Tensor, sizes: Sequence[int]) -> list[list[int]]:
    """Maximum spanning tree of mutual information, rooted at node 0: parents of each node."""
    weights = _mutual_information(x, sizes).cpu().numpy().copy()
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
    """Decomposable score of a node with its parents; each family is counted once."""

    columns: Tensor
    sizes: Sequence[int]
    score: str
    equivalent_sample_size: float

    def __post_init__(self) -> None:
        self.cache: dict[tuple[int, frozenset[int]], float] = {}

    def __call__(self, node: int, parents: frozenset[int]) -> float:
        key = node, parents
        cells = math.prod(self.sizes[n] for n in (*parents, node))
        if parents and cells > MAX_CELLS_PER_FAMILY:
            return -math.inf
        if key not in self.cache:
            counts = family_counts(
                self.columns, node, sorted(parents), self.sizes, complete=True
            ).double()
            self.cache[key] = {"bic": self._bic, "bdeu": self._bdeu, "k2": self._k2}[self.score](
                counts
            )
        return self.cache[key]

    def _bic(self, counts: Tensor) -> float:
        fit = torch.xlogy(counts, counts / counts.sum(-1, keepdim=True).clamp_min(1.0)).sum()
        penalty = 0.5 * math.log(self.columns.shape[1]) * len(counts) * (counts.shape[1] - 1)
        return float(fit) - penalty

    def _k2(self, counts: Tensor) -> float:
        return self._log_evidence(counts, torch.ones_like(counts))

    def _bdeu(self, counts: Tensor) -> float:
        cell = torch.full_like(counts, self.equivalent_sample_size / counts.numel())
        return self._log_evidence(counts, cell)

    @staticmethod
    def _log_evidence(counts: Tensor, cell: Tensor) -> float:
        """Log evidence of counts under a Dirichlet prior of each row."""
        row = cell.sum(-1)
        rows = row.lgamma() - (row + counts.sum(-1)).lgamma()
        return float(rows.sum() + ((cell + counts).lgamma() - cell.lgamma()).sum())


def _search_structure(
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
    """Greedy search over structures with a tabu list: the best change of one arrow at a time.

    Returns
    -------
    list
        Parents of each node in the best network of the search.
    """
    if score not in SCORES:
        raise DataError(
            f"score: got {score!r}{did_you_mean(score, SCORES)}, expected one of {SCORES}"
        )
    count = len(sizes)
    scorer = _Scorer(as_columns(x), sizes, score, equivalent_sample_size)
    parents: list[frozenset[int]] = [frozenset() for _ in sizes]
    total = best = sum(scorer(node, parents[node]) for node in range(count))
    best_parents, recent, worse = list(parents), deque(maxlen=max(tabu, 0)), 0
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
        if gain <= MIN_GAIN_NATS and not tabu:
            break
        recent.append(_undo(change))
        parents = _apply(parents, change)
        total += gain
        if total > best + MIN_GAIN_NATS:
            best, best_parents, worse = total, list(parents), 0
        else:
            worse += 1
            if worse > patience:
                break
    return [sorted(own) for own in best_parents]


def _changes(parents: Sequence[frozenset[int]], max_parents: int) -> Iterator[Change]:
    """All changes of one arrow that leave the graph acyclic."""
    count = len(parents)
    ancestor = np.zeros((count, count), dtype=bool)  # [i, j]: a path leads from i to j
    order: list[int] = []
    waiting = set(range(count))
    while waiting:
        ready = [n for n in waiting if parents[n] <= set(order)]
        order += ready
        waiting -= set(ready)
    for node in order:
        for parent in parents[node]:
            ancestor[:, node] |= ancestor[:, parent]
            ancestor[parent, node] = True
    for node in range(count):
        for parent in parents[node]:
            yield "delete", parent, node
            # reversed, it closes a cycle if another path leads the same way
            others = any(ancestor[parent, p] for p in parents[node] if p != parent)
            if not others and len(parents[parent]) < max_parents:
                yield "reverse", parent, node
        if len(parents[node]) < max_parents:
            for parent in np.flatnonzero(~ancestor[node]).tolist():
                if parent != node and parent not in parents[node]:
                    yield "add", parent, node


def _apply(parents: Sequence[frozenset[int]], change: Change) -> list[frozenset[int]]:
    """Parents after a change of one arrow."""
    action, start, end = change
    out = list(parents)
    out[end] = out[end] | {start} if action == "add" else out[end] - {start}
    if action == "reverse":
        out[start] = out[start] | {end}
    return out


def _gain(scorer: _Scorer, parents: Sequence[frozenset[int]], change: Change) -> float:
    """Gain in score of a change of one arrow."""
    action, start, end = change
    after = parents[end] | {start} if action == "add" else parents[end] - {start}
    gain = scorer(end, after) - scorer(end, parents[end])
    if action == "reverse":
        gain += scorer(start, parents[start] | {end}) - scorer(start, parents[start])
    return gain


def _undo(change: Change) -> Change:
    """Return the inverse of a change."""
    action, start, end = change
    return {
        "add": ("delete", start, end),
        "delete": ("add", start, end),
        "reverse": ("reverse", end, start),
    }[action]
