"""Deep image prior: an image that is the output of an untrained convolutional net."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from ppl_zoo.core.device import has_fast_bfloat16
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import trace_program
from ppl_zoo.imaging.operator_spec import make_operator, operator_arguments
from ppl_zoo.imaging.operators import LinearOperator, Mask
from ppl_zoo.imaging.validation import check_noise_sd
from ppl_zoo.models.images.clipped_normal import ClippedNormal
from ppl_zoo.models.images.skip_net import PRESETS, SkipNet

__all__ = ["DeepImagePrior"]

#: most channels at the finest level of nets that Muon optimises as well as Adam does
MAX_MUON_CHANNELS = 32


class DeepImagePrior(Model):
    """Deep image prior: the image is the output of an untrained encoder-decoder.

    Nothing is learned from other images: the prior is the net's architecture. Generative model,
    with fixed noise z and the net f (:class:`ppl_zoo.models.images.skip_net.SkipNet`)::

        theta    ~ Normal(loc, prior_scale * scale)     for each weight
        image[n] = f(z[n]; theta)                       for each image
        y[n]     ~ Normal(A image[n], noise[n])         clipped to [0, 1] if ``clipped``

    A point estimate of theta overfits: at convergence it fits the noise as well, but on the way
    there it has fitted the image and little else. ``zoo.EarlyStopping`` averages the image over
    the optimisation path and stops it early; with a density over theta (``zoo.SVI``, ``zoo.SGLD``)
    the image is a posterior mean. ``zoo.restore(method="dip")`` applies it to a photograph.

    Parameters
    ----------
    shape
        ``(channels, height, width)`` of the image.
    net
        "fast", "paper", or a mapping of :class:`SkipNet`'s options.
    kernel, boundary, mask, factor, lanczos
        The operator A, one at most: ``zoo.imaging.Blur(kernel, boundary)``, ``Mask(mask)``,
        ``Downsample(factor)``, ``Lanczos(lanczos)``; A x = x with none.
    clipped
        Whether noisy data were clipped to [0, 1].
    num_images
        Number of images of one net, each with its own z.
    input_scale
        Upper limit of z, which is uniform from 0.
    input_noise
        Sd of normal noise that is added to z in every step of ``zoo.EarlyStopping``: a
        regulariser that delays overfitting.
    prior_scale
        Prior sd of the weights, in units of the sd that preserves variance from layer to layer;
        None for a flat prior, the paper's.
    temperature
        The log likelihood is divided by it; below 1 posteriors are narrower, and overfit sooner.
    precision
        "full", or "low" for 3 x 3 convolutions in bfloat16; "auto" for low where the processor
        has instructions for it and the model is of float32.

    References
    ----------
    Ulyanov, Vedaldi & Lempitsky (2018), Deep image prior, CVPR, https://arxiv.org/abs/1711.10925;
    with a density over theta: Cheng, Gadelha, Maji & Sheldon (2019), A Bayesian perspective on the
    deep image prior, CVPR, https://arxiv.org/abs/1904.07457.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> net = {"num_inputs": 4, "down": (8, 8), "up": (8, 8), "skip": (0, 0)}
    >>> model = zoo.DeepImagePrior((1, 16, 16), net=net)
    >>> y, noise = torch.rand(1, 1, 16, 16), torch.full((1,), 0.1)
    >>> fit = zoo.fit(model, (y, noise), zoo.EarlyStopping(20), progress=False)
    >>> model.encode(y, noise).shape
    torch.Size([1, 1, 16, 16])
    """

    integers_are_numbers = True
    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "bound",
        "sample": "estimate",
        "encode": "estimate",
    }
    follows_data_dtype = False  # grey values of 8 or 16 bits are exact in float32
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = ("EarlyStopping", {})
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "theta": ("weight",),
        "image": ("channel", "row", "column"),
        "y": ("channel", "data_row", "data_column"),
    }
    compiles: ClassVar[bool] = False

    z: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        net: Any = "fast",
        *,
        kernel: Any = None,
        boundary: str = "valid",
        mask: Any = None,
        factor: int | None = None,
        lanczos: int | None = None,
        clipped: bool = False,
        num_images: int = 1,
        input_scale: float = 0.1,
        input_noise: float = 1 / 30,
        prior_scale: float | None = 1.0,
        temperature: float = 1.0,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"shape: got {tuple(shape)}, expected (channels, height, width)")
        if isinstance(net, str) and net not in PRESETS:
            raise DataError(
                f"net: got {net!r}{did_you_mean(net, PRESETS)}, "
                f"expected one of {', '.join(PRESETS)}, or options"
            )
        options = PRESETS[net] if isinstance(net, str) else net
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        self.shape: tuple[int, ...] = tuple(int(n) for n in shape)
        self.net = SkipNet(**options | {"num_outputs": self.shape[0]})
        self.operator: LinearOperator = make_operator(
            kernel=kernel, boundary=boundary, mask=mask, factor=factor, lanczos=lanczos
        )
        self.clipped, self.input_scale, self.input_noise = clipped, input_scale, input_noise
        self.temperature = temperature
        if precision not in ("auto", "full", "low"):
            raise DataError(f"precision: got {precision!r}, expected 'auto', 'full' or 'low'")
        self.precision = precision
        self.data_plate = "images"
        loc, scale = self.net.prior()
        self.register_buffer("loc", loc, persistent=False)
        self.register_buffer("scale", scale * (prior_scale or 1.0), persistent=False)
        self.flat = prior_scale is None
        # at the coarsest level 2 x 2 pixels or more, for reflection padding
        sides = [max(2, math.ceil(n / self.net.multiple)) for n in self.shape[1:]]
        sides = [self.net.multiple * n for n in sides]
        self.register_buffer("z", torch.empty(num_images, self.net.num_inputs, *sides))
        self.theta = nn.Parameter(torch.empty(self.net.num_weights))
        self.re_init()

    @classmethod
    def of(cls, shape: Sequence[int], operator: Any = None, **options: Any) -> DeepImagePrior:
        """Model of an operator of ``zoo.imaging``."""
        return cls(shape, **operator_arguments(operator), **options)

    @property
    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the pieces of theta: ``(d, n)`` of 3 x 3 convolutions, ``(k,)`` of others."""
        return self.net.optimizer_shapes

    @property
    def suited_optimizer(self) -> str:
        """Optimizer of ``zoo.EarlyStopping`` that fits the image well before the noise.

        With the paper's net, 128 channels wide at the finest level, Muon's best image of a crop
        is 1.8 dB below Adam's; with 16 channels it is within .2 dB, after a quarter of the steps.
        """
        return "muon" if self.net.up[0] <= MAX_MUON_CHANNELS else "adam"

    @torch.no_grad()
    def re_init(self) -> None:
        """Reinitialise: draw the noise z and the initial weights."""
        self.z.copy_(self.input_scale * torch.rand(self.z.shape, device="cpu", dtype=torch.float))
        self.theta.copy_(self.net.start())

    def initialize(self, rows: Rows) -> None:
        """Reinitialise, independently of the data."""
        self.re_init()

    def model(self, y: Tensor, noise: Tensor) -> None:
        """Draw weights, images and data; ``y (n, channels, height, width)``, ``noise (n,)``."""
        self._generate(y, noise)

    def training_on(
        self, observed: Tensor | None = None, net: Callable[..., Tensor] | None = None
    ) -> Callable[[Tensor, Tensor], None]:
        """Make the program of a training step: noise on z, and perhaps some data held out.

        Parameters
        ----------
        observed
            True where a value of y is in the likelihood, of y's shape; None for all.
        net
            Replacement of the net, see :meth:`compile_net`; None for the net itself.

        Returns
        -------
        callable
            A Pyro program with the arguments of ``model``.
        """
        return functools.partial(
            self._generate, observed=observed, net=net, input_noise=self.input_noise
        )

    def compile_net(self) -> Callable[..., Tensor]:
        """Compile the net by Inductor, for :meth:`training_on`."""
        return torch.compile(self.net.__call__, dynamic=False)

    def _generate(
        self,
        y: Tensor,
        noise: Tensor,
        *,
        observed: Tensor | None = None,
        net: Callable[..., Tensor] | None = None,
        input_noise: float = 0.0,
    ) -> None:
        prior = dist.Normal(self.loc, self.scale).to_event(1)
        theta = pyro.sample("theta", prior.mask(False) if self.flat else prior)
        with self.observations("images", y):
            image = self.image(theta, net=net, input_noise=input_noise)
            image = image[..., : len(y), :, :, :]
            image = pyro.deterministic("image", image, event_dim=3)
            with poutine.scale(scale=1.0 / self.temperature):
                pyro.sample("y", self.likelihood(image, noise, observed), obs=y)

    def likelihood(
        self, image: Tensor, noise: Tensor, observed: Tensor | None = None
    ) -> TorchDistributionMixin:
        """Distribution of the data given images ``(..., n, channels, height, width)``.

        Parameters
        ----------
        image, noise
            The images, and the sd of the noise ``(n,)``.
        observed
            True where a value of y is in the likelihood, of y's shape; None for all.
        """
        family = ClippedNormal if self.clipped else dist.Normal
        data = family(self.operator(image), noise[..., None, None, None])
        if isinstance(self.operator, Mask):
            data = data.mask(self.operator.mask.to(noise.device))
        return (data if observed is None else data.mask(observed)).to_event(3)

    def num_seen(self, y: Tensor, observed: Tensor | None = None) -> int:
        """Count the values of y in the likelihood; ``observed`` as for :meth:`likelihood`."""
        if observed is None:
            observed = torch.ones_like(y, dtype=torch.bool)
        if isinstance(self.operator, Mask):
            observed = observed & self.operator.mask.to(y.device)
        return int(observed.sum())

    def guide(self, y: Tensor, noise: Tensor) -> None:
        """Point estimate of theta, the paper's."""
        pyro.sample("theta", dist.Delta(self.theta, event_dim=1))

    def image(
        self,
        theta: Tensor,
        *,
        net: Callable[..., Tensor] | None = None,
        input_noise: float = 0.0,
    ) -> Tensor:
        """Evaluate the net, ``(..., num_images, channels, height, width)``.

        Parameters
        ----------
        theta
            ``(num_weights,)``, or ``(..., 1, num_weights)`` for many draws.
        net
            Replacement of the net; None for the net itself.
        input_noise
            Sd of normal noise that is added to z.
        """
        z = self.z
        if input_noise > 0:
            z = torch.add(z, torch.randn_like(z), alpha=input_noise)
        height, width = self.shape[1:]
        top, left = (z.shape[-2] - height) // 2, (z.shape[-1] - width) // 2
        # draws of a point estimate are one tensor, expanded without copies: the net is run once
        batch = zip(theta.shape[:-1], theta.stride()[:-1], strict=True)
        shared = all(count == 1 or stride == 0 for count, stride in batch)
        draws = theta.reshape(-1, theta.shape[-1])[: 1 if shared else None]
        bfloat16 = self.precision == "low" or (
            self.precision == "auto" and has_fast_bfloat16(z.device, z.dtype)
        )
        evaluate = self.net if net is None else net
        images = [evaluate(z, each, bfloat16)[None] for each in draws]
        images = torch.cat(images) if len(images) > 1 else images[0]
        images = images[..., top : top + height, left : left + width]
        images = images.expand(math.prod(theta.shape[:-1]), *images.shape[1:])
        return images.reshape(*theta.shape[:-2], *images.shape[1:])

    def log_prob(self, *data: Any, num_samples: int = 100) -> Tensor:
        """Log density of each image's data given the data of the fit, ``(n,)``, in nats."""
        return super().log_prob(*data, num_samples=1 if self._is_point() else num_samples)

    @torch.no_grad()
    def encode(self, *data: Any, num_samples: int = 100) -> Tensor:
        """Posterior mean of the images under the guide, ``(n, channels, height, width)``."""
        rows = self.checked_rows(*data)
        guide, total = self.proposal(), 0.0
        count = 1 if self._is_point() else num_samples
        with self.defaults():
            for _ in range(count):
                theta = trace_program(guide, rows.all()).nodes["theta"]["value"]
                total = total + self.image(theta)[: len(rows)]
        return total / count

    def _is_point(self) -> bool:
        """Whether the guide is a point estimate."""
        return self.proposal() == self.guide

    def check_data(self, rows: Rows) -> None:
        """Refuse images of another shape, more of them than noise, and noise sd below 0."""
        shape = rows.sizes()[0]
        if len(shape) != 4 or shape[1] != self.shape[0]:
            raise DataError(f"y: got shape {shape}, expected (n, {self.shape[0]}, height, width)")
        image = tuple(self.operator.image_shape(shape[2:]))
        if image != self.shape[1:]:
            raise DataError(
                f"y: got {shape[2]} x {shape[3]} pixels, which come of an image of {image[0]} x "
                f"{image[1]}, expected one of {self.shape[1]} x {self.shape[2]}"
            )
        if len(rows) > len(self.z):
            raise DataError(f"y: got {len(rows)} images, expected num_images={len(self.z)}")
        super().check_data(rows)
        check_noise_sd(rows)
