"""Source lines of the user: where an error comes from, or an operation is called."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.poutine import trace_struct
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["is_library", "line_of_operation", "line_of_user", "site_of_density"]


def _folder(file: str | None) -> str:
    """Return the folder of a file, or of a folder without its last separator."""
    return os.path.join(os.path.dirname(os.path.abspath(file or "")), "")


#: folders whose lines are not the user's own; the last is ppl_zoo, which this file's folder is in
_LIBRARIES = (
    *map(_folder, (pyro.__file__, torch.__file__, os.__file__)),
    _folder(_folder(__file__)[:-1]),
)
#: one inside them whose lines are named all the same
_MODELS = os.path.join(_LIBRARIES[-1], "models", "")


def is_library(file: str) -> bool:
    """Whether a source file is none of the user's; the zoo's models count as such."""
    name = os.path.abspath(file)
    library = "site-packages" in name or name.startswith(_LIBRARIES)
    return library and not name.startswith(_MODELS)


def line_of_user(error: BaseException) -> str:
    """Describe the innermost line of the traceback that is the user's own; empty if none is."""
    found = None
    for frame in traceback.extract_tb(error.__traceback__):
        if not is_library(frame.filename) and not frame.filename.startswith("<"):
            found = frame
    if found is None:
        return ""
    source = linecache.getline(found.filename, found.lineno or 0).strip()
    return f"{found.filename}:{found.lineno}: `{source}`"


def site_of_density(error: BaseException) -> str:
    """Name the site whose density was being computed, after the program had run; empty if none."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == trace_struct.__file__:
            found = frame.f_locals.get("name", found)
    return found


class _FoundError(Exception):
    """Raised where the operation is called."""


class _StopAt(TorchDispatchMode):
    """Raise ``_FoundError`` at the first call of an operation."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = _base_name(operation)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if _base_name(func.overloadpacket.__name__) == self.operation:
            raise _FoundError(self.operation)
        return func(*args, **(kwargs or {}))


def _base_name(operation: str) -> str:
    return operation.removesuffix("_functional").removesuffix("_copy").removesuffix("_")


def line_of_operation(program: Callable[..., Any], inputs: tuple, operation: str) -> str | None:
    """Find the line of the user that calls for an aten operation; None if torch does."""
    try:
        with torch.random.fork_rng(devices=[]), _StopAt(operation):
            program(*inputs)
    except _FoundError as error:
        return line_of_user(error)
    except Exception:  # noqa: BLE001 - the line only helps: the error is reported without it
        return None
    return None
