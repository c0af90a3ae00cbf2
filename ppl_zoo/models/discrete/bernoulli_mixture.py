"""Bernoulli mixture (latent class analysis): naive Bayes without known classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.validation import check_features, read_given
from ppl_zoo.models.discrete.columns import ClassConditional, Features
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["BernoulliMixture"]

ROWS_PER_CHUNK = 65_536


class BernoulliMixture(CountedModel):
    """Mixture of K components of independent binary features.

    Generative model::

        weights     ~ Dirichlet(weight_concentration)
        rates[k, d] ~ Dirichlet(concentration)             (no, yes)
        assignment  ~ Categorical(weights)                 for each row
        x[d]        ~ Bernoulli(rates[assignment, d, 1])

    Parameters
    ----------
    num_components
        Number of components K.
    num_features
        Columns of x, which holds 0 and 1, NaN where missing.
    concentration, weight_concentration
        Dirichlet priors; the default keeps the rates slightly away from 0 and 1.
    bayesian
        Whether weights and rates are latent variables (variational Bayes).

    Notes
    -----
    K - 1 + K d free parameters.

    References
    ----------
    Bishop 2006, Pattern Recognition and Machine Learning, section 9.3.3. Lazarsfeld & Henry 1968,
    Latent Structure Analysis.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.tensor([[1.0, 1.0, 0.0]] * 30 + [[0.0, 0.0, 1.0]] * 10)
    >>> model = zoo.BernoulliMixture(num_components=2, num_features=3)
    >>> fit = zoo.fit(model, x, progress=False)
    >>> [round(w, 2) for w in model.weights.tolist()]
    [0.75, 0.25]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    event_dims = {
        "weights": ("component",),
        "rates": ("component", "feature", "state"),
        "x": ("feature",),
    }
    representation = "assignment"
    allow_missing = True

    def __init__(
        self,
        num_components: int,
        num_features: int,
        *,
        concentration: float = 1.01,
        weight_concentration: float = 1.0,
        bayesian: bool = False,
    ) -> None:
        super().__init__(bayesian)
        if num_components < 1:
            raise DataError(f"num_components: got {num_components}, expected 1 or more")
        self.num_components, self.num_features = num_components, num_features
        self.features = Features(num_features, "bernoulli")
        self.add_table("weights", (num_components,), weight_concentration)
        self.add_table("rates", (num_components, num_features, 2), concentration)

    @property
    def weights(self) -> Float[Tensor, " k"]:
        """Probability of each component (its posterior mean)."""
        return self.table("weights").detach()

    @property
    def rates(self) -> Float[Tensor, "k d"]:
        """Probability of yes, by component and feature (its posterior mean)."""
        return self.table("rates")[..., 1].detach()

    # ---- the generative model and its posterior ---------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw an assignment for each row, then its features."""
        tables = self.draw_tables()
        with self.observations("rows", x):
            components = dist.Categorical(tables["weights"])
            z = pyro.sample("assignment", components, infer={"enumerate": "parallel"})
            pyro.sample("x", ClassConditional(self.features, tables, z), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw tables from q, assignments from their exact posterior given these."""
        tables = self.draw_posterior()
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            joint = self._joint(tables, x)
        with self.observations("rows", x):
            pyro.sample("assignment", dist.Categorical(logits=joint))

    def _joint(self, tables: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Log joint density of rows and components, ``(..., n, K)``."""
        return self.features.log_densities(tables, x) + tables["weights"].log()

    # ---- EM ---------------------------------------------------------------------------------

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Log density of each row, summed over components."""
        return self._joint(tables, x).logsumexp(-1)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from K rows by k-means++, halfway to the mean of all."""
        super().initialize(rows)
        sample = rows.spread(4096)[0].to(self.dtype)
        mean = sample.nanmean(0).nan_to_num(0.5)
        sample = torch.where(sample.isnan(), mean, sample)
        picked = [sample[torch.randint(len(sample), (), device=sample.device)]]
        far = torch.full_like(sample[:, 0], torch.inf)
        for _ in range(1, self.num_components):
            far = torch.minimum(far, (sample - picked[-1]).square().sum(-1))
            # where all rows are equal, all distances are 0: choose uniformly
            weight = far if bool((far > 0).any()) else torch.ones_like(far)
            picked.append(sample[torch.multinomial(weight, 1)[0]])
        rates = 0.02 + 0.96 * (0.5 * torch.stack(picked) + 0.5 * mean)
        start = torch.stack([1.0 - rates, rates], -1)
        parameter = self._parameter("rates")
        parameter.copy_((start * self._prior("rates").sum(-1, keepdim=True)).log())

    @torch.no_grad()
    def relabel(self) -> None:
        """Order components by falling weight."""
        order = self.weights.argsort(descending=True, stable=True)
        for name in self.table_names:
            parameter = self._parameter(name)
            parameter.copy_(parameter[order].clone())

    # ---- queries ----------------------------------------------------------------------------

    def num_states_of(self, argument: str) -> Sizes:
        """States of each column of x."""
        return self.features.num_states

    def check_data(self, rows: Rows) -> None:
        """Refuse other shapes than ``(n, num_features)``, and values but 0, 1 and NaN."""
        check_features(rows, self.num_features)
        for chunk in rows.chunks(ROWS_PER_CHUNK):
            self.features.check(chunk[0])

    @torch.no_grad()
    def encode(self, x: Any) -> Float[Tensor, "n k"]:
        """Posterior probability of each component, ``(n, K)``."""
        tables = self.tables()
        return torch.cat([self._joint(tables, batch).softmax(-1) for (batch,) in self.batches(x)])

    def predict(self, x: Any) -> Int[Tensor, " n"]:
        """Return the most probable component of each row, ``(n,)``."""
        return self.encode(x).argmax(-1)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw rows.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(num_features,)`` or ``(num_samples, num_features)``: fixed values, NaN where free;
            the free ones are drawn from their exact conditional distribution.
        """
        tables, held = self.tables(), None
        joint = tables["weights"].log().expand(num_samples, -1)
        if given is not None:
            held = read_given(
                self.coded("x", given), num_samples, (self.num_features,), tables["rates"]
            )
            self.features.check(held)
            joint = self._joint(tables, held)
        z = torch.multinomial(joint.softmax(-1), 1)[:, 0]
        x = ClassConditional(self.features, tables, z).sample()
        return x if held is None else torch.where(held.isnan(), x, held)
