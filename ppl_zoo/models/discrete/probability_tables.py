"""A model's probability tables: declared, set, read, and drawn from their Dirichlet priors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppl_zoo.errors import DataError
from ppl_zoo.model import Model

__all__ = ["TableModel"]


class TableModel(Model):
    """A model whose parameters are probability tables, each row with a Dirichlet prior.

    Parameters
    ----------
    bayesian
        Whether tables are latent variables: ``q(table) = Dirichlet(posterior)``.
    """

    def __init__(self, bayesian: bool = False) -> None:
        super().__init__()
        self.bayesian = bool(bayesian)
        self.__dict__["table_names"] = []
        self.has_prior = False

    def add_table(self, name: str, shape: Sequence[int], concentration: Any = 1.0) -> None:
        """Declare a table of probabilities, its last dimension summing to one; uniform at first.

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
        self.has_prior = self.has_prior or bool((prior != 1).any())  # 1 changes nothing
        self.register_buffer(f"{name}_concentration", prior)
        start = prior.log() if self.bayesian else torch.full_like(prior, -math.log(shape[-1]))
        self.register_parameter(self._key(name), nn.Parameter(start))

    @torch.no_grad()
    def set_table(self, name: str, values: Any) -> None:
        """Set a table; where ``bayesian``, values are Dirichlet parameters of q.

        Raises
        ------
        DataError
            If the shape is another one, a value is negative, or a row does not sum to one.
        """
        parameter = getattr(self, self._key(name))
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
        return getattr(self, self._key(name)).softmax(-1)

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
        return getattr(self, self._key(name)).exp()

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters: each row of K states has K - 1."""
        shapes = (getattr(self, self._key(name)).shape for name in self.table_names)
        return sum(math.prod(shape[:-1]) * (shape[-1] - 1) for shape in shapes)

    # ---- the story's first lines ------------------------------------------------------------

    def draw_tables(self) -> dict[str, Tensor]:
        """Begin ``model``: tables as parameters, or drawn from their prior."""
        if not self.bayesian:
            if self.has_prior:
                pyro.factor("log_prior", self.log_prior())
            return self.tables()
        return {name: self._draw(name, self._prior(name)) for name in self.table_names}

    def draw_posterior(self) -> dict[str, Tensor]:
        """Begin ``guide``: draw tables from q, where ``bayesian``."""
        if not self.bayesian:
            return self.tables()
        return {n: self._draw(n, self.posterior_concentration(n)) for n in self.table_names}

    def guide(self, *data: Any) -> None:
        """Draw what is hidden: here, the tables."""
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

    # ---- pieces -----------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return f"{name}_log_posterior" if self.bayesian else f"{name}_logits"

    def _prior(self, name: str) -> Tensor:
        return getattr(self, f"{name}_concentration")

    def _draw(self, name: str, concentration: Tensor) -> Tensor:
        law = dist.Dirichlet(concentration)
        return pyro.sample(name, law.to_event(concentration.ndim - 1))
