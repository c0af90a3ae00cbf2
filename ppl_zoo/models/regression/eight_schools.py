"""Eight schools: the hierarchical model on which samplers and guides are tested."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows

__all__ = ["EightSchools"]


class EightSchools(Model):
    """Partial pooling of the effects of a coaching programme.

    Generative model::

        mu       ~ Normal(0, 5)                mean effect, in points of the test
        tau      ~ HalfCauchy(5)               sd between schools
        theta_j  ~ Normal(mu, tau)             effect of school j
        y_j      ~ Normal(theta_j, sigma_j)    its estimate, with known standard error

    Parameters
    ----------
    parametrization
        "noncentered": ``theta = mu + tau * eta``, ``eta ~ Normal(0, 1)``, without the funnel
        between tau and theta, which guides and samplers approximate better when data are weak;
        "centered": as above.

    References
    ----------
    Rubin 1981, Estimation in parallel randomized experiments,
    https://doi.org/10.3102/10769986006004377. Papaspiliopoulos, Roberts & Skold 2007, A general
    framework for the parametrization of hierarchical models, https://arxiv.org/abs/0708.3797.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> schools = zoo.data.load("eight-schools")
    >>> fit = zoo.fit(zoo.EightSchools(), schools, zoo.SVI(steps=50), progress=False)
    >>> fit.posterior(10)["theta"].shape  # (chain, draw, school)
    torch.Size([1, 10, 8])
    """

    integers_are_numbers = True
    queries = {"log_prob": "estimate", "sample": "estimate", "encode": "estimate"}
    default_solver = ("SVI", {"restarts": 2})
    representation = "theta"

    def __init__(self, parametrization: str = "noncentered") -> None:
        super().__init__()
        if parametrization not in ("centered", "noncentered"):
            raise ValueError(
                f"parametrization: got {parametrization!r}, expected 'centered' or 'noncentered'"
            )
        self.centered = parametrization == "centered"
        self.register_buffer("mean_scale", torch.tensor(5.0))
        self.register_buffer("spread_scale", torch.tensor(5.0))

    def model(self, y: Tensor, sigma: Tensor) -> Tensor:
        """Draw mu, tau and the effects, then y; ``y`` and ``sigma`` are ``(schools,)``."""
        mu = pyro.sample("mu", dist.Normal(0.0, self.mean_scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.spread_scale))
        with self.observations("schools", sigma):
            if self.centered:
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            else:
                eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
                theta = pyro.deterministic("theta", mu + tau * eta, event_dim=0)
            return pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    def check_data(self, rows: Rows) -> None:
        """Refuse data that are not ``(y, sigma)`` with positive standard errors."""
        sizes = rows.sizes()
        if len(sizes) != 2 or sizes[0] != sizes[1] or len(sizes[0]) != 1:
            raise DataError(f"(y, sigma): got shapes {sizes}, expected two of the same (schools,)")
        super().check_data(rows)
        sigma = rows.all()[1]
        if not bool((sigma > 0).all()):
            raise DataError(f"sigma: got {sigma.min().item()}, expected positive standard errors")
