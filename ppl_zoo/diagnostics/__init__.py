"""Diagnostics: the way to ArviZ, k-hat, figures; imports happen when something is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = []

_HOMES = {
    "to_arviz": "arviz",
    "from_netcdf": "arviz_compat",
    "get_group": "arviz_compat",
    "group_names": "arviz_compat",
    "max_rhat": "arviz_compat",
    "rhat": "arviz_compat",
    "summary": "arviz_compat",
    "to_netcdf": "arviz_compat",
    "plot_fit": "plots.fit",
    "plot_history": "plots.fit",
    "plot_posterior": "plots.fit",
    "plot_samples": "plots.fit",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public function's file when it is first asked for."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
