"""Blocks of SVI steps of all chains, with Adam, as one XLA program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler.capture import Captured
from ppl_zoo.compiler.xla.lowering import lower, to_jax, to_torch

__all__ = ["AdamOptions", "Stepper"]

#: compiled blocks by graph and options, so that a second fit of the same shapes starts at once
_BLOCKS: dict[Any, Any] = {}
#: Normals of a step up to this many are drawn for a block of steps at once, and parameters up to
#: this many make one vector: a loop over a few numbers is otherwise spent on starting kernels.
FEW = 2048


@dataclass(frozen=True)
class AdamOptions:
    """Options of torch's Adam that the compiled loop follows."""

    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None


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
    """

    def __init__(
        self,
        captured: Captured,
        data: tuple[Tensor, ...],
        per_row: Sequence[bool],
        options: AdamOptions,
        seed: int,
        own: bool = False,
    ) -> None:
        self.captured, self.per_row, self.options, self.seed = captured, per_row, options, seed
        self.own = own
        self.wide = any(t.dtype == torch.float64 for t in (*data, *captured.parameters))
        with self._scope():
            self.loss = lower(captured)
            self.data = tuple(to_jax(t) for t in data)
        self.identity = captured.fingerprint()
        self.state: tuple | None = None

    def _scope(self) -> Any:
        return jax.enable_x64(self.wide)

    def load(self, chains: Sequence[Sequence[tuple[Tensor, Tensor, Tensor, int]]]) -> None:
        """Take (value, first moment, second moment, steps) of every parameter of every chain."""
        with self._scope():
            columns = list(zip(*chains, strict=True))
            values, first, second = (
                tuple(jnp.stack([to_jax(chain[i]) for chain in column]) for column in columns)
                for i in range(3)
            )
            counts = jnp.asarray([chain[0][3] for chain in chains], jnp.int32)
            self.state = (values, first, second, counts)

    def unload(self, like: Sequence[Tensor]) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        """Give the state back as tensors, a list of parameters for each chain."""
        values, first, second, _ = self.state
        num_chains = values[0].shape[0]
        return [
            [
                tuple(to_torch(a[c], tensor) for a in (values[i], first[i], second[i]))
                for i, tensor in enumerate(like)
            ]
            for c in range(num_chains)
        ]

    def counts(self) -> np.ndarray:
        """Count the steps of Adam that each chain has taken, ``(chain,)``."""
        return np.asarray(self.state[3])

    def flat(self, chain: int) -> np.ndarray:
        """All parameters of one chain, as a vector."""
        return np.concatenate([np.asarray(v[chain]).ravel() for v in self.state[0]])

    def run(
        self, steps: Sequence[int], rates: np.ndarray, active: np.ndarray, index: Any = None
    ) -> np.ndarray:
        """Take a block of steps.

        Parameters
        ----------
        steps
            Number of the first step of each chain, for the noise.
        rates
            Learning rate, beta1 and beta2 ``(step, chain, 3)``.
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
            dtype = self.state[0][0].dtype
            with np.errstate(divide="ignore"):  # logarithms, since 1 - 0.999 is little in float32
                rates = np.concatenate([rates, np.log(rates[..., 1:])], -1)
            given = (
                self.data,
                jax.random.key(self.seed & 0xFFFFFFFF),
                jnp.asarray(steps, jnp.int32),
                jnp.asarray(rates, dtype),
                jnp.asarray(active),
                None if index is None else jnp.asarray(index, jnp.int32),
            )
            careful = self.options.clip_norm is not None or not active.all()
            state, losses, sound = self._program(rates.shape, index, careful)(self.state, *given)
            if not (careful or sound):
                # something is not finite: once more from the start, leaving out what it spoils
                program = self._program(rates.shape, index, True)
                state, losses, _ = program(self.state, *given)
            losses = np.asarray(losses)
            self.state = state
            return -losses.T

    def _program(self, shape: tuple, index: Any, careful: bool) -> Callable[..., tuple]:
        key = (*self._key(shape, index), careful)
        if key not in _BLOCKS:
            block = partial(_block, self.loss, self.per_row, self.options, self.own, careful)
            _BLOCKS[key] = jax.jit(block)
        return _BLOCKS[key]

    def _key(self, shape: tuple, index: Any) -> Any:
        batch = None if index is None else index.shape[-1]
        shapes = tuple((d.shape, str(d.dtype)) for d in self.data)
        per_row = tuple(self.per_row)
        return self.identity, shapes, per_row, self.own, shape[1], batch, self.options, self.wide


