"""Covariance of a patch of one or two textured leaves, given where their edge runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LeafCovariance"]


class LeafCovariance(nn.Module):
    """Second moments of patches; see ``MiniDeadLeaves`` for the arguments."""

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
        """Part of each pixel on the near side of the edge; 1 where there is none."""
        normal = torch.stack([angle.cos(), angle.sin()], -1)
        distance = normal @ self.places.mT - offset[..., None]
        return torch.where(edge[..., None] > 0.5, (distance + 0.5).clamp(0.0, 1.0), 1.0)

    def forward(
        self, edge: Tensor, angle: Tensor, offset: Tensor, near: Tensor, far: Tensor
    ) -> Float[Tensor, "... d d"]:
        """Covariance of the pixels, with grey levels and textures of both leaves summed out."""
        cover = self.cover(edge, angle, offset)
        total = self.noise_sd.square() * torch.eye(len(self.texture)).to(self.texture)
        for part, contrast in ((cover, near), (1.0 - cover, far)):
            scale = self.contrasts[contrast].square()[..., None, None]
            leaf = self.level_sd.square() + scale * self.texture
            total = total + part[..., :, None] * part[..., None, :] * leaf
        return total
