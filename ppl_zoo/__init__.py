"""ppl_zoo: a zoo of probabilistic models for Pyro, fitted by EM and SVI, checked with ArviZ."""

from typing import Any

import pyro

# parameters live in their modules, not in Pyro's global store: the solvers, and everything that
# reads a trace here, rest on it. It is read at run time, so it has to stay on.
pyro.settings.set(module_local_params=True)

from ppl_zoo import data, models, testing  # noqa: E402  the setting comes first
from ppl_zoo.calibration import calibrate  # noqa: E402
from ppl_zoo.errors import ConvergenceError, DataError, QueryError, RunError  # noqa: E402
from ppl_zoo.fitting import Fit, fit  # noqa: E402
from ppl_zoo.model import Model  # noqa: E402
from ppl_zoo.models import *  # noqa: E402, F403
from ppl_zoo.models import __all__ as _models  # noqa: E402
from ppl_zoo.saving import load  # noqa: E402
from ppl_zoo.solvers import EM, NUTS, SVI  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "EM",
    "SVI",
    "ZOO",  # noqa: F405  see __getattr__
    "ConvergenceError",
    "DataError",
    "Fit",
    "Model",
    "NUTS",
    "QueryError",
    "RunError",
    "calibrate",
    "data",
    "fit",
    "load",
    "models",
    "testing",
    *_models,
]


def __getattr__(name: str) -> Any:
    """Build the catalogue when it is first asked for."""
    if name == "ZOO":
        from ppl_zoo.catalogue import ZOO

        return ZOO
    raise AttributeError(f"module 'ppl_zoo' has no attribute {name!r}")
