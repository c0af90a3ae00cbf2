"""Naive Bayes: features of several types, independent given the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing.vectorize import is_batched
from ppl_zoo.models.common.validation import check_features, read_given
from ppl_zoo.models.discrete.columns import ClassConditional, Features
from ppl_zoo.models.discrete.gaussian_columns import GaussianColumns
from ppl_zoo.models.discrete.labels import ObservedLabel, check_labels, is_known
from ppl_zoo.models.discrete.sparse import multiply
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["NaiveBayes"]

ROWS_PER_CHUNK = 65_536


class NaiveBayes(CountedModel):
    """Naive Bayes with Bernoulli, categorical, multinomial and Gaussian columns in one model.

    Generative model::

        class_rates      ~ Dirichlet(class_concentration)
        rates[c, d]      ~ Dirichlet(concentration)              for a binary column
        word_rates[c]    ~ Dirichlet(concentration)              for the counts of a row
        precision[c, d]  ~ Gamma(1, 1)                           for a Gaussian column, in units
        mean[c, d]       ~ Normal(0, 1 / sqrt(0.01 precision))   of its mean and sd over all data
        label            ~ Categorical(class_rates)              for each row
        x[d]             ~ Categorical(rates[label, d]), Multinomial(word_rates[label], length)
                           or Normal(mean[label, d], 1 / sqrt(precision[label, d]))
        y                = label, where it is known

    A row's length (its sum of counts) is Poisson, independently of the class.

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
        Added to every variance, in units of the variance of its column: scikit-learn takes that of
        the largest column, beside which a column in small units says nothing.
    bayesian
        Whether the parameters are latent variables with a conjugate posterior.
    unlabelled_weight
        Weight of a row without a label in EM (Nigam et al. 2000, section 5.3.1).
    missing
        Value of y that stands for an unknown label, beside None and NaN: -1, "", "?".

    Notes
    -----
    x is ``(n, num_features)``, NaN where missing (not counts), or a sparse matrix of binary
    columns or counts; y ``(n,)`` holds the classes 0 ... C-1, or, in an array, series or list, C
    names or numbers of any kind (words, truth values, -1 and 1), which ``predict`` gives back.
    A label is unknown where it is NaN, None or ``missing``; and -1 is where the others are
    classes 0 ... C-1 and -1 is not one of exactly C different values.

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
        kind: str | Sequence[str] = "bernoulli",
        *,
        num_states: Any = None,
        concentration: float = 2.0,
        class_concentration: float = 1.0,
        variance_smoothing: float = 1e-9,
        bayesian: bool = False,
        unlabelled_weight: float = 1.0,
        missing: Any = None,
    ) -> None:
        super().__init__(bayesian)
        _check_options(num_classes, variance_smoothing, unlabelled_weight)
        self.num_features, self.num_classes = num_features, num_classes
        self.features = Features(num_features, kind, num_states)
        self.unlabelled_weight, self.missing = float(unlabelled_weight), missing
        self.add_table("class_rates", (num_classes,), class_concentration)
        for block in self.features.table_blocks:
            self.add_table(block.table, (num_classes, *block.shape), concentration)
        gaussian = self.features.block("gaussian")
        self.numbers: GaussianColumns | None = None
        if gaussian is not None:
            self.follows_data_dtype = True
            self.numbers = GaussianColumns(
                num_classes, gaussian.size, bayesian, variance_smoothing
            )
        self.log_length: Tensor | None = None
        if self.features.block("multinomial") is not None:
            self.log_length = nn.Parameter(torch.zeros(()))

    # ---- the generative model and its posterior ---------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw a class for each row, then its features; a known label is the class."""
        parameters = self._with_units({**self.draw_tables(), **self._draw_naturals(False)})
        with self.observations("rows", x):
            classes = dist.Categorical(parameters["class_rates"])
            z = pyro.sample("label", classes, infer={"enumerate": "parallel"})
            pyro.sample("x", ClassConditional(self.features, parameters, z), obs=x)
            if y is not None:
                pyro.sample("y", ObservedLabel(z), obs=y)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """Draw parameters from q, and classes from their exact posterior given these."""
        parameters = self._with_units({**self.draw_posterior(), **self._draw_naturals(True)})
        with torch.no_grad():  # the bound is tight, so its gradient does not pass through q
            joint = self.log_joint(parameters, x, y)
        with self.observations("rows", x):
            pyro.sample("label", dist.Categorical(logits=joint))

    def _draw_naturals(self, posterior: bool) -> dict[str, Tensor]:
        """Natural parameters of Gaussian columns: drawn from prior or q, where ``bayesian``."""
        if self.numbers is None:
            return {}
        if self.bayesian:
            return self.numbers.sample_naturals(posterior)
        return self.numbers.point_naturals()

    def _with_units(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add the mean length of rows, unless given, and the units of Gaussian columns."""
        units = {} if self.numbers is None else self.numbers.units()
        return {**self._length(), **units, **parameters}

    def _length(self) -> dict[str, Tensor]:
        """Natural parameters of the Poisson length of rows."""
        length = self.log_length
        return {} if length is None else {"log_length": length, "minus_length": -length.exp()}

    def log_joint(
        self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor | None = None
    ) -> Tensor:
        """Log density of rows and classes ``(..., n, C)``, -inf for classes other than y."""
        joint = self.features.log_densities(parameters, x) + parameters["class_rates"].log()
        if y is None:
            return joint
        labelled = is_known(y).unsqueeze(-1)
        classes = torch.arange(self.num_classes, device=joint.device)
        return joint.masked_fill(labelled & (y.unsqueeze(-1) != classes), -torch.inf)

    # ---- EM ---------------------------------------------------------------------------------

    def log_likelihood(
        self, tables: Mapping[str, Tensor], x: Tensor, y: Tensor | None = None
    ) -> Float[Tensor, " n"]:
        """Log density of rows, and of the labels that are known."""
        joint = self.log_joint(self._with_units(tables), x, y)
        return joint.mT.contiguous().logsumexp(0)  # twice as fast along the first dimension

    def log_base(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Minus log x! of counts."""
        factorials = self.features.log_factorials(x)
        return None if factorials is None else -factorials

    def naturals(self) -> dict[str, Tensor]:
        """Natural parameters of Gaussian columns and of the length of rows."""
        numbers = {} if self.numbers is None else self.numbers.expected_naturals()
        return {**numbers, **self._length()}

    def row_weights(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Weight of each row: 1, or ``unlabelled_weight`` without a label; None for one."""
        if self.unlabelled_weight == 1.0 or y is None:
            return None
        return torch.where(is_known(y), 1.0, self.unlabelled_weight).to(self.dtype)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start from the labelled rows; at random where there are none."""
        super().initialize(rows)
        labelled = is_known(rows.all()[1]) if len(rows.arrays) > 1 else None
        unsupervised = labelled is None or not bool(labelled.any())
        if self.numbers is not None:
            self.numbers.initialize(rows, self.features.block("gaussian").columns, unsupervised)
        if unsupervised:
            for block in self.features.table_blocks:
                parameter = self._parameter(block.table)
                parameter.add_(0.5 * torch.randn_like(parameter))
        elif not bool(labelled.all()):
            self.maximize(self.expected_statistics(*rows[labelled.nonzero()[:, 0]]))

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: tables, Gaussian columns and the mean length of rows."""
        super().maximize(statistics)
        if self.numbers is not None:
            self.numbers.maximize(statistics)
        if self.log_length is not None:
            mean = statistics["log_length"] / statistics["minus_length"]
            self.log_length.copy_(mean.clamp_min(1e-30).log())

    def log_prior(self) -> Tensor:
        """Log prior of the parameters; where ``bayesian``, -KL(q || prior)."""
        gaussian = self.bayesian and self.numbers is not None
        return super().log_prior() + (self.numbers.negative_kl() if gaussian else 0.0)

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters."""
        numbers = 0 if self.numbers is None else 2 * self.numbers.loc.numel()
        return super().num_free_parameters + numbers + (self.log_length is not None)

    # ---- queries ----------------------------------------------------------------------------

    def _named_parts(self, data: Any) -> list[tuple[str, Any]]:
        """Arguments by name; labels that are unknown by ``missing`` as NaN."""
        parts = super()._named_parts(data)
        if self.missing is None:
            return parts
        return [
            (n, _masked(p, self.missing) if n == "y" and not isinstance(p, Tensor) else p)
            for n, p in parts
        ]

    def num_states_of(self, argument: str) -> Sizes:
        """States of each column of x, and the classes."""
        if argument == "y":
            return self.num_classes
        return self.features.num_states

    def check_data(self, rows: Rows) -> None:
        """Refuse x and y of other shapes, and values that a column or a label cannot have."""
        check_features(rows, self.num_features, second="y")
        for chunk in rows.chunks(ROWS_PER_CHUNK):
            self.features.check(chunk[0])
            if len(chunk) > 1:
                check_labels(chunk[1], self.num_classes)

    def point_parameters(self) -> dict[str, Tensor]:
        """Parameters for queries; their means, where ``bayesian``."""
        numbers = {} if self.numbers is None else self.numbers.point_naturals()
        return self._with_units({**self.tables(), **numbers})

    def log_prob(self, x: Any, y: Any = None) -> Float[Tensor, " n"]:
        """Log density of each row (and label), in nats, ``(n,)``; at mean parameters."""
        return super().log_prob(x) if y is None else super().log_prob(x, y)

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
        rows = self.checked_rows(x)
        parameters, out = self.point_parameters(), []
        for (chunk,) in rows.chunks(ROWS_PER_CHUNK if rows.is_sparse else 4096):
            joint = self._predictive(chunk) if uncertainty else self.log_joint(parameters, chunk)
            out.append(_bayes_rule(joint, parameters["class_rates"]))
        return torch.cat(out)

    def _predictive(self, x: Tensor) -> Tensor:
        """Log predictive density of rows and classes, parameters integrated out, ``(n, C)``."""
        joint = self.table("class_rates").log().expand(x.shape[0], -1)
        for block in self.features.blocks:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            if block.column_type == "gaussian":
                joint = joint + self.numbers.log_predictive(own)
            elif block.column_type == "multinomial":
                joint = joint + _log_dirichlet_multinomial(
                    own, self.posterior_concentration(block.table)
                )
            else:  # a row uses a cell once: the predictive probability is the cell's mean
                joint = joint + self.features.block_log_densities(block, self.tables(), own)
        return joint

    def predict(self, x: Any) -> Any:
        """Return the most probable class of each row, ``(n,)``, as the fit's labels were given."""
        return self.answer("y", self.predict_proba(x).argmax(-1))

    def encode(self, x: Any, y: Any = None) -> Float[Tensor, "n c"]:
        """Return the posterior probability of each class, ``(n, C)``."""
        return self.predict_proba(x)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Any:
        """Draw rows; some columns, or the class, may be given.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``{"y": class}``, ``{"x": row}`` or both; a row ``(num_features,)`` or
            ``(num_samples, num_features)`` has NaN where free (counts cannot be given).

        Returns
        -------
        Tensor or dict
            ``(num_samples, num_features)``; ``{"x": ..., "y": ...}`` if the fit had labels.
        """
        x, y = self._read_given_row_and_class(given, num_samples)
        parameters = self.point_parameters()
        joint = parameters["class_rates"].log().expand(num_samples, -1)
        if x is not None:
            joint = self.log_joint(parameters, x)
        z = torch.multinomial(joint.softmax(-1), 1)[:, 0] if y is None else y
        drawn = ClassConditional(self.features, parameters, z).sample()
        drawn = drawn if x is None else torch.where(x.isnan(), drawn, x)
        if self.example is not None and len(self.example) > 1:
            return {"x": drawn, "y": self.answer("y", z.to(self.example[1][0].dtype))}
        return drawn

    def _read_given_row_and_class(
        self, given: Any, num_samples: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Read the fixed rows ``(num_samples, d)`` and classes ``(num_samples,)`` of `sample`.

        Raises
        ------
        DataError
            If a name, a shape, a value or a class is wrong; if x is given and has counts, since
            the length of the row would have to be known.
        """
        given = {} if given is None else given
        if not isinstance(given, Mapping) or set(given) - {"x", "y"}:
            raise DataError(f"given: got {given!r}, expected {{'x': row}}, {{'y': class}} or both")
        x, y = given.get("x"), given.get("y")
        x, y = self.coded("x", x), self.coded("y", y)
        if y is not None:
            y = torch.as_tensor(y, device=self.device)
            if y.shape not in ((), (num_samples,)):
                raise DataError(
                    f"given y: got shape {tuple(y.shape)}, expected () or ({num_samples},)"
                )
            y = y.expand(num_samples)
            check_labels(y, self.num_classes, unknown=False)
            y = y.long()
        if x is not None:
            x = read_given(x, num_samples, (self.num_features,), self._anchor)
            if self.features.block("multinomial") is not None:
                raise DataError("given: got x of a model of counts, expected {'y': class} only")
            self.features.check(x)
        return x, y


def _masked(y: Any, missing: Any) -> Any:
    """Put NaN in the place of labels that are unknown."""
    array = np.asarray(y)
    array = array.astype(object if array.dtype.kind in "OUS" else np.float64)
    return np.where(array == missing, np.nan, array)


def _check_options(num_classes: int, smoothing: float, weight: float) -> None:
    """Refuse options that are out of range."""
    if num_classes < 2:
        raise DataError(f"num_classes: got {num_classes}, expected 2 or more")
    if not smoothing >= 0:
        raise DataError(f"variance_smoothing: got {smoothing}, expected 0 or more")
    if not 0 <= weight <= 1:
        raise DataError(f"unlabelled_weight: got {weight}, expected 0 to 1")


def _bayes_rule(joint: Tensor, prior: Tensor) -> Tensor:
    """Bayes' rule: posterior of the classes from log joint densities ``(n, C)``.

    A row of density 0 under every class gets the prior ``(C,)``.
    """
    out = joint.mT.contiguous().softmax(0).mT  # five times as fast along the first dimension
    impossible = out[:, :1].isnan()
    some = is_batched(impossible) or bool(impossible.any())
    return torch.where(impossible, prior, out) if some else out


def _log_dirichlet_multinomial(x: Tensor, concentration: Tensor) -> Tensor:
    """Dirichlet-multinomial log probability of counts, but for the multinomial coefficient.

    Parameters
    ----------
    x
        Counts ``(n, d)``, dense or sparse.
    concentration
        Dirichlet parameters ``(C, d)``.

    Returns
    -------
    Tensor
        ``(n, C)``.
    """
    total = concentration.sum(-1)
    length = x @ torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    lead = total.lgamma() - (total + length.unsqueeze(-1)).lgamma()
    parts = []
    for a in concentration:  # a class at a time, to hold one copy of x only
        if x.layout == torch.strided:
            parts.append(((a + x).lgamma() - a.lgamma()).sum(-1))
        else:
            own = a[x.col_indices()]
            rises = (own + x.values()).lgamma() - own.lgamma()
            rises = torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), rises, x.shape)
            parts.append(multiply(rises, torch.ones_like(a)[None])[:, 0])
    return lead + torch.stack(parts, -1)
