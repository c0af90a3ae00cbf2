"""What the latents of single rows carry: KL by dimension, and which of them are in use."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.tracing.kl import kl_by_dimension, without_events

__all__ = ["LatentUse", "latent_use"]

#: a latent carries something if its posterior mean moves with the data by this variance (Burda
#: et al. 2016)
ACTIVE = 0.01


class LatentUse(NamedTuple):
    """What the latents carry, each field ``(num_latents,)``.

    Attributes
    ----------
    kl
        Mean KL of the guide from the prior, nats a row; None where the latents' dimensions do
        not come apart.
    variance
        Variance of the posterior mean over the rows.
    active
        Whether ``variance`` is above 0.01.
    """

    kl: Tensor | None
    variance: Tensor
    active: Tensor

    @property
    def collapsed(self) -> bool:
        """Whether fewer than a tenth of the latents carry anything."""
        return bool(self.active.double().mean() < 0.1)


@torch.no_grad()
def latent_use(model: Model, *data: Any) -> LatentUse:
    """Measure what each latent dimension carries, by the guide.

    Raises
    ------
    QueryError
        If the guide draws no latents of single rows.
    """
    rows = model.as_rows(data)
    model.check_data(rows)
    means: tuple[list[Tensor], list[Tensor]] = ([], [])
    kls: list[Tensor | None] = []
    with model.defaults():
        for batch in rows.chunks(4096):
            # twice: a layer that is guessed from draws of another moves with them, too, and what
            # two looks have in common is what moves with the data
            for look in means:
                mean, kl = _look(model, batch)
                look.append(mean)
                kls.append(kl)
    one, two = (torch.cat(look) for look in means)
    variance = ((one - one.mean(0)) * (two - two.mean(0))).sum(0) / (len(one) - 1)
    kl = None if any(part is None for part in kls) else torch.cat(kls).mean(0)
    return LatentUse(kl, variance, variance > ACTIVE)


def _look(model: Model, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """Means of the guide's latents and their KL, ``(n, num_latents)`` both."""
    plate = model.find_data_plate(batch)
    guide = poutine.trace(model.proposal()).get_trace(*batch)
    told = poutine.trace(poutine.replay(model, trace=guide)).get_trace(*batch)
    names = [
        name
        for name in guide.stochastic_nodes
        if plate in {f.name for f in guide.nodes[name]["cond_indep_stack"]}
    ]
    if not names:
        raise QueryError(
            f"{type(model).__name__} has no latents of single rows that its guide draws"
        )
    if any(guide.nodes[name]["fn"].has_enumerate_support for name in names):
        raise QueryError(f"{type(model).__name__}: its latents are states, which have no mean")
    num = len(batch[0])
    mean = torch.cat([_flat(without_events(guide.nodes[n]["fn"]).mean, num) for n in names], 1)
    kls = [kl_by_dimension(told, guide, name) for name in names]
    if any(kl is None for kl in kls):
        return mean, None
    return mean, torch.cat([_flat(kl, num) for kl in kls], 1)


def _flat(values: Tensor, num_rows: int) -> Tensor:
    return values.reshape(num_rows, -1)
