"""Caches of compiled XLA programs: a bounded one in memory, and JAX's own on disk."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import jax
import pooch

from ppl_zoo.core.errors import ForkError

__all__ = ["MAX_PROGRAMS", "PROGRAMS", "ProgramCache", "refuse_forked", "use_disk_cache"]

#: Programs that are kept in memory. One of a small model takes 2 MB (a potential), 10 MB (steps of
#: SVI) or 35 MB (a NUTS sampler): together they stay below a gigabyte.
MAX_PROGRAMS = 24
#: bytes of the compiled programs that are kept on disk
MAX_DISK_BYTES = 2**30

_Program = TypeVar("_Program")


class ProgramCache:
    """Least-recently-used cache of compiled programs, by graph, shapes and options.

    A second fit of the same shapes starts at once, as long as its program is among the
    ``max_programs`` used last; any other is compiled anew, or read from disk. With the bound of
    :data:`PROGRAMS`, 24 programs, a process that fits ever new shapes grows by a gigabyte at most.

    An evicted program is freed as soon as nothing runs it, since JAX's own caches refer to a
    jitted function weakly. A program must not refer to the data of a fit: it would keep them.

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
        refuse_forked()
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


_has_run = _forked = False


def _note_fork() -> None:
    """Remember in a forked child that its parent had run XLA."""
    global _forked
    _forked = _has_run


os.register_at_fork(after_in_child=_note_fork)


def refuse_forked() -> None:
    """Refuse to compile or run in a child that was forked after XLA had run: it would hang.

    Raises
    ------
    ForkError
        Says how to start the process.
    """
    global _has_run
    _has_run = True
    if _forked:
        raise ForkError(
            "this process was forked from one that has run XLA, whose threads it lacks, so that "
            "compiled programs would hang: start it by multiprocessing.get_context('spawn') (or "
            "'forkserver'), or fit with compile=False"
        )


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
