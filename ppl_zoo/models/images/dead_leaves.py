"""Mini dead leaves model: a patch is one textured leaf, or two that meet at a straight edge.

:class:`MiniDeadLeaves` is the model, :class:`LeafCovariance` the covariance of a patch given its
edge, and :class:`LeafGrid` the posterior of edge and contrasts on a grid of angles and offsets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.model import Array
from ppl_zoo.models.common import validation
from ppl_zoo.models.images.patch_denoising import Components, GaussianMixturePrior, sum_statistics

__all__ = ["MiniDeadLeaves"]

#: weight of the prior in the guide's mixture, since the truth may lie between points of the grid
PRIOR_SHARE = 0.02
#: patches whose grid of log densities is in memory at once
MAX_ROWS_PER_CHUNK = 256


class MiniDeadLeaves(GaussianMixturePrior):
    """Mini dead leaves: patches of one texture, and patches with an occlusion edge.

    Generative model, for each row n, a patch of ``size x size`` pixels::

        edge[n]       ~ Bernoulli(edge_probability)
        angle[n]      ~ Uniform(0, pi)                 of the edge's normal, radians
        offset[n]     ~ Uniform(-size / 2, size / 2)   of the edge from the middle, pixels
        near[n], far[n] ~ Categorical(weights)         contrast of each leaf's texture
        leaf          ~ Normal(mean, level_sd^2 + contrasts[near or far]^2 * texture)   each
        x[n]          ~ Normal(cover * near leaf + (1 - cover) * far leaf, noise_sd)

    ``cover`` is the share of a pixel on the near side of the edge (1 without an edge), and
    ``texture`` a stationary correlation ``exp(-distance / texture_length)``. Given edge, angle,
    offset and contrasts the patch is normal, with the leaves marginalised. The posterior of those
    five is computed on a grid; EM learns ``edge_probability`` and ``weights`` from patches.

    Parameters
    ----------
    size
        Rows and columns of a patch.
    contrasts
        Standard deviations of texture, in units of x (grey levels of 0 to 1).
    mean, level_sd, noise_sd
        Mean and sd of a leaf's grey level, and sd of the noise of a pixel.
    texture_length
        Correlation length of the texture, in pixels.
    edge_probability
        Initial share of patches with an edge.
    grid
        Numbers of angles and of offsets of the grid.

    Attributes
    ----------
    edge_probability, weights
        Scalar, and ``(J,)`` for J contrasts.

    References
    ----------
    Zoran & Weiss (2012), Natural images, Gaussian mixtures and dead leaves,
    https://proceedings.neurips.cc/paper/2012/hash/8cb22bdd0b7ba1ab13d742e22eed8da2-Abstract.html.
    Lee, Mumford & Huang (2001), Occlusion models for natural images,
    https://doi.org/10.1023/A:1011109015675.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> leaves = zoo.MiniDeadLeaves(size=4)
    >>> x = leaves.sample(50)
    >>> x.shape, leaves.encode(x).shape
    (torch.Size([50, 16]), torch.Size([50, 3]))
    """

    queries = {"log_prob": "bound", "sample": "exact", "encode": "estimate"}
    follows_data_dtype = False  # grey values of 8 or 16 bits are exact in float32
    default_solver = ("EM", {"steps": 50, "tol": 1e-3})
    event_dims = {"x": ("pixel",)}
    # the guide computes the posterior on a grid, with a covariance matrix for each point
    compiles = False

    def __init__(
        self,
        size: int = 8,
        contrasts: Sequence[float] = (0.003, 0.015, 0.06),
        mean: float = 0.5,
        level_sd: float = 0.15,
        noise_sd: float = 0.002,
        texture_length: float = 2.0,
        edge_probability: float = 0.5,
        grid: Sequence[int] = (16, 12),
    ) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"size: got {size}, expected 2 or more")
        if not 0.0 < edge_probability < 1.0:
            raise ValueError(f"edge_probability: got {edge_probability}, expected (0, 1)")
        self.size, self.num_features = size, size**2
        logit = math.log(edge_probability / (1.0 - edge_probability))
        self.edge_logit = nn.Parameter(torch.tensor(logit))
        self.logits = nn.Parameter(torch.zeros(len(contrasts)))
        self.register_buffer("loc", torch.full((size**2,), float(mean)))
        self.register_buffer("ends", torch.tensor([0.0, math.pi, -size / 2.0, size / 2.0]))
        self.leaves = LeafCovariance(size, contrasts, level_sd, noise_sd, texture_length)
        self.grid = LeafGrid(self.leaves, *grid)

    @property
    def edge_probability(self) -> Float[Tensor, ""]:
        """Share of patches with an edge."""
        return self.edge_logit.detach().sigmoid()

    @property
    def weights(self) -> Float[Tensor, " j"]:
        """Probability of each contrast."""
        return self.logits.detach().softmax(0)

    # ---- the generative model and its posterior ---------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw edge and contrasts of each patch, then its pixels."""
        with self.observations("patches", x):
            edge = pyro.sample("edge", dist.Bernoulli(logits=self.edge_logit))
            angle = pyro.sample("angle", dist.Uniform(self.ends[0], self.ends[1]))
            offset = pyro.sample("offset", dist.Uniform(self.ends[2], self.ends[3]))
            near = pyro.sample("near", dist.Categorical(logits=self.logits))
            far = pyro.sample("far", dist.Categorical(logits=self.logits))
            factor = torch.linalg.cholesky(self.leaves(edge, angle, offset, near, far))
            pyro.sample("x", dist.MultivariateNormal(self.loc, scale_tril=factor), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw edge and contrasts from their posterior on the grid, uniformly within a cell."""
        with torch.no_grad():
            flat, edged = self._log_joint(x)
            posterior = self.grid.posterior(flat, edged, self.logits)
        with self.observations("patches", x):
            edge = pyro.sample("edge", dist.Bernoulli(posterior.edge))
            angle = pyro.sample("angle", posterior.angle(edge))
            offset = pyro.sample("offset", posterior.offset(edge, angle))
            near = pyro.sample("near", posterior.near(edge, angle, offset))
            pyro.sample("far", posterior.far(edge, angle, offset, near))

    def _log_joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log joint densities on the grid, ``(n, J)`` flat, ``(n, A, O, J, J)`` with an edge."""
        flat, edged = self.grid.log_density(x - self.loc)
        weight = self.logits.log_softmax(0)
        flat = flat + weight + nn.functional.logsigmoid(-self.edge_logit)
        edged = edged + weight + weight[:, None] + nn.functional.logsigmoid(self.edge_logit)
        return flat, edged - math.log(edged.shape[1] * edged.shape[2])

    # ---- EM on the grid ---------------------------------------------------------------------

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: expected counts of edges and of contrasts ``(J,)``."""
        return sum_statistics(map(self._statistics, batch[0].split(MAX_ROWS_PER_CHUNK)))

    def _statistics(self, x: Tensor) -> dict[str, Tensor]:
        flat, edged = (t.double() for t in self._log_joint(x))
        total = torch.cat([flat, edged.flatten(1)], 1).logsumexp(1)
        flat = (flat - total[:, None]).exp().sum(0)
        edged = (edged - total.view(-1, 1, 1, 1, 1)).exp().sum((0, 1, 2))
        return {
            "log_likelihood": total.sum(),
            "num_rows": total.new_tensor(len(x)),
            "edges": edged.sum(),
            "contrasts": flat + edged.sum(0) + edged.sum(1),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: shares of edges and of contrasts."""
        share = (statistics["edges"] / statistics["num_rows"]).clamp(1e-6, 1.0 - 1e-6)
        self.edge_logit.copy_(share.logit())
        self.logits.copy_(statistics["contrasts"].clamp_min(1e-30).log())

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Array) -> Float[Tensor, "n 3"]:
        """Probability of an edge, and its mean direction ``E[edge * (cos, sin)(2 angle)]``."""
        twice = 2.0 * self.grid.angles
        parts = []
        for (chunk,) in self.batches(x, size=MAX_ROWS_PER_CHUNK):
            flat, edged = self._log_joint(chunk)
            total = torch.cat([flat, edged.flatten(1)], 1).logsumexp(1)
            angle = (edged.flatten(2).logsumexp(2) - total[:, None]).exp()  # (n, A)
            means = [angle, angle * twice.cos(), angle * twice.sin()]
            parts.append(torch.stack([m.sum(1) for m in means], 1))
        return torch.cat(parts)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Float[Tensor, "n d"]:
        """Draw patches, ``(num_samples, size^2)``: one leaf occludes the other.

        Raises
        ------
        DataError
            If ``given`` is not None.
        """
        validation.refuse_given(given, self)
        like, ends = self.loc.new_empty(num_samples), self.ends
        edge = torch.bernoulli(self.edge_probability.expand(num_samples))
        angle = torch.rand_like(like) * ends[1]
        offset = ends[2] + torch.rand_like(like) * (ends[3] - ends[2])
        cover = self.leaves.cover(edge, angle, offset)
        near, far = (self._draw_leaf(num_samples) for _ in range(2))
        noise = self.leaves.noise_sd * torch.randn_like(cover)
        return self.loc + cover * near + (1.0 - cover) * far + noise

    def _draw_leaf(self, count: int) -> Tensor:
        contrast = torch.multinomial(self.weights, count, replacement=True)
        noise = torch.randn(count, self.num_features + 1, dtype=self.dtype, device=self.device)
        factor = torch.linalg.cholesky(self.leaves.texture)
        texture = self.leaves.contrasts[contrast, None] * (noise[:, 1:] @ factor.mT)
        return self.leaves.level_sd * noise[:, :1] + texture

    # ---- denoising --------------------------------------------------------------------------

    def components(self) -> Components:
        """Mixture of Gaussians over the points of the grid, patches without an edge first."""
        weight, edge = self.weights, self.edge_probability
        covariances = self.grid.covariances()
        cells = self.grid.num_cells
        pairs = (weight[:, None] * weight).flatten()
        weights = torch.cat([(1.0 - edge) * weight, (edge / cells * pairs).repeat(cells)])
        return Components(weights, self.loc.expand(len(weights), -1), covariances)


