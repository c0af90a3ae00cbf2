"""Whether a processor multiplies faster in bfloat16."""

from __future__ import annotations

import torch

__all__ = ["gains_by_bfloat16"]

#: what tells of instructions for bfloat16
PROBES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def gains_by_bfloat16(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> bool:
    """Whether a CPU has instructions for bfloat16 and the numbers at hand are of float32."""
    if torch.device(device).type != "cpu" or dtype != torch.float32:
        return False
    return any(getattr(torch.cpu, name, bool)() for name in PROBES)
