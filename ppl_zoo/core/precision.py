"""Detection of hardware support for bfloat16."""

from __future__ import annotations

import torch

__all__ = ["has_fast_bfloat16"]

#: functions of torch.cpu that report instructions for bfloat16
BFLOAT16_PROBES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def has_fast_bfloat16(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> bool:
    """Whether products are faster in bfloat16: float32 on a CPU that has instructions for it."""
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return False
    return any(getattr(torch.cpu, name, bool)() for name in BFLOAT16_PROBES)
