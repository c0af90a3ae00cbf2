"""Broadcast arrays whose copies are not made.

Torch's densities expand their parameters to the shape of the data before they take logarithms
of them. XLA would compute each of these many times; here what is the same along a dimension
stays of length one there until an operation needs the copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ppl_zoo.compiler.xla.ops.elementwise import ELEMENTWISE
from ppl_zoo.compiler.xla.ops.reductions import LARGEST, SMALLEST
from ppl_zoo.compiler.xla.ops.table import TABLE

__all__ = ["Broadcasted", "contract", "run_spread", "spread"]


@dataclass(frozen=True)
class Broadcasted:
    """``array`` broadcast to ``shape``; both have as many dimensions."""

    array: Any
    shape: tuple[int, ...]

    def whole(self) -> Any:
        """Return the array with its copies made."""
        return jnp.broadcast_to(self.array, self.shape)


def spread(array: Any, shape: Sequence[int]) -> Any:
    """Return an array as one of ``shape``, copies not made."""
    shape = tuple(shape)
    if array.shape == shape:
        return array
    return Broadcasted(array.reshape((1,) * (len(shape) - array.ndim) + array.shape), shape)


def run_spread(name: str, args: tuple, kwargs: dict, shape: tuple[int, ...] | None) -> Any:
    """Run an operation some of whose arguments are spread, its result of ``shape``.

    Returns None where it needs the copies.
    """
    if shape is None:
        return None
    x = args[0]
    if name in ELEMENTWISE:
        bare = [a.array if isinstance(a, Broadcasted) else a for a in args]
        if any(isinstance(v, Broadcasted) for v in kwargs.values()):
            return None
        return spread(jnp.asarray(TABLE[name](*bare, **kwargs)), shape)
    if not isinstance(x, Broadcasted) or any(isinstance(a, Broadcasted) for a in args[1:]):
        return None
    if name in _MOVES:
        return _MOVES[name](x, shape, *args[1:], **kwargs)
    return None


def _all_dims(dim: Any, ndim: int) -> set[int]:
    """Read torch's ``dim``: None and nothing stand for all."""
    if isinstance(dim, int):
        dim = [dim]
    return {d % ndim for d in dim} if dim else set(range(ndim))


def contract(a: Any, b: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Return ``(a * b).sum(dim, keepdim)`` as a matrix product, None where it is not worth one."""
    shapes = [v.shape if isinstance(v, Broadcasted) else jnp.shape(v) for v in (a, b)]
    shape = jnp.broadcast_shapes(*shapes)
    if jax.default_backend() != "cpu" or not SMALLEST <= math.prod(shape) <= LARGEST:
        return None
    a, b = ((v.array if isinstance(v, Broadcasted) else v) for v in (a, b))
    a, b = (jnp.reshape(v, (1,) * (len(shape) - jnp.ndim(v)) + jnp.shape(v)) for v in (a, b))
    if a.dtype != b.dtype or not jnp.issubdtype(a.dtype, jnp.floating):
        return None
    dims = (
        range(len(shape)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    )
    dims = {d % len(shape) for d in dims}
    both = {d for d in range(len(shape)) if a.shape[d] > 1 and b.shape[d] > 1}
    if not dims & both or both - dims or dims == set(range(len(shape))):
        return None  # sums of one of the two, or products row by row: no matrix product
    own = [[d for d in range(len(shape)) if v.shape[d] > 1] for v in (a, b)]
    kept = [d for d in range(len(shape)) if d not in dims and any(d in o for o in own)]
    pair = zip((a, b), own, strict=True)
    given = [v for x, o in pair for v in (x.reshape([x.shape[d] for d in o]), o)]
    out = jnp.einsum(*given, kept, precision="highest")
    # what neither of the two has as a dimension counts as often as it is long
    alone = [d for d in dims if all(d not in o for o in own)]
    out = out * jnp.asarray(math.prod(shape[d] for d in alone), out.dtype)
    out = out.reshape([shape[d] if d in kept else 1 for d in range(len(shape))])
    lengths = [1 if d in dims else n for d, n in enumerate(shape)]
    if keepdim:
        return spread(out, lengths)
    rest = [d for d in range(len(shape)) if d not in dims]
    return spread(out.reshape([out.shape[d] for d in rest]), [lengths[d] for d in rest])


def _moved(x: Broadcasted, shape: tuple[int, ...], *_: Any, **__: Any) -> Any:
    """Insert or take away dimensions of length one; None for any other change of shape."""
    if [n for n in x.shape if n != 1] != [n for n in shape if n != 1]:
        return None
    lengths = iter(a for a, n in zip(x.array.shape, x.shape, strict=True) if n != 1)
    return spread(x.array.reshape([1 if n == 1 else next(lengths) for n in shape]), shape)


def _expanded(x: Broadcasted, shape: tuple[int, ...], *_: Any, **__: Any) -> Any:
    return spread(x.array, shape)


def _permuted(x: Broadcasted, shape: tuple[int, ...], dims: Sequence[int]) -> Any:
    return spread(jnp.transpose(x.array, dims), shape)


def _reduced(name: str, times: bool) -> Callable[..., Any]:
    def run(
        x: Broadcasted,
        shape: tuple[int, ...],
        dim: Any = None,
        keepdim: bool = False,
        **options: Any,
    ) -> Any:
        dims = _all_dims(dim, len(x.shape))
        out = TABLE[name](x.array, sorted(dims), True, **options)
        if times:
            count = math.prod(x.shape[d] for d in dims if x.array.shape[d] == 1)
            out = out * jnp.asarray(count, out.dtype)
        kept = tuple(
            1 if d in {e % len(x.shape) for e in dims} else n for d, n in enumerate(x.shape)
        )
        out = Broadcasted(out, kept)
        return out if kept == shape else _moved(out, shape)

    return run


_MOVES: dict[str, Callable[..., Any]] = {
    "amax": _reduced("amax", False),
    "amin": _reduced("amin", False),
    "expand": _expanded,
    "mean": _reduced("mean", False),
    "permute": _permuted,
    "squeeze": _moved,
    "sum": _reduced("sum", True),
    "unsqueeze": _moved,
    "view": _moved,
    "_unsafe_view": _moved,
    "reshape": _moved,
}
_MOVES |= {f"{name}_copy": _MOVES[name] for name in ("expand", "permute", "squeeze", "unsqueeze")}
_MOVES["view_copy"] = _moved
