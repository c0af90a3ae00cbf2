"""NumPyro's NUTS on a captured potential, all chains side by side, a block of draws at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpyro.infer.hmc import HMCState, hmc
from torch import Tensor

from ppl_zoo.compiler.xla.potential import CapturedPotential
from ppl_zoo.core.random import chain_seed
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["NumPyroEngine"]

#: most iterations of a block, and numbers that one holds
BLOCK, NUMBERS = 250, 2**22
#: seconds a block shall take, so that progress and Ctrl-C are prompt
SECONDS = 0.5
#: compiled samplers by graph, shapes and options: a second fit of the same shapes starts at once
_SAMPLERS: dict[Any, _Sampler] = {}


class _Sampler:
    """XLAEngine functions of one potential; data and state are arguments.

    ``own`` says that each chain has data of its own, in the first dimension.
    """

    def __init__(
        self, captured: CapturedPotential, options: dict[str, Any], block: int, own: bool
    ) -> None:
        given = 0 if own else None

        def generate(*data: Any) -> Any:
            return lambda z: captured.potential(z, *data)

        init, sample = hmc(potential_fn_gen=generate, algo="NUTS")

        def start(z: Any, keys: Any, data: tuple) -> Any:
            def one(z: Any, key: Any, data: tuple) -> Any:
                return init(z, trajectory_length=None, model_args=data, rng_key=key, **options)

            # chains go in lockstep: one counter for all keeps what depends on it a branch
            state = jax.vmap(one, (0, 0, given))(z, keys, data)
            return state._replace(i=state.i[0])

        axes = HMCState(*[None if f == "i" else 0 for f in HMCState._fields])
        step = jax.vmap(sample, in_axes=(axes, given), out_axes=axes)

        def run(state: Any, count: Any, data: tuple) -> tuple:
            shapes = jax.eval_shape(_read, state)
            held = {k: jnp.zeros((block, *v.shape), v.dtype) for k, v in shapes.items()}

            def body(i: Any, carry: tuple) -> tuple:
                state, held = carry
                size = state.adapt_state.step_size
                state = step(state, data)
                found = _read(state) | {"step_size": size}
                return state, {k: held[k].at[i].set(v) for k, v in found.items()}

            return jax.lax.fori_loop(0, count, body, (state, held))

        def gradients(z: Any, data: tuple) -> tuple:
            return jax.vmap(lambda z, d: jax.value_and_grad(generate(*d))(z), (0, given))(z, data)

        def values(z: Any, data: tuple) -> dict:
            draws = jax.vmap(lambda z, d: captured.values(z, *d), (0, None))
            return jax.vmap(draws, (0, given))(z, data)

        self.start, self.run = jax.jit(start), jax.jit(run)
        self.gradients, self.values = jax.jit(gradients), jax.jit(values)


def _read(state: Any) -> dict[str, Any]:
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
    """Runs the chains; ``iteration`` counts warm-up and draws.

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
        options: dict[str, Any],
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
        self.captured = CapturedPotential(problem.energy, problem.values, z, problem.data)
        self.block = max(1, min(BLOCK, NUMBERS // (num_chains * problem.size)))
        self.options, self.iteration, self.state = options, 0, None
        self.count = min(10, self.block)
        own = tables is not None
        key = (self.captured.identity, num_chains, self.block, own, tuple(options.items()))
        with self.captured.scope():
            self.data = self.captured.data
            if own:
                self.data = tuple(
                    lowering.to_jax(torch.stack(d)) for d in zip(*tables, strict=True)
                )
            if key not in _SAMPLERS:
                _SAMPLERS[key] = _Sampler(self.captured, options, self.block, own)
        self.sampler = _SAMPLERS[key]

    def finite(self, z: Tensor) -> np.ndarray:
        """Tell for each chain whether potential and gradient are finite at ``z (chain, size)``."""
        with self.captured.scope():
            value, gradient = self.sampler.gradients(jnp.asarray(z.numpy()), self.data)
            return np.asarray(jnp.isfinite(value) & jnp.isfinite(gradient).all(-1))

    def start(self, z: Tensor) -> None:
        """Begin at ``z (chain, size)``."""
        seeds = [chain_seed(self.seed, c) & 0xFFFFFFFF for c in range(self.num_chains)]
        with self.captured.scope():
            keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
            self.state = self.sampler.start(jnp.asarray(z.numpy()), keys, self.data)

    def advance(self, most: int) -> dict[str, np.ndarray]:
        """Take up to ``most`` iterations; arrays ``(chain, iteration, ...)``."""
        count, begun = min(self.count, most), time.perf_counter()
        with self.captured.scope():
            state, held = self.sampler.run(self.state, count, self.data)
            out = {k: np.asarray(v)[:count].swapaxes(0, 1) for k, v in held.items()}
        self.state = state  # after the arrays are there: an interrupt leaves both or none
        self.iteration += count
        rate = count / max(time.perf_counter() - begun, 1e-6)
        self.count = int(np.clip(rate * SECONDS, 1, min(4 * count, self.block)))
        return out

    def constrain(self, z: np.ndarray) -> dict[str, Tensor]:
        """Return the values at ``z (chain, draw, size)``, ``{site: (chain, draw, ...)}``."""
        chains, draws = z.shape[:2]
        numbers = sum(max(1, torch.Size(s).numel()) for s in self.problem.shapes.values())
        width = max(1, min(draws, NUMBERS // (numbers * chains)))
        parts: list[dict[str, np.ndarray]] = []
        with self.captured.scope():
            for first in range(0, draws, width):
                last = max(0, min(first, draws - width))  # one shape, compiled once
                found = self.sampler.values(jnp.asarray(z[:, last : last + width]), self.data)
                parts.append({k: np.asarray(v)[:, first - last :] for k, v in found.items()})
        return {
            name: torch.from_numpy(np.concatenate([p[name] for p in parts], 1)).to(dtype)
            for name, dtype in self.captured.dtypes.items()
        }

    def pack(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        with self.captured.scope():
            leaves = [_plain(leaf) for leaf in jax.tree.leaves(self.state)]
        return {f"leaf.{i:02d}": torch.from_numpy(leaf) for i, leaf in enumerate(leaves)}

    def unpack(self, tensors: dict[str, Tensor], z: Tensor, iteration: int) -> None:
        """Take a state up again; ``z`` only shows the shape."""
        self.start(z)
        with self.captured.scope():
            like, tree = jax.tree.flatten(self.state)
            found = [tensors[f"leaf.{i:02d}"].cpu().numpy() for i in range(len(like))]
            self.state = tree.unflatten(_like(a, b) for a, b in zip(found, like, strict=True))
        self.iteration = iteration


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    array = np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return array.astype(np.int64) if array.dtype == np.uint32 else array


def _like(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array.astype(np.uint32)))
    return jnp.asarray(array, like.dtype)
