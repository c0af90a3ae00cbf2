"""Evidence lower bounds: those of Pyro and three more, by name, and their gradients."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import infer, poutine
from pyro.infer.enum import get_importance_trace
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.utils.stateless import _reparametrize_module

from ppl_zoo.compiler import CaptureError
from ppl_zoo.core.display import call_text, changed_arguments
from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.functions import GuideProgram
from ppl_zoo.core.tracing.kl import kl_by_dimension
from ppl_zoo.core.tracing.sites import Program, is_sample
from ppl_zoo.solvers.guides import Pair

__all__ = [
    "ELBOS",
    "ImportanceELBO",
    "LocalELBO",
    "StickingELBO",
    "differentiable_loss",
    "estimate_and_differentiate",
    "ignore_nan_warnings",
    "make_elbo",
]

Distribution = torch.distributions.Distribution


class LocalELBO(infer.ELBO):
    """Lower bound for models whose latents are all local: IWAE, beta-VAE, free bits.

    For each row, with K = ``num_particles`` draws of a reparametrised guide (all rows and draws
    in one run), either the ELBO::

        mean_k log p(x | z_k) - beta KL(q(z | x) || p(z))

    with the KL in closed form where there is one (of several layers of latents: where it may be
    taken), or the importance-weighted bound (IWAE)::

        log mean_k p(x, z_k) / q(z_k | x)

    Parameters
    ----------
    num_particles
        K.
    bound
        "elbo" or "iwae".
    gradient
        "standard"; "sticking-the-landing" (Roeder et al. 2017, for the ELBO with beta=1, KL not
        in closed form) or "doubly-reparametrised" (Tucker et al. 2019, for the IWAE): both leave
        the score of the guide out, whose mean is 0.
    beta
        Weight of the KL; a number, or called with the step for annealing (such a fit runs
        interpreted). At other values than 1 the objective is no bound on log p(x).
    free_bits
        KL that each latent dimension has free, nats a row, averaged over the batch.
    augment
        Data augmentation: called with the first array of each batch, returns what the step fits
        in its place. ``torch.bernoulli`` binarizes grey pixels anew in every step (dynamic
        binarization).

    References
    ----------
    Burda, Grosse & Salakhutdinov 2016, Importance weighted autoencoders,
    https://arxiv.org/abs/1509.00519. Roeder, Wu & Duvenaud 2017, Sticking the landing,
    https://arxiv.org/abs/1703.09194. Tucker et al. 2019, Doubly reparameterized gradient
    estimators, https://arxiv.org/abs/1810.04152. Higgins et al. 2017, beta-VAE. Kingma et al.
    2016, Improved variational inference with inverse autoregressive flow (free bits),
    https://arxiv.org/abs/1606.04934.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        bound: str = "elbo",
        gradient: str = "standard",
        beta: float | Callable[[int], float] = 1.0,
        free_bits: float = 0.0,
        augment: Callable[[Tensor], Tensor] | None = None,
        max_plate_nesting: int = 1,
    ) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=max_plate_nesting)
        gradients = {
            "elbo": ("standard", "sticking-the-landing"),
            "iwae": ("standard", "doubly-reparametrised"),
        }
        if bound not in gradients:
            raise ValueError(f"bound: got {bound!r}, expected 'elbo' or 'iwae'")
        if gradient not in gradients[bound]:
            raise ValueError(
                f"gradient: got {gradient!r}, expected one of {gradients[bound]} for {bound!r}"
            )
        plain = beta == 1.0 and free_bits == 0.0
        if not plain and (bound == "iwae" or gradient != "standard"):
            raise ValueError(
                "beta and free_bits: weigh a KL, so they go with bound='elbo' and "
                "gradient='standard'"
            )
        self.bound, self.gradient, self.beta, self.free_bits = bound, gradient, beta, free_bits
        self.augment = augment
        self.step = 0  # an SVI chain sets it before each interpreted step

    def __repr__(self) -> str:
        """Write the options that differ from their defaults."""
        return call_text("LocalELBO", changed_arguments(LocalELBO.__init__, self.options))

    @property
    def options(self) -> dict[str, Any]:
        """What it was made with."""
        names = ("num_particles", "bound", "gradient", "beta", "free_bits", "augment")
        return {n: getattr(self, n) for n in (*names, "max_plate_nesting")}

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        """Run guide and model once, all draws side by side."""
        draws = pyro.plate("_particle", self.num_particles, dim=-1 - self.max_plate_nesting)
        guide_trace = poutine.trace(draws(guide)).get_trace(*args, **kwargs)
        replayed = poutine.replay(draws(model), trace=guide_trace)
        return poutine.trace(replayed).get_trace(*args, **kwargs), guide_trace

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the negative bound, whose gradient is the estimator's."""
        if callable(self.beta) and get_proxy_mode() is not None:
            raise CaptureError("beta changes from step to step, and a graph would keep one value")
        if self.augment is not None:
            args = (self.augment(args[0]), *args[1:])
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        terms = _RowTerms(model_trace, guide_trace)
        if self.bound == "elbo" and self.gradient == "standard":
            value = terms.reconstruction().mean(0).sum()
            beta = self.beta(self.step) if callable(self.beta) else self.beta
            for kl in terms.kls():
                each = kl.mean(0)  # (rows, latents)
                if self.free_bits:
                    clamped = each.mean(0).clamp_min(self.free_bits)
                    value = value - beta * len(each) * clamped.sum()
                else:
                    value = value - beta * each.sum()
            return -terms.scale * value
        log_weight = terms.log_weight(detach=self.gradient != "standard")
        if self.bound == "elbo":
            return -terms.scale * log_weight.mean(0).sum()
        value = (log_weight.logsumexp(0) - math.log(self.num_particles)).sum()
        if self.gradient == "standard":
            return -terms.scale * value
        weight = log_weight.detach().softmax(0)
        for node in _latent_nodes(guide_trace):
            if node["value"].requires_grad:
                node["value"].register_hook(_multiply_gradient(weight))
        surrogate = (weight * log_weight).sum()
        return -terms.scale * (surrogate - surrogate.detach() + value.detach())


