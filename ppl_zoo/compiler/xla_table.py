"""Aten operations in JAX: the table of all of them, one entry an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ppl_zoo.compiler.xla_elementwise import ELEMENTWISE
from ppl_zoo.compiler.xla_layers import LAYERS
from ppl_zoo.compiler.xla_linalg import LINALG
from ppl_zoo.compiler.xla_making import MAKING
from ppl_zoo.compiler.xla_places import PLACES
from ppl_zoo.compiler.xla_reductions import REDUCTIONS
from ppl_zoo.compiler.xla_shapes import SHAPES

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
