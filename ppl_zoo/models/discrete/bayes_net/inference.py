"""Exact inference in a Bayesian network: marginals, explanations and draws given evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_zoo.core.display import call_text
from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.models.discrete.bayes_net.approximate import (
    Factors,
    likelihood_weighting,
    loopy_propagation,
)
from ppl_zoo.models.discrete.bayes_net.counts import configuration_index
from ppl_zoo.models.discrete.bayes_net.elimination import Elimination
from ppl_zoo.models.discrete.bayes_net.graph import Graph
from ppl_zoo.models.discrete.bayes_net.junction_tree import JunctionTree
from ppl_zoo.models.discrete.bayes_net.marginals import Marginals
from ppl_zoo.models.discrete.bayes_net.states import StateSpace

if TYPE_CHECKING:
    import xarray

__all__ = ["Explanation", "JunctionTreeInference"]

CELLS_PER_ELIMINATION = 2**20  # of one product, for all rows of a chunk

METHODS = ("exact", "loopy", "likelihood-weighting")


class Explanation(NamedTuple):
    """Most probable explanation: states of all nodes, and log probability with the evidence."""

    states: Int[Tensor, "rows nodes"]
    log_prob: Float[Tensor, " rows"]

    def __repr__(self) -> str:
        """Write the shapes of the fields."""
        return call_text(type(self).__name__, self._asdict())


class JunctionTreeInference:
    """Inference by junction tree, a chunk of rows at a time; a base class of `BayesNet`.

    Evidence is a mapping ``{node: name of its state}`` (a sequence of names for several rows), a
    data frame or one of its rows, or a tensor of codes ``(rows, nodes)`` with -1 for unobserved.
    A number names a state too: 1 is the state "1", never the second one.

    Soft evidence is a mapping ``{node: likelihoods}``, ``(states,)`` or ``(rows, states)``: the
    probability of an observation under each state.
    """

    # of BayesNet
    state_space: StateSpace
    graph: Graph
    tree: JunctionTree
    parent_columns: list[tuple[int, ...]]
    node_tables: Callable[[], list[Tensor]]
    # of Model
    device: torch.device
    dtype: torch.dtype
    _anchor: Tensor
    _parameters: dict[str, torch.nn.Parameter]

    #: identities and versions of the tables, and the clique potentials computed from them
    _cached_potentials: tuple[list[tuple], list[Tensor]] | None = None

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def marginals(
        self,
        evidence: Any = None,
        likelihood: Mapping[str, Any] | None = None,
        *,
        method: str = "exact",
        num_samples: int = 20_000,
        max_iterations: int = 1000,
    ) -> Marginals:
        """Posterior probabilities of the states of every node.

        Parameters
        ----------
        evidence, likelihood
            Hard and soft evidence.
        method
            "exact" by junction tree; "likelihood-weighting", or "loopy" belief propagation held
            against it, where the tree does not fit in memory.
        num_samples
            Draws of likelihood weighting for each row, from torch's global generator.
        max_iterations
            Of loopy propagation.

        Returns
        -------
        Marginals
            A dict ``{node: (rows, states)}``; an `ApproximateMarginals`, with the errors, where
            the method is not exact.

        Raises
        ------
        DataError
            If a node or state is unknown, or a shape is wrong.
        QueryError
            If the evidence of a row is impossible; the message says which. If the junction tree
            does not fit; the message says its size, and what is at hand.
        """
        if method not in METHODS:
            raise DataError(
                f"method: got {method!r}{did_you_mean(method, METHODS)}, expected one of {METHODS}"
            )
        if method != "exact":
            if num_samples < 1 or max_iterations < 1:
                raise DataError(
                    f"num_samples, max_iterations: got {num_samples}, {max_iterations}, expected "
                    "1 or more"
                )
            x, soft = self._evidence(evidence, likelihood)
            if method == "loopy":
                return loopy_propagation(self._factors(), x, soft, num_samples, max_iterations)
            return likelihood_weighting(self._factors(), x, soft, num_samples)
        stacked = self._node_marginals(evidence, likelihood)
        offsets = self.state_space.offsets
        found = {
            node: stacked[offsets[i] : offsets[i + 1]].T.contiguous()
            for i, node in enumerate(self.state_space.nodes)
        }
        return Marginals(found, self.state_space.states)

    @torch.no_grad()
    def log_evidence(
        self, evidence: Any = None, likelihood: Mapping[str, Any] | None = None
    ) -> Float[Tensor, " rows"]:
        """Log probability of the evidence, in nats, ``(rows,)``; -inf where it is impossible."""
        potentials = self._potentials()
        parts = [
            (self.tree.collect(potentials, given).log_evidence + scale).expand(len(x))
            for x, given, scale in self._chunks(evidence, likelihood)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def most_probable(
        self, evidence: Any = None, likelihood: Mapping[str, Any] | None = None
    ) -> Explanation:
        """Most probable states of all nodes together, given the evidence (max-product).

        Parameters
        ----------
        evidence, likelihood
            As for `marginals`.

        Returns
        -------
        Explanation
            ``states (rows, nodes)``, which `names` decodes, and ``log_prob (rows,)``.

        Raises
        ------
        QueryError
            If the evidence of a row is impossible.
        """
        potentials, states, log_probs = self._potentials(), [], []
        first = 0
        for x, given, scale in self._chunks(evidence, likelihood):
            best = self.tree.most_probable(potentials, given, len(x)).T.contiguous()
            log_prob = self._log_joint(self.node_tables(), best) + scale
            for node, vectors in given.items():
                vectors = vectors.expand(-1, len(x))
                log_prob = log_prob + vectors.gather(0, best[:, node][None])[0].log()
            self._refuse_impossible(log_prob, x, first)
            first += len(x)
            states.append(best)
            log_probs.append(log_prob)
        return Explanation(torch.cat(states), torch.cat(log_probs))

    @torch.no_grad()
    def query(
        self,
        nodes: str | Sequence[str],
        evidence: Any = None,
        likelihood: Mapping[str, Any] | None = None,
    ) -> xarray.DataArray:
        """Joint posterior of several nodes, by variable elimination.

        Parameters
        ----------
        nodes
            A node, or several.
        evidence, likelihood
            As for `marginals`.

        Returns
        -------
        xarray.DataArray
            Probabilities with a dimension for the rows of evidence and one for each node, whose
            coordinates are the names of its states: ``.sel(lung="yes", bronc="no")``.

        Raises
        ------
        QueryError
            If the evidence of a row is impossible, or a table does not fit in memory.
        """
        import xarray

        chosen = [nodes] if isinstance(nodes, str) else list(nodes)
        kept, parts, order = self._columns_of(chosen), [], []
        eliminations = self._eliminations(kept, evidence, likelihood, maximise=False)
        for rows, x, elimination in eliminations:
            joint = elimination.joint()
            joint = joint.expand(*joint.shape[:-1], len(x)).movedim(-1, 0)
            total = joint.flatten(1).sum(1)
            self._refuse_impossible(total.log() + elimination.scale, x, rows)
            parts.append(joint / total.view(-1, *[1] * len(kept)))
            order.append(rows)
        joint = torch.cat(parts)[torch.cat(order).argsort()]
        rows_dim = "rows"
        while rows_dim in chosen:
            rows_dim += "_"
        states = {node: list(self.state_space.states[node]) for node in chosen}
        return xarray.DataArray(joint.cpu().numpy(), states, [rows_dim, *chosen])

    @torch.no_grad()
    def map_query(
        self,
        nodes: str | Sequence[str],
        evidence: Any = None,
        likelihood: Mapping[str, Any] | None = None,
    ) -> Explanation:
        """Marginal MAP: most probable states of some nodes together, the others summed out.

        Parameters
        ----------
        nodes
            The nodes that are asked for; `most_probable` is for all of them.
        evidence, likelihood
            As for `marginals`.

        Returns
        -------
        Explanation
            ``states (rows, nodes of the network)``, -1 where not asked for, which `names`
            decodes; and ``log_prob (rows,)``, that of these states together with the evidence.

        Raises
        ------
        QueryError
            If the evidence of a row is impossible, or a table does not fit in memory.
        """
        kept = self._columns_of([nodes] if isinstance(nodes, str) else list(nodes))
        states, log_probs, order = [], [], []
        eliminations = self._eliminations(kept, evidence, likelihood, maximise=True)
        for rows, x, elimination in eliminations:
            best, log_prob = elimination.most_probable()
            self._refuse_impossible(log_prob, x, rows)
            states.append(torch.full_like(x, -1))
            states[-1][:, kept] = best.T
            log_probs.append(log_prob)
            order.append(rows)
        order = torch.cat(order).argsort()
        return Explanation(torch.cat(states)[order], torch.cat(log_probs)[order])

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Int[Tensor, "n nodes"]:
        """Draw rows from the joint (ancestral sampling), or from the exact posterior.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            Evidence: of one row for all draws, or of ``num_samples`` rows.

        Returns
        -------
        Tensor
            ``(num_samples, nodes)``.

        Raises
        ------
        DataError
            If ``given`` has another number of rows.
        QueryError
            If the evidence of a row is impossible.
        """
        if given is None:
            return self._ancestral(num_samples)
        x = self.state_space.evidence(given, self.device)
        if len(x) not in (1, num_samples):
            raise DataError(f"given: got {len(x)} rows, expected 1 or {num_samples}")
        potentials, drawn, first = self._potentials(), [], 0
        for chunk, likelihoods, scale in self._chunks(x, None):
            collected = self.tree.collect(potentials, likelihoods)
            log_evidence = (collected.log_evidence + scale).expand(len(chunk))
            self._refuse_impossible(log_evidence, chunk, first)
            first += len(chunk)
            count = num_samples if len(x) == 1 else len(chunk)
            columns = torch.arange(count, device=x.device) if len(x) > 1 else x.new_zeros(count)
            for part in columns.split(self.tree.chunk_rows(self.device)):
                drawn.append(self.tree.sample(collected, part).T)
        return torch.cat(drawn) if drawn else x.new_zeros((0, x.shape[1]))

    # ---- pieces -----------------------------------------------------------------------------

    def _potentials(self) -> list[Tensor]:
        """Clique potentials, products of tables; cached until a table changes."""
        own = self._parameters.values()
        version = [(id(p), p._version, p.data_ptr(), p.dtype) for p in own]
        if self._cached_potentials is None or self._cached_potentials[0] != version:
            with torch.no_grad():
                self._cached_potentials = version, self.tree.potentials(self.node_tables())
        return self._cached_potentials[1]

    def _chunks(
        self, evidence: Any, likelihood: Mapping[str, Any] | None
    ) -> Iterator[tuple[Tensor, dict[int, Tensor], Tensor]]:
        """Chunks of rows, likelihoods ``{node: (states, rows)}`` and log scales ``(rows,)``.

        Likelihoods are scaled to a maximum of one, so that products do not underflow.
        """
        x, soft = self._evidence(evidence, likelihood)
        rows = len(x)
        size = self.tree.chunk_rows(self.device)
        for first in range(0, max(rows, 1), size):
            part = x[first : first + size]
            given, scale = self._likelihoods(part), self._anchor.new_zeros(len(part))
            for node, vectors in soft.items():
                vectors = vectors[:, first : first + size]
                top = vectors.amax(0).clamp_min(torch.finfo(vectors.dtype).tiny)
                scale = scale + top.log()
                given[node] = given[node] * (vectors / top) if node in given else vectors / top
            yield part, given, scale

    def _evidence(
        self, evidence: Any, likelihood: Mapping[str, Any] | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Hard evidence ``(rows, nodes)`` and soft ``{node: (states, rows)}``, of equal length."""
        x = self.state_space.evidence(evidence, self.device)
        soft = self.state_space.soft_evidence(likelihood, self._anchor)
        sizes = {v.shape[1] for v in (*soft.values(), x.T)} - {1}
        if len(sizes) > 1:
            raise DataError(
                f"evidence: got {len(x)} rows, and likelihoods of "
                f"{sorted({v.shape[1] for v in soft.values()})}, expected one number of rows"
            )
        rows = max([len(x), *(v.shape[1] for v in soft.values())]) if len(x) else 0
        x = x.expand(rows, -1)
        soft = {node: v.expand(-1, rows) for node, v in soft.items()}
        return x, soft

    def _columns_of(self, nodes: Sequence[str]) -> list[int]:
        """Columns of the nodes of a query."""
        columns = [self.state_space.column(node) for node in nodes]
        if not columns or len(set(columns)) < len(columns):
            raise DataError(f"nodes: got {list(nodes)}, expected one or more, each once")
        return columns

    def _eliminations(
        self, kept: list[int], evidence: Any, likelihood: Mapping[str, Any] | None, maximise: bool
    ) -> Iterator[tuple[Tensor, Tensor, Elimination]]:
        """Variable elimination of rows that observe the same nodes: their indices, and they."""
        x, soft = self._evidence(evidence, likelihood)
        tables, sizes = self.node_tables(), self.state_space.sizes

        def elimination(rows: Tensor) -> Elimination:
            own = {node: vectors.expand(-1, len(x))[:, rows] for node, vectors in soft.items()}
            return Elimination(self.parent_columns, sizes, tables, x[rows], own, kept)

        patterns, group = (x >= 0).unique(dim=0, return_inverse=True)
        for pattern in range(len(patterns)):
            rows = (group == pattern).nonzero()[:, 0]
            cells = elimination(rows[:1]).plan(maximise)[2]
            for some in rows.split(max(1, CELLS_PER_ELIMINATION // cells)):
                yield some, x[some], elimination(some)

    def _factors(self) -> Factors:
        """Tables and arrows, for approximate inference."""
        index = self.state_space.index
        return Factors(
            nodes=self.state_space.nodes,
            order=[index[node] for node in self.graph.order],
            parents=self.parent_columns,
            sizes=self.state_space.sizes,
            tables=self.node_tables(),
        )

    def _likelihoods(self, x: Tensor, seen: list[int] | None = None) -> dict[int, Tensor]:
        """One-hot likelihoods of rows of integers, ``{node: (states, rows)}``; 1 where missing.

        ``seen`` are the nodes with values, where they are known.
        """
        columns = x.T.contiguous()
        observed = columns >= 0
        if seen is None:
            seen = observed.any(1).nonzero()[:, 0].tolist()
        if not seen:
            return {}
        sizes = self.state_space.sizes
        picked = [node for node in seen for _ in range(sizes[node])]
        states = [state for node in seen for state in range(sizes[node])]
        pick = torch.tensor(picked, device=x.device)
        state = torch.tensor(states, device=x.device)[:, None]
        hot = columns.index_select(0, pick).eq(state).to(self.dtype)
        hot += (~observed).to(self.dtype).index_select(0, pick)
        parts = hot.split([sizes[node] for node in seen])
        return dict(zip(seen, parts, strict=True))

    def _node_marginals(self, evidence: Any, likelihood: Mapping[str, Any] | None) -> Tensor:
        """Marginals of all nodes, stacked: ``(states of all nodes, rows)``."""
        potentials, parts, first = self._potentials(), [], 0
        for x, given, scale in self._chunks(evidence, likelihood):
            collected = self.tree.collect(potentials, given)
            self._refuse_impossible((collected.log_evidence + scale).expand(len(x)), x, first)
            first += len(x)
            beliefs = self.tree.distribute(collected)
            marginals = (self.tree.node_marginal(beliefs, i) for i in range(len(x.T)))
            parts.append(torch.cat([m.expand(-1, len(x)) for m in marginals]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _refuse_impossible(self, log_prob: Tensor, x: Tensor, rows: Tensor | int) -> None:
        """Refuse rows of probability 0; ``rows`` are their indices, or that of the first."""
        possible = log_prob > -torch.inf
        if not bool(possible.all()):
            row = int((~possible).nonzero()[0, 0])
            seen = self.state_space.names(x[row : row + 1])[0]
            assignment = ", ".join(f"{n}={s}" for n, s in list(seen.items())[:20])
            index = rows + row if isinstance(rows, int) else int(rows[row])
            raise QueryError(f"evidence: row {index} has probability 0 ({assignment})")

    def _log_joint(self, tables: Sequence[Tensor], x: Tensor) -> Tensor:
        """Log density of complete rows, ``(rows,)``; gradients reach the tables."""
        columns = x.T.contiguous()
        total: Any = 0.0
        for node, (parents, table) in enumerate(zip(self.parent_columns, tables, strict=True)):
            code = configuration_index(columns, (*parents, node), self.state_space.sizes)
            total = total + table.reshape(-1).index_select(0, code).log()
        return total

    def _ancestral(self, num_samples: int) -> Tensor:
        """Ancestral sampling, parents first, ``(num_samples, nodes)``."""
        columns: list[Any] = [None] * len(self.state_space.nodes)
        tables = self.node_tables()
        for name in self.graph.order:
            node = self.state_space.index[name]
            code = configuration_index(columns, self.parent_columns[node], self.state_space.sizes)
            table = tables[node].reshape(-1, tables[node].shape[-1]).cumsum(-1)
            if code is None:
                code = torch.zeros(num_samples, dtype=torch.int64, device=self.device)
            # 1 - rand lies in (0, 1]: a state of probability 0 is never drawn
            level = 1.0 - torch.rand(num_samples, dtype=table.dtype, device=table.device)
            level = level * table[:, -1].index_select(0, code)
            columns[node] = torch.zeros_like(code)
            for state in range(table.shape[1] - 1):
                columns[node] += level > table[:, state].index_select(0, code)
        return torch.stack(columns, 1)
