"""The clauses of a model's contract, each a function that raises where it does not hold."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ppl_zoo import tracing
from ppl_zoo.errors import DataError
from ppl_zoo.fitting import default_solver, fit
from ppl_zoo.model import Model
from ppl_zoo.queries import ANSWERS, no_latents
from ppl_zoo.saving import load

__all__ = ["CLAUSES", "Case", "ContractError"]


class ContractError(AssertionError):
    """A clause of the contract that a model breaks."""


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


@dataclasses.dataclass
class Case:
    """A model to be checked, with data."""

    make_model: Callable[[], Model]
    make_data: Callable[[], Any]
    solver: Any

    def model(self) -> Model:
        """Make the model, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make_model()

    def data(self) -> Any:
        """Make the data, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make_data()

    def rows(self, model: Model) -> Any:
        """Read the data as the model's rows."""
        return model.as_rows(self.data())

    def fitted(self, seed: int = 0) -> Any:
        """Fit the model for a few steps."""
        model = self.model()
        solver = self.solver or _shortened(default_solver(model))
        return fit(model, self.data(), solver, device="cpu", seed=seed, progress=False)


def _shortened(solver: Any) -> Any:
    """Cut a solver short: a few steps show the contract, convergence is another matter."""
    short = {"steps": 30, "max_steps": 5, "restarts": 1}
    names = {f.name for f in dataclasses.fields(solver)}
    return dataclasses.replace(solver, **{k: v for k, v in short.items() if k in names})


def _close(a: Tensor, b: Tensor, tol: float = 1e-3) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=tol, atol=tol)


def _parameters_in_init(case: Case) -> None:
    model = case.model()
    _demand(isinstance(model, Model), f"got a {type(model).__name__}, expected a zoo.Model")
    before = {k: v.shape for k, v in model.state_dict().items()}
    tracing.trace_program(model, case.rows(model).all())
    if model.guide is not None:
        tracing.trace_program(model.guide, case.rows(model).all())
    after = {k: v.shape for k, v in model.state_dict().items()}
    _demand(before == after, f"running it made or changed parameters: {before} -> {after}")
    other = model.fresh()
    shapes = {k: v.shape for k, v in other.state_dict().items()}
    _demand(shapes == after, f"fresh() has other parameters: {shapes}, expected {after}")
    other.load_state_dict(model.state_dict())


def _names(case: Case) -> None:
    model = case.model()
    rows = case.rows(model)
    sites = model.sites(*rows.all())
    plates = {name for s in sites.values() for name, _, _ in s.plates}
    _demand(
        model.rows_plate in plates,
        "no plate over the data: open it with self.observations(name, x)",
    )
    sizes = {n: size for s in sites.values() for n, _, size in s.plates}
    _demand(
        sizes[model.rows_plate] == len(rows),
        f"plate {model.rows_plate!r} has {sizes[model.rows_plate]} rows, data have {len(rows)}",
    )
    for name in {*sites, *plates}:
        _demand(
            name.isidentifier() and name == name.lower(),
            f"site or plate {name!r} is not a lower-case identifier",
        )
    _demand(not plates & set(sites), f"{plates & set(sites)} name both a site and a plate")


