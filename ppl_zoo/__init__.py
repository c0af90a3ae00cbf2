"""ppl_zoo: a zoo of probabilistic models for Pyro, fitted by EM and SVI, checked with ArviZ.

The names are those of ``ppl_zoo.surface``; they are imported when one is first used, so that the
command's help does not wait for torch.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# OpenMP's threads are to sleep while they wait: on a busy machine spinning ones take the cores
# that the others wait for. It is read once, when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:  # for type checkers and editors
    from ppl_zoo.surface import *
    from ppl_zoo.surface import __all__ as __all__

__version__ = "0.1.0"

#: folders of the package, which are imported by themselves
FOLDERS = (
    *("cli", "compiler", "core", "data", "diagnostics", "evaluation", "fitting", "imaging"),
    *("models", "restoration", "sklearn", "solvers", "testing"),
)


def __getattr__(name: str) -> Any:
    """Import the public surface when a name of it is first used (PEP 562)."""
    if name in FOLDERS:
        return importlib.import_module(f"ppl_zoo.{name}")
    known: list[str] = []
    if name == "__all__" or not name.startswith("_"):
        surface = importlib.import_module("ppl_zoo.surface")
        known = ["__all__", *getattr(surface, "__all__", ())]
        if name in known:
            return globals().setdefault(name, getattr(surface, name))
    from ppl_zoo.core.options import did_you_mean

    raise AttributeError(f"module 'ppl_zoo' has no attribute {name!r}{did_you_mean(name, known)}")


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *importlib.import_module("ppl_zoo.surface").__all__})
