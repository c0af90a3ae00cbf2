"""Device: where a fit runs, with how many threads, and whether bfloat16 is fast there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ppl_zoo.core.errors import DataError

__all__ = ["at_most_threads", "has_fast_bfloat16", "pick_device"]

#: functions of torch.cpu that report instructions for bfloat16
BFLOAT16_PROBES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def pick_device(device: str | torch.device) -> torch.device:
    """Resolve "auto": a GPU where there is one.

    Raises
    ------
    DataError
        If the device asked for is not there.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"device: got {device!r}, which is not available here: {error}") from error
    return torch.device(device)


@contextmanager
def at_most_threads(most: int | None) -> Iterator[None]:
    """Let torch use fewer threads for a while; None for as many as it has."""
    before = torch.get_num_threads()
    if most is None or most >= before:
        yield
        return
    torch.set_num_threads(most)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_fast_bfloat16(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> bool:
    """Whether products are faster in bfloat16: float32 on a CPU that has instructions for it."""
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return False
    return any(getattr(torch.cpu, name, bool)() for name in BFLOAT16_PROBES)
