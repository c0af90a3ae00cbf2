"""Thread safety: fits and queries run one at a time, in any thread.

Pyro's handlers and parameter store, torch's default dtype and its random state belong to the
process. A thread waits until the fit or query of another has ended, and finds them as if it were
alone.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

__all__ = ["one_at_a_time", "running"]

Function = TypeVar("Function", bound=Callable[..., Any])

_lock = threading.RLock()


def _renew() -> None:
    """Give a forked child a lock of its own: the thread that held its parent's is not there."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew)


@contextmanager
def running() -> Iterator[None]:
    """Wait for other threads, and keep them waiting."""
    with _lock:
        yield


def one_at_a_time(function: Function) -> Function:
    """Let a function run in one thread at a time, and no other of these beside it."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _lock:
            return function(*args, **kwargs)

    return cast(Function, run)
