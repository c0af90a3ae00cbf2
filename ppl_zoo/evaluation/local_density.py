"""Log density of a model in its local latents, for many points at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, constraints

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.tracing import simulate
from ppl_zoo.core.tracing.sites import is_sample

__all__ = ["LocalDensity", "prior_program", "simulate_rows", "uniform_program"]


class LocalDensity:
    """Log joint density log p(x, z) of given rows as a function of z, by row.

    Points are flat: ``(particles, n, size)``, the latent sites one after the other.

    Parameters
    ----------
    model
        A model whose latents are all local and real.
    data
        The rows, as the model takes them.

    Raises
    ------
    QueryError
        If the latents are not real, or not local.
    """

    def __init__(self, model: Model, data: tuple[Tensor, ...]) -> None:
        self.model, self.data = model, data
        self.num_rows = len(data[0])
        latents = _local_latents(model, data)
        for name, fn in latents.items():
            if not _is_real(fn):
                raise QueryError(
                    f"{model.model_name}: site {name!r} is not real: annealing has no path "
                    "through its values; where they are few, log_prob sums over them"
                )
        self.shapes = {name: fn.event_shape for name, fn in latents.items()}
        self.prior = _Prior(self)

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """``{site: (..., n, *event)}`` to ``(..., n, size)``."""
        parts = []
        for name, shape in self.shapes.items():
            value = values[name]
            lead = value.shape[: value.ndim - len(shape)]
            parts.append(value.reshape(*lead, shape.numel()))
        return torch.cat(parts, -1)

    def values(self, z: Tensor) -> dict[str, Tensor]:
        """Split flat points into sites, ``{site: (particles, n, *event)}``."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = z.split(sizes, -1)
        return {
            name: part.reshape(*z.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def log_joint(self, z: Tensor) -> Tensor:
        """Log p(x, z), ``(particles, n)``."""
        return self._score(z, observed=True)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z), ``(particles, n)``; the program is stopped before the observations."""
        return self._score(z, observed=False)

    def _score(self, z: Tensor, observed: bool) -> Tensor:
        tracer = poutine.trace(poutine.condition(self.model, self.values(z)))
        plate = pyro.plate("_draw", len(z), dim=-2)
        with self.model.defaults(), _StopAfter(() if observed else self.shapes), plate:
            tracer(*self.data)
        total = z.new_zeros(len(z), self.num_rows)
        for node in tracer.trace.nodes.values():
            if is_sample(node) and (observed or node["name"] in self.shapes):
                log_prob = node["fn"].log_prob(node["value"])
                if node["mask"] is not None:
                    log_prob = torch.where(torch.as_tensor(node["mask"]), log_prob, 0.0)
                lead = log_prob.reshape((1,) * (2 - log_prob.ndim) + log_prob.shape)
                inner = tuple(range(-lead.ndim, -2))  # plates of the row's own parts
                total = total + (lead.sum(inner) if inner else lead)
        return total


class _Prior:
    """Prior of the latents, as a start for annealing."""

    def __init__(self, density: LocalDensity) -> None:
        self.density = density

    def sample(self, shape: tuple[int, ...] = ()) -> Tensor:
        """``(*shape, n, size)``, with one leading dimension."""
        (count,) = shape
        model, data = self.density.model, self.density.data
        tracer = poutine.trace(model)
        with torch.no_grad(), model.defaults(), _StopAfter(self.density.shapes):
            with pyro.plate("_draw", count, dim=-2):
                tracer(*data)
        values = {k: tracer.trace.nodes[k]["value"] for k in self.density.shapes}
        lead = (count, self.density.num_rows)
        whole = {k: v.expand(*lead, *self.density.shapes[k]) for k, v in values.items()}
        return self.density.flatten(whole)

    def log_prob(self, z: Tensor) -> Tensor:
        """``(particles, n)``."""
        return self.density.log_prior(z)


class _Stop(Exception):
    """Raised to stop a program once the wanted sites have been sampled."""


class _StopAfter(Messenger):
    """Stop the program once these sites have been sampled; empty to let it run to its end."""

    def __init__(self, sites: Iterable[str]) -> None:
        super().__init__()
        self.wanted: set[str] = set(sites)
        self.seen: set[str] = set()

    def _pyro_post_sample(self, msg: dict) -> None:
        self.seen.add(msg["name"])

    def _pyro_sample(self, msg: dict) -> None:
        if self.wanted and self.wanted <= self.seen:
            raise _Stop

    def __exit__(self, kind: Any, *rest: Any) -> bool | None:
        super().__exit__(kind, *rest)
        return True if kind is _Stop else None


def prior_program(model: Model) -> Callable[..., None]:
    """Guide that draws the latents from the prior."""

    def prior(*data: Tensor) -> None:
        observed = [s.name for s in model.sites(*data).values() if s.kind == "observed"]
        with poutine.block(hide=observed):
            model(*data)

    return prior


def uniform_program(model: Model, limit: float) -> Callable[..., None]:
    """Guide that draws real latents uniformly from a box, discrete ones from their states."""

    def box(*data: Tensor) -> None:
        latents = _local_latents(model, data)
        with model.observations(model.find_data_plate(data), data[0]):
            for name, fn in latents.items():
                pyro.sample(name, _uniform(fn, limit, f"{model.model_name}: site {name!r}"))

    return box


def _local_latents(model: Model, data: tuple[Tensor, ...]) -> dict[str, Distribution]:
    """Local latents and their distributions, in the order of the program.

    Raises
    ------
    QueryError
        If there are none, or rows share some.
    """
    plate = model.find_data_plate(data)
    with torch.no_grad(), model.defaults(), poutine.block():
        nodes = poutine.trace(model).get_trace(*data).nodes.values()
    latents = [n for n in nodes if is_sample(n) and not n["is_observed"]]
    for node in latents:
        if [f.name for f in node["cond_indep_stack"] if f.vectorized] != [plate]:
            raise QueryError(
                f"{model.model_name}: site {node['name']!r} is not a latent of single rows, "
                "of which each could be judged by itself"
            )
    if not latents:
        raise QueryError(f"{model.model_name} has no latents of single rows")
    return {n["name"]: n["fn"] for n in latents}


def _is_real(fn: Distribution) -> bool:
    """Whether the support of a distribution is all of R^n."""
    support = fn.support
    if isinstance(support, constraints.independent):
        support = support.base_constraint
    return support in (constraints.real, constraints.real_vector)


def _uniform(fn: Distribution, limit: float, what: str) -> Distribution:
    """Uniform distribution over the states, or over a box."""
    if _is_real(fn):
        side = dist.Uniform(-limit, limit).expand(fn.event_shape)
        return side.to_event(len(fn.event_shape))
    if isinstance(fn, dist.Categorical):
        return dist.Categorical(torch.ones(fn.probs.shape[-1]))
    if isinstance(fn, dist.Bernoulli):
        return dist.Bernoulli(torch.tensor(0.5))
    raise QueryError(f"{what}: got a {type(fn).__name__}, expected a real or a finite latent")


@torch.no_grad()
def simulate_rows(model: Model, num_rows: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Simulate rows from the model, with their latents."""
    if model.example is None:
        raise QueryError(f"{model.model_name} does not know its data's shape yet: fit it first")
    template = tuple(
        one.expand(num_rows, *one.shape[1:]).clone() if per_row else one
        for one, per_row in model.example
    )
    arguments = model.observed_arguments(*template)
    with model.defaults():
        drawn = simulate(model, template)
    names = model.argument_names
    data = tuple(
        drawn[arguments[name]].to(array) if name in arguments else array
        for name, array in zip(names, template, strict=False)
    )
    return data, drawn
