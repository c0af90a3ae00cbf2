"""Saving and reading of fits: what of a fit goes into a run directory, and back.

The form of the directory is in ``run_directory``.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.device import pick_device
from ppl_zoo.core.errors import DataError, QueryError, RunError
from ppl_zoo.core.functions import Arguments, FunctionModel, module_of
from ppl_zoo.core.model import Model
from ppl_zoo.core.named_data import ArgumentNames
from ppl_zoo.core.posterior import FittedModel, PosteriorDraws
from ppl_zoo.core.random import chain_seed, fork_generators, set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.solution import Solution
from ppl_zoo.core.solver import Solver
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.fitting.encoding import (
    class_name,
    decode,
    decode_solver,
    encode,
    encode_solver,
    find_class,
    is_ours,
    unsaved_options,
)
from ppl_zoo.fitting.run_directory import read_run, write_run
from ppl_zoo.fitting.run_record import FILES
from ppl_zoo.fitting.size_limit import SizeLimit, check_sizes

__all__ = ["read", "save", "versions"]

AnyFit = TypeVar("AnyFit", bound=FittedModel)

#: data up to this many bytes go into the run unless ``include_data`` says otherwise
SMALL_DATA = 100 * 2**20
#: rows and columns of a tensor without any number in it
MAX_EMPTY = 2**24


def save(fit: FittedModel, path: str | Path, *, include_data: bool | None = None) -> Path:
    """Write a fit to a directory, replacing a run that stands there.

    Parameters
    ----------
    fit
        The fit, complete or interrupted.
    path
        The run directory.
    include_data
        Whether the data go with it, so that ``to_arviz`` and ``resume`` need no more after
        loading. By default they do if they take up to 100 MiB.

    Returns
    -------
    Path

    Raises
    ------
    RunError
        If something else than a run stands at ``path``, or it cannot be written; a run that
        stood there is intact then.
    """
    path = Path(path)
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in FILES}
    tensors["weights"] |= fit.solution.parameters
    solution = fit.solution
    config, model_args = {}, fit.model.config
    for key, value in model_args.items():
        config[key] = encode(value, f"config.{key}", tensors["weights"])
    example = []
    if fit.model.example is not None:
        for index, (one, per_row) in enumerate(fit.model.example):
            tensors["weights"][f"example.{index}"] = one
            example.append(per_row)
    if solution.draws is not None:
        tensors["weights"] |= {f"draws.{k}": v for k, v in solution.draws.items()}
    tensors["state"] |= solution.state_tensors
    tensors["history"] |= {k: torch.from_numpy(v.copy()) for k, v in solution.history.items()}
    stats = {f"sample_stats.{k}": v for k, v in solution.sample_stats.items()}
    tensors["history"] |= {k: torch.from_numpy(v.copy()) for k, v in stats.items()}
    tensors["data"] |= _data_tensors(fit, include_data)
    record = {
        "model": {"class": class_name(type(fit.model)), "config": config},
        "solver": encode_solver(fit.solver),
        "names": {name: n.to_record() for name, n in fit.model.data_names.items()},
        "example": example,
        "stopped": list(solution.stopped),
        "objective": [None if not np.isfinite(v) else float(v) for v in solution.objective],
        "summed_out": list(solution.summed_out),
        "engine": solution.engine,
        "state": solution.state_values,
        "call": fit.model.call.to_record() if isinstance(fit.model, FunctionModel) else None,
        "rows_plate": fit.model.data_plate,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "validated": fit.valid is not None,
        "num_split_off": fit.num_split_off,
        "num_rows": None if fit.rows is None else len(fit.rows),
        "dtype": str(fit.model.dtype).removeprefix("torch."),
        "device": str(fit.model.device),
        "versions": versions(),
    }
    write_run(path, record, tensors)
    return path


def read(
    path: str | Path,
    cls: type[AnyFit],
    *,
    model: Model | type[Model] | Callable[..., Any] | None = None,
    data: Any = None,
    solver: Solver | None = None,
    guide: Any = None,
    device: str | torch.device = "auto",
) -> AnyFit:
    """Read a saved fit as a ``cls``; see :func:`ppl_zoo.load` for the other arguments.

    Raises
    ------
    RunError
        If the run is missing, truncated, corrupt or of a class that is not known here.
    """
    path = Path(path)
    record, tensors = read_run(path)
    _check_tensors(record, tensors, path)
    weights = tensors["weights"]
    with _described(path):
        own = _build_model(record["model"], tensors, model, path)
    own.to(pick_device(device), getattr(torch, record["dtype"]))
    own.data_plate = record["rows_plate"]
    names = record.get("names", {})
    own.data_names = {name: ArgumentNames.from_record(n) for name, n in names.items()}
    unsaved = {} if solver is not None else unsaved_options(record["solver"])
    with _described(path):
        solver = decode_solver(record["solver"], guide) if solver is None else solver
    rows = valid = None
    num_split_off = record.get("num_split_off", 0)
    if isinstance(own, FunctionModel) and data is None:
        if record.get("call") is None:
            raise RunError(f"{path}: holds no fit of a function, got {own.model_name}")
        own.call = Arguments.from_record(record["call"])
    if data is not None:
        rows = own.as_rows(getattr(data, "train", data))
        if num_split_off and len(rows) != record.get("num_rows"):
            rows, valid = rows.split(num_split_off, record["seed"])
        elif getattr(data, "valid", None) is not None and record.get("validated"):
            valid = own.as_rows(data.valid)
    elif tensors["data"]:
        with _described(path):
            rows, valid = (_rows_of(own, tensors["data"], prefix) for prefix in ("", "valid."))
    example = [
        (weights[f"example.{i}"].to(own.device), per_row)
        for i, per_row in enumerate(record["example"])
    ]
    parameters = {
        k: v.to(own.device) for k, v in weights.items() if k.startswith(("model.", "guide."))
    }
    draws = {k.removeprefix("draws."): v for k, v in weights.items() if k.startswith("draws.")}
    with _described(path, given=data is not None):
        if draws:
            guide = PosteriorDraws(own, draws, None if rows is None else rows.all())
        else:
            guide = _build_guide(own, solver, rows, example, record["seed"], parameters)
        if any(name.startswith("model._declared.") for name in parameters):
            shown = rows if rows is not None else own.rows_of(tuple(t for t, _ in example))
            with fork_generators(own.device), own.defaults():
                for program in (own, guide):  # they declare the parameters that are loaded
                    if program is not None and not isinstance(program, PosteriorDraws):
                        trace_program(program, shown.all())
    with _described(path):
        history = {k: v.numpy() for k, v in tensors["history"].items()}
    stats = {k: v for k, v in history.items() if k.startswith("sample_stats.")}
    solution = Solution(
        parameters=parameters,
        history={k: v for k, v in history.items() if k not in stats},
        objective=np.array([np.nan if v is None else v for v in record["objective"]]),
        stopped=tuple(record["stopped"]),
        guide=guide,
        summed_out=tuple(record["summed_out"]),
        engine=record["engine"],
        draws=draws or None,
        sample_stats={k.removeprefix("sample_stats."): v for k, v in stats.items()},
        state_tensors={k: v.to(own.device) for k, v in tensors["state"].items()},
        state_values=record["state"],
        unsaved_options={k: v for k, v in unsaved.items() if k != "guide"},
    )
    fit = cls(
        own,
        solver,
        solution,
        rows,
        seed=record["seed"],
        seconds=record["seconds"],
        valid=valid,
        num_split_off=num_split_off,
    )
    with _described(path):
        try:
            fit.show(solution.best)
        except RuntimeError as error:
            raise RunError(f"{path}: its weights do not fit {own.model_name}: {error}") from error
    own.recall(tuple(example) or None, guide)
    return fit


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("ppl-zoo", "torch", "pyro-ppl", "numpy")
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


#: reading a package's metadata takes as long as writing a run
_version = cache(version)


@contextmanager
def _described(path: Path, given: bool = False) -> Iterator[None]:
    """Let whatever a file's arguments and tensors do to our code be an error of the file.

    ``given`` is whether data of the caller take part, whose errors are theirs.
    """
    try:
        yield
    except QueryError:
        raise
    except RunError as error:
        if str(path) in str(error):
            raise
        raise RunError(f"{path}: {error}") from error
    except Exception as error:
        if given and isinstance(error, DataError):
            raise
        raise RunError(
            f"{path}: what it holds makes no fit: {type(error).__name__}: {error}"
        ) from error


def _check_tensors(
    record: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]], path: Path
) -> None:
    """Refuse tensors that are not those of a fit, before anything is made of them.

    Raises
    ------
    RunError
        If one is missing, or has not an entry for each chain.
    """
    weights, history, chains = tensors["weights"], tensors["history"], len(record["stopped"])
    needed = [f"example.{i}" for i in range(len(record["example"]))]
    missing = [name for name in needed if name not in weights]
    missing += [] if "objective" in history else ["objective"]
    if missing:
        raise RunError(f"{path}: has no tensor {missing[0]!r}")
    for name, tensor in [pair for group in tensors.values() for pair in group.items()]:
        if tensor.numel() == 0 and max(tensor.shape, default=0) > MAX_EMPTY:
            raise RunError(f"{path}: tensor {name!r} of shape {tuple(tensor.shape)} holds nothing")
    per_chain = {
        name: (tensor, 2 if name.startswith("draws.") else 1)
        for name, tensor in weights.items()
        if name.startswith(("model.", "guide.", "draws."))
    } | {name: (tensor, 2) for name, tensor in history.items()}
    for name, (tensor, least) in per_chain.items():
        if tensor.ndim < least or tensor.shape[0] != chains:
            raise RunError(
                f"{path}: tensor {name!r} has the shape {tuple(tensor.shape)}, expected "
                f"{'(chain, step or draw, ...)' if least == 2 else '(chain, ...)'} of {chains} "
                f"chain{'s' if chains > 1 else ''}"
            )
    if not history["objective"].is_floating_point():
        raise RunError(f"{path}: the objective is of {history['objective'].dtype}")


def _build_model(
    record: dict[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    given: Model | type[Model] | Callable[..., Any] | None,
    path: Path,
) -> Model:
    """Build the model of a saved fit: the one given, of the class given, or found by name."""
    if isinstance(given, Model):
        return given
    if given is not None and not isinstance(given, type):
        return FunctionModel(given)
    if record["class"].endswith(":FunctionModel"):
        raise RunError(f"{path}: holds a fit of a function; pass it, zoo.load(path, model=...)")
    cls = given if given is not None else find_class(record["class"])
    if cls is None:
        raise RunError(
            f"{path}: holds a {record['class']}, which is not imported here; import it, "
            "or pass zoo.load(path, model=ThatClass)"
        )
    weights = tensors["weights"]
    config = {k: decode(v, weights, k, path) for k, v in record["config"].items()}
    held = [tensor for group in tensors.values() for tensor in group.values()]
    # what is built is held against all numbers of the file: some models are as large as their data
    if is_ours(cls):
        check_sizes(config, held)
    with SizeLimit(held, counted=is_ours(cls)):
        model = cls(**{**cls.legacy_arguments, **config})
    made = {f"model.{k}": tuple(v.shape) for k, v in model.state_dict().items()}
    for name in made.keys() & weights.keys():
        if made[name] != tuple(weights[name].shape[1:]):
            raise RunError(
                f"{path}: its weights do not fit {model.model_name}: {name} has the shape "
                f"{tuple(weights[name].shape[1:])}, expected {made[name]}"
            )
    return model


def _build_guide(
    model: Model,
    solver: Solver,
    rows: Rows | None,
    example: list[tuple[Tensor, bool]],
    seed: int,
    parameters: dict[str, Tensor],
) -> Any:
    """Make the guide of a saved fit again, of the shapes that its parameters have."""
    if rows is None:
        if not example:
            return model.guide
        rows = model.rows_of(tuple(t for t, _ in example))
    with fork_generators(model.device), model.defaults():
        set_seed(chain_seed(seed, 0), model.device)
        guide = solver.rebuild_guide(model, rows, parameters)
    module = module_of(guide)
    if module is not None:
        made = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        held = {
            k.removeprefix("guide."): tuple(v.shape[1:])
            for k, v in parameters.items()
            if k.startswith("guide.")
        }
        if made != held:
            raise RunError(
                "the guide has parameters for single rows and the run holds no data: "
                "pass them, zoo.load(path, data=...)"
            )
    return guide


def _data_tensors(fit: FittedModel, include: bool | None) -> dict[str, Tensor]:
    """Name the tensors of the data: arguments ``"0"``, ..., validation rows ``"valid.0"``, ..."""
    parts = {"": fit.rows, "valid.": fit.valid}
    parts = {prefix: rows for prefix, rows in parts.items() if rows is not None}
    size = sum(rows.num_bytes for rows in parts.values())
    if fit.rows is None or include is False or (include is None and size > SMALL_DATA):
        return {}
    return {
        f"{prefix}{i}": tensor.contiguous()
        for prefix, rows in parts.items()
        for i, tensor in enumerate(rows.all())
    }


def _rows_of(model: Model, tensors: Mapping[str, Tensor], prefix: str) -> Rows | None:
    """Rows of a run whose tensors are named so; None where it has none."""
    names = [f"{prefix}{i}" for i in range(len(tensors)) if f"{prefix}{i}" in tensors]
    return model.rows_of(tuple(tensors[name] for name in names)) if names else None
