"""Public surface: every name of ``ppl_zoo``, imported together when one is first used."""

from typing import TYPE_CHECKING, Any

from ppl_zoo import data, evaluation, imaging, models, testing
from ppl_zoo.compiler.scan import scan
from ppl_zoo.core.errors import ConvergenceError, DataError, QueryError, RunError
from ppl_zoo.core.model import Model
from ppl_zoo.diagnostics.graphical_model import GraphicalModel, render
from ppl_zoo.evaluation.cross_validation import compare, loo
from ppl_zoo.evaluation.divergence import kl
from ppl_zoo.evaluation.evidence import evidence
from ppl_zoo.fitting.auto import Auto
from ppl_zoo.fitting.calibration import calibrate
from ppl_zoo.fitting.citation import Citation, cite
from ppl_zoo.fitting.log_density import log_density
from ppl_zoo.fitting.result import Fit
from ppl_zoo.fitting.run import fit, load
from ppl_zoo.models import *
from ppl_zoo.models import __all__ as _models
from ppl_zoo.restoration.restoration import Restoration, SplitGibbs, Tiling, restore
from ppl_zoo.solvers import CAVI, EM, NUTS, SGLD, SVI, EarlyStopping, LocalELBO

if TYPE_CHECKING:
    from ppl_zoo.models.catalogue import ZOO

__all__ = [
    "CAVI",
    "EM",
    "SGLD",
    "SVI",
    "Auto",
    "SplitGibbs",
    "ZOO",  # made by __getattr__, when it is first asked for
    "Citation",
    "ConvergenceError",
    "DataError",
    "EarlyStopping",
    "Fit",
    "GraphicalModel",
    "LocalELBO",
    "Model",
    "NUTS",
    "QueryError",
    "Restoration",
    "RunError",
    "Tiling",
    "calibrate",
    "cite",
    "compare",
    "data",
    "evaluation",
    "evidence",
    "fit",
    "imaging",
    "kl",
    "load",
    "log_density",
    "loo",
    "models",
    "render",
    "restore",
    "scan",
    "testing",
    *_models,
]


def __getattr__(name: str) -> Any:
    """Build the catalogue when it is first asked for."""
    if name == "ZOO":
        from ppl_zoo.models.catalogue import ZOO

        return ZOO
    raise AttributeError(f"module 'ppl_zoo.surface' has no attribute {name!r}")
