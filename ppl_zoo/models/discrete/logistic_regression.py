"""Logistic regression: binary and multinomial (softmax), as point estimate or posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.units import Units
from ppl_zoo.models.common.validation import check_features
from ppl_zoo.models.discrete.labels import check_labels
from ppl_zoo.models.discrete.sparse import multiply

__all__ = ["LogisticRegression"]

ROWS_PER_CHUNK = 65_536


class LogisticRegression(Model):
    """Logistic regression, of two classes or more.

    Generative model::

        weights[c] ~ Normal(0, prior_scale)          for each class and feature
        y          ~ Categorical(softmax(intercept + weights . x))

    Two classes have one row of weights, and y ~ Bernoulli(sigmoid(intercept + weights . x)).

    Parameters
    ----------
    num_features
        Columns of x.
    num_classes
        Number of classes C.
    prior_scale
        Prior sd of the weights; the mode is ridge-penalised maximum likelihood (scikit-learn's
        ``C`` is its square). ``inf`` for maximum likelihood. The intercept is free.
    bayesian
        Whether weights and intercept are latent variables; the intercept is then
        Normal(0, 10 prior_scale).

    Notes
    -----
    x is ``(n, num_features)``, dense or sparse; y ``(n,)`` holds the classes 0 ... C-1. A point
    fit begins with L-BFGS, which converges to the optimum; the EM steps that follow maximise a
    quadratic lower bound of the log likelihood (Boehning & Lindsay 1988, with the separable bound
    of De Leeuw 1994), are monotone, and have the optimum as fixed point.

    References
    ----------
    Cox 1958, The regression analysis of binary sequences, JRSS B 20. Boehning & Lindsay 1988,
    Monotonicity of quadratic-approximation algorithms, https://doi.org/10.1007/BF00049423.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> model = zoo.LogisticRegression(num_features=1)
    >>> fit = zoo.fit(model, (x, torch.tensor([0, 0, 1, 1])), progress=False)
    >>> model.predict(torch.tensor([[0.5], [2.5]])).tolist()
    [0, 1]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "none"}
    default_solver = ("EM", {})
    event_dims = {"weights": ("class", "feature"), "intercept": ("class",)}

    def __init__(
        self,
        num_features: int,
        num_classes: int = 2,
        *,
        prior_scale: float = 1.0,
        bayesian: bool = False,
    ) -> None:
        super().__init__()
        if num_features < 1 or num_classes < 2:
            raise DataError(
                f"got num_features={num_features}, num_classes={num_classes}, expected 1 and 2 "
                "or more"
            )
        if not prior_scale > 0:
            raise DataError(f"prior_scale: got {prior_scale}, expected more than 0")
        self.num_features, self.num_classes, self.bayesian = num_features, num_classes, bayesian
        self.num_rows = 1 if num_classes == 2 else num_classes
        self.offers_em = not bayesian  # the steps are those of a point estimate
        self.register_buffer("prior_scale", torch.tensor(float(prior_scale)))
        if not bayesian:
            self.weights = nn.Parameter(torch.zeros(self.num_rows, num_features))
            self.intercept = nn.Parameter(torch.zeros(self.num_rows))
            return
        self.queries = {**type(self).queries, "log_prob": "estimate", "sample": "estimate"}
        self.default_solver = ("SVI", {"guide": "multivariate-normal"})

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw weights and labels; ``x (n, num_features)``, ``y (n,)``."""
        if self.bayesian:
            shape, scale = (self.num_rows, self.num_features), self.prior_scale
            weights = pyro.sample("weights", dist.Normal(0.0, scale).expand(shape).to_event(2))
            vague = dist.Normal(0.0, 10.0 * scale)
            intercept = pyro.sample("intercept", vague.expand(shape[:1]).to_event(1))
        else:
            weights, intercept = self.weights, self.intercept
            pyro.factor("log_prior", self.log_prior())
        logits = self._logits(weights, intercept, x)
        with self.observations("observations", x):
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def _logits(self, weights: Tensor, intercept: Tensor, x: Tensor) -> Tensor:
        """Logits of the classes ``(..., n, C)``; the first of two classes has 0."""
        scores = multiply(x, weights) + intercept
        if self.num_rows == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], -1)
        return scores

    # ---- EM ---------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start at the optimum of a point fit, by L-BFGS."""
        if not self.bayesian:
            _fit_lbfgs(self, rows)

    def log_likelihood(
        self, weights: Tensor, intercept: Tensor, x: Tensor, y: Tensor
    ) -> Float[Tensor, " n"]:
        """Log probability of each label."""
        logits = self._logits(weights, intercept, x)
        chosen = logits.gather(-1, y.long().unsqueeze(-1)).squeeze(-1)
        return chosen - logits.logsumexp(-1)

    def expected_statistics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """E-step of a point fit: gradient of the log likelihood, and bounds of its curvature."""
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in (self.weights, self.intercept)]
            total = self.log_likelihood(*leaves, x, y).double().sum()
        gradients = torch.autograd.grad(total, leaves)
        size = x.abs() if x.layout == torch.strided else x.to_dense().abs()
        reach = (1.0 + size.sum(-1, keepdim=True)).double()
        return {
            "log_likelihood": total.detach(),
            "weights": gradients[0].double(),
            "intercept": gradients[1].double(),
            "weight_curvature": (size * reach).sum(0),
            "intercept_curvature": reach.sum(),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: maximise the separable quadratic bound."""
        most = 0.25 if self.num_rows == 1 else 0.5  # of the curvature of log softmax
        precision = self.prior_scale.double() ** -2
        gradient = statistics["weights"] - precision * self.weights
        curvature = most * statistics["weight_curvature"] + precision
        self.weights += (gradient / curvature.clamp_min(1e-30)).to(self.dtype)
        step = statistics["intercept"] / (most * statistics["intercept_curvature"])
        self.intercept += step.to(self.dtype)

    def log_prior(self) -> Tensor:
        """Log prior of the weights but for a constant."""
        return -0.5 * ((self.weights / self.prior_scale) ** 2).sum()

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters, (C - 1) (num_features + 1)."""
        return (self.num_classes - 1) * (self.num_features + 1)

    # ---- queries ----------------------------------------------------------------------------

    def num_states_of(self, argument: str) -> Sizes:
        """Classes of y."""
        return self.num_classes if argument == "y" else None

    def check_data(self, rows: Rows) -> None:
        """Refuse other shapes, numbers that are not finite, and labels that are no class."""
        check_features(rows, self.num_features, second="y")
        for chunk in rows.chunks(ROWS_PER_CHUNK):
            x = chunk[0].values() if chunk[0].layout != torch.strided else chunk[0]
            if x.is_floating_point() and not bool(x.isfinite().all()):
                place = (~x.isfinite()).nonzero()[0].tolist()
                raise DataError(f"x: got a value at {place} that is not a finite number")
            if len(chunk) > 1:
                check_labels(chunk[1], self.num_classes, unknown=False)

    @torch.no_grad()
    def log_prob(self, x: Any, y: Any, **options: Any) -> Float[Tensor, " n"]:
        """Log probability of each label given its row, in nats, ``(n,)``."""
        if self.bayesian:
            return super().log_prob(x, y, **options)
        batches = self.batches(x, y)
        return torch.cat([self.log_likelihood(self.weights, self.intercept, *b) for b in batches])

    @torch.no_grad()
    def predict_proba(self, x: Any, *, num_samples: int = 1000) -> Float[Tensor, "n c"]:
        """Probability of each class, ``(n, C)``; averaged over the posterior, where ``bayesian``.

        Parameters
        ----------
        x
            ``(n, num_features)``, dense or sparse.
        num_samples
            Posterior draws to average over.
        """
        rows = self.checked_rows(x)
        if not self.bayesian:
            logits = [
                self._logits(self.weights, self.intercept, c)
                for (c,) in rows.chunks(ROWS_PER_CHUNK)
            ]
            return torch.cat([chunk.softmax(-1) for chunk in logits])
        classes = torch.arange(self.num_classes, device=self.device)
        columns = [
            super(LogisticRegression, self)
            .log_prob(rows.all()[0], classes[c].expand(len(rows)), num_samples=num_samples)
            .exp()
            for c in range(self.num_classes)
        ]
        probabilities = torch.stack(columns, -1)
        return probabilities / probabilities.sum(-1, keepdim=True)

    def predict(self, x: Any) -> Any:
        """Return the most probable class of each row, ``(n,)``, as the fit's labels were given."""
        return self.answer("y", self.predict_proba(x).argmax(-1))


def _fit_lbfgs(
    model: LogisticRegression, rows: Rows, max_steps: int = 2000, tol: float = 1e-10
) -> None:
    """Set weights and intercept to the mode, to rounding, by L-BFGS in float64.

    It runs on standardised features, where curvatures are alike; the prior stays that of ``x``.

    Parameters
    ----------
    model
        The regression, changed in place.
    rows
        x and y.
    max_steps
        Maximal number of iterations.
    tol
        Stop when no derivative of the mean log posterior is larger.
    """
    double = Rows(tuple(rows.arrays), rows.device, torch.float64)
    units = Units([model.num_features]).to(rows.device, torch.float64)
    if not rows.is_sparse:
        units.read(chunk[0] for chunk in double.chunks(4096))
    weights, intercept = (torch.zeros_like(p, dtype=torch.float64) for p in model.parameters())
    leaves = [weights.requires_grad_(), intercept.requires_grad_()]
    precision = model.prior_scale.double() ** -2
    solver = torch.optim.LBFGS(
        leaves,
        max_iter=max_steps,
        max_eval=2 * max_steps,
        tolerance_grad=tol,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        total = 0.5 * precision * ((weights / units.spread) ** 2).sum() / len(double)
        total.backward()
        for x, y in double.chunks(4096):
            x = x if rows.is_sparse else units.standardise(x)
            part = -model.log_likelihood(weights, intercept, x, y).sum() / len(double)
            part.backward()
            total = total.detach() + part.detach()
        return total

    with torch.enable_grad():
        solver.step(loss)
    model.weights.copy_(weights / units.spread)
    model.intercept.copy_(intercept - (weights / units.spread * units.centre).sum(-1))
