"""Full joint table of a few discrete variables, by the chain rule; exponential in their number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.validation import check_features, read_given
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["ChainRule"]

MAX_CELLS = 2**20
MAX_COMPARED_STATES = 2**22  # of a block of rows beside all joint states
ROWS_PER_CHUNK = 65_536


class ChainRule(CountedModel):
    """Full joint table of a few variables, as a product of conditional tables.

    Generative model::

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
    K^n - 1 free parameters, 2^n - 1 for binary variables: every distribution is in the family,
    and few data sets are large enough to fit it. x is ``(n, num_features)``, NaN where missing.

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
        joint = self._distribution(self.draw_tables())
        with self.observations("rows", x):
            pyro.sample("x", joint, obs=x)

    def _distribution(self, tables: Mapping[str, Tensor]) -> JointTable:
        """Joint table, the product of the conditional tables."""
        joint = tables["table_0"]
        for d in range(1, self.num_features):
            joint = joint.mT * tables[f"table_{d}"]  # p(x[0..d-1]) p(x[d] | x[0..d-1])
            joint = joint.flatten(-2).unsqueeze(-2)
        return JointTable(joint.squeeze(-2), self.sizes)

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Log of each row's cell; of the sum of its cells, where values are missing."""
        return self._distribution(tables).log_prob(x)

    def num_states_of(self, argument: str) -> Sizes:
        """States of each variable."""
        return self.sizes

    def check_data(self, rows: Rows) -> None:
        """Refuse other shapes than ``(n, num_features)``, and unknown states."""
        check_features(rows, self.num_features)
        for (x,) in rows.chunks(ROWS_PER_CHUNK):
            self._distribution(self.tables()).check(x)

    @torch.no_grad()
    def joint(self) -> Float[Tensor, "..."]:
        """Joint table, a dimension for each variable."""
        return self._distribution(self.tables()).cells.reshape(self.sizes)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows; values of ``given`` that are not NaN are fixed, the others drawn given these.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(num_features,)`` or ``(num_samples, num_features)``, NaN where free.

        Raises
        ------
        DataError
            If the given values have probability 0.
        """
        joint = self._distribution(self.tables())
        if given is None:
            return joint.sample((num_samples,))
        held = read_given(self.coded("x", given), num_samples, (self.num_features,), joint.cells)
        joint.check(held)
        return joint.sample_given(held)


class JointTable(TorchDistribution):
    """Distribution of rows of discrete variables, given by their joint table.

    Parameters
    ----------
    cells
        Probabilities ``(..., prod(sizes))``, the last variable changing fastest.
    sizes
        Number of states of each variable.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, cells: Tensor, sizes: tuple[int, ...]) -> None:
        self.cells, self.sizes = cells, sizes
        super().__init__(cells.shape[:-1], torch.Size([len(sizes)]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> JointTable:
        """Expand to a larger batch."""
        return JointTable(self.cells.expand(*batch_shape, -1), self.sizes)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of rows ``(..., num_variables)``, NaN where missing."""
        if not value.is_floating_point() or not bool(value.isnan().any()):
            return self._chosen(self.cells, value.long(), self.sizes).log()
        flat, lead = value.reshape(-1, value.shape[-1]), value.shape[:-1]
        patterns, which = flat.isnan().unique(dim=0, return_inverse=True)
        shape = torch.broadcast_shapes(self.cells.shape[:-1], lead)
        out = self.cells.new_zeros(shape)
        for index, missing in enumerate(patterns):
            here = (which == index).reshape(lead)
            part = self._marginal(missing.tolist())
            x = torch.where(missing, 0.0, value.nan_to_num()).long()
            sizes = [1 if m else s for m, s in zip(missing.tolist(), self.sizes, strict=True)]
            out = torch.where(here, self._chosen(part, x, sizes).log(), out)
        return out

    def _marginal(self, missing: list[bool]) -> Tensor:
        """Marginal cells: the missing variables are summed out, which then have one state."""
        lead = self.cells.shape[:-1]
        table = self.cells.reshape(*lead, *self.sizes)
        dims = [len(lead) + d for d, m in enumerate(missing) if m]
        return (table.sum(dims) if dims else table).reshape(*lead, -1)

    def _chosen(self, cells: Tensor, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Cells of a table at joint states x."""
        code = self._code(x, sizes)
        if cells.ndim == 1:
            return cells[code]
        if cells.shape[-2] == 1 and code.ndim == 1:  # the plate of rows
            return cells.squeeze(-2)[..., code]
        shape = torch.broadcast_shapes(cells.shape[:-1], code.shape)
        cells = cells.expand(*shape, cells.shape[-1])
        return cells.gather(-1, code.expand(shape).unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def _code(x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Flat index of joint states, the last variable changing fastest."""
        code = torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)
        for d, size in enumerate(sizes):
            code = code * size + x[..., d]
        return code

    def _rows(self, code: Tensor) -> Tensor:
        """Joint states at flat indices; the inverse of `_code`."""
        columns = []
        for size in reversed(self.sizes):
            columns.append(code % size)
            code = code // size
        return torch.stack(columns[::-1], -1).to(self.cells.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            flat = self.cells.reshape(-1, self.cells.shape[-1])
            drawn = _draw(flat, math.prod(sample_shape))  # (tables, samples)
            return self._rows(drawn.mT.reshape(shape))

    def sample_given(self, held: Tensor) -> Tensor:
        """Draw the NaN of rows ``(n, num_variables)`` given the rest; the table is a single one.

        Raises
        ------
        DataError
            If a row has probability 0.
        """
        states = self._rows(torch.arange(self.cells.shape[-1], device=held.device))
        parts = []
        for rows in held.split(max(1, MAX_COMPARED_STATES // states.numel())):
            agrees = ((rows.unsqueeze(1) == states) | rows.isnan().unsqueeze(1)).all(-1)
            cells = agrees * self.cells
            if bool((cells.sum(-1) == 0).any()):
                raise DataError("given: got values of probability 0, expected possible ones")
            parts.append(self._rows(_draw(cells, 1)[:, 0]))
        return torch.cat(parts)

    def check(self, x: Tensor) -> None:
        """Refuse states that a variable does not have.

        Raises
        ------
        DataError
            At the first one, with its place.
        """
        x = x if x.is_floating_point() else x.double()
        sizes = torch.as_tensor(self.sizes, device=x.device)
        bad = ~x.isnan() & ~((x == x.floor()) & (x >= 0) & (x < sizes))
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            raise DataError(
                f"x: got {x[row, column].item():g} in row {row}, column {column}, expected 0 to "
                f"{self.sizes[column] - 1}, or NaN if missing"
            )


def _draw(cells: Tensor, count: int) -> Tensor:
    """Draw cell numbers ``(tables, count)``; multinomial() itself stops at 2^24 cells."""
    return torch.multinomial(cells, count, replacement=True)
