"""The posterior of an edge's place and of two contrasts, on a grid of angles and offsets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.models.images.leaf_covariance import LeafCovariance

__all__ = ["GridPosterior", "LeafGrid"]

#: share of the prior in each draw, since the truth may lie just beside the grid's best point
PRIOR_SHARE = 0.02


class LeafGrid(nn.Module):
    """Cells of equal width in angle and offset, each taken at its middle."""

    def __init__(self, leaves: LeafCovariance, num_angles: int, num_offsets: int) -> None:
        super().__init__()
        for name, value in (("angles", num_angles), ("offsets", num_offsets)):
            if value < 1:
                raise ValueError(f"grid: got {value} {name}, expected 1 or more")
        self.__dict__["leaves"] = leaves  # a submodule of the model, not of this too
        size = math.isqrt(len(leaves.texture))
        angles = (torch.arange(num_angles) + 0.5) / num_angles * math.pi
        offsets = ((torch.arange(num_offsets) + 0.5) / num_offsets - 0.5) * size
        self.register_buffer("angles", angles.to(leaves.texture))
        self.register_buffer("offsets", offsets.to(leaves.texture))
        self.width = math.pi / num_angles, size / num_offsets
        self.num_cells = num_angles * num_offsets

    def covariances(self) -> Float[Tensor, "m d d"]:
        """Of flat patches by contrast, then of edges by angle, offset, near and far contrast."""
        levels = torch.arange(len(self.leaves.contrasts), device=self.angles.device)
        none = torch.zeros_like(levels)
        flat = self.leaves(none, none.to(self.angles), none.to(self.angles), levels, none)
        numbers = levels.to(self.angles)
        grid = torch.meshgrid(self.angles, self.offsets, numbers, numbers, indexing="ij")
        angle, offset, near, far = (t.flatten() for t in grid)
        near, far = near.long(), far.long()
        return torch.cat([flat, self.leaves(torch.ones_like(near), angle, offset, near, far)])

    def log_density(self, x: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
        """Log densities of centred rows, ``(n, J)`` flat and ``(n, A, O, J, J)`` with an edge."""
        factor = torch.linalg.cholesky(self.covariances())
        log_norm = factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        log_norm = log_norm + 0.5 * x.shape[-1] * math.log(2.0 * math.pi)
        y = torch.linalg.solve_triangular(factor, x.mT.expand(len(factor), -1, -1), upper=False)
        log_density = (-0.5 * y.square().sum(1) - log_norm[:, None]).mT
        count = len(self.leaves.contrasts)
        shape = (len(self.angles), len(self.offsets), count, count)
        return log_density[:, :count], log_density[:, count:].unflatten(1, shape)

    def posterior(self, flat: Tensor, edged: Tensor, logits: Tensor) -> GridPosterior:
        """Normalise log joint densities on the grid; ``logits`` are those of the contrasts."""
        total = torch.cat([flat, edged.flatten(1)], 1).logsumexp(1)
        edge = (edged.flatten(1).logsumexp(1) - total).exp()
        edge = (1.0 - PRIOR_SHARE) * edge + 0.5 * PRIOR_SHARE
        return GridPosterior(edge, flat, edged, logits, self.angles, self.offsets, self.width)


@dataclass
class GridPosterior:
    """Edge, angle, offset, near and far contrast in turn, each given those before."""

    edge: Tensor
    flat: Tensor
    edged: Tensor
    logits: Tensor
    angles: Tensor
    offsets: Tensor
    width: tuple[float, float]

    def angle(self, edge: Tensor) -> dist.Distribution:
        """Even within cells."""
        table = self.edged.flatten(2).logsumexp(2)
        return _within(_choose(edge, table, None), self.angles, self.width[0])

    def offset(self, edge: Tensor, angle: Tensor) -> dist.Distribution:
        """Even within cells, given the angle's."""
        table = self.edged.flatten(3).logsumexp(3)
        table = table[self._row(), self._cell(angle, self.angles, self.width[0])]
        return _within(_choose(edge, table, None), self.offsets, self.width[1])

    def near(self, edge: Tensor, angle: Tensor, offset: Tensor) -> dist.Distribution:
        """Contrast on the near side."""
        table = self.edged.logsumexp(4)[self._row(), *self._cells(angle, offset)]
        table = torch.where(edge[..., None] > 0.5, table, self.flat)
        return dist.Categorical(_with_prior(table.softmax(-1), self.logits.softmax(-1)))

    def far(self, edge: Tensor, angle: Tensor, offset: Tensor, near: Tensor) -> dist.Distribution:
        """Contrast on the far side."""
        table = self.edged[self._row(), *self._cells(angle, offset), near]
        return dist.Categorical(_choose(edge, table, self.logits.softmax(-1)))

    def _row(self) -> Tensor:
        return torch.arange(len(self.flat), device=self.flat.device)

    def _cells(self, angle: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self._cell(angle, self.angles, self.width[0]),
            self._cell(offset, self.offsets, self.width[1]),
        )

    @staticmethod
    def _cell(value: Tensor, middles: Tensor, width: float) -> Tensor:
        cell = ((value - middles[0]) / width + 0.5).floor().long()
        return cell.clamp(0, len(middles) - 1)


def _with_prior(probability: Tensor, prior: Tensor) -> Tensor:
    return (1.0 - PRIOR_SHARE) * probability + PRIOR_SHARE * prior


def _choose(edge: Tensor, table: Tensor, prior: Tensor | None) -> Tensor:
    """Probabilities from a table where there is an edge, from the prior where there is none."""
    probability = table.softmax(-1)
    if prior is None:
        prior = torch.full_like(probability[..., :1], 1.0 / probability.shape[-1])
    return torch.where(edge[..., None] > 0.5, _with_prior(probability, prior), prior)


def _within(probability: Tensor, middles: Tensor, width: float) -> dist.Distribution:
    cells = dist.Uniform(middles - 0.5 * width, middles + 0.5 * width, validate_args=False)
    cells = cells.expand(probability.shape)
    return dist.MixtureSameFamily(dist.Categorical(probability), cells, validate_args=False)
