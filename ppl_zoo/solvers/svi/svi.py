"""Stochastic variational inference: maximise the evidence lower bound by gradients."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.random import chain_seed, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, read_parameters, stack_chains
from ppl_zoo.core.solver import FitContext, Solver, is_overparameterised
from ppl_zoo.solvers.elbos import ELBOS, make_elbo
from ppl_zoo.solvers.fixed_draws.solver import Choice, NoStartError, solve_with_fixed_draws
from ppl_zoo.solvers.guides import AutoSkewedNormal, copy_guide, make_pair
from ppl_zoo.solvers.loop import (
    pack_chains,
    pad_history,
    raise_if_all_diverged,
    run_chains,
)
from ppl_zoo.solvers.svi.chain import Alternation, SVIChain, named_parameters
from ppl_zoo.solvers.svi.engines import (
    InterpretedEngine,
    Minibatches,
    XLAEngine,
    choose_engine,
    window_of,
)
from ppl_zoo.solvers.svi.objective import choose_objective
from ppl_zoo.solvers.svi.stopping import Plateau, RegularizationPath, ValidationMonitor

__all__ = ["SVI"]

#: steps whose median is reported as the final objective
NUM_STEPS_REPORTED = 100
#: early stopping of rows that ``zoo.fit`` held out: evaluations without a gain, and the least
#: steps between two of them
DEFAULT_PATIENCE, MIN_STEPS_BETWEEN_EVALUATIONS = 10, 10
#: decay of the moving average of the parameters along a path of weight decays
PATH_AVERAGE = 0.98


@options()
@dataclass(frozen=True, repr=False)
class SVI(Solver):
    """Stochastic variational inference (Hoffman et al. 2013; Ranganath et al. 2014).

    Maximises the evidence lower bound over the parameters of the guide and of the model
    together. A model without latent variables is fitted by maximum likelihood. Finite discrete
    latents are summed out (exactly, by ``TraceEnum_ELBO``).

    With fixed draws (sample-average approximation) the bound is averaged over the same
    quasi-random normals throughout and maximised by L-BFGS, preconditioned by Laplace's
    approximation; ``fit.objective`` is then its value for fresh draws. With stochastic gradients
    every step draws anew. ``fit.solution.reason`` says which of the two was taken, and why.

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
        "graph", "importance", "iwae" (a bound for each row, for local latents), or an
        ELBO object: any of Pyro's, or ``zoo.LocalELBO``; or a loss function
        ``loss(model, guide, *data)``, as Pyro's SVI takes it.
    num_particles
        Draws of the guide in each step's estimate.
    guide
        None for the model's own guide; where it has none, a normal: of full rank with fixed
        draws and up to 200 latents, else mean field. Or "normal", "multivariate-normal",
        "low-rank", "delta", "flow" (needs zuko); an autoguide class of Pyro; or a guide program
        with the model's arguments.
    optimizer
        Called with the parameters; returns a torch optimizer. ``torch.optim.Adam`` by default.
        Or one of ``pyro.optim``, with its own learning rate.
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
        Early stopping: evaluations on validation rows (``valid`` of the data set, or rows that
        ``zoo.fit`` held out) without a gain after which a chain stops. The parameters of the
        best evaluation are kept, and choose the best chain. None for 10, where ``zoo.fit``
        holds out rows of its own accord.
    validate_every
        Steps between two evaluations; None for a pass over the data.
    average
        Decay of an exponential moving average of the parameters (0.999, say), which is then
        evaluated and kept; None for none (0.98 along a path of weight decays).
    weight_decay
        Precision of a normal prior on the weights of nets (parameters of two dimensions and
        more but biases), for posterior modes; 0 for maximum likelihood. "path" for a
        regularisation path, from strong to none, stopped and chosen by the validation rows; 0
        where there are none.
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
    weight_decay: float | str = 0.0

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
        decay = self.weight_decay
        if decay != "path" and not (isinstance(decay, (int, float)) and 0 <= decay < math.inf):
            raise ValueError(
                f"SVI: got weight_decay={decay!r}, expected a precision of 0 or more, or 'path'"
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

    def uses_validation(self, model: Model, rows: Rows) -> bool:
        """Whether validation rows stop the fit."""
        return self.patience is not None or is_overparameterised(model, rows)

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Fit ``model`` in place; see :func:`ppl_zoo.fit`."""
        seed, resume = context.seed, context.resume
        if self.patience is not None and context.valid is None:
            raise DataError(
                f"SVI: got patience={self.patience} without validation rows, expected "
                "zoo.fit(validation=0.1), or a data set with valid"
            )
        choice = choose_objective(self, model, rows, seed, resume)
        reason = choice.reason
        if choice.potential is not None:
            try:
                return self.solve_with_fixed_draws(choice, model, rows, context)
            except NoStartError as error:
                if self.objective == "fixed-draws":
                    raise
                reason = f"stochastic gradients: {error}"
                warnings.warn(f"SVI takes {reason}", stacklevel=3)
        chains = [
            _make_chain(self, model, rows, seed, index, resume, context.valid)
            for index in range(self.restarts)
        ]
        batches = Minibatches(seed, self.batch_size, len(rows))
        interpreted = InterpretedEngine(rows, batches, seed, self.clip_norm)
        monitor = chains[0].validation
        every = None if monitor is None or monitor.valid is None else monitor.every
        engine = choose_engine(
            self.compile if self.precision is None else False,
            chains,
            interpreted,
            self.steps,
            every or self.window,
        )
        for chain in chains:
            window = self.window or window_of(engine.name, self.steps, chain.pair.score_function)
            if engine.name == "xla" and every is not None:  # whose blocks end at evaluations
                window = every * math.ceil(window / every)
            chain.plateau.window = window

        def solution() -> Solution:
            engine.sync()
            for chain in chains if engine.name != "interpreted" else ():
                chain.update_statistics(partial(interpreted.data, chain), seed)
            return _solution(self, chains, engine.name, reason)

        run_chains(
            chains,
            partial(self.advance, engine),
            solution,
            max_steps=self.steps,
            label=f"SVI {model.model_name}",
            context=context,
        )
        result = solution()
        raise_if_all_diverged(chains, result)
        return result

    def solve_with_fixed_draws(
        self, choice: Choice, model: Model, rows: Rows, context: FitContext
    ) -> Solution:
        """Fit by fixed draws; see :mod:`ppl_zoo.solvers.fixed_draws.solver`."""
        return solve_with_fixed_draws(
            choice, model, rows, context, restarts=self.restarts, steps=self.steps
        )

    def solve_many(
        self, model: Model, tables: Sequence[Rows], seed: int
    ) -> list[tuple[Model, Solution] | None]:
        """Fit the model to several data sets of one shape, compiled once and side by side.

        Returns
        -------
        list
            Model and solution of each data set; None for one that has to be fitted alone.
        """
        return _fit_many(self, model, tables, seed)

    def advance(self, engine: InterpretedEngine | XLAEngine, active: Sequence[SVIChain]) -> int:
        """Take some steps, and test which chains stop; return the number of steps."""
        count = engine.advance(active, self.steps)
        for chain in active:
            if chain.stopped == "diverged" or not engine.is_due(chain, self.steps):
                continue
            monitor = chain.validation
            validated = monitor is not None and monitor.valid is not None
            on_path = monitor is not None and monitor.path is not None
            # a compiled block that its last step cuts short is none: a fit that goes on from
            # there evaluates where one that never stopped does
            due = (
                not validated or engine.name != "xla" or len(chain.objective) % monitor.every == 0
            )
            if monitor is not None and due:
                engine.sync()
                if monitor.review():
                    chain.stopped = "converged"
                    continue
            # along a path the learning rate stays, since each weight decay has its own plateau
            settled = not on_path and chain.plateau.review(
                chain.objective, chain.optimizer, partial(engine.vector, chain)
            )
            if settled and not validated:  # validation decides where there is any
                chain.stopped = "converged"
            elif len(chain.objective) >= self.steps:
                chain.stopped = "max_steps"
        return count

    def rebuild_guide(self, model: Model, rows: Rows, held: Mapping[str, Tensor]) -> Any:
        """Make the guide of a saved fit again; its parameters tell what guide None stood for."""
        guide = self.guide
        if guide is None and model.guide is not None:
            return model.guide
        if guide is None and "guide.scale_tril_unconstrained" in held:
            guide = "non-centred" if "guide.centring" in held else "multivariate-normal"
        if guide is None and "guide.logits" in held:
            guide = partial(AutoSkewedNormal, num_components=held["guide.logits"].shape[-1])
        return make_pair(model, guide, rows, self.batch_size).guide


# ---- several data sets of one shape: captured and compiled once, side by side ----------------

Found = tuple[Model, Solution] | None


def _fit_many(options: SVI, model: Model, tables: Sequence[Rows], seed: int) -> list[Found]:
    """Fit several data sets; None for one that has to be fitted alone."""
    choice = choose_objective(options, model.fresh(), tables[0], seed)
    if choice.potential is None:
        return _side_by_side(options, choice, model, tables, seed)
    return [
        _with_fixed_draws(options, choice, model, rows, seed + i) for i, rows in enumerate(tables)
    ]


def _with_fixed_draws(options: SVI, choice: Choice, model: Model, rows: Rows, seed: int) -> Found:
    """Fit by fixed draws, the density compiled for all data sets."""
    own = model.fresh()
    if options.initialize:
        set_seed(chain_seed(seed, 0), rows.device)
        with torch.no_grad():
            own.initialize(rows)
    # what the graph holds as constants has to be the same for these data
    constants = dict(choice.potential.problem.model.named_buffers())
    if any(
        not torch.equal(b.cpu().to(constants[k]), constants[k]) for k, b in own.named_buffers()
    ):
        return None
    try:
        solution = options.solve_with_fixed_draws(
            dataclasses.replace(choice, potential=choice.potential.on(rows)),
            own,
            rows,
            FitContext(seed=seed, progress=False),
        )
    except ConvergenceError:
        return None
    return own, solution


def _side_by_side(
    options: SVI, choice: Choice, model: Model, tables: Sequence[Rows], seed: int
) -> list[Found]:
    """Fit by stochastic gradients, one chain for each data set."""
    alone = [None] * len(tables)
    plain = type(options)()
    interpreted_only = ("restarts", "patience", "average", "alternate", "precision")
    if any(getattr(options, name) != getattr(plain, name) for name in interpreted_only):
        return alone
    chains = [
        _make_chain(options, model.fresh(), rows, seed, index, None, None)
        for index, rows in enumerate(tables)
    ]
    batches = Minibatches(seed, options.batch_size, len(tables[0]))
    interpreted = InterpretedEngine(tables[0], batches, seed, options.clip_norm)
    engine = choose_engine(
        options.compile, chains, interpreted, options.steps, options.window, tables
    )
    if engine.name != "xla":
        return alone
    for chain in chains:
        chain.plateau.window = options.window or window_of(engine.name, options.steps)
    run_chains(
        chains,
        partial(options.advance, engine),
        lambda: _solution(options, chains, engine.name, choice.reason),
        max_steps=options.steps,
        label=f"SVI {model.model_name}",
        context=FitContext(seed=seed, progress=False),
    )
    engine.sync()
    return [
        None
        if chain.error is not None
        else (chain.model, _solution(options, [chain], engine.name, choice.reason))
        for chain in chains
    ]


# ---- the record -------------------------------------------------------------------------------


def _solution(options: SVI, chains: list[SVIChain], engine: str, reason: str) -> Solution:
    """Solution of the chains as they stand."""
    own_guide = options.guide is None and chains[0].model.guide is not None
    tensors, values = pack_chains(chains)
    return Solution(
        parameters=stack_chains([_kept_parameters(c) for c in chains]),
        history={"objective": pad_history(chains)},
        objective=np.array([_final_objective(c) for c in chains]),
        stopped=tuple(c.stopped or "interrupted" for c in chains),
        guide=chains[0].model.guide if own_guide else chains[0].guide,
        summed_out=chains[0].pair.summed_out,
        engine=engine,
        state_tensors=tensors,
        state_values={"objective": "stochastic", "reason": reason, **values},
    )


def _kept_parameters(chain: SVIChain) -> dict[str, Tensor]:
    """Parameters of a chain: those that validation kept, or the last."""
    with chain.validation.shown() if chain.validation is not None else nullcontext():
        return read_parameters(chain.model, chain.guide)


def _final_objective(chain: SVIChain) -> float:
    """Median of the last estimates; under validation, its best mean ELBO times the rows."""
    if chain.error is not None or not chain.objective:
        return np.nan
    if chain.validation is not None and chain.validation.score is not None:
        return chain.validation.score * chain.validation.num_rows
    return float(np.median(chain.objective[-NUM_STEPS_REPORTED:]))


# ---- a chain's start --------------------------------------------------------------------------


def _make_chain(
    options: SVI,
    model: Model,
    rows: Rows,
    seed: int,
    index: int,
    resume: Solution | None,
    valid: Rows | None,
) -> SVIChain:
    """Make a chain: model, guide, bound, optimizer and stopping rules, at its start."""
    set_seed(chain_seed(seed, index), rows.device)
    own = model if index == 0 else model.fresh()
    if resume is None and options.initialize:
        with torch.no_grad():
            own.initialize(rows)
    elif index > 0:
        own.load_state_dict(model.state_dict())
    guide = copy_guide(options.guide) if index > 0 else options.guide
    pair = make_pair(own, guide, rows, options.batch_size, index)
    chain = SVIChain(
        index,
        own,
        pair.guide,
        pair=pair,
        elbo=make_elbo(options.elbo, pair, options.num_particles),
    )
    if resume is not None:
        chain.load_solution(resume)  # it may have parameters that appeared later
    named = named_parameters(own, pair.guide)
    chain.parameters = [p for _, p in named]
    chain.num_declared = len(own.declared._parameters)
    if not chain.parameters:
        mend = ""
        if options.guide is None and model.guide is not None:
            mend = (
                ": the model's own guide is a closed form, which its solver updates "
                f"({model.default_solver[0]}); zoo.SVI(guide='normal') takes one with parameters"
            )
        raise ConvergenceError(f"{model.model_name} and its guide have no parameter to fit{mend}")
    chain.precision = options.precision
    chain.optimizer = _make_optimizer(options, named)
    if isinstance(options.optimizer, PyroOptim) and callable(options.optimizer.pt_optim_args):
        chain.optimizer_options = options.optimizer.pt_optim_args
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
    path = None
    if options.weight_decay != 0:
        chain.decayed = tuple(p.ndim > 1 and "bias" not in name for name, p in named)
        if options.weight_decay != "path":
            chain.constant_decay = options.weight_decay
        elif valid is not None:
            path = RegularizationPath(options.patience or DEFAULT_PATIENCE, options.steps)
    if options.average is not None or valid is not None:
        every = math.ceil(len(rows) / (options.batch_size or len(rows)))
        if options.patience is None:
            every = max(every, MIN_STEPS_BETWEEN_EVALUATIONS)
        chain.validation = ValidationMonitor(
            chain,
            chain.parameters,
            pair,
            chain.elbo,
            valid,
            options.patience or DEFAULT_PATIENCE,
            options.validate_every or every,
            PATH_AVERAGE if options.average is None and path is not None else options.average,
            seed,
            len(rows),
            path,
        )
    if resume is not None:
        chain.restore(resume)
    return chain


def _make_optimizer(options: SVI, named: Sequence[tuple[str, Tensor]]) -> torch.optim.Optimizer:
    """Make the optimizer; one of Pyro's may have options by the name of a parameter."""
    parameters = [p for _, p in named]
    if isinstance(options.optimizer, PyroOptim):
        given = options.optimizer
        if given.pt_clip_args or isinstance(given, PyroLRScheduler):
            raise ValueError(
                f"optimizer: got {type(given).__name__} with a schedule or clipping of its own, "
                "expected SVI(schedule=..., clip_norm=...) for these"
            )
        arguments = given.pt_optim_args
        if not callable(arguments):
            return given.pt_optim_constructor(parameters, **arguments)
        groups = [{"params": [p], **arguments(name)} for name, p in named]
        return given.pt_optim_constructor(groups)
    if isinstance(options.optimizer, type):
        return options.optimizer(parameters, lr=options.learning_rate)
    return options.optimizer(parameters)
