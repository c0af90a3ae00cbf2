"""Variational inference: climb the evidence lower bound, by fixed draws or fresh ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import DataError
from ppl_zoo.model import Model
from ppl_zoo.solvers.climb import climb
from ppl_zoo.solvers.elbos import ELBOS
from ppl_zoo.solvers.engine_interpreted import Interpreted, Minibatches
from ppl_zoo.solvers.engines import choose_engine, window_of
from ppl_zoo.solvers.fixed_draws import NoStartError, solve_with_fixed_draws
from ppl_zoo.solvers.guides import Pair, make_pair
from ppl_zoo.solvers.objectives import choose_objective
from ppl_zoo.solvers.solution import (
    Solution,
)
from ppl_zoo.solvers.svi_chain import SVIChain
from ppl_zoo.solvers.svi_record import solution_of
from ppl_zoo.solvers.svi_setup import make_chain

__all__ = ["SVI"]


@dataclass(frozen=True)
class SVI:
    """Stochastic variational inference (Hoffman et al. 2013; Ranganath et al. 2014).

    Maximises the evidence lower bound over the parameters of the guide and of the model
    together. A model without latent variables is fitted by maximum likelihood. Finite discrete
    latents are summed out (exactly, by ``TraceEnum_ELBO``).

    With fixed draws the bound is averaged over the same quasi-random normals throughout and
    climbed to its top by L-BFGS, in coordinates that Laplace's approximation has evened out;
    ``fit.objective`` is then its value for fresh draws. With stochastic gradients every step
    draws anew. ``fit.solution.reason`` says which way a fit went, and why.

    Parameters
    ----------
    objective
        "fixed-draws", "stochastic", or "auto" for fixed draws where they win: up to 1,000
        continuous latents, a normal guide, no parameters of the model to learn, data that fit
        one pass, and no option set that only stochastic gradients have.
    steps
        Most steps of a chain. Chains stop earlier once they have converged.
    elbo
        "auto", "trace", "stl" (sticking the landing), "mean-field" (analytic KL), "enum",
        "graph", "importance", "iwae" (a bound for each row, for latents of single rows), or an
        ELBO object: any of Pyro's, or ``zoo.LocalELBO``.
    num_particles
        Draws of the guide in each step's estimate.
    guide
        None for the model's own guide; where it has none, a normal: of full rank with fixed
        draws and up to 200 latents, else mean field. Or "normal", "multivariate-normal",
        "low-rank", "delta", "flow" (needs zuko); an autoguide class of Pyro; or a guide program
        with the model's arguments.
    optimizer
        Called with the parameters; returns a torch optimizer. ``torch.optim.Adam`` by default.
    learning_rate
        Of the default optimizer, or passed as ``lr`` to an optimizer class.
    schedule
        None to divide the learning rate whenever the ELBO has come to a plateau; "constant";
        "cosine", down to 0 over ``steps``; or called with the optimizer, returns a torch
        learning-rate schedule, stepped every step.
    batch_size
        Rows in a minibatch, drawn without replacement in each pass over the data and scaled by
        N / batch_size, so that gradients stay unbiased. None for all rows.
    restarts
        Number of chains, run side by side from different starts; the best one becomes the
        model's parameters.
    clip_norm
        Bound on the norm of the gradient, None for none.
    window, tol, parameter_tol
        Every ``window`` steps (100, or 1,000 where steps are compiled) the median ELBO and the
        parameters are compared with those of windows before. A chain is at a plateau when the
        ELBO gained less than its own noise plus ``tol`` relative, and has converged when that
        holds at the smallest learning rate and the parameters moved by less than
        ``parameter_tol`` relative.
    patience
        Early stopping: looks at the ``valid`` rows of the data set without a gain after which a
        chain stops. The parameters of the best look are kept, and choose the best chain.
    validate_every
        Steps between two looks; None for a pass over the data.
    average
        Decay of an exponential moving average of the parameters (0.999, say), which is what is
        then looked at and kept; None for none.
    alternate
        ``(e_steps, m_steps)`` for variational EM: so many steps of the guide's parameters, then
        so many of the model's, in turns (interpreted); None for all of them in every step.
    precision
        "bfloat16" for mixed precision (interpreted): matrix products and convolutions of the
        programs run in it (``torch.autocast``), parameters, sums and the optimizer stay as they
        are. None for one precision.
    initialize
        False to start from the parameters that the model has.
    compile
        "xla" to capture the programs as one tensor graph and run blocks of steps in XLA, False to
        interpret them with Pyro, "auto" to compile by XLA where that pays. Both fit alike, from
        different noise. "inductor" compiles the graph of one step by Inductor (CUDA graphs on a
        GPU): the noise, and so the fit, is the interpreter's, with any torch optimizer; it needs
        a C++ compiler on a CPU.
    """

    steps: int = 50_000
    elbo: Any = "auto"
    num_particles: int = 1
    guide: Any = None
    optimizer: Any = torch.optim.Adam
    learning_rate: float = 0.02
    schedule: Any = None
    batch_size: int | None = None
    restarts: int = 1
    clip_norm: float | None = None
    window: int | None = None
    tol: float = 1e-6
    parameter_tol: float = 1e-2
    patience: int | None = None
    validate_every: int | None = None
    average: float | None = None
    initialize: bool = True
    compile: Any = "auto"
    objective: str = "auto"
    alternate: tuple[int, int] | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in (
            "steps",
            "num_particles",
            "restarts",
            "window",
            "batch_size",
            "patience",
            "validate_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"SVI: got {name}={value}, expected 1 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"SVI: got learning_rate={self.learning_rate}, expected more than 0")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"SVI: got average={self.average}, expected between 0 and 1")
        if self.compile not in ("auto", "xla", "inductor", False):
            raise ValueError(
                f"SVI: got compile={self.compile!r}, expected 'auto', 'xla', 'inductor' or False"
            )
        if self.precision not in (None, "bfloat16"):
            raise ValueError(f"SVI: got precision={self.precision!r}, expected None or 'bfloat16'")
        if self.precision is not None and self.compile in ("xla", "inductor"):
            raise ValueError(
                f"SVI: got precision={self.precision!r} with compile={self.compile!r}, expected "
                "compile='auto' or False: mixed precision is interpreted"
            )
        if self.objective not in ("auto", "fixed-draws", "stochastic"):
            raise ValueError(
                f"SVI: got objective={self.objective!r}, expected 'auto', 'fixed-draws' or "
                "'stochastic'"
            )
        if self.alternate is not None and (len(self.alternate) != 2 or min(self.alternate) < 1):
            raise ValueError(
                f"SVI: got alternate={self.alternate}, expected two numbers of steps, 1 or more"
            )
        known = ("auto", *ELBOS)
        if isinstance(self.elbo, str) and self.elbo not in known:
            raise ValueError(f"SVI: got elbo={self.elbo!r}, expected one of {known} or an ELBO")

    def solve(
        self,
        model: Model,
        rows: Rows,
        *,
        seed: int = 0,
        progress: bool = True,
        resume: Solution | None = None,
        checkpoint: Callable[[Solution], object] | None = None,
        checkpoint_seconds: float = 30.0,
        valid: Rows | None = None,
    ) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        if self.patience is not None and valid is None:
            raise DataError(
                f"SVI: got patience={self.patience} without validation rows, expected a data set "
                "with valid (zoo.data.load, or zoo.data.Dataset of your own)"
            )
        held_out = valid if self.patience is not None else None
        choice = choose_objective(self, model, rows, seed, resume)
        reason = choice.reason
        if choice.points is not None:
            try:
                return solve_with_fixed_draws(
                    self,
                    choice,
                    model,
                    rows,
                    seed=seed,
                    progress=progress,
                    resume=resume,
                    checkpoint=checkpoint,
                    checkpoint_seconds=checkpoint_seconds,
                )
            except NoStartError as error:
                if self.objective == "fixed-draws":
                    raise
                reason = f"stochastic gradients: {error}"
                warnings.warn(f"SVI takes {reason}", stacklevel=3)
        chains = [
            make_chain(self, model, rows, seed, index, resume, held_out)
            for index in range(self.restarts)
        ]
        batches = Minibatches(seed, self.batch_size, len(rows))
        engine = choose_engine(
            self.compile if self.precision is None else False,
            chains,
            Interpreted(rows, batches, seed, self.clip_norm),
            self.steps,
            self.window,
        )
        for chain in chains:
            chain.plateau.window = self.window or window_of(engine.name, self.steps)

        def solution() -> Solution:
            engine.sync()
            return solution_of(self, chains, engine.name, reason)

        climb(
            chains,
            partial(self.advance, engine),
            solution,
            max_steps=self.steps,
            label=f"SVI {type(model).__name__}",
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
        )
        result = solution()
        lost = [chain for chain in chains if chain.error is not None]
        if len(lost) == len(chains):
            lost[0].error.solution = result  # so that nothing is lost
            raise lost[0].error
        for chain in lost:
            warnings.warn(f"{chain.error}; the other chains went on", stacklevel=3)
        return result

    def solve_many(
        self, model: Model, tables: Sequence[Rows], seed: int
    ) -> list[tuple[Model, Solution] | None]:
        """Fit the model to several data sets of one shape, compiled once and side by side.

        Returns
        -------
        list
            Model and solution of each data set; None for one that has to be fitted alone.
        """
        from ppl_zoo.solvers.svi_many import fit_many

        return fit_many(self, model, tables, seed)

    def advance(self, engine: Any, active: Sequence[SVIChain]) -> int:
        """Take some steps, and say which chains stop; return how many steps."""
        count = engine.advance(active, self.steps)
        for chain in active:
            if chain.stopped == "diverged":
                continue
            if chain.watch is not None:
                engine.sync()
                if chain.watch.review():
                    chain.stopped = "converged"
                    continue
            settled = chain.plateau.review(
                chain.objective, chain.optimizer, partial(engine.vector, chain)
            )
            if settled and self.patience is None:  # rows held out decide where there are any
                chain.stopped = "converged"
            elif len(chain.objective) >= self.steps:
                chain.stopped = "max_steps"
        return count

    def pair(self, model: Model, rows: Rows, held: Collection[str] = ()) -> Pair:
        """Model and guide as programs; the guide's parameters are made.

        ``held`` are the names of a saved fit's parameters, which tell what guide None stood for.
        """
        guide = self.guide
        if guide is None and model.guide is None and "guide.scale_tril_unconstrained" in held:
            guide = "multivariate-normal"
        return make_pair(model, guide, rows, self.batch_size)
