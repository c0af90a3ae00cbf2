"""A row whose columns are independent given its class: its density and its draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.models.discrete.feature_kinds import Block
from ppl_zoo.models.discrete.features import Features

__all__ = ["ClassRows"]


class ClassRows(TorchDistribution):
    """A row whose columns are independent given its class.

    Parameters
    ----------
    features
        What the columns are.
    parts
        Tables and naturals of all classes, as for ``Features.scores``.
    z
        The class of each row; None where there is one class only.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(
        self, features: Features, parts: Mapping[str, Tensor], z: Tensor | None = None
    ) -> None:
        self.features, self.parts, self.z = features, parts, z
        batch = [() if z is None else z.shape]
        for block in features.blocks:
            some = parts["linear" if block.kind == "gaussian" else block.table]
            batch.append(some.shape[: -2 - bool(block.num_states)])
        shape = torch.broadcast_shapes(*batch)
        super().__init__(shape, torch.Size([features.num_features]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClassRows:
        """Expand to a larger batch."""
        z = torch.zeros((), dtype=torch.long, device=self._device()) if self.z is None else self.z
        out = ClassRows(self.features, self.parts, z.expand(batch_shape))
        return out

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of rows ``(..., num_features)``."""
        scores = self.features.scores(self.parts, value)
        repeats = self.features.log_repeats(value)
        if repeats is not None:
            scores = scores - repeats.unsqueeze(-1)
        if self.z is None:
            return scores[..., 0]
        shape = torch.broadcast_shapes(scores.shape[:-1], self.z.shape)
        scores = scores.expand(*shape, scores.shape[-1])
        return scores.gather(-1, self.z.expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            z = torch.zeros(shape, dtype=torch.long, device=self._device())
            z = z if self.z is None else self.z.expand(shape)
            first = next(iter(self.parts.values()))
            x = first.new_empty(*shape, self.features.num_features)
            for block in self.features.blocks:
                x[..., block.columns] = _DRAWS[block.kind](self.parts, block, z).to(x.dtype)
            return x

    def _device(self) -> torch.device:
        return next(iter(self.parts.values())).device


def _of_class(table: Tensor, z: Tensor, ndim: int) -> Tensor:
    """Rows of a table ``(..., C, *)`` at classes z ``(...)``; ``ndim`` dimensions stay right."""
    shape, right = z.shape, table.shape[table.ndim - ndim :]
    table = table.expand(*shape, *table.shape[table.ndim - ndim - 1 :])
    index = z.reshape(*shape, 1, *[1] * ndim).expand(*shape, 1, *right)
    return table.gather(len(shape), index).squeeze(len(shape))


def _draw_states(parts: Mapping[str, Tensor], block: Block, z: Tensor) -> Tensor:
    p = _of_class(parts[block.table], z, 2)
    # inverse of the cumulative sum, for all at once
    u = torch.rand(*p.shape[:-1], 1, dtype=p.dtype, device=p.device)
    return (u * p.sum(-1, keepdim=True) >= p.cumsum(-1)).sum(-1).clamp_max(p.shape[-1] - 1)


def _draw_counts(parts: Mapping[str, Tensor], block: Block, z: Tensor) -> Tensor:
    return torch.poisson(_of_class(parts[block.table], z, 1) * parts["log_length"].exp())


def _draw_numbers(parts: Mapping[str, Tensor], block: Block, z: Tensor) -> Tensor:
    precision = _of_class(parts["precisions"], z, 1)
    mean = _of_class(parts["linear"], z, 1) / precision
    y = mean + torch.randn_like(mean) / precision.sqrt()
    return parts["centre"] + parts["spread"] * y


_DRAWS = {
    "bernoulli": _draw_states,
    "categorical": _draw_states,
    "multinomial": _draw_counts,
    "gaussian": _draw_numbers,
}
