"""Bayes net: a joint distribution as a product of tables, one for each node given its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.ops.indexing import Vindex
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.models.discrete.counting import as_columns, configuration, family_counts
from ppl_zoo.models.discrete.evidence import Alphabet
from ppl_zoo.models.discrete.expected_counts import CountedModel
from ppl_zoo.models.discrete.graph import Graph
from ppl_zoo.models.discrete.net_learning import NetLearning
from ppl_zoo.models.discrete.net_queries import NetQueries

__all__ = ["BayesNet"]


class BayesNet(NetQueries, NetLearning, CountedModel):
    """Bayes net of discrete variables.

    For each row n, and each node in an order that puts parents first::

        node[n] ~ Categorical(table[parents of the node in row n])

    Sites bear the nodes' names, in lower case. A row may leave values out, -1: they are latent
    then, and the guide draws them from their exact posterior, so that the evidence lower bound is
    the log density. All queries are exact, by a junction tree.

    With ``bayesian=True`` the tables are latent too, each row of a table with a Dirichlet prior::

        table[configuration] ~ Dirichlet(concentration)

    Parameters
    ----------
    parents
        ``{node: its parents}``; the order of the nodes is that of the columns.
    states
        ``{node: names of its states}``, or their number.
    tables
        ``{node: table}``, ``(states of its parents..., states)``; uniform where left out.
    concentration
        Dirichlet prior of the rows, a number or ``{node: number or table}``. EM finds the mode.
    bayesian
        Whether tables are latent variables; a fit then has a posterior, exact where no value is
        missing.
    missing
        Whether the rows of a fit may have -1 for "not observed"; nodes without any value are
        hidden. Queries take -1 in any case.

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
        self.double()  # nets are read and answered to ten digits
        self.graph = Graph(parents)
        self.alphabet = Alphabet(self.read_states(parents, states))
        self.site_names = self.name_sites(self.alphabet.nodes)
        for node, site in self.site_names.items():
            shape = (self.num_configurations(node), len(self.alphabet.states[node]))
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

    # ---- the generative story and its posterior ---------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw each node given its parents; ``x (n, nodes)``, -1 where missing."""
        tables, x = self.draw_tables(), x.long()
        complete = [not (self.allow_missing and bool((c < 0).any())) for c in x.T]
        with self.observations("rows", x):
            values: list[Any] = [None] * len(complete)
            for node, site, law in self._laws(tables, values):
                column = x[:, node]
                if complete[node]:
                    values[node] = pyro.sample(site, law, obs=column)
                    continue
                values[node] = pyro.sample(site, law, infer={"enumerate": "parallel"})
                agrees = (column < 0) | (values[node] == column)
                pyro.factor(f"{site}_seen", agrees.to(self.dtype).log())

    def guide(self, x: Tensor) -> None:
        """Draw tables from q, and missing values from their exact posterior."""
        self.draw_posterior()
        x = x.long()
        hidden: list[str] = []
        if self.allow_missing:
            missing = (x < 0).any(0).tolist()
            hidden = [n for n in self.graph.order if missing[self.alphabet.index[n]]]
        if not hidden:
            return
        with torch.no_grad():  # the bound is tight: its gradient does not pass through q
            potentials = self.tree.potentials(
                [self._for_e_step(f"{site}_table") for site in self.site_names.values()]
            )
        with self.observations("rows", x):
            columns = list(x.T)
            for name in hidden:
                node = self.alphabet.index[name]
                z = pyro.sample(self.site_names[name], self._posterior(potentials, columns, node))
                columns[node] = torch.where(x[:, node] < 0, z, x[:, node])

    def _laws(self, tables: Mapping[str, Tensor], values: list[Any]) -> Any:
        """Distribution of each node given the values so far, parents first."""
        for name in self.graph.order:
            node, site = self.alphabet.index[name], self.site_names[name]
            code = configuration(values, self.above[node], self.alphabet.sizes)
            table = tables[f"{site}_table"].log()
            logits = table[..., 0, :] if code is None else Vindex(table)[..., code, :]
            yield node, site, dist.Categorical(logits=logits)

    @torch.no_grad()
    def _posterior(
        self, potentials: Sequence[Tensor], columns: Sequence[Tensor], node: int
    ) -> dist.Categorical:
        """Posterior of a node given columns that may have draws on their left."""
        wide = torch.broadcast_tensors(*columns)
        flat = torch.stack([c.reshape(-1) for c in wide], 1)
        parts = []
        for x in flat.split(self.tree.chunk_rows(self.device)):
            collected = self.tree.collect(potentials, self.tree_likelihoods(x))
            self._log_evidence(collected, self._anchor.new_zeros(()), len(x), x)
            found = self.tree.node_marginal(self.tree.distribute(collected), node)
            parts.append(found.expand(-1, len(x)).T)
        return dist.Categorical(logits=torch.cat(parts).log().reshape(*wide[0].shape, -1))

    # ---- EM ---------------------------------------------------------------------------------

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Log density of each row, what is missing summed out; gradients reach the tables."""
        x = x.long()
        mine = [tables[f"{site}_table"] for site in self.site_names.values()]
        complete = (x >= 0).all(1)
        if bool(complete.all()):
            return self._log_joint(mine, x)
        some = complete.nonzero()[:, 0], (~complete).nonzero()[:, 0]
        potentials = self.tree.potentials(mine)
        parts = [self._log_joint(mine, x[some[0]])]
        for rows in some[1].split(self.tree.chunk_rows(x.device)):
            collected = self.tree.collect(potentials, self.tree_likelihoods(x[rows]))
            parts.append(collected.log_evidence.expand(len(rows)))
        return torch.cat(parts)[torch.cat(some).argsort()]

    def expected_counts(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step, see `CountedModel`; a chunk of rows at a time, so that memory stays bounded."""
        x = batch[0]
        complete = None if int(x.min()) >= 0 else (x >= 0).all(1)
        total = self._counted(x if complete is None else x[complete])
        if complete is None:
            return total
        rest = (~complete).nonzero()[:, 0]
        for rows in rest.split(self.tree.chunk_rows(x.device)):
            found = super().expected_counts(x[rows])
            if not bool(found["log_likelihood"].isfinite()):
                self._refuse_impossible(self.log_prob(x[rows]), x[rows], rows)
            for name, value in found.items():
                total[name] = total[name] + value
        return total

    @torch.no_grad()
    def _counted(self, x: Tensor) -> dict[str, Tensor]:
        """Statistics of complete rows: there the gradient is but the counts."""
        columns, total = as_columns(x), {"log_likelihood": self._anchor.new_zeros(()).double()}
        for node, site in enumerate(self.site_names.values()):
            above, sizes = self.above[node], self.alphabet.sizes
            counts = family_counts(columns, node, above, sizes, complete=True).double()
            table = self._for_e_step(f"{site}_table").double()
            total["log_likelihood"] += torch.xlogy(counts, table).sum()
            total[f"{site}_table"] = counts
        if not bool(total["log_likelihood"].isfinite()):
            self._refuse_impossible(self.log_prob(x), x, torch.arange(len(x)))
        return total

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from the counts of the families that are complete; at random where there are none.

        A table that no row tells anything about would stay uniform, and EM with it.
        """
        super().initialize(rows)
        if not self.allow_missing or all(int(x.min()) >= 0 for (x,) in rows.chunks(65536)):
            return  # the first step finds the answer from anywhere
        counts = [torch.zeros_like(table) for table in self.node_tables()]
        for (x,) in rows.chunks(65536):
            columns = as_columns(x)
            for node, above in enumerate(self.above):
                counts[node] += family_counts(columns, node, above, self.alphabet.sizes)
        for site, count in zip(self.site_names.values(), counts, strict=True):
            unseen = count.sum() == 0
            start = count + (torch.rand_like(count) + 0.5 if unseen else 1.0)
            if self.bayesian:
                start = start + self._prior(f"{site}_table") - (0.0 if unseen else 1.0)
            else:
                start = start / start.sum(-1, keepdim=True)
            self.set_table(f"{site}_table", start)

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Any) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``: joint, or marginal where it has -1.

        Where ``bayesian``, under the mean of the tables.
        """
        rows, parts = self._query_rows(x), self.tables()
        chunks = rows.split(max(4096, self.tree.chunk_rows(self.device)))
        return torch.cat([self.log_likelihood(parts, chunk) for chunk in chunks])

    @torch.no_grad()
    def encode(self, x: Any) -> Float[Tensor, "n states"]:
        """Posterior probability of every state of every node, ``(n, states of all nodes)``.

        What a row holds is 0 or 1; what it leaves out is the posterior.
        """
        return self._node_marginals(self._query_rows(x), None).T.contiguous()

    def _query_rows(self, x: Any) -> Tensor:
        (rows,) = self.as_rows(x).all()
        self.alphabet.check(rows)
        return rows
