"""Clauses about fits of a model: repeatable, saved whole, additive, and none of bad data."""

from __future__ import annotations

import math
import tempfile
from typing import Any

import pyro
import torch
from torch import nn

from ppl_zoo.errors import DataError
from ppl_zoo.fitting import default_solver, fit
from ppl_zoo.saving import load
from ppl_zoo.testing.case import Case, ContractError, close, demand, shortened

__all__ = ["additive", "refuses", "repeatable", "round_trip"]


def repeatable(case: Case) -> None:
    """Two fits with one seed are the same, and leave nothing behind."""
    state, store = torch.random.get_rng_state(), set(pyro.get_param_store().keys())
    one, two = case.fitted(), case.fitted()
    demand(
        bool(torch.equal(state, torch.random.get_rng_state())),
        "fitting changed the caller's random state",
    )
    demand(
        set(pyro.get_param_store().keys()) == store,
        "fitting left parameters in Pyro's global store; use PyroParam or nn.Parameter",
    )
    for name, value in one.solution.parameters.items():
        demand(
            bool(torch.equal(value, two.solution.parameters[name])),
            f"two fits with one seed differ in {name}",
        )


def round_trip(case: Case) -> None:
    """Save a fit and load it: it is the same."""
    done = case.fitted()
    with tempfile.TemporaryDirectory() as folder:
        done.save(f"{folder}/run")
        again = load(f"{folder}/run", model=type(done.model), device="cpu")
    for (name, a), (_, b) in zip(
        sorted(done.model.state_dict().items()),
        sorted(again.model.state_dict().items()),
        strict=True,
    ):
        demand(bool(torch.equal(a, b)), f"{name} changed on the way to disk and back")
    if isinstance(done.guide, nn.Module):
        same = all(
            torch.equal(a, b)
            for a, b in zip(
                done.guide.state_dict().values(), again.guide.state_dict().values(), strict=True
            )
        )
        demand(same, "the guide changed on the way to disk and back")


def additive(case: Case) -> None:
    """Add up the statistics of chunks: they are those of all rows."""
    model = case.model()
    if not hasattr(model, "expected_statistics"):
        return
    rows = case.rows(model)
    with torch.random.fork_rng(), torch.no_grad(), model.defaults():
        torch.manual_seed(0)
        model.initialize(rows)
        whole = model.expected_statistics(*rows.all())
        total: dict[str, Any] = {}
        for batch in rows.chunks(max(1, len(rows) // 3)):
            for name, value in model.expected_statistics(*batch).items():
                total[name] = total.get(name, 0) + value
    for name, value in whole.items():
        demand(
            close(torch.as_tensor(value), torch.as_tensor(total[name])),
            f"statistic {name!r} is not additive over chunks of the data",
        )


def refuses(case: Case) -> None:
    """Infinite values and empty data are refused with a ``DataError``."""
    model = case.model()
    data = case.rows(model).all()
    broken = data[0].clone()
    if not broken.is_floating_point():
        return
    broken.view(-1)[0] = math.inf
    empty = tuple(t[:0] for t in data)
    for what, given in (("an infinite value", (broken, *data[1:])), ("no rows", empty)):
        solver = case.solver or shortened(default_solver(model))
        try:
            fit(case.model(), given, solver, device="cpu", progress=False)
        except DataError:
            continue
        raise ContractError(f"data with {what} were fitted, expected a DataError")
