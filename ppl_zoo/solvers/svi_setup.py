"""A chain of SVI as it is set up: model, guide, bound, optimizer and stopping rules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError
from ppl_zoo.model import Model
from ppl_zoo.solvers.alternation import Alternation
from ppl_zoo.solvers.elbos import make_elbo
from ppl_zoo.solvers.guides import copy_guide, make_pair
from ppl_zoo.solvers.solution import Solution, chain_seed, set_seed
from ppl_zoo.solvers.stopping import Plateau
from ppl_zoo.solvers.svi_chain import SVIChain
from ppl_zoo.solvers.validation import Watch

__all__ = ["make_chain"]


def make_chain(
    options: Any,
    model: Model,
    rows: Rows,
    seed: int,
    index: int,
    resume: Solution | None,
    valid: Rows | None,
) -> SVIChain:
    """Set one chain up, its model at its start."""
    set_seed(chain_seed(seed, index), rows.device)
    own = model if index == 0 else model.fresh()
    if resume is None and options.initialize:
        with torch.no_grad():
            own.initialize(rows)
    elif index > 0:
        own.load_state_dict(model.state_dict())
    given = options.guide
    guide = copy_guide(given) if index > 0 and not isinstance(given, (str, type)) else given
    pair = make_pair(own, guide, rows, options.batch_size, index)
    chain = SVIChain(
        index,
        own,
        pair.guide,
        pair=pair,
        elbo=make_elbo(options.elbo, pair, options.num_particles),
    )
    modules = [m for m in (own, pair.guide) if isinstance(m, nn.Module)]
    unique = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
    chain.parameters = list(unique.values())
    if not chain.parameters:
        raise ConvergenceError(f"{type(model).__name__} and its guide have no parameter to fit")
    chain.precision = options.precision
    chain.optimizer = _make_optimizer(options, chain.parameters)
    if options.schedule == "cosine":
        chain.schedule = CosineAnnealingLR(chain.optimizer, options.steps)
    elif callable(options.schedule):
        chain.schedule = options.schedule(chain.optimizer)
    chain.plateau = Plateau(
        options.window or 0, options.tol, options.parameter_tol, decay=options.schedule is None
    )
    if options.alternate is not None:
        shown = rows.head(options.batch_size or len(rows))
        chain.alternation = Alternation.of(options.alternate, pair, chain.parameters, shown)
    if options.average is not None or valid is not None:
        every = options.validate_every or math.ceil(len(rows) / (options.batch_size or len(rows)))
        chain.watch = Watch(
            chain, valid, options.patience, every, options.average, seed, len(rows)
        )
    if resume is not None:
        chain.restore(resume)
    return chain


def _make_optimizer(options: Any, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if isinstance(options.optimizer, type):
        return options.optimizer(parameters, lr=options.learning_rate)
    return options.optimizer(parameters)
