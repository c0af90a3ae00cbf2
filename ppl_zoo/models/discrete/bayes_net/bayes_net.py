"""Bayesian network: a joint distribution as a product of conditional probability tables."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.indexing import Vindex
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.discrete.bayes_net.counts import (
    as_columns,
    configuration_index,
    family_counts,
)
from ppl_zoo.models.discrete.bayes_net.graph import Graph
from ppl_zoo.models.discrete.bayes_net.inference import JunctionTreeInference
from ppl_zoo.models.discrete.bayes_net.io import NetworkFiles
from ppl_zoo.models.discrete.bayes_net.junction_tree import JunctionTree
from ppl_zoo.models.discrete.bayes_net.learning import StructureLearning
from ppl_zoo.models.discrete.bayes_net.network_file import MAX_ROW_SUM_ERROR
from ppl_zoo.models.discrete.bayes_net.states import StateSpace, read_states
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["BayesNet"]

ROWS_PER_CHUNK = 65_536
#: a table beyond this (512 MiB in double precision) is refused before it is built
MAX_CELLS_PER_TABLE = 2**26


class BayesNet(JunctionTreeInference, StructureLearning, NetworkFiles, CountedModel):
    """Bayesian network of discrete variables.

    Generative model, for each row n, parents before their children::

        node[n] ~ Categorical(table[parents of the node in row n])

    Sites bear the nodes' names, in lower case. Missing values of a row, -1, are latent: the guide
    draws them from their exact posterior, so that the evidence lower bound is the log density.
    All queries are exact, by a junction tree; where it does not fit in memory, marginals may be
    approximate.

    With ``bayesian=True`` the tables are latent too, each row of a table with a Dirichlet prior::

        table[configuration] ~ Dirichlet(concentration)

    Parameters
    ----------
    parents
        ``{node: its parents}``; the order of the nodes is that of the columns.
    states
        ``{node: names of its states}``, in order, or their number. Values of data frames and
        evidence are matched to them by name.
    tables
        ``{node: table}``, ``(states of its parents..., states)``; uniform where left out.
    concentration
        Dirichlet prior of the rows, a number or ``{node: number or table}``. EM finds the mode.
    bayesian
        Whether tables are latent variables; a fit then has a posterior, exact where no value is
        missing.
    missing
        Whether the rows of a fit may have -1 for "not observed"; nodes without any value are
        latent variables. Queries take -1 in any case.

    References
    ----------
    Pearl 1988, Probabilistic Reasoning in Intelligent Systems; Lauritzen & Spiegelhalter 1988,
    Local computations with probabilities on graphical structures, JRSS B 50,
    https://doi.org/10.1111/j.2517-6161.1988.tb01721.x. Learning: Heckerman 1995, A tutorial on
    learning with Bayesian networks, https://arxiv.org/abs/2002.00269

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> net = zoo.BayesNet(
    ...     {"rain": [], "sprinkler": ["rain"], "wet": ["rain", "sprinkler"]},
    ...     states={"rain": ["no", "yes"], "sprinkler": ["off", "on"], "wet": ["no", "yes"]},
    ...     tables={
    ...         "rain": [0.8, 0.2],
    ...         "sprinkler": [[0.6, 0.4], [0.99, 0.01]],
    ...         "wet": [[[1.0, 0.0], [0.1, 0.9]], [[0.2, 0.8], [0.01, 0.99]]],
    ...     },
    ... )
    >>> round(net.marginals({"wet": "yes"})["rain"][0, 1].item(), 4)
    0.3577
    >>> net.names(net.most_probable({"wet": "yes"}).states)
    [{'rain': 'no', 'sprinkler': 'on', 'wet': 'yes'}]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}

    def __init__(
        self,
        parents: Mapping[str, Sequence[str]],
        states: Mapping[str, Any],
        tables: Mapping[str, Any] | None = None,
        *,
        concentration: Any = 1.0,
        bayesian: bool = False,
        missing: bool = False,
    ) -> None:
        super().__init__(bayesian=bayesian)
        self.allow_missing = missing
        self.double()  # published networks are compared to ten digits
        self.graph = Graph(parents)
        self.state_space = StateSpace(read_states(parents, states))
        if "states" in self.config:  # what a saved fit repeats: names, whatever they came as
            self.config = {**self.config, "states": self.state_space.as_given()}
        self.site_names = _name_sites(self.state_space.nodes)
        for node, site in self.site_names.items():
            shape = (self.num_configurations(node), len(self.state_space.states[node]))
            if math.prod(shape) > MAX_CELLS_PER_TABLE:
                raise DataError(
                    f"table of {node!r}: got {math.prod(shape):,} cells, for "
                    f"{len(self.graph.parents[node])} parents, expected at most "
                    f"{MAX_CELLS_PER_TABLE:,}; put nodes of fewer parents in between"
                )
            own = concentration
            if isinstance(concentration, Mapping):
                own = torch.as_tensor(concentration.get(node, 1.0), dtype=self.dtype)
                own = own.reshape(shape) if own.ndim else own
            self.add_table(f"{site}_table", shape, own)
        self.event_dims = {
            f"{site}_table": (f"{site}_parents", f"{site}_state")
            for site in self.site_names.values()
        }
        self.set_tables(tables or {})

    # ---- the generative model and its posterior ---------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw each node given its parents; ``x (n, nodes)``, -1 where missing."""
        tables, x = self.draw_tables(), x.long()
        complete = [not (self.allow_missing and bool((c < 0).any())) for c in x.T]
        with self.observations("rows", x):
            values: list[Any] = [None] * len(complete)
            for node, site, conditional in self._conditionals(tables, values):
                column = x[:, node]
                if complete[node]:
                    values[node] = pyro.sample(site, conditional, obs=column)
                    continue
                values[node] = pyro.sample(site, conditional, infer={"enumerate": "parallel"})
                agrees = (column < 0) | (values[node] == column)
                pyro.factor(f"{site}_seen", agrees.to(self.dtype).log())

    def guide(self, x: Tensor) -> None:
        """Draw tables from q, and missing values from their exact posterior."""
        self.draw_posterior()
        x = x.long()
        latent: list[str] = []
        if self.allow_missing:
            missing = (x < 0).any(0).tolist()
            latent = [n for n in self.graph.order if missing[self.state_space.index[n]]]
        if not latent:
            return
        seen = (x >= 0).any(0).nonzero()[:, 0].tolist()
        with torch.no_grad():  # the bound is tight: its gradient does not pass through q
            potentials = self.tree.potentials(
                [self._e_step_table(f"{site}_table") for site in self.site_names.values()]
            )
        with self.observations("rows", x):
            columns = list(x.T)
            for name in latent:
                node = self.state_space.index[name]
                posterior = self._posterior(potentials, columns, node, seen, name == latent[0])
                z = pyro.sample(self.site_names[name], posterior)
                columns[node] = torch.where(x[:, node] < 0, z, x[:, node])
                seen = sorted({*seen, node})

    def _conditionals(
        self, tables: Mapping[str, Tensor], values: list[Any]
    ) -> Iterator[tuple[int, str, dist.Categorical]]:
        """Conditional distribution of each node given the values so far, parents first."""
        for name in self.graph.order:
            node, site = self.state_space.index[name], self.site_names[name]
            code = configuration_index(values, self.parent_columns[node], self.state_space.sizes)
            table = tables[f"{site}_table"].log()
            logits = table[..., 0, :] if code is None else Vindex(table)[..., code, :]
            yield node, site, dist.Categorical(logits=logits)

    @torch.no_grad()
    def _posterior(
        self,
        potentials: Sequence[Tensor],
        columns: Sequence[Tensor],
        node: int,
        seen: list[int],
        first: bool,
    ) -> dist.Categorical:
        """Posterior of a node given columns that may have draws on their left.

        ``seen`` are the nodes with values; the first of the nodes is drawn given the data alone,
        which are held against the net.
        """
        wide = torch.broadcast_tensors(*columns)
        flat = torch.stack([c.reshape(-1) for c in wide], 1)
        parts = []
        for x in flat.split(self.tree.chunk_rows(self.device)):
            collected = self.tree.collect(potentials, self._likelihoods(x, seen))
            if first:
                self._refuse_impossible(collected.log_evidence.expand(len(x)), x, 0)
            marginal = self.tree.node_marginal(self.tree.distribute(collected), node)
            parts.append(marginal.expand(-1, len(x)).T)
        return dist.Categorical(logits=torch.cat(parts).log().reshape(*wide[0].shape, -1))

    # ---- the tables, by the names of the nodes ----------------------------------------------

    def cpt(self, node: str) -> Tensor:
        """Conditional probability table of a node, ``(states of its parents..., states)``."""
        self.state_space.column(node)
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
            self.state_space.column(node)
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
                if abs(worst - 1) > MAX_ROW_SUM_ERROR * (1 + 1e-9):
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
        """Coordinates for ArviZ: the parents' configurations and the states of each table."""
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

    def kl_divergence(self, other: BayesNet) -> float:
        """Kullback-Leibler divergence from this network to another of the same graph, in nats.

        Closed form: the divergence of each row of a table, weighted by the probability of the
        parents' configuration.

        Raises
        ------
        DataError
            If the other network has other nodes, states or parents.
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
            family = table * gradient  # marginal distribution of the node and its parents
            ratio = table.log() - theirs.detach().to(table).log()
            total += float(torch.where(family > 0, family * ratio, 0.0).sum())
        return max(total, 0.0)

    # ---- the graph --------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes, in the order of the columns."""
        return self.state_space.nodes

    @property
    def states(self) -> dict[str, tuple[str, ...]]:
        """Names of the states of each node."""
        return self.state_space.states

    def parents_of(self, node: str) -> tuple[str, ...]:
        """Parents of a node, in the order of its table."""
        return self.graph.parents[self.nodes[self.state_space.column(node)]]

    def children_of(self, node: str) -> tuple[str, ...]:
        """Children of a node."""
        return self.graph.children[self.nodes[self.state_space.column(node)]]

    def markov_blanket(self, node: str) -> set[str]:
        """Markov blanket: parents, children, and the children's other parents."""
        self.state_space.column(node)
        return self.graph.markov_blanket(node)

    def d_separated(
        self,
        a: str | Collection[str],
        b: str | Collection[str],
        given: str | Collection[str] = (),
    ) -> bool:
        """Whether ``a`` and ``b`` are d-separated by ``given``, hence independent given it.

        Parameters
        ----------
        a, b, given
            Each a node, or several.
        """
        sets = [{v} if isinstance(v, str) else set(v) for v in (a, b, given)]
        for node in set().union(*sets):
            self.state_space.column(node)
        return self.graph.d_separated(*sets)

    def __repr__(self) -> str:
        """Write the size of the network; its tables are many."""
        arcs = sum(len(above) for above in self.graph.parents.values())
        return (
            f"{self.model_name}({len(self.graph.parents)} nodes, {arcs} arcs, "
            f"{self.num_free_parameters} free parameters)"
        )

    def num_configurations(self, node: str) -> int:
        """Count the configurations of a node's parents."""
        return math.prod(len(self.states[p]) for p in self.graph.parents[node])

    @cached_property
    def parent_columns(self) -> list[tuple[int, ...]]:
        """Columns of the parents of each node."""
        index = self.state_space.index
        return [tuple(index[p] for p in self.graph.parents[node]) for node in self.nodes]

    @cached_property
    def tree(self) -> JunctionTree:
        """The junction tree, built at the first query."""
        return JunctionTree(self.parent_columns, self.state_space.sizes)

    def do(self, settings: Mapping[str, Any]) -> BayesNet:
        """Intervene: set nodes from outside, which cuts them off from their parents.

        Parameters
        ----------
        settings
            ``{node: state}``, or ``{node: probabilities of its states}``.

        Returns
        -------
        BayesNet
            The network after the intervention (Pearl 2009, Causality, section 3.2).
        """
        parents = dict(self.graph.parents)
        tables = {node: self.cpt(node).cpu() for node in self.nodes}
        for node, setting in settings.items():
            size = self.state_space.sizes[self.state_space.column(node)]
            one_hot = [0.0] * size
            if isinstance(setting, str) or not hasattr(setting, "__len__"):
                code = self.state_space.code(node, setting)
                if code < 0:
                    raise DataError(f"{node}: got {setting!r}, expected a state to set it to")
                one_hot[code] = 1.0
                setting = one_hot
            parents[node], tables[node] = (), setting
        return type(self)(parents, self.states, tables).to(self.device, self.dtype)

    def draw(self, evidence: Any = None, *, marginals: bool = False, axes: Any = None) -> Any:
        """Plot the network with matplotlib, parents above their children.

        Parameters
        ----------
        evidence
            Evidence of one row; its nodes are shaded.
        marginals
            Whether to show the posterior probabilities of each node's states.
        axes
            Where to plot; a new figure where left out.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from ppl_zoo.models.discrete.bayes_net.plot import plot_network

        observed = self.state_space.evidence(evidence, self.device)[0].tolist()
        return plot_network(
            self.graph,
            self.states,
            observed=observed,
            marginals=self.marginals(evidence) if marginals else None,
            axes=axes,
        )

    # ---- data -------------------------------------------------------------------------------

    def as_rows(self, data: Any) -> Rows:
        """Read rows: integers, or columns of names or integers by node (or by its site)."""
        if isinstance(data, tuple) and len(data) == 1:
            data = data[0]
        if isinstance(data, Mapping):
            nodes = {site: node for node, site in self.site_names.items()}
            known = self.state_space.index
            data = {k if k in known else nodes.get(k, k): v for k, v in data.items()}
        return super().as_rows(data if isinstance(data, Rows) else self.state_space.rows(data))

    def named_coords(self) -> dict[str, list[str]]:
        """Names along dimensions, for ArviZ: :attr:`coords`."""
        return self.coords

    def learn_names(self, data: Any) -> None:
        """Take none: the net has the names of its nodes and states."""

    def check_data(self, rows: Rows) -> None:
        """Refuse rows of another width, codes that are no states, and -1 without ``missing``."""
        first = 0
        for (x,) in rows.chunks(ROWS_PER_CHUNK):
            complete = self.state_space.check(x, first)
            if not (complete or self.allow_missing):
                row, column = (x < 0).nonzero()[0].tolist()
                raise DataError(
                    f"x: node {self.nodes[column]!r} is missing (-1) at row {first + row}, "
                    "expected complete rows (nets made with missing=True take -1)"
                )
            first += len(x)

    def names(self, x: Tensor) -> list[dict[str, str]]:
        """Name the states of rows of integers: ``{node: state}`` each, missing ones left out."""
        return self.state_space.names(x)

    def remember(self, rows: Rows, guide: Any = None) -> None:
        """Keep what queries after a fit need; a complete row, so that every node is observed."""
        super().remember(rows, guide)
        self.example = tuple((t.clamp_min(0), p) for t, p in self.example)

    def input_names(self, *data: Any) -> tuple[str, ...]:
        """Return no names: x is observed, though column by column."""
        return ()

    # ---- EM ---------------------------------------------------------------------------------

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Log density of each row, missing values summed out; gradients reach the tables."""
        x = x.long()
        mine = [tables[f"{site}_table"] for site in self.site_names.values()]
        complete = (x >= 0).all(1)
        if bool(complete.all()):
            return self._log_joint(mine, x)
        some = complete.nonzero()[:, 0], (~complete).nonzero()[:, 0]
        potentials = self.tree.potentials(mine)
        parts = [self._log_joint(mine, x[some[0]])]
        for rows in some[1].split(self.tree.chunk_rows(x.device)):
            collected = self.tree.collect(potentials, self._likelihoods(x[rows]))
            parts.append(collected.log_evidence.expand(len(rows)))
        return torch.cat(parts)[torch.cat(some).argsort()]

    def expected_counts(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step, see `CountedModel`; a chunk of rows at a time, so that memory stays bounded."""
        x = batch[0]
        complete = None if int(x.min()) >= 0 else (x >= 0).all(1)
        total = self._complete_counts(x if complete is None else x[complete])
        if complete is None:
            return total
        rest = (~complete).nonzero()[:, 0]
        for rows in rest.split(self.tree.chunk_rows(x.device)):
            counts = super().expected_counts(x[rows])
            if not bool(counts["log_likelihood"].isfinite()):
                self._refuse_impossible(self.log_prob(x[rows]), x[rows], rows)
            for name, value in counts.items():
                total[name] = total[name] + value
        return total

    @torch.no_grad()
    def _complete_counts(self, x: Tensor) -> dict[str, Tensor]:
        """Sufficient statistics of complete rows, whose expected counts are the counts."""
        columns, total = as_columns(x), {"log_likelihood": self._anchor.new_zeros(()).double()}
        for node, site in enumerate(self.site_names.values()):
            parents, sizes = self.parent_columns[node], self.state_space.sizes
            counts = family_counts(columns, node, parents, sizes, complete=True).double()
            table = self._e_step_table(f"{site}_table").double()
            total["log_likelihood"] += torch.xlogy(counts, table).sum()
            total[f"{site}_table"] = counts
        if not bool(total["log_likelihood"].isfinite()):
            self._refuse_impossible(self.log_prob(x), x, torch.arange(len(x)))
        return total

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from the counts of the families that are complete; at random where there are none.

        A table that no row informs would stay uniform, and EM with it.
        """
        super().initialize(rows)
        if not self.allow_missing or all(
            int(x.min()) >= 0 for (x,) in rows.chunks(ROWS_PER_CHUNK)
        ):
            return  # complete data: the first M-step is the optimum, from any start
        counts = [torch.zeros_like(table) for table in self.node_tables()]
        for (x,) in rows.chunks(ROWS_PER_CHUNK):
            columns = as_columns(x)
            for node, parents in enumerate(self.parent_columns):
                counts[node] += family_counts(columns, node, parents, self.state_space.sizes)
        for site, count in zip(self.site_names.values(), counts, strict=True):
            unseen = count.sum() == 0
            start = count + (torch.rand_like(count) + 0.5 if unseen else 1.0)
            if self.bayesian:
                start = start + self._prior(f"{site}_table") - (0.0 if unseen else 1.0)
            else:
                start = start / start.sum(-1, keepdim=True)
            self.set_table(f"{site}_table", start)

    # ---- queries; those with evidence are in `JunctionTreeInference` ------------------------

    @torch.no_grad()
    def log_prob(self, x: Any) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``: joint, or marginal where it has -1.

        Where ``bayesian``, under the mean of the tables.
        """
        rows, parameters = self._query_rows(x), self.tables()
        complete = bool((rows >= 0).all())  # which needs no junction tree
        size = ROWS_PER_CHUNK if complete else max(4096, self.tree.chunk_rows(self.device))
        chunks = rows.split(size)
        return torch.cat([self.log_likelihood(parameters, chunk) for chunk in chunks])

    @torch.no_grad()
    def encode(self, x: Any) -> Float[Tensor, "n states"]:
        """Posterior probability of every state of every node, ``(n, states of all nodes)``.

        Observed nodes are one-hot; missing ones have their posterior.
        """
        return self._node_marginals(self._query_rows(x), None).T.contiguous()

    def _query_rows(self, x: Any) -> Tensor:
        """Read and check the rows of a query, which may have -1 in any case."""
        (rows,) = self.as_rows(x).all()
        self.state_space.check(rows)
        return rows


def _name_sites(nodes: Sequence[str]) -> dict[str, str]:
    """Site names: the nodes' names as lower-case identifiers, each once."""
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
