"""Model: a Pyro program with three queries, density, sampling and representation.

A model is one :class:`Model`, a ``PyroModule`` with a method ``model``. The default guide, the
density bound, sampling and representation come from here; a model that knows better overrides
them and says so in ``queries``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyro
import torch
from jaxtyping import Float, Shaped
from pyro import poutine
from pyro.infer.autoguide import AutoContinuous
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, TransformedDistribution

from ppl_zoo.core.display import brief, call_text, changed_arguments, html_table
from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.named_data import (
    ArgumentNames,
    Sizes,
    arguments_in_frame,
    encode,
    learn_names,
)
from ppl_zoo.core.new_rows import SharedLatents, is_of_other_rows
from ppl_zoo.core.one_at_a_time import one_at_a_time, running
from ppl_zoo.core.options import did_you_mean, refuse_unknown
from ppl_zoo.core.parameters import ParameterStore
from ppl_zoo.core.rows import Rows, needs_double, split_parts
from ppl_zoo.core.tracing import Site, describe, draw, first_run, predict
from ppl_zoo.core.tracing.sites import whole_plates
from ppl_zoo.core.tracing.validation import refuse_broadcast, refuse_unobserved

__all__ = ["ANSWERS", "Array", "Model", "no_latents"]

#: what a query may say of itself; "exact" is a promise that `zoo.testing.check_model` tests
ANSWERS = ("exact", "bound", "estimate", "none")


#: methods of a model that run in one thread at a time
QUERIES = (
    "log_prob",
    "sample",
    "encode",
    "predict",
    "predict_proba",
    "predictive",
    "marginals",
    "query",
    "map_query",
    "denoise",
    "learn",
)

#: numbers in data whose shapes are validated whole; of larger ones the first rows are
MAX_VALIDATED_NUMBERS = 2**22


@runtime_checkable
class Column(Protocol):
    """A column or frame of pandas, polars or Arrow."""

    def to_numpy(self) -> np.ndarray:
        """Return its values."""


Array = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Column | list


@runtime_checkable
class StoredGuide(Protocol):
    """A guide of stored draws, which knows the local latents of its own rows only."""

    def knows(self, *data: Tensor) -> bool:
        """Whether these are its own rows."""

    def for_new_rows(self) -> Any:
        """Return the guide that takes all rows as new ones."""


class Model(PyroModule):
    """A generative model that answers three queries: density, sampling, representation.

    A subclass writes ``model(self, *data)`` and, where the default (``AutoNormal``) will not do,
    ``guide(self, *data)`` with the same arguments. All parameters and buffers are made in
    ``__init__``, whose arguments are numbers, strings, tensors or sequences of them, so that a
    saved fit can build the object again.

    Class attributes
    ----------------
    queries
        How ``log_prob``, ``sample`` and ``encode`` are answered: "exact", "bound", "estimate" or
        "none".
    default_solver
        Name of a solver and its options, taken by ``zoo.fit(model, data)``.
    event_dims
        Names of the event dimensions of a site, for ArviZ: ``{"beta": ("feature",)}``.
    representation
        Site whose posterior mean is the representation; None for all local latents.
    allow_missing
        Whether NaN in the data means "not observed".
    compiles
        False for a program that runs faster as it is written: one with its own gradients.
    integers_are_numbers
        Whether integers and truth values in the data become floating point. False where they are
        codes or indices.
    follows_data_dtype
        Whether a fit to data in double precision computes in it. False where float32 holds the
        data exactly and is twice as fast: codes, counts, grey values of images.
    legacy_arguments
        Arguments of ``__init__`` that were added later, with what they are in runs saved before.
    any_rows
        False for a program that may take no other rows than those of the fit (sequences whose
        steps it counts): queries and exports then run it on all of them.
    offers_em
        False where the options of a model leave out EM and CAVI, though its class has the steps.

    Attributes
    ----------
    data_plate
        Name of the plate over the data; None until ``zoo.fit`` or a query has found it.
    example
        One row of each argument of a fit, and whether the argument has rows (a constant has
        none); None before a fit.
    fitted_guide
        The guide of the last fit; None before a fit and where a fit has none.
    data_names
        Names of columns and states of each argument of the last fit, where it had some.

    Examples
    --------
    >>> import pyro, torch
    >>> import pyro.distributions as dist
    >>> import ppl_zoo as zoo
    >>> class Coin(zoo.Model):
    ...     def model(self, x):
    ...         bias = pyro.sample("bias", dist.Beta(2.0, 2.0))
    ...         with self.observations("tosses", x):
    ...             pyro.sample("x", dist.Bernoulli(bias), obs=x)
    >>> fit = zoo.fit(Coin(), torch.tensor([1.0, 1.0, 0.0, 1.0]), progress=False)
    >>> fit.posterior(100)["bias"].shape  # (chain, draw)
    torch.Size([1, 100])
    """

    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "bound",
        "sample": "exact",
        "encode": "estimate",
    }
    representation: ClassVar[str | None] = None
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("SVI", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    allow_missing: bool = False
    compiles: ClassVar[bool] = True
    any_rows: ClassVar[bool] = True
    legacy_arguments: ClassVar[Mapping[str, Any]] = {}
    offers_em: bool = True
    follows_data_dtype: bool = True
    integers_are_numbers: bool = False

    guide: Any = None
    data_plate: str | None = None
    example: tuple[tuple[Tensor, bool], ...] | None = None
    fitted_guide: Any = None
    _total: int | None = None
    _opened: list[str] | None = None
    _takes_all: bool = True
    _dtype_asked: bool = False
    data_names: Mapping[str, ArgumentNames] = {}
    _drawn_from: Tensor | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Remember the arguments of ``__init__``, so that a saved fit can repeat it.

        The programs are made to run in the model's parameter store.
        """
        super().__init_subclass__(**kwargs)
        for name in ("model", "guide"):
            if inspect.isfunction(cls.__dict__.get(name)):
                setattr(cls, name, _in_own_store(cls.__dict__[name]))
        for name in QUERIES:
            if inspect.isfunction(cls.__dict__.get(name)):
                setattr(cls, name, one_at_a_time(cls.__dict__[name]))
        if "__init__" not in cls.__dict__:
            return
        init = cls.__init__

        @functools.wraps(init)
        def remember(self: Model, *args: Any, **kwargs: Any) -> None:
            if "config" in self.__dict__:  # of a base class, called by a subclass
                init(self, *args, **kwargs)
                return
            refuse_unknown(type(self).__name__, init, kwargs)
            try:
                bound = inspect.signature(init).bind(self, *args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}: {error}") from None
            bound.apply_defaults()
            self.__dict__["config"] = dict(list(bound.arguments.items())[1:])
            with running():  # a fit of another thread may have set another default dtype
                state = torch.get_rng_state()
                init(self, *args, **kwargs)
            if not torch.equal(state, torch.get_rng_state()):
                self.__dict__["_drawn_from"] = state

        cls.__init__ = remember

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.setdefault("config", {})
        # carries dtype and device for models that have no parameter of their own
        self.register_buffer("_anchor", torch.empty(0), persistent=False)
        self.add_module("_declared", ParameterStore())

    # ---- what a subclass writes -------------------------------------------------------------

    def model(self, *data: Any) -> Any:
        """Write the generative model with ``pyro.sample``."""
        raise TypeError(f"{type(self).__name__} has no method 'model'; write one")

    def initialize(self, rows: Rows) -> None:
        """Choose a start from the data; called once a chain, under the chain's seed."""

    def read_units(self, rows: Rows) -> None:
        """Take from the data the units of priors; called by solvers that choose no start."""

    def log_prior(self) -> Tensor:
        """Log prior density of the parameters, for EM; 0 for maximum likelihood."""
        return self._anchor.new_zeros(())

    def degenerate(self, *batch: Tensor) -> tuple[str, ...]:
        """Name parts of the density that have collapsed onto rows, in words, by some rows.

        There the likelihood has no bound but a floor of ours.
        """
        return ()

    def relabel(self) -> None:
        """Put exchangeable parts (components) into a canonical order; called after a fit."""

    def check_data(self, rows: Rows) -> None:
        """Refuse data that this model cannot take; called before every fit.

        Raises
        ------
        DataError
            If a floating array has NaN or infinite values (NaN is let through where the model
            has ``allow_missing``).
        """
        names = self.argument_names
        for start in range(0, len(rows), 65536):
            for index, array in enumerate(rows[start : start + 65536]):
                if not array.is_floating_point():
                    continue
                bad = array.isinf() if self.allow_missing else ~array.isfinite()
                if bad.any():
                    where = bad.nonzero()[0].tolist()
                    where[:1] = [where[0] + start] if where else []
                    value = array[bad][0].item()
                    hint = (
                        "finite numbers"
                        if self.allow_missing
                        else "finite numbers (models made with missing=True take NaN as missing)"
                    )
                    name = names[index] if index < len(names) else f"data[{index}]"
                    raise DataError(f"{name}: got {value} at {tuple(where)}, expected {hint}")

    def num_states_of(self, argument: str) -> Sizes:
        """States of an argument's values: their number for all of them, or for each column.

        0 for a column of numbers, None for an argument of numbers. Where there are states, words
        are taken as their names.
        """
        return None

    # ---- plumbing ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        """Write the call that makes it: arguments without a default, and those that differ."""
        return call_text(self.model_name, changed_arguments(type(self).__init__, self.config))

    def _repr_html_(self) -> str:
        """Show its arguments, its size and how it answers the three queries."""
        rows = {name: brief(value) for name, value in self.config.items()}
        rows["parameters"] = f"{sum(p.numel() for p in self.parameters()):,}"
        rows |= {name: self.queries[name] for name in ("log_prob", "sample", "encode")}
        return html_table(repr(self), rows)

    def forward(self, *data: Any) -> Any:
        """Run the generative program; a ``Model`` is itself the Pyro program."""
        return self.model(*data)

    @property
    def model_name(self) -> str:
        """What messages and pictures call the model."""
        return type(self).__name__

    @property
    def declared(self) -> ParameterStore:
        """Parameters that the programs declare by ``pyro.param`` and ``pyro.module``."""
        return self._modules["_declared"]  # an attribute of a PyroModule is a Pyro statement

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the arguments of ``model``."""
        return tuple(inspect.signature(self.model).parameters)

    def arguments(self, *data: Any) -> tuple[tuple, dict[str, Any]]:
        """Return the positional and keyword arguments of the programs for tensors of the data."""
        return data, {}

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters; ``model.double()`` changes it."""
        return self._anchor.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Model:
        """Notice that a dtype is asked for: ``double()``, ``float()``, ``to(dtype)``."""
        single, double = (torch.empty(0, dtype=t) for t in (torch.float32, torch.float64))
        self._dtype_asked = self._dtype_asked or fn(single).dtype == fn(double).dtype
        return super()._apply(fn, recurse)

    def adopt_dtype(self, data: Any) -> None:
        """Compute in float64 if the data are in it, unless a dtype has been asked for.

        Float32 has seven digits: of seconds since 1970 they leave minutes.

        Parameters
        ----------
        data
            As for :func:`ppl_zoo.fit`.
        """
        if self._dtype_asked or not self.follows_data_dtype or self.dtype == torch.float64:
            return
        data = tuple(data.values()) if isinstance(data, Mapping) else data
        if needs_double(data):
            self.double()
            self._dtype_asked = False

    @property
    def device(self) -> torch.device:
        """Device of the parameters; ``model.to(device)`` changes it."""
        return self._anchor.device

    @contextlib.contextmanager
    def observations(self, name: str, x: Tensor | int, dim: int = -1) -> Iterator[Any]:
        """Open the plate over the data; it scales a minibatch by N / len(x).

        Parameters
        ----------
        name
            Name of the plate, a plural noun; becomes a dimension in ArviZ.
        x
            The data ``(num_rows, ...)``, or the number of rows.
        dim
            Batch dimension of the plate, counted from the right.
        """
        size = x if isinstance(x, int) else x.shape[0]
        if self._opened is not None:
            self._opened.append(name)
        scale = 1.0 if self._total is None else self._total / size
        with contextlib.ExitStack() as stack:
            if scale != 1.0:
                stack.enter_context(poutine.scale(scale=scale))
            yield stack.enter_context(pyro.plate(name, size, dim=dim))

    @contextlib.contextmanager
    def scaled_to(self, total: int | None) -> Iterator[None]:
        """Let a minibatch stand for ``total`` rows."""
        before, self._total = self._total, total
        try:
            yield
        finally:
            self._total = before

    @contextlib.contextmanager
    def defaults(self) -> Iterator[None]:
        """Make new tensors in this model's dtype and on its device; other threads wait."""
        with running():
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.dtype)
            try:
                # on a CPU the device mode would only cost time
                device = torch.device(self.device) if self.device.type != "cpu" else _nothing()
                with device, self.declared.installed():
                    yield
            finally:
                torch.set_default_dtype(before)

    def whole(self) -> contextlib.AbstractContextManager[None]:
        """Let plates of the program that subsample have all of their rows, for queries."""
        return whole_plates() if self._takes_all else _nothing()

    def as_rows(self, data: Any) -> Rows:
        """Read data as rows of this model's dtype, on its device; names become codes."""
        try:
            parts = [
                encode(name, part, self.num_states_of(name), self.data_names.get(name))
                for name, part in self._named_parts(data)
            ]
            options = {"integers": not self.integers_are_numbers}
            return Rows(tuple(parts), self.device, self.dtype, **options)
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.model_name}: {error}") from error

    def learn_names(self, data: Any) -> None:
        """Take the names of columns and states from the data of a fit.

        Parameters
        ----------
        data
            As for :func:`ppl_zoo.fit`.

        Raises
        ------
        DataError
            If a column has more states than the model.
        """
        found = {
            name: learn_names(name, part, self.num_states_of(name))
            for name, part in self._named_parts(data)
        }
        self.data_names = {name: names for name, names in found.items() if names is not None}

    def _named_parts(self, data: Any) -> list[tuple[str, Any]]:
        """Arguments of the data by name."""
        names = self.argument_names
        data = arguments_in_frame(data, _required(self.model), names)
        try:
            parts = split_parts(Rows.bind(data, names))
        except TypeError as error:
            raise DataError(f"{self.model_name}: {error}") from error
        labels = [*names, *(f"data[{i}]" for i in range(len(names), len(parts)))]
        return list(zip(labels, parts, strict=False))

    def coded(self, argument: str, values: Any) -> Any:
        """Values of an argument that are given by name, as codes.

        A mapping ``{column: value}`` is a row, NaN in the other columns.
        """
        if values is None or isinstance(values, Tensor):
            return values
        names = self.data_names.get(argument, ArgumentNames())
        if isinstance(values, Mapping):
            return names.row(argument, values)
        one = np.ndim(values) == 0 or (names.columns and np.ndim(values) == 1)
        sizes = self.num_states_of(argument)
        codes = encode(argument, np.asarray(values)[None] if one else values, sizes, names)
        return codes[0] if one else codes

    def answer(self, argument: str, codes: Tensor) -> Any:
        """Return codes as the values that the fit's data had: words, labels such as -1 and 1."""
        names = self.data_names.get(argument)
        return codes if names is None else names.decode(codes)

    def named_coords(self) -> dict[str, tuple[str, ...]]:
        """Names along dimensions, for ArviZ: the columns of the first argument, the classes."""
        none = ArgumentNames()
        columns = self.data_names.get(self.argument_names[0], none).columns
        labels = self.data_names.get("y", none).categories
        found = {"feature": columns, "class": labels[0].states if labels else ()}
        return {dim: names for dim, names in found.items() if names}

    def frame(self, values: Tensor, argument: str | None = None) -> Any:
        """Rows as a pandas data frame with the columns' names, and the states' names in it.

        Parameters
        ----------
        values
            ``(n, columns)``, such as :meth:`sample` draws.
        argument
            Whose names; the first by default.
        """
        name = self.argument_names[0] if argument is None else argument
        return self.data_names.get(name, ArgumentNames()).frame(values)

    def rows_of(self, tensors: tuple[Tensor, ...]) -> Rows:
        """Take tensors as programs get them (of other rows, of a saved fit) as rows."""
        return Rows(tensors, self.device, self.dtype)

    def checked_rows(self, *data: Any) -> Rows:
        """Read the rows of a query, and refuse what the model cannot take.

        Raises
        ------
        DataError
            If this is no data of the model.
        """
        rows = self.as_rows(data[0] if len(data) == 1 else data)  # one may be a frame of them
        self.check_data(rows)
        return rows

    def batches(self, *data: Any, size: int = 4096) -> Iterator[tuple[Tensor, ...]]:
        """Read and check the rows of a query, in chunks of at most ``size``.

        Raises
        ------
        DataError
            If this is no data of the model.
        """
        return self.checked_rows(*data).chunks(size)

    def remember(self, rows: Rows, guide: Any = None) -> None:
        """Keep what queries after a fit need: one row of each argument, and the guide."""
        one = rows.head(1)
        # copies: a view would keep the whole data set alive
        example = tuple((t.detach().clone(), p) for t, p in zip(one, rows.per_row, strict=True))
        self.recall(example, guide)

    def recall(self, example: tuple[tuple[Tensor, bool], ...] | None, guide: Any) -> None:
        """Set what :meth:`remember` keeps, as a saved fit holds it."""
        self.example = example
        # past nn.Module: a guide that is a module is no part of this one
        object.__setattr__(self, "fitted_guide", guide)

    def sites(self, *data: Any) -> dict[str, Site]:
        """Describe the sample sites that one run on these data shows."""
        with self.defaults():
            return describe(first_run(self, data))

    def fresh(self) -> Model:
        """Make another model of the same arguments, with new random parameters."""
        other = type(self)(**_spread(type(self), self.config))
        other.add_module("_declared", self.declared.fresh())
        other.to(self.device, self.dtype)
        other._dtype_asked = self._dtype_asked
        return other

    @torch.no_grad()
    def redraw(self) -> None:
        """Draw weights anew by the seed in force, if they are those that ``__init__`` drew.

        A model that was fitted, loaded or changed stays as it is.
        """
        if self._drawn_from is None or len(self.declared._parameters):
            return
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._drawn_from)
            as_made = type(self)(**_spread(type(self), self.config)).state_dict()
        own = self.state_dict()
        same = own.keys() == as_made.keys() and all(
            value.shape == as_made[name].shape
            and torch.equal(value.cpu(), as_made[name].to("cpu", value.dtype))
            for name, value in own.items()
        )
        if same:
            self.load_state_dict(self.fresh().state_dict())

    def find_data_plate(self, data: Any) -> str | None:
        """Name the plate over the data; runs the model once where it is not known yet."""
        if self.data_plate is None:
            self._opened = []
            try:
                first_run(self, self._shown(data) if isinstance(data, Rows) else data)
                if self._opened:
                    self.data_plate = self._opened[-1]
            finally:
                self._opened = None
        return self.data_plate

    def validate(self, rows: Rows) -> None:
        """Refuse a program that would give a wrong number for these rows; called before a fit.

        Raises
        ------
        DataError
            If nothing is observed, or observations are broadcast beyond their plates.
        """
        trace = first_run(self, self._shown(rows))
        refuse_unobserved(trace, self.argument_names)
        refuse_broadcast(trace)

    def _shown(self, rows: Rows) -> tuple:
        """Rows that a first run sees: all of them, or the first where they are many."""
        numbers = sum(math.prod(shape) for shape in rows.sizes())
        return rows.all() if numbers <= MAX_VALIDATED_NUMBERS else rows.head(1000)

    # ---- the three queries, by importance sampling and ancestral sampling -------------------

    def proposal(self, *data: Any) -> Any:
        """Return the guide that queries draw from: the model's own, or the fitted one.

        On other rows than those of the fit a guide with factors for these has the shared latents
        alone; the local ones then come from the prior given them.
        """
        guide = self.fitted_guide
        if guide is not None:
            if data and is_of_other_rows(guide, data):
                plate = self.find_data_plate(data)
                sites = self.sites(*data).values()
                if any(s.kind == "latent" and s.is_local(plate) for s in sites):
                    return SharedLatents(self, guide, plate)
            return guide
        if self.guide is not None:
            return self.guide
        if self.example is not None:
            return no_latents
        raise QueryError(f"{self.model_name} has not been fitted: call zoo.fit(model, data) first")

    @torch.no_grad()
    def log_prob(self, *data: Any, num_samples: int = 1000) -> Float[Tensor, " n"]:
        """Log density of each row, in nats.

        The base class averages importance weights with the guide as proposal, which is a lower
        bound in expectation (Burda et al. 2016, https://arxiv.org/abs/1509.00519). Global
        latents are integrated over the fitted posterior (the posterior predictive density).

        Parameters
        ----------
        *data
            As for ``model``, ``(n, ...)``.
        num_samples
            Number of importance samples.

        Returns
        -------
        Tensor
            ``(n,)``.

        Raises
        ------
        QueryError
            If the model has not been fitted, or its rows do not factorise.
        """
        rows = self.checked_rows(*data)
        with self.defaults():
            guide = self.proposal(*rows.all())
            plate = self.find_data_plate(rows)
            if isinstance(guide, StoredGuide):
                guide = guide.for_new_rows()  # draws of a sampler have no density of their own
            elif isinstance(guide, AutoContinuous) and self._local_latents(rows):
                guide = SharedLatents(self, guide, plate)  # its density is of all rows together
            draws = draw(self, guide, rows.all(), num_samples, plate)
        name = self.model_name
        if draws.log_joint_rows is None:
            raise QueryError(
                f"{name}: no density by row, since the rows share a discrete latent or the model "
                "has no plate over the data; open it with self.observations(name, x)"
            )
        log_weight = draws.log_joint_rows
        if draws.log_guide_rows is not None:
            log_weight = log_weight - draws.log_guide_rows
        elif self._local_latents(rows, draws.values):
            raise QueryError(
                f"{name}: no density by row under a guide that ties the rows' latents together; "
                "fit with guide='normal' or an amortised guide"
            )
        return log_weight.logsumexp(0) - math.log(num_samples)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Any:
        """Draw new rows from the posterior predictive distribution.

        Parameters
        ----------
        num_samples
            Number of rows; each has its own draw of the global latents.
        given
            ``{argument: values}``: the inputs of a supervised model, or ``{site: value}`` for
            latents to be held fixed.

        Returns
        -------
        Tensor or dict
            ``(num_samples, ...)``; for inputs of ``m > 1`` rows ``(num_samples, m, ...)``. A
            dict by site if the model observes more than one.

        Raises
        ------
        QueryError
            If the model has not been fitted or an input is missing.
        DataError
            If ``given`` names neither an argument nor a site.
        """
        if self.example is None:
            raise QueryError(
                f"{self.model_name} does not know the shape of its data yet: fit it first"
            )
        given = dict(given or {})
        data, observed = self._template(given)
        fixed = {k: v for k, v in given.items() if k not in self.argument_names}
        fixed = {k: torch.as_tensor(v).to(self.device) for k, v in fixed.items()}
        with self.defaults():
            plate = self.find_data_plate(data)
            if fixed:
                known = [*self.argument_names, *self.sites(*data)]
                for name in fixed:
                    if name not in known:
                        raise DataError(
                            f"given: got {name!r}{did_you_mean(name, known)}, expected "
                            f"arguments or sites of the model: {', '.join(known)}"
                        )
            values = predict(self, self.proposal(), data, num_samples, plate, fixed=fixed)
        single = data[0].shape[0] == 1
        out = {k: v[:, 0] if single and v.ndim > 1 else v for k, v in values.items()}
        out = {k: v for k, v in out.items() if k in observed}
        return next(iter(out.values())) if len(out) == 1 else out

    @torch.no_grad()
    def encode(self, *data: Any, num_samples: int = 1000) -> Any:
        """Posterior mean of the local latent variables of each row, under the guide.

        Returns
        -------
        Tensor or dict
            ``(n, ...)``; a dict by site if there are several.

        Raises
        ------
        QueryError
            If the model has no continuous local latents.
        """
        rows = self.checked_rows(*data)
        with self.defaults():
            plate = self.find_data_plate(rows)
            wanted = self.representation
            local = [wanted] if wanted else self._local_latents(rows)
            if not local:
                raise QueryError(f"{self.model_name} has no latent variables of single rows")
            guide = self.proposal(*rows.all())
            stored = isinstance(guide, StoredGuide) and not guide.knows(*rows.all())
            if stored or isinstance(guide, SharedLatents):
                raise QueryError(
                    f"{self.model_name} was fitted to other rows, and this fit knows the latents "
                    "of its own rows only: fit it to these, or with a guide(...) of the data "
                    "(amortised), which encodes any"
                )
            draws = draw(self, guide, rows.all(), num_samples, plate)
        means = {k: draws.values[k].to(self.dtype).mean(0) for k in local if k in draws.values}
        return next(iter(means.values())) if len(means) == 1 else means

    def observed_arguments(self, *data: Any) -> dict[str, str]:
        """Map each argument that a site observes to that site."""
        with self.defaults():
            trace = first_run(self, data)
        out = {}
        for name, given in zip(self.argument_names, data, strict=False):
            for site in describe(trace):
                node = trace.nodes[site]
                value = node["infer"].get("_given", node["value"])
                if isinstance(given, Tensor) and _same_memory(given, value):
                    out[name] = site
        return out

    def input_names(self, *data: Any) -> tuple[str, ...]:
        """Names of the arguments that no site observes: inputs, not outputs."""
        observed = self.observed_arguments(*data)
        names = self.argument_names[: len(data)]
        pairs = zip(names, data, strict=True)
        return tuple(n for n, v in pairs if isinstance(v, Tensor) and n not in observed)

    def _local_latents(self, rows: Rows, among: Any = None) -> list[str]:
        plate = self.find_data_plate(rows)
        sites = self.sites(*rows.all()).values()
        names = [s.name for s in sites if s.kind == "latent" and s.is_local(plate)]
        return [name for name in names if among is None or name in among]

    def _template(self, given: dict) -> tuple[tuple, set[str]]:
        """Arguments to run the model on: the inputs that were given, and one row for the rest."""
        names = self.argument_names
        example = tuple(t for t, _ in self.example)
        observed = {s.name for s in self.sites(*example).values() if s.kind == "observed"}
        inputs = self.input_names(*example)
        num = max((len(given[n]) for n in names if n in given), default=1)
        data = []
        for index, (one, per_row) in enumerate(self.example):
            name = names[index] if index < len(names) else ""
            if name in given:
                values = torch.as_tensor(self.coded(name, given[name]))
                data.append(values.to(one.device, one.dtype))
                continue
            if not per_row:
                data.append(one)
                continue
            if name in inputs:
                raise QueryError(
                    f"{self.model_name}: got no {name!r}, expected given={{{name!r}: ...}}, "
                    "the inputs at which to draw"
                )
            data.append(one[:1].expand(num, *one.shape[1:]))
        return tuple(data), observed


