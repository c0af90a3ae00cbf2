"""Conversion of Bayesian networks from and to BIF files and networkx graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.bif import BIF, read_bif, write_bif
from ppl_zoo.models.discrete.bayes_net.graph import Graph

__all__ = ["NetworkFiles"]

Network = TypeVar("Network", bound="NetworkFiles")


class NetworkFiles:
    """Import and export of a Bayesian network, a base class of `BayesNet`."""

    # of BayesNet, which is made as cls(parents, states, **options)
    graph: Graph
    nodes: tuple[str, ...]
    states: dict[str, tuple[str, ...]]
    cpt: Callable[[str], Tensor]

    @classmethod
    def from_bif(cls: type[Network], source: Any, **options: Any) -> Network:
        """Read a network from a BIF file.

        Parameters
        ----------
        source
            A path, or the text itself. Any state names; rows are normalised.
        **options
            Of the model.

        Raises
        ------
        DataError
            If the file is malformed: its name, the line, what was found and what expected.
        """
        file = read_bif(source)
        options.setdefault("tables", file.tables)
        return cls(file.parents, file.states, **options)

    @classmethod
    def from_networkx(cls: type[Network], graph: Any, **options: Any) -> Network:
        """Convert a ``networkx.DiGraph``.

        Parameters
        ----------
        graph
            Its nodes have an attribute ``states`` (names or number), and perhaps ``table``
            ``(states of its parents..., states)`` and ``parents``, their order where the order of
            the edges is not that of the table.
        **options
            Of the model; ``states`` and ``tables`` too.

        Raises
        ------
        DataError
            If the graph is not directed, has a cycle, or a node has no states.
        """
        if not graph.is_directed():
            raise DataError("graph: got an undirected graph, expected a networkx.DiGraph")
        data = {str(node): dict(graph.nodes[node]) for node in graph}
        parents = {}
        for node in graph:
            edges = [str(p) for p in graph.predecessors(node)]
            order = [str(p) for p in data[str(node)].get("parents", edges)]
            if sorted(order) != sorted(edges):
                raise DataError(f"parents of {str(node)!r}: got {order}, but edges from {edges}")
            parents[str(node)] = order
        states = {n: d["states"] for n, d in data.items() if "states" in d}
        tables = {n: d["table"] for n, d in data.items() if "table" in d}
        return cls(parents, **{"states": states, "tables": tables, **options})

    def to_bif(self, path: str | Path | None = None) -> str:
        """Write the network as BIF; returns the text, and writes it to ``path`` if given."""
        text = write_bif(
            BIF(
                "unknown",
                dict(self.states),
                dict(self.graph.parents),
                {node: self.cpt(node) for node in self.nodes},
            )
        )
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_networkx(self) -> Any:
        """Return a ``networkx.DiGraph`` whose nodes have ``states``, ``parents`` and ``table``."""
        import networkx

        graph = networkx.DiGraph()
        for node, parents in self.graph.parents.items():
            table = self.cpt(node).cpu().numpy()
            graph.add_node(node, states=self.states[node], parents=parents, table=table)
        graph.add_edges_from((p, n) for n, above in self.graph.parents.items() for p in above)
        return graph
