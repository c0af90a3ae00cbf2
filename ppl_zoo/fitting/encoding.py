"""Encoding of models' arguments and solvers' options as JSON and tensors; nothing is pickled.

The zoo's own classes are written by public name, ``ppl_zoo:GaussianMixture``, so that saved runs
outlive a move of their file; runs of earlier versions, which name the file too, are read the same
way.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo import models
from ppl_zoo.core.errors import RunError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import renamed
from ppl_zoo.core.solver import Solver, find_solver
from ppl_zoo.solvers.elbos import LocalELBO

__all__ = [
    "class_name",
    "decode",
    "decode_solver",
    "encode",
    "encode_solver",
    "find_class",
    "is_ours",
    "unsaved_options",
]

PACKAGE = "ppl_zoo"


def find_class(name: str) -> type[Model] | None:
    """Find a model class by name among those that are imported; nothing is imported for a file."""
    module, _, public = name.partition(":")
    if module == PACKAGE or module.startswith(f"{PACKAGE}."):
        found = getattr(models, public, None)
        return found if isinstance(found, type) and issubclass(found, Model) else None
    waiting = [Model]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if class_name(cls) == name:
            return cls
    return None


def class_name(cls: type) -> str:
    """Name a class as ``module:qualname``, the zoo's own as ``ppl_zoo:Name``."""
    zoo = is_ours(cls) and getattr(models, cls.__name__, None) is cls
    return f"{PACKAGE if zoo else cls.__module__}:{cls.__qualname__}"


def encode(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Write a value as JSON holds it; tensors go to ``tensors`` under ``key``."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        tensors[key] = value
        return {"tensor": key}
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [encode(v, f"{key}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, dict):
        return {"dict": {k: encode(v, f"{key}.{k}", tensors) for k, v in value.items()}}
    return {"unsaved": f"{type(value).__name__}"}


def decode(value: Any, tensors: dict[str, Tensor], key: str, path: Path) -> Any:
    """Read a value back."""
    if isinstance(value, list):
        return [decode(v, tensors, key, path) for v in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        if "dict" in value:
            return {k: decode(v, tensors, k, path) for k, v in value["dict"].items()}
        raise RunError(
            f"{path}: the model's argument {key!r} ({value['unsaved']}) cannot be saved; "
            "build the model and pass it, zoo.load(path, model=...)"
        )
    return value


def encode_solver(solver: Solver) -> dict[str, Any]:
    """Write a solver's options; classes by name, functions only as a note."""
    solver = solver.to_save()
    options = {}
    for field in dataclasses.fields(solver):
        value = getattr(solver, field.name)
        if isinstance(value, type):
            value = {"type": class_name(value)}
        elif isinstance(value, LocalELBO) and _is_plain(value.options):
            value = {"local_elbo": value.options}
        elif not isinstance(value, (str, int, float, bool, type(None))):
            value = {"unsaved": repr(value)}
        options[field.name] = value
    cls = type(solver)
    name = cls.__qualname__ if is_ours(cls) else f"{cls.__module__}:{cls.__qualname__}"
    return {"class": name, "options": options}


def unsaved_options(record: dict[str, Any]) -> dict[str, str]:
    """Return the options of a solver that JSON did not hold, as they were written down."""
    known = {class_name(c) for c in _torch_and_pyro_classes()}
    return {
        name: value.get("type") or value.get("unsaved")
        for name, value in record["options"].items()
        if isinstance(value, dict) and "local_elbo" not in value and value.get("type") not in known
    }


def decode_solver(record: dict[str, Any], guide: Any = None) -> Solver:
    """Make the solver again; options that were not saved have their default.

    ``guide`` stands for one that was not saved.

    Raises
    ------
    RunError
        If it is not known here, or the guide was not saved.
    """
    cls = find_solver(record["class"])
    if cls is None:
        raise RunError(f"solver {record['class']!r} is not known here: pass zoo.load(solver=...)")
    options = {}
    unsaved = unsaved_options(record)
    for name, value in renamed(record["options"], cls.old_names).items():
        if name == "guide" and guide is not None:
            value = guide
        elif name == "guide" and name in unsaved:
            raise RunError(
                f"the guide {unsaved[name]} cannot be read from a file: pass it, "
                "zoo.load(path, guide=...)"
            )
        elif name in unsaved:
            continue
        elif isinstance(value, dict) and "local_elbo" in value:
            value = LocalELBO(**value["local_elbo"])
        elif isinstance(value, dict):
            value = {class_name(c): c for c in _torch_and_pyro_classes()}[value["type"]]
        options[name] = value
    return cls(**options)


def is_ours(cls: type) -> bool:
    """Whether a class is one of the zoo's."""
    return cls.__module__.split(".")[0] == PACKAGE


def _is_plain(options: dict) -> bool:
    return all(isinstance(v, (str, int, float, type(None))) for v in options.values())


def _torch_and_pyro_classes() -> list[type]:
    from pyro.infer import autoguide

    found = [*vars(torch.optim).values(), *vars(autoguide).values()]
    return [c for c in found if isinstance(c, type)]
