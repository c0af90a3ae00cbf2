"""The draws of a fit whose rows stand alone: latents of chosen rows, or their representation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.diagnostics.dims import even
from ppl_zoo.diagnostics.khat import khat
from ppl_zoo.diagnostics.records import BLOCK, KHAT_DRAWS, ChainRecord
from ppl_zoo.diagnostics.row_scores import marginal
from ppl_zoo.errors import QueryError
from ppl_zoo.tracing import draw, predict

__all__ = ["read_bare", "read_local"]

#: widest representation that is kept of a row
MAX_WIDTH = 16


def read_local(reader: Any) -> ChainRecord:
    """Latents of chosen rows only: rows are independent given the parameters."""
    model, plate = reader.model, reader.plate
    drawn = draw(model, reader.guide, reader.at(reader.chosen), reader.num, plate, BLOCK)
    out = ChainRecord(posterior=drawn.values, log_likelihood=marginal(reader))
    out.stats = {
        "lp": drawn.log_joint,
        "log_q": drawn.log_guide,
        "log_weight": drawn.log_weight,
    }
    if model.queries["log_prob"] != "exact":
        # rows are separate problems, so the largest of their k-hats
        more = draw(model, reader.guide, reader.at(reader.chosen), KHAT_DRAWS, plate, BLOCK)
        if more.log_joint_rows is not None and more.log_guide_rows is not None:
            by_row = more.log_joint_rows - more.log_guide_rows
            values = [khat(w) for w in by_row.unbind(-1)]
            out.khat = max(values, key=lambda v: -np.inf if np.isnan(v) else v)
    shown = reader.at(reader.shown)
    new = predict(model, reader.guide, shown, reader.num_replicates, plate, True, BLOCK)
    out.replicates = reader.observed(new)
    return out


def read_bare(reader: Any) -> ChainRecord:
    """Nothing is drawn: the representation of chosen rows, and new rows of the model."""
    out = ChainRecord(log_likelihood=marginal(reader))
    code = _representation(reader)
    out.posterior = {k: v.expand(reader.num, *v.shape) for k, v in code.items()}
    if out.log_likelihood:
        total = next(iter(out.log_likelihood.values())).sum(-1)
        out.stats = {"lp": total, "log_q": torch.zeros_like(total), "log_weight": total}
    out.replicates = _new_rows(reader, reader.num_replicates)
    return out


def _representation(reader: Any) -> dict[str, Tensor]:
    data = reader.at(reader.chosen)
    try:
        code = reader.model.encode(*data)
    except (QueryError, TypeError):
        return {"log_density": reader.model.log_prob(*data)}
    codes = code if isinstance(code, dict) else {"representation": code}
    out = {}
    for name, value in codes.items():
        flat = value.reshape(len(value), -1)
        columns = torch.from_numpy(even(flat.shape[1], MAX_WIDTH)).to(flat.device)
        out[name] = flat[:, columns] if value.ndim > 1 else value
    return out


def _new_rows(reader: Any, num: int) -> dict[str, Tensor]:
    model, shown = reader.model, reader.at(reader.shown)
    names = [s.name for s in reader.sites.values() if s.kind == "observed"]
    # a model whose sites together make one array says so by sample(): only the program can
    # tell which is which
    if len(reader.rows.arrays) == 1 and len(names) == 1 and model.queries["sample"] == "exact":
        new = model.sample(num * len(reader.shown))
        values = new if isinstance(new, dict) else {names[0]: new}
        return {k: v.reshape(num, len(reader.shown), *v.shape[1:]) for k, v in values.items()}
    new = predict(model, reader.guide, shown, num, reader.plate, True, BLOCK)
    return reader.observed(new)
