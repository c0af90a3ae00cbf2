"""The group ``fit`` of a fit in ArviZ: how it went, and what was learned."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ppl_zoo.diagnostics.arrays import as_array, plain
from ppl_zoo.diagnostics.dims import Names, Variable
from ppl_zoo.diagnostics.records import ChainRecord
from ppl_zoo.model import Model

__all__ = ["about", "fit_group", "parameters"]

#: parameters with more numbers stay in the run's weights
MAX_PARAMETER = 100_000


def fit_group(fit: Any, names: Names, records: list[ChainRecord]) -> xr.Dataset:
    """How the fit went, and what was learned."""
    nats = {"units": "nats"}
    solution = fit.solution
    variables: dict[str, Variable] = {
        name: (("chain", "step"), np.asarray(trace), nats if name == "objective" else {})
        for name, trace in solution.history.items()
    }
    variables["final_objective"] = (("chain",), np.asarray(solution.objective, float), nats)
    variables["steps"] = (("chain",), np.asarray(solution.steps), {})
    variables["khat"] = (
        ("chain",),
        np.array([r.khat for r in records]),
        {"long_name": "Pareto k-hat of the importance weights; NaN where there are none"},
    )
    variables["seconds"] = ((), np.asarray(fit.seconds), {"units": "s"})
    learned: list[dict[str, Tensor]] = []
    for chain in range(len(solution.stopped)):
        with fit.chain(chain):
            learned.append({k: v.clone() for k, v in parameters(fit.model).items()})
    for name in learned[0]:
        key = f"{name}_parameter" if names.variable(name) in variables else name
        dims = names.of_array(name, learned[0][name].ndim)
        values = np.stack([as_array(p[name]) for p in learned])
        variables[key] = (("chain", *dims), plain(values), {"learned": 1})
    return names.dataset(variables, attrs={**about(fit), "best_chain": int(solution.best)})


def parameters(model: Model) -> dict[str, Tensor]:
    """Learned parameters on their own scale.

    The properties of the model's class that are tensors (``weights``, ``means``) are what its
    author shows of them; without any, all parameters by name, under their constraints.
    """
    shown = {}
    for cls in type(model).__mro__:
        if cls is Model:
            break
        for name, value in vars(cls).items():
            if isinstance(value, property) and name not in shown:
                found = getattr(model, name)
                if isinstance(found, Tensor):
                    shown[name] = found.detach()
    if not shown:
        for name, raw in model.named_parameters():
            *path, last = name.removesuffix("_unconstrained").split(".")
            owner: Any = model.get_submodule(".".join(path))
            value = getattr(owner, last, raw)
            shown[".".join([*path, last])] = (raw if value is None else value).detach()
    return {k: v for k, v in shown.items() if v.numel() <= MAX_PARAMETER}


def about(fit: Any) -> dict[str, Any]:
    """Describe the fit in strings and numbers that netCDF can hold."""
    packages = ("ppl-zoo", "torch", "pyro-ppl", "numpy", "arviz")
    versions = [f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)]
    return {
        "model": type(fit.model).__name__,
        "solver": type(fit.solver).__name__,
        "stopped": ", ".join(fit.solution.stopped),
        "seed": int(fit.seed),
        "device": str(fit.model.device),
        "dtype": str(fit.model.dtype).removeprefix("torch."),
        "versions": ", ".join(versions),
        "inference_library": "ppl_zoo",
        "inference_library_version": version("ppl-zoo"),
    }
