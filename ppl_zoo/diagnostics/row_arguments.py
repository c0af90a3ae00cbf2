"""Arguments of a row: which a model observes, and which are its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_zoo.diagnostics.arviz import data_groups
from ppl_zoo.diagnostics.dims import Names
from ppl_zoo.diagnostics.draws import Reader
from ppl_zoo.tracing import trace_program

__all__ = ["inputs", "observed_value"]


def inputs(reader: Reader, data: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Arguments of rows that the model does not observe."""
    names = Names([], {})
    _, constant = data_groups(reader, names)
    arguments = dict(zip(reader.model.argument_names, data, strict=False))
    return {k: v for k, v in arguments.items() if names.variable(k) in constant.data_vars}


def observed_value(reader: Reader, data: tuple[Tensor, ...], name: str) -> Tensor:
    """Return what a site of the model observes."""
    with reader.fit._seeded(0), reader.model.defaults():
        return torch.as_tensor(trace_program(reader.model, data).nodes[name]["value"]).detach()
