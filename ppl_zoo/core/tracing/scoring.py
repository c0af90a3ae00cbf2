"""Log densities of a run of model and guide: in all, by row, discrete sites summed out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

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
    ``log_likelihood`` has the log density of each observation by site, ``log_prior`` that of each
    latent site given the latents before it, ``(num_draws,)``; both are empty where a discrete
    latent is summed out.
    """

    values: dict[str, Tensor]
    log_joint: Tensor
    log_guide: Tensor
    log_joint_rows: Tensor | None
    log_guide_rows: Tensor | None
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    log_prior: dict[str, Tensor] = field(default_factory=dict)

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


class Scored:
    """Log densities of one run of model and guide.

    Parameters
    ----------
    model, guide, data
        The programs and their arguments; finite discrete sites that the guide does not draw are
        summed out.
    nesting
        Batch dimensions of the sites.
    """

    def __init__(self, model: Program, guide: Program, data: tuple, nesting: int) -> None:
        self.nesting = nesting
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
            replayed = poutine.replay(enumerated, trace=self.guide)
            self.model = poutine.trace(replayed).get_trace(*data)
        self.summed = any(
            node["infer"].get("_enumerate_dim") is not None
            for node in self.model.nodes.values()
            if node["type"] == "sample"
        )
        self.model.compute_log_prob()
        self.guide.compute_log_prob()

    def factors(
        self, data_plate: str | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Return (log_joint, log_joint_rows, log_guide, log_guide_rows)."""
        log_guide, guide_rows = self._sum(self.guide, data_plate)
        if not self.summed:
            log_joint, joint_rows = self._sum(self.model, data_plate)
        else:
            log_joint, joint_rows = self._contract(data_plate)
        return log_joint, joint_rows, log_guide, guide_rows

    def _sum(self, trace: Trace, data_plate: str | None) -> tuple[Tensor, Tensor | None]:
        total: Any = torch.zeros(())
        by_row: Tensor | None = None
        for node in trace.nodes.values():
            if not is_sample(node):
                continue
            log_prob = node["log_prob"]
            frames = (f for f in node["cond_indep_stack"] if f.vectorized)
            frame = next((f for f in frames if f.name == data_plate), None)
            if frame is None:
                total = total + log_prob.sum()
                continue
            log_prob = log_prob.reshape((1,) * (-frame.dim - log_prob.ndim) + log_prob.shape)
            others = [d for d in range(-log_prob.ndim, 0) if d != frame.dim]
            part = log_prob.sum(others) if others else log_prob
            part = part.expand(frame.size)
            by_row = part if by_row is None else by_row + part
            total = total + part.sum()
        return total, by_row

    def _contract(self, data_plate: str | None) -> tuple[Tensor, Tensor | None]:
        """Sum the enumerated sites out, keeping the rows apart where they factorise."""
        self.model.pack_tensors()
        self.guide.pack_tensors(self.model.plate_to_symbol)
        marginal, factors, _, sum_dims, _ = _compute_model_factors(self.model, self.guide)
        tree: OrderedDict = OrderedDict()
        for source in (marginal, factors):
            for ordinal, terms in source.items():
                tree.setdefault(ordinal, []).extend(terms)
        row = self.model.plate_to_symbol.get(data_plate)
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
                result = contract_to_tensor(local, set(sum_dims), target_ordinal=frozenset({row}))
                by_row = result.reshape(-1)
                tree = rest
        total: Any = torch.zeros(())
        if tree:
            result = contract_to_tensor(tree, set(sum_dims), target_ordinal=frozenset())
            total = total + result.reshape(())
        if by_row is not None:
            total = total + by_row.sum()
        return total, by_row