def _in_own_store(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method run with its model's parameter store as Pyro's."""

    @functools.wraps(method)
    def run(self: Model, *data: Any, **options: Any) -> Any:
        with self.declared.scope(self), _FloatObservations():
            return method(self, *data, **options)

    return run


class _FloatObservations(Messenger):
    """Take observed integers and booleans as floats under distributions of floats.

    A Bernoulli has no others, and of booleans none computes; to a categorical they are codes.
    """

    def _pyro_sample(self, msg: dict) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor) or value.is_floating_point():
            return
        fn = msg["fn"]
        while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
            fn = fn.base_dist
        if isinstance(fn, Bernoulli) or (value.dtype == torch.bool and hasattr(fn, "support")):
            wanted = torch.long if isinstance(fn, Categorical) else _parameter_dtype(fn)
            msg["infer"] = {**msg["infer"], "_given": value}
            msg["value"] = value.to(wanted)


def _parameter_dtype(fn: Any) -> torch.dtype:
    """Floating type of a distribution's parameters."""
    found = (getattr(fn, name, None) for name in getattr(fn, "arg_constraints", ()))
    floats = [p.dtype for p in found if isinstance(p, Tensor) and p.is_floating_point()]
    return floats[0] if floats else torch.get_default_dtype()


def _required(program: Callable[..., Any]) -> list[str]:
    """Names of the arguments of a program that have no default."""
    parameters = inspect.signature(program).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def no_latents(*data: Any) -> None:
    """Guide of a model without latent variables."""


def _same_memory(a: Tensor, b: Any) -> bool:
    return (
        isinstance(b, Tensor)
        and a.data_ptr() == b.data_ptr()
        and (a.shape, a.stride()) == (b.shape, b.stride())
    )


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


def _spread(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a remembered ``__init__``, ``**kwargs`` unpacked."""
    out: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name not in config:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            out.update(config[name])
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            out[name] = config[name]
    return out
