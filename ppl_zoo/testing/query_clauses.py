"""Clauses about a model's queries: each answers as the model says it does."""

from __future__ import annotations

import math

import torch

from ppl_zoo import tracing
from ppl_zoo.model import Model
from ppl_zoo.queries import ANSWERS, no_latents
from ppl_zoo.testing.case import Case, close, demand

__all__ = ["encode", "log_prob", "sample"]


def log_prob(case: Case) -> None:
    """``log_prob`` is finite, row by row, and the bound itself where it is said to be exact."""
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
        draws = tracing.draw(done.model, guide, data, 2, done.model.rows_plate)
    demand(draws.log_joint_rows is not None, "queries say log_prob is exact, but no row has one")
    bound = draws.log_joint_rows - (0 if draws.log_guide_rows is None else draws.log_guide_rows)
    demand(
        all(close(b, value) for b in bound),
        "queries say log_prob is exact, but the one-sample ELBO of the pair differs from it by "
        f"{(bound - value).abs().max().item():.3g} nats",
    )


def sample(case: Case) -> None:
    """``sample`` draws what the story draws."""
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
        story = Model.sample(model, count)
    ours, told = (model.log_prob(v).detach().double() for v in (drawn, story))
    error = math.sqrt(float(ours.var() + told.var()) / count) + 1e-6
    demand(
        abs(float(ours.mean() - told.mean())) < 5 * error,
        f"sample() and model() draw from different distributions: mean log density "
        f"{ours.mean():.4g} against {told.mean():.4g} (standard error {error:.2g})",
    )


def encode(case: Case) -> None:
    """``encode`` gives one finite row for each row of the data."""
    done = case.fitted()
    if done.model.queries["encode"] == "none":
        return
    code = done.model.encode(*done.data())
    for value in code.values() if isinstance(code, dict) else [code]:
        rows = len(done.rows)
        demand(len(value) == rows, f"encode gave {len(value)} rows, expected {rows}")
        demand(bool(value.isfinite().all()), "encode is not finite")
