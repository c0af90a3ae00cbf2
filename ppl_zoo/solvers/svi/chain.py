"""Chain of SVI: programs, optimizer, stopping rules, and one interpreted step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.functions import module_of
from ppl_zoo.core.model import Model
from ppl_zoo.core.parameters import unescape
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.solution import Solution
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.core.tracing.sites import is_sample
from ppl_zoo.solvers.elbos import LocalELBO, estimate_and_differentiate, ignore_nan_warnings
from ppl_zoo.solvers.guides import Pair
from ppl_zoo.solvers.loop import Chain
from ppl_zoo.solvers.optimizer_state import (
    PLAIN_TYPES,
    pack_optimizer_state,
    unpack_optimizer_state,
)
from ppl_zoo.solvers.svi.stopping import Plateau, ValidationMonitor

__all__ = ["Alternation", "SVIChain", "named_parameters"]

#: steps in a row whose objective may be non-finite before that is an error
MAX_NONFINITE_STEPS = 20
#: runs that set the running statistics of batch normalisation, whose momentum is .1 by default
NUM_STATISTICS_RUNS = 50


@dataclass
class SVIChain(Chain):
    """A chain (restart) of SVI.

    Attributes
    ----------
    pair, elbo
        Model and guide as programs, and the estimator of the bound.
    parameters
        All that is learned, of model and guide.
    optimizer, schedule
        Of torch; ``schedule`` is None where the plateau rule lowers the learning rate.
    plateau, validation
        Stopping rules: by the objective, and by validation rows (None without any).
    alternation
        Turns of variational EM; None for joint steps.
    compiled_gradient
        ``compiled_gradient(data)`` estimates the negative ELBO and leaves gradients in the
        parameters, by a compiled graph; None for Pyro's interpreter.
    precision
        Dtype of mixed precision; None for one precision.
    skipped
        Steps in a row whose objective was not finite.
    num_declared
        Parameters that the programs have declared so far.
    optimizer_options
        Options of the optimizer by a parameter's name; None where all have the same.
    constant_decay, decayed
        Weight decay: the precision of a normal prior on the parameters that are ``decayed``,
        where no path of decays (``validation.path``) sets it.
    """

    pair: Pair | None = None
    elbo: ELBO | None = None
    parameters: list[Tensor] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None
    plateau: Plateau | None = None
    validation: ValidationMonitor | None = None
    alternation: Alternation | None = None
    compiled_gradient: Callable[[tuple[Tensor, ...]], float] | None = None
    precision: str | None = None
    skipped: int = 0
    num_declared: int = 0
    optimizer_options: Callable[[str], dict[str, Any]] | None = None
    constant_decay: float = 0.0
    decayed: tuple[bool, ...] = ()

    @property
    def decay(self) -> float:
        """Precision of the prior on the weights in the steps to come."""
        path = None if self.validation is None else self.validation.path
        return self.constant_decay if path is None else path.decay

    @torch.no_grad()
    def add_decay(self) -> None:
        """Add the gradient of the prior on the weights, minus its log density, to the others."""
        for parameter, decays in zip(self.parameters, self.decayed, strict=False):
            if decays and parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=self.decay)

    def join_parameters(self) -> None:
        """Let parameters that the programs have declared since the start be learned too."""
        names = named_parameters(self.model, self.guide)
        self.num_declared = len(self.model.declared._parameters)
        known = {id(p) for p in self.parameters}
        new = [(name, p) for name, p in names if id(p) not in known]
        if not new:
            return
        shown = ", ".join(name for name, _ in new)
        if self.validation is not None or self.alternation is not None:
            raise ConvergenceError(
                f"{self.model.model_name}: the parameters ({shown}) appear in the course of the "
                "fit, expected all of them at its start with patience, average or alternate"
            )
        self.parameters[:] = [p for _, p in names]
        if self.optimizer_options is not None:
            for name, p in new:
                self.optimizer.add_param_group({"params": [p], **self.optimizer_options(name)})
            return
        # in the order of a chain that resumes, whose optimizer's state goes by number
        self.optimizer.param_groups[0]["params"] = list(self.parameters)

    def differentiate(self, data: tuple[Tensor, ...], total: int) -> float:
        """Estimate the negative ELBO, leaving gradients in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.compiled_gradient is not None:
            return self.compiled_gradient(data)
        if isinstance(self.elbo, LocalELBO):
            self.elbo.step = len(self.objective)  # an annealed KL depends on it
        precision = None
        if self.precision is not None:
            kind = self.parameters[0].device.type
            precision = torch.autocast(kind, getattr(torch, self.precision))
        # in the store throughout: nets are run by densities, and baselines kept, after a program
        store = self.model.declared.scope(self.model, module_of(self.guide))
        with self.model.scaled_to(total), store:
            return estimate_and_differentiate(
                self.elbo, self.pair, data, self.parameters, precision
            )

    @torch.no_grad()
    def update_statistics(self, data: Callable[[int], tuple[Tensor, ...]], seed: int) -> None:
        """Bring running statistics of batch normalisation up to date, after compiled steps.

        A compiled step goes by the statistics of its batch alone, as training does. Those for
        evaluation are averages over the last steps: here over as many runs of the programs.

        Parameters
        ----------
        data
            The rows that a step sees, by its number.
        seed
            Of the noise.
        """
        nets = [m for m in (self.model, module_of(self.guide)) if m is not None]
        nets += [place.module() for place in self.model.declared._places]
        layers = (layer for net in nets if net is not None for layer in net.modules())
        if not any(isinstance(layer, _BatchNorm) and layer.training for layer in layers):
            return
        for run in range(NUM_STATISTICS_RUNS):
            step = max(0, len(self.objective) - NUM_STATISTICS_RUNS) + run
            set_seed(chain_seed(seed, self.index, step), self.parameters[0].device)
            store = self.model.declared.scope(self.model, module_of(self.guide))
            with store, ignore_nan_warnings():
                self.elbo.loss(self.pair.model, self.pair.guide, *data(step))

    def step(self, data: tuple[Tensor, ...], total: int, clip_norm: float | None) -> None:
        """Take one step; records the estimate of the ELBO before it, in nats."""
        value = self.differentiate(data, total)
        self.add_decay()
        if len(self.model.declared._parameters) != self.num_declared:
            self.join_parameters()
        if self.alternation is not None:
            self.alternation.hold(len(self.objective))
        finite = math.isfinite(value)
        if finite:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            finite = bool(norm.isfinite())
            if finite and clip_norm is not None:
                nn.utils.clip_grads_with_norm_(self.parameters, clip_norm, norm)
        if finite:
            self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.record(-value if finite else math.nan, data)

    def record(self, value: float, data: tuple[Tensor, ...]) -> None:
        """Record an objective; one that is not finite counts as the one before.

        A rare overflow of a heavy tail is stepped over; a run of them ends the chain.
        """
        if self.stopped == "diverged":
            return
        if math.isfinite(value):
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped > MAX_NONFINITE_STEPS or not self.objective:
                self.stopped, self.error = "diverged", self._explain(data)
                return
            value = self.objective[-1]
        self.objective.append(value)

    def _explain(self, data: tuple[Tensor, ...]) -> ConvergenceError:
        """Name the sites that are not finite."""
        guide = trace_program(self.pair.guide, data)
        model = trace_program(poutine.replay(self.model, trace=guide), data)
        with ignore_nan_warnings():
            model.compute_log_prob()
        bad = [
            name
            for name, node in model.nodes.items()
            if node["type"] == "sample" and not bool(torch.isfinite(node["log_prob"]).all())
        ]
        what = f"the log density of {bad} is not finite" if bad else "the gradient is not finite"
        return ConvergenceError(
            f"SVI: objective or gradient not finite at step {len(self.objective)} (chain "
            f"{self.index}) and {self.skipped} times in a row: {what}; check the scale of the "
            "data and the support of the model, or lower learning_rate"
        )

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that resuming takes, beside the parameters."""
        tensors, plain = pack_optimizer_state(self.optimizer.state_dict())
        if self.plateau.before is not None:
            tensors["plateau"] = self.plateau.before
        schedule = None if self.schedule is None else _plain(self.schedule.state_dict().items())
        watched = None
        if self.validation is not None:
            kept, watched = self.validation.pack()
            tensors |= kept
        return tensors, {
            "watch": watched,
            "optimizer": plain,
            "plateau": self.plateau.state(),
            "schedule": schedule,
        }

    def restore(self, resume: Solution) -> None:
        """Go on from where a solution stands."""
        tensors, values = self.load_solution(resume)
        before = tensors.pop("plateau", None)
        self.optimizer.load_state_dict(unpack_optimizer_state(tensors, values["optimizer"]))
        self.plateau.restore(values["plateau"], before)
        if self.schedule is not None and values["schedule"] is not None:
            self.schedule.load_state_dict(values["schedule"])
        if self.validation is not None:
            self.validation.restore(tensors, values.get("watch"))


def named_parameters(model: Model, guide: Any) -> list[tuple[str, Tensor]]:
    """All that is learned, of model and guide, each once and by Pyro's name."""
    modules = [m for m in (model, module_of(guide)) if m is not None]
    named = {
        id(p): (unescape(name.removeprefix("_declared.")), p)
        for module in modules
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    return list(named.values())


def _plain(items: Iterable[tuple[str, Any]]) -> dict:
    return {k: v for k, v in items if isinstance(v, PLAIN_TYPES)}


# ---- variational EM ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Alternation:
    """Variational EM: turns of the E-step (phi, of the guide) and the M-step (theta).

    Neal & Hinton 1998, A view of the EM algorithm that justifies incremental, sparse, and other
    variants: both maximise the one bound, each over its own coordinates.
    """

    phi: tuple[Tensor, ...]
    theta: tuple[Tensor, ...]
    e_steps: int
    m_steps: int

    @classmethod
    def of(
        cls,
        turns: Sequence[int],
        pair: Pair,
        parameters: Sequence[Tensor],
        data: tuple[Tensor, ...],
    ) -> Alternation:
        """Split the parameters: phi are those that the guide's draws or density depend on.

        Raises
        ------
        DataError
            If one of the two has none.
        """
        with torch.enable_grad(), poutine.block():
            trace = poutine.trace(pair.guide).get_trace(*data)
            trace.compute_log_prob()
            total: Any = 0.0
            for node in trace.nodes.values():
                if is_sample(node):
                    value = node["value"]
                    total = total + node["log_prob"].sum()
                    total = total + (value.sum() if value.requires_grad else 0.0)
        gradients: Sequence[Any] = [None] * len(parameters)
        if isinstance(total, Tensor) and total.requires_grad:
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        pairs = list(zip(parameters, gradients, strict=True))
        phi = tuple(p for p, g in pairs if g is not None)
        theta = tuple(p for p, g in pairs if g is None)
        if not phi or not theta:
            which = "guide" if not phi else "model"
            raise DataError(
                f"alternate: the {which} has no parameters of its own, so there is nothing to "
                "take turns with; leave alternate out"
            )
        return cls(phi, theta, *turns)

    def hold(self, step: int) -> None:
        """Drop the gradients of those whose turn it is not."""
        turn = step % (self.e_steps + self.m_steps)
        for parameter in self.theta if turn < self.e_steps else self.phi:
            parameter.grad = None
