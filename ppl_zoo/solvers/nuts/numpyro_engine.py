"""NUTS engine: NumPyro's kernel on a captured potential, in blocks of iterations."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.hmc_util import dual_averaging
from numpyro.infer.util import ParamInfo
from torch import Tensor

from ppl_zoo.compiler.xla.cache import PROGRAMS
from ppl_zoo.compiler.xla.potential import CapturedPotential
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.functions import user_programs
from ppl_zoo.core.random import chain_seed
from ppl_zoo.solvers.nuts.mass_matrix import MassMatrix, MassMatrixAdaptation
from ppl_zoo.solvers.unconstrained import Unconstrained

__all__ = ["NumPyroEngine"]

#: iterations of a block, and numbers in the draws of one
MAX_ITERATIONS_PER_BLOCK, MAX_NUMBERS_PER_BLOCK = 250, 2**22
#: iterations of the first block, before it is known how long one takes
FIRST_ITERATIONS = 10
#: time that a block should take, so that the progress bar and Ctrl-C are prompt
SECONDS_PER_BLOCK = 0.5

#: step size to begin with, for an identity as mass matrix
FIRST_STEP_SIZE = 0.1
#: numbers in an evaluation of the potential from which each chain runs by itself, in threads:
#: side by side they all wait for the longest trajectory, but share the cost of small operations
MIN_NUMBERS_IN_PARALLEL = 200_000
#: points of a chain that are evaluated together at most
MAX_WIDTH = 16
#: place of the iteration counter among the leaves of a state; the others are of chains
COUNTER = 0

Arrays = tuple[jax.Array, ...]
#: scale, vectors and stretch of :class:`MassMatrix`
Root = tuple
KernelOptions = dict[str, Any]


class _State(NamedTuple):
    """State of NumPyro's kernel, and of the step size's dual averaging."""

    hmc: HMCState
    average: tuple


class _Sampler:
    """Compiled functions of one potential; data, mass matrices and states are their arguments.

    Parameters
    ----------
    captured
        The potential.
    options
        "target_accept_prob" and "max_tree_depth".
    block
        Iterations of a block.
    vectorized
        Whether a state is one of all chains, stacked in the first dimension, or of one chain.
    own
        Whether each chain has its own data, stacked in the first dimension.
    """

    def __init__(
        self,
        captured: CapturedPotential,
        options: KernelOptions,
        block: int,
        vectorized: bool,
        own: bool,
    ) -> None:
        data_axis = 0 if own else None
        # these alone: a sampler that is cached must not hold the data
        potential, constrained = captured.potential, captured.values
        target, depth = options["target_accept_prob"], options["max_tree_depth"]

        def generate(root: Root, *data: Any) -> Any:
            # NumPyro's kernel takes no mass matrix of low rank: it samples y, with the identity
            return lambda y: potential(_multiply(root, y), *data)

        init, sample = hmc(potential_fn_gen=generate, algo="NUTS")
        begin_average, average = dual_averaging()

        def of_chains(function: Any, axes: tuple, out: Any = 0) -> Any:
            return jax.vmap(function, axes, out) if vectorized else function

        # one iteration counter for all chains: with one each, vmap would run both branches of
        # what depends on it
        hmc_axes = HMCState(*[None if f == "i" else 0 for f in HMCState._fields])
        axes = _State(hmc_axes, 0)

        def start(at: ParamInfo, keys: jax.Array, root: Root) -> _State:
            """Begin at points, energies and gradients by ``z``."""

            def one(at: ParamInfo, key: jax.Array, root: Root) -> _State:
                y = ParamInfo(_divide(root, at.z), at.potential_energy, _push(root, at.z_grad))
                # step size and mass matrix are adapted here: the kernel has no warm-up
                state = init(
                    y,
                    num_warmup=0,
                    step_size=FIRST_STEP_SIZE,
                    adapt_step_size=False,
                    adapt_mass_matrix=False,
                    max_tree_depth=depth,
                    trajectory_length=None,
                    model_args=(root,),  # not evaluated: it knows energy and gradient
                    rng_key=key,
                )
                return _State(state, begin_average(jnp.log(10 * state.adapt_state.step_size)))

            return of_chains(one, (0, 0, 0), axes)(at, keys, root)

        def turn(state: _State, old: Root, new: Root, anew: bool | jax.Array) -> _State:
            """Express states by another root; begin their averages anew."""

            def one(state: _State, old: Root, new: Root) -> _State:
                hmc = state.hmc
                y = _divide(new, _multiply(old, hmc.z))
                hmc = hmc._replace(z=y, z_grad=_push(new, _pull(old, hmc.z_grad)))
                first = begin_average(jnp.log(hmc.adapt_state.step_size))
                pairs = zip(first, state.average, strict=True)
                return _State(hmc, tuple(jnp.where(anew, a, b) for a, b in pairs))

            return of_chains(one, (axes, 0, 0), axes)(state, old, new)

        def step(state: _State, root: Root, adapts: jax.Array, data: Arrays) -> tuple:
            old = state.hmc.adapt_state
            new = sample(state.hmc, (root, *data))
            found = average(target - new.accept_prob, state.average)
            info = jnp.finfo(old.step_size.dtype)
            size = jnp.where(adapts, jnp.exp(found[0]).clip(info.tiny, info.max), old.step_size)
            pairs = zip(found, state.average, strict=True)
            kept = tuple(jnp.where(adapts, a, b) for a, b in pairs)
            new = new._replace(adapt_state=new.adapt_state._replace(step_size=size))
            said = _statistics(new) | {"z": _multiply(root, new.z), "step_size": old.step_size}
            return _State(new, kept), said

        step = of_chains(step, (axes, 0, None, data_axis), (axes, 0))

        def run(
            state: _State, count: int | jax.Array, root: Root, adapts: bool, data: Arrays
        ) -> tuple[_State, dict[str, jax.Array]]:
            shapes = jax.eval_shape(step, state, root, adapts, data)[1]
            kept = {k: jnp.zeros((block, *v.shape), v.dtype) for k, v in shapes.items()}

            def body(i: int | jax.Array, carry: tuple) -> tuple:
                state, kept = carry
                state, found = step(state, root, adapts, data)
                return state, {k: kept[k].at[i].set(v) for k, v in found.items()}

            return jax.lax.fori_loop(0, count, body, (state, kept))

        def gradients(z: jax.Array, data: Arrays) -> tuple[jax.Array, jax.Array]:
            def one(z: jax.Array, data: Arrays) -> tuple[jax.Array, jax.Array]:
                return jax.value_and_grad(lambda z: potential(z, *data))(z)

            return jax.vmap(jax.vmap(one, (0, None)), (0, data_axis))(z, data)

        def values(z: jax.Array, data: Arrays) -> dict[str, jax.Array]:
            one_chain = jax.vmap(lambda z, data: constrained(z, *data), (0, None))
            return jax.vmap(one_chain, (0, data_axis))(z, data)

        jit = partial(jax.jit, compiler_options=captured.compiler_options)
        self.start, self.turn, self.run = jit(start), jit(turn), jit(run)
        self.gradients, self.values = jit(gradients), jit(values)


def _multiply(root: Root, y: jax.Array) -> jax.Array:
    """Return ``S y`` of a chain's mass matrix; see :class:`MassMatrix`."""
    scale, vectors, stretch = root
    if not vectors.shape[1]:
        return scale * y
    return scale * (y + (vectors * (stretch * (y @ vectors))).sum(1))


