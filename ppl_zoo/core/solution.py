"""Solution: the plain record that a solver returns; ``ppl_zoo.fitting`` wraps it as a Fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.display import Described
from ppl_zoo.core.functions import module_of
from ppl_zoo.core.model import Model

#: objectives of one optimum: those of the best chain less this, a factor of 1.1 of likelihood, and
#: twice their standard errors
NATS_APART = 0.1
#: estimates of a stochastic objective that tell its noise
NUM_LATE_STEPS = 100

__all__ = ["Solution", "load_chain", "read_parameters", "stack_chains"]


@dataclass(repr=False)
class Solution(Described):
    """What a solver found.

    Attributes
    ----------
    parameters
        ``{"model.NAME" or "guide.NAME": (chain, ...)}``, buffers included.
    history
        ``{"objective": (chain, step)}``; chains that stopped earlier are padded with NaN.
    objective
        Final value of the quantity that was maximised, ``(chain,)``, in nats.
    stopped
        Why, one for each chain: "converged", "max_steps", "interrupted" or "diverged".
    guide
        The guide program, its parameters those of the best chain; None where the solver has none.
    summed_out
        Names of the discrete sites that were summed out.
    engine
        What ran the steps: "interpreted" or "xla".
    draws
        Posterior draws ``{site: (chain, draw, ...)}``, for solvers that sample.
    sample_stats
        What a sampler says of its draws, ``{name: (chain, draw)}``.
    state
        What resuming takes beyond the parameters: tensors by name, and plain values.
    unsaved_options
        Options of the solver that a saved fit did not hold (an ELBO object, a schedule).
    """

    parameters: dict[str, Tensor]
    history: dict[str, np.ndarray]
    objective: np.ndarray
    stopped: tuple[str, ...]
    guide: Callable[..., Any] | None = None
    summed_out: tuple[str, ...] = ()
    engine: str = "interpreted"
    draws: dict[str, Tensor] | None = None
    sample_stats: dict[str, np.ndarray] = field(default_factory=dict)
    state_tensors: dict[str, Tensor] = field(default_factory=dict)
    state_values: dict[str, Any] = field(default_factory=dict)
    unsaved_options: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """Index of the chain with the highest objective."""
        return int(np.nanargmax(self.objective)) if np.isfinite(self.objective).any() else 0

    @property
    def num_at_best(self) -> int:
        """How many chains have found the best one's optimum, by their objectives."""
        error = np.nan_to_num(self.objective_error)
        if self.state_values.get("objective") == "stochastic":
            # the median of as many estimates, whose noise their differences tell
            late = [h[np.isfinite(h)][-NUM_LATE_STEPS:] for h in self.history["objective"]]
            noise = [np.diff(h).std() / np.sqrt(len(h)) if len(h) > 2 else 0.0 for h in late]
            error = np.maximum(error, noise)
        lowest = self.objective[self.best] - NATS_APART - 2.0 * error[self.best]
        return int((self.objective + 2.0 * error >= lowest).sum())

    def alone(self, chain: int) -> Solution:
        """Return the solution of one chain, as if there were no other."""
        only = slice(chain, chain + 1)
        numbers = {str(i) for i in range(len(self.stopped))}
        values = {k: v for k, v in self.state_values.items() if k not in numbers}
        if str(chain) in self.state_values:
            values["0"] = self.state_values[str(chain)]
        return replace(
            self,
            parameters={k: v[only] for k, v in self.parameters.items()},
            history={k: v[only] for k, v in self.history.items()},
            objective=self.objective[only],
            stopped=self.stopped[only],
            draws=None if self.draws is None else {k: v[only] for k, v in self.draws.items()},
            sample_stats={k: v[only] for k, v in self.sample_stats.items()},
            state_values=values,
        )

    @property
    def reason(self) -> str:
        """How the solver went about it, and why; empty where it has one way only."""
        return self.state_values.get("reason", "")

    @property
    def objective_error(self) -> np.ndarray:
        """Standard error of each chain's objective, NaN where it is not known, ``(chain,)``."""
        held = [self.state_values.get(str(i)) for i in range(len(self.stopped))]
        errors = [h.get("elbo_error") if isinstance(h, dict) else None for h in held]
        return np.array([np.nan if e is None else e for e in errors])

    @property
    def validation_score(self) -> float:
        """Mean log density (or bound) of a validation row that stopped the best chain, in nats.

        NaN where there were none.
        """
        held = self.state_values.get(str(self.best))
        held = held if isinstance(held, dict) else {}
        scores = held.get("scores") or (held.get("watch") or {}).get("values") or [np.nan]
        return float(max(scores))

    @property
    def share(self) -> float:
        """Share of the best chain's draws that are effective, NaN where it is not known."""
        held = self.state_values.get(str(self.best))
        return held.get("share", np.nan) if isinstance(held, dict) else np.nan

    @property
    def steps(self) -> tuple[int, ...]:
        """Number of steps each chain took."""
        return tuple(int(np.isfinite(h).sum()) for h in self.history["objective"])


def read_parameters(model: Model, guide: Any) -> dict[str, Tensor]:
    """Copy all parameters and buffers of a model and its guide."""
    out = {f"model.{k}": v.detach().clone() for k, v in model.state_dict().items()}
    module = module_of(guide)
    if module is not None:
        out |= {f"guide.{k}": v.detach().clone() for k, v in module.state_dict().items()}
    return out


def stack_chains(chains: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the parameters of chains along a new first dimension."""
    return {name: torch.stack([chain[name] for chain in chains]) for name in chains[0]}


def load_chain(model: Model, guide: Any, parameters: dict[str, Tensor], chain: int) -> None:
    """Put one chain's parameters into the model and its guide."""
    for prefix, module in (("model.", model), ("guide.", module_of(guide))):
        if module is not None:
            state = {
                k.removeprefix(prefix): v[chain]
                for k, v in parameters.items()
                if k.startswith(prefix)
            }
            module.load_state_dict(state)
