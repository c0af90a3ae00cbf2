"""Tracing of Pyro programs: sites, log densities, vectorised draws, predictive draws.

All draws of the zoo go through :func:`draw`. It runs model and guide once under one outer plate
``_draw`` and then verifies two of the draws by runs of their own: a program that does not
broadcast (``weights[0]``, ``x @ b``) is noticed and run draw by draw instead of being silently
wrong.
"""

from ppl_zoo.core.tracing.predictive import predict, simulate
from ppl_zoo.core.tracing.sampling import broadcasts, draw, draw_discrete
from ppl_zoo.core.tracing.scoring import Draws
from ppl_zoo.core.tracing.sites import Site, describe, trace_program, with_summed_out

__all__ = [
    "Draws",
    "Site",
    "broadcasts",
    "describe",
    "draw",
    "draw_discrete",
    "predict",
    "simulate",
    "trace_program",
    "with_summed_out",
]
