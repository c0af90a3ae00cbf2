"""Vectorised draws, verified, with a fallback to one draw at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

__all__ = ["vectorised"]

Drawn = TypeVar("Drawn")


def vectorised(
    num_draws: int,
    block: int,
    several: Callable[[int, int], Drawn | None],
    one: Callable[[int], Drawn],
    join: Callable[[list[Drawn]], Drawn],
) -> Drawn:
    """Make draws in blocks; one by one where the program does not broadcast over draws.

    Parameters
    ----------
    num_draws
        Draws in all.
    block
        Draws made at once, so that they fit into memory.
    several
        ``several(start, count)`` makes draws ``start`` to ``start + count`` at once and verifies
        some of them against single runs; None where they differ.
    one
        ``one(index)`` makes a single draw, with a first dimension of 1.
    join
        Puts draws after one another.
    """
    parts: list[Drawn] = []
    start, broadcasts = 0, num_draws > 1
    while start < num_draws:
        count = min(block, num_draws - start)
        part = several(start, count) if broadcasts else None
        if part is None:
            broadcasts = False
            part = join([one(start + index) for index in range(count)])
        parts.append(part)
        start += count
    return join(parts)
