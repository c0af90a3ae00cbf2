"""Clauses about a model's program: its parameters, names, plates, types and draws."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_zoo import tracing
from ppl_zoo.model import Model
from ppl_zoo.queries import no_latents
from ppl_zoo.testing.case import Case, demand

__all__ = ["draws_broadcast", "dtypes", "minibatch_scale", "names", "parameters_in_init"]


def parameters_in_init(case: Case) -> None:
    """All parameters are there after ``__init__``, and ``fresh()`` has the same."""
    model = case.model()
    demand(isinstance(model, Model), f"got a {type(model).__name__}, expected a zoo.Model")
    before = {k: v.shape for k, v in model.state_dict().items()}
    tracing.trace_program(model, case.rows(model).all())
    if model.guide is not None:
        tracing.trace_program(model.guide, case.rows(model).all())
    after = {k: v.shape for k, v in model.state_dict().items()}
    demand(before == after, f"running it made or changed parameters: {before} -> {after}")
    other = model.fresh()
    shapes = {k: v.shape for k, v in other.state_dict().items()}
    demand(shapes == after, f"fresh() has other parameters: {shapes}, expected {after}")
    other.load_state_dict(model.state_dict())


def names(case: Case) -> None:
    """Sites and plates have lower-case names, no name twice, and one plate is over the data."""
    model = case.model()
    rows = case.rows(model)
    sites = model.sites(*rows.all())
    plates = {name for s in sites.values() for name, _, _ in s.plates}
    demand(
        model.rows_plate in plates,
        "no plate over the data: open it with self.observations(name, x)",
    )
    sizes = {n: size for s in sites.values() for n, _, size in s.plates}
    demand(
        sizes[model.rows_plate] == len(rows),
        f"plate {model.rows_plate!r} has {sizes[model.rows_plate]} rows, data have {len(rows)}",
    )
    for name in {*sites, *plates}:
        demand(
            name.isidentifier() and name == name.lower(),
            f"site or plate {name!r} is not a lower-case identifier",
        )
    demand(not plates & set(sites), f"{plates & set(sites)} name both a site and a plate")


def minibatch_scale(case: Case) -> None:
    """Half the rows count twice where they stand for all."""
    model = case.model()
    rows = case.rows(model)
    half = rows.head(max(1, len(rows) // 2))
    with model.scaled_to(2 * half[0].shape[0]):
        trace = tracing.trace_program(model, half)
    for name, site in tracing.describe(trace).items():
        if site.kind == "observed" and site.is_local(model.rows_plate):
            scale = torch.as_tensor(trace.nodes[name]["scale"])
            unscaled = torch.as_tensor(1.0)
            demand(
                bool((scale / unscaled).max() > 1.0),
                f"site {name!r} of a minibatch of half the rows has scale 1, expected 2: "
                "open the plate with self.observations",
            )


def dtypes(case: Case) -> None:
    """Run a model in float64: every value is float64."""
    model = case.model().double()
    data = case.rows(model).all()
    with model.defaults():
        trace = tracing.trace_program(model, data)
    for name, node in trace.nodes.items():
        value = node.get("value")
        if node["type"] == "sample" and isinstance(value, Tensor) and value.is_floating_point():
            demand(
                value.dtype == torch.float64,
                f"site {name!r} is {value.dtype} in a model.double(): "
                "keep constants as buffers, with no dtype or device of their own",
            )


def draws_broadcast(case: Case) -> None:
    """Several draws of the latents run through the program at once."""
    done = case.fitted()
    model, data = done.model, done.data()
    guide = no_latents if done.guide is None else done.guide
    with model.defaults():
        together = tracing.broadcasts(model, guide, data, model.rows_plate)
    demand(
        together,
        "draws do not broadcast: write sums as (x * b).sum(-1), never x @ b or b[0], so that "
        "latents may have dimensions on the left",
    )
