"""Naive Bayes: features of any kind, independent given the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.discrete import labels
from ppl_zoo.models.discrete.columns import ClassRows, Features
from ppl_zoo.models.discrete.gaussian_columns import GaussianColumns
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["ClassQueries", "NaiveBayes"]


# ---- What is asked of naive Bayes: the class of a row, and new rows.


class ClassQueries:
    """Queries of a model with classes, answered by Bayes' rule, a chunk of rows at a time."""

    features: Features
    numbers: GaussianColumns | None
    num_classes: int
    log_joint: Callable[..., Tensor]
    point_parts: Callable[[], Mapping[str, Tensor]]

    @torch.no_grad()
    def predict_proba(self, x: Any, *, uncertainty: bool = False) -> Float[Tensor, "n c"]:
        """Probability of each class given the features, by Bayes' rule.

        Parameters
        ----------
        x
            ``(n, num_features)``, dense or sparse.
        uncertainty
            Whether to integrate over the posterior of the parameters, in closed form, instead of
            using one value of them.

        Returns
        -------
        Tensor
            ``(n, C)``.

        Raises
        ------
        QueryError
            If ``uncertainty`` is asked of a model without ``bayesian=True``.
        """
        if uncertainty and not self.bayesian:
            raise QueryError(
                "predict_proba(uncertainty=True): got a model of point parameters, expected one "
                "made with bayesian=True"
            )
        rows = self.as_rows((x,))
        self.check_data(rows)
        parts, out = self.point_parts(), []
        for (chunk,) in rows.chunks(65536 if rows.is_sparse else 4096):
            joint = self._predictive(chunk) if uncertainty else self.log_joint(parts, chunk)
            out.append(labels.bayes_rule(joint, parts["class_rates"]))
        return torch.cat(out)

    def _predictive(self, x: Tensor) -> Tensor:
        """Log predictive density of rows and classes, parameters integrated out, ``(n, C)``."""
        joint = self.table("class_rates").log().expand(x.shape[0], -1)
        for block in self.features.blocks:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            if block.kind == "gaussian":
                joint = joint + self.numbers.student(own)
            elif block.kind == "multinomial":
                joint = joint + labels.dirichlet_multinomial(
                    own, self.posterior_concentration(block.table)
                )
            else:  # a cell is used once in a row: its mean is all that counts
                joint = joint + self.features.score(block, self.tables(), own)
        return joint

    def predict(self, x: Any) -> Int[Tensor, " n"]:
        """Return the most probable class of each row, ``(n,)``."""
        return self.predict_proba(x).argmax(-1)

    def encode(self, x: Any, y: Any = None) -> Float[Tensor, "n c"]:
        """Return the posterior probability of each class, ``(n, C)``."""
        return self.predict_proba(x)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Any:
        """Draw rows; some columns, or the class, may be held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``{"y": class}``, ``{"x": row}`` or both; a row ``(num_features,)`` or
            ``(num_samples, num_features)`` has NaN where free (counts cannot be held).

        Returns
        -------
        Tensor or dict
            ``(num_samples, num_features)``; ``{"x": ..., "y": ...}`` if the fit had labels.
        """
        held = labels.given(given, num_samples, self.num_features, self.num_classes)
        x, y = (None if v is None else v.to(self.device) for v in held)
        parts = self.point_parts()
        joint = parts["class_rates"].log().expand(num_samples, -1)
        if x is not None:
            labels.no_counts(self.features)
            x = x.to(self.dtype)
            self.features.check(x)
            joint = self.log_joint(parts, x)
        z = torch.multinomial(joint.softmax(-1), 1)[:, 0] if y is None else y
        drawn = ClassRows(self.features, parts, z).sample()
        drawn = drawn if x is None else torch.where(x.isnan(), drawn, x)
        if self.example is not None and len(self.example) > 1:
            return {"x": drawn, "y": z.to(self.example[1][0].dtype)}
        return drawn


