"""Ising grids: energies, mean field, partition functions and Gibbs sweeps.

Spins are +1 or -1, grids the last two dimensions, with free borders. ``field`` is the external
field; the density of spins s is ``exp(coupling sum_<ij> s_i s_j + sum_i field_i s_i) / Z``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "MAX_EXACT_SIDE",
    "exact_draws",
    "gibbs_sweep",
    "interaction",
    "log_partition",
    "log_partition_without_field",
    "mean_field",
]

#: longest short side, in spins, of grids that are summed over exactly (2^side states of a row)
MAX_EXACT_SIDE = 10


def interaction(s: Tensor) -> Tensor:
    """Sum of ``s_i s_j`` over neighbours, ``(...)``."""
    across = (s[..., :, 1:] * s[..., :, :-1]).sum((-2, -1))
    return across + (s[..., 1:, :] * s[..., :-1, :]).sum((-2, -1))


def _neighbours(s: Tensor) -> Tensor:
    """Sum of the neighbours of each spin."""
    padded = torch.nn.functional.pad(s, (1, 1, 1, 1))
    sides = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
    return sides + padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1]


def _black_squares(s: Tensor) -> Tensor:
    rows = torch.arange(s.shape[-2], device=s.device)[:, None]
    return (rows + torch.arange(s.shape[-1], device=s.device)) % 2 == 0


def mean_field(
    field: Tensor, coupling: Tensor, tol: float = 1e-7, max_sweeps: int = 2000
) -> Tensor:
    """Mean field: mean of each spin under the factorised q of least KL to the posterior.

    The black squares of a chessboard have no couplings among them, so that all of them take
    their optimum at once, then the white ones: coordinate ascent, which never lowers the bound.
    """
    black = _black_squares(field)
    mean = field.tanh()
    for _ in range(max_sweeps):
        before = mean
        for colour in (black, ~black):
            best = (coupling * _neighbours(mean) + field).tanh()
            mean = torch.where(colour, best, mean)
        if (mean - before).abs().max() < tol:
            break
    return mean


def _states(width: int, like: Tensor) -> Tensor:
    """All rows of spins, ``(2^width, width)``."""
    bits = torch.arange(2**width, device=like.device)[:, None] >> torch.arange(
        width, device=like.device
    )
    return (2 * (bits & 1) - 1).to(like.dtype)


def _forward(field: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Forward messages, log sums over rows above by state: ``(height, ..., 2^width)``."""
    states = _states(field.shape[-1], field)
    inside = coupling * (states[:, 1:] * states[:, :-1]).sum(-1)
    between = coupling * (states @ states.mT)
    highest = between.max().detach()
    weights = (between - highest).exp()
    message, messages = None, []
    for row in range(field.shape[-2]):
        own = inside + field[..., row, :] @ states.mT
        if message is not None:
            top = message.amax(-1, keepdim=True).detach()
            own = own + top + highest + ((message - top).exp() @ weights).log()
        message = own
        messages.append(message)
    return torch.stack(messages), between, states


def _is_wide(field: Tensor) -> bool:
    return field.shape[-1] > field.shape[-2]


def log_partition(field: Tensor, coupling: Tensor) -> Tensor:
    """Log Z of a grid with a side of at most ``MAX_EXACT_SIDE``, ``(...)``, by transfer matrices.

    Differentiable: its gradient by ``field`` is the mean of each spin.
    """
    field = field.mT if _is_wide(field) else field
    return _forward(field, coupling)[0][-1].logsumexp(-1)


def exact_draws(field: Tensor, coupling: Tensor) -> Tensor:
    """Exact draws of a narrow grid, one for each field, by backward sampling of the messages."""
    wide = _is_wide(field)
    field = field.mT if wide else field
    messages, between, states = _forward(field, coupling)
    rows: list[Tensor] = []
    logits = messages[-1]
    for row in range(field.shape[-2] - 1, -1, -1):
        index = torch.distributions.Categorical(logits=logits).sample()
        rows.insert(0, states[index])
        if row:
            logits = messages[row - 1] + between[index]
    drawn = torch.stack(rows, -2)
    return drawn.mT if wide else drawn


def gibbs_sweep(s: Tensor, field: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
    """Gibbs sweep: draw all black spins given the white ones, then the white ones.

    Returns the spins, and their means given the others, which average with less noise.
    """
    black, mean = _black_squares(s), s
    for colour in (black, ~black):
        best = (coupling * _neighbours(s) + field).tanh()
        drawn = torch.where(torch.rand_like(best) < 0.5 * (1.0 + best), 1.0, -1.0).to(s.dtype)
        s, mean = torch.where(colour, drawn, s), torch.where(colour, best, mean)
    return s, mean


def log_partition_without_field(height: int, width: int, coupling: Tensor) -> Tensor:
    """Log Z of a grid of any size without field, exactly, in float64.

    Kac & Ward (1952): ``Z = 2^N cosh(J)^E det(1 - T)^(1/2)``, where T leads from one directed
    edge to the next with weight ``tanh(J) exp(i angle / 2)``. T connects neighbouring rows only,
    so that the determinant takes height x (4 width)^3 operations.
    """
    j = coupling.double()
    width, height = sorted((height, width))
    size, steps = 4 * width, ((0, 1), (1, 0), (0, -1), (-1, 0))  # east, south, west, north
    # states of a row: edge leaving site c in direction d is 4 c + d
    blocks = {k: torch.zeros(size, size, dtype=torch.complex128) for k in (-1, 0, 1)}
    for site in range(width):
        for d, (down, right) in enumerate(steps):
            if not 0 <= site + right < width:
                continue
            for turn in (-1, 0, 1):
                phase = complex(math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4))
                blocks[down][4 * site + d, 4 * (site + right) + (d + turn) % 4] = phase
    t = j.tanh()
    same, below, above = (blocks[k].to(j.device) * t for k in (0, 1, -1))
    eye = torch.eye(size, dtype=same.dtype, device=j.device)
    pivot = eye - same
    log_det = torch.linalg.slogdet(pivot)[1]
    for _ in range(height - 1):
        pivot = eye - same - above @ torch.linalg.solve(pivot, below)
        log_det = log_det + torch.linalg.slogdet(pivot)[1]
    edges = height * (width - 1) + width * (height - 1)
    return height * width * math.log(2.0) + edges * j.cosh().log() + 0.5 * log_det
