"""``fit``: a model, data and a solver in; a :class:`Fit` out. It alone knows them all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo import solvers
from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import ConvergenceError, DataError, QueryError
from ppl_zoo.evaluation import LatentUse, latent_use
from ppl_zoo.functions import FunctionModel
from ppl_zoo.model import Model
from ppl_zoo.queries import no_latents
from ppl_zoo.solvers.solution import Solution, chain_seed, load_chain, set_seed
from ppl_zoo.tracing import Draws, describe, draw, draw_discrete, predict, trace_program

__all__ = ["Fit", "fit"]

#: rows that `Fit.check` looks at one by one where each has latents of its own
LOOKED_AT = 30


class Fit:
    """A fitted model: what was found, how, and the way to ArviZ.

    Attributes
    ----------
    model, guide
        The model with its best chain's parameters, and the guide (None if there is none).
    solver, seed
        What it was fitted with.
    solution
        The solver's record: parameters of all chains, objective, why each chain stopped.
    seconds
        Time spent fitting.
    """

    def __init__(
        self,
        model: Model,
        solver: Any,
        solution: Solution,
        rows: Rows | None,
        *,
        seed: int,
        seconds: float,
    ) -> None:
        self.model, self.solver, self.solution = model, solver, solution
        self.rows, self.seed, self.seconds = rows, seed, seconds

    @property
    def guide(self) -> Any:
        """The guide program; None where the fit has none."""
        return self.solution.guide

    @property
    def history(self) -> Mapping[str, np.ndarray]:
        """``{"objective": (chain, step)}`` in nats, NaN after the end of a chain."""
        return self.solution.history

    @property
    def objective(self) -> float:
        """Final objective of the best chain, in nats."""
        return float(self.solution.objective[self.solution.best])

    @property
    def stopped(self) -> str:
        """Why the best chain stopped: "converged", "max_steps" or "interrupted"."""
        return self.solution.stopped[self.solution.best]

    def __repr__(self) -> str:
        """Summarise in one line."""
        chains = len(self.solution.stopped)
        return (
            f"Fit({type(self.model).__name__}, {type(self.solver).__name__}"
            f"{' on XLA' if self.solution.engine == 'xla' else ''}, "
            f"objective={self.objective:.4f}, {self.stopped} after "
            f"{self.solution.steps[self.solution.best]} steps, {chains} "
            f"chain{'s' if chains > 1 else ''}, {self.seconds:.1f} s)"
        )

    def data(self) -> tuple[Tensor, ...]:
        """Return the data of the fit.

        Raises
        ------
        QueryError
            If the fit was loaded from a run that does not hold them.
        """
        if self.rows is None:
            raise QueryError("this run holds no data: pass them, zoo.load(path, data=...)")
        return self.rows.all()

    @contextlib.contextmanager
    def chain(self, index: int) -> Iterator[Fit]:
        """Let model and guide have the parameters of one chain for a while."""
        self.show(index)
        try:
            yield self
        finally:
            self.show(self.solution.best)

    def show(self, chain: int) -> None:
        """Put one chain's parameters into model and guide, components in canonical order."""
        load_chain(self.model, self.guide, self.solution.parameters, chain)
        with torch.no_grad():
            # after loading, so that the record keeps the order that the optimizer's state has
            self.model.relabel()

    def draws(self, num_samples: int = 1000, rows: Rows | None = None) -> list[Draws]:
        """Scored draws of the guide, one :class:`Draws` a chain.

        Parameters
        ----------
        num_samples
            Draws a chain.
        rows
            Rows to draw the local latents of; those of the fit by default.
        """
        data = self.data() if rows is None else rows.all()
        guide = no_latents if self.guide is None else self.guide
        out = []
        for index in range(len(self.solution.stopped)):
            with self.chain(index), self._seeded(index), self.model.defaults():
                plate = self.model.find_rows(data)
                given = self._drawn(index, num_samples)
                num = num_samples if given is None else len(next(iter(given.values())))
                out.append(draw(self.model, guide, data, num, plate, latents=given))
        return out

    def replicates(self, num_samples: int = 1000, rows: Rows | None = None) -> list[dict]:
        """Posterior predictive draws of the same rows, ``{site: (draw, ...)}`` a chain."""
        data = self.data() if rows is None else rows.all()
        guide = no_latents if self.guide is None else self.guide
        out = []
        for index in range(len(self.solution.stopped)):
            with self.chain(index), self._seeded(index), self.model.defaults():
                plate = self.model.find_rows(data)
                given = self._drawn(index, num_samples)
                num = num_samples if given is None else len(next(iter(given.values())))
                drawn = predict(self.model, guide, data, num, plate, True, latents=given)
                sites = describe(trace_program(self.model, data))
            out.append({k: v for k, v in drawn.items() if sites[k].kind == "observed"})
        return out

    def posterior(self, num_samples: int = 1000, discrete: bool = False) -> dict[str, Tensor]:
        """Draw the latents from the fitted posterior.

        Parameters
        ----------
        num_samples
            Draws a chain.
        discrete
            Whether to draw the discrete latents that were summed out as well: exactly, given the
            others of each draw. Where the program does not broadcast over draws, as a hidden
            Markov model, that takes some milliseconds a draw.

        Returns
        -------
        dict
            ``{site: (chain, draw, ...)}``; deterministic sites included.
        """
        if self.solution.draws is not None:
            found = {k: v[:, :num_samples] for k, v in self.solution.draws.items()}
        else:
            parts = [d.values for d in self.draws(num_samples)]
            found = {name: torch.stack([p[name] for p in parts]) for name in parts[0]}
        names = [n for n in self.solution.summed_out if n not in found]
        return found | self._discrete(found, names) if discrete and names else found

    def _discrete(self, found: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Draw sites that were summed out, given the draws of all others."""
        parts, data = [], self.data()
        for index in range(len(self.solution.stopped)):
            with self.chain(index), self._seeded(index), self.model.defaults():
                own = {k: v[index].to(self.model.device) for k, v in found.items()}
                plate = self.model.find_rows(data)
                parts.append(draw_discrete(self.model, data, own, names, plate))
        return {name: torch.stack([p[name] for p in parts]) for name in names}

    def _drawn(self, chain: int, num_samples: int) -> dict[str, Tensor] | None:
        """Latents that a sampler drew, at even distances; None where the guide draws."""
        draws = self.solution.draws
        if draws is None:
            return None
        names = {n for n, s in self.model.sites(*self.data()).items() if s.kind == "latent"}
        available = next(iter(draws.values())).shape[1]
        picked = torch.linspace(0, available - 1, min(num_samples, available)).round().long()
        return {k: v[chain][picked].to(self.model.device) for k, v in draws.items() if k in names}

    def log_weights(self, num_samples: int = 4000) -> Tensor:
        """Log importance weights of the guide's draws, ``(chain, draw)``.

        Raises
        ------
        QueryError
            If a sampler made the draws: they have no weights.
        """
        if self.solution.draws is not None:
            raise QueryError(
                f"{type(self.solver).__name__} draws from the posterior itself: there are no "
                "importance weights, look at R-hat and divergences"
            )
        return torch.stack([d.log_weight for d in self.draws(num_samples)])

    def khat(self, num_samples: int = 4000) -> np.ndarray:
        """Pareto k-hat of the importance weights, one a chain; above 0.7 the guide is poor.

        Yao et al. 2018 (https://arxiv.org/abs/1802.02538). NaN where the weights are constant:
        the guide is then exact, or there is nothing latent.
        """
        from ppl_zoo.diagnostics.khat import khat

        return np.array([khat(w) for w in self.log_weights(num_samples)])

    def check(self, reference: Any = None, *, num_samples: int = 4000) -> Any:
        """Say how good the answer is.

        Parameters
        ----------
        reference
            None; a sampler, ``zoo.NUTS()``, which is then run on the same model and data; a fit;
            or posterior draws ``{site: (chain, draw, ...)}``.
        num_samples
            Draws a chain.

        Returns
        -------
        Check
            Prints as a table with a verdict; ``.passed``, ``.verdict``, ``.plot()``. See
            :mod:`ppl_zoo.diagnostics.checking` for what is measured and the limits.
        """
        from ppl_zoo.diagnostics.checking import check_draws

        rows, use = self._looked_at()
        if hasattr(reference, "solve"):
            own = self.model.fresh()
            own.load_state_dict(self.model.state_dict())
            own.remember(self.rows, self.guide)
            reference = fit(
                own,
                self.data() if rows is None else rows.all(),
                reference,
                device=self.model.device,
                seed=self.seed,
                progress=False,
            )
        if isinstance(reference, Fit):
            reference = reference.posterior(10**9 if reference.solution.draws else num_samples)
        if use is None:
            drawn, data = self.posterior(num_samples), self.data()
            sampled = self.solution.draws is not None
            khat = [np.nan] * len(self.solution.stopped) if sampled else self.khat(num_samples)
        else:
            chains = self.draws(num_samples, rows)
            drawn = {k: torch.stack([d.values[k] for d in chains]) for k in chains[0].values}
            khat, data = [_khat_of_rows(d) for d in chains], rows.all()
        sites = self.model.sites(*data)
        observed = {
            name: trace_program(self.model, data).nodes[name]["value"]
            for name, site in sites.items()
            if site.kind == "observed"
        }
        with self.model.defaults():
            best = self.replicates(min(num_samples, 1000), rows)[self.solution.best]
        guide = type(self.guide).__name__
        return check_draws(
            _arrays(drawn),
            khat=khat,
            num_weights=num_samples,
            reference=None if reference is None else _arrays(reference),
            replicates=_arrays(best),
            observed=_arrays(observed),
            mean_field=guide == "AutoNormal",
            active=None if use is None else use.active.cpu().numpy(),
        )

    def _looked_at(self) -> tuple[Rows | None, LatentUse | None]:
        """Choose rows to check, and what their latents carry, under a guide that takes any rows.

        Latents of single rows do not depend on each other there, and there may be millions.
        """
        guide = self.model.guide
        if guide is None or self.guide != guide or self.solution.draws is not None:
            return None, None
        some = self.model.as_rows(self.rows.spread(LOOKED_AT))
        sites = self.model.sites(*some.all()).values()
        latent = [s for s in sites if s.kind == "latent"]
        plate = self.model.rows_plate
        if not latent or not all(s.is_local(plate) for s in latent) or self.solution.summed_out:
            return None, None
        if any(s.discrete for s in latent):
            return None, None
        return some, latent_use(self.model, *self.rows.spread(2000))

    def linear_response(self) -> Any:
        """Covariances that a mean-field fit leaves out; see :mod:`solvers.linear_response`.

        Returns
        -------
        LinearResponse
            ``.mean`` and ``.sd`` by site, ``.covariance`` of all latents, ``.labels`` of its rows.
        """
        from ppl_zoo.solvers.linear_response import linear_response

        with fork_generators(self.model.device), self.model.defaults():
            rows = self.model.as_rows(self.data())
            return linear_response(self.model, rows, self.guide, seed=self.seed)

    def to_arviz(self, num_samples: int = 1000, **options: Any) -> Any:
        """Convert to ArviZ: ``InferenceData`` (0.23) or ``DataTree`` (1.x).

        See :func:`ppl_zoo.diagnostics.to_arviz` for the groups and options.
        """
        from ppl_zoo.diagnostics import to_arviz

        return to_arviz(self, num_samples=num_samples, **options)

    def save(self, path: str | Path, *, include_data: bool | None = None) -> Path:
        """Write the fit to a run directory; see :func:`ppl_zoo.saving.save`."""
        from ppl_zoo.saving import save

        return save(self, path, include_data=include_data)

    @contextlib.contextmanager
    def _seeded(self, chain: int) -> Iterator[None]:
        with fork_generators(self.model.device):
            set_seed(chain_seed(self.seed, chain, -7), self.model.device)
            yield


def _khat_of_rows(draws: Draws) -> float:
    """Pareto k-hat that nine of ten rows are below."""
    from ppl_zoo.diagnostics.khat import khat

    if draws.log_joint_rows is None or draws.log_guide_rows is None:
        return np.nan
    each = [khat(w) for w in (draws.log_joint_rows - draws.log_guide_rows).mT]
    return float(np.nanquantile(each, 0.9)) if np.isfinite(each).any() else np.nan


def _arrays(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {k: np.asarray(v.cpu() if isinstance(v, Tensor) else v) for k, v in tensors.items()}


def fork_generators(device: torch.device) -> Any:
    """Leave the caller's random state as it was."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)


def pick_device(device: str | torch.device) -> torch.device:
    """Resolve "auto": a GPU where there is one.

    Raises
    ------
    DataError
        If the device asked for is not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"device: got {device!r}, which is not available here: {error}") from error
    return torch.device(device)


def default_solver(model: Model) -> Any:
    """Make the solver that the model names as its own."""
    name, options = model.default_solver
    return getattr(solvers, name)(**options)


def fit(
    model: Any,
    data: Any,
    solver: Any = None,
    *,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 30.0,
    resume: Fit | str | Path | None = None,
) -> Fit:
    """Fit a model to data.

    Parameters
    ----------
    model
        A :class:`~ppl_zoo.Model`; fitted in place. Or a plain Pyro function, whose ``pyro.param``
        and ``pyro.module`` are fitted as well; ``fit.model`` then wraps it.
    data
        Tensor or array ``(num_rows, ...)``, a tuple or mapping of them in the order of the
        arguments of ``model``, or a :class:`~ppl_zoo.data.Dataset` (its ``train``; its ``valid``
        for early stopping). Memory-mapped arrays are read a chunk at a time.
    solver
        ``zoo.SVI(...)``, ``zoo.EM(...)``, ``zoo.NUTS(...)``; None for the model's own default.
    device
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".
    seed
        Makes the fit repeatable; the caller's random state is left alone.
    progress
        Show a progress bar; silent in any case where there is no terminal.
    checkpoint
        Run directory to save to while fitting (every ``checkpoint_seconds``) and at the end.
    resume
        A fit, or its run directory, to go on from: the result is that of a fit that was never
        interrupted. ``solver`` may be left out then.

    Returns
    -------
    Fit
        Also after Ctrl-C: with what was reached, and ``fit.stopped == "interrupted"``.

    Raises
    ------
    DataError
        If the model cannot take the data.
    ConvergenceError
        If the objective becomes non-finite, or EM lowers it.
    """
    if not isinstance(model, Model):
        if not callable(model) or isinstance(model, type):
            raise DataError(
                f"model: got {model!r}, expected a zoo.Model or a function with pyro.sample in it"
            )
        model = FunctionModel(model)
    before: Fit | None = None
    if resume is not None:
        from ppl_zoo.saving import load

        before = resume
        if not isinstance(resume, Fit):
            before = load(resume, model=model, data=data, solver=solver)
        if type(before.model) is not type(model):
            raise DataError(
                f"resume: got a fit of {type(before.model).__name__}, "
                f"expected one of {type(model).__name__}"
            )
        solver = before.solver if solver is None else solver
        seed = before.seed
    solver = default_solver(model) if solver is None else solver
    if not hasattr(solver, "solve"):
        raise DataError(f"solver: got {solver!r}, expected zoo.SVI(...), zoo.EM(...), ...")
    model.to(pick_device(device))
    rows = model.as_rows(getattr(data, "train", data))
    model.check_data(rows)
    held_out = {}
    if getattr(solver, "patience", None) is not None and getattr(data, "valid", None) is not None:
        held_out["valid"] = model.as_rows(data.valid)
        model.check_data(held_out["valid"])
    with fork_generators(model.device), model.defaults():
        model.find_rows(rows)
    started = time.perf_counter()
    spent = 0.0 if before is None else before.seconds

    def wrap(solution: Solution) -> Fit:
        seconds = spent + time.perf_counter() - started
        return Fit(model, solver, solution, rows, seed=seed, seconds=seconds)

    keep = None if checkpoint is None else lambda solution: wrap(solution).save(checkpoint)
    try:
        with fork_generators(model.device), model.defaults():
            solution = solver.solve(
                model,
                rows,
                seed=seed,
                progress=progress,
                resume=None if before is None else before.solution,
                checkpoint=keep,
                checkpoint_seconds=checkpoint_seconds,
                **held_out,
            )
    except ConvergenceError as error:
        if error.solution is not None:
            error.fit = wrap(error.solution)
        raise
    done = wrap(solution)
    done.show(solution.best)
    model.remember(rows, solution.guide)
    if keep is not None:
        keep(solution)
    return done
