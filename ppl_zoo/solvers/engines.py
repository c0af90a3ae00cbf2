"""Ways to take steps of SVI: Pyro's interpreter, and the graph compiled by XLA or Inductor.

All advance all chains, note an objective for each step, and leave the same state behind, so
that a fit can be saved, resumed and stopped alike.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

from ppl_zoo.compiler import CaptureError
from ppl_zoo.data.rows import Rows
from ppl_zoo.solvers.engine_inductor import Inducted
from ppl_zoo.solvers.engine_interpreted import Interpreted
from ppl_zoo.solvers.engine_xla import Compiled
from ppl_zoo.solvers.svi_chain import SVIChain

__all__ = ["choose_engine", "window_of"]

#: Steps, chains added up, from which "auto" compiles. Pyro's interpreter takes a millisecond or
#: more a step and compiling takes seconds. It is a count and not a measured time, since the two
#: engines draw different noise: which one runs must not depend on how busy a machine is.
COMPILE_FROM = 2000


def window_of(engine: str, steps: int) -> int:
    """Choose how many steps lie between two looks of the stopping rule."""
    if engine != "xla":
        return 100
    return min(1000, max(100, steps // 20))  # a short fit shall see its learning rate fall, too


def choose_engine(
    mode: Any,
    chains: Sequence[SVIChain],
    interpreted: Interpreted,
    steps: int,
    window: int | None,
    tables: Sequence[Rows] | None = None,
) -> Interpreted | Compiled:
    """Compile, where asked for or where it pays.

    "auto" compiles fits of many steps, where JAX is installed and the data fit into memory. A
    program that cannot be captured runs interpreted, with a warning that names its line.
    """
    if mode is False:
        return interpreted
    asked = mode != "auto"
    if not asked:
        if importlib.util.find_spec("jax") is None or interpreted.rows.num_bytes > 2**30:
            return interpreted
        if steps * len(chains) < COMPILE_FROM or not chains[0].model.compiles:
            return interpreted
    try:
        if mode == "inductor":
            return Inducted(chains, interpreted)
        return Compiled(chains, interpreted, window or window_of("xla", steps), tables)
    except CaptureError as error:
        warnings.warn(f"SVI runs uncompiled, since a graph stops at {error}", stacklevel=2)
    except (ValueError, RuntimeError) as error:
        if mode == "xla":
            raise ValueError(f"compile='xla': {error}") from error
        # an operation; optimizers and devices are no surprise
        if asked or isinstance(error, RuntimeError):
            warnings.warn(f"SVI runs uncompiled: {error}", stacklevel=2)
    return interpreted
