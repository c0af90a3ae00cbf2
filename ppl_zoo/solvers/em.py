"""Expectation maximisation, for models with an E-step and an M-step."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_zoo.core.model import Model
from ppl_zoo.core.options import options
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solver import is_overparameterised
from ppl_zoo.solvers.coordinate_ascent import CoordinateAscent

__all__ = ["EM"]


@options(max_steps="steps")
@dataclass(frozen=True, repr=False)
class EM(CoordinateAscent):
    """Expectation maximisation (Dempster, Laird & Rubin 1977).

    Coordinate ascent on the evidence lower bound L(q, theta): q is the exact posterior of the
    local latents (E-step), theta a point (M-step). The model offers
    ``expected_statistics(*batch)``, additive over data, and ``maximize(statistics)``; with a
    prior it offers ``log_prior()`` too and the result is the posterior mode. The objective,
    log likelihood plus log prior, never decreases; an iteration that lowers it is an error.

    Parameters
    ----------
    steps
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
    patience
        Early stopping, where ``zoo.fit`` holds out rows: iterations without a gain of their log
        likelihood after which a restart stops. The parameters of the best iteration are kept,
        and choose the best restart.
    """

    patience: int = 10

    def __post_init__(self) -> None:
        """Refuse options out of range."""
        super().__post_init__()
        if self.patience < 1:
            raise ValueError(f"EM: got patience={self.patience}, expected 1 or more")

    def uses_validation(self, model: Model, rows: Rows) -> bool:
        """Whether validation rows stop the fit: not one that has its optimum in closed form."""
        return is_overparameterised(model, rows) and any(
            site.kind == "latent" for site in model.sites(*rows.head(1)).values()
        )
