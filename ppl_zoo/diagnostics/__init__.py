"""Diagnostics: the way to ArviZ, k-hat, figures; imports happen when something is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "to_arviz": "arviz",
    "from_netcdf": "generation",
    "get_group": "generation",
    "group_names": "generation",
    "max_rhat": "generation",
    "rhat": "generation",
    "summary": "generation",
    "to_netcdf": "generation",
    "plot_fit": "plots",
    "plot_history": "plots",
    "plot_posterior": "plots",
    "plot_samples": "plots",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public function's file when it is first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