def _multiply_gradient(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Make the hook of the doubly reparametrised gradient: weights enter squared."""

    def hook(gradient: Tensor) -> Tensor:
        extra = gradient.ndim - weight.ndim
        return gradient * weight.reshape(*weight.shape, *(1,) * extra)

    return hook


class _RowTerms:
    """Log densities by row of one run with many draws, ``(particles, rows)``.

    Raises
    ------
    DataError
        If a site lies outside the plate over the data, or in two plates of all sites.
    """

    def __init__(self, model: Trace, guide: Trace) -> None:
        self.model, self.guide = model, guide
        self.latents = [node["name"] for node in _latent_nodes(guide)]
        sites = [node for node in model.nodes.values() if is_sample(node)]
        frames = [{f for f in n["cond_indep_stack"] if f.vectorized} for n in sites]
        shared = {f for f in set.intersection(*frames) if f.name != "_particle"}
        if len(shared) != 1:
            raise DataError(
                "LocalELBO: expected every latent and observed site inside the one plate over "
                f"the data, got common plates {sorted(f.name for f in shared)}"
            )
        (self.data_plate,) = shared
        self.scale = float(sites[0]["scale"])

    def by_row(self, node: dict, fn: Distribution) -> Tensor:
        """Log density of a site under ``fn``, ``(particles, rows)``."""
        log_prob = fn.log_prob(node["value"])
        if node["mask"] is not None:
            log_prob = torch.where(torch.as_tensor(node["mask"]), log_prob, 0.0)
        nesting = max(-f.dim for f in node["cond_indep_stack"] if f.vectorized)
        log_prob = log_prob.reshape((1,) * (nesting - log_prob.ndim) + log_prob.shape)
        inner = [d for d in range(-nesting + 1, 0) if d != self.data_plate.dim]
        return log_prob.sum(inner) if inner else log_prob

    def reconstruction(self) -> Tensor:
        """Log density of the observed sites, ``(particles, rows)``."""
        nodes = [n for n in self.model.nodes.values() if is_sample(n) and n["is_observed"]]
        return sum(self.by_row(n, n["fn"]) for n in nodes)

    def kls(self) -> list[Tensor]:
        """KL of each latent site, ``(particles, rows, dimensions)``.

        In closed form where there is one, else its estimate log q(z) - log p(z).
        """
        out = []
        for name in self.latents:
            p, q = self.model.nodes[name], self.guide.nodes[name]
            kl = kl_by_dimension(self.model, self.guide, name)
            if kl is None or q["fn"].event_dim != 1:
                kl = (self.by_row(q, q["fn"]) - self.by_row(p, p["fn"]))[..., None]
            out.append(kl.reshape(-1, *kl.shape[-2:]))
        return out

    def log_weight(self, detach: bool) -> Tensor:
        """Log p(x, z) - log q(z | x); with ``detach`` the guide's parameters are constants."""
        nodes = [n for n in self.model.nodes.values() if is_sample(n)]
        total = sum(self.by_row(n, n["fn"]) for n in nodes)
        if detach and len(self.latents) > 1:
            raise ValueError("the estimators that leave the score out take one latent site")
        for name in self.latents:
            node = self.guide.nodes[name]
            fn = _detached(node["fn"]) if detach else node["fn"]
            total = total - self.by_row(node, fn)
        return total


def _detached(fn: Distribution) -> Distribution:
    """Return the same distribution with constant parameters.

    Raises
    ------
    ValueError
        If it cannot be made again from its parameters.
    """
    if isinstance(fn, torch.distributions.Independent):
        return dist.Independent(_detached(fn.base_dist), fn.reinterpreted_batch_ndims)
    if not isinstance(fn, (dist.Normal, dist.MultivariateNormal, dist.LogNormal, dist.Laplace)):
        raise ValueError(f"{type(fn).__name__}: cannot leave the score of this guide out")
    if isinstance(fn, dist.MultivariateNormal):
        return dist.MultivariateNormal(fn.loc.detach(), scale_tril=fn.scale_tril.detach())
    return type(fn)(fn.loc.detach(), fn.scale.detach())


def _latent_nodes(trace: Trace) -> list[dict]:
    return [n for n in trace.nodes.values() if is_sample(n) and not n["is_observed"]]


class _ReparametrisedELBO(infer.ELBO):
    """Bound of plain traces, a run for each particle, for reparametrised guides."""

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


class ImportanceELBO(_ReparametrisedELBO):
    """Renyi bound on log p(x); with ``alpha=0`` the importance-weighted bound.

    Burda et al. 2016 (https://arxiv.org/abs/1509.00519), Li & Turner 2016
    (https://arxiv.org/abs/1602.02311). Needs a reparametrised guide.
    """

    def __init__(self, alpha: float = 0.0, num_particles: int = 2, **options: Any) -> None:
        if alpha == 1:
            raise ValueError("alpha: got 1, whose bound is the ELBO; use elbo='trace'")
        super().__init__(num_particles=num_particles, **options)
        self.alpha = alpha

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the negative bound, differentiable."""
        weights = torch.stack(
            [
                model_trace.log_prob_sum() - guide_trace.log_prob_sum()
                for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs)
            ]
        )
        order = 1.0 - self.alpha
        return -((order * weights).logsumexp(0) - math.log(self.num_particles)) / order


class StickingELBO(_ReparametrisedELBO):
    """ELBO with the "sticking the landing" gradient, without noise at the exact posterior.

    Roeder, Wu & Duvenaud 2017 (https://arxiv.org/abs/1703.09194): the gradient is taken along the
    draws only, the parameters of the guide's density are constants. Needs a reparametrised guide.
    """

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the negative bound, differentiable."""
        if isinstance(guide, GuideProgram):
            modules = [m for m in (guide.model.declared, guide.module) if m is not None]
        else:
            modules = [guide if isinstance(guide, nn.Module) else guide.__self__]
        total: Tensor | float = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            with contextlib.ExitStack() as stack:
                for module in modules:
                    constants = {name: p.detach() for name, p in module.named_parameters()}
                    stack.enter_context(_reparametrize_module(module, constants))
                replayed = poutine.trace(poutine.replay(guide, trace=guide_trace))
                log_q = replayed.get_trace(*args, **kwargs).log_prob_sum()
            total = total + model_trace.log_prob_sum() - log_q
        return -total / self.num_particles


#: bounds by the names of ``zoo.SVI(elbo=...)``
ELBOS: dict[str, Callable[..., infer.ELBO]] = {
    "stl": StickingELBO,
    "trace": infer.Trace_ELBO,
    "mean-field": infer.TraceMeanField_ELBO,
    "enum": infer.TraceEnum_ELBO,
    "graph": infer.TraceGraph_ELBO,
    "importance": ImportanceELBO,
    "iwae": partial(LocalELBO, bound="iwae", gradient="doubly-reparametrised"),
}


class FunctionELBO(infer.ELBO):
    """A loss function of the user's own, as Pyro's ``SVI(loss=...)`` takes it.

    Parameters
    ----------
    function
        ``function(model, guide, *data)`` returns the negative bound, differentiable.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def _get_trace(self, model: Program, guide: Program, args: tuple, kwargs: dict) -> Any:
        raise NotImplementedError("a loss function makes its own traces")

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the negative bound, differentiable."""
        return self.function(model, guide, *args, **kwargs)


def make_elbo(
    spec: str | infer.ELBO | Callable[..., Tensor], pair: Pair, num_particles: int
) -> infer.ELBO:
    """Return the bound that a name stands for, or that an ELBO object or a loss function is."""
    if not isinstance(spec, (str, infer.ELBO)):
        return FunctionELBO(spec)
    if type(spec) is infer.RenyiELBO and spec.alpha != 1 and not pair.score_function:
        # the same bound, differentiable
        spec = ImportanceELBO(
            spec.alpha,
            spec.num_particles,
            max_plate_nesting=spec.max_plate_nesting,
            vectorize_particles=spec.vectorize_particles,
        )
    if not isinstance(spec, str):
        if spec.max_plate_nesting == math.inf and type(spec).__module__.startswith("pyro."):
            spec = copy.copy(spec)  # which would run the programs once more to find it out
            # as Pyro's own guess: particles take a dimension on the left
            vectorised = spec.vectorize_particles and spec.num_particles > 1
            spec.max_plate_nesting = pair.nesting + vectorised
        return spec
    if spec == "auto":
        spec = "enum" if pair.summed_out else "graph" if pair.score_function else "trace"
    return ELBOS[spec](num_particles=num_particles, max_plate_nesting=max(pair.nesting, 1))


@contextlib.contextmanager
def ignore_nan_warnings() -> Iterator[None]:
    """Suppress Pyro's warning of NaN where the caller tests for it and says more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+inf|-inf)")
        # said once, before the fit
        warnings.filterwarnings("ignore", message="Found vars in model but not guide")
        yield


# Some of Pyro's ELBOs have a method ``differentiable_loss`` and some do not; no common base class
# says which, so the two functions below ask the object.


def differentiable_loss(elbo: infer.ELBO, pair: Pair, data: tuple[Tensor, ...]) -> Tensor:
    """Return the negative bound, whose gradient is the estimator's.

    Raises
    ------
    ValueError
        If Pyro's ELBO only comes with its own backward pass.
    """
    if hasattr(elbo, "differentiable_loss"):
        return elbo.differentiable_loss(pair.model, pair.guide, *data)
    if type(elbo) is infer.TraceGraph_ELBO:
        value, surrogate = elbo._loss_and_surrogate_loss(pair.model, pair.guide, data, {})
        return surrogate - surrogate.detach() - value
    raise ValueError(f"{type(elbo).__name__} has no differentiable loss")


def estimate_and_differentiate(
    elbo: infer.ELBO,
    pair: Pair,
    data: tuple[Tensor, ...],
    parameters: list[Tensor],
    precision: torch.autocast | None = None,
) -> float:
    """Estimate the negative bound and leave its gradients in the parameters.

    Gradients are not computed where the estimate is not finite. ``precision`` is the context in
    which the programs run; None for that of their parameters.
    """
    context = precision or contextlib.nullcontext()
    with ignore_nan_warnings():
        if not hasattr(elbo, "differentiable_loss"):
            with context:
                value = elbo.loss_and_grads(pair.model, pair.guide, *data)
            if all(p.grad is None for p in parameters):
                raise ConvergenceError(
                    f"{type(elbo).__name__} left no gradients: it only sees pyro.param; "
                    "for a Renyi bound use elbo='importance'"
                )
            return float(value)
        with context:
            loss = elbo.differentiable_loss(pair.model, pair.guide, *data)
        value = loss.item()
        if not loss.requires_grad:
            raise ConvergenceError(
                "SVI: the bound depends on none of the parameters; does the guide use them in its "
                "pyro.sample?"
            )
        if math.isfinite(value):
            loss.backward()
    return value