def _block(
    loss: Callable[..., tuple],
    per_row: Sequence[bool],
    options: AdamOptions,
    own: bool,
    careful: bool,
    state: tuple,
    data: tuple,
    key: Any,
    first_step: Any,
    rates: Any,
    active: Any,
    index: Any,
) -> tuple:
    """Scan over steps, map over chains.

    A careful block looks at each gradient before it moves, clips it, and lets chains rest; the
    other only says at its end whether everything stayed finite, which saves a pass over all
    parameters a step.
    """
    values, first, second, count = state
    shapes = [value.shape[1:] for value in values]
    packed = sum(math.prod(shape) for shape in shapes) <= FEW
    if packed:
        values, first, second = ((_pack(arrays, 1),) for arrays in (values, first, second))
    keys = jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(active.shape[0]))
    steps = first_step + jnp.arange(rates.shape[0])[:, None]
    keys = jax.vmap(jax.vmap(jax.random.fold_in))(jnp.broadcast_to(keys, steps.shape), steps)
    noise = None
    if 0 < loss.num_normals <= FEW:
        draw = partial(jax.random.normal, shape=(loss.num_normals,), dtype=values[0].dtype)
        noise = jax.vmap(jax.vmap(draw))(keys)

    def differentiate(values: tuple, data: tuple, key: Any, noise: Any) -> tuple:
        if not packed:
            value, *gradients = loss(key, *values, *data, noise=noise)
            return value, gradients
        value, *gradients = loss(key, *_unpack(values[0], shapes, 0), *data, noise=noise)
        return value, [_pack(gradients, 0)]

    def one(
        state: tuple, data: tuple, moves: Any, key: Any, noise: Any, rate: Any, rows: Any
    ) -> tuple:
        values, first, second, count = state
        chosen = data
        if rows is not None:
            pairs = zip(data, per_row, strict=True)
            chosen = tuple(d[rows] if split else d for d, split in pairs)
        value, gradients = differentiate(values, chosen, key, noise)
        finite = ok = jnp.asarray(True)
        if careful:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients))
            finite = jnp.isfinite(value) & jnp.isfinite(norm)
            ok = finite & moves
            if options.clip_norm is not None:
                factor = jnp.minimum(1.0, options.clip_norm / (norm + 1e-6))
                gradients = [g * factor for g in gradients]
        count = count + ok
        t = count.astype(rate.dtype)
        rate, b1, b2, log1, log2 = rate
        correct1, correct2 = -jnp.expm1(t * log1), jnp.sqrt(-jnp.expm1(t * log2))
        moved = []
        size = jnp.where(ok, rate / correct1, 0.0)
        widen = jnp.where(ok, 1.0 / correct2, 1.0)
        for p, m, v, g in zip(values, first, second, gradients, strict=True):
            if options.weight_decay:
                g = g + options.weight_decay * p
            # p moves by the moments as they are kept: then XLA need not copy those before
            before = m, v
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            if careful:
                m, v = (jnp.where(ok, new, old) for new, old in zip((m, v), before, strict=True))
            moved.append((p - size * m / (jnp.sqrt(v) * widen + options.eps), m, v))
        values, first, second = zip(*moved, strict=True)
        return (values, first, second, count), jnp.where(finite, value, jnp.nan)

    state, xs = (values, first, second, count), (keys, noise, rates, index)
    if active.shape[0] == 1:
        # a batch of one keeps XLA from its fast matrix product
        state, xs = jax.tree.map(lambda a: a[0], state), jax.tree.map(lambda a: a[:, 0], xs)
        data = jax.tree.map(lambda a: a[0], data) if own else data
        state, losses = jax.lax.scan(lambda s, x: one(s, data, active[0], *x), state, xs)
        state, losses = jax.tree.map(lambda a: a[None], state), losses[:, None]
    else:
        step = jax.vmap(one, (0, 0 if own else None, 0, 0, 0, 0, 0))
        state, losses = jax.lax.scan(lambda s, x: step(s, data, active, *x), state, xs)
    values, first, second, count = state
    # a gradient that is not finite leaves its trace in the moments
    sound = jnp.isfinite(losses).all()
    sound &= jnp.stack([jnp.isfinite(a).all() for a in (*values, *first, *second)]).all()
    if packed:
        values, first, second = (
            tuple(_unpack(arrays[0], shapes, 1)) for arrays in (values, first, second)
        )
    return (values, first, second, count), losses, sound


def _pack(arrays: Sequence[Any], lead: int) -> Any:
    """Join arrays to one vector, their first ``lead`` dimensions kept."""
    return jnp.concatenate([a.reshape(*a.shape[:lead], -1) for a in arrays], -1)


def _unpack(vector: Any, shapes: Sequence[tuple[int, ...]], lead: int) -> list[Any]:
    """Reverse :func:`_pack`."""
    out, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        piece = vector[..., start : start + size]
        out.append(piece.reshape(*vector.shape[:lead], *shape))
        start += size
    return out
