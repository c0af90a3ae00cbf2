"""How a Bayes net comes about and goes out: tables, files, graphs, interventions, structures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete.bif import BIF, TOLERANCE, read_bif, write_bif
from ppl_zoo.models.discrete.evidence import Alphabet
from ppl_zoo.models.discrete.graph import Graph
from ppl_zoo.models.discrete.junction_tree import JunctionTree

__all__ = ["NetBuilding"]


class NetBuilding:
    """Construction, conversion and structure of a net of named nodes."""

    graph: Graph
    alphabet: Alphabet
    site_names: dict[str, str]
    table: Callable[[str], Tensor]

    # ---- from elsewhere ---------------------------------------------------------------------

    @classmethod
    def from_bif(cls, source: Any, **options: Any) -> Any:
        """Read a net from a BIF file.

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
    def from_networkx(cls, graph: Any, **options: Any) -> Any:
        """Take a ``networkx.DiGraph`` over.

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
            above = [str(p) for p in graph.predecessors(node)]
            order = [str(p) for p in data[str(node)].get("parents", above)]
            if sorted(order) != sorted(above):
                raise DataError(f"parents of {str(node)!r}: got {order}, but edges from {above}")
            parents[str(node)] = order
        states = {n: d["states"] for n, d in data.items() if "states" in d}
        tables = {n: d["table"] for n, d in data.items() if "table" in d}
        return cls(
            parents,
            **{"states": states, "tables": tables, **options},
        )

    # ---- to elsewhere -----------------------------------------------------------------------

    def to_bif(self, path: str | Path | None = None) -> str:
        """Write the net as BIF; returns the text, and writes it to ``path`` if that is given."""
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

    # ---- what there is ----------------------------------------------------------------------

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

    def cpt(self, node: str) -> Tensor:
        """Conditional probability table of a node, ``(states of its parents..., states)``."""
        self.alphabet.column(node)
        family = (*self.graph.parents[node], node)
        shape = [len(self.states[n]) for n in family]
        return self.table(f"{self.site_names[node]}_table").detach().reshape(shape)

    def set_tables(self, tables: Mapping[str, Any]) -> None:
        """Set tables, ``{node: (states of its parents..., states)}``; rows are normalised.

        Raises
        ------
        DataError
            If a node is unknown, a shape wrong, or a row does not sum to one (to a thousandth).
        """
        for node, values in tables.items():
            self.alphabet.column(node)
            site = self.site_names[node]
            try:
                table = torch.as_tensor(values, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError) as error:
                raise DataError(f"table of {node!r}: got no array of numbers: {error}") from error
            family = (*self.graph.parents[node], node)
            shape = tuple(len(self.states[n]) for n in family)
            if tuple(table.shape) not in (shape, (math.prod(shape[:-1]), shape[-1])):
                raise DataError(
                    f"table of {node!r}: got shape {tuple(table.shape)}, expected {shape}, "
                    f"the states of {family}"
                )
            table = table.reshape(-1, shape[-1])
            if not bool((table >= 0).all() & table.isfinite().all()):
                raise DataError(f"table of {node!r}: got {values!r}, expected probabilities")
            if not self.bayesian:
                total = table.sum(-1, keepdim=True)
                worst = float(total.flatten()[(total.flatten() - 1).abs().argmax()])
                if abs(worst - 1) > TOLERANCE * (1 + 1e-9):
                    raise DataError(
                        f"table of {node!r}: got a row that sums to {worst:.6g}, expected 1"
                    )
                table = table / total
            self.set_table(f"{site}_table", table)

    def node_tables(self) -> list[Tensor]:
        """Tables in the order of the columns, ``(configurations, states)`` each."""
        return [self.table(f"{site}_table") for site in self.site_names.values()]

    @cached_property
    def above(self) -> list[tuple[int, ...]]:
        """Columns of the parents of each node."""
        index = self.alphabet.index
        return [tuple(index[p] for p in self.graph.parents[node]) for node in self.nodes]

    @cached_property
    def tree(self) -> JunctionTree:
        """The junction tree, built when it is first asked for."""
        return JunctionTree(self.above, self.alphabet.sizes)

    @property
    def coords(self) -> dict[str, list[str]]:
        """Labels for ArviZ: configurations of the parents, and states, of each table."""
        labels = {}
        for node, site in self.site_names.items():
            rows = [""]
            for parent in self.graph.parents[node]:
                rows = [
                    f"{row}, {parent}={s}".removeprefix(", ")
                    for row in rows
                    for s in self.states[parent]
                ]
            labels[f"{site}_parents"] = rows
            labels[f"{site}_state"] = list(self.states[node])
        return labels

    def kl_divergence(self, other: Any) -> float:
        """Kullback-Leibler divergence from this net to another of the same graph, in nats.

        Closed form: the divergence of each row of a table, weighted by the probability of the
        parents' configuration.

        Raises
        ------
        DataError
            If the other net has other nodes, states or parents.
        """
        if other.graph.parents != self.graph.parents or other.states != self.states:
            raise DataError("other: got a net of other nodes or arrows, expected the same graph")
        with torch.enable_grad():
            own = [t.detach().double().requires_grad_() for t in self.node_tables()]
            log_evidence = self.tree.collect(self.tree.potentials(own), {}).log_evidence.sum()
        total = 0.0
        gradients = torch.autograd.grad(log_evidence, own)
        for table, gradient, theirs in zip(own, gradients, other.node_tables(), strict=True):
            table = table.detach()
            family = table * gradient  # its marginal distribution
            ratio = table.log() - theirs.detach().to(table).log()
            total += float(torch.where(family > 0, family * ratio, 0.0).sum())
        return max(total, 0.0)

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

    def _num_configurations(self, node: str) -> int:
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
    def _name_sites(nodes: Sequence[str]) -> dict[str, str]:
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
