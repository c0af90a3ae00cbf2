"""Sites of a Pyro program as one run shows them: kinds, plates and shapes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_zoo.core.tracing.traceable import kept_statistics

__all__ = [
    "Program",
    "Site",
    "base_of",
    "describe",
    "feasible_point",
    "first_run",
    "is_sample",
    "nesting_of",
    "trace_program",
    "whole_plates",
    "with_summed_out",
]

Program = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """One sample statement as a single run shows it."""

    name: str
    kind: str  # "latent", "observed", "deterministic" or "factor"
    plates: tuple[tuple[str, int, int], ...]  # (plate, dim, size), left to right
    shape: tuple[int, ...]  # of the value in a single run
    event_dim: int
    discrete: bool  # a latent of finite support, which can be summed out
    reparametrised: bool
    flat: bool = False  # an improper prior, which has no draws

    @property
    def batch_ndim(self) -> int:
        """Number of batch dimensions of the value."""
        return len(self.shape) - self.event_dim

    def is_local(self, data_plate: str | None) -> bool:
        """Whether the site lies in the plate over the data."""
        return data_plate is not None and any(name == data_plate for name, _, _ in self.plates)


def trace_program(program: Program, data: tuple) -> Trace:
    """Run a Pyro program once, away from any handler outside, and return its trace."""
    with torch.no_grad(), poutine.block(), kept_statistics():
        return poutine.trace(program).get_trace(*data)


def first_run(program: Program, data: tuple) -> Trace:
    """Trace a model to see its sites, its continuous latents at a feasible point.

    A draw from the prior may overflow, and a flat prior has none.
    """
    return trace_program(_AtFeasiblePoint()(program), data)


class _AtFeasiblePoint(Messenger):
    """Hold continuous latents at 0 on the unconstrained scale."""

    def _pyro_sample(self, msg: dict) -> None:
        if msg["value"] is None and is_sample(msg):
            msg["value"] = feasible_point(msg["fn"])


def base_of(fn: Any) -> Any:
    """Return a distribution without its masks, expansions and transforms."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def feasible_point(fn: Any) -> Tensor | None:
    """Value of a continuous distribution at 0 on the unconstrained scale.

    None for a discrete or deterministic one, and for a support that has no transform.
    """
    base = base_of(fn)
    if isinstance(base, dist.Delta | dist.Unit):
        return None
    try:
        if fn.support.is_discrete:
            return None
        transform = torch.distributions.transform_to(fn.support)
        shape = transform.inverse_shape(fn.shape())
    except (NotImplementedError, AttributeError):
        return None
    tensors = [v for v in vars(base).values() if isinstance(v, Tensor) and v.is_floating_point()]
    zeros = tensors[0].new_zeros(shape) if tensors else torch.zeros(shape)
    return transform(zeros)


@contextlib.contextmanager
def whole_plates() -> Iterator[None]:
    """Let plates that choose a subsample themselves have all of their rows."""
    original = SubsampleMessenger._subsample

    def choose_all(
        name: str,
        size: int | None = None,
        subsample_size: int | None = None,
        subsample: Any = None,
        *options: Any,
    ) -> Any:
        if size is not None and subsample is None:
            subsample_size = None
        return original(name, size, subsample_size, subsample, *options)

    with mock.patch.object(SubsampleMessenger, "_subsample", staticmethod(choose_all)):
        yield


def is_sample(site: dict) -> bool:
    """Whether a trace's node is a sample statement, not a plate's subsample or a parameter."""
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def describe(trace: Trace) -> dict[str, Site]:
    """Describe the sites of a trace, in the order of the program."""
    sites = {}
    for name, node in trace.nodes.items():
        if not is_sample(node) or node["infer"].get("is_auxiliary"):
            continue
        deterministic = bool(node["infer"].get("_deterministic"))
        kind = "observed" if node["is_observed"] else "latent"
        if deterministic:
            kind = "deterministic"
        elif isinstance(node["fn"], dist.Unit):
            kind = "factor"
        value = node["value"]
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value)
        frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
        if any(f.name == name for f in frames):
            raise ValueError(f"site {name!r} and its plate share a name; rename one of them")
        discrete = kind == "latent" and getattr(node["fn"], "has_enumerate_support", False)
        sites[name] = Site(
            name=name,
            kind=kind,
            plates=tuple((f.name, f.dim, f.size) for f in frames),
            shape=tuple(value.shape),
            event_dim=0 if deterministic and frames else len(node["fn"].event_shape),
            discrete=bool(discrete),
            reparametrised=bool(getattr(node["fn"], "has_rsample", False)),
            flat=isinstance(base_of(node["fn"]), dist.ImproperUniform),
        )
    return sites


def with_summed_out(program: Program, names: Iterable[str]) -> Program:
    """Mark the named discrete sites as ones to be summed out in parallel."""
    names = frozenset(names)
    if not names:
        return program

    def settings(site: dict) -> dict | None:
        return {"enumerate": "parallel"} if site["name"] in names else {"enumerate": None}

    return poutine.infer_config(
        program, lambda site: settings(site) if site["type"] == "sample" else {}
    )


def nesting_of(*traces: Trace) -> int:
    """Count the batch dimensions that plates take, as Pyro's ``max_plate_nesting``."""
    dims = [
        -frame.dim
        for trace in traces
        for node in trace.nodes.values()
        if node["type"] == "sample"
        for frame in node["cond_indep_stack"]
        if frame.vectorized
    ]
    return max(dims, default=0)
