"""Clauses of the contract of a model, each a function that raises where it does not hold."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from torch import Tensor, nn

from ppl_zoo.core import tracing
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import ANSWERS, Model, no_latents
from ppl_zoo.fitting.run import fit, load
from ppl_zoo.testing.case import Case, ContractError, close, demand

__all__ = ["CLAUSES"]

#: rows drawn to compare ``sample`` with the program
NUM_SAMPLES = 400
#: what two clauses say of a plain ``pyro.plate``, which no fit scales
NO_PLATE = "no plate over the data: open it with self.observations(name, x)"


@runtime_checkable
class HasStatistics(Protocol):
    """A model that is fitted from expected sufficient statistics."""

    def expected_statistics(self, *batch: Tensor) -> dict[str, Any]:
        """Return expected sufficient statistics of a batch, additive over batches."""


# ---- fits -------------------------------------------------------------------------------------


def _repeatable(case: Case) -> None:
    """Fits with one seed are the same, and leave random state and parameter store as they were."""
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


def _round_trip(case: Case) -> None:
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


def _additive(case: Case) -> None:
    """Sufficient statistics of chunks add up to those of all rows."""
    model = case.model()
    if not (model.offers_em and isinstance(model, HasStatistics)):
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


def _refuses(case: Case) -> None:
    """Infinite values and empty data are refused with a ``DataError``."""
    model = case.model()
    data = case.rows(model).all()
    broken = data[0].clone()
    if not broken.is_floating_point():
        return
    broken.view(-1)[0] = math.inf
    empty = tuple(t[:0] for t in data)
    for what, given in (("an infinite value", (broken, *data[1:])), ("no rows", empty)):
        try:
            fit(case.model(), given, case.solver_of(model), device="cpu", progress=False)
        except DataError:
            continue
        raise ContractError(f"data with {what} were fitted, expected a DataError")


# ---- the program ------------------------------------------------------------------------------


def _parameters_in_init(case: Case) -> None:
    """All parameters exist after ``__init__``, and ``fresh()`` has the same."""
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


def _names(case: Case) -> None:
    """Sites and plates have lower-case names, no name twice, and one plate is over the data."""
    model = case.model()
    rows = case.rows(model)
    sites = model.sites(*rows.all())
    plates = {name for s in sites.values() for name, _, _ in s.plates}
    plate = model.find_data_plate(rows)
    demand(plate in plates, NO_PLATE)
    sizes = {n: size for s in sites.values() for n, _, size in s.plates}
    demand(
        sizes[plate] == len(rows),
        f"plate {plate!r} has {sizes[plate]} rows, data have {len(rows)}",
    )
    for name in {*sites, *plates}:
        demand(
            name.isidentifier() and name == name.lower(),
            f"site or plate {name!r} is not a lower-case identifier",
        )
    demand(not plates & set(sites), f"{plates & set(sites)} name both a site and a plate")


def _minibatch_scale(case: Case) -> None:
    """Minibatches of half the rows are scaled by two."""
    model = case.model()
    rows = case.rows(model)
    half = rows.head(max(1, len(rows) // 2))
    plate = model.find_data_plate(rows)
    demand(plate is not None, NO_PLATE)
    with model.scaled_to(2 * half[0].shape[0]):
        trace = tracing.trace_program(model, half)
    for name, site in tracing.describe(trace).items():
        if site.kind == "observed" and site.is_local(plate):
            scale = torch.as_tensor(trace.nodes[name]["scale"])
            demand(
                bool(scale.max() > 1.0),
                f"site {name!r} of a minibatch of half the rows has scale 1, expected 2: "
                "open the plate with self.observations",
            )


def _dtypes(case: Case) -> None:
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


def _draws_vectorise(case: Case) -> None:
    """One run of the program stands for several draws of the latents."""
    done = case.fitted()
    model, data = done.model, done.data()
    guide = no_latents if done.guide is None else done.guide
    if not any(s.kind == "latent" for s in model.sites(*data).values()):
        return
    with model.defaults():
        vectorised = tracing.vectorises(model, guide, data)
    demand(
        vectorised,
        "draws run one by one, since the program reads values in Python (if z > 0, z.item()) or "
        "writes into tensors of its own: write torch.where, torch.stack",
    )


# ---- queries ----------------------------------------------------------------------------------


def _log_prob(case: Case) -> None:
    """``log_prob`` is finite, by row, and equal to the ELBO where it is said to be exact."""
    done = case.fitted()
    how = done.model.queries["log_prob"]
    demand(how in ANSWERS, f"queries['log_prob'] is {how!r}, expected one of {ANSWERS}")
    if how == "none":
        return
    data = done.data()
    value = done.model.log_prob(*data)
    rows = data[0].shape[0]
    demand(
        tuple(value.shape) == (rows,), f"log_prob has shape {tuple(value.shape)}, not ({rows},)"
    )
    demand(bool(value.isfinite().all()), "log_prob of the data it was fitted to is not finite")
    if how != "exact":
        return
    part = done.model.log_prob(*done.rows[: max(1, rows // 2)])
    demand(
        close(part, value[: len(part)]),
        "log_prob of a row depends on the other rows of the call",
    )
    with done.model.defaults():
        guide = done.guide or no_latents
        draws = tracing.draw(done.model, guide, data, 2, done.model.data_plate)
    demand(draws.log_joint_rows is not None, "queries say log_prob is exact, but no row has one")
    bound = draws.log_joint_rows - (0 if draws.log_guide_rows is None else draws.log_guide_rows)
    demand(
        all(close(b, value) for b in bound),
        "queries say log_prob is exact, but the one-sample ELBO of the pair differs from it by "
        f"{(bound - value).abs().max().item():.3g} nats",
    )


def _sample(case: Case) -> None:
    """``sample`` draws from the same distribution as the program."""
    done = case.fitted()
    model, data = done.model, done.data()
    if model.queries["sample"] == "none":
        return
    inputs = model.input_names(*data)
    given = {k: v for k, v in zip(model.argument_names, data, strict=False) if k in inputs}
    count = NUM_SAMPLES
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = model.sample(count, given=given) if given else model.sample(count)
    for value in drawn.values() if isinstance(drawn, dict) else [drawn]:
        demand(len(value) == count, f"sample({count}) gave {len(value)} draws")
        demand(bool(value.isfinite().all()), "sample is not finite")
    if given or isinstance(drawn, dict) or model.queries["log_prob"] != "exact":
        return
    demand(
        drawn.shape[1:] == data[0].shape[1:],
        f"sample has rows of shape {tuple(drawn.shape[1:])}, data {tuple(data[0].shape[1:])}",
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        simulated = Model.sample(model, count)
    ours, theirs = (model.log_prob(v).detach().double() for v in (drawn, simulated))
    error = math.sqrt(float(ours.var() + theirs.var()) / count) + 1e-6
    demand(
        abs(float(ours.mean() - theirs.mean())) < 5 * error,
        f"sample() and model() draw from different distributions: mean log density "
        f"{ours.mean():.4g} against {theirs.mean():.4g} (standard error {error:.2g})",
    )


def _encode(case: Case) -> None:
    """``encode`` returns one finite row for each row of the data."""
    done = case.fitted()
    if done.model.queries["encode"] == "none":
        return
    code = done.model.encode(*done.data())
    for value in code.values() if isinstance(code, dict) else [code]:
        rows = len(done.rows)
        demand(len(value) == rows, f"encode gave {len(value)} rows, expected {rows}")
        demand(bool(value.isfinite().all()), "encode is not finite")


#: the contract, clause by clause
CLAUSES: dict[str, Callable[[Case], None]] = {
    "parameters are made in __init__": _parameters_in_init,
    "sites and plates have names of their own": _names,
    "a minibatch is scaled": _minibatch_scale,
    "float64 stays float64": _dtypes,
    "draws in one run": _draws_vectorise,
    "log_prob": _log_prob,
    "sample": _sample,
    "encode": _encode,
    "one seed, one result": _repeatable,
    "a fit survives the disk": _round_trip,
    "statistics add up": _additive,
    "bad data are refused": _refuses,
}
