"""Solvers: ways to maximise the evidence lower bound L(q, theta), and posterior samplers.

Those that maximise L differ in the family of q. EM takes the exact posterior of the local latents
and a point for theta; CAVI is the same coordinate ascent with a conjugate density for theta; SVI
takes any guide, and gradients of L. EarlyStopping stops a point estimate before it overfits. NUTS
and SGLD draw from the posterior itself; NUTS is the reference sampler.
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
