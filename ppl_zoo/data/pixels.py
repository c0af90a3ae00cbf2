"""Grey values of bytes, with or without uniform dequantisation."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

GREY_LEVELS = 256
NOISE_STEPS = 2**16


def from_bytes(
    values: UInt8[np.ndarray, "n pixels"], white: float, *, noise_seed: int | None = None
) -> Float[Tensor, "n pixels"]:
    """Return grey values in [0, 1].

    Parameters
    ----------
    values
        Integer grey values.
    white
        The value that becomes 1; not used with noise.
    noise_seed
        If given, `(value + U[0, 1)) / 256` with noise of this seed: a density of a continuous
        variable has no meaning on a grid (Theis et al. 2016).

    Returns
    -------
    Float[Tensor, "n pixels"]
        float32.
    """
    # A copy, because torch takes no read-only memory.
    grey = torch.from_numpy(values.astype(np.float32))
    if noise_seed is None:
        return grey / white
    generator = torch.Generator().manual_seed(noise_seed)
    # Noise in steps of 2^-16: eight bits of grey and sixteen of noise fill float32 exactly, so
    # that no sum is rounded up to the next grey level.
    steps = torch.randint(NOISE_STEPS, grey.shape, generator=generator)
    return (grey + steps.float() / NOISE_STEPS) / GREY_LEVELS
