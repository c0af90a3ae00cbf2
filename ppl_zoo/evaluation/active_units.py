"""Active units of local latents, and KL by latent dimension."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from ppl_zoo.core.display import call_text
from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model
from ppl_zoo.core.tracing.kl import kl_by_dimension, without_events

__all__ = ["LatentUse", "latent_use"]

#: variance over the data of an active unit's posterior mean, at least (Burda et al. 2016)
MIN_ACTIVE_VARIANCE = 0.01
#: share of active units below which the posterior has collapsed
MIN_ACTIVE_SHARE = 0.1


class LatentUse(NamedTuple):
    """KL and activity of local latents, each field ``(num_latents,)``.

    Attributes
    ----------
    kl
        Mean KL of the guide from the prior, nats a row; None where it is not a sum over the
        latents' dimensions.
    variance
        Variance of the posterior mean over the rows.
    active
        Whether ``variance`` is above 0.01.
    """

    kl: Tensor | None
    variance: Tensor
    active: Tensor

    def __repr__(self) -> str:
        """Write the shapes of the fields."""
        return call_text(type(self).__name__, self._asdict())

    @property
    def collapsed(self) -> bool:
        """Whether fewer than a tenth of the latents are active: posterior collapse."""
        return bool(self.active.double().mean() < MIN_ACTIVE_SHARE)


@torch.no_grad()
def latent_use(model: Model, *data: Any) -> LatentUse:
    """Measure KL and activity of each latent dimension under the guide.

    Raises
    ------
    QueryError
        If the guide draws no local latents.
    """
    # two draws: in a hierarchical guide a layer's mean moves with the draw of the layer above,
    # too; only the covariance of two independent draws is due to the data
    means: tuple[list[Tensor], list[Tensor]] = ([], [])
    kls: list[Tensor | None] = []
    with model.defaults():
        for batch in model.batches(*data):
            for draws in means:
                mean, kl = _guide_moments(model, batch)
                draws.append(mean)
                kls.append(kl)
    one, two = (torch.cat(draws) for draws in means)
    variance = ((one - one.mean(0)) * (two - two.mean(0))).sum(0) / (len(one) - 1)
    kl = None if any(part is None for part in kls) else torch.cat(kls).mean(0)
    return LatentUse(kl, variance, variance > MIN_ACTIVE_VARIANCE)


def _guide_moments(model: Model, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
    """Means of the guide's local latents, and their KL from the prior, ``(n, num_latents)``."""
    plate = model.find_data_plate(batch)
    guide = poutine.trace(model.proposal()).get_trace(*batch)
    replayed = poutine.trace(poutine.replay(model, trace=guide)).get_trace(*batch)
    names = [
        name
        for name in guide.stochastic_nodes
        if plate in {f.name for f in guide.nodes[name]["cond_indep_stack"]}
    ]
    if not names:
        raise QueryError(f"{model.model_name} has no latents of single rows that its guide draws")
    if any(guide.nodes[name]["fn"].has_enumerate_support for name in names):
        raise QueryError(f"{model.model_name}: its latents are states, which have no mean")
    num = len(batch[0])
    mean = torch.cat([_flat(without_events(guide.nodes[n]["fn"]).mean, num) for n in names], 1)
    kls = [kl_by_dimension(replayed, guide, name) for name in names]
    if any(kl is None for kl in kls):
        return mean, None
    return mean, torch.cat([_flat(kl, num) for kl in kls], 1)


def _flat(values: Tensor, num_rows: int) -> Tensor:
    return values.reshape(num_rows, -1)
