"""Triangulation: from a directed graph to a clique tree, by moralising and min-fill elimination.

The cost of exact inference is decided here. Sets of nodes are Python integers used as
bit masks, so that the search is fast enough to be repeated with other tie-breaks.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["CliqueTree", "clique_tree"]

#: cells of all cliques from which on another heuristic is worth trying
LOG_LARGE_CELLS = math.log(2.0**20)
#: a clique beyond this fits in no memory: such a search ends without looking for the best order
LOG_HOPELESS_CELLS = math.log(2.0**36)


@dataclass(frozen=True)
class CliqueTree:
    """Clique tree, the cliques in an order that puts parents before children.

    Attributes
    ----------
    cliques
        Nodes of each clique.
    parents
        Index of the parent clique, -1 for the root (the first).
    separators
        Nodes that a clique shares with its parent; empty between unconnected components.
    """

    cliques: tuple[frozenset[int], ...]
    parents: tuple[int, ...]
    separators: tuple[frozenset[int], ...]


def clique_tree(
    parents: Sequence[Sequence[int]], sizes: Sequence[int], restarts: int = 8, seed: int = 0
) -> CliqueTree:
    """Clique tree by min-fill or min-weight elimination, ties at random; the best of a few runs.

    Parameters
    ----------
    parents
        Parents of each node, by index.
    sizes
        Number of states of each node.
    restarts
        Runs with different tie-breaks; the one with the fewest cells in all cliques is kept.
    seed
        Of the tie-breaks.

    References
    ----------
    Kjaerulff 1990, Triangulation of graphs: algorithms giving small total state space;
    Lauritzen & Spiegelhalter 1988, https://doi.org/10.1111/j.2517-6161.1988.tb01721.x
    """
    moral = _moral_graph(parents)
    logs = [math.log(size) for size in sizes]
    best: tuple[float, list[tuple[int, int]]] | None = None
    for run in range(restarts):
        # min-fill and min-weight in turn: each wins on some nets
        eliminated = _eliminate(list(moral), logs, random.Random(seed + run), run % 2 == 0)
        cells = _log_cells(eliminated, logs)
        if best is None or cells < best[0]:
            best = cells, eliminated
        if best[0] > LOG_HOPELESS_CELLS * (1.0 if run else 1.25):
            break
    if best[0] > LOG_LARGE_CELLS:  # grids: a sweep from one side to the other beats both
        eliminated = _sweep(list(moral))
        cells = _log_cells(eliminated, logs)
        best = min(best, (cells, eliminated), key=lambda found: found[0])
    return _join(best[1], logs)


def _log_cells(eliminated: Sequence[tuple[int, int]], logs: Sequence[float]) -> float:
    """Log of the cells of all cliques together."""
    sizes = [logs[node] + sum(logs[other] for other in _bits(rest)) for node, rest in eliminated]
    largest = max(sizes)
    return largest + math.log(sum(math.exp(size - largest) for size in sizes))


def _bits(mask: int) -> Iterator[int]:
    """Yield the indices of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _moral_graph(parents: Sequence[Sequence[int]]) -> list[int]:
    """Moral graph: neighbours of each node, as bit masks."""
    adjacent = [0] * len(parents)
    for node, own in enumerate(parents):
        family = 1 << node
        for parent in own:
            family |= 1 << parent
        for member in _bits(family):
            adjacent[member] |= family & ~(1 << member)
    return adjacent


