"""Device: where a fit runs."""

from __future__ import annotations

import torch

from ppl_zoo.core.errors import DataError

__all__ = ["pick_device"]


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
