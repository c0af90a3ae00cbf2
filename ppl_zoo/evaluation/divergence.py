"""Kullback-Leibler divergence between any two models or distributions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from ppl_zoo.core.display import call_text
from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.one_at_a_time import one_at_a_time

__all__ = ["Divergence", "kl"]


@runtime_checkable
class HasDistribution(Protocol):
    """A model that is a distribution of torch or Pyro in closed form."""

    def distribution(self) -> Distribution:
        """Distribution of a row."""


class Divergence(NamedTuple):
    """KL(p || q) in nats, its standard error (0 if exact), and whether it is in closed form."""

    value: Tensor
    error: Tensor
    exact: bool

    def __repr__(self) -> str:
        """Write the shapes of the fields."""
        return call_text(type(self).__name__, self._asdict())


@torch.no_grad()
@one_at_a_time
def kl(p: Any, q: Any, *, num_samples: int = 10_000) -> Divergence:
    """KL(p || q), in closed form where there is one, else by draws of p.

    Parameters
    ----------
    p, q
        Torch or Pyro distributions, or models that are fitted (or have all their parameters) and
        have a density of rows. Models with a method ``distribution()`` count as that
        distribution.
    num_samples
        Draws of p, where there is no closed form.

    Returns
    -------
    Divergence
        Of the batch shape of p and q, ``()`` for models. If q's density is a bound, the value is
        biased upwards; if p's is, downwards.

    Raises
    ------
    DataError
        If p or q is something else, or they are not densities of the same things.
    QueryError
        If a model has no density or no samples.

    Examples
    --------
    >>> import torch.distributions as dist, ppl_zoo as zoo
    >>> zoo.kl(dist.Normal(0.0, 1.0), dist.Normal(1.0, 1.0)).value
    tensor(0.5000)
    """
    p, q = (_as_density(name, value) for name, value in (("p", p), ("q", q)))
    if isinstance(p, Distribution) and isinstance(q, Distribution):
        try:
            value = kl_divergence(p, q)
            return Divergence(value, torch.zeros_like(value), True)
        except NotImplementedError:
            pass  # torch knows no closed form for this pair: draws of p, below
    if not num_samples > 1:
        raise DataError(f"num_samples: got {num_samples}, expected 2 or more")
    x = p.sample((num_samples,)) if isinstance(p, Distribution) else p.sample(num_samples)
    if isinstance(x, dict):
        raise QueryError(f"{type(p).__name__} observes several sites; kl needs models of one")
    try:
        difference = p.log_prob(x) - q.log_prob(x)
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"p and q: got {_name(p)} and {_name(q)}, expected densities of the same things, "
            f"but for draws of p, {tuple(x.shape)}: {error}"
        ) from error
    # where q has no mass the divergence is infinite, and its error unknown
    error = difference.std(0) / num_samples**0.5
    return Divergence(difference.mean(0), error.nan_to_num(torch.inf), False)


def _as_density(name: str, value: Any) -> Distribution | Model:
    """Read an argument of :func:`kl`: a distribution, or a model with density and samples."""
    if isinstance(value, HasDistribution):
        return value.distribution()
    if not isinstance(value, (Distribution, Model)):
        raise DataError(f"{name}: got {value!r}, expected a distribution or a zoo.Model")
    if isinstance(value, Model):
        for query in ("log_prob", "sample"):
            if value.queries[query] == "none":
                raise QueryError(f"{_name(value)} has no {query}: kl needs it")
    return value


def _name(value: Distribution | Model) -> str:
    return type(value).__name__
