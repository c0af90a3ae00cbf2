"""ppl_zoo: a zoo of probabilistic models for Pyro, fitted by EM and SVI, checked with ArviZ."""

import importlib
import os
import sys
from typing import Any

# OpenMP's threads are to sleep while they wait: on a busy machine spinning ones take the cores
# that the others wait for. It is read once, when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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

__all__ = []

__version__ = "0.1.0"

__all__ = [
    "CAVI",
    "EM",
    "SGLD",
    "SVI",
    "Auto",
    "SplitGibbs",
    "Citation",
    "ZOO",  # made by __getattr__, when it is first asked for
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
    """Build the catalogue, and import scikit-learn's shell, when they are first asked for."""
    if name == "ZOO":
        from ppl_zoo.models.catalogue import ZOO

        return ZOO
    if name == "sklearn":  # not in __all__: it needs the extra of its name
        return importlib.import_module("ppl_zoo.sklearn")
    raise AttributeError(f"module 'ppl_zoo' has no attribute {name!r}")
