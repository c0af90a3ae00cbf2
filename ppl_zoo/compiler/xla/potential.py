"""XLA: a potential energy captured from torch, as a JAX function with torch's own gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from ppl_zoo.compiler.capture import CaptureError, capture
from ppl_zoo.compiler.xla import lowering
from ppl_zoo.compiler.xla.ops.random import RANDOM

__all__ = ["XLAPotential", "CapturedPotential"]


class _Point(nn.Module):
    """The vector, and a weight for each value that is asked for."""

    def __init__(self, z: Tensor, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.z = nn.Parameter(z)
        self.weights = nn.ParameterList([nn.Parameter(w) for w in weights.values()])


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

    Attributes
    ----------
    potential
        ``potential(z, *data)``: scalar; its derivative is the captured gradient, so that
        ``jax.grad``, ``jax.vmap`` and ``jax.jvp`` work.
    values
        ``values(z, *data)``: ``{name: array}``.
    data
        The data as arrays.
    identity
        Text that is the same for potentials that compute the same from the same shapes.
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

        first = capture(energy_at, [point], data)
        second = capture(weigh, [weighted], data)
        for captured in (first, second):
            _refuse_noise(captured.graph)
        self.identity = f"{first.fingerprint()}\n{second.fingerprint()}\n{_kinds(data)}"
        self.wide = any(t.dtype == torch.float64 for t in (z, *data))
        with self.scope():
            self.data = tuple(lowering.to_jax(t) for t in data)
            self.potential = _differentiable(lowering.lower(first))
            self._weights = tuple(lowering.to_jax(w) for w in weights.values())
            self._lowered_values = lowering.lower(second)

    def scope(self) -> Any:
        """Open JAX's 64-bit mode where it is needed."""
        return jax.enable_x64(self.wide)

    def values(self, z: Any, *data: Any) -> dict[str, Any]:
        """Return the values at a point, as arrays."""
        out = self._lowered_values(None, z, *self._weights, *data)
        return dict(zip(self.dtypes, out[2:], strict=True))


def _differentiable(lowered: Callable[..., tuple]) -> Callable[..., Any]:
    """Wrap ``(value, gradient)`` as one function of ``z`` with that gradient."""

    @jax.custom_jvp
    def potential(z: Any, data: tuple) -> Any:
        return lowered(None, z, *data)[0]

    @potential.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple:
        value, gradient = lowered(None, primals[0], *primals[1])
        return value, jnp.vdot(gradient, tangents[0])

    return lambda z, *data: potential(z, data)


def _refuse_noise(graph: torch.fx.GraphModule) -> None:
    # draws that nothing depends on (sites that are held) are no noise
    graph.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    graph.recompile()
    for node in graph.graph.nodes:
        if node.op == "call_function" and lowering.name_of(node.target) in RANDOM:
            raise CaptureError(
                f"{lowering.name_of(node.target)}, a draw of random numbers outside of "
                "pyro.sample, or a "
                "plate that subsamples: the potential would not be a function"
            )


def _kinds(data: tuple[Tensor, ...]) -> list[tuple]:
    return [(tuple(t.shape), str(t.dtype)) for t in data]


# ---- XLA: a captured potential at many points at once.

#: compiled functions by graph and shapes: a second fit of the same shapes starts at once
_COMPILED: dict[Any, Callable[..., tuple]] = {}


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

    Raises
    ------
    CaptureError
        If the program has no static graph, or draws random numbers.
    ppl_zoo.compiler.xla.lowering.LoweringError
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

    def on(self, data: tuple[Tensor, ...]) -> XLAPotential:
        """Return the same for other data of the same shapes."""
        other = copy.copy(self)
        with self.scope():
            other.data = tuple(lowering.to_jax(t) for t in data)
        return other

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return energies ``(block,)`` and gradients ``(block, size)``."""
        with self.scope():
            value, gradient = self.compiled(jnp.asarray(z), self.data)
            return np.asarray(value), np.asarray(gradient)
