"""Coordinate-ascent variational inference, for conjugate-exponential models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.random import chain_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.coordinate_ascent import (
    ConjugateUpdate,
    CoordinateAscent,
    MaximizationStep,
    Statistics,
)
from ppl_zoo.solvers.loop import Chain

__all__ = ["CAVI"]

#: rows in a minibatch of stochastic CAVI
DEFAULT_BATCH_SIZE = 256


@options(max_steps="steps")
@dataclass(frozen=True, repr=False)
class CAVI(CoordinateAscent):
    """Coordinate-ascent variational inference (Attias 2000; Ghahramani & Beal 2001).

    The same loop as :class:`EM`, with a conjugate density q(theta) in the place of a point:
    each factor in turn becomes ``exp E[log p]`` under the others, in closed form. The objective
    is the evidence lower bound with all constants, a bound of log p(x); an iteration that lowers
    it is an error. What a model offers:

    ``expected_statistics(*batch)``
        Sets q(z) of the batch's local latents to its optimum under the current q(theta), and
        returns a dict of tensors that are *sums over rows*. "log_likelihood" is the batch's
        share of the bound, ``E_q[log p(x, z | theta)] + H[q(z)]``, all constants included (for
        a model without local latents ``E_q[log p(x | theta)]``).
    ``update_posterior(statistics, step=1.0)``
        Given the statistics of all rows, moves the natural parameters of q(theta)::

            natural <- (1 - step) * natural + step * (prior + statistics)

        Step 1 is the coordinate's optimum; a smaller one is a natural gradient step. A q(theta)
        of several factors updates them one after the other.
    ``negative_kl()``
        ``-KL(q(theta) || p(theta))``, ``()``: theta's own share of the bound.
    ``guide(*data)``
        q(theta), and q(z) where z is not summed out, as a Pyro program: posterior draws, k-hat
        and ArviZ read it. The parameters of q(theta) are buffers made in ``__init__``, so that
        they are saved with the model; ``initialize(rows)`` chooses a start.

    A model that has ``maximize`` and no ``update_posterior`` is one whose q(theta) is a point:
    CAVI is then EM, iterate by iterate.

    Parameters
    ----------
    steps
        Most iterations of one restart; passes over the data if ``stochastic``.
    tol
        Stop when the gain still to come, extrapolated from the rate of convergence, is below
        ``tol`` nats an observation; if ``stochastic``, when a pass changes the objective by less.
    restarts
        Number of starts; each is a chain, the best one becomes the model's posterior.
    batch_size
        Rows in memory at once, and of a minibatch if ``stochastic`` (then 256 by default).
    initialize
        False to start from the posterior that the model has.
    stochastic
        Update after each minibatch, its statistics scaled to all rows, by natural gradient steps
        of size ``(t + delay) ** -forgetting`` (Hoffman et al. 2013). For data too large for many
        passes. The history has the average over each pass, and at last the bound itself, which
        takes a pass of its own.
    forgetting
        Forgetting rate in (0.5, 1]: how fast the step sizes decay.
    delay
        0 or more: larger values give the first minibatches less weight.

    References
    ----------
    Bishop 2006, Pattern Recognition and Machine Learning, chapter 10. Hoffman, Blei, Wang &
    Paisley 2013, Stochastic variational inference, https://arxiv.org/abs/1206.7051.
    """

    stochastic: bool = False
    forgetting: float = 0.7
    delay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        super().__post_init__()
        if not 0.5 < self.forgetting <= 1:
            raise ValueError(
                f"CAVI: got forgetting={self.forgetting}, expected more than 0.5 and at most 1"
            )
        if not self.delay >= 0:
            raise ValueError(f"CAVI: got delay={self.delay}, expected 0 or more")

    def check_model(self, model: Model) -> None:
        """Refuse a model without the steps."""
        if not isinstance(model, MaximizationStep):
            self._demand(model, "expected_statistics", "update_posterior", "negative_kl")
        else:
            self._demand(model, "expected_statistics")
        if self.stochastic and not isinstance(model, ConjugateUpdate):
            raise DataError(
                f"{model.model_name} has no update_posterior(): stochastic CAVI needs it; "
                "use zoo.EM() or zoo.SVI()"
            )

    def update(self, model: Model, statistics: Statistics) -> None:
        """Set q(theta) to its optimum: a density if the model has one, else a point."""
        if isinstance(model, ConjugateUpdate):
            model.update_posterior(statistics)
        else:
            model.maximize(statistics)

    def global_term(self, model: Model) -> Tensor:
        """Return -KL(q(theta) || p(theta)), or the log prior of a point."""
        return model.negative_kl() if isinstance(model, ConjugateUpdate) else model.log_prior()

    def advance(self, chain: Chain, rows: Rows, seed: int) -> None:
        """Take one iteration, or one pass of stochastic ones."""
        if not self.stochastic:
            super().advance(chain, rows, seed)
            return
        past = chain.objective
        converged = len(past) > 1 and abs(past[-1] - past[-2]) <= self.tol * len(rows)
        if converged or len(past) >= self.steps:
            past.append(self.objective(chain, self.expect(chain.model, rows)))
            chain.stopped = "converged" if converged else "max_steps"
        else:
            past.append(self._pass(chain, rows, seed))

    def _pass(self, chain: Chain, rows: Rows, seed: int) -> float:
        """Go through all rows in random order; return the average of the bound's estimates."""
        generator = torch.Generator().manual_seed(
            chain_seed(seed, chain.index, len(chain.objective))
        )
        size = self.batch_size or DEFAULT_BATCH_SIZE
        batches = torch.randperm(len(rows), generator=generator).split(size)
        time, total = len(chain.objective) * len(batches), 0.0
        for index in batches:
            statistics = chain.model.expected_statistics(*rows[index])
            scale = len(rows) / len(index)
            statistics = {name: scale * value for name, value in statistics.items()}
            total += self.objective(chain, statistics) * len(index) / len(rows)
            chain.model.update_posterior(
                statistics, step=(time + 1 + self.delay) ** -self.forgetting
            )
            time += 1
        return total
