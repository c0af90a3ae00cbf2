"""Evidence lower bounds by name, and one gradient step of any of Pyro's."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from pyro import infer, poutine
from pyro.infer.enum import get_importance_trace
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from ppl_zoo.errors import ConvergenceError
from ppl_zoo.solvers.guides import Pair
from ppl_zoo.solvers.local_elbo import LocalELBO

__all__ = ["ELBOS", "ImportanceELBO", "estimate_and_differentiate", "make_elbo"]


class ImportanceELBO(infer.ELBO):
    """Renyi bound on log p(x); with ``alpha=0`` the importance-weighted bound.

    Burda et al. 2016 (https://arxiv.org/abs/1509.00519), Li & Turner 2016
    (https://arxiv.org/abs/1602.02311). Needs a reparametrised guide.
    """

    def __init__(self, alpha: float = 0.0, num_particles: int = 2, **options: Any) -> None:
        if alpha == 1:
            raise ValueError("alpha: got 1, whose bound is the ELBO; use elbo='trace'")
        super().__init__(num_particles=num_particles, **options)
        self.alpha = alpha

    def _get_trace(self, model: Any, guide: Any, args: tuple, kwargs: dict) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound, differentiable."""
        weights = torch.stack(
            [
                model_trace.log_prob_sum() - guide_trace.log_prob_sum()
                for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs)
            ]
        )
        order = 1.0 - self.alpha
        return -((order * weights).logsumexp(0) - math.log(self.num_particles)) / order


class StickingELBO(infer.ELBO):
    """The bound with a gradient whose variance vanishes where the guide is the posterior.

    "Sticking the landing", Roeder, Wu & Duvenaud 2017 (https://arxiv.org/abs/1703.09194): the
    draws carry the gradient, the parameters of the guide's density are held. Needs a
    reparametrised guide.
    """

    def _get_trace(self, model: Any, guide: Any, args: tuple, kwargs: dict) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound, differentiable."""
        module = guide if isinstance(guide, nn.Module) else guide.__self__
        held = {name: p.detach() for name, p in module.named_parameters()}
        total: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            with _reparametrize_module(module, held):
                again = poutine.trace(poutine.replay(guide, trace=guide_trace))
                log_q = again.get_trace(*args, **kwargs).log_prob_sum()
            total = total + model_trace.log_prob_sum() - log_q
        return -total / self.num_particles


ELBOS: dict[str, Any] = {
    "stl": StickingELBO,
    "trace": infer.Trace_ELBO,
    "mean-field": infer.TraceMeanField_ELBO,
    "enum": infer.TraceEnum_ELBO,
    "graph": infer.TraceGraph_ELBO,
    "importance": ImportanceELBO,
    "iwae": partial(LocalELBO, bound="iwae", gradient="doubly-reparametrised"),
}


def make_elbo(spec: Any, pair: Pair, num_particles: int) -> Any:
    """Return the bound that a name stands for; an ELBO object is taken as it is."""
    if not isinstance(spec, str):
        return spec
    if spec == "auto":
        spec = "enum" if pair.summed_out else "graph" if pair.score_function else "trace"
    return ELBOS[spec](num_particles=num_particles, max_plate_nesting=max(pair.nesting, 1))


@contextlib.contextmanager
def ignore_nan_warnings() -> Iterator[None]:
    """Keep Pyro's warning back where the caller deals with NaN, and says more about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered (NaN|\\+inf|-inf)")
        yield


def differentiable_loss(elbo: Any, pair: Pair, data: tuple[Tensor, ...]) -> Tensor:
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
    elbo: Any,
    pair: Pair,
    data: tuple[Tensor, ...],
    parameters: list[Tensor],
    precision: Any = None,
) -> float:
    """Estimate the negative bound and leave its gradients in the parameters.

    Gradients are not computed where the estimate is not finite. ``precision`` is the context in
    which the programs run: an autocast, or None.
    """
    precision = precision or contextlib.nullcontext()
    with ignore_nan_warnings():
        if not hasattr(elbo, "differentiable_loss"):
            with precision:
                value = elbo.loss_and_grads(pair.model, pair.guide, *data)
            if all(p.grad is None for p in parameters):
                raise ConvergenceError(
                    f"{type(elbo).__name__} left no gradients: it only sees pyro.param; "
                    "for a Renyi bound use elbo='importance'"
                )
            return float(value)
        with precision:
            loss = elbo.differentiable_loss(pair.model, pair.guide, *data)
        value = loss.item()
        if math.isfinite(value):
            loss.backward()
    return value
