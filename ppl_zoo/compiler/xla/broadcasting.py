"""Lazily broadcast arrays: copies along a dimension that are not made.

Torch's densities expand their parameters to the shape of the data before they take logarithms
of them. XLA would compute each of these many times; here an array that is constant along a
dimension stays of length one there until an operation needs the copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl_zoo.compiler.xla.ops.elementwise import ELEMENTWISE
from ppl_zoo.compiler.xla.ops.reductions import MAX_DOT_SIZE, MIN_DOT_SIZE
from ppl_zoo.compiler.xla.ops.table import TABLE

__all__ = ["Broadcasted", "apply_to_broadcasted", "broadcast", "contract", "materialize"]


@dataclass(frozen=True)
class Broadcasted:
    """``array`` broadcast to ``shape``; both have as many dimensions."""

    array: jax.Array
    shape: tuple[int, ...]

    def materialize(self) -> jax.Array:
        """Return the array with its copies made."""
        return jnp.broadcast_to(self.array, self.shape)


def materialize(value: Any) -> Any:
    """Make the copies of a :class:`Broadcasted`; return anything else as it is."""
    return value.materialize() if isinstance(value, Broadcasted) else value


def broadcast(array: jax.Array, shape: Sequence[int]) -> jax.Array | Broadcasted:
    """Broadcast an array to ``shape`` without making copies."""
    shape = tuple(shape)
    if array.shape == shape:
        return array
    return Broadcasted(array.reshape((1,) * (len(shape) - array.ndim) + array.shape), shape)


def apply_to_broadcasted(
    name: str, args: tuple, kwargs: dict, shape: tuple[int, ...] | None
) -> jax.Array | Broadcasted | None:
    """Run an aten operation some of whose arguments are broadcast, its result of ``shape``.

    Returns None where it needs the copies.
    """
    if shape is None:
        return None
    x = args[0]
    if name in ELEMENTWISE:
        if any(isinstance(v, Broadcasted) for v in kwargs.values()):
            return None
        arrays = [a.array if isinstance(a, Broadcasted) else a for a in args]
        return broadcast(jnp.asarray(TABLE[name](*arrays, **kwargs)), shape)
    if not isinstance(x, Broadcasted) or any(isinstance(a, Broadcasted) for a in args[1:]):
        return None
    if name in _BROADCASTED:
        return _BROADCASTED[name](x, shape, *args[1:], **kwargs)
    return None


def contract(a: Any, b: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return ``(a * b).sum(dim, keepdim)`` as a matrix product, None where it is not worth one."""
    shapes = [v.shape if isinstance(v, Broadcasted) else jnp.shape(v) for v in (a, b)]
    shape = jnp.broadcast_shapes(*shapes)
    if jax.default_backend() != "cpu" or not MIN_DOT_SIZE <= math.prod(shape) <= MAX_DOT_SIZE:
        return None
    a, b = ((v.array if isinstance(v, Broadcasted) else v) for v in (a, b))
    a, b = (jnp.reshape(v, (1,) * (len(shape) - jnp.ndim(v)) + jnp.shape(v)) for v in (a, b))
    if a.dtype != b.dtype or not jnp.issubdtype(a.dtype, jnp.floating):
        return None
    dims = _all_dims(dim, len(shape))
    both = {d for d in range(len(shape)) if a.shape[d] > 1 and b.shape[d] > 1}
    if not dims & both or both - dims or dims == set(range(len(shape))):
        return None  # sums of one of the two, or batched products: no matrix product
    own = [[d for d in range(len(shape)) if v.shape[d] > 1] for v in (a, b)]
    kept = [d for d in range(len(shape)) if d not in dims and any(d in o for o in own)]
    pair = zip((a, b), own, strict=True)
    given = [v for x, o in pair for v in (x.reshape([x.shape[d] for d in o]), o)]
    out = jnp.einsum(*given, kept, precision="highest")
    # a dimension that is broadcast in both counts as often as it is long
    alone = [d for d in dims if all(d not in o for o in own)]
    out = out * jnp.asarray(math.prod(shape[d] for d in alone), out.dtype)
    out = out.reshape([shape[d] if d in kept else 1 for d in range(len(shape))])
    lengths = [1 if d in dims else n for d, n in enumerate(shape)]
    if keepdim:
        return broadcast(out, lengths)
    rest = [d for d in range(len(shape)) if d not in dims]
    return broadcast(out.reshape([out.shape[d] for d in rest]), [lengths[d] for d in rest])


def _reshaped(x: Broadcasted, shape: tuple[int, ...], *_: Any, **__: Any) -> Any:
    """Insert or take away dimensions of length one; None for any other change of shape."""
    if [n for n in x.shape if n != 1] != [n for n in shape if n != 1]:
        return None
    lengths = iter(a for a, n in zip(x.array.shape, x.shape, strict=True) if n != 1)
    return broadcast(x.array.reshape([1 if n == 1 else next(lengths) for n in shape]), shape)


def _expanded(x: Broadcasted, shape: tuple[int, ...], *_: Any, **__: Any) -> Any:
    return broadcast(x.array, shape)


def _permuted(x: Broadcasted, shape: tuple[int, ...], dims: Sequence[int]) -> Any:
    return broadcast(jnp.transpose(x.array, dims), shape)


def _all_dims(dim: Any, ndim: int) -> set[int]:
    """Read torch's ``dim``: None and an empty list stand for all."""
    if isinstance(dim, int):
        dim = [dim]
    return {d % ndim for d in dim} if dim else set(range(ndim))


def _reduction(name: str, counts: bool = False) -> Callable[..., Any]:
    def run(
        x: Broadcasted,
        shape: tuple[int, ...],
        dim: Any = None,
        keepdim: bool = False,
        **options: Any,
    ) -> Any:
        dims = _all_dims(dim, len(x.shape))
        out = TABLE[name](x.array, sorted(dims), True, **options)
        if counts:  # equal terms, as often as the dimension is long
            count = math.prod(x.shape[d] for d in dims if x.array.shape[d] == 1)
            out = out * jnp.asarray(count, out.dtype)
        kept = tuple(1 if d in dims else n for d, n in enumerate(x.shape))
        out = Broadcasted(out, kept)
        return out if kept == shape else _reshaped(out, shape)

    return run


#: operations besides the elementwise ones that need no copies, by name: ``(x, shape, *args)``
_BROADCASTED: dict[str, Callable[..., Any]] = {
    "amax": _reduction("amax"),
    "amin": _reduction("amin"),
    "expand": _expanded,
    "expand_copy": _expanded,
    "mean": _reduction("mean"),
    "permute": _permuted,
    "permute_copy": _permuted,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "squeeze_copy": _reshaped,
    "sum": _reduction("sum", counts=True),
    "unsqueeze": _reshaped,
    "unsqueeze_copy": _reshaped,
    "view": _reshaped,
    "view_copy": _reshaped,
    "_unsafe_view": _reshaped,
}
