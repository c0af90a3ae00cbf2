"""What a Pyro program did: its sites, and many draws of it at once.

All draws of the zoo go through :func:`draw`. It runs model and guide once under one outer plate
``_draw`` and then holds two of the draws against runs of their own: a program that does not
broadcast (``weights[0]``, ``x @ b``) is noticed and run draw by draw instead of being silently
wrong.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

__all__ = [
    "Draws",
    "Site",
    "broadcasts",
    "describe",
    "draw",
    "predict",
    "trace_program",
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

    @property
    def batch_ndim(self) -> int:
        """Number of batch dimensions of the value."""
        return len(self.shape) - self.event_dim

    def is_local(self, rows: str | None) -> bool:
        """Whether the site lies in the plate over the data."""
        return rows is not None and any(name == rows for name, _, _ in self.plates)


@dataclass
class Draws:
    """Draws of the guide, scored by model and guide.

    ``values`` has ``(num_draws, ...)`` a site; ``log_joint`` and ``log_guide`` are
    ``(num_draws,)``; the ``*_rows`` are ``(num_draws, num_rows)``: the part of each row, so that
    what is left over belongs to global sites. They are None where the rows do not factorise.
    """

    values: dict[str, Tensor]
    log_joint: Tensor
    log_guide: Tensor
    log_joint_rows: Tensor | None
    log_guide_rows: Tensor | None
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)

    @property
    def log_weight(self) -> Tensor:
        """Log importance weight of each draw, ``(num_draws,)``."""
        return self.log_joint - self.log_guide

    @staticmethod
    def stack(parts: Iterable[Draws]) -> Draws:
        """Put draws after one another."""
        parts = list(parts)

        def join(get: Callable[[Draws], Any]) -> Any:
            first = get(parts[0])
            if first is None:
                return None
            if isinstance(first, dict):
                return {k: torch.cat([get(p)[k] for p in parts]) for k in first}
            return torch.cat([get(p) for p in parts])

        names = ("values", "log_joint", "log_guide", "log_joint_rows", "log_guide_rows")
        joined = {name: join(lambda p, name=name: getattr(p, name)) for name in names}
        return Draws(**joined, log_likelihood=join(lambda p: p.log_likelihood))


def trace_program(program: Program, data: tuple) -> Trace:
    """Run a Pyro program once, away from any handler outside, and return its trace."""
    with torch.no_grad(), poutine.block():
        return poutine.trace(program).get_trace(*data)


def _is_sample(site: dict) -> bool:
    return site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"


def describe(trace: Trace) -> dict[str, Site]:
    """Describe the sites of a trace, in the order of the program."""
    sites = {}
    for name, node in trace.nodes.items():
        if not _is_sample(node) or node["infer"].get("is_auxiliary"):
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


def _nesting(*traces: Trace) -> int:
    dims = [
        -frame.dim
        for trace in traces
        for node in trace.nodes.values()
        if node["type"] == "sample"
        for frame in node["cond_indep_stack"]
        if frame.vectorized
    ]
    return max(dims, default=0)


def _fixed(trace: Trace, values: dict[str, Tensor]) -> Trace:
    copy = trace.copy()
    for name, value in values.items():
        copy.nodes[name]["value"] = value
    return copy


class _Scored:
    """One run of model and guide, scored; ``num`` draws at once or a single one."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        data: tuple,
        num: int | None,
        nesting: int,
        replay: Trace | None = None,
    ) -> None:
        self.num, self.nesting = num, nesting
        if num is not None:
            outer = pyro.plate("_draw", num, dim=-1 - nesting)
            model, guide = outer(model), outer(guide)
            nesting += 1
        if replay is not None:
            guide = poutine.replay(guide, trace=replay)
        with torch.no_grad(), poutine.block():
            self.guide = poutine.trace(guide).get_trace(*data)
            names = {
                name
                for name, node in self.guide.nodes.items()
                if _is_sample(node) and not node["is_observed"]
            }

            def left(site: dict) -> dict:
                out = site["type"] == "sample" and not site["is_observed"]
                finite = out and getattr(site["fn"], "has_enumerate_support", False)
                return {"enumerate": "parallel" if finite and site["name"] not in names else None}

            enumerated = poutine.enum(
                poutine.infer_config(model, left), first_available_dim=-1 - nesting
            )
            self.model = poutine.trace(poutine.replay(enumerated, trace=self.guide)).get_trace(
                *data
            )
        self.summed = any(
            node["infer"].get("_enumerate_dim") is not None
            for node in self.model.nodes.values()
            if node["type"] == "sample"
        )
        self.model.compute_log_prob()
        self.guide.compute_log_prob()

    def _terms(self, trace: Trace) -> Iterable[tuple[str, Tensor, tuple]]:
        for name, node in trace.nodes.items():
            if _is_sample(node):
                frames = tuple(f for f in node["cond_indep_stack"] if f.vectorized)
                yield name, node["log_prob"], frames

    def _reduce(self, log_prob: Tensor, frames: tuple, keep: int | None) -> Tensor:
        """Sum a site's log density to ``(num,)`` or ``(num, rows)``; no num for single runs."""
        lead = () if self.num is None else (self.num,)
        total = self.nesting + len(lead)
        log_prob = log_prob.reshape((1,) * (total - log_prob.ndim) + log_prob.shape)
        dims = [d for d in range(-self.nesting, 0) if d != keep]
        if dims:
            log_prob = log_prob.sum(dims)
        return log_prob

    def factors(self, rows: str | None) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Return (log_joint, log_joint_rows, log_guide, log_guide_rows)."""
        log_guide, guide_rows = self._sum(self._terms(self.guide), rows)
        if not self.summed:
            log_joint, joint_rows = self._sum(self._terms(self.model), rows)
        else:
            log_joint, joint_rows = self._contract(rows)
        return log_joint, joint_rows, log_guide, guide_rows

    def _sum(self, terms: Iterable, rows: str | None) -> tuple[Tensor, Tensor | None]:
        lead = (1,) if self.num is None else (self.num,)
        total: Any = torch.zeros(lead)
        by_row: Tensor | None = None
        for _, log_prob, frames in terms:
            frame = next((f for f in frames if f.name == rows), None)
            if frame is None:
                total = total + self._reduce(log_prob, frames, None).reshape(lead)
            else:
                part = self._reduce(log_prob, frames, frame.dim).expand(
                    *(() if self.num is None else lead), frame.size
                )
                part = part.reshape(*lead, frame.size)
                by_row = part if by_row is None else by_row + part
                total = total + part.sum(-1)
        return total.expand(lead), by_row

    def _contract(self, rows: str | None) -> tuple[Tensor, Tensor | None]:
        """Sum the enumerated sites out, keeping the rows apart where they factorise."""
        self.model.pack_tensors()
        self.guide.pack_tensors(self.model.plate_to_symbol)
        marginal, factors, _, sum_dims, _ = _compute_model_factors(self.model, self.guide)
        tree: OrderedDict = OrderedDict()
        for source in (marginal, factors):
            for ordinal, terms in source.items():
                tree.setdefault(ordinal, []).extend(terms)
        symbols = self.model.plate_to_symbol
        lead = (1,) if self.num is None else (self.num,)
        base = frozenset() if self.num is None else frozenset({symbols["_draw"]})
        row = symbols.get(rows)
        by_row = None
        if row is not None:
            local = OrderedDict((o, t) for o, t in tree.items() if row in o)
            rest = OrderedDict((o, t) for o, t in tree.items() if row not in o)
            shared = {d for terms in rest.values() for t in terms for d in t._pyro_dims}
            crossing = any(
                d in sum_dims and d in shared
                for ts in local.values()
                for t in ts
                for d in t._pyro_dims
            )
            if not crossing and local:
                target = base | {row}
                result = contract_to_tensor(local, set(sum_dims), target_ordinal=target)
                order = (symbols["_draw"], row) if self.num is not None else (row,)
                by_row = _align(result, order).reshape(*lead, -1)
                tree = rest
        total: Any = torch.zeros(lead)
        if tree:
            result = contract_to_tensor(tree, set(sum_dims), target_ordinal=base)
            total = total + _align(result, tuple(base)).reshape(lead)
        if by_row is not None:
            total = total + by_row.sum(-1)
        return total.expand(lead), by_row


def _align(tensor: Tensor, order: tuple[str, ...]) -> Tensor:
    return tensor.permute([tensor._pyro_dims.index(symbol) for symbol in order])


@torch.no_grad()
def draw(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    rows: str | None = None,
    max_elements: int = 2**25,
    latents: dict[str, Tensor] | None = None,
) -> Draws:
    """Draw the latents from the guide and score them by model and guide.

    Parameters
    ----------
    model, guide
        Pyro programs of the same arguments. Finite discrete sites of the model that the guide
        does not draw are summed out.
    data
        Arguments of both.
    num_draws
        Number of independent draws.
    rows
        Name of the plate over the data, if there is one.
    max_elements
        Bound on ``draws x numbers a draw`` held at once; more draws are made in parts.
    latents
        Draws to score instead of the guide's, ``{site: (num_draws, ...)}``; the guide then
        counts as 0.

    Returns
    -------
    Draws
    """
    given = None
    if latents is not None:
        given = _Given(latents, describe(trace_program(model, data)))
        guide = given.program(0)
    first_guide = trace_program(guide, data)
    first_model = trace_program(poutine.replay(model, trace=first_guide), data)
    nesting = _nesting(first_model, first_guide)
    sites = describe(first_model)
    per_draw = sum(max(1, torch.Size(site.shape).numel()) for site in sites.values()) + 1
    block = max(2, min(num_draws, max_elements // per_draw))
    parts, left, vectorised = [], num_draws, num_draws > 1
    while left:
        count = min(block, left)
        part, start = None, num_draws - left
        if vectorised:
            many = given.program(slice(start, start + count), nesting) if given else guide
            part = _block(model, many, guide, data, count, nesting, sites, first_guide, rows)
            vectorised = part is not None
        if part is None:
            ones = (given.program(start + i) if given else guide for i in range(count))
            part = Draws.stack(_single(model, one, data, nesting, sites, rows) for one in ones)
        parts.append(part)
        left -= count
    return Draws.stack(parts)


def _collect(run: _Scored, sites: dict[str, Site], rows: str | None) -> Draws | None:
    """Read a run into draws; None where a value has not the shape of ``num`` single ones."""
    lead = (1,) if run.num is None else (run.num,)
    values, likelihood = {}, {}
    for name, site in sites.items():
        node = run.model.nodes.get(name)
        if node is None:
            return None
        if node["infer"].get("_enumerate_dim") is not None:
            continue
        if site.kind == "observed":
            if not run.summed:
                kept = tuple(size for _, _, size in site.plates)
                log_prob = node["log_prob"]
                if log_prob.numel() == lead[0] * torch.Size(kept).numel():
                    likelihood[name] = log_prob.reshape(lead + kept)
            continue
        value = torch.as_tensor(node["value"])
        if value.numel() != lead[0] * torch.Size(site.shape).numel():
            if site.kind == "deterministic" and value.numel() == torch.Size(site.shape).numel():
                value = value.reshape(site.shape).expand(lead + site.shape)
            else:
                return None
        values[name] = value.reshape(lead + site.shape)
    log_joint, joint_rows, log_guide, guide_rows = run.factors(rows)
    if log_joint.shape != lead or log_guide.shape != lead:
        return None
    return Draws(values, log_joint, log_guide, joint_rows, guide_rows, likelihood)


def _single(
    model: Program,
    guide: Program,
    data: tuple,
    nesting: int,
    sites: dict[str, Site],
    rows: str | None,
    replay: Trace | None = None,
) -> Draws:
    result = _collect(_Scored(model, guide, data, None, nesting, replay), sites, rows)
    if result is None:
        raise ValueError("the model's sites change their shapes from one run to the next")
    return result


def _block(
    model: Program,
    guide: Program,
    guide_of_one: Program,
    data: tuple,
    count: int,
    nesting: int,
    sites: dict[str, Site],
    first_guide: Trace,
    rows: str | None,
) -> Draws | None:
    """Draw ``count`` at once; None where the program does not broadcast over draws."""
    try:
        run = _Scored(model, guide, data, count, nesting)
        draws = _collect(run, sites, rows)
        if draws is None:
            return None
        for index in {0, count - 1}:
            fixed = {}
            for name, node in run.guide.nodes.items():
                if _is_sample(node) and not node["is_observed"]:
                    shape = first_guide.nodes[name]["value"].shape
                    fixed[name] = node["value"].reshape(count, *shape)[index]
            alone = _single(
                model, guide_of_one, data, nesting, sites, rows, _fixed(first_guide, fixed)
            )
            for together, single in (
                (draws.log_joint[index], alone.log_joint[0]),
                (draws.log_guide[index], alone.log_guide[0]),
            ):
                if not torch.allclose(together, single, rtol=1e-3, atol=1e-3, equal_nan=True):
                    return None
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None  # a program that does not broadcast; each draw then runs by itself
    return draws


@torch.no_grad()
def broadcasts(model: Program, guide: Program, data: tuple, rows: str | None = None) -> bool:
    """Tell whether many draws at once score as each of them does alone."""
    first_guide = trace_program(guide, data)
    first_model = trace_program(poutine.replay(model, trace=first_guide), data)
    nesting, sites = _nesting(first_model, first_guide), describe(first_model)
    block = _block(model, guide, guide, data, 3, nesting, sites, first_guide, rows)
    return block is not None


class _Given:
    """Draws that are there already, handed out as a guide would draw them."""

    def __init__(self, latents: dict[str, Tensor], sites: dict[str, Site]) -> None:
        self.latents, self.sites = latents, sites

    def values(self, index: int | slice, nesting: int = 0) -> dict[str, Tensor]:
        """Read one draw, or several with the dimension of ``_draw`` left of all plates."""
        out = {}
        for name, value in self.latents.items():
            chosen = value[index]
            if isinstance(index, slice):
                ones = (1,) * (nesting - self.sites[name].batch_ndim)
                chosen = chosen.reshape(chosen.shape[:1] + ones + chosen.shape[1:])
            out[name] = chosen
        return out

    def program(self, index: int | slice, nesting: int = 0) -> Program:
        """Make a guide that returns these draws, of log density 0."""
        values = self.values(index, nesting)

        def guide(*data: Any) -> None:
            plates: dict[str, pyro.plate] = {}
            for name, value in values.items():
                with contextlib.ExitStack() as stack:
                    for plate, dim, size in self.sites[name].plates:
                        if plate not in plates:
                            plates[plate] = pyro.plate(plate, size, dim=dim)
                        stack.enter_context(plates[plate])
                    point = dist.Delta(value, event_dim=self.sites[name].event_dim)
                    pyro.sample(name, point.mask(False))

        return guide


class _Unobserve(Messenger):
    """Draw observed sites anew; deterministic sites and factors stay as they are."""

    def _pyro_sample(self, msg: dict) -> None:
        kept = msg["infer"].get("_deterministic") or isinstance(msg["fn"], dist.Unit)
        if msg["is_observed"] and not kept:
            msg["infer"] = {**msg["infer"], "_drawn_anew": True}
            msg.update(is_observed=False, value=None, done=False)


@torch.no_grad()
def predict(
    model: Program,
    guide: Program,
    data: tuple,
    num_draws: int,
    rows: str | None = None,
    keep_local: bool = False,
    max_elements: int = 2**25,
    latents: dict[str, Tensor] | None = None,
    fixed: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Draw the observed sites anew, one draw of the global latents each.

    Parameters
    ----------
    model, guide, data, num_draws, rows, max_elements
        As for :func:`draw`.
    keep_local
        Whether latents of single rows come from the guide as well (replicates of the same rows)
        or from the model (new rows).
    latents
        Draws to condition on instead of the guide's, ``{site: (num_draws, ...)}``; sites that
        are not among them come from the model.
    fixed
        Values to hold fixed in all draws, ``{site: value}``.

    Returns
    -------
    dict
        ``{site: (num_draws, ...)}`` of the observed and deterministic sites.
    """
    held = dict(fixed or {})

    def run(num: int | None, latents: dict[str, Tensor] | None = None) -> Trace:
        free, proposal = _Unobserve()(model), guide
        if num is not None:
            outer = pyro.plate("_draw", num, dim=-1 - nesting)
            free, proposal = outer(free), outer(guide)
        with torch.no_grad(), poutine.block():
            if latents is None:
                drawn = poutine.trace(proposal).get_trace(*data)
                latents = {
                    name: node["value"]
                    for name, node in drawn.nodes.items()
                    if _is_sample(node)
                    and (keep_local or all(f.name != rows for f in node["cond_indep_stack"]))
                }
            known = poutine.condition(free, data=latents | held)
            return poutine.trace(known).get_trace(*data)

    def read(trace: Trace) -> dict[str, Tensor]:
        return {
            name: torch.as_tensor(node["value"])
            for name, node in trace.nodes.items()
            if _is_sample(node) and not isinstance(node["fn"], dist.Unit)
        }

    nesting = 0
    given = None
    if latents is not None:
        given = _Given(latents, describe(trace_program(model, data)))
    first = run(None, given.values(0) if given else None)
    nesting = _nesting(first)
    shapes = {name: tuple(v.shape) for name, v in read(first).items()}
    wanted = [
        name
        for name, node in first.nodes.items()
        if _is_sample(node)
        and (node["infer"].get("_drawn_anew") or node["infer"].get("_deterministic"))
    ]

    def at_once(num: int, start: int) -> dict[str, Tensor] | None:
        try:
            chosen = slice(start, start + num)
            trace = run(num, given.values(chosen, nesting) if given else None)
            values = read(trace)
            out = {}
            for name, value in values.items():
                if value.numel() == num * torch.Size(shapes[name]).numel():
                    out[name] = value.reshape(num, *shapes[name])
                elif value.numel() == torch.Size(shapes[name]).numel():
                    out[name] = value.reshape(shapes[name]).expand(num, *shapes[name])
                else:
                    return None
            trace.compute_log_prob()
            together = sum(
                node["log_prob"].reshape(num, -1).sum(-1)
                for node in trace.nodes.values()
                if _is_sample(node) and node["log_prob"].numel() % num == 0
            )
            for index in {0, num - 1}:
                latents = {k: v[index] for k, v in out.items()}
                with torch.no_grad(), poutine.block():
                    alone = poutine.trace(poutine.condition(model, data=latents)).get_trace(*data)
                if not torch.allclose(alone.log_prob_sum(), together[index], 1e-3, 1e-3):
                    return None
            return out
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError):
            return None  # does not broadcast over draws; they run one by one

    per_draw = sum(torch.Size(shape).numel() for shape in shapes.values()) + 1
    block = max(2, min(num_draws, max_elements // per_draw))
    parts, left, vectorised = [], num_draws, num_draws > 1
    while left:
        count = min(block, left)
        start = num_draws - left
        part = at_once(count, start) if vectorised else None
        if part is None:
            vectorised = False
            singles = [
                read(run(None, given.values(start + i) if given else None)) for i in range(count)
            ]
            part = {k: torch.stack([s[k] for s in singles]) for k in singles[0]}
        parts.append({k: part[k] for k in wanted})
        left -= count
    return {k: torch.cat([p[k] for p in parts]) for k in wanted}
