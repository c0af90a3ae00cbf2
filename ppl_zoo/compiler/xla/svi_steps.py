"""Blocks of SVI steps of all chains, with Adam, as one XLA program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler.capture import Captured
from ppl_zoo.compiler.xla.cache import PROGRAMS
from ppl_zoo.compiler.xla.lowering import LoweredGraph, lower, to_jax, to_torch

__all__ = ["AdamOptions", "Stepper"]

#: Normals of a step up to this many are drawn for a block of steps at once, and parameters up to
#: this many make one vector: a loop over a few numbers is otherwise spent on starting kernels.
MAX_PACKED_SIZE = 2048


@dataclass(frozen=True)
class AdamOptions:
    """Options of torch's Adam that the compiled loop follows."""

    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    #: which parameters the decay of a step's rates is for; empty for none
    decayed: tuple[bool, ...] = ()


class Stepper:
    """Runs blocks of SVI steps, all chains side by side, inside one XLA program.

    Parameters
    ----------
    captured
        Loss and gradients.
    data
        All rows, or all rows of which each step takes those of its index.
    per_row
        Which of the data a minibatch indexes.
    options
        Of Adam.
    seed
        Noise is a function of (seed, chain, step).
    own
        Whether each chain has data of its own, in the first dimension of ``data``.
    capacity
        Most steps of a block. Blocks of fewer run the same program; None compiles one for each
        length.
    """

    def __init__(
        self,
        captured: Captured,
        data: tuple[Tensor, ...],
        per_row: Sequence[bool],
        options: AdamOptions,
        seed: int,
        own: bool = False,
        capacity: int | None = None,
    ) -> None:
        self.capacity = capacity
        self.per_row, self.options, self.seed, self.own = tuple(per_row), options, seed, own
        self.wide = captured.wide or any(t.dtype == torch.float64 for t in data)
        with self._scope():
            self.loss = lower(captured)
            self.data = tuple(to_jax(t) for t in data)
        self.identity = captured.fingerprint()
        self.state: _AdamState | None = None
        self._programs: dict[tuple, Callable[..., tuple]] = {}

    def _scope(self) -> AbstractContextManager:
        """JAX's 64-bit mode, where anything is float64."""
        return jax.enable_x64(self.wide)

    def load(self, chains: Sequence[Sequence[tuple[Tensor, Tensor, Tensor, int]]]) -> None:
        """Take (value, first moment, second moment, steps) of every parameter of every chain."""
        with self._scope():
            columns = list(zip(*chains, strict=True))
            values, first, second = (
                tuple(to_jax(torch.stack([chain[i] for chain in column])) for column in columns)
                for i in range(3)
            )
            counts = np.array([chain[0][3] for chain in chains], np.int32)
            self.state = _AdamState(values, first, second, jax.device_put(counts))

    def unload(self, like: Sequence[Tensor]) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        """Give the state back as tensors, a list of parameters for each chain."""
        values, first, second, count = self.state
        columns = [
            [to_torch(a, tensor).unbind() for a in arrays]
            for *arrays, tensor in zip(values, first, second, like, strict=True)
        ]
        # copies, since the tensors of all chains are views of one
        return [
            [tuple(a[chain].clone() for a in column) for column in columns]
            for chain in range(len(count))
        ]

    def counts(self) -> np.ndarray:
        """Count the steps of Adam that each chain has taken, ``(chain,)``."""
        return np.asarray(self.state.count)

    def flat(self, chain: int) -> np.ndarray:
        """All parameters of one chain, as a vector."""
        return np.concatenate([np.asarray(v)[chain].ravel() for v in self.state.values])

    def run(
        self,
        steps: Sequence[int],
        rates: np.ndarray,
        active: np.ndarray,
        index: np.ndarray | None = None,
    ) -> np.ndarray:
        """Take a block of steps.

        Parameters
        ----------
        steps
            Number of the first step of each chain, for the noise.
        rates
            Learning rate, beta1, beta2 and weight decay ``(step, chain, 4)``.
        active
            Chains that move, ``(chain,)``; the others stay.
        index
            Rows of each step's minibatch ``(step, chain, batch)``, None for all rows.

        Returns
        -------
        ndarray
            ELBO before each step ``(chain, step)``; not finite where the step was left out.
        """
        with self._scope():
            with np.errstate(divide="ignore"):  # logarithms, since 1 - 0.999 is little in float32
                rates = np.concatenate([rates, np.log(rates[..., 1:3])], -1)
            count, room = len(rates), max(self.capacity or 0, len(rates))
            rates = _padded(rates, room).astype(self.state.values[0].dtype)
            given = (
                self.data,
                jax.random.key(self.seed & 0xFFFFFFFF),
                np.asarray(steps, np.int32),
                np.int32(count),
                rates,
                active,
                None if index is None else _padded(index, room).astype(np.int32),
            )
            batch_size = None if index is None else index.shape[-1]
            guarded = self.options.clip_norm is not None or not active.all()
            program = self._program(rates.shape[1], batch_size, guarded)
            state, losses, finite = program(self.state, *given)
            if not (guarded or finite):
                # once more from the start, without the steps that are not finite
                program = self._program(rates.shape[1], batch_size, True)
                state, losses, _ = program(self.state, *given)
            losses = np.asarray(losses)[:count]
            self.state = state
            return -losses.T

    def _program(
        self, num_chains: int, batch_size: int | None, guarded: bool
    ) -> Callable[..., tuple]:
        """Return the compiled program; the fit holds it even where the cache has dropped it."""
        shapes = tuple((d.shape, str(d.dtype)) for d in self.data)
        key = (self.identity, shapes, self.per_row, self.own, num_chains, batch_size)
        key = ("SVI steps", *key, self.options, self.wide, guarded)
        if key not in self._programs:
            program = StepProgram(self.loss, self.per_row, self.options, self.own, guarded)
            self._programs[key] = PROGRAMS.get(
                key, lambda: jax.jit(program.run, compiler_options=self.loss.compiler_options)
            )
        return self._programs[key]


