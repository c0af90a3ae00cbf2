"""Ising model of binary images, seen through noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_zoo.core.errors import DataError, QueryError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.options import did_you_mean
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.latent import ising_grid

__all__ = ["Ising"]


class Ising(Model):
    """Ising model of binary images.

    Generative model, for each image n, with spins +1 (white) or -1 (black)::

        spins[n] ~ exp(coupling * sum_<ij> spins_i spins_j) / Z     (height, width)
        x[n]     ~ Normal(spins[n], noise)                          each pixel

    where <ij> are neighbours in rows and columns. The posterior of the spins is approximated by
    mean field: each spin by itself, in the mean field of its neighbours. Z is exact for any size
    (Kac & Ward), so that the evidence lower bound lacks no constant. Grids with a side of at most
    10 are solved exactly too.

    Parameters
    ----------
    height, width
        Of the images, in pixels.
    coupling
        Of neighbours; spins of a large grid agree over any distance from 0.44 on.
    noise
        Standard deviation of the noise, in units of x (spins are 2 apart).
    learn_noise
        Whether a fit learns ``noise``.

    References
    ----------
    Bishop (2006), Pattern Recognition and Machine Learning, section 8.3.3. MacKay (2003),
    Information Theory, Inference, and Learning Algorithms, chapters 31 and 33. Kac & Ward
    (1952), A combinatorial solution of the two-dimensional Ising model, Phys. Rev. 88,
    https://doi.org/10.1103/PhysRev.88.1332.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> image = torch.ones(1, 8, 8)
    >>> image[:, :, :4] = -1.0
    >>> model = zoo.Ising(8, 8, coupling=0.6, noise=0.8)
    >>> model.denoise(image + 0.8 * torch.randn(1, 8, 8)).shape
    torch.Size([1, 8, 8])
    """

    integers_are_numbers = True
    queries = {"log_prob": "bound", "sample": "estimate", "encode": "estimate"}
    follows_data_dtype = False  # spins
    default_solver = ("EM", {})
    event_dims = {"spins": ("row", "column"), "x": ("row", "column")}

    def __init__(
        self,
        height: int,
        width: int,
        coupling: float = 0.4,
        noise: float = 1.0,
        learn_noise: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("height", height), ("width", width)):
            if value < 2:
                raise ValueError(f"{name}: got {value}, expected 2 or more")
        if not noise > 0:
            raise ValueError(f"noise: got {noise}, expected more than 0")
        if not math.isfinite(coupling):
            raise ValueError(f"coupling: got {coupling}, expected a finite number")
        self.height, self.width, self.learn_noise = height, width, learn_noise
        self.register_buffer("coupling", torch.tensor(float(coupling)))
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise)), requires_grad=learn_noise)
        # a float and no buffer: single precision would round it
        self.log_z = float(ising_grid.log_partition_without_field(height, width, self.coupling))

    @property
    def noise(self) -> Float[Tensor, ""]:
        """Standard deviation of the noise."""
        return self.log_noise.exp()

    @property
    def is_narrow(self) -> bool:
        """Whether the grid can be summed over exactly with a field."""
        return min(self.height, self.width) <= ising_grid.MAX_EXACT_SIDE

    # ---- model and mean-field guide ---------------------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw the spins of each image, then its pixels."""
        with self.observations("images", x):
            prior = IsingPrior((self.height, self.width), self.coupling, self.log_z)
            s = pyro.sample("spins", prior)
            pyro.sample("x", dist.Normal(s, self.noise).to_event(2), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw each spin by itself, in the mean field of its neighbours."""
        with torch.no_grad():
            mean = self._mean_field(x)
        with self.observations("images", x):
            pyro.sample("spins", IndependentSpins(mean))

    def _field(self, x: Tensor) -> Tensor:
        return x / self.noise**2

    def _mean_field(self, x: Tensor) -> Tensor:
        return ising_grid.mean_field(self._field(x), self.coupling)

    # ---- EM: the E-step is mean field, the M-step the noise ---------------------------------

    def check_data(self, rows: Rows) -> None:
        """Refuse x of another shape than ``(n, height, width)``."""
        shape = rows.sizes()[0]
        expected = (len(rows), self.height, self.width)
        if shape != expected:
            raise DataError(f"x: got shape {shape}, expected {expected}")
        super().check_data(rows)

    @torch.no_grad()
    def expected_statistics(self, *batch: Tensor) -> dict[str, Tensor]:
        """E-step: mean field of each image, its bound and residual sums of squares, in float64."""
        x = batch[0]
        mean = self._mean_field(x)
        residual = (x.double() ** 2 - 2.0 * x.double() * mean.double() + 1.0).sum()
        return {
            "log_likelihood": self._bound(x, mean).sum(),
            "residual": residual,
            "count": residual.new_tensor(float(x.numel())),
        }

    @torch.no_grad()
    def maximize(self, statistics: Mapping[str, Tensor]) -> None:
        """M-step: the noise, where it is learned."""
        if self.learn_noise:
            variance = statistics["residual"] / statistics["count"]
            self.log_noise.copy_(0.5 * variance.clamp_min(1e-12).log())

    def _bound(self, x: Tensor, mean: Tensor) -> Tensor:
        """Evidence lower bound of each image, ``(n,)``, in float64."""
        x, mean, noise = x.double(), mean.double(), self.noise.double()
        residual = (x**2 - 2.0 * x * mean + 1.0) / noise**2
        log_likelihood = -0.5 * (residual + math.log(2.0 * math.pi)) - noise.log()
        up = (0.5 * (1.0 + mean)).clamp(0.0, 1.0)
        entropy = torch.special.entr(up) + torch.special.entr(1.0 - up)
        prior = self.coupling.double() * ising_grid.interaction(mean) - self.log_z
        return (log_likelihood + entropy).sum((-2, -1)) + prior

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each image, in nats: exact on narrow grids, else the mean-field bound."""
        return torch.cat([self._log_density(part) for part in self._batches(x)]).to(self.dtype)

    def _log_density(self, x: Tensor) -> Tensor:
        if not self.is_narrow:
            return self._bound(x, self._mean_field(x))
        x, noise = x.double(), self.noise.double()
        alone = -0.5 * ((x**2 + 1.0) / noise**2 + math.log(2.0 * math.pi)) - noise.log()
        total = ising_grid.log_partition(x / noise**2, self.coupling.double())
        return alone.sum((-2, -1)) + total - self.log_z

    def elbo(self, x: Array) -> Float[Tensor, " n"]:
        """Evidence lower bound of each image under mean field, in nats, ``(n,)``."""
        with torch.no_grad():
            parts = [self._bound(part, self._mean_field(part)) for part in self._batches(x)]
        return torch.cat(parts).to(self.dtype)

    def encode(self, x: Array) -> Float[Tensor, "n height width"]:
        """Mean of each spin given the image, by mean field."""
        return self.marginals(x)

    def denoise(self, x: Array) -> Float[Tensor, "n height width"]:
        """Return the more probable value of each spin, +1 or -1."""
        return torch.where(self.marginals(x) >= 0, 1.0, -1.0).to(self.dtype)

    def marginals(
        self, x: Array, method: str = "mean-field", num_sweeps: int = 1000
    ) -> Float[Tensor, "n height width"]:
        """Mean of each spin given the image.

        Parameters
        ----------
        x
            Images ``(n, height, width)``.
        method
            "mean-field"; "exact" for grids with a side of at most 10; or "gibbs", an average
            over Gibbs sweeps.
        num_sweeps
            Of Gibbs sampling, after a burn-in of a tenth as many.

        Returns
        -------
        Tensor
            ``(n, height, width)``, from -1 to 1.

        Raises
        ------
        QueryError
            If the grid is too wide for the exact answer.
        DataError
            If there is no such method.
        """
        methods = {"mean-field": self._mean_field, "exact": self._exact_means}
        methods["gibbs"] = functools.partial(self._gibbs_means, num_sweeps=num_sweeps)
        if method not in methods:
            raise DataError(
                f"method: got {method!r}{did_you_mean(method, methods)}, "
                f"expected one of {tuple(methods)}"
            )
        if method == "exact" and not self.is_narrow:
            raise QueryError(
                f"Ising: got a grid of {self.height} x {self.width}, expected a side of at most "
                f"{ising_grid.MAX_EXACT_SIDE} for exact sums; use method='gibbs'"
            )
        with torch.no_grad():
            return torch.cat([methods[method](part) for part in self._batches(x)]).to(self.dtype)

    def _exact_means(self, x: Tensor) -> Tensor:
        field = self._field(x.double())
        with torch.enable_grad():
            field.requires_grad_()
            total = ising_grid.log_partition(field, self.coupling.double()).sum()
            return torch.autograd.grad(total, field)[0]

    def _gibbs_means(self, x: Tensor, num_sweeps: int) -> Tensor:
        field, total = self._field(x), torch.zeros_like(x)
        s = IndependentSpins(self._mean_field(x)).sample()
        for sweep in range(-(num_sweeps // 10), num_sweeps):
            s, mean = ising_grid.gibbs_sweep(s, field, self.coupling)
            total = total + mean if sweep >= 0 else total
        return total / num_sweeps

    def _batches(self, x: Array) -> Iterator[Tensor]:
        for (part,) in self.batches(x, size=256):
            yield part


class IndependentSpins(dist.TorchDistribution):
    """Independent spins of given means, events ``(height, width)``."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.independent(constraints.real, 2)

    def __init__(self, mean: Tensor) -> None:
        self.mean_ = mean
        super().__init__(mean.shape[:-2], mean.shape[-2:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean of each spin."""
        return self.mean_

    def expand(
        self, batch_shape: Sequence[int], _instance: dist.TorchDistribution | None = None
    ) -> IndependentSpins:
        """Return the same distribution with a larger batch shape."""
        return IndependentSpins(self.mean_.expand(*batch_shape, *self.event_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw spins."""
        mean = self.mean_.expand(self._extended_shape(torch.Size(sample_shape)))
        up = torch.rand_like(mean) < 0.5 * (1.0 + mean)
        return torch.where(up, 1.0, -1.0).to(mean.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of spins."""
        chance = 0.5 * (1.0 + value * self.mean_)
        return chance.clamp_min(torch.finfo(chance.dtype).tiny).log().sum((-2, -1))


class IsingPrior(dist.TorchDistribution):
    """Ising distribution without field; drawn exactly on narrow grids, else by Gibbs sweeps."""

    arg_constraints: ClassVar[dict] = {}
    support = constraints.independent(constraints.real, 2)
    num_sweeps = 500

    def __init__(
        self, shape: tuple[int, ...], coupling: Tensor, log_z: float, batch: Sequence[int] = ()
    ) -> None:
        self.coupling, self.log_z = coupling, log_z
        super().__init__(torch.Size(batch), torch.Size(shape), validate_args=False)

    def expand(
        self, batch_shape: Sequence[int], _instance: dist.TorchDistribution | None = None
    ) -> IsingPrior:
        """Return the same distribution with a larger batch shape."""
        return IsingPrior(tuple(self.event_shape), self.coupling, self.log_z, batch_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw spins."""
        field = self.coupling.new_zeros(self._extended_shape(torch.Size(sample_shape)))
        if min(self.event_shape) <= ising_grid.MAX_EXACT_SIDE:
            return ising_grid.exact_draws(field, self.coupling)
        s = torch.where(torch.rand_like(field) < 0.5, 1.0, -1.0).to(field.dtype)
        for _ in range(self.num_sweeps):
            s, _ = ising_grid.gibbs_sweep(s, field, self.coupling)
        return s

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of spins."""
        return self.coupling * ising_grid.interaction(value) - self.log_z