class LeafCovariance(nn.Module):
    """Covariance of a patch given its edge; see :class:`MiniDeadLeaves` for the arguments."""

    def __init__(
        self,
        size: int,
        contrasts: Sequence[float],
        level_sd: float,
        noise_sd: float,
        texture_length: float,
    ) -> None:
        super().__init__()
        positive = {"level_sd": level_sd, "noise_sd": noise_sd, "texture_length": texture_length}
        positive |= {f"contrasts[{j}]": value for j, value in enumerate(contrasts)}
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected more than 0")
        if not len(contrasts):
            raise ValueError("contrasts: got none, expected one or more")
        place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2.0
        down, across = (t.flatten() for t in torch.meshgrid(place, place, indexing="ij"))
        places = torch.stack([across, down], 1)
        texture = (-torch.cdist(places, places) / texture_length).exp()
        default = torch.get_default_dtype()
        self.register_buffer("places", places.to(default))  # (x, y) of each pixel
        self.register_buffer("texture", texture.to(default))
        self.register_buffer("contrasts", torch.tensor([float(v) for v in contrasts]))
        self.register_buffer("level_sd", torch.tensor(float(level_sd)))
        self.register_buffer("noise_sd", torch.tensor(float(noise_sd)))

    def cover(self, edge: Tensor, angle: Tensor, offset: Tensor) -> Float[Tensor, "... d"]:
        """Share of each pixel on the near side of the edge; 1 where there is none."""
        normal = torch.stack([angle.cos(), angle.sin()], -1)
        distance = normal @ self.places.mT - offset[..., None]
        return torch.where(edge[..., None] > 0.5, (distance + 0.5).clamp(0.0, 1.0), 1.0)

    def forward(
        self, edge: Tensor, angle: Tensor, offset: Tensor, near: Tensor, far: Tensor
    ) -> Float[Tensor, "... d d"]:
        """Covariance of the pixels, grey levels and textures of both leaves marginalised."""
        cover = self.cover(edge, angle, offset)
        total = self.noise_sd.square() * torch.eye(len(self.texture)).to(self.texture)
        for part, contrast in ((cover, near), (1.0 - cover, far)):
            scale = self.contrasts[contrast].square()[..., None, None]
            leaf = self.level_sd.square() + scale * self.texture
            total = total + part[..., :, None] * part[..., None, :] * leaf
        return total


