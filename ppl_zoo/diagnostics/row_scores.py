"""Log densities of single rows: given each draw, or at the fitted parameters."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_zoo.diagnostics.records import BLOCK
from ppl_zoo.errors import QueryError
from ppl_zoo.tracing import Draws, Site, draw

__all__ = ["likelihood", "marginal", "prior_of_rows"]

#: importance samples of a row's log density at most, where that is a bound
BOUND_DRAWS = 1000


def prior_of_rows(
    reader: Any, data: tuple, count: int, latents: dict[str, Tensor] | None
) -> Tensor | None:
    """Log p(local latents | globals) of each row, for the draws of the present seed."""
    names = {n for n, s in reader.sites.items() if s.kind == "observed"}
    bare = poutine.block(reader.model, hide=list(names))
    return draw(bare, reader.guide, data, count, reader.plate, BLOCK, latents).log_joint_rows


def likelihood(
    reader: Any, drawn: Draws, observed: list[Site], prior: Tensor | None
) -> dict[str, Tensor]:
    """Log likelihood of each shown row given the draws; summed-out sites summed out."""
    in_rows = [s for s in observed if s.is_local(reader.plate)]
    if not in_rows:
        return drawn.log_likelihood
    name = in_rows[0].name if len(in_rows) == 1 else "joint"
    if all(s.name in drawn.log_likelihood for s in in_rows):
        value = sum(_by_row(drawn.log_likelihood[s.name], s, reader.plate) for s in in_rows)
    elif drawn.log_joint_rows is not None and not (reader.local and prior is None):
        value = drawn.log_joint_rows - (0.0 if prior is None else prior)
    else:
        return {}  # the rows do not factorise
    index = torch.from_numpy(reader.shown).to(value.device)
    return {name: value[:, index]}


def _by_row(value: Tensor, site: Site, plate: str | None) -> Tensor:
    axis = [name for name, _, _ in site.plates].index(plate) + 1
    others = [i for i in range(1, value.ndim) if i != axis]
    return value.sum(others) if others else value


def marginal(reader: Any) -> dict[str, Tensor]:
    """Log density of each shown row at the fitted parameters, the same in every draw."""
    observed = [s for s in reader.sites.values() if s.kind == "observed"]
    if not observed or not reader.scored or reader.model.queries["log_prob"] == "none":
        return {}
    name = observed[0].name if len(observed) == 1 else "joint"
    data = reader.rows.all() if reader.whole else reader.at(reader.shown)
    taken = inspect.signature(reader.model.log_prob).parameters
    options = {}
    if "num_samples" in taken:
        options["num_samples"] = min(taken["num_samples"].default, BOUND_DRAWS)
    places = [n for n, p in taken.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if not any(p.kind is p.VAR_POSITIONAL for p in taken.values()):
        data = data[: len([name for name in places if name not in options])]
    try:
        value = reader.model.log_prob(*data, **options)
    except QueryError:
        return {}
    if reader.whole:
        value = value[torch.from_numpy(reader.shown).to(value.device)]
    return {name: value.expand(reader.num, -1)}