class _AdamState(NamedTuple):
    """Parameters, both moments and the number of steps; a tuple has an array a parameter.

    Arrays of all chains have the chain as their first dimension.
    """

    values: tuple[jax.Array, ...]
    first: tuple[jax.Array, ...]
    second: tuple[jax.Array, ...]
    count: jax.Array


@dataclass(frozen=True, eq=False)
class StepProgram:
    """A block of Adam steps (Kingma & Ba 2015): a scan over steps, mapped over chains.

    Parameters
    ----------
    loss
        Minus the ELBO and its gradients.
    per_row
        Which of the data a minibatch indexes.
    options
        Of Adam.
    own
        Whether each chain has data of its own.
    guarded
        Whether each gradient is checked before its step, and clipped, and chains may rest. A
        block that is not only says at its end whether everything stayed finite, which saves a
        pass over all parameters a step.
    """

    loss: LoweredGraph
    per_row: tuple[bool, ...]
    options: AdamOptions
    own: bool
    guarded: bool

    def run(
        self,
        state: _AdamState,
        data: tuple[jax.Array, ...],
        key: jax.Array,
        first_step: jax.Array,
        count: jax.Array,
        rates: jax.Array,
        active: jax.Array,
        index: jax.Array | None,
    ) -> tuple[_AdamState, jax.Array, jax.Array]:
        """Take the steps.

        Parameters
        ----------
        state, data
            As in :class:`Stepper`.
        key
            Of the noise of all chains and steps.
        first_step
            ``(chain,)``.
        count
            How many of the steps, scalar.
        rates
            Learning rate, beta1, beta2, weight decay and the logarithms of the betas
            ``(step, chain, 6)``.
        active
            ``(chain,)``.
        index
            ``(step, chain, batch)`` or None.

        Returns
        -------
        state
            After the last step.
        losses
            Before each step ``(step, chain)``; NaN where the step was left out, or not asked for.
        finite
            Scalar: whether losses, parameters and moments are finite.
        """
        shapes = [value.shape[1:] for value in state.values]
        packed = sum(math.prod(shape) for shape in shapes) <= MAX_PACKED_SIZE
        if packed:
            state = self.pack(state)
        keys = self._keys(key, first_step, rates.shape[0])
        noise = None
        if 0 < self.loss.num_normals <= MAX_PACKED_SIZE:
            draw = partial(
                jax.random.normal, shape=(self.loss.num_normals,), dtype=state.values[0].dtype
            )
            noise = jax.vmap(jax.vmap(draw))(keys)
        one = partial(self._step, shapes if packed else None)
        xs = (keys, noise, rates, index)
        if active.shape[0] == 1:
            # a batch of one keeps XLA from its fast matrix product
            state, xs = jax.tree.map(lambda a: a[0], state), jax.tree.map(lambda a: a[:, 0], xs)
            data = jax.tree.map(lambda a: a[0], data) if self.own else data
            state, losses = _scan(lambda s, x: one(s, data, active[0], *x), state, xs, count)
            state, losses = jax.tree.map(lambda a: a[None], state), losses[:, None]
        else:
            step = jax.vmap(one, (0, 0 if self.own else None, 0, 0, 0, 0, 0))
            state, losses = _scan(lambda s, x: step(s, data, active, *x), state, xs, count)
        # a gradient that is not finite leaves its trace in the moments
        arrays = (*state.values, *state.first, *state.second)
        taken = jnp.arange(len(losses))[:, None] < count
        finite = (jnp.isfinite(losses) | ~taken).all()
        finite &= jnp.stack([jnp.isfinite(a).all() for a in arrays]).all()
        return self.unpack(state, shapes) if packed else state, losses, finite

    def _keys(self, key: jax.Array, first_step: jax.Array, num_steps: int) -> jax.Array:
        """Keys of all steps of all chains, ``(step, chain)``."""
        chains = jnp.arange(first_step.shape[0])
        keys = jax.vmap(lambda chain: jax.random.fold_in(key, chain))(chains)
        steps = first_step + jnp.arange(num_steps)[:, None]
        return jax.vmap(jax.vmap(jax.random.fold_in))(jnp.broadcast_to(keys, steps.shape), steps)

    def pack(self, state: _AdamState) -> _AdamState:
        """Join the parameters of a chain to one vector, and their moments likewise."""
        values, first, second = ((_pack(arrays, 1),) for arrays in state[:3])
        return _AdamState(values, first, second, state.count)

    def unpack(self, state: _AdamState, shapes: Sequence[tuple[int, ...]]) -> _AdamState:
        """Reverse :meth:`pack`."""
        values, first, second = (tuple(_unpack(arrays[0], shapes, 1)) for arrays in state[:3])
        return _AdamState(values, first, second, state.count)

    def _step(
        self,
        shapes: Sequence[tuple[int, ...]] | None,
        state: _AdamState,
        data: tuple[jax.Array, ...],
        active: jax.Array,
        key: jax.Array,
        noise: jax.Array | None,
        rate: jax.Array,
        index: jax.Array | None,
    ) -> tuple[_AdamState, jax.Array]:
        """One step of one chain; ``shapes`` are those of the parameters where they are packed."""
        if index is not None:
            pairs = zip(data, self.per_row, strict=True)
            data = tuple(d[index] if per_row else d for d, per_row in pairs)
        values = state.values if shapes is None else _unpack(state.values[0], shapes, 0)
        loss, *gradients = self.loss(key, *values, *data, noise=noise)
        if self.options.decayed:
            parts = zip(gradients, values, self.options.decayed, strict=True)
            gradients = [g + rate[3] * p if decays else g for g, p, decays in parts]
        if shapes is not None:
            gradients = [_pack(gradients, 0)]
        if self.guarded:
            return self.guarded_adam(state, loss, gradients, active, rate)
        return self.adam(state, gradients, rate), loss

    def guarded_adam(
        self,
        state: _AdamState,
        loss: jax.Array,
        gradients: Sequence[jax.Array],
        active: jax.Array,
        rate: jax.Array,
    ) -> tuple[_AdamState, jax.Array]:
        """Take one step with clipped gradients, or none where the chain rests.

        A step whose loss or gradients are not finite is left out, and its loss becomes NaN.
        """
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        if self.options.clip_norm is not None:
            factor = jnp.minimum(1.0, self.options.clip_norm / (norm + 1e-6))
            gradients = [g * factor for g in gradients]
        state = self.adam(state, gradients, rate, finite & active)
        return state, jnp.where(finite, loss, jnp.nan)

    def adam(
        self,
        state: _AdamState,
        gradients: Sequence[jax.Array],
        rate: jax.Array,
        moves: jax.Array | None = None,
    ) -> _AdamState:
        """Take one step of Adam; none where the scalar ``moves`` is false."""

        def if_moves(new: jax.Array, old: jax.Array | float) -> jax.Array:
            return new if moves is None else jnp.where(moves, new, old)

        count = state.count + (1 if moves is None else moves)
        t = count.astype(rate.dtype)
        rate, b1, b2, _, log1, log2 = rate
        size = if_moves(rate / -jnp.expm1(t * log1), 0.0)
        widen = if_moves(1.0 / jnp.sqrt(-jnp.expm1(t * log2)), 1.0)
        moved = []
        for p, m, v, g in zip(*state[:3], gradients, strict=True):
            if self.options.weight_decay:
                g = g + self.options.weight_decay * p
            # p moves by the moments as they are kept: then XLA need not copy those before
            m, v = if_moves(b1 * m + (1 - b1) * g, m), if_moves(b2 * v + (1 - b2) * g * g, v)
            moved.append((p - size * m / (jnp.sqrt(v) * widen + self.options.eps), m, v))
        return _AdamState(*zip(*moved, strict=True), count)


