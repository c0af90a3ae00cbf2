"""Potential energies captured from torch, as JAX functions with torch's own gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from ppl_zoo.compiler.capture import CaptureError, capture
from ppl_zoo.compiler.xla.cache import PROGRAMS
from ppl_zoo.compiler.xla.lowering import LoweredGraph, lower, operation_name, to_jax
from ppl_zoo.compiler.xla.ops.dtypes import jax_dtype
from ppl_zoo.compiler.xla.ops.random import RANDOM

__all__ = ["CapturedPotential", "XLAPotential"]


class CapturedPotential:
    """Potential energy, gradient and constrained values of a model, in JAX.

    Parameters
    ----------
    energy
        ``energy(z, *data)`` in torch, a scalar.
    values
        ``values(z, *data)`` in torch, ``{name: tensor}``.
    z
        Some point ``(size,)``.
    data
        Tensors.
    programs
        The user's programs, whose Python state is watched while recording.

    Attributes
    ----------
    potential
        ``potential(z, *data)``: scalar; its derivative is the captured gradient, so that
        ``jax.grad``, ``jax.vmap`` and ``jax.jvp`` work.
    values
        ``values(z, *data)``: ``{name: array}``.
    data
        The data as arrays. Neither function refers to them.
    dtypes
        ``{name: dtype}`` of the values in torch.
    identity
        Text that is the same for potentials that compute the same from the same shapes.
    compiler_options
        For :func:`jax.jit`, where a graph needs any.
    num_numbers
        Numbers that an evaluation of energy and gradient computes on its way.
    wide
        Whether anything is float64; then run under ``jax.enable_x64(True)``.

    Raises
    ------
    CaptureError
        If the programs have no static graph, or draw random numbers.
    ppl_zoo.compiler.xla.lowering.LoweringError
        If an operation has no lowering.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        values: Callable[..., dict[str, Tensor]],
        z: Tensor,
        data: tuple[Tensor, ...],
        programs: Sequence[Callable[..., Any]] = (),
    ) -> None:
        with torch.no_grad():
            found = values(z, *data)
        self.dtypes = {k: v.dtype for k, v in found.items()}
        weights = {
            k: torch.zeros(v.shape, dtype=v.dtype if v.is_floating_point() else z.dtype)
            for k, v in found.items()
        }
        point, weighted = _Point(z.clone(), {}), _Point(z.clone(), weights)

        def energy_at(*data: Tensor) -> Tensor:
            return energy(point.z, *data)

        def weigh(*data: Tensor) -> Tensor:
            # the gradient by a weight is the value itself: capture records values this way
            pairs = zip(weighted.weights, values(weighted.z, *data).values(), strict=True)
            return sum((w * v).sum() for w, v in pairs)

        first = capture(energy_at, [point], data, programs)
        second = capture(weigh, [weighted], data, programs)
        for captured in (first, second):
            _refuse_noise(captured.graph)
        shapes = [(tuple(t.shape), str(t.dtype)) for t in data]
        self.identity = f"{first.fingerprint()}\n{second.fingerprint()}\n{shapes}"
        self.wide = any(t.dtype == torch.float64 for t in (z, *data)) or first.wide
        with self.scope():
            self.data = tuple(to_jax(t) for t in data)
            energies, constrained = lower(first), lower(second)
            dtype = jax_dtype(z.dtype)
            self.potential = _differentiable(energies, dtype)
            self.values = _values(constrained, {k: to_jax(w) for k, w in weights.items()}, dtype)
        self.num_numbers = first.num_numbers
        self.compiler_options = energies.compiler_options or constrained.compiler_options

    def log_density(self, z: jax.Array) -> jax.Array:
        """Log density at ``z (size,)``, a scalar in nats, of the data it was captured with.

        Raises
        ------
        TypeError
            If it is float64 and JAX's 64-bit mode is closed.
        """
        if self.wide and jnp.result_type(float) != jnp.float64:
            raise TypeError(
                "log density: got JAX's 32-bit mode, expected its 64-bit mode, since model or "
                "data are float64 (work within `with density.scope():`, or pass float32)"
            )
        return -self.potential(z, *self.data)

    def scope(self) -> AbstractContextManager:
        """Open JAX's 64-bit mode where it is needed."""
        return jax.enable_x64(self.wide)