def _divide(root: Root, z: jax.Array) -> jax.Array:
    """Return the ``y`` of ``S y = z``."""
    scale, vectors, stretch = root
    return _multiply((jnp.ones_like(scale), vectors, 1 / (1 + stretch) - 1), z / scale)


def _push(root: Root, gradient: jax.Array) -> jax.Array:
    """Return the gradient by ``y`` of one by ``z``: ``S^T`` times it."""
    scale, *rest = root
    return _multiply((jnp.ones_like(scale), *rest), scale * gradient)


def _pull(root: Root, gradient: jax.Array) -> jax.Array:
    """Return the gradient by ``z`` of one by ``y``."""
    scale, vectors, stretch = root
    return _multiply((jnp.ones_like(scale), vectors, 1 / (1 + stretch) - 1), gradient) / scale


def _statistics(state: HMCState) -> dict[str, Any]:
    """Sampler statistics of a state, and the gradient of the log density by ``y``."""
    return {
        "gradient": -state.z_grad,
        "lp": -state.potential_energy,
        "energy": state.energy,
        "diverging": state.diverging,
        "n_steps": state.num_steps,
        "acceptance_rate": state.accept_prob,
    }


class NumPyroEngine:
    """NumPyro's NUTS, compiled by XLA; a :class:`ppl_zoo.solvers.nuts.nuts.NUTSEngine`.

    Parameters
    ----------
    problem
        The density.
    options
        ``num_warmup``, ``target_accept_prob`` and ``max_tree_depth`` as NumPyro has them,
        ``mass_matrix`` and ``chain_method`` as :class:`ppl_zoo.NUTS` has them.
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
        self.num_warmup = options["num_warmup"]
        z = torch.zeros(problem.size, dtype=model.dtype, device=model.device)
        self.captured = CapturedPotential(
            problem.energy, problem.values, z, problem.data, user_programs(problem.model)
        )
        most = MAX_NUMBERS_PER_BLOCK // (num_chains * problem.size)
        self.block = max(1, min(MAX_ITERATIONS_PER_BLOCK, most))
        self.iteration = 0
        self.states: list[_State] = []
        self.count = min(FIRST_ITERATIONS, self.block)
        own = tables is not None
        method, numbers = options["chain_method"], max(1, self.captured.num_numbers)
        if method == "auto":
            small = numbers < MIN_NUMBERS_IN_PARALLEL
            method = "vectorized" if small or own or model.device.type != "cpu" else "parallel"
        vectorized = own or num_chains == 1 or method == "vectorized"
        #: chains of each state: all, or one
        self.groups: list[slice | int] = (
            [slice(0, num_chains)] if vectorized else list(range(num_chains))
        )
        self.adaptation = MassMatrixAdaptation(
            num_chains, problem.size, self.num_warmup, options["mass_matrix"]
        )
        kernel = {k: options[k] for k in ("target_accept_prob", "max_tree_depth")}
        rank = self.adaptation.rank
        key = ("NUTS", self.captured.identity, num_chains, self.block, vectorized, own, rank)
        with self.captured.scope():
            self.data = self.captured.data
            if own:
                self.data = tuple(
                    lowering.to_jax(torch.stack(d)) for d in zip(*tables, strict=True)
                )
        self.sampler = PROGRAMS.get(
            (*key, *kernel.items()),
            lambda: _Sampler(self.captured, kernel, self.block, vectorized, own),
        )
        # a sampler's own numbers are float64 wherever the program has some
        self.dtype = np.dtype(np.float64) if self.captured.wide else z.numpy().dtype
        #: points of a chain that are evaluated together
        self.width = int(np.clip(MAX_NUMBERS_PER_BLOCK // (num_chains * numbers), 1, MAX_WIDTH))

    def evaluate(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Potential energies and gradients at ``z (chain, point, size)``."""
        values, gradients = np.empty(z.shape[:2]), np.empty(z.shape)
        with self.captured.scope():
            for first in range(0, z.shape[1], self.width):
                part = z[:, first : first + self.width]
                count = part.shape[1]
                # blocks of one shape, compiled once: the last is padded
                full = np.resize(part.swapaxes(0, 1), (self.width, *z[:, 0].shape))
                full = full.swapaxes(0, 1).astype(self.dtype)
                value, gradient = self.sampler.gradients(full, self.data)
                values[:, first : first + count] = value[:, :count]
                gradients[:, first : first + count] = gradient[:, :count]
        return values, gradients

    def start(self, z: np.ndarray) -> None:
        """Start the chains at ``z (chain, size)``."""
        values, gradients = self.evaluate(z[:, None])
        self.adaptation.begin(gradients[:, 0])
        self.states = self._begin(z, values[:, 0], gradients[:, 0])

    def _begin(self, z: np.ndarray, values: np.ndarray, gradients: np.ndarray) -> list[_State]:
        seeds = [chain_seed(self.seed, c) & 0xFFFFFFFF for c in range(self.num_chains)]
        at = [a.astype(self.dtype) for a in (z, values, gradients)]
        with self.captured.scope():
            keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
            return [
                self.sampler.start(ParamInfo(*(jnp.asarray(a[g]) for a in at)), keys[g], root)
                for g, root in zip(self.groups, self._roots(self.adaptation.matrix), strict=True)
            ]

    def _roots(self, matrix: MassMatrix) -> list[Root]:
        """Split the mass matrices by groups of chains."""
        arrays = [a.astype(self.dtype) for a in (matrix.scale, matrix.vectors, matrix.stretch)]
        return [tuple(a[g] for a in arrays) for g in self.groups]

    def advance(self, max_iterations: int) -> dict[str, np.ndarray]:
        """Take a block of iterations; arrays ``(chain, iteration, ...)``."""
        until = self.adaptation.remaining(self.iteration)
        adapts = self.iteration < self.num_warmup
        count = min(self.count, max_iterations, max_iterations if until is None else until)
        begun = time.perf_counter()
        with ThreadPoolExecutor(min(len(self.groups), os.cpu_count() or 1)) as pool:
            ran = [
                pool.submit(self._run, state, count, root, adapts)
                for state, root in zip(
                    self.states, self._roots(self.adaptation.matrix), strict=True
                )
            ]
            states, kept = zip(*(future.result() for future in ran), strict=True)
        stack = np.concatenate if isinstance(self.groups[0], slice) else np.stack
        out = {k: stack([found[k] for found in kept]) for k in kept[0]}
        self.states = list(states)  # only now: an interrupt keeps state and draws, or neither
        self.iteration += count
        rate = count / max(time.perf_counter() - begun, 1e-6)
        self.count = int(np.clip(rate * SECONDS_PER_BLOCK, 1, min(4 * count, self.block)))
        gradients = out.pop("gradient")
        if until is not None:
            self.adaptation.add(out["z"], gradients)
        if self.iteration == self.num_warmup:
            self._settle()
        elif count == until:
            self._adapt()
        return out

    def _run(self, state: _State, count: int, root: Root, adapts: bool) -> tuple:
        """Run the chains of one state; arrays ``(chain, iteration, ...)`` or of one chain."""
        with self.captured.scope():
            state, kept = self.sampler.run(state, count, root, adapts, self.data)
            arrays = {k: np.asarray(v)[:count] for k, v in kept.items()}
        if isinstance(self.groups[0], slice):
            arrays = {k: v.swapaxes(0, 1) for k, v in arrays.items()}
        return state, arrays

    def _adapt(self) -> None:
        """Estimate the mass matrices, and express the states by these."""
        before = self._roots(self.adaptation.matrix)
        anew = self.adaptation.estimate(self.iteration)
        after = self._roots(self.adaptation.matrix)
        with self.captured.scope():
            self.states = [
                self.sampler.turn(state, old, new, anew)
                for state, old, new in zip(self.states, before, after, strict=True)
            ]

    def _settle(self) -> None:
        """Take the average step sizes of the warm-up."""
        with self.captured.scope():
            for index, state in enumerate(self.states):
                size = jnp.exp(state.average[1])
                adapted = state.hmc.adapt_state._replace(step_size=size)
                new = state._replace(hmc=state.hmc._replace(adapt_state=adapted))
                self.states[index] = new

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
        """Return the state as tensors, chains in the first dimension of each but the counter."""
        with self.captured.scope():
            leaves = [[_to_numpy(a) for a in jax.tree.leaves(state)] for state in self.states]
        if isinstance(self.groups[0], slice):
            stacked = leaves[0]
        else:
            stacked = [
                parts[0] if place == COUNTER else np.stack(parts)
                for place, parts in enumerate(zip(*leaves, strict=True))
            ]
        packed = {f"leaf.{i:02d}": torch.from_numpy(leaf) for i, leaf in enumerate(stacked)}
        return packed | self.adaptation.pack()

    def unpack(self, tensors: dict[str, Tensor], z: Tensor, iteration: int) -> None:
        """Restore a packed state; ``z (chain, size)`` shows the shape alone.

        Raises
        ------
        DataError
            If it is one of an earlier version that had not warmed up.
        """
        self.iteration = iteration
        if "mass_matrix.scale" in tensors:
            self.adaptation.unpack(tensors)
        elif iteration < self.num_warmup:
            raise DataError(
                "resume: got a warm-up of an earlier version, which adapted otherwise, expected "
                "one of this version, or a fit with draws"
            )
        like = self._begin(z.numpy(), np.zeros(len(z)), np.zeros(z.shape))
        with self.captured.scope():
            for index, (state, g) in enumerate(zip(like, self.groups, strict=True)):
                leaves, tree = jax.tree.flatten(state)
                for place, leaf in enumerate(leaves):
                    name = f"leaf.{place:02d}"
                    if name in tensors:  # an earlier version had no average of its own
                        found = tensors[name].cpu().numpy()
                        leaves[place] = _to_jax(found if place == COUNTER else found[g], leaf)
                like[index] = tree.unflatten(leaves)
        self.states = like


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