def _eliminate(
    adjacent: list[int], logs: Sequence[float], generator: random.Random, by_fill: bool
) -> list[tuple[int, int]]:
    """Eliminate all nodes: ``(node, its neighbours at that time)`` in elimination order."""
    tie = generator.random
    hopeless = False

    def cost(node: int) -> tuple[float | int, ...]:
        near = adjacent[node]
        if hopeless:  # the order still tells about how large the largest clique is
            return near.bit_count(), tie()
        missing = sum((near & ~adjacent[other]).bit_count() - 1 for other in _bits(near))
        weight = logs[node] + sum(logs[other] for other in _bits(near))
        fill, weight = missing // 2, round(weight, 9)
        return (fill, weight, tie()) if by_fill else (weight, fill, tie())

    costs = {node: cost(node) for node in range(len(adjacent))}
    order = []
    while costs:
        node = min(costs, key=costs.__getitem__)
        near = adjacent[node]
        filled = hopeless or costs[node][0 if by_fill else 1] > 0
        del costs[node]
        order.append((node, near))
        stale = near
        for other in _bits(near):
            if filled and not hopeless:
                stale |= adjacent[other]
            adjacent[other] = (adjacent[other] | near) & ~(1 << other) & ~(1 << node)
        if not hopeless and logs[node] + sum(logs[n] for n in _bits(near)) > LOG_HOPELESS_CELLS:
            hopeless, stale = True, sum(1 << other for other in costs)
        for other in _bits(stale & ~(1 << node)):
            costs[other] = cost(other)
    return order


def _sweep(adjacent: list[int]) -> list[tuple[int, int]]:
    """Eliminate all nodes in the order of Cuthill & McKee 1969, breadth first from the side."""
    count = len(adjacent)
    by_degree = sorted(range(count), key=lambda node: adjacent[node].bit_count())
    order: list[int] = []
    seen = 0
    for start in by_degree:
        waiting = deque([] if seen >> start & 1 else [start])
        seen |= 1 << start
        while waiting:
            node = waiting.popleft()
            order.append(node)
            new = adjacent[node] & ~seen
            seen |= new
            waiting += sorted(_bits(new), key=lambda other: adjacent[other].bit_count())
    eliminated = []
    for node in order:
        near = adjacent[node]
        eliminated.append((node, near))
        for other in _bits(near):
            adjacent[other] = (adjacent[other] | near) & ~(1 << other) & ~(1 << node)
    return eliminated


def _join(eliminated: Sequence[tuple[int, int]], logs: Sequence[float]) -> CliqueTree:
    """Join the cliques of an elimination: each to that of its neighbour eliminated first."""
    position = {node: index for index, (node, _) in enumerate(eliminated)}
    masks = [rest | 1 << node for node, rest in eliminated]
    absorbed_by = list(range(len(masks)))  # a clique that is a subset goes into the larger one
    links: list[tuple[int, int]] = []
    for index, (_, rest) in enumerate(eliminated):
        if not rest:
            continue
        parent = min(position[other] for other in _bits(rest))
        if masks[parent] == rest:
            absorbed_by[parent] = index
        links.append((index, parent))

    def owner(index: int) -> int:
        while absorbed_by[index] != index:
            index = absorbed_by[index]
        return index

    near: dict[int, set[int]] = {i: set() for i in range(len(masks)) if owner(i) == i}
    for child, parent in links:
        a, b = owner(child), owner(parent)
        if a != b:
            near[a].add(b)
            near[b].add(a)
    return _rooted(masks, near, logs)


def _rooted(masks: Sequence[int], near: dict[int, set[int]], logs: Sequence[float]) -> CliqueTree:
    """Root the tree at its largest clique, which then receives no message from a parent."""
    by_size = sorted(near, key=lambda i: (-sum(logs[n] for n in _bits(masks[i])), i))
    order: list[int] = []
    parents: dict[int, int] = {}
    for start in by_size:
        if start in parents:
            continue
        parents[start] = order[0] if order else -1
        waiting = [start]
        while waiting:
            index = waiting.pop()
            order.append(index)
            for other in sorted(near[index]):
                if other not in parents:
                    parents[other] = index
                    waiting.append(other)
    position = {index: i for i, index in enumerate(order)}
    return CliqueTree(
        cliques=tuple(frozenset(_bits(masks[i])) for i in order),
        parents=tuple(-1 if parents[i] < 0 else position[parents[i]] for i in order),
        separators=tuple(
            frozenset() if parents[i] < 0 else frozenset(_bits(masks[i] & masks[parents[i]]))
            for i in order
        ),
    )
