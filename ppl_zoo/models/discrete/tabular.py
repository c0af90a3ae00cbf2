"""Probability tables with Dirichlet priors, learned by EM or CAVI from expected counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows

__all__ = ["CountedModel"]

ROWS_PER_CHUNK = 65_536


class CountedModel(Model):
    """Model whose parameters are probability tables, each row with a Dirichlet prior.

    A subclass declares its tables with ``add_table`` and writes ``log_likelihood(tables, *data)``.
    The E-step is the same for all such models: the expected count of a cell theta of a table,
    under the posterior of the latent variables, is

        E[count] = theta * d log p(data) / d theta,

    whatever the model is: counting in complete data, the responsibilities of a mixture and the
    forward-backward recursions are all results of one backward pass. The M-step divides counts by
    their sum.

    With ``bayesian=False`` the tables are parameters, and EM ends at the mode under the prior
    Dirichlet(concentration). With ``bayesian=True`` they are latent variables and
    ``q(table) = Dirichlet(posterior)``: the same two steps are then CAVI, exact where there are no
    other latent variables. The E-step uses exp E_q[log theta], and the objective is the evidence
    lower bound (Beal 2003, Variational Algorithms for Approximate Bayesian Inference, chapter 2).

    Parameters of other exponential families are returned by ``naturals``: the gradient with
    respect to a natural parameter is its expected sufficient statistic.

    Parameters
    ----------
    bayesian
        Whether tables are latent variables: ``q(table) = Dirichlet(posterior)``.

    Attributes
    ----------
    table_names
        Names of the tables, in the order of their declaration.
    has_prior
        Whether any concentration differs from 1, the flat prior.

    References
    ----------
    Darwiche (2003), A differential approach to inference in Bayesian networks, J. ACM 50,
    https://doi.org/10.1145/765568.765570. Salakhutdinov, Roweis & Ghahramani (2003), Optimization
    with EM and expectation-conjugate-gradient, ICML.
    """

    default_solver = ("EM", {})
    follows_data_dtype = False  # codes and counts are exact in float32

    def __init__(self, bayesian: bool = False) -> None:
        super().__init__()
        self.bayesian = bool(bayesian)
        self.table_names: list[str] = []
        self.has_prior = False
        if bayesian:  # the density at a draw of q is no substitute for the predictive density
            self.queries = {**type(self).queries, "log_prob": "estimate"}
            self.default_solver = ("CAVI", {})

    # ---- what a subclass writes -------------------------------------------------------------

    def log_likelihood(self, tables: Mapping[str, Tensor], *data: Tensor) -> Float[Tensor, " n"]:
        """Log density of each row, ``(n,)``, in nats; latent variables are summed out.

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
        """Weight of each row in EM, ``(n,)``; None for one."""
        return None

    def naturals(self) -> dict[str, Tensor]:
        """Natural parameters that are no tables (their mean under q, where ``bayesian``)."""
        return {}

    # ---- the tables -------------------------------------------------------------------------

    def add_table(self, name: str, shape: Sequence[int], concentration: Any = 1.0) -> None:
        """Declare a probability table, its last dimension summing to one; uniform at first.

        Parameters
        ----------
        name
            Name of the table, and of its site: a lower-case identifier.
        shape
            Its shape; the last dimension counts the states.
        concentration
            Dirichlet prior of each row, a number or an array that broadcasts to ``shape``. 1 for
            maximum likelihood; the mode under 1 + a is that of counts with a added to each.

        Raises
        ------
        DataError
            If a concentration is below 1 (not positive, where ``bayesian``): there is no mode.
        """
        prior = torch.as_tensor(concentration, dtype=self.dtype).expand(tuple(shape)).clone()
        least = "more than 0" if self.bayesian else "1 or more"
        if not bool(
            ((prior > 0) if self.bayesian else (prior >= 1)).all() & prior.isfinite().all()
        ):
            raise DataError(f"concentration: got {concentration}, expected {least}")
        self.table_names.append(name)
        self.has_prior = self.has_prior or bool((prior != 1).any())
        self.register_buffer(f"{name}_concentration", prior)
        start = prior.log() if self.bayesian else torch.full_like(prior, -math.log(shape[-1]))
        self.register_parameter(self._parameter_name(name), nn.Parameter(start))

    @torch.no_grad()
    def set_table(self, name: str, values: Any) -> None:
        """Set a table; where ``bayesian``, values are Dirichlet parameters of q.

        Raises
        ------
        DataError
            If the shape is another one, a value is negative, or a row does not sum to one.
        """
        parameter = self._parameter(name)
        values = torch.as_tensor(values).to(parameter.device, torch.float64)
        if values.shape != parameter.shape:
            raise DataError(
                f"{name}: got shape {tuple(values.shape)}, expected {tuple(parameter.shape)}"
            )
        if not bool((values >= 0).all() & values.isfinite().all()):
            raise DataError(f"{name}: got {float(values.min()):g}, expected probabilities")
        if not self.bayesian:
            total = values.sum(-1)
            if not torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-5):
                worst = float(total.flatten()[(total - 1).abs().argmax()])
                raise DataError(f"{name}: got a row that sums to {worst:g}, expected 1")
        parameter.copy_(values.log())

    def table(self, name: str) -> Tensor:
        """Return one table; its posterior mean, where ``bayesian``. Gradients pass through."""
        return self._parameter(name).softmax(-1)

    def tables(self) -> dict[str, Tensor]:
        """Return all tables by name."""
        return {name: self.table(name) for name in self.table_names}

    def posterior_concentration(self, name: str) -> Tensor:
        """Dirichlet parameters of q(table).

        Raises
        ------
        DataError
            If the model was not made with ``bayesian=True``.
        """
        if not self.bayesian:
            raise DataError("posterior: expected a model made with bayesian=True")
        return self._parameter(name).exp()

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters: each row of K states has K - 1."""
        shapes = (self._parameter(name).shape for name in self.table_names)
        return sum(math.prod(shape[:-1]) * (shape[-1] - 1) for shape in shapes)

    # ---- the tables in `model` and `guide` --------------------------------------------------

    def draw_tables(self) -> dict[str, Tensor]:
        """First step of ``model``: tables as parameters, or drawn from their prior."""
        if not self.bayesian:
            if self.has_prior:
                pyro.factor("log_prior", self.log_prior())
            return self.tables()
        return {name: self._draw(name, self._prior(name)) for name in self.table_names}

    def draw_posterior(self) -> dict[str, Tensor]:
        """First step of ``guide``: draw tables from q, where ``bayesian``."""
        if not self.bayesian:
            return self.tables()
        return {n: self._draw(n, self.posterior_concentration(n)) for n in self.table_names}

    def guide(self, *data: Any) -> None:
        """Draw the latent variables: by default, the tables."""
        self.draw_posterior()

    def log_prior(self) -> Tensor:
        """Log prior of the tables but for a constant; where ``bayesian``, -KL(q || prior)."""
        total = self._anchor.new_zeros(())
        for name in self.table_names:
            prior = self._prior(name)
            if self.bayesian:
                q = dist.Dirichlet(self.posterior_concentration(name))
                total = total - kl_divergence(q, dist.Dirichlet(prior)).sum()
            else:
                table = self.table(name).clamp_min(torch.finfo(prior.dtype).tiny)
                total = total + ((prior - 1.0) * table.log()).sum()
        return total

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from uniform tables, or from the prior."""
        for name in self.table_names:
            parameter = self._parameter(name)
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
            leaves = {name: self._e_step_table(name) for name in self.table_names}
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

    def _e_step_table(self, name: str) -> Tensor:
        """Table of the E-step: the parameter, or exp E_q[log table], which sums to less."""
        if not self.bayesian:
            return self.table(name)
        q = self.posterior_concentration(name).double()
        return (q.digamma() - q.sum(-1, keepdim=True).digamma()).exp().to(self.dtype)

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step, in place: the mode of every table, or its posterior."""
        for name in self.table_names:
            parameter, counts = self._parameter(name), statistics[name].clamp_min(0.0)
            if self.bayesian:
                parameter.copy_((counts + self._prior(name)).log())
                continue
            counts = counts + (self._prior(name).double() - 1.0)
            total = counts.sum(-1, keepdim=True)
            # the data say nothing of a row without counts: it keeps its values
            log_table = torch.where(total > 0, counts.log() - total.log(), parameter.double())
            parameter.copy_(log_table)

    @torch.no_grad()
    def learn(self, *data: Any) -> CountedModel:
        """Take one E-step and one M-step: all of EM where there are no latent variables.

        Parameters
        ----------
        *data
            As for ``zoo.fit``, which does the same and returns a `Fit`.
        """
        given = data if len(data) > 1 else data[0]
        self.learn_names(given)
        rows = self.as_rows(given)
        self.check_data(rows)
        self.initialize(rows)
        total: dict[str, Any] = {}
        for chunk in rows.chunks(ROWS_PER_CHUNK):
            for name, value in self.expected_counts(*chunk).items():
                total[name] = total[name] + value if name in total else value
        self.maximize(total)
        return self

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, *data: Any) -> Float[Tensor, " n"]:
        """Log density of each row, in nats, ``(n,)``; under mean tables, where ``bayesian``."""
        parameters, out = self.point_parameters(), []
        for chunk in self.batches(*data):
            by_row, base = self.log_likelihood(parameters, *chunk), self.log_base(*chunk)
            out.append(by_row if base is None else by_row + base)
        return torch.cat(out)

    def point_parameters(self) -> dict[str, Tensor]:
        """Tables and naturals for queries; their means, where ``bayesian``."""
        return {**self.tables(), **self.naturals()}

    # ---- pieces -----------------------------------------------------------------------------

    def _parameter(self, name: str) -> Tensor:
        """Unnormalised log table, or log Dirichlet parameters of q where ``bayesian``."""
        return getattr(self, self._parameter_name(name))

    def _parameter_name(self, name: str) -> str:
        return f"{name}_log_posterior" if self.bayesian else f"{name}_logits"

    def _prior(self, name: str) -> Tensor:
        """Dirichlet concentration of the prior."""
        return getattr(self, f"{name}_concentration")

    def _draw(self, name: str, concentration: Tensor) -> Tensor:
        rows = dist.Dirichlet(concentration)
        return pyro.sample(name, rows.to_event(concentration.ndim - 1))
