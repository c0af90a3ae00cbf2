"""EM for every discrete model: expected counts are the gradient of the log likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.models.discrete.probability_tables import TableModel

__all__ = ["CountedModel"]


class CountedModel(TableModel):
    """A model whose parameters are probability tables, which it only has to multiply.

    A subclass declares its tables with ``add_table`` and writes ``log_likelihood(tables, *data)``.
    How often a cell theta of a table was used, expected over all that is hidden, is

        E[count] = theta * d log p(data) / d theta,

    whatever the model is: counting in complete data, the responsibilities of a mixture and the
    forward-backward recursions all come out of the one backward pass. The M-step divides counts by
    their sum.

    With ``bayesian=False`` the tables are parameters, and EM ends at the mode under the prior
    Dirichlet(concentration). With ``bayesian=True`` they are latent variables of the story and
    ``q(table) = Dirichlet(posterior)``: the same two steps are then CAVI, exact where nothing is
    hidden. The E-step uses exp E_q[log theta], and the objective is the evidence lower
    bound (Beal 2003, Variational Algorithms for Approximate Bayesian Inference, chapter 2).

    Parameters of other exponential families join in as ``naturals``: the gradient with respect to
    a natural parameter is its expected sufficient statistic.

    Parameters
    ----------
    bayesian
        Whether tables are latent variables.

    References
    ----------
    Darwiche (2003), A differential approach to inference in Bayesian networks, J. ACM 50,
    https://doi.org/10.1145/765568.765570. Salakhutdinov, Roweis & Ghahramani (2003), Optimization
    with EM and expectation-conjugate-gradient, ICML.
    """

    default_solver = ("EM", {})

    def __init__(self, bayesian: bool = False) -> None:
        super().__init__(bayesian)
        if bayesian:  # a draw of q says less than the predictive density does
            self.queries = {**type(self).queries, "log_prob": "estimate"}
            self.default_solver = ("CAVI", {})

    # ---- what a subclass writes -------------------------------------------------------------

    def log_likelihood(self, tables: Mapping[str, Tensor], *data: Tensor) -> Float[Tensor, " n"]:
        """Log density of each row, ``(n,)``, in nats; what is hidden is summed out.

        Parameters
        ----------
        tables
            Tables by name, and naturals. A row's probability must be a sum of products of cells:
            no ``1 - p``, since rows of a table may sum to less than one here. Where a cell may be
            0, pick it and then take the logarithm.
        *data
            As for ``model``.
        """
        raise TypeError(f"{type(self).__name__} has no method 'log_likelihood'; write one")

    def log_base(self, *data: Tensor) -> Tensor | None:
        """Part of the log density that no parameter changes, ``(n,)``; None for 0."""
        return None

    def row_weights(self, *data: Tensor) -> Tensor | None:
        """How many rows each row counts for in EM, ``(n,)``; None for one."""
        return None

    def naturals(self) -> dict[str, Tensor]:
        """Natural parameters that are no tables (their mean under q, where ``bayesian``)."""
        return {}

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from uniform tables, or from the prior."""
        for name in self.table_names:
            parameter = getattr(self, self._key(name))
            uniform = torch.zeros_like(parameter) - math.log(parameter.shape[-1])
            parameter.copy_(self._prior(name).log() if self.bayesian else uniform)

    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: expected counts of every table's cells, statistics of the naturals, float64."""
        statistics = self.expected_counts(*batch)
        base, weights = self.log_base(*batch), self.row_weights(*batch)
        if base is not None:
            base = (base if weights is None else weights * base).double().sum()
            statistics["log_likelihood"] = statistics["log_likelihood"] + base
        return statistics

    def expected_counts(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step, but for the part of the log likelihood that parameters do not change."""
        with torch.no_grad():
            leaves = {name: self._for_e_step(name) for name in self.table_names}
        leaves |= {name: value.detach() for name, value in self.naturals().items()}
        leaves = {name: value.requires_grad_() for name, value in leaves.items()}
        with torch.enable_grad():
            by_row, weights = self.log_likelihood(leaves, *batch), self.row_weights(*batch)
            total = (by_row if weights is None else weights * by_row).double().sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        statistics = {"log_likelihood": total.detach()}
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            if name in self.table_names:  # a cell that is exactly 0 was never used
                gradient = torch.where(leaf > 0, leaf.detach() * gradient, 0.0)
            statistics[name] = gradient.double()
        return statistics

    def _for_e_step(self, name: str) -> Tensor:
        if not self.bayesian:
            return self.table(name)
        q = self.posterior_concentration(name).double()
        return (q.digamma() - q.sum(-1, keepdim=True).digamma()).exp().to(self.dtype)

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step, in place: the mode of every table, or its posterior."""
        for name in self.table_names:
            parameter, counts = getattr(self, self._key(name)), statistics[name].clamp_min(0.0)
            if self.bayesian:
                parameter.copy_((counts + self._prior(name)).log())
                continue
            counts = counts + (self._prior(name).double() - 1.0)
            total = counts.sum(-1, keepdim=True)
            # nothing is known of a row that was never used: it stays as it is
            log_table = torch.where(total > 0, counts.log() - total.log(), parameter.double())
            parameter.copy_(log_table)

    @torch.no_grad()
    def learn(self, *data: Any) -> CountedModel:
        """Count once: one E-step and one M-step, all of EM where nothing is hidden.

        Parameters
        ----------
        *data
            As for ``zoo.fit``, which does the same and keeps a record.
        """
        rows = self.as_rows(data if len(data) > 1 else data[0])
        self.check_data(rows)
        self.initialize(rows)
        total: dict[str, Any] = {}
        for chunk in rows.chunks(65536):
            for name, value in self.expected_counts(*chunk).items():
                total[name] = total[name] + value if name in total else value
        self.maximize(total)
        return self

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, *data: Any) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``; under mean tables, where ``bayesian``."""
        rows = self.as_rows(data)
        self.check_data(rows)
        parts, out = self.point_parts(), []
        for chunk in rows.chunks(4096):
            by_row, base = self.log_likelihood(parts, *chunk), self.log_base(*chunk)
            out.append(by_row if base is None else by_row + base)
        return torch.cat(out)

    def point_parts(self) -> dict[str, Tensor]:
        """Tables and naturals for queries; their means, where ``bayesian``."""
        return {**self.tables(), **self.naturals()}
