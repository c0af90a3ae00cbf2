"""The shapes of a tree of cliques, worked out once: no tensor is permuted in a pass.

A clique lists the nodes that it shares with the clique above first and in the order they have
there. A message is then a plain sum over a block, and multiplying one in is a broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ppl_zoo.models.discrete.triangulation import CliqueTree

__all__ = ["Clique", "Place", "place_node", "plan_cliques"]


class Clique(NamedTuple):
    """A clique: its nodes in order, those of the separator first, and its shapes."""

    nodes: tuple[int, ...]
    parent: int
    separator: int  # number of states that the clique shares with the one above
    cells: int
    message: tuple[int, ...]  # shape of its message where it meets the parent's cells ...
    meeting: tuple[int, ...]  # ... in this shape, neighbours merged
    summed: tuple[int, ...]  # dimensions of ``meeting`` that the message has not


class Place(NamedTuple):
    """A node in its clique: the cells are ``(before, states, after)``."""

    clique: int
    shape: tuple[int, int, int]


def plan_cliques(tree: CliqueTree, sizes: Sequence[int]) -> list[Clique]:
    """Order the nodes of each clique, and work out the shapes of its messages."""
    below: dict[int, list[frozenset[int]]] = {i: [] for i in range(len(tree.cliques))}
    for parent, shared in zip(tree.parents, tree.separators, strict=True):
        if parent >= 0:
            below[parent].append(shared)
    cliques: list[Clique] = []
    for index, members in enumerate(tree.cliques):
        shared, parent = tree.separators[index], tree.parents[index]
        above = cliques[parent].nodes if parent >= 0 else ()
        first = [n for n in above if n in shared]
        # nodes that the same messages hold stand together, so that dimensions merge
        large = sorted(below[index], key=lambda s: -math.prod(sizes[n] for n in s))
        rest = sorted(members - shared, key=lambda n: ([n not in s for s in large], n))
        nodes = (*first, *rest)
        message, meeting = _meet(above, shared, sizes)
        cliques.append(
            Clique(
                nodes=nodes,
                parent=parent,
                separator=math.prod(sizes[n] for n in first),
                cells=math.prod(sizes[n] for n in nodes),
                message=message,
                meeting=meeting,
                summed=tuple(
                    i for i, (m, b) in enumerate(zip(message, meeting, strict=True)) if m != b
                ),
            )
        )
    return cliques


def _meet(
    nodes: Sequence[int], shared: frozenset[int], sizes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Merge neighbouring dimensions that a message has, and those that it has not."""
    message: list[int] = []
    meeting: list[int] = []
    before: bool | None = None
    for node in nodes:
        held, size = node in shared, sizes[node]
        if held is before:
            meeting[-1] *= size
            message[-1] *= size if held else 1
        else:
            meeting.append(size)
            message.append(size if held else 1)
        before = held
    return tuple(message), tuple(meeting)


def place_node(node: int, clique: int, cliques: Sequence[Clique], sizes: Sequence[int]) -> Place:
    """Tell how the cells of a clique are laid out around one of its nodes."""
    nodes = cliques[clique].nodes
    at = nodes.index(node)
    before = math.prod(sizes[n] for n in nodes[:at])
    after = math.prod(sizes[n] for n in nodes[at + 1 :])
    return Place(clique, (before, sizes[node], after))
