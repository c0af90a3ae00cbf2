"""What a model of the zoo is: a Pyro model, perhaps a guide, and three queries.

A model is one :class:`Model`, a ``PyroModule`` with a method ``model``. The default guide, the
density bound, sampling and representation come from here; a model that knows better overrides
them and says so in ``queries``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pyro
import torch
from jaxtyping import Shaped
from pyro import poutine
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.queries import Queries
from ppl_zoo.tracing import Site, describe, trace_program

__all__ = ["Array", "Model"]

Array = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]


class Model(Queries):
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
        Site whose posterior mean is the representation; None for all latents of single rows.
    allow_missing
        Whether NaN in the data means "not observed".
    compiles
        False for a program that runs faster as it is written: one with its own gradients.

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

    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("SVI", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    allow_missing: bool = False
    compiles: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Remember the arguments of ``__init__``, so that a saved fit can repeat it."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        init = cls.__init__

        @functools.wraps(init)
        def remember(self: Model, *args: Any, **kwargs: Any) -> None:
            if "config" not in self.__dict__:
                bound = inspect.signature(init).bind(self, *args, **kwargs)
                bound.apply_defaults()
                given = dict(list(bound.arguments.items())[1:])
                self.__dict__["config"] = given
            init(self, *args, **kwargs)

        cls.__init__ = remember

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.setdefault("config", {})
        self.__dict__.update(_total=None, _rows_plate=None, _fitted_guide=None, _example=None)
        # carries dtype and device for models that have no parameter of their own
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    # ---- what a subclass writes -------------------------------------------------------------

    def model(self, *data: Any) -> Any:
        """Tell the generative story with ``pyro.sample``."""
        raise TypeError(f"{type(self).__name__} has no method 'model'; write one")

    def initialize(self, rows: Rows) -> None:
        """Choose a start from the data; called once a chain, under the chain's seed."""

    def log_prior(self) -> Tensor:
        """Log prior density of the parameters, for EM; 0 for maximum likelihood."""
        return self._anchor.new_zeros(())

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

    # ---- plumbing ---------------------------------------------------------------------------

    def forward(self, *data: Any) -> Any:
        """Run the generative program; a ``Model`` is itself the Pyro program."""
        return self.model(*data)

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the arguments of ``model``."""
        return tuple(inspect.signature(self.model).parameters)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters; ``model.double()`` changes it."""
        return self._anchor.dtype

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
        self.__dict__["_rows_plate"] = name
        scale = 1.0 if self._total is None else self._total / size
        with contextlib.ExitStack() as stack:
            if scale != 1.0:
                stack.enter_context(poutine.scale(scale=scale))
            yield stack.enter_context(pyro.plate(name, size, dim=dim))

    @contextlib.contextmanager
    def scaled_to(self, total: int | None) -> Iterator[None]:
        """Let a minibatch stand for ``total`` rows."""
        before, self.__dict__["_total"] = self._total, total
        try:
            yield
        finally:
            self.__dict__["_total"] = before

    @contextlib.contextmanager
    def defaults(self) -> Iterator[None]:
        """Make new tensors in this model's dtype and on its device."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            # on a CPU the device mode would only cost time
            with torch.device(self.device) if self.device.type != "cpu" else _nothing():
                yield
        finally:
            torch.set_default_dtype(before)

    def as_rows(self, data: Any) -> Rows:
        """Read data as rows of this model's dtype, on its device."""
        try:
            return Rows(Rows.bind(data, self.argument_names), self.device, self.dtype)
        except (ValueError, TypeError) as error:
            raise DataError(f"{type(self).__name__}: {error}") from error

    def remember(self, rows: Rows, guide: Any = None) -> None:
        """Keep what queries after a fit need: one row of each argument, and the guide."""
        one = rows.head(1)
        # copies: a view would keep the whole data set alive
        self.__dict__["_example"] = tuple(
            (t.detach().clone(), p) for t, p in zip(one, rows.per_row, strict=True)
        )
        self.__dict__["_fitted_guide"] = guide

    @property
    def rows_plate(self) -> str | None:
        """Name of the plate over the data, known once the model has run."""
        return self._rows_plate

    def sites(self, *data: Any) -> dict[str, Site]:
        """Describe the sample sites that one run on these data shows."""
        with self.defaults():
            return describe(trace_program(self, data))

    def fresh(self) -> Model:
        """Make another model of the same arguments, with new random parameters."""
        other = type(self)(**_spread(type(self), self.config))
        return other.to(self.device, self.dtype)

    def find_rows(self, data: Any) -> str | None:
        """Name the plate over the data; runs the model once if it has never run."""
        if self._rows_plate is None:
            trace_program(self, data.head(1) if isinstance(data, Rows) else data)
        return self._rows_plate


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
