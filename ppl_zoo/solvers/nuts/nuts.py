"""The No-U-Turn Sampler: the reference for approximate posteriors."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler import CaptureError
from ppl_zoo.core.errors import ConvergenceError, DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.posterior import FittedModel, PosteriorDraws
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution
from ppl_zoo.core.solver import FitContext, Solver
from ppl_zoo.solvers.loop import Chain, repeat_parameters, run_chains
from ppl_zoo.solvers.nuts.starts import find_starts, uniform_starts
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["NUTS", "NUTSEngine", "NUTSRecord"]

#: what the options named may be
CHOICES = {
    "backend": ("numpyro", "pyro"),
    "mass_matrix": ("low-rank", "diagonal", "dense"),
    "chain_method": ("auto", "vectorized", "parallel"),
}
#: draws of ``init`` that the chains' starts are picked from
MIN_INIT_DRAWS = 100


@runtime_checkable
class NUTSEngine(Protocol):
    """A sampler that advances all chains; ``iteration`` counts warm-up and draws."""

    name: str
    iteration: int

    def evaluate(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Potential energies and gradients at ``z (chain, point, size)``."""

    def start(self, z: np.ndarray) -> None:
        """Start the chains at ``z (chain, size)``."""

    def advance(self, max_iterations: int) -> dict[str, np.ndarray]:
        """Take some iterations of each chain.

        Returns
        -------
        dict
            Draws "z" on the unconstrained scale ``(chain, iteration, size)``, and statistics
            "lp", "energy", "diverging", "n_steps", "acceptance_rate" and "step_size"
            ``(chain, iteration)``.
        """

    def constrain(self, z: np.ndarray) -> dict[str, Tensor]:
        """Values of the sites at ``z (chain, draw, size)``, ``{site: (chain, draw, ...)}``."""

    def pack(self) -> dict[str, Tensor]:
        """State as tensors, for resuming; empty where the engine cannot resume."""

    def unpack(self, tensors: dict[str, Tensor], z: Tensor, iteration: int) -> None:
        """Restore a packed state; ``z (chain, size)`` shows the shape alone."""


