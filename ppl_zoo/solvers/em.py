"""Expectation maximisation, for models with an E-step and an M-step."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_zoo.solvers.coordinate_ascent import CoordinateAscent

__all__ = ["EM"]


@dataclass(frozen=True)
class EM(CoordinateAscent):
    """Expectation maximisation (Dempster, Laird & Rubin 1977).

    Coordinate ascent on the evidence lower bound L(q, theta): q is the exact posterior of the
    local latents (E-step), theta a point (M-step). The model offers
    ``expected_statistics(*batch)``, additive over data, and ``maximize(statistics)``; with a
    prior it offers ``log_prior()`` too and the result is the posterior mode. The objective,
    log likelihood plus log prior, never decreases; an iteration that lowers it is an error.

    Parameters
    ----------
    max_steps
        Most iterations of one restart.
    tol
        Stop when the gain still to come, extrapolated from the rate of convergence (Aitken; as
        Boehning et al. 1994), is below ``tol`` nats an observation.
    restarts
        Number of starts; each is a chain, the best one becomes the model's parameters.
    batch_size
        Rows in memory at once. It changes memory use only, not the result.
    initialize
        False to start from the parameters that the model has.
    """
