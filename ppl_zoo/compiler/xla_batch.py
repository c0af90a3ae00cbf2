"""XLA: a captured potential at many points at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from ppl_zoo.compiler import xla
from ppl_zoo.compiler.xla_potential import CapturedPotential

# after xla_potential, which says how JAX takes its memory
import jax  # isort: skip
import jax.numpy as jnp  # isort: skip

__all__ = ["BatchedPotential"]

#: compiled functions by graph and shapes: a second fit of the same shapes starts at once
_COMPILED: dict[Any, Callable[..., tuple]] = {}


class BatchedPotential:
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

    Raises
    ------
    CaptureError
        If the program has no static graph, or draws random numbers.
    ppl_zoo.compiler.xla.LoweringError
        If an operation has no lowering.
    """

    def __init__(
        self, energy: Callable[..., Tensor], z: Tensor, data: tuple[Tensor, ...], block: int
    ) -> None:
        captured = CapturedPotential(energy, lambda z, *data: {"z": z}, z, data)
        self.block, self.scope, self.data = block, captured.scope, captured.data
        key = (captured.identity, block)
        if key not in _COMPILED:

            def at_all(z: Any, data: tuple) -> tuple:
                return jax.vmap(jax.value_and_grad(lambda z: captured.potential(z, *data)))(z)

            with self.scope():
                like = jax.ShapeDtypeStruct((block, len(z)), jnp.asarray(z.numpy()).dtype)
                _COMPILED[key] = jax.jit(at_all).lower(like, self.data).compile()
        self.compiled = _COMPILED[key]

    def on(self, data: tuple[Tensor, ...]) -> BatchedPotential:
        """Return the same for other data of the same shapes."""
        other = copy.copy(self)
        with self.scope():
            other.data = tuple(xla.to_jax(t) for t in data)
        return other

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return energies ``(block,)`` and gradients ``(block, size)``."""
        with self.scope():
            value, gradient = self.compiled(jnp.asarray(z), self.data)
            return np.asarray(value), np.asarray(gradient)