class LeafGrid(nn.Module):
    """Grid of cells of equal width in angle and offset, represented by their midpoints."""

    def __init__(self, leaves: LeafCovariance, num_angles: int, num_offsets: int) -> None:
        super().__init__()
        for name, value in (("angles", num_angles), ("offsets", num_offsets)):
            if value < 1:
                raise ValueError(f"grid: got {value} {name}, expected 1 or more")
        # past nn.Module: a submodule of the model, whose state dict must not hold it twice
        object.__setattr__(self, "leaves", leaves)
        size = math.isqrt(len(leaves.texture))
        angles = (torch.arange(num_angles) + 0.5) / num_angles * math.pi
        offsets = ((torch.arange(num_offsets) + 0.5) / num_offsets - 0.5) * size
        self.register_buffer("angles", angles.to(leaves.texture))
        self.register_buffer("offsets", offsets.to(leaves.texture))
        self.width = math.pi / num_angles, size / num_offsets
        self.num_cells = num_angles * num_offsets

    def covariances(self) -> Float[Tensor, "m d d"]:
        """Covariances of patches without an edge, by contrast, then of those with one.

        The latter by angle, offset, near and far contrast.
        """
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
    """Posterior of edge, angle, offset, near and far contrast, each given those before.

    Attributes
    ----------
    edge
        Probability of an edge, ``(n,)``.
    flat, edged
        Log joint densities without and with an edge, see :meth:`LeafGrid.log_density`.
    logits
        Log weights of the contrasts, ``(J,)``.
    angles, offsets, width
        Midpoints of the cells, and their widths in angle and offset.
    """

    edge: Tensor
    flat: Tensor
    edged: Tensor
    logits: Tensor
    angles: Tensor
    offsets: Tensor
    width: tuple[float, float]

    def angle(self, edge: Tensor) -> dist.Distribution:
        """Angle of the edge, uniform within cells."""
        table = self.edged.flatten(2).logsumexp(2)
        return _piecewise_uniform(
            _cell_probabilities(edge, table, None), self.angles, self.width[0]
        )

    def offset(self, edge: Tensor, angle: Tensor) -> dist.Distribution:
        """Offset of the edge given its angle, uniform within cells."""
        table = self.edged.flatten(3).logsumexp(3)
        table = table[self._row(), self._cell(angle, self.angles, self.width[0])]
        return _piecewise_uniform(
            _cell_probabilities(edge, table, None), self.offsets, self.width[1]
        )

    def near(self, edge: Tensor, angle: Tensor, offset: Tensor) -> dist.Distribution:
        """Contrast of the near leaf."""
        table = self.edged.logsumexp(4)[self._row(), *self._cells(angle, offset)]
        table = torch.where(edge[..., None] > 0.5, table, self.flat)
        return dist.Categorical(_with_prior(table.softmax(-1), self.logits.softmax(-1)))

    def far(self, edge: Tensor, angle: Tensor, offset: Tensor, near: Tensor) -> dist.Distribution:
        """Contrast of the far leaf."""
        table = self.edged[self._row(), *self._cells(angle, offset), near]
        return dist.Categorical(_cell_probabilities(edge, table, self.logits.softmax(-1)))

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
    """Mixture of a posterior and a little of the prior."""
    return (1.0 - PRIOR_SHARE) * probability + PRIOR_SHARE * prior


def _cell_probabilities(edge: Tensor, table: Tensor, prior: Tensor | None) -> Tensor:
    """Probabilities from a table where there is an edge, from the prior where there is none."""
    probability = table.softmax(-1)
    if prior is None:
        prior = torch.full_like(probability[..., :1], 1.0 / probability.shape[-1])
    return torch.where(edge[..., None] > 0.5, _with_prior(probability, prior), prior)


def _piecewise_uniform(probability: Tensor, middles: Tensor, width: float) -> dist.Distribution:
    """Piecewise uniform distribution from the probabilities of cells."""
    cells = dist.Uniform(middles - 0.5 * width, middles + 0.5 * width, validate_args=False)
    cells = cells.expand(probability.shape)
    return dist.MixtureSameFamily(dist.Categorical(probability), cells, validate_args=False)
