"""A Bayes net of named nodes: its graph, interventions, and the rows that it takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete.evidence import Alphabet
from ppl_zoo.models.discrete.graph import Graph
from ppl_zoo.models.discrete.junction_tree import JunctionTree
from ppl_zoo.models.discrete.net_files import NetFiles
from ppl_zoo.models.discrete.net_tables import NetTables

__all__ = ["NetBuilding"]


class NetBuilding(NetFiles, NetTables):
    """Structure, interventions and rows of a net of named nodes."""

    graph: Graph
    alphabet: Alphabet
    site_names: dict[str, str]

    def do(self, settings: Mapping[str, Any]) -> Any:
        """Intervene: set nodes from outside, which cuts them off from their parents.

        Parameters
        ----------
        settings
            ``{node: state}``, or ``{node: probabilities of its states}``.

        Returns
        -------
        BayesNet
            The net after the intervention (Pearl 2009, Causality, section 3.2).
        """
        parents = dict(self.graph.parents)
        tables = {node: self.cpt(node).cpu() for node in self.nodes}
        for node, setting in settings.items():
            size = self.alphabet.sizes[self.alphabet.column(node)]
            one_hot = [0.0] * size
            if isinstance(setting, str) or not hasattr(setting, "__len__"):
                code = self.alphabet.code(node, setting)
                if code < 0:
                    raise DataError(f"{node}: got {setting!r}, expected a state to set it to")
                one_hot[code] = 1.0
                setting = one_hot
            parents[node], tables[node] = (), setting
        return type(self)(parents, self.states, tables).to(self.device, self.dtype)

    def draw(self, evidence: Any = None, *, marginals: bool = False, axes: Any = None) -> Any:
        """Draw the net with matplotlib, parents above their children.

        Parameters
        ----------
        evidence
            Evidence of one row; its nodes are shaded.
        marginals
            Whether to show each node's probabilities given the evidence as bars.
        axes
            Where to draw; a new figure where left out.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from ppl_zoo.models.discrete.drawing import draw_net

        return draw_net(self, evidence, marginals=marginals, axes=axes)

    # ---- the graph --------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, in the order of the columns."""
        return self.alphabet.nodes

    @property
    def states(self) -> dict[str, tuple[str, ...]]:
        """Names of the states of each node."""
        return self.alphabet.states

    def parents_of(self, node: str) -> tuple[str, ...]:
        """Parents of a node, in the order of its table."""
        return self.graph.parents[self.nodes[self.alphabet.column(node)]]

    def children_of(self, node: str) -> tuple[str, ...]:
        """Children of a node."""
        return self.graph.children[self.nodes[self.alphabet.column(node)]]

    def markov_blanket(self, node: str) -> set[str]:
        """Parents, children and their other parents: what shields a node from all others."""
        self.alphabet.column(node)
        return self.graph.markov_blanket(node)

    def d_separated(self, a: Any, b: Any, given: Any = ()) -> bool:
        """Whether the graph says that ``a`` is independent of ``b`` given ``given``.

        Parameters
        ----------
        a, b, given
            Each a node, or several.
        """
        sets = [{v} if isinstance(v, str) else set(v) for v in (a, b, given)]
        for node in set().union(*sets):
            self.alphabet.column(node)
        return self.graph.d_separated(*sets)

    def names(self, x: Tensor) -> list[dict[str, str]]:
        """Put rows of numbers into words: ``{node: state}`` each, what is missing left out."""
        return self.alphabet.names(x)

    @cached_property
    def above(self) -> list[tuple[int, ...]]:
        """Columns of the parents of each node."""
        index = self.alphabet.index
        return [tuple(index[p] for p in self.graph.parents[node]) for node in self.nodes]

    @cached_property
    def tree(self) -> JunctionTree:
        """The junction tree, built when it is first asked for."""
        return JunctionTree(self.above, self.alphabet.sizes)

    # ---- data -------------------------------------------------------------------------------

    def as_rows(self, data: Any) -> Rows:
        """Read rows: whole numbers, or columns of names or numbers by node (or by its site)."""
        if isinstance(data, tuple) and len(data) == 1:
            data = data[0]
        if isinstance(data, Mapping):
            nodes = {site: node for node, site in self.site_names.items()}
            known = self.alphabet.index
            data = {k if k in known else nodes.get(k, k): v for k, v in data.items()}
        return super().as_rows(data if isinstance(data, Rows) else self.alphabet.rows(data))

    def check_data(self, rows: Rows) -> None:
        """Refuse rows of another width, numbers that are no states, and -1 without ``missing``."""
        first = 0
        for (x,) in rows.chunks(65536):
            complete = self.alphabet.check(x, first)
            if not (complete or self.allow_missing):
                row, column = (x < 0).nonzero()[0].tolist()
                raise DataError(
                    f"x: node {self.nodes[column]!r} is missing (-1) at row {first + row}, "
                    "expected complete rows (nets made with missing=True take -1)"
                )
            first += len(x)

    def remember(self, rows: Rows, guide: Any = None) -> None:
        """Keep what queries after a fit need; a complete row, so that every node is drawn anew."""
        super().remember(rows, guide)
        self.__dict__["_example"] = tuple((t.clamp_min(0), p) for t, p in self._example)

    def input_names(self, *data: Any) -> tuple[str, ...]:
        """Return no names: x is observed, though column by column."""
        return ()

    # ---- pieces -----------------------------------------------------------------------------

    def num_configurations(self, node: str) -> int:
        """Count the configurations of a node's parents."""
        return math.prod(len(self.alphabet.states[p]) for p in self.graph.parents[node])

    @staticmethod
    def read_states(parents: Mapping[str, Any], states: Any) -> dict[str, tuple[str, ...]]:
        """Read names of states, or their number, for every node."""
        if not isinstance(states, Mapping) or set(states) != set(parents):
            given = sorted(states) if isinstance(states, Mapping) else states
            raise DataError(f"states: got {given}, expected those of {sorted(parents)}")
        read = {}
        for node in parents:
            own = states[node]
            names = [str(i) for i in range(own)] if isinstance(own, int) else list(map(str, own))
            if not names or len(set(names)) < len(names):
                raise DataError(f"states of {node!r}: got {own}, expected one or more, each once")
            read[node] = tuple(names)
        return read

    @staticmethod
    def name_sites(nodes: Sequence[str]) -> dict[str, str]:
        """Sites bear the nodes' names, as lower-case identifiers, each once."""
        sites: dict[str, str] = {}
        taken = {"rows"}  # the plate
        for node in nodes:
            site = re.sub(r"\W", "_", node.lower())
            if not site.isidentifier():
                site = f"node_{site}"
            stem, number = site, 1
            while {site, f"{site}_table", f"{site}_seen"} & taken:
                number += 1
                site = f"{stem}_{number}"
            taken |= {site, f"{site}_table", f"{site}_seen"}
            sites[node] = site
        return sites
