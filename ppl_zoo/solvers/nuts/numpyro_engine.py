"""NUTS engine: NumPyro's kernel on a captured potential, all chains side by side, in blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpyro.infer.hmc import HMCState, hmc
from torch import Tensor

from ppl_zoo.compiler.xla.cache import PROGRAMS
from ppl_zoo.compiler.xla.potential import CapturedPotential
from ppl_zoo.core.functions import user_programs
from ppl_zoo.core.random import chain_seed
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["NumPyroEngine"]

#: iterations of a block, and numbers in the draws of one
MAX_ITERATIONS_PER_BLOCK, MAX_NUMBERS_PER_BLOCK = 250, 2**22
#: iterations of the first block, before it is known how long one takes
FIRST_ITERATIONS = 10
#: time that a block should take, so that the progress bar and Ctrl-C are prompt
SECONDS_PER_BLOCK = 0.5

Arrays = tuple[jax.Array, ...]
KernelOptions = dict[str, int | float | bool]


class _Sampler:
    """Compiled functions of one potential; data and state are their arguments.

    Parameters
    ----------
    captured
        The potential.
    options
        Of NumPyro's kernel.
    block
        Iterations of a block.
    own
        Whether each chain has its own data, stacked in the first dimension.
    """

    def __init__(
        self, captured: CapturedPotential, options: KernelOptions, block: int, own: bool
    ) -> None:
        data_axis = 0 if own else None
        # these alone: a sampler that is cached must not hold the data
        potential, constrained = captured.potential, captured.values

        def generate(*data: Any) -> Any:
            return lambda z: potential(z, *data)

        init, sample = hmc(potential_fn_gen=generate, algo="NUTS")

        def start(z: jax.Array, keys: jax.Array, data: Arrays) -> HMCState:
            def one(z: jax.Array, key: jax.Array, data: Arrays) -> HMCState:
                return init(z, trajectory_length=None, model_args=data, rng_key=key, **options)

            # one iteration counter for all chains: with one each, vmap would run both branches
            # of what depends on it
            state = jax.vmap(one, (0, 0, data_axis))(z, keys, data)
            return state._replace(i=state.i[0])

        axes = HMCState(*[None if f == "i" else 0 for f in HMCState._fields])
        step = jax.vmap(sample, in_axes=(axes, data_axis), out_axes=axes)

        def run(
            state: HMCState, count: int | jax.Array, data: Arrays
        ) -> tuple[HMCState, dict[str, jax.Array]]:
            shapes = jax.eval_shape(_statistics, state)
            kept = {k: jnp.zeros((block, *v.shape), v.dtype) for k, v in shapes.items()}

            def body(i: int | jax.Array, carry: tuple) -> tuple:
                state, kept = carry
                step_size = state.adapt_state.step_size  # of this iteration, before it adapts
                state = step(state, data)
                found = _statistics(state) | {"step_size": step_size}
                return state, {k: kept[k].at[i].set(v) for k, v in found.items()}

            return jax.lax.fori_loop(0, count, body, (state, kept))

        def gradients(z: jax.Array, data: Arrays) -> tuple[jax.Array, jax.Array]:
            def one(z: jax.Array, data: Arrays) -> tuple[jax.Array, jax.Array]:
                return jax.value_and_grad(generate(*data))(z)

            return jax.vmap(one, (0, data_axis))(z, data)

        def values(z: jax.Array, data: Arrays) -> dict[str, jax.Array]:
            one_chain = jax.vmap(lambda z, data: constrained(z, *data), (0, None))
            return jax.vmap(one_chain, (0, data_axis))(z, data)

        jit = partial(jax.jit, compiler_options=captured.compiler_options)
        self.start, self.run = jit(start), jit(run)
        self.gradients, self.values = jit(gradients), jit(values)


def _statistics(state: HMCState) -> dict[str, Any]:
    """Position and sampler statistics of a state."""
    return {
        "z": state.z,
        "lp": -state.potential_energy,
        "energy": state.energy,
        "diverging": state.diverging,
        "n_steps": state.num_steps,
        "acceptance_rate": state.accept_prob,
        "step_size": state.adapt_state.step_size,
    }


class NumPyroEngine:
    """NumPyro's NUTS, compiled by XLA; a :class:`ppl_zoo.solvers.nuts.nuts.NUTSEngine`.

    Parameters
    ----------
    problem
        The density.
    options
        ``num_warmup``, ``target_accept_prob``, ``max_tree_depth`` and ``dense_mass`` of NumPyro.
    num_chains, seed
        Each chain's noise is a function of (seed, chain).
    tables
        Data of each chain, alike in shape; None where all have those of the problem.

    Raises
    ------
    CaptureError
        If the model has no static graph.
    ValueError, RuntimeError
        If XLA cannot run it; says why.
    """

    name = "xla"

    def __init__(
        self,
        problem: Unconstrained,
        options: KernelOptions,
        num_chains: int,
        seed: int,
        tables: Sequence[tuple[Tensor, ...]] | None = None,
    ) -> None:
        from ppl_zoo.compiler.xla import lowering

        model = problem.model
        if not lowering.supports(model.device):
            raise ValueError(f"JAX does not run on {model.device} here")
        self.problem, self.seed, self.num_chains = problem, seed, num_chains
        z = torch.zeros(problem.size, dtype=model.dtype, device=model.device)
        self.captured = CapturedPotential(
            problem.energy, problem.values, z, problem.data, user_programs(problem.model)
        )
        most = MAX_NUMBERS_PER_BLOCK // (num_chains * problem.size)
        self.block = max(1, min(MAX_ITERATIONS_PER_BLOCK, most))
        self.options, self.iteration = options, 0
        self.state: HMCState | None = None
        self.count = min(FIRST_ITERATIONS, self.block)
        own = tables is not None
        key = ("NUTS", self.captured.identity, num_chains, self.block, own, tuple(options.items()))
        with self.captured.scope():
            self.data = self.captured.data
            if own:
                self.data = tuple(
                    lowering.to_jax(torch.stack(d)) for d in zip(*tables, strict=True)
                )
        self.sampler = PROGRAMS.get(key, lambda: _Sampler(self.captured, options, self.block, own))

    def finite(self, z: Tensor) -> np.ndarray:
        """Whether potential and gradient are finite at ``z (chain, size)``, ``(chain,)``."""
        with self.captured.scope():
            value, gradient = map(np.asarray, self.sampler.gradients(z.numpy(), self.data))
        return np.isfinite(value) & np.isfinite(gradient).all(-1)

    def start(self, z: Tensor) -> None:
        """Start the chains at ``z (chain, size)``."""
        seeds = [chain_seed(self.seed, c) & 0xFFFFFFFF for c in range(self.num_chains)]
        with self.captured.scope():
            keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
            self.state = self.sampler.start(z.numpy(), keys, self.data)

    def advance(self, max_iterations: int) -> dict[str, np.ndarray]:
        """Take a block of iterations; arrays ``(chain, iteration, ...)``."""
        count, begun = min(self.count, max_iterations), time.perf_counter()
        with self.captured.scope():
            state, kept = self.sampler.run(self.state, count, self.data)
            out = {k: np.asarray(v)[:count].swapaxes(0, 1) for k, v in kept.items()}
        self.state = state  # only now: an interrupt keeps state and draws, or neither
        self.iteration += count
        rate = count / max(time.perf_counter() - begun, 1e-6)
        self.count = int(np.clip(rate * SECONDS_PER_BLOCK, 1, min(4 * count, self.block)))
        return out

    def constrain(self, z: np.ndarray) -> dict[str, Tensor]:
        """Values of the sites at ``z (chain, draw, size)``, ``{site: (chain, draw, ...)}``."""
        chains, draws = z.shape[:2]
        numbers = sum(max(1, torch.Size(s).numel()) for s in self.problem.shapes.values())
        width = max(1, min(draws, MAX_NUMBERS_PER_BLOCK // (numbers * chains)))
        parts: list[dict[str, np.ndarray]] = []
        with self.captured.scope():
            for first in range(0, draws, width):
                # blocks of one shape, compiled once: the last overlaps the one before
                last = max(0, min(first, draws - width))
                found = self.sampler.values(z[:, last : last + width], self.data)
                parts.append({k: np.asarray(v)[:, first - last :] for k, v in found.items()})
        return {
            name: torch.from_numpy(np.concatenate([p[name] for p in parts], 1)).to(dtype)
            for name, dtype in self.captured.dtypes.items()
        }

    def pack(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        with self.captured.scope():
            leaves = [_to_numpy(leaf) for leaf in jax.tree.leaves(self.state)]
        return {f"leaf.{i:02d}": torch.from_numpy(leaf) for i, leaf in enumerate(leaves)}

    def unpack(self, tensors: dict[str, Tensor], z: Tensor, iteration: int) -> None:
        """Restore a packed state; ``z (chain, size)`` shows the shape alone."""
        self.start(z)
        with self.captured.scope():
            like, tree = jax.tree.flatten(self.state)
            found = [tensors[f"leaf.{i:02d}"].cpu().numpy() for i in range(len(like))]
            self.state = tree.unflatten(_to_jax(a, b) for a, b in zip(found, like, strict=True))
        self.iteration = iteration


# Random keys are packed as their 32-bit words, in int64.


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    array = np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return array.astype(np.int64) if array.dtype == np.uint32 else array


def _to_jax(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array.astype(np.uint32)))
    return jnp.asarray(array, like.dtype)