@options()
@dataclass(frozen=True, repr=False)
class NUTS(Solver):
    """The No-U-Turn Sampler (Hoffman & Gelman 2014, https://arxiv.org/abs/1111.4246).

    Draws from the posterior of a model with continuous latents. Finite discrete latents are
    summed out. The model's potential energy and its gradient are captured as one tensor graph,
    which NumPyro's sampler runs in XLA. Parameters of the model
    (``nn.Parameter``) are not sampled: they stay as they are, and a warning names those that
    the posterior depends on, unless ``init`` is a fit, whose parameters are taken.

    Parameters
    ----------
    num_samples, num_warmup
        Draws a chain that are kept, and iterations before them in which step size and mass
        matrix adapt.
    num_chains
        Chains, from different starts.
    backend
        "numpyro", or "pyro" for Pyro's own sampler, some hundred times slower. A model whose
        program has no static graph runs on Pyro's in any case, with a warning.
    target_accept
        Acceptance probability that the step size adapts to; higher means smaller steps.
    max_tree_depth
        At most ``2**max_tree_depth - 1`` leapfrog steps an iteration.
    init
        None to look for starts (see Notes); or a fit of the model, from whose posterior draws
        the chains start. Saved fits do not hold it.
    dense_mass
        The same as ``mass_matrix="dense"``.
    mass_matrix
        "low-rank", a diagonal and the directions that it leaves badly scaled; "diagonal", or
        "dense". All three adapt in the warm-up to the draws and the gradients there, so as to
        minimise the Fisher divergence of a normal density (Seyboldt, Carlson & Carpenter 2026,
        https://arxiv.org/abs/2603.18845). Pyro's sampler has its own, "dense" or else diagonal.
    chain_method
        "vectorized" to run the chains side by side in one program, in which all wait for the
        longest trajectory; "parallel" for one program a chain, on as many cores as there are;
        "auto" chooses by the size of the model.

    Notes
    -----
    Without ``init`` the chains of models of up to 32 latents start at draws of normals that
    Pathfinder finds (Zhang et al. 2022, https://jmlr.org/papers/v23/21-0889.html), those of
    larger ones each at the densest of 20 points, uniform within 2 of 0 on the unconstrained
    scale.

    ``fit.posterior()`` returns the draws on the model's own scale with its deterministic sites,
    but for those that depend on a latent that is summed out; ``fit.solution.sample_stats`` (and
    ArviZ's group) has ``lp``, ``energy``, ``diverging``, ``n_steps``, ``tree_depth``,
    ``acceptance_rate`` and ``step_size``. ``lp`` is the log density on the unconstrained scale,
    Jacobian included, and so is ``fit.history["objective"]``, draw by draw. Ctrl-C keeps the
    draws made so far; one while warming up leaves none. Draws that diverged are counted in one
    warning. A fit with ``resume`` goes on as if it had never stopped, also to more draws.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> schools = zoo.data.load("eight-schools")
    >>> nuts = zoo.NUTS(num_samples=50, num_warmup=50, num_chains=2)
    >>> fit = zoo.fit(zoo.EightSchools(), schools, nuts, progress=False)
    >>> fit.posterior(50)["theta"].shape  # (chain, draw, school)
    torch.Size([2, 50, 8])
    """

    num_samples: int = 1000
    num_warmup: int = 1000
    num_chains: int = 4
    backend: str = "numpyro"
    target_accept: float = 0.8
    max_tree_depth: int = 10
    init: FittedModel | None = None
    dense_mass: bool = False
    mass_matrix: str = "low-rank"
    chain_method: str = "auto"

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        for name in ("num_samples", "num_warmup", "num_chains", "max_tree_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"NUTS: got {name}={getattr(self, name)}, expected 1 or more")
        if not 0 < self.target_accept < 1:
            raise ValueError(
                f"NUTS: got target_accept={self.target_accept}, expected a number within (0, 1)"
            )
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"NUTS: got {name}={getattr(self, name)!r}, expected "
                    + " or ".join(map(repr, allowed))
                )
        if self.init is not None and not isinstance(self.init, FittedModel):
            raise ValueError(f"NUTS: got init={self.init!r}, expected None or a Fit")

    def to_save(self) -> NUTS:
        """Return the options that a saved fit holds: ``init`` is not among them."""
        return dataclasses.replace(self, init=None)

    def solve(self, model: Model, rows: Rows, context: FitContext) -> Solution:
        """Draw from the posterior of ``model``; see :func:`ppl_zoo.fit`."""
        seed, resume = context.seed, context.resume
        self._load_parameters_of_init(model)
        if self.init is None and resume is None:
            model.read_units(rows)
        problem = Unconstrained(model, rows)
        problem.refuse_noise()
        if self.init is None and resume is None:
            self._warn_of_parameters(problem)
        backend = self.backend
        if resume is not None:
            backend = "numpyro" if resume.engine == "xla" else "pyro"
        engine = self._make_engine(problem, seed, backend)
        record = NUTSRecord(problem, engine, self)
        if resume is None:
            engine.start(self._find_start(problem, engine, seed))
        else:
            record.restore(resume)
        chains = [
            Chain(index, model, objective=past.tolist())
            for index, past in enumerate(record.past_log_density)
        ]
        total = self.num_warmup + self.num_samples

        def advance(active: Sequence[Chain]) -> int:
            done = engine.iteration
            block = self._advance(engine)
            if block and done >= self.num_warmup:
                record.add(block)
            for chain in active:
                if block:
                    chain.objective.extend(block["lp"][chain.index].tolist())
                if engine.iteration >= total:
                    chain.stopped = "max_steps"
            return engine.iteration - done

        def solution() -> Solution:
            return record.solution(tuple(c.stopped or "interrupted" for c in chains))

        run_chains(
            chains,
            advance,
            solution,
            max_steps=total,
            label=f"NUTS {model.model_name}",
            context=context,
            runs_to_the_end=True,
        )
        result = solution()
        self._warn_of_divergences(model, result)
        return result

    def solve_many(
        self, model: Model, tables: Sequence[Rows], seed: int
    ) -> list[tuple[Model, Solution]] | None:
        """Draw from the posteriors of several data sets of one shape, all side by side.

        Returns
        -------
        list or None
            Model and solution of each; None where they cannot be drawn together.
        """
        if self.backend != "numpyro" or self.init is not None:
            return None

        try:
            return self._sample_side_by_side(model, tables, seed)
        except (CaptureError, ConvergenceError, ValueError, RuntimeError, NotImplementedError):
            return None  # one by one, each says what is wrong with it

    def _sample_side_by_side(
        self, model: Model, tables: Sequence[Rows], seed: int
    ) -> list[tuple[Model, Solution]]:
        """Draw from the posterior of each data set, the chains of all in one compiled sampler.

        Raises
        ------
        CaptureError, ValueError, RuntimeError
            If XLA cannot run the model.
        ConvergenceError
            If a chain finds no start.
        """
        from ppl_zoo.solvers.nuts.numpyro_engine import NumPyroEngine

        num_chains = self.num_chains
        problem = Unconstrained(model, tables[0])
        problem.refuse_noise()
        data = [table.all() for table in tables for _ in range(num_chains)]
        engine = NumPyroEngine(problem, self.kernel_options(), len(data), seed, data)
        engine.start(uniform_starts(engine.evaluate, len(data), problem.size, seed))
        blocks = []
        while engine.iteration < self.num_warmup + self.num_samples:
            warm = engine.iteration < self.num_warmup
            block = self._advance(engine)
            if not warm:
                blocks.append(block)
        draws = engine.constrain(np.concatenate([block["z"] for block in blocks], 1))
        lp = np.concatenate([block["lp"] for block in blocks], 1).astype(np.float64)
        parameters = repeat_parameters(model, num_chains)
        out = []
        for index in range(len(tables)):
            chains = slice(index * num_chains, (index + 1) * num_chains)
            own_draws = {name: values[chains] for name, values in draws.items()}
            own = model.fresh()
            own.load_state_dict(model.state_dict())
            solution = Solution(
                parameters=parameters,
                history={"objective": lp[chains]},
                objective=lp[chains].mean(1),
                stopped=("max_steps",) * num_chains,
                guide=PosteriorDraws(own, own_draws, data[index * num_chains]),
                summed_out=problem.summed_out,
                engine=engine.name,
                draws=own_draws,
            )
            out.append((own, solution))
        return out

    def kernel_options(self) -> dict[str, Any]:
        """Return the options of a chain, by NumPyro's names."""
        return {
            "num_warmup": self.num_warmup,
            "target_accept_prob": self.target_accept,
            "max_tree_depth": self.max_tree_depth,
            "mass_matrix": "dense" if self.dense_mass else self.mass_matrix,
            "chain_method": self.chain_method,
        }

    def _make_engine(self, problem: Unconstrained, seed: int, backend: str) -> NUTSEngine:
        """Make the engine of a backend; Pyro's where NumPyro's cannot run the model."""
        options = self.kernel_options()
        if backend == "numpyro":
            from ppl_zoo.solvers.nuts.numpyro_engine import NumPyroEngine

            try:
                return NumPyroEngine(problem, options, self.num_chains, seed)
            except CaptureError as error:
                reason = f"a graph stops at {error}"
            except (ValueError, RuntimeError, NotImplementedError) as error:
                reason = str(error)
            warnings.warn(f"NUTS runs on Pyro's sampler, since {reason}", stacklevel=2)
        from ppl_zoo.solvers.nuts.pyro_engine import PyroEngine

        return PyroEngine(problem, options, self.num_chains, seed)

    def _advance(self, engine: NUTSEngine) -> dict[str, np.ndarray]:
        """Take some iterations, of the warm-up or of the draws but not of both."""
        done, total = engine.iteration, self.num_warmup + self.num_samples
        end = self.num_warmup if done < self.num_warmup else total
        return engine.advance(end - done) if done < total else {}

    def _load_parameters_of_init(self, model: Model) -> None:
        """Give the model the parameters of the fit ``init``."""
        if self.init is None or self.init.model is model:
            return
        if type(self.init.model) is not type(model):
            raise DataError(
                f"init: got a fit of {type(self.init.model).__name__}, "
                f"expected one of {model.model_name}"
            )
        model.load_state_dict(self.init.model.state_dict())

    def _find_start(self, problem: Unconstrained, engine: NUTSEngine, seed: int) -> np.ndarray:
        """Choose the first point of each chain, ``(chain, size)``."""
        if self.init is not None:
            return self._start_from_draws(self.init, problem, engine)
        chains, size = self.num_chains, problem.size
        try:
            if engine.name != "xla":  # Pyro's potential takes too long to look around
                return uniform_starts(engine.evaluate, chains, size, seed, num_compared=1)
            dtype = str(problem.model.dtype).removeprefix("torch.")
            return find_starts(engine.evaluate, chains, size, seed, dtype)
        except ConvergenceError as error:
            raise ConvergenceError(f"{problem.model.model_name}: {error}") from None

    def _start_from_draws(
        self, fit: FittedModel, problem: Unconstrained, engine: NUTSEngine
    ) -> np.ndarray:
        """Start the chains from evenly spaced posterior draws of a fit."""
        model = problem.model
        drawn = fit.posterior(max(MIN_INIT_DRAWS, self.num_chains))
        flat = {k: v.flatten(0, 1) for k, v in drawn.items()}
        available = len(next(iter(flat.values())))
        middles = (np.arange(self.num_chains) + 0.5) / self.num_chains
        points = [
            problem.unconstrain({k: v[i].to(model.device, v.dtype) for k, v in flat.items()})
            for i in (middles * available).astype(int)
        ]
        z = torch.stack(points).double().cpu().numpy()
        if all(np.isfinite(a).all() for a in engine.evaluate(z[:, None])):
            return z
        raise ConvergenceError(
            f"{model.model_name}: the density is not finite at the draws of init"
        )

    def _warn_of_parameters(self, problem: Unconstrained) -> None:
        """Name the parameters that the posterior depends on and that are not sampled."""
        fixed = problem.parameters()
        if fixed and problem.model.example is None:  # a fit has not set them either
            shown = ", ".join(fixed[:5]) + (", ..." if len(fixed) > 5 else "")
            warnings.warn(
                f"NUTS does not sample the parameters {shown} of {problem.model.model_name}: "
                "they stay as they are; pass init=fit to take those of a fit",
                stacklevel=2,
            )

    def _warn_of_divergences(self, model: Model, result: Solution) -> None:
        diverging = result.sample_stats.get("diverging")
        if diverging is None or not diverging.any():
            return
        closer = 1 - (1 - self.target_accept) / 4
        warnings.warn(
            f"NUTS: {int(diverging.sum())} of {diverging.size} draws of {model.model_name} "
            "diverged, so that the chains may have left out a part of the posterior; take smaller "
            f"steps (target_accept={closer:.2f}, now {self.target_accept:.2f}), or write the "
            "model in other parameters (a hierarchy non-centred)",
            stacklevel=3,
        )


