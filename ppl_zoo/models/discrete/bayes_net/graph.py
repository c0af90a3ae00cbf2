"""Directed acyclic graph of named nodes: order, ancestors, d-separation, Markov blanket."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from ppl_zoo.core.errors import DataError

__all__ = ["Graph", "find_cycle"]


def find_cycle(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the nodes of a cycle, along its arrows and back to the first; [] if there is none."""
    try:
        TopologicalSorter(parents).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


class Graph:
    """Directed acyclic graph, kept as the parents of each node.

    Parameters
    ----------
    parents
        ``{node: its parents}``, in the order in which a table has its dimensions.

    Raises
    ------
    DataError
        If a parent is no node, stands twice, or there is a cycle; the message shows it.

    Examples
    --------
    >>> graph = Graph({"rain": [], "sprinkler": ["rain"], "wet": ["rain", "sprinkler"]})
    >>> graph.order, graph.children["rain"]
    (('rain', 'sprinkler', 'wet'), ('sprinkler', 'wet'))
    """

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        self.parents = {node: tuple(above) for node, above in parents.items()}
        children: dict[str, list[str]] = {node: [] for node in self.parents}
        for node, above in self.parents.items():
            for parent in above:
                if parent not in children:
                    raise DataError(
                        f"parents of {node!r}: got {parent!r}, expected a node of the net"
                    )
                children[parent].append(node)
            if len(set(above)) < len(above):
                raise DataError(f"parents of {node!r}: got {above}, expected each of them once")
        self.children = {node: tuple(below) for node, below in children.items()}
        if cycle := find_cycle(self.parents):
            raise DataError(f"parents: got the cycle {' -> '.join(cycle)}, expected none")
        self.order = tuple(TopologicalSorter(self.parents).static_order())

    def ancestors(self, nodes: Iterable[str]) -> set[str]:
        """Return the nodes themselves and all their ancestors."""
        found, waiting = set(), list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += self.parents[node]
        return found

    def markov_blanket(self, node: str) -> set[str]:
        """Markov blanket: parents, children, and the children's other parents."""
        found = {*self.parents[node], *self.children[node]}
        for child in self.children[node]:
            found |= set(self.parents[child])
        return found - {node}

    def d_separated(
        self, a: Collection[str], b: Collection[str], given: Collection[str] = ()
    ) -> bool:
        """Whether two sets of nodes are d-separated: a third blocks every trail between them.

        The reachability algorithm of Koller & Friedman 2009, algorithm 3.1.
        """
        given = set(given)
        opened = self.ancestors(given)  # colliders that the evidence opens
        waiting = [(node, True) for node in a]  # True: the trail came from a child
        seen: set[tuple[str, bool]] = set()
        targets = set(b)
        while waiting:
            node, from_child = step = waiting.pop()
            if step in seen:
                continue
            seen.add(step)
            if node not in given and node in targets:
                return False
            if node not in given:
                waiting += [(child, False) for child in self.children[node]]
                if from_child:
                    waiting += [(parent, True) for parent in self.parents[node]]
            if not from_child and node in opened:
                waiting += [(parent, True) for parent in self.parents[node]]
        return True