def _minibatch_scale(case: Case) -> None:
    model = case.model()
    rows = case.rows(model)
    half = rows.head(max(1, len(rows) // 2))
    with model.scaled_to(2 * half[0].shape[0]):
        trace = tracing.trace_program(model, half)
    for name, site in tracing.describe(trace).items():
        if site.kind == "observed" and site.is_local(model.rows_plate):
            scale = torch.as_tensor(trace.nodes[name]["scale"])
            unscaled = torch.as_tensor(1.0)
            _demand(
                bool((scale / unscaled).max() > 1.0),
                f"site {name!r} of a minibatch of half the rows has scale 1, expected 2: "
                "open the plate with self.observations",
            )


def _dtypes(case: Case) -> None:
    model = case.model().double()
    data = case.rows(model).all()
    with model.defaults():
        trace = tracing.trace_program(model, data)
    for name, node in trace.nodes.items():
        value = node.get("value")
        if node["type"] == "sample" and isinstance(value, Tensor) and value.is_floating_point():
            _demand(
                value.dtype == torch.float64,
                f"site {name!r} is {value.dtype} in a model.double(): "
                "keep constants as buffers, with no dtype or device of their own",
            )


def _draws_broadcast(case: Case) -> None:
    done = case.fitted()
    model, data = done.model, done.data()
    guide = no_latents if done.guide is None else done.guide
    with model.defaults():
        together = tracing.broadcasts(model, guide, data, model.rows_plate)
    _demand(
        together,
        "draws do not broadcast: write sums as (x * b).sum(-1), never x @ b or b[0], so that "
        "latents may have dimensions on the left",
    )


def _log_prob(case: Case) -> None:
    done = case.fitted()
    how = done.model.queries["log_prob"]
    _demand(how in ANSWERS, f"queries['log_prob'] is {how!r}, expected one of {ANSWERS}")
    if how == "none":
        return
    data = done.data()
    value = done.model.log_prob(*data)
    rows = data[0].shape[0]
    _demand(
        tuple(value.shape) == (rows,), f"log_prob has shape {tuple(value.shape)}, not ({rows},)"
    )
    _demand(bool(value.isfinite().all()), "log_prob of the data it was fitted to is not finite")
    if how != "exact":
        return
    part = done.model.log_prob(*done.rows[: max(1, rows // 2)])
    _demand(
        _close(part, value[: len(part)]),
        "log_prob of a row depends on the other rows of the call",
    )
    with done.model.defaults():
        guide = done.guide or no_latents
        draws = tracing.draw(done.model, guide, data, 2, done.model.rows_plate)
    _demand(draws.log_joint_rows is not None, "queries say log_prob is exact, but no row has one")
    bound = draws.log_joint_rows - (0 if draws.log_guide_rows is None else draws.log_guide_rows)
    _demand(
        all(_close(b, value) for b in bound),
        "queries say log_prob is exact, but the one-sample ELBO of the pair differs from it by "
        f"{(bound - value).abs().max().item():.3g} nats",
    )


def _sample(case: Case) -> None:
    done = case.fitted()
    model, data = done.model, done.data()
    if model.queries["sample"] == "none":
        return
    inputs = model.input_names(*data)
    given = {k: v for k, v in zip(model.argument_names, data, strict=False) if k in inputs}
    count = 400
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = model.sample(count, given=given) if given else model.sample(count)
    for value in drawn.values() if isinstance(drawn, dict) else [drawn]:
        _demand(len(value) == count, f"sample({count}) gave {len(value)} draws")
        _demand(bool(value.isfinite().all()), "sample is not finite")
    if given or isinstance(drawn, dict) or model.queries["log_prob"] != "exact":
        return
    _demand(
        drawn.shape[1:] == data[0].shape[1:],
        f"sample has rows of shape {tuple(drawn.shape[1:])}, data {tuple(data[0].shape[1:])}",
    )
    with torch.random.fork_rng():
        torch.manual_seed(2)
        story = Model.sample(model, count)
    ours, told = (model.log_prob(v).detach().double() for v in (drawn, story))
    error = math.sqrt(float(ours.var() + told.var()) / count) + 1e-6
    _demand(
        abs(float(ours.mean() - told.mean())) < 5 * error,
        f"sample() and model() draw from different distributions: mean log density "
        f"{ours.mean():.4g} against {told.mean():.4g} (standard error {error:.2g})",
    )


def _encode(case: Case) -> None:
    done = case.fitted()
    if done.model.queries["encode"] == "none":
        return
    code = done.model.encode(*done.data())
    for value in code.values() if isinstance(code, dict) else [code]:
        rows = len(done.rows)
        _demand(len(value) == rows, f"encode gave {len(value)} rows, expected {rows}")
        _demand(bool(value.isfinite().all()), "encode is not finite")


def _repeatable(case: Case) -> None:
    state, store = torch.random.get_rng_state(), set(pyro.get_param_store().keys())
    one, two = case.fitted(), case.fitted()
    _demand(
        bool(torch.equal(state, torch.random.get_rng_state())),
        "fitting changed the caller's random state",
    )
    _demand(
        set(pyro.get_param_store().keys()) == store,
        "fitting left parameters in Pyro's global store; use PyroParam or nn.Parameter",
    )
    for name, value in one.solution.parameters.items():
        _demand(
            bool(torch.equal(value, two.solution.parameters[name])),
            f"two fits with one seed differ in {name}",
        )


def _round_trip(case: Case) -> None:
    done = case.fitted()
    with tempfile.TemporaryDirectory() as folder:
        done.save(f"{folder}/run")
        again = load(f"{folder}/run", model=type(done.model), device="cpu")
    for (name, a), (_, b) in zip(
        sorted(done.model.state_dict().items()),
        sorted(again.model.state_dict().items()),
        strict=True,
    ):
        _demand(bool(torch.equal(a, b)), f"{name} changed on the way to disk and back")
    if isinstance(done.guide, nn.Module):
        same = all(
            torch.equal(a, b)
            for a, b in zip(
                done.guide.state_dict().values(), again.guide.state_dict().values(), strict=True
            )
        )
        _demand(same, "the guide changed on the way to disk and back")


def _additive(case: Case) -> None:
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
        _demand(
            _close(torch.as_tensor(value), torch.as_tensor(total[name])),
            f"statistic {name!r} is not additive over chunks of the data",
        )


def _refuses(case: Case) -> None:
    model = case.model()
    data = case.rows(model).all()
    broken = data[0].clone()
    if not broken.is_floating_point():
        return
    broken.view(-1)[0] = math.inf
    empty = tuple(t[:0] for t in data)
    for what, given in (("an infinite value", (broken, *data[1:])), ("no rows", empty)):
        solver = case.solver or _shortened(default_solver(model))
        try:
            fit(case.model(), given, solver, device="cpu", progress=False)
        except DataError:
            continue
        raise ContractError(f"data with {what} were fitted, expected a DataError")


CLAUSES: dict[str, Callable[[Case], None]] = {
    "parameters are made in __init__": _parameters_in_init,
    "sites and plates have names of their own": _names,
    "a minibatch is scaled": _minibatch_scale,
    "float64 stays float64": _dtypes,
    "draws broadcast": _draws_broadcast,
    "log_prob": _log_prob,
    "sample": _sample,
    "encode": _encode,
    "one seed, one result": _repeatable,
    "a fit survives the disk": _round_trip,
    "statistics add up": _additive,
    "bad data are refused": _refuses,
}
