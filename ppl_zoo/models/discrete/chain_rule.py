"""The chain rule: any distribution of a few discrete variables, exponential in their number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete import labels
from ppl_zoo.models.discrete.expected_counts import CountedModel
from ppl_zoo.models.discrete.joint_table import JointTable

__all__ = ["ChainRule"]

MAX_CELLS = 2**20


class ChainRule(CountedModel):
    """The full table over a few variables, as a product of conditional tables.

    The story::

        table_d[x[0], ..., x[d-1]] ~ Dirichlet(concentration)   for each past of each variable
        x[d] ~ Categorical(table_d[x[0], ..., x[d-1]])          for each variable, in turn

    Parameters
    ----------
    num_features
        Number of variables n.
    num_states
        Number of states K, or one for each variable.
    concentration
        Dirichlet prior: 1 for maximum likelihood, 2 adds one to every count.
    bayesian
        Whether the tables are latent variables.

    Notes
    -----
    K^n - 1 free parameters, 2^n - 1 for yes-no variables: every distribution is in the family,
    and hardly any data can fit it. x is ``(n, num_features)``, NaN where missing.

    References
    ----------
    Koller & Friedman 2009, Probabilistic Graphical Models, sections 2.1.3 and 3.1.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> model = zoo.ChainRule(num_features=2).double()
    >>> fit = zoo.fit(model, torch.tensor([[0, 0], [1, 1], [1, 1], [1, 1]]), progress=False)
    >>> model.joint().tolist()
    [[0.25, 0.0], [0.0, 0.75]]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "none"}
    event_dims = {"x": ("feature",)}
    allow_missing = True

    def __init__(
        self,
        num_features: int,
        num_states: Any = 2,
        *,
        concentration: float = 1.0,
        bayesian: bool = False,
    ) -> None:
        super().__init__(bayesian)
        many = torch.as_tensor(num_states).flatten().tolist()
        self.sizes = tuple(many * num_features if len(many) == 1 else many)
        if num_features < 1 or len(self.sizes) != num_features or min(self.sizes) < 2:
            raise DataError(
                f"num_states: got {num_states} for {num_features} features, expected 2 or more, "
                "or one for each feature"
            )
        if math.prod(self.sizes) > MAX_CELLS:
            raise DataError(
                f"num_features: got {num_features}, a table of {math.prod(self.sizes)} cells, "
                f"expected {MAX_CELLS} cells at most; use a Bayes net"
            )
        self.num_features = num_features
        for d, size in enumerate(self.sizes):
            self.add_table(f"table_{d}", (math.prod(self.sizes[:d]), size), concentration)

    def model(self, x: Tensor) -> None:
        """Draw every row; ``x (n, num_features)``."""
        law = self._law(self.draw_tables())
        with self.observations("rows", x):
            pyro.sample("x", law, obs=x)

    def _law(self, tables: Mapping[str, Tensor]) -> JointTable:
        joint = tables["table_0"]
        for d in range(1, self.num_features):
            joint = joint.mT * tables[f"table_{d}"]  # cells of the past, times what follows them
            joint = joint.flatten(-2).unsqueeze(-2)
        return JointTable(joint.squeeze(-2), self.sizes)

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Log of each row's cell; of the sum of its cells, where values are missing."""
        return self._law(tables).log_prob(x)

    def check_data(self, rows: Rows) -> None:
        """Refuse other shapes than ``(n, num_features)``, and unknown states."""
        labels.check_shapes(rows, self.num_features)
        for (x,) in rows.chunks(65536):
            self._law(self.tables()).check(x)

    @torch.no_grad()
    def joint(self) -> Float[Tensor, "..."]:
        """Return the whole table, a dimension for each variable."""
        return self._law(self.tables()).cells.reshape(self.sizes)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows; those of ``given`` that are not NaN are held, the others drawn given these.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(num_features,)`` or ``(num_samples, num_features)``, NaN where free.

        Raises
        ------
        DataError
            If what is held is impossible.
        """
        law = self._law(self.tables())
        if given is None:
            return law.sample((num_samples,))
        held, _ = labels.given({"x": given}, num_samples, self.num_features, 2)
        held = held.to(law.cells)
        law.check(held)
        return law.sample_given(held)