class NaiveBayes(ClassQueries, CountedModel):
    """Naive Bayes over Bernoulli, categorical, count and normal columns, in one model.

    The story::

        class_rates      ~ Dirichlet(class_concentration)
        rates[c, d]      ~ Dirichlet(concentration)              for a yes-no column
        word_rates[c]    ~ Dirichlet(concentration)              for the counts of a row
        precision[c, d]  ~ Gamma(1, 1)                           for a number, in units of its
        mean[c, d]       ~ Normal(0, 1 / sqrt(0.01 precision))   mean and sd over all data
        label            ~ Categorical(class_rates)              for each row
        x[d]             ~ Categorical(rates[label, d]), Multinomial(word_rates[label], length)
                           or Normal(mean[label, d], 1 / sqrt(precision[label, d]))
        y                = label, where it is known

    A row's length (its sum of counts) is Poisson and says nothing of the class.

    Parameters
    ----------
    num_features
        Columns of x.
    num_classes
        Number of classes C.
    kind
        "bernoulli", "multinomial", "gaussian" or "categorical"; or one for each column.
    num_states
        States of the categorical columns, or one for each of them.
    concentration, class_concentration
        Dirichlet priors. The mode under 2 adds one to every count (scikit-learn's ``alpha`` is
        this less one).
    variance_smoothing
        Added to every variance, in units of the largest variance of a column.
    bayesian
        Whether the parameters are latent variables with a conjugate posterior.
    unlabelled_weight
        What a row without a label counts for in EM (Nigam et al. 2000, section 5.3.1).

    Notes
    -----
    x is ``(n, num_features)``, NaN where missing (not counts), or a sparse matrix of yes-no
    columns or counts; y ``(n,)`` holds the classes 0 ... C-1, and -1 or NaN where unknown.

    References
    ----------
    Maron 1961, Automatic indexing: an experimental inquiry, J. ACM 8. McCallum & Nigam 1998, A
    comparison of event models for naive Bayes text classification, AAAI workshop. Nigam,
    McCallum, Thrun & Mitchell 2000, Text classification from labeled and unlabeled documents
    using EM, https://doi.org/10.1023/A:1007692713085.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.tensor([[1.0, 0.2], [1.0, 0.1], [0.0, 3.0], [torch.nan, 2.9]])
    >>> y = torch.tensor([0, 0, 1, 1])
    >>> model = zoo.NaiveBayes(2, kind=["bernoulli", "gaussian"])
    >>> fit = zoo.fit(model, (x, y), progress=False)
    >>> model.predict(torch.tensor([[0.0, torch.nan], [torch.nan, 0.0]])).tolist()
    [1, 0]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    event_dims = {
        "class_rates": ("class",),
        "rates": ("class", "feature", "state"),
        "state_rates": ("class", "feature", "state"),
        "word_rates": ("class", "feature"),
        "mean": ("class", "feature"),
        "precision": ("class", "feature"),
        "x": ("feature",),
    }
    representation = "label"
    allow_missing = True

    def __init__(
        self,
        num_features: int,
        num_classes: int = 2,
        kind: Any = "bernoulli",
        *,
        num_states: Any = None,
        concentration: float = 2.0,
        class_concentration: float = 1.0,
        variance_smoothing: float = 1e-9,
        bayesian: bool = False,
        unlabelled_weight: float = 1.0,
    ) -> None:
        super().__init__(bayesian)
        labels.check_options(num_classes, variance_smoothing, unlabelled_weight)
        self.num_features, self.num_classes = num_features, num_classes
        self.features = Features(num_features, kind, num_states)
        self.unlabelled_weight = float(unlabelled_weight)
        self.add_table("class_rates", (num_classes,), class_concentration)
        for block in self.features.counted:
            self.add_table(block.table, (num_classes, *block.shape), concentration)
        numbers = self.features.block("gaussian")
        self.numbers = None
        if numbers is not None:
            self.numbers = GaussianColumns(num_classes, numbers.size, bayesian, variance_smoothing)
        self.log_length = None
        if self.features.block("multinomial") is not None:
            self.log_length = nn.Parameter(torch.zeros(()))

    # ---- the generative story and its posterior ---------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw a class for each row, then its features; the label shows the class."""
        parts = self.draw_tables()
        if self.numbers is not None:
            parts |= self.numbers.draw(False) if self.bayesian else self.numbers.point()
        parts = self._complete(parts)
        with self.observations("rows", x):
            law = dist.Categorical(parts["class_rates"])
            z = pyro.sample("label", law, infer={"enumerate": "parallel"})
            pyro.sample("x", ClassRows(self.features, parts, z), obs=x)
            if y is not None:
                pyro.sample("y", labels.ObservedLabel(z), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw parameters from q, and classes from their exact posterior given these."""
        parts = self.draw_posterior()
        if self.numbers is not None:
            parts |= self.numbers.draw(True) if self.bayesian else self.numbers.point()
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            joint = self.log_joint(self._complete(parts), x, y)
        with self.observations("rows", x):
            pyro.sample("label", dist.Categorical(logits=joint))

    def _complete(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add what is no latent variable and no natural parameter of a class."""
        length = self.log_length
        more = {} if length is None else {"log_length": length, "minus_length": -length.exp()}
        units = {} if self.numbers is None else self.numbers.constants()
        return {**more, **units, **parts}

    def log_joint(self, parts: Mapping[str, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        """Log density of rows and classes ``(..., n, C)``, -inf where y says otherwise."""
        joint = self.features.scores(parts, x) + parts["class_rates"].log()
        if y is None:
            return joint
        told = labels.known(y).unsqueeze(-1)
        every = torch.arange(self.num_classes, device=joint.device)
        return joint.masked_fill(told & (y.unsqueeze(-1) != every), -torch.inf)

    # ---- EM ---------------------------------------------------------------------------------

    def log_likelihood(
        self, tables: Mapping[str, Tensor], x: Tensor, y: Tensor | None = None
    ) -> Float[Tensor, " n"]:
        """Log density of rows, and of the labels that are known."""
        joint = self.log_joint(self._complete(tables), x, y)
        return joint.mT.contiguous().logsumexp(0)  # twice as fast along the first dimension

    def log_base(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Minus log x! of counts."""
        repeats = self.features.log_repeats(x)
        return None if repeats is None else -repeats

    def naturals(self) -> dict[str, Tensor]:
        """Natural parameters of numbers and of the length of rows."""
        out = {} if self.numbers is None else self.numbers.expected()
        if self.log_length is not None:
            out |= {"log_length": self.log_length, "minus_length": -self.log_length.exp()}
        return out

    def row_weights(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Rows without a label may count for less."""
        if self.unlabelled_weight == 1.0 or y is None:
            return None
        return torch.where(labels.known(y), 1.0, self.unlabelled_weight).to(self.dtype)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Learn from the rows with a label alone, if some have none; at random if none has."""
        super().initialize(rows)
        known = labels.known(rows.all()[1]) if len(rows.arrays) > 1 else None
        alone = known is None or not bool(known.any())
        if self.numbers is not None:
            self.numbers.start(rows, self.features.block("gaussian").columns, alone)
        if alone:
            for block in self.features.counted:
                parameter = getattr(self, self._key(block.table))
                parameter.add_(0.5 * torch.randn_like(parameter))
        elif not bool(known.all()):
            self.maximize(self.expected_statistics(*rows[known.nonzero()[:, 0]]))

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: tables, then numbers and the mean length of rows."""
        super().maximize(statistics)
        if self.numbers is not None:
            self.numbers.maximize(statistics)
        if self.log_length is not None:
            mean = statistics["log_length"] / statistics["minus_length"]
            self.log_length.copy_(mean.clamp_min(1e-30).log())

    def log_prior(self) -> Tensor:
        """Log prior of the parameters; where ``bayesian``, -KL(q || prior)."""
        more = self.numbers.minus_kl() if self.bayesian and self.numbers is not None else 0.0
        return super().log_prior() + more

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters."""
        numbers = 0 if self.numbers is None else 2 * self.numbers.loc.numel()
        return super().num_free_parameters + numbers + (self.log_length is not None)

    # ---- queries; those for classes and new rows are in ``class_queries`` ---------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x and y of other shapes and values than the story has."""
        labels.check_shapes(rows, self.num_features)
        for chunk in rows.chunks(65536):
            self.features.check(chunk[0])
            if len(chunk) > 1:
                labels.check_labels(chunk[1], self.num_classes)

    def point_parts(self) -> dict[str, Tensor]:
        """Parameters for queries; their means, where ``bayesian``."""
        numbers = {} if self.numbers is None else self.numbers.point()
        return self._complete({**self.tables(), **numbers})

    def log_prob(self, x: Any, y: Any = None) -> Float[Tensor, " n"]:
        """Log density of each row (and label), in nats, ``(n,)``; at mean parameters."""
        return super().log_prob(x) if y is None else super().log_prob(x, y)
