"""Independent categorical and Bernoulli features: fully factorised distributions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.validation import check_features, read_given
from ppl_zoo.models.discrete.columns import ClassConditional, Features
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["Categorical", "IndependentBernoulli"]

ROWS_PER_CHUNK = 65_536


class Categorical(CountedModel):
    """Independent categorical features.

    Generative model::

        state_rates[d] ~ Dirichlet(concentration)        for each feature
        x[d]           ~ Categorical(state_rates[d])     for each feature of each row

    Parameters
    ----------
    num_features
        Columns of x, which holds states 0 ... K-1, NaN where missing.
    num_states
        Number of states K, or one for each feature.
    concentration
        Dirichlet prior: 1 for maximum likelihood, 2 adds one to every count.
    bayesian
        Whether the rates are latent variables; their posterior is then exact, a Dirichlet.

    Notes
    -----
    n features of K states take n (K - 1) free parameters. Features of different K have a table
    for each K, ``state_rates_2`` and so on.

    References
    ----------
    Murphy 2022, Probabilistic Machine Learning: An Introduction, section 4.6.3,
    https://probml.github.io/pml-book/book1.html.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> model = zoo.Categorical(num_features=2, num_states=3, bayesian=True)
    >>> fit = zoo.fit(model, torch.tensor([[0, 2], [0, 1], [1, 2]]), progress=False)
    >>> model.posterior_concentration("state_rates").tolist()
    [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "none"}
    event_dims = {
        "state_rates": ("feature", "state"),
        "rates": ("feature", "state"),
        "x": ("feature",),
    }
    allow_missing = True
    column_type = "categorical"

    def __init__(
        self,
        num_features: int,
        num_states: Any = 2,
        *,
        concentration: float = 1.0,
        bayesian: bool = False,
    ) -> None:
        super().__init__(bayesian)
        self.num_features = num_features
        self.features = Features(num_features, self.column_type, num_states)
        for block in self.features.blocks:
            self.add_table(block.table, block.shape, concentration)

    def model(self, x: Tensor) -> None:
        """Draw every feature of each row; ``x (n, num_features)``."""
        features = self._distribution(self.draw_tables())
        with self.observations("rows", x):
            pyro.sample("x", features, obs=x)

    def _distribution(self, tables: Mapping[str, Tensor]) -> ClassConditional:
        """Distribution of a row: there is one class."""
        return ClassConditional(self.features, {k: v.unsqueeze(-3) for k, v in tables.items()})

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Sum of the features' log probabilities."""
        return self._distribution(tables).log_prob(x)

    def num_states_of(self, argument: str) -> Sizes:
        """States of each column of x."""
        return self.features.num_states

    def check_data(self, rows: Rows) -> None:
        """Refuse other shapes than ``(n, num_features)``, and unknown states."""
        check_features(rows, self.num_features)
        for chunk in rows.chunks(ROWS_PER_CHUNK):
            self.features.check(chunk[0])

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows; ``given`` ``(num_features,)`` or one a row is kept where it is not NaN."""
        x = self._distribution(self.tables()).sample((num_samples,))
        if given is None:
            return x
        held = read_given(self.coded("x", given), num_samples, (self.num_features,), x)
        self.features.check(held)
        return torch.where(held.isnan(), x, held)


class IndependentBernoulli(Categorical):
    """Independent binary features: n parameters for n features.

    Generative model::

        rates[d] ~ Dirichlet(concentration)      (no, yes) for each feature
        x[d]     ~ Bernoulli(rates[d, 1])        for each feature of each row

    Parameters
    ----------
    num_features
        Columns of x, which holds 0 and 1, NaN where missing.
    concentration, bayesian
        As for `Categorical`; a Dirichlet of two states is a Beta.

    References
    ----------
    Murphy 2022, Probabilistic Machine Learning: An Introduction, section 4.6.2.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> model = zoo.IndependentBernoulli(num_features=2)
    >>> fit = zoo.fit(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), progress=False)
    >>> model.table("rates")[:, 1].tolist()
    [1.0, 0.5]
    """

    column_type = "bernoulli"

    def __init__(
        self, num_features: int, *, concentration: float = 1.0, bayesian: bool = False
    ) -> None:
        super().__init__(num_features, concentration=concentration, bayesian=bayesian)
