"""Diagnostics: conversion to ArviZ, Pareto k-hat, R-hat, checks, plots; imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
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

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public function on first use."""
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
