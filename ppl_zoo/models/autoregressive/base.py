"""Base class of autoregressive models: p(x) = prod_i p(x_i | x_<i), one Pyro site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.autoregressive.order import Order, make_orders, read_shape
from ppl_zoo.models.autoregressive.outputs import MixtureOutput, Output
from ppl_zoo.models.autoregressive.sampling import SequentialSampler, draw, gibbs
from ppl_zoo.models.common.units import Units
from ppl_zoo.models.common.validation import read_given

__all__ = ["AutoregressiveDistribution", "AutoregressiveModel"]

#: particles that a conditional sample draws at once
MAX_PARTICLES_PER_BATCH = 8192
#: a density has collapsed at a row whose component's scale is so many times the least one; that
#: is told of a variable where it holds for more than a share of the rows
COLLAPSED_SCALES, MAX_COLLAPSED_SHARE = 1.5, 0.1


class AutoregressiveModel(Model):
    """Autoregressive model: each variable given those before it, in a fixed order.

    Generative model, for each place p of the order::

        x[order[p]] ~ Output(parameters = net_p(x[order[0]], ..., x[order[p - 1]]))

    By the chain rule any joint distribution is such a product of conditionals. A subclass writes
    ``conditionals`` (all of them in one pass, for scoring) and ``sampler`` (one after another with
    cached activations, for sampling). Both see real variables in units of their mean and sd over
    the data of the fit, so that neither an offset nor a unit changes the answer. With
    ``num_members`` above 1 the model is the mixture, in equal parts, of as many orders or nets.

    Parameters
    ----------
    num_features
        D, or the shape of a row.
    output
        Family of the conditionals.
    order
        None, "random" or a permutation; see :func:`make_orders`.
    missing
        Whether NaN in x means "not observed". Exact, so allowed, for the last variables of the
        order, whose conditionals integrate to 1.
    num_members
        Members of the mixture.
    seed
        Of random orders.
    """

    integers_are_numbers = True
    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "exact",
        "sample": "exact",
        "encode": "exact",
    }
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = (
        "SVI",
        {"batch_size": 128, "learning_rate": 1e-3, "steps": 20_000, "weight_decay": "path"},
    )

    def __init__(
        self,
        num_features: int | Sequence[int],
        output: Output,
        order: Order = None,
        missing: bool = False,
        num_members: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape = read_shape(num_features)
        self.num_features = math.prod(self.event_shape)
        self.output, self.allow_missing, self.num_members = output, missing, num_members
        self.units = Units([self.num_features]) if output.num_values is None else None
        self.follows_data_dtype = self.units is not None
        orders = make_orders(order, self.event_shape, num_members, seed)
        self.register_buffer("orders", orders, persistent=False)
        self.register_buffer("places", orders.argsort(-1), persistent=False)
        self.natural = order is None
        dims = {1: ("feature",), 2: ("row", "column"), 3: ("channel", "row", "column")}
        self.event_dims = {"x": dims.get(len(self.event_shape), ())}

    # ---- what a subclass writes -------------------------------------------------------------

    def conditionals(self, x: Tensor, member: int | Tensor = 0) -> Tensor:
        """Parameters of all p(x_i | x_<i), ``(n, D, num_parameters)``, from ``x (n, D)``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no conditionals; write all p(x_i | x_<i) in one pass"
        )

    def sampler(self, num_rows: int, member: int = 0) -> SequentialSampler:
        """Sampler of one member, before the first variable."""
        raise NotImplementedError(
            f"{type(self).__name__} has no sampler; write one that draws variable by variable"
        )

    def hidden(self, x: Tensor) -> Tensor:
        """Activations of the last hidden layer given the whole row, ``(n, H)``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no hidden; write its last hidden layer, for encode"
        )

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at independent variables with these parameters, ``(D, num_parameters)``."""

    # ---- the program ------------------------------------------------------------------------

    def model(self, x: Tensor) -> Tensor:
        """Draw rows ``x (n, *event_shape)``; they are scored in one pass."""
        with self.observations("observations", x):
            return pyro.sample("x", AutoregressiveDistribution(self), obs=x)

    def score(self, x: Tensor) -> Tensor:
        """Log probability of each row ``(..., *event_shape)``, differentiable, in nats."""
        lead = x.shape[: x.ndim - len(self.event_shape)]
        flat = x.reshape(-1, self.num_features)
        parts = [self.score_member(flat, k) for k in range(self.num_members)]
        if len(parts) == 1:
            return parts[0].reshape(lead)
        joint = torch.stack(parts).logsumexp(0) - math.log(len(parts))
        return joint.reshape(lead)

    @torch.no_grad()
    def degenerate(self, *batch: Tensor) -> tuple[str, ...]:
        """Name variables whose densities have collapsed onto their rows, in words."""
        output = self.output
        if not isinstance(output, MixtureOutput) or output.num_values is not None:
            return ()
        x = batch[0].reshape(len(batch[0]), self.num_features)
        z = self.standardise(x)
        logits, loc, scale = output.split(self.conditionals(self.fill_missing(z)))
        density = torch.distributions.Normal(loc, scale).log_prob(z.unsqueeze(-1))
        best = (logits.log_softmax(-1) + density.nan_to_num()).argmax(-1, keepdim=True)
        at_floor = scale.gather(-1, best)[..., 0] < COLLAPSED_SCALES * output.min_scale
        shares = at_floor.double().mean(0)
        return tuple(
            f"the density of variable {i} has collapsed: {shares[i]:.0%} of the rows lie at the "
            f"least scale, {output.min_scale} of its sd (it has {len(x[:, i].unique())} values in "
            f"{len(x)} rows); add uniform noise of a unit's width to x, or take a discrete output"
            for i in (shares > MAX_COLLAPSED_SHARE).nonzero()[:, 0].tolist()
        )

    def order_of(self, member: int) -> Tensor:
        """Order of one member, ``(D,)``: the variable at each place."""
        return self.orders[member]

    def score_member(self, x: Tensor, member: int | Tensor = 0) -> Tensor:
        """Log probability of rows ``(n, D)`` under one member, ``(n,)``."""
        x = self.standardise(x)
        return self.total_log_prob(self.conditionals(self.fill_missing(x), member), x)

    def standardise(self, x: Tensor) -> Tensor:
        """Rows ``(n, D)`` as the net sees them."""
        return x if self.units is None else self.units.standardise(x)

    def restore(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`standardise`."""
        return x if self.units is None else self.units.restore(x)

    def log_probs(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log probability of each variable of standardised rows, ``(..., n, D)``."""
        # mixed precision is for the net, not for its probabilities
        terms = self.output.log_prob(parameters.to(x.dtype), self.fill_missing(x))
        return terms if self.units is None else terms - self.units.spread.log()

    def fill_missing(self, x: Tensor) -> Tensor:
        """Replace missing values by zeros, in units of the data by their mean."""
        return x.masked_fill(x.isnan(), 0.0) if self.allow_missing else x

    def total_log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Log probability of standardised rows ``(n, D)``, ``(..., n)``.

        Parameters
        ----------
        parameters
            Conditionals ``(..., n, D, P)``.
        x
            The rows.
        """
        terms = self.log_probs(parameters, x)
        if self.allow_missing:
            terms = terms.masked_fill(x.isnan(), 0.0)
        return terms.sum(-1)

    @torch.no_grad()
    def initialize(self, rows: Rows) -> None:
        """Start at independent variables with the marginals of the data."""
        if self.units is not None:
            self.units.read(chunk.flatten(1) for (chunk,) in rows.chunks(4096))
        (x,) = rows.spread(10_000)
        x = self.standardise(x.reshape(len(x), self.num_features))
        if self.allow_missing:
            mean = x.nanmean(0).nan_to_num()
            x = torch.where(x.isnan(), mean.round() if self.output.num_values else mean, x)
        self.initialize_marginals(self.output.marginal(x))

    def num_states_of(self, argument: str) -> Sizes:
        """States of each feature of x, where it is discrete."""
        discrete = self.output.num_values and len(self.event_shape) == 1
        return [self.output.num_values] * self.num_features if discrete else None

    def check_data(self, rows: Rows) -> None:
        """Refuse rows of another shape, values outside of the support, and odd missing ones."""
        for (x,) in rows.chunks(65536):
            self._check(x)
        super().check_data(rows)

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event_shape:
            shape = ", ".join(map(str, self.event_shape))
            raise DataError(f"x: got shape {tuple(x.shape)}, expected (n, {shape})")
        known = ~x.isnan()
        bad = self.output.outside_support(x) & (known | (not self.allow_missing))
        if bad.any():
            raise DataError(
                f"x: got {x[bad][0].item()}, expected {self.output.support} "
                f"({type(self).__name__} with {type(self.output).__name__} output)"
            )
        if self.allow_missing and not self._observed_first(known.flatten(1)).all():
            raise DataError(
                "x: got missing values before observed ones; log_prob is exact only where the "
                "missing variables are the last of the order: choose order= so"
            )

    def _observed_first(self, known: Tensor) -> Tensor:
        """Whether the known variables of each row come first in every order, ``(n,)``."""
        out = torch.ones(len(known), dtype=torch.bool, device=known.device)
        for order in self.orders:
            placed = known[:, order].int()
            out &= (placed.diff(dim=-1) <= 0).all(-1)
        return out

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log probability (density, of real x) of each row, in nats, ``(n,)``; exact.

        With ``missing=True`` NaN variables are integrated out, if they are the last of the order.
        """
        return torch.cat([self.score(chunk) for (chunk,) in self.batches(x)])

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n h"]:
        """Activations of the hidden units, ``(n, H)``.

        An autoregressive model has no latent variables: these are features of a net that was
        fitted to predict, they depend on the order, and nothing says that they are useful.
        """
        parts = (self.standardise(chunk.flatten(1)) for (chunk,) in self.batches(x))
        return torch.cat([self.hidden(part) for part in parts])

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        given: Array | Mapping[str, Any] | None = None,
        *,
        num_particles: int = 100,
        num_sweeps: int = 0,
    ) -> Tensor:
        """Draw rows, all anew or with some variables held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``event_shape`` or ``(num_samples, *event_shape)``: values to be held, NaN where free.
            Exact where those held come first in the order. Otherwise by importance resampling: of
            ``num_particles`` particles, weighted with the probability that they give to the
            values held and resampled on the way, one is chosen; exact in the limit of many.
        num_particles
            Particles a row, where the order does not make it exact.
        num_sweeps
            Where it is not, Gibbs sweeps over the free variables, of a discrete model, after the
            resampling: exact in the limit of many sweeps, too. A sweep takes a pass for each
            free variable and each of its values.

        Returns
        -------
        Tensor
            ``(num_samples, *event_shape)``.

        Raises
        ------
        DataError
            If ``given`` has another shape or impossible values, or if ``num_sweeps`` is negative
            or asked of a model of real data.
        """
        if num_sweeps < 0 or (num_sweeps and self.output.num_values is None):
            raise DataError(
                f"num_sweeps: got {num_sweeps}, expected 0 or more, and 0 of real variables"
            )
        if given is None:
            return self._sample_free(num_samples).reshape(num_samples, *self.event_shape)
        held = self._read_given(self.coded("x", given), num_samples)
        exact = bool(self._observed_first(~held.isnan()).all())
        particles = 1 if exact else num_particles
        size = max(1, MAX_PARTICLES_PER_BATCH // particles)
        x = torch.cat([self._sample_given(part, particles) for part in held.split(size)])
        if num_sweeps and not exact:
            x = gibbs(self, x, held.isnan(), num_sweeps)
        return x.reshape(num_samples, *self.event_shape)

    def _sample_free(self, num_samples: int) -> Tensor:
        """Draw rows ``(num_samples, D)``, each from a random member."""
        member = torch.randint(self.num_members, (num_samples,), device=self.device)
        x = torch.empty(num_samples, self.num_features, dtype=self.dtype, device=self.device)
        for k in range(self.num_members):
            own = (member == k).nonzero()[:, 0]
            x[own] = self.restore(draw(self, len(own), k)[0])
        return x

    def _sample_given(self, held: Tensor, particles: int) -> Tensor:
        """Draw the free variables of ``held (n, D)`` from every member; choose by evidence."""
        held = self.standardise(held)
        drawn = [draw(self, len(held), k, held, particles) for k in range(self.num_members)]
        x, evidence = (torch.stack(part) for part in zip(*drawn, strict=True))
        chosen = torch.multinomial(evidence.T.softmax(-1), 1)[:, 0]
        return self.restore(x[chosen, torch.arange(len(held), device=x.device)])

    def _read_given(self, given: Array | Mapping[str, Any], num_samples: int) -> Tensor:
        """Read and check the values held, ``(num_samples, D)``, NaN where free."""
        held = read_given(self.coded("x", given), num_samples, self.event_shape, self._anchor)
        bad = self.output.outside_support(held) & ~held.isnan()
        if bad.any():
            raise DataError(
                f"given: got {held[bad][0].item()}, expected {self.output.support}, or NaN "
                "where free"
            )
        return held.reshape(num_samples, self.num_features)


class AutoregressiveDistribution(TorchDistribution):
    """Joint distribution of a row, as one Pyro distribution.

    Parameters
    ----------
    owner
        The model that scores and draws the rows.
    batch_shape
        Of independent rows.
    """

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real

    def __init__(self, owner: AutoregressiveModel, batch_shape: Sequence[int] = ()) -> None:
        self.owner = owner
        super().__init__(
            torch.Size(batch_shape), torch.Size(owner.event_shape), validate_args=False
        )

    def expand(
        self, batch_shape: Sequence[int], _instance: TorchDistribution | None = None
    ) -> AutoregressiveDistribution:
        """Return the same distribution with another batch shape."""
        return AutoregressiveDistribution(self.owner, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of rows ``(..., *event_shape)``, in nats."""
        score = self.owner.score(value)
        return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw rows by the samplers of the model."""
        shape = tuple(sample_shape) + tuple(self.batch_shape)
        return self.owner.sample(math.prod(shape)).reshape(*shape, *self.event_shape)