class NUTSRecord:
    """Draws and sampler statistics that the chains of NUTS have collected.

    Parameters
    ----------
    problem, engine, options
        The density, and what samples from it.

    Attributes
    ----------
    draws
        ``{site: (chain, draw, ...)}`` on the model's own scale.
    stats
        ``{statistic: (chain, draw)}``.
    past_log_density
        Log density of the iterations before a resumed fit, ``(chain, iteration)``, warm-up
        included; NaN where it was not kept.
    """

    def __init__(self, problem: Unconstrained, engine: NUTSEngine, options: NUTS) -> None:
        self.problem, self.engine, self.options = problem, engine, options
        self.draws = {
            name: torch.zeros(options.num_chains, 0, *shape)
            for name, shape in problem.shapes.items()
        }
        self.stats: dict[str, np.ndarray] = {}
        self.past_log_density = np.zeros((options.num_chains, 0))
        self._blocks: list[dict[str, np.ndarray]] = []

    def add(self, block: dict[str, np.ndarray]) -> None:
        """Add a block of iterations; it is constrained when a solution is asked for."""
        self._blocks.append(block)

    def _constrain_blocks(self) -> None:
        """Move the blocks to draws and statistics."""
        if not self._blocks:
            return
        blocks, self._blocks = self._blocks, []
        found = {k: np.concatenate([b[k] for b in blocks], 1) for k in blocks[0]}
        new = self.engine.constrain(found.pop("z"))
        started = next(iter(self.draws.values())).shape[1] > 0
        self.draws = {
            k: torch.cat([self.draws[k].to(v.dtype), v.cpu()], 1) if started else v.cpu()
            for k, v in new.items()
        }
        steps = found["n_steps"].astype(np.int64)
        found["n_steps"] = steps
        found["tree_depth"] = np.floor(np.log2(np.maximum(steps, 1))).astype(np.int64) + 1
        if self.stats:
            found = {k: np.concatenate([self.stats[k], v], 1) for k, v in found.items()}
        self.stats = found

    def restore(self, before: Solution) -> None:
        """Go on from where a solution stands.

        Raises
        ------
        DataError
            If it has other chains or another warm-up, or its state was not kept.
        """
        options, values = self.options, before.state_values
        asked = {"num_chains": options.num_chains, "num_warmup": options.num_warmup}
        held = {k: values.get(k) for k in asked}
        if held != asked:
            raise DataError(f"resume: got a fit with {held}, expected {asked}")
        z = torch.zeros(options.num_chains, self.problem.size, dtype=self.problem.model.dtype)
        self.engine.unpack(before.state_tensors, z, values["iteration"])
        if before.draws is not None:
            self.draws = before.draws
        self.stats = dict(before.sample_stats)
        num_warm = min(values["iteration"], options.num_warmup)
        warmup = np.full((options.num_chains, num_warm), np.nan)
        self.past_log_density = np.concatenate([warmup, before.history["objective"]], 1)

    def solution(self, stopped: tuple[str, ...]) -> Solution:
        """Return the record as a solution, whose guide is the draws."""
        self._constrain_blocks()
        problem, chains = self.problem, self.options.num_chains
        lp = self.stats.get("lp", np.zeros((chains, 0))).astype(np.float64)
        return Solution(
            parameters=repeat_parameters(problem.model, chains),
            history={"objective": lp},
            objective=lp.mean(1) if lp.shape[1] else np.full(chains, np.nan),
            stopped=stopped,
            guide=PosteriorDraws(problem.model, self.draws, problem.data),
            summed_out=problem.summed_out,
            engine=self.engine.name,
            draws=self.draws,
            sample_stats=self.stats,
            state_tensors=self.engine.pack(),
            state_values={
                "iteration": self.engine.iteration,
                "num_chains": chains,
                "num_warmup": self.options.num_warmup,
            },
        )