class _Point(nn.Module):
    """The vector, and a weight for each value that is asked for."""

    def __init__(self, z: Tensor, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.z = nn.Parameter(z)
        self.weights = nn.ParameterList([nn.Parameter(w) for w in weights.values()])


def _differentiable(lowered: LoweredGraph, dtype: Any) -> Callable[..., jax.Array]:
    """Wrap ``(value, gradient)`` as one function of ``z`` with that gradient, in its dtype.

    A program of float32 may sum in float64: a sampler then moves in float64, and the program has
    its ``dtype``.
    """

    @jax.custom_jvp
    def potential(z: jax.Array, data: tuple) -> jax.Array:
        return lowered(None, z.astype(dtype), *data)[0].astype(z.dtype)

    @potential.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        z, data = primals
        value, gradient = lowered(None, z.astype(dtype), *data)
        return value.astype(z.dtype), jnp.vdot(gradient, tangents[0]).astype(z.dtype)

    return lambda z, *data: potential(z, data)


def _values(
    lowered: LoweredGraph, weights: Mapping[str, jax.Array], dtype: Any
) -> Callable[..., dict[str, jax.Array]]:
    """Read the values off the gradients by their weights."""

    def values(z: jax.Array, *data: jax.Array) -> dict[str, jax.Array]:
        out = lowered(None, z.astype(dtype), *weights.values(), *data)
        return dict(zip(weights, out[2:], strict=True))  # after the sum and the gradient by z

    return values


def _refuse_noise(graph: torch.fx.GraphModule) -> None:
    # draws that nothing depends on (sites that are held) are no noise; the lowering reads the
    # nodes, so that the graph need not be recompiled
    graph.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    for node in graph.graph.nodes:
        if node.op == "call_function" and operation_name(node.target) in RANDOM:
            raise CaptureError(
                f"{operation_name(node.target)}, a draw of random numbers outside of "
                "pyro.sample, or a "
                "plate that subsamples: the potential would not be a function"
            )


class XLAPotential:
    """Potential energy and gradient at blocks of points, compiled once.

    Parameters
    ----------
    energy
        ``energy(z, *data)`` in torch, a scalar.
    z
        Some point ``(size,)``.
    data
        Tensors.
    block
        Points in a block.
    programs
        As for :class:`CapturedPotential`.

    Raises
    ------
    CaptureError
        If the program has no static graph, or draws random numbers.
    ppl_zoo.compiler.xla.lowering.LoweringError
        If an operation has no lowering.
    """

    def __init__(
        self,
        energy: Callable[..., Tensor],
        z: Tensor,
        data: tuple[Tensor, ...],
        block: int,
        programs: Sequence[Callable[..., Any]] = (),
    ) -> None:
        captured = CapturedPotential(energy, lambda z, *data: {"z": z}, z, data, programs)
        self.block, self.scope, self.data = block, captured.scope, captured.data
        self.num_numbers = captured.num_numbers
        potential = captured.potential  # alone: a program that is kept must not hold the data

        def at_all(z: jax.Array, data: tuple) -> tuple:
            return jax.vmap(jax.value_and_grad(lambda z: potential(z, *data)))(z)

        def compile_block() -> jax.stages.Compiled:
            with self.scope():
                like = jax.ShapeDtypeStruct((block, len(z)), to_jax(z).dtype)
                options = captured.compiler_options
                return jax.jit(at_all, compiler_options=options).lower(like, self.data).compile()

        key = ("potential", captured.identity, block)
        self.compiled = PROGRAMS.get(key, compile_block)

    def on(self, data: tuple[Tensor, ...]) -> XLAPotential:
        """Return the same for other data of the same shapes."""
        other = copy.copy(self)
        with self.scope():
            other.data = tuple(to_jax(t) for t in data)
        return other

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return energies ``(block,)`` and gradients ``(block, size)``."""
        with self.scope():
            value, gradient = self.compiled(jax.device_put(z), self.data)
            return np.asarray(value), np.asarray(gradient)
