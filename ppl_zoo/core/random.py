"""Random state: seeds by chain and step, and generators that leave the caller's alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["chain_seed", "fork_generators", "set_seed"]


def chain_seed(seed: int, chain: int, step: int = -1) -> int:
    """Seed of one step of one chain.

    Noise is a function of (seed, chain, step), as with JAX's keys: a chain does not depend on
    how many others run beside it, and a resumed fit needs no saved random state.
    """
    mixed = seed & 0xFFFFFFFF
    for part in (chain + 1, step + 2):  # splitmix64, one round a part
        mixed = (mixed + 0x9E3779B97F4A7C15 * part) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1


def set_seed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of the device in use."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@contextmanager
def fork_generators(device: torch.device) -> Iterator[None]:
    """Leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
