"""Linear VAE: its density is in closed form, and its optimum is probabilistic PCA."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_zoo.core.model import Array
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.latent.vae import VAE

__all__ = ["LinearVAE"]


class LinearVAE(VAE):
    """VAE with a linear decoder and a linear encoder: the oracle of the others.

    Generative model, for each row n::

        z[n] ~ Normal(0, 1)                                 num_latents of them
        x[n] ~ Normal(loadings @ z[n] + mean, noise)

    The guide is ``z[n] ~ Normal(V (x[n] - centre) + c, scale)``, one scale a latent; the centre is
    the mean of the rows that a fit starts with. The marginal of x is normal, so that every
    bound and estimate can be held against :meth:`exact_log_prob`. At the optimum the loadings
    span the leading principal components.

    Parameters
    ----------
    num_features, num_latents
        D and dimensions of z.

    References
    ----------
    Lucas, Tucker, Grosse & Norouzi (2019), Don't blame the ELBO! A linear VAE perspective on
    posterior collapse, https://arxiv.org/abs/1911.02469. Tipping & Bishop (1999), Probabilistic
    principal component analysis, JRSS B 61.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> vae = zoo.LinearVAE(num_features=4, num_latents=1)
    >>> vae.exact_log_prob(torch.zeros(3, 4)).shape
    torch.Size([3])
    """

    def __init__(self, num_features: int, num_latents: int) -> None:
        super().__init__(num_features, num_latents, hidden=[], likelihood="gaussian")
        self.encoder = nn.Linear(num_features, num_latents)
        self.register_buffer("centre", torch.zeros(num_features))
        self.log_spread = nn.Parameter(torch.zeros(num_latents))

    def initialize(self, rows: Rows) -> None:
        """Start with the mean of the data in both nets."""
        super().initialize(rows)
        # x far from 0 would couple weights and bias of the encoder: slow convergence
        self.centre.copy_(self.decoder[-1].bias.detach())

    def posterior_of_standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd of the guide's z for each row; the sd is the same for all."""
        loc = self.encoder(x - self.centre)
        return loc, self.log_spread.exp().expand_as(loc)

    @property
    def loadings(self) -> Float[Tensor, "features latents"]:
        """W, in units of x."""
        return self.likelihood.units.spread[:, None] * self.decoder[-1].weight

    @property
    def mean(self) -> Float[Tensor, " features"]:
        """Mean of x."""
        return self.likelihood.mean(self.decoder[-1].bias)

    @property
    def noise(self) -> Float[Tensor, ""]:
        """Sd of x about its decoded mean."""
        return self.likelihood.scale[0]

    @torch.no_grad()
    def exact_log_prob(self, x: Array) -> Float[Tensor, " n"]:
        """Log density of each row under the model, closed form in float64, ``(n,)``."""
        x = self._read_rows(x).double()
        eye = torch.eye(self.num_features, dtype=x.dtype, device=x.device)
        w = self.loadings.double()
        covariance = w @ w.mT + self.noise.double() ** 2 * eye
        normal = torch.distributions.MultivariateNormal(self.mean.double(), covariance)
        return normal.log_prob(x)

    @torch.no_grad()
    def exact_posterior(self, x: Array) -> tuple[Tensor, Tensor]:
        """Mean ``(n, num_latents)`` and covariance ``(num_latents, num_latents)`` of z given x."""
        x = self._read_rows(x).double()
        w, variance = self.loadings.double(), self.noise.double() ** 2
        eye = torch.eye(self.num_latents, dtype=x.dtype, device=x.device)
        covariance = torch.linalg.inv(eye + w.mT @ w / variance)
        return (x - self.mean.double()) @ w @ covariance / variance, covariance
