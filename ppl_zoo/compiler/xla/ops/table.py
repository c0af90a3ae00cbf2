"""Aten operations in JAX: the table of all of them, one entry an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ppl_zoo.compiler.xla.ops.creation import MAKING
from ppl_zoo.compiler.xla.ops.elementwise import ELEMENTWISE
from ppl_zoo.compiler.xla.ops.indexing import PLACES
from ppl_zoo.compiler.xla.ops.linalg import LINALG
from ppl_zoo.compiler.xla.ops.nn import LAYERS
from ppl_zoo.compiler.xla.ops.reductions import REDUCTIONS
from ppl_zoo.compiler.xla.ops.shapes import SHAPES

__all__ = ["TABLE"]

TABLE: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPES,
    **PLACES,
    **MAKING,
    **LAYERS,
    **LINALG,
    "_standard_gamma_grad": lambda alpha, sample: jax.lax.random_gamma_grad(alpha, sample),
}
