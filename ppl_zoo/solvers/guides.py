"""Guides: Pyro's autoguides by name, a normalising flow, and model and guide as a pair."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.nn.module import _Context
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.flows import Flow, make_flow
from ppl_zoo.core.functions import FunctionModel, GuideProgram, module_of
from ppl_zoo.core.model import Model, no_latents
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.parameters import isolated_store
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.skewed_normal import SkewedComponent, SkewedNormal
from ppl_zoo.core.tracing import Site, describe, first_run, trace_program, with_summed_out
from ppl_zoo.core.tracing.sites import Program, feasible_point
from ppl_zoo.core.tracing.validation import refuse_outside_support, validate_names
from ppl_zoo.solvers.unconstrained import Forward, OtherRowsError, location_scale_sites

__all__ = [
    "GUIDES",
    "AutoFlow",
    "AutoNonCentredNormal",
    "AutoSkewedNormal",
    "GuideSpec",
    "Pair",
    "copy_guide",
    "make_pair",
]

#: a guide as the user gives it: a name, an autoguide class, a program, or None for the default
GuideSpec = str | Callable[..., Any] | None


class AutoFlow(autoguide.AutoContinuous):
    """Normalising-flow autoguide: coupling layers over all continuous latents at once.

    The flow is scaled and shifted, over the unconstrained latents. It approximates curved and
    skewed posteriors, which takes more steps than a normal does. Needs two latents or more, and
    zuko (the extra ``flows``).

    Parameters
    ----------
    model
        The program.
    init_loc_fn
        As for every autoguide of Pyro.
    num_transforms, hidden
        Number of coupling layers, and hidden widths of their nets.

    References
    ----------
    Rezende & Mohamed 2015, Variational inference with normalizing flows,
    https://arxiv.org/abs/1505.05770. Dinh, Sohl-Dickstein & Bengio 2017, Density estimation
    using Real NVP, https://arxiv.org/abs/1605.08803.
    """

    def __init__(
        self,
        model: Program,
        init_loc_fn: Callable[..., Any] = autoguide.init_to_feasible,
        num_transforms: int = 4,
        hidden: Sequence[int] = (32, 32),
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._options = {"num_transforms": num_transforms, "hidden": hidden}

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.loc = nn.Parameter(self._init_loc())
        self.log_scale = nn.Parameter(torch.full_like(self.loc, -2.0))
        # coupling layers: as fast to sample from as to evaluate
        self.flow = make_flow(self.latent_dim, passes=2, **self._options).to(self.loc)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Flow:
        """Return the distribution of the unconstrained vector."""
        return Flow(self.flow(), loc=self.loc, scale=self.log_scale.exp())

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a flow has no median in closed form; take draws")


class _FollowsModel(autoguide.AutoContinuous):
    """Autoguide that runs the model to place its latents: centrings, supports that vary."""

    def __init__(self, model: Program, **options: Any) -> None:
        super().__init__(model, **options)
        self._program = (model,)  # ``self.model`` draws a start of every latent; no part of this

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self._rows = (args, kwargs)  # which its latents of single rows belong to
        self.places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        start = 0
        for name, _ in self.prototype_trace.iter_stochastic_nodes():
            shape = tuple(self._unconstrained_shapes[name])
            self.places[name] = (start, start + torch.Size(shape).numel(), shape)
            start = self.places[name][1]
        with torch.enable_grad(), poutine.block():
            at = Forward(self._init_loc().clone().requires_grad_(), self.places)
            trace = poutine.trace(at(self._program[0])).get_trace(*args, **kwargs)
        self.recentred = location_scale_sites(trace, self.places)[0]
        self.register_buffer("centring", torch.ones(len(self.recentred)).to(self._init_loc()))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw the latents; ``{site: value}``."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        latent = self.sample_latent(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        try:
            forward, nodes = self._placed(latent, *args, **kwargs)
        except OtherRowsError:  # a prediction of new rows, which takes what all rows share alone
            own, options = self._rows
            forward, nodes = self._placed(latent, *own, **options)
        result = {}
        for name in self.places:
            point = dist.Delta(
                nodes[name]["value"],
                log_density=-forward.log_dets[name],
                event_dim=nodes[name]["fn"].event_dim,
            )
            with contextlib.ExitStack() as stack:
                for frame in self._cond_indep_stacks[name]:
                    stack.enter_context(plates[frame.name])
                result[name] = pyro.sample(name, point)
        return result

    def _placed(self, latent: Tensor, *args: Any, **kwargs: Any) -> tuple[Forward, Any]:
        """Run the model with the latents at a vector; return its sites."""
        forward = Forward(
            latent, self.places, dict(zip(self.recentred, self.centring, strict=True))
        )
        with poutine.block():
            return forward, poutine.trace(forward(self._program[0])).get_trace(
                *args, **kwargs
            ).nodes


class AutoNonCentredNormal(_FollowsModel, autoguide.AutoMultivariateNormal):
    """Full-rank normal autoguide that chooses how far a hierarchy is centred.

    A latent whose location or scale is latent as well may be written centred,
    ``x ~ Normal(m, s)``, or non-centred, ``x = m + s z``: where the data say little of it, a
    normal fits the latter only. Supports that depend on other latents are followed.

    References
    ----------
    Papaspiliopoulos, Roberts & Skold 2007, A general framework for the parametrization of
    hierarchical models, https://doi.org/10.1214/088342307000000014. Gorinova, Moore & Hoffman
    2020, Automatic reparameterisation of probabilistic programs,
    https://arxiv.org/abs/1906.03028.
    """


class AutoSkewedNormal(_FollowsModel):
    """Mixture of skewed normals as an autoguide; :class:`ppl_zoo.SVI` fits it by fixed draws.

    Where the best normal has few effective draws, a fit with defaults ends with this guide: see
    :class:`~ppl_zoo.core.skewed_normal.SkewedComponent`. Its tensors are buffers; ``set`` gives
    them all.

    Parameters
    ----------
    model
        The program.
    num_components
        Components of the mixture.
    init_loc_fn
        As for every autoguide of Pyro.
    """

    def __init__(self, model: Program, num_components: int = 1, **options: Any) -> None:
        super().__init__(model, **{"init_loc_fn": init_to_zero, **options})
        self.num_components = num_components

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        loc = self._init_loc()
        one = torch.eye(len(loc)).to(loc)
        start = SkewedComponent.of_normal(loc, one, one, 0)
        logits = loc.new_zeros(self.num_components)
        self.set(SkewedNormal.of([start] * self.num_components, logits), self.centring)

    @torch.no_grad()
    def set(self, density: SkewedNormal, centring: Tensor) -> None:
        """Set the density of the unconstrained vector, and how far a hierarchy is centred."""
        like = self.centring
        self.centring = centring.to(like)
        self.register_buffer("logits", density.logits.to(like))
        self.register_buffer("num_directions", density.num_directions.to(like.device))
        for field in dataclasses.fields(SkewedComponent):
            self.register_buffer(field.name, getattr(density.stacked, field.name).to(like))

    def get_posterior(self, *args: Any, **kwargs: Any) -> SkewedNormal:
        """Return the distribution of the unconstrained vector."""
        fields = dataclasses.fields(SkewedComponent)
        stacked = SkewedComponent(*(getattr(self, f.name) for f in fields))
        return SkewedNormal(self.logits, self.num_directions, stacked)

    def _loc_scale(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a skewed normal has no median in closed form; take draws")


#: autoguides by name; any other autoguide class of Pyro can be given itself
GUIDES: dict[str, type[autoguide.AutoGuide]] = {
    "normal": autoguide.AutoNormal,
    "multivariate-normal": autoguide.AutoMultivariateNormal,
    "non-centred": AutoNonCentredNormal,
    "low-rank": autoguide.AutoLowRankMultivariateNormal,
    "delta": autoguide.AutoDelta,
    "flow": AutoFlow,
}


@dataclass
class Pair:
    """A model and its guide as Pyro programs, ready for an ELBO.

    Attributes
    ----------
    model, guide
        The programs, discrete latents marked for enumeration.
    sites
        Sites of the model by name.
    summed_out
        Names of the discrete latents that are summed out.
    nesting
        Batch dimensions that plates take (Pyro's ``max_plate_nesting``).
    score_function
        Whether a latent of the guide is not reparametrised, so that its gradient needs the
        score-function estimator.
    """

    model: Program
    guide: Program
    sites: dict[str, Site]
    summed_out: tuple[str, ...]
    nesting: int
    score_function: bool


def make_pair(
    model: Model, spec: GuideSpec, rows: Rows, batch_size: int | None, chain: int = 0
) -> Pair:
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
        Autoguides of the first chain start at 0 on the unconstrained scale
        (``init_to_feasible``), of others uniformly within 2 of it (``init_to_uniform``).

    Raises
    ------
    DataError
        If an autoguide would need parameters for rows that a minibatch does not show.
    """
    minibatch = batch_size is not None and batch_size < len(rows)
    data = rows.head(batch_size) if minibatch else rows.all()
    sites = describe(first_run(model, data))
    discrete = tuple(s.name for s in sites.values() if s.kind == "latent" and s.discrete)
    guide = _make_guide(model, spec, sites, batch_size if minibatch else None, chain)
    if minibatch and isinstance(model, FunctionModel):
        raise DataError(
            f"got batch_size={batch_size} for a plain function, expected a zoo.Model whose plate "
            "over the data is self.observations(name, x), which scales a minibatch"
        )
    module = module_of(guide)
    if module is not None:
        with torch.no_grad(), poutine.block():
            guide(*data)  # autoguides make their parameters at their first run
        module.to(rows.device)
    drawn = describe(trace_program(guide, data))
    summed_out = discrete
    if spec is not None and not isinstance(spec, str) and not _is_autoguide_maker(spec):
        # a guide program may draw discrete latents itself
        summed_out = tuple(name for name in discrete if name not in drawn)
        validate_names(sites, (s.name for s in drawn.values() if s.kind == "latent"), summed_out)
        refuse_outside_support(with_summed_out(model, summed_out), guide, data)
    hidden = [name for name in summed_out if name in drawn]
    if hidden and module is not None:
        raise DataError(f"the guide draws {hidden}, which the solver sums out; leave them out")
    plates = [-dim for s in sites.values() for _, dim, _ in s.plates]
    return Pair(
        model=with_summed_out(model, summed_out),
        guide=poutine.block(guide, hide=hidden) if hidden else guide,
        sites=sites,
        summed_out=summed_out,
        nesting=max(plates, default=0),
        score_function=any(
            not s.reparametrised and s.kind == "latent" and s.name not in summed_out
            for s in drawn.values()
        ),
    )


def _make_guide(
    model: Model, spec: GuideSpec, sites: dict[str, Site], batch_size: int | None, chain: int
) -> Program:
    """Make the guide program that a spec stands for; ``batch_size`` is None for all rows."""
    if spec is None and model.guide is not None:
        return model.guide
    latent = [s for s in sites.values() if s.kind == "latent"]
    continuous = [s for s in latent if not s.discrete]
    if not continuous and (spec is None or isinstance(spec, str) or _is_autoguide_maker(spec)):
        return no_latents
    if spec is None or isinstance(spec, str):
        spec = _autoguide_by_name("normal" if spec is None else spec, chain)
    if not _is_autoguide_maker(spec):
        return GuideProgram(spec, model)
    local = [s.name for s in continuous if s.is_local(model.data_plate)]
    if batch_size is not None and local:
        raise DataError(
            f"{model.model_name}: got batch_size={batch_size} with the latents "
            f"{local} of single rows, expected an amortised guide for them "
            "(write a method guide), or batch_size=None"
        )
    guide = spec(poutine.block(model, hide=[s.name for s in latent if s.discrete]))
    guide._pyro_context.__class__ = _OwnStore  # shared with all of its parts
    return guide


class _OwnStore(_Context):
    """Context of an autoguide that the zoo made: its parameters stay out of Pyro's store.

    Autoguides name their parameters alike, so that one would take those of another.
    """

    def __enter__(self) -> None:
        if not self.active:
            self.store = isolated_store()
            self.store.__enter__()
        super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if not self.active:
            self.store.__exit__(*error)
            del self.store  # it cannot be copied


def _autoguide_by_name(name: str, chain: int) -> Callable[..., autoguide.AutoGuide]:
    if name not in GUIDES:
        raise ValueError(
            f"guide: got {name!r}{did_you_mean(name, GUIDES)}, "
            f"expected one of {sorted(GUIDES)} or a program"
        )
    return functools.partial(GUIDES[name], init_loc_fn=init_to_zero if chain == 0 else init_near)


def init_to_zero(site: dict) -> Tensor:
    """Start at 0 on the unconstrained scale, as Pyro's ``init_to_feasible``."""
    return _start(site, autoguide.init_to_feasible, lambda zeros: zeros)


def init_near(site: dict) -> Tensor:
    """Start within 2 of 0 on the unconstrained scale, as Pyro's ``init_to_uniform``."""
    return _start(site, autoguide.init_to_uniform, lambda zeros: zeros.uniform_(-2.0, 2.0))


def _start(
    site: dict, pyros: Callable[[dict], Tensor], move: Callable[[Tensor], Tensor]
) -> Tensor:
    """Start of a site as Pyro gives it, which draws from its prior; also where it has no draws."""
    try:
        return pyros(site)
    except NotImplementedError:
        value = feasible_point(site["fn"])
        if value is None:
            raise
        transform = torch.distributions.transform_to(site["fn"].support)
        return transform(move(torch.zeros_like(transform.inv(value))))


def _is_autoguide_maker(spec: GuideSpec) -> bool:
    """Whether this is an autoguide class, perhaps with options."""
    target = spec.func if isinstance(spec, functools.partial) else spec
    return inspect.isclass(target) and issubclass(target, autoguide.AutoGuide)


def copy_guide(guide: GuideSpec) -> GuideSpec:
    """Copy a guide program for another chain; names and classes stand for new guides anyway.

    Raises
    ------
    ValueError
        If it is an autoguide, which belongs to one model.
    """
    if isinstance(guide, autoguide.AutoGuide):
        raise ValueError(
            "restarts: got one autoguide object for several chains, expected its class "
            "(functools.partial for options), so that every chain has its own"
        )
    return copy.deepcopy(guide) if isinstance(guide, nn.Module) else guide
