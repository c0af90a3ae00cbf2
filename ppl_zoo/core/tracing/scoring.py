"""Log densities of a run of model and guide: in all, by row, discrete sites summed out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from ppl_zoo.core.tracing.sites import Program, is_sample

__all__ = ["Draws", "Scored"]


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

    @property
    def log_weight_rows(self) -> Tensor | None:
        """Log importance weights of each row's local latents, ``(num_draws, num_rows)``.

        None where the rows do not factorise, or no latent is local.
        """
        if self.log_joint_rows is None or self.log_guide_rows is None:
            return None
        return self.log_joint_rows - self.log_guide_rows

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


class Scored:
    """Log densities of one run of model and guide, of ``num`` draws at once or a single one."""

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
                if is_sample(node) and not node["is_observed"]
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
            if is_sample(node):
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

    def factors(
        self, data_plate: str | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Return (log_joint, log_joint_rows, log_guide, log_guide_rows)."""
        log_guide, guide_rows = self._sum(self._terms(self.guide), data_plate)
        if not self.summed:
            log_joint, joint_rows = self._sum(self._terms(self.model), data_plate)
        else:
            log_joint, joint_rows = self._contract(data_plate)
        return log_joint, joint_rows, log_guide, guide_rows

    def _sum(self, terms: Iterable, data_plate: str | None) -> tuple[Tensor, Tensor | None]:
        lead = (1,) if self.num is None else (self.num,)
        total: Any = torch.zeros(lead)
        by_row: Tensor | None = None
        for _, log_prob, frames in terms:
            frame = next((f for f in frames if f.name == data_plate), None)
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

    def _contract(self, data_plate: str | None) -> tuple[Tensor, Tensor | None]:
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
        row = symbols.get(data_plate)
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
