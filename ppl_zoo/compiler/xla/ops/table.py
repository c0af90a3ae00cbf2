"""The lowering table: every aten operation that XLA runs, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ppl_zoo.compiler.xla.ops.creation import CREATION
from ppl_zoo.compiler.xla.ops.elementwise import ELEMENTWISE
from ppl_zoo.compiler.xla.ops.indexing import INDEXING
from ppl_zoo.compiler.xla.ops.linalg import LINALG
from ppl_zoo.compiler.xla.ops.nn import NN
from ppl_zoo.compiler.xla.ops.reductions import REDUCTIONS
from ppl_zoo.compiler.xla.ops.shapes import SHAPES

__all__ = ["TABLE"]

TABLE: dict[str, Callable[..., Any]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **SHAPES,
    **INDEXING,
    **CREATION,
    **NN,
    **LINALG,
    "_standard_gamma_grad": lambda alpha, sample: jax.lax.random_gamma_grad(alpha, sample),
}
