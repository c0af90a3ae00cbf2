"""EPLL (expected patch log likelihood): an image prior made of a prior over patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.imaging.lanczos import Lanczos
from ppl_zoo.imaging.operator_spec import make_operator, operator_arguments
from ppl_zoo.imaging.operators import Mask
from ppl_zoo.imaging.patches import cosine_basis
from ppl_zoo.imaging.validation import check_noise_sd
from ppl_zoo.models.images.patch_mixture import PatchMixture

__all__ = ["EPLL"]

#: products of coefficients in memory at once, over patches and draws
MAX_PRODUCTS = 2**25


class EPLL(Model):
    """Image restoration by the expected patch log likelihood.

    Generative model, for each image n, with patches at every pixel and the mixture p of the patch
    prior::

        image[n] ~ Normal(0.5, 10) exp( strength * sum_i log p(patch_i(image[n])) )
        y[n]     ~ Normal(A image[n], noise[n])

    The factor is not normalised: overlapping patches are treated as independent. With
    ``strength = 1 / size^2`` each pixel counts once, although ``size^2`` patches contain it; the
    mode is then what half-quadratic splitting converges to (``zoo.restore``). Over the values of
    an image, the wide normal is flat.

    Parameters
    ----------
    weights, means, covariances
        Mixture over patches in cosine coordinates: ``(K,)``, ``(K, D)``, ``(K, D, D)``; D is
        ``size^2``, or ``size^2 - 1`` with the mean of a patch left free.
    kernel, boundary
        A is :class:`ppl_zoo.imaging.Blur` with this kernel.
    mask
        A is :class:`ppl_zoo.imaging.Mask`.
    factor
        A is :class:`ppl_zoo.imaging.Downsample`. With none of the three A x = x.
    strength
        Weight of a patch's log density; ``1 / size^2`` by default.

    References
    ----------
    Zoran & Weiss (2011), From learning models of natural image patches to whole image
    restoration, ICCV, https://doi.org/10.1109/ICCV.2011.6126278.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> prior = zoo.GaussianMixture(num_components=2, num_features=16)
    >>> model = zoo.EPLL.of(prior)
    >>> y, noise = torch.rand(1, 12, 12), torch.full((1,), 0.1)
    >>> fit = zoo.fit(model, (y, noise), zoo.SVI(guide="delta", steps=50), progress=False)
    >>> fit.posterior(1)["image"].shape  # (chain, draw, image, row, column)
    torch.Size([1, 1, 1, 12, 12])
    """

    integers_are_numbers = True
    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "none",
        "sample": "none",
        "encode": "estimate",
    }
    follows_data_dtype = False  # grey values of 8 or 16 bits are exact in float32
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("SVI", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("row", "column"),
        "y": ("data_row", "data_column"),
    }

    mixture: PatchMixture

    def __init__(
        self,
        weights: Any,
        means: Any,
        covariances: Any,
        *,
        kernel: Any = None,
        boundary: str = "valid",
        mask: Any = None,
        factor: int | None = None,
        strength: float | None = None,
    ) -> None:
        super().__init__()
        weights, means, covariances = (
            torch.as_tensor(t).detach().double() for t in (weights, means, covariances)
        )
        mixture = PatchMixture(weights, means, covariances)
        # declared, since finding it by running the program takes long on a large image
        self.mixture, self.data_plate = mixture, "images"
        self.size, self.free_mean = mixture.size, mixture.free_mean
        self.strength = 1.0 / self.size**2 if strength is None else float(strength)
        root = torch.linalg.cholesky(covariances)
        precision = torch.cholesky_inverse(root)
        rows, columns = torch.tril_indices(*precision.shape[-2:])
        multiplicity = torch.where(rows == columns, 1.0, 2.0)
        quadratic = -0.5 * precision[:, rows, columns] * multiplicity
        linear = (precision @ means[..., None])[..., 0]
        log_det = root.diagonal(dim1=1, dim2=2).log().sum(-1)
        constant = weights.clamp_min(1e-30).log() - log_det - 0.5 * (linear * means).sum(-1)
        # log of each weighted component is linear in products and values of coefficients
        self.register_buffer("quadratic", quadratic.mT.contiguous().float())
        self.register_buffer("linear", linear.mT.contiguous().float())
        self.register_buffer("constant", constant.float())
        self.register_buffer("basis", cosine_basis(self.size)[int(self.free_mean) :])
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        self.register_buffer("centre", torch.tensor(0.5))
        self.register_buffer("width", torch.tensor(10.0))
        self.operator = make_operator(kernel, boundary, mask, factor, None)

    @classmethod
    def of(cls, prior: Any, operator: Any = None, **options: Any) -> EPLL:
        """Model of a patch prior, such as a ``zoo.GaussianMixture``, and an operator.

        Raises
        ------
        DataError
            If the prior is not one over patches, or the operator not one of ``zoo.imaging``.
        """
        mixture = PatchMixture.of(prior)
        if isinstance(operator, Lanczos):
            raise DataError(
                "operator: got a Lanczos, expected one of Identity, Blur, Mask, Downsample"
            )
        parts = mixture.weights, mixture.means, mixture.covariances
        return cls(*parts, **operator_arguments(operator), **options)

    def model(self, y: Tensor, noise: Tensor) -> None:
        """Draw images and data; ``y (n, height, width)``, ``noise (n,)``."""
        shape = self.operator.image_shape(tuple(y.shape[-2:]))
        with self.observations("images", y):
            flat = dist.Normal(self.centre, self.width).expand(shape).to_event(2)
            image = pyro.sample("image", flat)
            pyro.factor("patches", self.strength * self.patch_log_likelihood(image))
            data = dist.Normal(self.operator(image), noise[..., None, None])
            if isinstance(self.operator, Mask):
                data = data.mask(self.operator.mask.to(y.device))
            pyro.sample("y", data.to_event(2), obs=y)

    def patch_log_likelihood(self, image: Tensor) -> Tensor:
        """Patch log likelihood: sum of log densities of all patches up to a constant, ``(...)``.

        Parameters
        ----------
        image
            ``(..., height, width)``.
        """
        height, width = image.shape[-2:]
        down = torch.arange(height - self.size + 1, device=image.device)
        across = torch.arange(width - self.size + 1, device=image.device)
        inside = torch.arange(self.size, device=image.device)
        corner = (down[:, None] * width + across).reshape(-1, 1)
        pixels = corner + (inside[:, None] * width + inside).reshape(-1)
        flat, total = image.flatten(-2), 0.0
        # in blocks of patches, so that many draws of a large image fit into memory
        num_images = math.prod(image.shape[:-2])
        for part in pixels.split(max(64, MAX_PRODUCTS // (num_images * len(self.rows)))):
            code = flat[..., part] @ self.basis.mT
            products = code[..., self.rows] * code[..., self.columns]
            scores = products @ self.quadratic + code @ self.linear + self.constant
            total = total + scores.logsumexp(-1).sum(-1)
        return total

    def check_data(self, rows: Rows) -> None:
        """Refuse images of another shape, or smaller than a patch, and noise below 0."""
        size = rows.sizes()[0]
        if len(size) != 3:
            raise DataError(f"y: got shape {size}, expected (n, height, width)")
        shape = self.operator.image_shape(size[1:])
        if min(shape) < self.size:
            raise DataError(
                f"y: got images of {shape[0]} x {shape[1]} pixels, expected {self.size} x "
                f"{self.size} (a patch) or more"
            )
        super().check_data(rows)
        check_noise_sd(rows)
