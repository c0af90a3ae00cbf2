"""Hierarchical VAE: a ladder of latent layers with a bottom-up encoder."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.models.latent.likelihoods import make_likelihood
from ppl_zoo.models.latent.networks import check_activation, mean_and_sd, mlp
from ppl_zoo.models.latent.priors import StandardNormalPrior
from ppl_zoo.models.latent.vae import VAE

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(VAE):
    """Variational autoencoder with layers of latents.

    Generative model, for each row n, from the top layer L down::

        zL[n] ~ Normal(0, 1)
        ...
        z1[n] ~ Normal(mean1(z2[n]), sd1(z2[n]))
        x[n]  ~ Likelihood(decoder(z1[n]))

    Guide, amortised by encoders, from the row up::

        z1[n] ~ Normal(mean(x[n]), sd(x[n]))
        ...
        zL[n] ~ Normal(mean(z(L-1)[n]), sd(z(L-1)[n]))

    Parameters
    ----------
    num_features
        D, features of a row.
    num_latents
        Dimensions of each layer's latents, from the rows upwards.
    hidden
        Widths of the layers of the nets between: of the encoder from x to z1, from z1 to z2, and
        so on; the decoders have them in reverse.
    likelihood, activation, num_states
        As for :class:`~ppl_zoo.VAE`.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders,
    https://arxiv.org/abs/1509.00519; the default nets are theirs.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> digits = zoo.data.load("digits", binarize=True)
    >>> vae = zoo.HierarchicalVAE(64, num_latents=[8, 2], hidden=[[32], [16]])
    >>> fit = zoo.fit(vae, digits.train, zoo.SVI(steps=50, batch_size=128), progress=False)
    >>> vae.encode(digits.test).shape, vae.sample(3).shape, vae.reconstruct(digits.test).shape
    (torch.Size([300, 2]), torch.Size([3, 64]), torch.Size([300, 64]))
    """

    def __init__(
        self,
        num_features: int,
        num_latents: Sequence[int] = (100, 50),
        hidden: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        likelihood: str = "bernoulli",
        *,
        activation: str = "tanh",
        num_states: int | None = None,
    ) -> None:
        Model.__init__(self)
        _check_options(num_features, num_latents, hidden, activation)
        self.num_features, self.num_latents = num_features, num_latents[-1]
        self.sizes = tuple(num_latents)
        self.names = tuple(f"z{layer}" for layer in range(1, len(num_latents) + 1))
        self.event_dims = {name: (f"latent{name[1:]}",) for name in self.names}
        self.event_dims |= {"x": ("feature",)}
        self.likelihood = make_likelihood(likelihood, num_features, num_states)
        self.follows_data_dtype = likelihood.startswith("gaussian")
        self.prior = StandardNormalPrior(self.num_latents)
        self.image_pixels = num_features
        ends = list(zip(self.sizes, self.sizes[1:], hidden[1:], strict=False))
        first, outputs = hidden[0], num_features * self.likelihood.per_feature
        self.encoder: nn.Module = mlp([num_features, *first, 2 * self.sizes[0]], activation)
        self.decoder: nn.Module = mlp([self.sizes[0], *reversed(first), outputs], activation)
        self.encoders_above = nn.ModuleList(
            mlp([below, *widths, 2 * above], activation) for below, above, widths in ends
        )
        self.decoders_above = nn.ModuleList(
            mlp([above, *reversed(widths), 2 * below], activation) for below, above, widths in ends
        )

    # ---- model and guide --------------------------------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw the layers, top first, then the features; ``x (n, num_features)``."""
        with self.observations("observations", x):
            z = pyro.sample(self.names[-1], self.prior_distribution())
            for layer in reversed(range(len(self.sizes) - 1)):
                z = pyro.sample(self.names[layer], self.below(layer, z))
            pyro.sample("x", self.row(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw the layers from the encoders, each given the one below."""
        with self.observations("observations", x):
            z = x
            for layer, name in enumerate(self.names):
                z = pyro.sample(name, self.above(layer, z))

    def below(self, layer: int, z: Tensor) -> Distribution:
        """Return the model's distribution of a layer given the one above it."""
        return dist.Normal(*mean_and_sd(self.decoders_above[layer](z))).to_event(1)

    def above(self, layer: int, z: Tensor) -> Distribution:
        """Return the guide's distribution of a layer given what is below it."""
        if layer == 0:
            return dist.Normal(
                *mean_and_sd(self.encoder(self.likelihood.standardise(z)))
            ).to_event(1)
        return dist.Normal(*mean_and_sd(self.encoders_above[layer - 1](z))).to_event(1)

    # ---- queries: z holds all layers, one after the other -----------------------------------

    def guess(self, x: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """Draw all layers from the guide, ``(*shape, n, sum of num_latents)``."""
        drawn = [self.above(0, x).rsample(torch.Size(shape))]
        for layer in range(1, len(self.sizes)):
            drawn.append(self.above(layer, drawn[-1]).rsample())
        return torch.cat(drawn, -1)

    def log_guess(self, x: Tensor, z: Tensor) -> Tensor:
        """Log density of the guide at z, ``(..., n)``."""
        parts = z.split(self.sizes, -1)
        pairs = enumerate(zip((x, *parts), parts, strict=False))
        return sum(self.above(layer, below).log_prob(own) for layer, (below, own) in pairs)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x, z), ``x (n, D)`` and ``z (..., n, sum of num_latents)``, ``(..., n)``."""
        parts = z.split(self.sizes, -1)
        total = self.prior_distribution().log_prob(parts[-1]) + self.row(z).log_prob(x)
        for layer, (own, above) in enumerate(zip(parts, parts[1:], strict=False)):
            total = total + self.below(layer, above).log_prob(own)
        return total

    def row(self, z: Tensor) -> Distribution:
        """Return the distribution of x given the latents: given the lowest layer."""
        return self.likelihood(self.decoder(z[..., : self.sizes[0]]))

    def sample_prior(self, num_samples: int) -> Tensor:
        """Draw all layers from the prior, ``(num_samples, sum of num_latents)``."""
        drawn = [super().sample_prior(num_samples)]
        for layer in reversed(range(len(self.sizes) - 1)):
            drawn.insert(0, self.below(layer, drawn[0]).sample())
        return torch.cat(drawn, -1)

    @torch.no_grad()
    def encode(self, x: Array, *, full: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Mean of the top layer's guide at the means of those below it, ``(n, latents)``.

        With ``full`` its mean and sd.
        """
        loc, scale = self.posterior(self._read_rows(x))
        for encoder in self.encoders_above:
            loc, scale = mean_and_sd(encoder(loc))
        return (loc, scale) if full else loc

    @torch.no_grad()
    def decode(self, z: Array) -> Tensor:
        """Mean of x at given latents of the top layer, by the means of the layers between."""
        z = self._read_latents(z)
        for decoder in reversed(self.decoders_above):
            z = mean_and_sd(decoder(z))[0]
        return self.likelihood.mean(self.decoder(z))


def _check_options(
    num_features: int,
    num_latents: Sequence[int],
    hidden: Sequence[Sequence[int]],
    activation: str,
) -> None:
    if not num_latents or min(num_features, *num_latents) < 1:
        raise DataError(
            f"num_features, num_latents: got {num_features}, {list(num_latents)}, expected "
            "numbers of 1 or more, one of latents a layer"
        )
    if len(hidden) != len(num_latents):
        raise DataError(
            f"hidden: got {len(hidden)} lists of widths for {len(num_latents)} layers, expected "
            "one for each"
        )
    check_activation(activation)