def _scan(
    step: Callable[[_AdamState, Any], tuple[_AdamState, jax.Array]],
    state: _AdamState,
    xs: Any,
    count: jax.Array,
) -> tuple[_AdamState, jax.Array]:
    """Scan over the first ``count`` of the ``xs``; outputs of the others are NaN."""

    def at(i: Any) -> Any:
        return jax.tree.map(lambda a: a[i], xs)

    def body(i: jax.Array, carry: tuple) -> tuple:
        state, out = step(carry[0], at(i))
        return state, jax.lax.dynamic_update_index_in_dim(carry[1], out, i, 0)

    like = jax.eval_shape(step, state, at(0))[1]
    room = jnp.full((len(jax.tree.leaves(xs)[0]), *like.shape), jnp.nan, like.dtype)
    return jax.lax.fori_loop(0, count, body, (state, room))


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows, with zeros after them."""
    return np.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1))


def _pack(arrays: Sequence[jax.Array], lead: int) -> jax.Array:
    """Join arrays to one vector, their first ``lead`` dimensions kept."""
    return jnp.concatenate([a.reshape(*a.shape[:lead], -1) for a in arrays], -1)


def _unpack(vector: jax.Array, shapes: Sequence[tuple[int, ...]], lead: int) -> list[jax.Array]:
    """Reverse :func:`_pack`."""
    out, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        piece = vector[..., start : start + size]
        out.append(piece.reshape(*vector.shape[:lead], *shape))
        start += size
    return out
