"""The tables of a Bayes net by the names of its nodes: read, set, labelled and compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete.bif_parser import TOLERANCE
from ppl_zoo.models.discrete.evidence import Alphabet
from ppl_zoo.models.discrete.graph import Graph
from ppl_zoo.models.discrete.junction_tree import JunctionTree

__all__ = ["NetTables"]


class NetTables:
    """Tables of a net of named nodes, ``(states of its parents..., states)`` each."""

    graph: Graph
    alphabet: Alphabet
    tree: JunctionTree
    states: dict[str, tuple[str, ...]]
    site_names: dict[str, str]
    table: Callable[[str], Tensor]
    set_table: Callable[[str, Any], None]
    bayesian: bool

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
