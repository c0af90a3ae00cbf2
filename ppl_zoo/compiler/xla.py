"""XLA: a captured graph in JAX, and a block of SVI steps of all chains as one program."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

# JAX would take three quarters of a GPU's memory at its first use
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from ppl_zoo.compiler.capture import Captured
from ppl_zoo.compiler.xla_random import RANDOM
from ppl_zoo.compiler.xla_table import TABLE

__all__ = ["AdamOptions", "LoweringError", "Stepper", "lower", "supports"]

#: compiled blocks by graph and options, so that a second fit of the same shapes starts at once
_BLOCKS: dict[Any, Any] = {}


class LoweringError(RuntimeError):
    """A graph with an operation that the table lacks."""


@dataclass(frozen=True)
class AdamOptions:
    """Options of torch's Adam that the compiled loop follows."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None


def supports(device: torch.device) -> bool:
    """Whether JAX runs on the device that torch has its tensors on."""
    wanted = "cpu" if device.type == "cpu" else "gpu"
    try:
        return bool(jax.devices(wanted))
    except RuntimeError:
        return False


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    return packet.__name__


class _Lowered(torch.fx.Interpreter):
    """Walks an aten graph with JAX arrays; every random operation gets a key of its own."""

    def __init__(self, graph: torch.fx.GraphModule, constants: dict[str, Any], key: Any) -> None:
        super().__init__(graph)
        self.constants, self.key, self.drawn = constants, key, 0

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        name = _name(target)
        if name == "getitem":
            return args[0][args[1]]
        kwargs = {k: v for k, v in kwargs.items() if k not in ("device", "layout", "pin_memory")}
        if name in RANDOM:
            self.drawn += 1
            return RANDOM[name](jax.random.fold_in(self.key, self.drawn), *args, **kwargs)
        return TABLE[name](*args, **kwargs)

    def get_attr(self, target: Any, args: tuple, kwargs: dict) -> Any:
        return self.constants[target]


def to_jax(tensor: Tensor) -> Any:
    """Hand a tensor to JAX, on the same device."""
    if tensor.device.type == "cpu":
        return jnp.asarray(tensor.detach().numpy())
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def to_torch(array: Any, like: Tensor) -> Tensor:
    """Hand an array back."""
    if like.device.type == "cpu":
        return torch.from_numpy(np.array(array)).to(like.dtype)
    return torch.from_dlpack(array).to(like.dtype)


def lower(captured: Captured) -> Callable[..., tuple]:
    """Return ``function(key, *inputs)``, the graph in JAX.

    Raises
    ------
    LoweringError
        If the table lacks an operation; the message names it.
    """
    graph = captured.graph
    names = {_name(n.target) for n in graph.graph.nodes if n.op == "call_function"}
    unknown = sorted(names - TABLE.keys() - RANDOM.keys() - {"getitem"})
    if unknown:
        raise LoweringError(f"XLA has no lowering for the operations {unknown}")
    constants = {
        n.target: to_jax(getattr(graph, n.target)) for n in graph.graph.nodes if n.op == "get_attr"
    }

    def function(key: Any, *inputs: Any) -> tuple:
        return _Lowered(graph, constants, key).run(*inputs, enable_io_processing=False)

    return function


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
    """

    def __init__(
        self,
        captured: Captured,
        data: tuple[Tensor, ...],
        per_row: Sequence[bool],
        options: AdamOptions,
        seed: int,
    ) -> None:
        self.captured, self.per_row, self.options, self.seed = captured, per_row, options, seed
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
            Learning rates ``(step, chain)``.
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
            key = self._key(rates.shape, index)
            if key not in _BLOCKS:
                _BLOCKS[key] = jax.jit(partial(_block, self.loss, self.per_row, self.options))
            dtype = self.state[0][0].dtype
            self.state, losses = _BLOCKS[key](
                self.state,
                self.data,
                jax.random.key(self.seed & 0xFFFFFFFF),
                jnp.asarray(steps, jnp.int32),
                jnp.asarray(rates, dtype),
                jnp.asarray(active),
                None if index is None else jnp.asarray(index, jnp.int32),
            )
            return -np.asarray(losses).T

    def _key(self, shape: tuple, index: Any) -> Any:
        batch = None if index is None else index.shape[-1]
        shapes = tuple((d.shape, str(d.dtype)) for d in self.data)
        return self.identity, shapes, shape[1], batch, self.options, self.wide


def _block(
    loss: Callable[..., tuple],
    per_row: Sequence[bool],
    options: AdamOptions,
    state: tuple,
    data: tuple,
    key: Any,
    first_step: Any,
    rates: Any,
    active: Any,
    index: Any,
) -> tuple:
    """Scan over steps, map over chains."""
    keys = jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(active.shape[0]))

    def one(state: tuple, key: Any, step: Any, rate: Any, moves: Any, rows: Any) -> tuple:
        values, first, second, count = state
        chosen = data
        if rows is not None:
            pairs = zip(data, per_row, strict=True)
            chosen = tuple(d[rows] if split else d for d, split in pairs)
        value, *gradients = loss(jax.random.fold_in(key, step), *values, *chosen)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients))
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        ok = finite & moves
        if options.clip_norm is not None:
            factor = jnp.minimum(1.0, options.clip_norm / (norm + 1e-6))
            gradients = [g * factor for g in gradients]
        count = count + ok
        t = count.astype(rate.dtype)
        b1, b2 = options.beta1, options.beta2
        correct1, correct2 = 1 - b1**t, jnp.sqrt(1 - b2**t)
        moved = []
        for p, m, v, g in zip(values, first, second, gradients, strict=True):
            if options.weight_decay:
                g = g + options.weight_decay * p
            m_new = b1 * m + (1 - b1) * g
            v_new = b2 * v + (1 - b2) * g * g
            p_new = p - rate / correct1 * m_new / (jnp.sqrt(v_new) / correct2 + options.eps)
            pairs = ((p_new, p), (m_new, m), (v_new, v))
            moved.append(tuple(jnp.where(ok, new, old) for new, old in pairs))
        values, first, second = zip(*moved, strict=True)
        return (values, first, second, count), jnp.where(finite, value, jnp.nan)

    def step(carry: tuple, xs: tuple) -> tuple:
        state, number = carry
        rate, rows = xs
        axes = (0, 0, 0, 0, 0, None if rows is None else 0)
        state, losses = jax.vmap(one, axes)(state, keys, number, rate, active, rows)
        return (state, number + 1), losses

    (state, _), losses = jax.lax.scan(step, (state, first_step), (rates, index))
    return state, losses
