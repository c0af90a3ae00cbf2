"""Guides: the family that q is taken from."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.flows import Flow, make_flow
from ppl_zoo.core.functions import FunctionModel, FunctionProgram
from ppl_zoo.core.model import Model, no_latents
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import Site, describe, trace_program, with_summed_out

__all__ = ["GUIDES", "AutoFlow", "Pair", "make_pair"]


# ---- A guide that bends: a normalising flow over all continuous latents at once.


class AutoFlow(autoguide.AutoContinuous):
    """A flow of coupling layers, scaled and shifted, over the unconstrained latents.

    It has no shape of its own: curved and skewed posteriors are within its reach, for more steps
    than a normal takes. Needs two latents or more, and zuko (the extra ``flows``).

    Parameters
    ----------
    model
        The program.
    init_loc_fn
        As for every autoguide of Pyro.
    num_transforms, hidden
        Coupling layers, and the widths of their nets.

    References
    ----------
    Rezende & Mohamed 2015, Variational inference with normalizing flows,
    https://arxiv.org/abs/1505.05770. Dinh, Sohl-Dickstein & Bengio 2017, Density estimation
    using Real NVP, https://arxiv.org/abs/1605.08803.
    """

    def __init__(
        self,
        model: Any,
        init_loc_fn: Any = autoguide.init_to_feasible,
        num_transforms: int = 4,
        hidden: tuple = (32, 32),
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._options = {"num_transforms": num_transforms, "hidden": hidden}

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.loc = nn.Parameter(self._init_loc())
        self.log_scale = nn.Parameter(torch.full_like(self.loc, -2.0))
        # two passes: as fast to draw from as to score
        self.flow = make_flow(self.latent_dim, passes=2, **self._options).to(self.loc)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Flow:
        """Return the distribution of the unconstrained vector."""
        return Flow(self.flow(), loc=self.loc, scale=self.log_scale.exp())

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a flow has no median in closed form; take draws")


#: guides by name; any other autoguide class of Pyro can be given itself
GUIDES: dict[str, type[autoguide.AutoGuide]] = {
    "normal": autoguide.AutoNormal,
    "multivariate-normal": autoguide.AutoMultivariateNormal,
    "low-rank": autoguide.AutoLowRankMultivariateNormal,
    "delta": autoguide.AutoDelta,
    "flow": AutoFlow,
}


@dataclass
class Pair:
    """A model and its guide as Pyro programs, ready for an ELBO."""

    model: Callable[..., Any]
    guide: Any
    sites: dict[str, Site]
    summed_out: tuple[str, ...]
    nesting: int
    score_function: bool


def _is_autoguide_maker(spec: Any) -> bool:
    target = spec.func if isinstance(spec, functools.partial) else spec
    return inspect.isclass(target) and issubclass(target, autoguide.AutoGuide)


def make_pair(model: Model, spec: Any, rows: Rows, batch_size: int | None, chain: int = 0) -> Pair:
    """Build the guide for a model.

    Parameters
    ----------
    model
        The model.
    spec
        None for the model's own guide or else a mean-field normal; a name of :data:`GUIDES`; an
        autoguide class (perhaps ``functools.partial`` with options); or a guide program with
        the model's arguments.
    rows
        The data; autoguides run the model on them once.
    batch_size
        Rows in a minibatch, None for all.
    chain
        The first chain's autoguide starts in the middle (0 on the unconstrained scale), others
        at random within 2 of it.

    Raises
    ------
    DataError
        If an autoguide would need parameters for rows that a minibatch does not show.
    """
    small = batch_size is not None and batch_size < len(rows)
    setup = rows.head(batch_size) if small else rows.all()
    trace = trace_program(model, setup)
    sites = describe(trace)
    latent = [s for s in sites.values() if s.kind == "latent"]
    discrete = tuple(s.name for s in latent if s.discrete)
    continuous = [s for s in latent if not s.discrete]
    own = spec is None and model.guide is not None

    if own:
        guide = model.guide
    elif not continuous and (spec is None or isinstance(spec, str) or _is_autoguide_maker(spec)):
        guide = no_latents
    else:
        spec = _by_name("normal" if spec is None else spec, chain)
        if _is_autoguide_maker(spec):
            local = [s.name for s in continuous if s.is_local(model.data_plate)]
            if small and local:
                raise DataError(
                    f"{type(model).__name__}: got batch_size={batch_size} with the latents "
                    f"{local} of single rows, expected an amortised guide for them "
                    "(write a method guide), or batch_size=None"
                )
            guide = spec(poutine.block(model, hide=list(discrete)))
        else:
            guide = spec if isinstance(spec, nn.Module) else FunctionProgram(spec)
    if small and isinstance(model, FunctionModel):
        raise DataError(
            f"got batch_size={batch_size} for a plain function, expected a zoo.Model whose plate "
            "over the data is self.observations(name, x), which scales a minibatch"
        )
    if isinstance(guide, nn.Module):
        with torch.no_grad(), poutine.block():
            guide(*setup)  # autoguides make their parameters at their first run
        guide.to(rows.device)
    drawn = {s.name: s for s in describe(trace_program(guide, setup)).values()}
    summed_out = discrete
    if not own and spec is not None and not _is_autoguide_maker(spec):
        summed_out = tuple(name for name in discrete if name not in drawn)
    program = with_summed_out(model, summed_out)
    hidden = [name for name in summed_out if name in drawn]
    shown = poutine.block(guide, hide=hidden) if hidden else guide
    if hidden and isinstance(guide, nn.Module):
        raise DataError(f"the guide draws {hidden}, which the solver sums out; leave them out")
    plates = [-dim for s in sites.values() for _, dim, _ in s.plates]
    return Pair(
        model=program,
        guide=shown if hidden else guide,
        sites=sites,
        summed_out=summed_out,
        nesting=max(plates, default=0),
        score_function=any(
            not s.reparametrised and s.kind == "latent" and s.name not in summed_out
            for s in drawn.values()
        ),
    )


def _by_name(spec: Any, chain: int) -> Any:
    if not isinstance(spec, str):
        return spec
    if spec not in GUIDES:
        raise ValueError(f"guide: got {spec!r}, expected one of {sorted(GUIDES)} or a program")
    start = autoguide.init_to_feasible if chain == 0 else autoguide.init_to_uniform
    return functools.partial(GUIDES[spec], init_loc_fn=start)


def copy_guide(guide: Any) -> Any:
    """Copy a guide program for another chain."""
    if isinstance(guide, autoguide.AutoGuide):
        raise ValueError(
            "restarts: got one autoguide object for several chains, expected its class "
            "(functools.partial for options), so that every chain has its own"
        )
    return copy.deepcopy(guide) if isinstance(guide, nn.Module) else guide
