"""``Fit``: what a solver found, as draws, replicates and checks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.core.model import Model, no_latents
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution, chain_seed, load_chain, set_seed
from ppl_zoo.core.tracing import Draws, describe, draw, draw_discrete, predict, trace_program

__all__ = ["Fit", "fork_generators"]


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
                plate = self.model.find_data_plate(data)
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
                plate = self.model.find_data_plate(data)
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
                plate = self.model.find_data_plate(data)
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
            :mod:`ppl_zoo.diagnostics.check` for what is measured and the limits.
        """
        from ppl_zoo.fitting.checks import check

        return check(self, reference, num_samples)

    def check_rows(self, *data: Any, reference: Any = None, num_samples: int = 4000) -> Any:
        """Hold the guide's posterior of chosen rows against a sampler's, row by row.

        Parameters
        ----------
        *data
            The rows, as for ``model.model``; not only such as the fit has seen.
        reference
            A sampler, ``zoo.NUTS()``, which is then run on these rows at the fitted parameters.
        num_samples
            Draws of the guide that each row's k-hat is estimated from.

        Returns
        -------
        RowCheck
            Prints as a table; ``.khat``, ``.mean_error``, ``.sd_ratio``, ``.plot()``; ``.guide``
            and ``.reference`` are ArviZ objects of the same variables.

        Raises
        ------
        QueryError
            If the guide cannot be asked about new rows, or draws no continuous latents of them.
        """
        from ppl_zoo.fitting.checks import check_rows

        return check_rows(self, data, reference, num_samples)

    def linear_response(self) -> Any:
        """Covariances that a mean-field fit leaves out; see :mod:`solvers.linear_response`.

        Returns
        -------
        LinearResponse
            ``.mean`` and ``.sd`` by site, ``.covariance`` of all latents, ``.labels`` of its rows.
        """
        from ppl_zoo.solvers.fixed_draws.linear_response import linear_response

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
        """Write the fit to a run directory; see :func:`ppl_zoo.fitting.saving.save`."""
        from ppl_zoo.fitting.saving import save

        return save(self, path, include_data=include_data)

    @contextlib.contextmanager
    def _seeded(self, chain: int) -> Iterator[None]:
        with fork_generators(self.model.device):
            set_seed(chain_seed(self.seed, chain, -7), self.model.device)
            yield


def fork_generators(device: torch.device) -> Any:
    """Leave the caller's random state as it was."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)
