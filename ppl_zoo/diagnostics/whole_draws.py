"""The draws of a fit that cannot be read by chosen rows alone: every draw is of all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.diagnostics.dims import even, has_plate, plate_axis
from ppl_zoo.diagnostics.khat import khat
from ppl_zoo.diagnostics.records import BLOCK, KHAT_DRAWS, ChainRecord
from ppl_zoo.diagnostics.row_scores import likelihood, marginal, prior_of_rows
from ppl_zoo.tracing import Draws, Site, draw, predict

__all__ = ["read_whole"]


def read_whole(reader: Any, chain: int) -> ChainRecord:
    """Draws of everything, scored on all rows; parts of a few rows are kept."""
    model, data, plate = reader.model, reader.rows.all(), reader.plate
    given = reader.fit.solution.draws
    if given is not None:
        latents = {k: v[chain] for k, v in given.items() if reader.is_latent(k)}
        available = len(next(iter(latents.values())))
        picked = torch.from_numpy(even(available, reader.num)).to(model.device)
        latents = {k: v.to(model.device)[picked] for k, v in latents.items()}
        total = keep = len(picked)
    else:
        latents, keep = None, reader.num
        # k-hat needs more draws than a plot; single rows' k-hat comes from the rows' own
        total = max(keep, KHAT_DRAWS) if reader.has_global else keep
    sites = model.sites(*data)
    observed = [s for s in sites.values() if s.kind == "observed"]
    numbers = sum(torch.Size(s.shape).numel() for s in sites.values())
    block = max(2, min(total, 16 * BLOCK // (numbers + 1)))
    out, weights = ChainRecord(), []
    replayed = even(keep, reader.num_replicates)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, total, block):
        count = min(block, total - start)
        part = None
        if latents is not None:
            part = {k: v[start : start + count] for k, v in latents.items()}
        state = torch.get_rng_state()
        drawn = draw(model, reader.guide, data, count, plate, BLOCK, part)
        weights.append(drawn.log_weight)
        kept = min(count, keep - start)
        if kept <= 0:
            continue
        score = None
        if reader.has_global:
            prior = None
            if reader.summed and reader.local:
                after = torch.get_rng_state()
                torch.set_rng_state(state)  # the same draws once more
                prior = prior_of_rows(reader, data, count, part)
                torch.set_rng_state(after)
            score = likelihood(reader, drawn, observed, prior)
        parts.append(_cut(reader, drawn, score, sites, kept, start, replayed, given is None))
    joined = {k: torch.cat([p[k] for p in parts if k in p]) for k in parts[0]}
    for name, value in joined.items():
        kind, name = name.split(":", 1)
        if kind == "replay":
            continue
        getattr(out, kind)[name] = value
    replay = {k.split(":", 1)[1]: v for k, v in joined.items() if k.startswith("replay:")}
    new = predict(
        model, reader.guide, reader.at(reader.shown), len(replayed), plate, True, BLOCK, replay
    )
    out.replicates = reader.observed(new)
    if given is not None:
        stats = reader.fit.solution.sample_stats.items()
        chosen = picked.cpu().numpy()
        out.stats |= {k: torch.from_numpy(v[chain][chosen]) for k, v in stats}
    if given is None and reader.has_global:
        out.khat = khat(torch.cat(weights))
    if not reader.has_global:
        out.log_likelihood = marginal(reader)
    return out


def _cut(
    reader: Any,
    drawn: Draws,
    score: dict[str, Tensor] | None,
    sites: dict[str, Site],
    kept: int,
    start: int,
    replayed: np.ndarray,
    scored: bool,
) -> dict[str, Tensor]:
    """Keep what the groups need of one block of draws."""
    out = {"stats:lp": drawn.log_joint[:kept]}
    if scored:
        out["stats:log_q"] = drawn.log_guide[:kept]
        out["stats:log_weight"] = drawn.log_weight[:kept]
    here = replayed[(replayed >= start) & (replayed < start + kept)] - start
    pick = torch.from_numpy(here).to(drawn.log_joint.device)
    for name, value in drawn.values.items():
        site = sites[name]
        out[f"posterior:{name}"] = _rows_of(reader, value[:kept], site, reader.chosen)
        if site.kind == "latent":
            out[f"replay:{name}"] = _rows_of(reader, value[pick], site, reader.shown)
    for name, value in (score or {}).items():
        out[f"log_likelihood:{name}"] = value[:kept]
    return out


def _rows_of(reader: Any, value: Tensor, site: Site, index: np.ndarray) -> Tensor:
    if not has_plate(site, reader.plate):
        return value
    rows = torch.from_numpy(index).to(value.device)
    return value.index_select(1 + plate_axis(site, reader.plate), rows)
