"""Markov chain of order k: the next state depends on the last k."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.discrete.tabular import CountedModel

__all__ = ["MarkovChain"]

MAX_CELLS = 2**26
MAX_DENSE_PASTS = 1024  # up to which stationary() squares the transition matrix
ROWS_PER_CHUNK = 65_536


class MarkovChain(CountedModel):
    """Markov chain of order k over S states.

    Generative model::

        initial_t[past]      ~ Dirichlet(concentration)    for each past of the first k states
        transition[past]     ~ Dirichlet(concentration)    for each past of k states
        x[t]                 ~ Categorical(initial_t[x[0], ..., x[t-1]])       for t < k
        x[t]                 ~ Categorical(transition[x[t-k], ..., x[t-1]])    then

    Parameters
    ----------
    num_states
        Number of states S.
    order
        Number of states k that the next one depends on; 0 for independent states.
    concentration
        Dirichlet prior: 1 for maximum likelihood, 2 adds one to every count.
    bayesian
        Whether the tables are latent variables; their posterior is then exact, a Dirichlet.

    Notes
    -----
    x is ``(n, T)``: one sequence per row, states 0 ... S-1; shorter sequences end in NaN (or -1).
    The density is that of the states before the end, given the length. S^k (S - 1) free
    parameters for the transitions, S^k - 1 for the initial states.

    References
    ----------
    Markov 1913, An example of statistical investigation of the text Eugene Onegin. Shannon 1948,
    A mathematical theory of communication, section 3,
    https://doi.org/10.1002/j.1538-7305.1948.tb01338.x.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> chain = zoo.MarkovChain(num_states=2)
    >>> fit = zoo.fit(chain, torch.tensor([[0, 1, 1, 0, 1, 1, 0]]), progress=False)
    >>> chain.table("transition").tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    >>> [round(p, 4) for p in chain.stationary().tolist()]
    [0.3333, 0.6667]
    """

    queries = {"log_prob": "exact", "sample": "exact", "encode": "none"}
    event_dims = {"transition": ("past", "state"), "x": ("time",)}
    allow_missing = True

    def __init__(
        self,
        num_states: int,
        order: int = 1,
        *,
        concentration: float = 1.0,
        bayesian: bool = False,
    ) -> None:
        super().__init__(bayesian)
        if num_states < 2:
            raise DataError(f"num_states: got {num_states}, expected 2 or more")
        if order < 0 or num_states ** (order + 1) > MAX_CELLS:
            raise DataError(
                f"order: got {order} for {num_states} states, expected 0 or more and a table of "
                f"{MAX_CELLS} cells at most"
            )
        self.num_states, self.order = num_states, order
        for t in range(order):
            self.add_table(f"initial_{t}", (num_states**t, num_states), concentration)
        self.add_table("transition", (num_states**order, num_states), concentration)

    def model(self, x: Tensor) -> None:
        """Draw every sequence; ``x (n, T)``."""
        chain = self._distribution(self.draw_tables(), x.shape[-1])
        with self.observations("sequences", x):
            pyro.sample("x", chain, obs=x)

    def _distribution(self, tables: Mapping[str, Tensor], length: int) -> SequenceDistribution:
        """Distribution of a sequence."""
        return SequenceDistribution([tables[name] for name in self.table_names], length)

    def log_likelihood(self, tables: Mapping[str, Tensor], x: Tensor) -> Float[Tensor, " n"]:
        """Log probability of each sequence, the sum over its transitions."""
        return self._distribution(tables, x.shape[-1]).log_prob(x)

    def num_states_of(self, argument: str) -> Sizes:
        """States of the chain, the same at each step."""
        return self.num_states

    def check_data(self, rows: Rows) -> None:
        """Refuse other shapes than ``(n, T)``, unknown states, and gaps inside a sequence."""
        shape = rows.sizes()[0]
        if len(shape) != 2 or shape[1] == 0:
            raise DataError(f"x: got shape {shape}, expected (n, T)")
        for (x,) in rows.chunks(ROWS_PER_CHUNK):
            _check_sequences(x, self.num_states)

    @torch.no_grad()
    def sample(
        self, num_samples: int, given: Any = None, *, length: int | None = None
    ) -> Float[Tensor, "n t"]:
        """Draw sequences, or continuations of given ones.

        Parameters
        ----------
        num_samples
            Number of sequences.
        given
            Their first states, ``(t,)`` or ``(num_samples, t)``.
        length
            Number of states, those given included; by default that of the data of the fit.

        Returns
        -------
        Tensor
            ``(num_samples, length)``.
        """
        start = torch.empty(num_samples, 0, device=self.device)
        if given is not None:
            start = torch.as_tensor(given, device=self.device)
            if start.ndim not in (1, 2) or (start.ndim == 2 and len(start) != num_samples):
                raise DataError(
                    f"given: got shape {tuple(start.shape)}, expected (t,) or ({num_samples}, t)"
                )
            start = start.expand(num_samples, start.shape[-1])
            _check_sequences(start, self.num_states, gaps="none")
        if length is None:
            if self.example is None:
                raise DataError("length: got None before a fit, expected the number of states")
            length = max(self.example[0][0].shape[-1], start.shape[-1])
        if length < max(1, start.shape[-1]):
            raise DataError(f"length: got {length}, expected {max(1, start.shape[-1])} or more")
        return self._distribution(self.tables(), length).continue_from(start.long())

    @torch.no_grad()
    def stationary(self) -> Float[Tensor, " s"]:
        """Stationary distribution of the states, ``(S,)``: that reached from the initial states.

        The lazy chain (I + P) / 2 has the same stationary distributions and is aperiodic: its
        powers, by repeated squaring, always converge.
        """
        tables = [t.double() for t in self.tables().values()]
        if self.order == 0:
            return self.table("transition")[0].detach()
        pasts = tables[0]
        for table in tables[1:-1]:
            pasts = (pasts.mT * table).flatten()[None]
        pasts, states = pasts[0], self.num_states
        transition = tables[-1]
        if len(pasts) > MAX_DENSE_PASTS:
            return self._stationary_by_arnoldi(pasts, transition)
        index = torch.arange(len(pasts), device=pasts.device)
        matrix = 0.5 * torch.eye(len(pasts), dtype=pasts.dtype, device=pasts.device)
        after = (index[:, None] * states + index[None, :states]) % len(pasts)
        matrix.scatter_add_(1, after, 0.5 * transition)
        for _ in range(50):
            matrix = matrix @ matrix
            # or rounding errors would grow from square to square
            matrix = matrix / matrix.sum(-1, keepdim=True)
        return (pasts @ matrix).reshape(-1, states).sum(0).to(self.dtype)

    def _stationary_by_arnoldi(self, pasts: Tensor, transition: Tensor) -> Tensor:
        """Leading eigenvector of the lazy chain, for too many pasts to build its matrix."""
        from scipy.sparse.linalg import LinearOperator, eigs

        start, table = pasts.cpu().numpy(), transition.cpu().numpy()

        def step(p: np.ndarray) -> np.ndarray:
            p = p.ravel()
            return 0.5 * (p + (p[:, None] * table).reshape(self.num_states, -1).sum(0))

        lazy = LinearOperator((len(start), len(start)), matvec=step, dtype=np.float64)
        vector = np.abs(eigs(lazy, k=1, which="LR", v0=start, tol=1e-10)[1][:, 0].real)
        share = vector.reshape(-1, self.num_states).sum(0) / vector.sum()
        return torch.as_tensor(share, dtype=self.dtype, device=self.device)


class SequenceDistribution(TorchDistribution):
    """Distribution of the sequences of a Markov chain of order k.

    Parameters
    ----------
    tables
        k tables ``(..., S^t, S)`` of the first states given those before, then the transitions
        ``(..., S^k, S)``.
    length
        Number of states in a sequence.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, tables: Sequence[Tensor], length: int) -> None:
        self.tables, self.length = list(tables), length
        shape = torch.broadcast_shapes(*(t.shape[:-2] for t in tables))
        super().__init__(shape, torch.Size([length]), validate_args=False)

    @property
    def _order(self) -> int:
        return len(self.tables) - 1

    def expand(self, batch_shape: Any, _instance: Any = None) -> SequenceDistribution:
        """Expand to a larger batch."""
        tables = [t.expand(*batch_shape, *t.shape[-2:]) for t in self.tables]
        return SequenceDistribution(tables, self.length)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of sequences ``(..., length)``, which end where NaN or -1 begins."""
        observed = value >= 0
        states = torch.where(observed, value, 0).long()
        num_states, total = self.tables[-1].shape[-1], 0.0
        past = torch.zeros(states.shape[:-1], dtype=torch.long, device=states.device)
        for t, table in enumerate(self.tables[:-1][: self.length]):
            step = _cells(table, (past * num_states + states[..., t]).unsqueeze(-1))
            total = total + torch.where(observed[..., t : t + 1], step, 1.0).log().sum(-1)
            past = past * num_states + states[..., t]
        if self.length > self._order:
            code = torch.zeros_like(states[..., self._order :])
            for lag in range(self._order + 1):
                code = code * num_states + states[..., lag : self.length - self._order + lag]
            step = _cells(self.tables[-1], code)
            total = total + torch.where(observed[..., self._order :], step, 1.0).log().sum(-1)
        return total

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw sequences."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            if not self.batch_shape:
                start = torch.empty(math.prod(shape), 0, dtype=torch.long, device=self._device)
                return self.continue_from(start).reshape(*shape, self.length)
            flat = [t.expand(*self.batch_shape, *t.shape[-2:]).flatten(0, -3) for t in self.tables]
            chains = [SequenceDistribution(own, self.length) for own in zip(*flat, strict=True)]
            drawn = torch.stack([chain.sample(sample_shape) for chain in chains], -2)
            return drawn.reshape(*shape, self.length)

    @property
    def _device(self) -> torch.device:
        return self.tables[-1].device

    def continue_from(self, start: Tensor) -> Tensor:
        """Draw continuations of sequences ``start (n, t)``; for a single chain."""
        num_states, columns = self.tables[-1].shape[-1], list(start.unbind(-1))
        for t in range(start.shape[-1], self.length):
            table = self.tables[min(t, self._order)]
            past = torch.zeros(len(start), dtype=torch.long, device=start.device)
            for column in columns[max(0, t - self._order) : t]:
                past = past * num_states + column
            columns.append(torch.multinomial(table[past], 1)[:, 0])
        return torch.stack(columns, -1).to(self.tables[-1].dtype)


def _cells(table: Tensor, code: Tensor) -> Tensor:
    """Cells of tables ``(..., R, S)`` at flat codes ``(..., T)``."""
    flat = table.flatten(-2)
    if flat.ndim == 1:
        return flat[code]
    if flat.shape[-2] == 1 and code.ndim <= 2:  # the plate of rows: one table for all
        return flat.squeeze(-2)[..., code]
    shape = torch.broadcast_shapes(flat.shape[:-1], code.shape[:-1])
    flat = flat.expand(*shape, flat.shape[-1])
    return flat.gather(-1, code.expand(*shape, code.shape[-1]))


def _check_sequences(x: Tensor, num_states: int, gaps: str = "end") -> None:
    """Refuse unknown states, and gaps before the end of a sequence.

    Parameters
    ----------
    x
        Sequences ``(n, T)``.
    num_states
        Number of states.
    gaps
        "end" if sequences may end in NaN or -1, "none" if not.

    Raises
    ------
    DataError
        At the first such state, with its place.
    """
    x = x.double()
    missing = x.isnan() | (x == -1)
    states = (x == x.floor()) & (x >= 0) & (x < num_states)
    ended = missing.cumsum(-1) > 0  # from the first gap on
    bad = ~states if gaps == "none" else torch.where(ended, ~missing, ~states)
    if gaps == "end" and x.shape[-1]:
        bad[:, 0] |= missing[:, 0]
    if bool(bad.any()):
        row, time = bad.nonzero()[0].tolist()
        rest = "" if gaps == "none" else ", with NaN or -1 after the end of a sequence only"
        raise DataError(
            f"x: got {x[row, time].item():g} in row {row} at time {time}, expected states 0 to "
            f"{num_states - 1}{rest}"
        )
