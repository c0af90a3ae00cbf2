"""Caches of compiled XLA programs: a bounded one in memory, and JAX's own on disk."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import jax
import pooch

__all__ = ["MAX_PROGRAMS", "PROGRAMS", "ProgramCache", "use_disk_cache"]

#: programs that are kept in memory. A program of a small model takes 2 MB (a potential), 5 MB
#: (steps of SVI) or 25 MB (a NUTS sampler), so that they stay below a gigabyte together.
MAX_PROGRAMS = 32
#: bytes of the compiled programs that are kept on disk
MAX_DISK_BYTES = 2**30

_Program = TypeVar("_Program")


class ProgramCache:
    """Least-recently-used cache of compiled programs, by graph, shapes and options.

    A second fit of the same shapes starts at once; one of the ``max_programs`` shapes used last
    is in memory, any other is compiled anew (or read from disk). Programs that were dropped are
    freed as soon as nobody runs them: JAX's caches hold a jitted function by weak references,
    so that a program must not be stored anywhere else for good, nor refer to the data of a fit.

    Several threads may use one cache. Where two of them ask for the same new program at once,
    both build it and one is kept.

    Parameters
    ----------
    max_programs
        Programs that are kept.
    """

    def __init__(self, max_programs: int) -> None:
        self.max_programs = max_programs
        self._programs: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, build: Callable[[], _Program]) -> _Program:
        """Return the program of a key; ``build()`` makes it where it is not there."""
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
                return cast(_Program, self._programs[key])
        program = build()  # takes seconds: other threads go on
        dropped = []
        with self._lock:
            program = cast(_Program, self._programs.setdefault(key, program))
            self._programs.move_to_end(key)
            while len(self._programs) > self.max_programs:
                dropped.append(self._programs.popitem(last=False))
        return program

    def clear(self) -> None:
        """Drop all programs."""
        with self._lock:
            dropped, self._programs = self._programs, OrderedDict()
        dropped.clear()

    def __len__(self) -> int:
        return len(self._programs)


#: the programs of all solvers
PROGRAMS = ProgramCache(MAX_PROGRAMS)


def use_disk_cache() -> None:
    """Keep compiled programs in a folder of the user's, so that other processes start at once.

    JAX's own settings (``JAX_COMPILATION_CACHE_DIR``) come first; ``PPL_ZOO_XLA_CACHE=off``
    keeps nothing, and another value is the folder. It holds at most a gigabyte.
    """
    folder = os.environ.get("PPL_ZOO_XLA_CACHE") or str(pooch.os_cache("ppl_zoo") / "xla")
    if folder == "off" or jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_max_size", MAX_DISK_BYTES)
