"""Solvers: ways to climb the evidence lower bound L(q, theta).

They differ in what they hold fixed and in what family q lies. EM takes q to be the exact
posterior of the local latents and a point for theta, CAVI is the same loop with a conjugate
density for theta; SVI climbs L by stochastic gradients.
NUTS draws from the posterior itself and is the referee.
"""

from ppl_zoo.core.solution import Solution
from ppl_zoo.solvers.cavi import CAVI
from ppl_zoo.solvers.early_stopping.solver import EarlyStopping
from ppl_zoo.solvers.elbos import LocalELBO
from ppl_zoo.solvers.em import EM
from ppl_zoo.solvers.nuts.nuts import NUTS
from ppl_zoo.solvers.sgld import SGLD
from ppl_zoo.solvers.svi.svi import SVI

__all__ = ["CAVI", "EM", "NUTS", "SGLD", "SVI", "EarlyStopping", "LocalELBO", "Solution"]
