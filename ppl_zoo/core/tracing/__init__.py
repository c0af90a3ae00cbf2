"""Tracing of Pyro programs: sites, log densities, vectorised draws, predictive draws.

All draws of the zoo go through :func:`draw`: one run of model and guide under ``torch.vmap``
stands for many draws, so that programs need not broadcast (``weights[0]``, ``x @ b``).
"""

from ppl_zoo.core.tracing.predictive import predict, simulate
from ppl_zoo.core.tracing.sampling import draw, draw_discrete, vectorises
from ppl_zoo.core.tracing.scoring import Draws
from ppl_zoo.core.tracing.sites import (
    Site,
    describe,
    first_run,
    trace_program,
    with_summed_out,
)

__all__ = [
    "Draws",
    "Site",
    "describe",
    "draw",
    "draw_discrete",
    "first_run",
    "predict",
    "simulate",
    "trace_program",
    "vectorises",
    "with_summed_out",
]
