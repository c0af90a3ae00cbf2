"""Variational autoencoder: a decoder of latents, and an encoder as amortised guide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Array, Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.common.validation import check_features, read_given
from ppl_zoo.models.latent.likelihoods import make_likelihood
from ppl_zoo.models.latent.networks import (
    ConvDecoder,
    ConvEncoder,
    check_activation,
    image_shape,
    mean_and_sd,
    mlp,
    start_output,
)
from ppl_zoo.models.latent.priors import VampPrior, make_prior

__all__ = ["VAE"]

#: elements of x by sample that a density estimate holds at once, on an accelerator
MAX_ELEMENTS_PER_BATCH = 2**25
#: the same on a CPU, to stay in its cache
MAX_CACHED_ELEMENTS = 2**20


class VAE(Model):
    """Variational autoencoder.

    Generative model, for each row n::

        z[n] ~ Normal(0, 1)                       num_latents of them; other priors are at hand
        x[n] ~ Likelihood(decoder(z[n]))

    Guide, amortised by an encoder::

        z[n] ~ Normal(mean(x[n]), sd(x[n]))

    Encoder and decoder are fitted together by reparametrised stochastic gradients of the evidence
    lower bound.

    Parameters
    ----------
    num_features
        D, features of a row.
    num_latents
        Dimensions of z.
    hidden
        Widths of the encoder's layers; the decoder has them in reverse.
    likelihood
        "bernoulli" (x is 0 or 1), "gaussian" (one learned sd), "gaussian-per-pixel" (one a
        feature) or "categorical" (with ``num_states``).
    prior
        "normal", "mixture" of normals, "vamp" (mixture of the encoder's posteriors at learned
        inputs) or "flow" (needs the extra ``flows``).
    network
        "mlp", or "conv" for images (``hidden`` is not used then).
    shape
        Of an image, ``(height, width)`` or ``(channels, height, width)``; for "conv" only.
    activation
        "tanh", "relu", "silu" or "softplus"; of the layers of "mlp".
    num_components
        Of the priors "mixture" and "vamp".
    num_states
        Of the likelihood "categorical".

    References
    ----------
    Kingma & Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114.
    Rezende, Mohamed & Wierstra (2014), Stochastic backpropagation and approximate inference in
    deep generative models, https://arxiv.org/abs/1401.4082.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> digits = zoo.data.load("digits", binarize=True)
    >>> vae = zoo.VAE(num_features=64, num_latents=2, hidden=[32])
    >>> fit = zoo.fit(vae, digits.train, zoo.SVI(steps=50, batch_size=128), progress=False)
    >>> vae.encode(digits.test).shape, vae.sample(3).shape, vae.reconstruct(digits.test).shape
    (torch.Size([300, 2]), torch.Size([3, 64]), torch.Size([300, 64]))
    """

    integers_are_numbers = True
    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "bound",
        "sample": "exact",
        "encode": "estimate",
    }
    default_solver: ClassVar[tuple[str, Mapping[str, Any]]] = (
        "SVI",
        {"batch_size": 128, "learning_rate": 1e-3, "steps": 20_000},
    )
    event_dims: ClassVar[Mapping[str, tuple[str, ...]]] = {"z": ("latent",), "x": ("feature",)}

    def __init__(
        self,
        num_features: int,
        num_latents: int,
        hidden: Sequence[int] = (200, 200),
        likelihood: str = "bernoulli",
        *,
        prior: str = "normal",
        network: str = "mlp",
        shape: Sequence[int] | None = None,
        activation: str = "tanh",
        num_components: int = 20,
        num_states: int | None = None,
    ) -> None:
        super().__init__()
        _check_options(num_features, num_latents, hidden, network, activation)
        self.num_features, self.num_latents = num_features, num_latents
        self.likelihood = make_likelihood(likelihood, num_features, num_states)
        self.prior = make_prior(prior, num_features, num_latents, num_components)
        self.follows_data_dtype = likelihood.startswith("gaussian") and network == "mlp"
        per_feature = self.likelihood.per_feature
        if network == "conv":
            image = image_shape(shape, num_features)
            self.encoder: nn.Module = ConvEncoder(image, 2 * num_latents)
            self.decoder: nn.Module = ConvDecoder(num_latents, image, per_feature)
            self.image_pixels = image[1] * image[2]
        else:
            self.encoder = mlp([num_features, *hidden, 2 * num_latents], activation)
            self.decoder = mlp(
                [num_latents, *reversed(list(hidden)), num_features * per_feature], activation
            )
            self.image_pixels = num_features

    # ---- model and guide --------------------------------------------------------------------

    def model(self, x: Tensor) -> None:
        """Draw latents, then the features; ``x (n, num_features)``."""
        with self.observations("observations", x):
            z = pyro.sample("z", self.prior_distribution())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """Draw z from the encoder's posterior."""
        with self.observations("observations", x):
            pyro.sample("z", dist.Normal(*self.posterior(x)).to_event(1))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd of the guide's z for each row, ``(..., num_latents)`` both."""
        return self.posterior_of_standardised(self.likelihood.standardise(x))

    def posterior_of_standardised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for rows in the units of the nets."""
        return mean_and_sd(self.encoder(x))

    def prior_distribution(self) -> Distribution:
        """Return the distribution of z, over ``(num_latents,)``."""
        if isinstance(self.prior, VampPrior):
            return self.prior(self.posterior_of_standardised)
        return self.prior()

    # ---- the fit ----------------------------------------------------------------------------

    def initialize(self, rows: Rows) -> None:
        """Start at decoder outputs that give the mean of the data."""
        self.likelihood.read_units(chunk for (chunk,) in rows.chunks(4096))
        x = self.likelihood.standardise(rows.spread(2000)[0])
        with self.defaults():
            values = self.likelihood.start(x).to(self.dtype)
        per_feature = self.likelihood.per_feature
        start_output(self.decoder, values.flatten(), per_feature, self.image_pixels)
        if isinstance(self.prior, VampPrior):
            self.prior.start(x)

    def num_states_of(self, argument: str) -> Sizes:
        """States of each feature, where it is discrete."""
        states = self.likelihood.num_states
        return [states] * self.num_features if states else None

    def check_data(self, rows: Rows) -> None:
        """Refuse rows of another width, and values that the likelihood has no density for."""
        if len(rows.arrays) != 1:
            raise DataError(f"data: got {len(rows.arrays)} arrays, expected x alone")
        check_features(rows, self.num_features)
        super().check_data(rows)
        for (x,) in rows.chunks(65536):
            self.likelihood.check(x)

    # ---- queries ----------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, x: Array, num_samples: int = 5000) -> Float[Tensor, " n"]:
        """Importance-sampled log density of each row, in nats, ``(n,)``.

        A lower bound in expectation, tighter with ``num_samples``; its standard error and
        effective sample size are in :func:`ppl_zoo.evaluation.importance_sampling`.
        """
        rows, on_cpu = self._read_rows(x), self.device.type == "cpu"
        held = MAX_CACHED_ELEMENTS if on_cpu else MAX_ELEMENTS_PER_BATCH
        out = []
        for chunk in rows.split(max(1, min(256, held // (64 * self.num_features)))):
            each = max(1, held // (chunk.numel() * self.likelihood.per_feature))
            total: Tensor | None = None
            for start in range(0, num_samples, each):
                weights = self.log_weights(chunk, min(each, num_samples - start))
                part = weights.double().logsumexp(0)
                total = part if total is None else torch.logaddexp(total, part)
            out.append(total - math.log(num_samples))
        return torch.cat(out).to(self.dtype)

    def log_weights(self, x: Tensor, num_samples: int) -> Float[Tensor, "samples n"]:
        """Log p(x, z) - log q(z | x) for draws of the guide, ``(num_samples, n)``."""
        z = self.guess(x, (num_samples,))
        return self.log_joint(x, z) - self.log_guess(x, z)

    def guess(self, x: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """Draw z from the guide, ``(*shape, n, num_latents)``."""
        return dist.Normal(*self.posterior(x)).rsample(torch.Size(shape))

    def log_guess(self, x: Tensor, z: Tensor) -> Tensor:
        """Log density of the guide at z, ``(..., n)``."""
        return dist.Normal(*self.posterior(x)).to_event(1).log_prob(z)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x, z), ``x (n, D)`` and ``z (..., n, num_latents)``, ``(..., n)``."""
        return self.prior_distribution().log_prob(z) + self.row(z).log_prob(x)

    def degenerate(self, *batch: Tensor) -> tuple[str, ...]:
        """Say where the likelihood's sd has fallen to its floor."""
        return self.likelihood.degenerate()

    def row(self, z: Tensor) -> Distribution:
        """Return the likelihood of z: the distribution of x given z, over ``(..., D)``."""
        return self.likelihood(self.decoder(z))

    @torch.no_grad()
    def elbo(self, x: Array, num_samples: int = 1) -> Float[Tensor, " n"]:
        """Evidence lower bound of each row, in nats, ``(n,)``."""
        rows = self._read_rows(x)
        parts = [self.log_weights(part, num_samples).mean(0) for part in rows.split(1024)]
        return torch.cat(parts)

    @torch.no_grad()
    def encode(self, x: Array, *, full: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Mean of the guide's z, ``(n, num_latents)``; with ``full`` its mean and sd."""
        loc, scale = self.posterior(self._read_rows(x))
        return (loc, scale) if full else loc

    @torch.no_grad()
    def decode(self, z: Array) -> Tensor:
        """Mean of x at given latents ``(..., num_latents)``, ``(..., num_features)``."""
        return self.likelihood.mean(self.decoder(self._read_latents(z)))

    def reconstruct(self, x: Array) -> Tensor:
        """Reconstruction: mean of x at the encoder's mean, ``(n, num_features)``."""
        with torch.no_grad():
            return self.likelihood.mean(self.decoder(self.posterior(self._read_rows(x))[0]))

    def interpolate(self, a: Array, b: Array, steps: int = 9) -> Tensor:
        """Means of x along the line between the latents of two rows, ``(steps, features)``."""
        ends = self.encode(torch.stack([torch.as_tensor(a), torch.as_tensor(b)]))
        along = torch.linspace(0.0, 1.0, steps, dtype=ends.dtype, device=ends.device)[:, None]
        return self.decode(ends[0] * (1 - along) + ends[1] * along)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        given: Array | Mapping[str, Any] | None = None,
        *,
        num_steps: int = 100,
    ) -> Float[Tensor, "n d"]:
        """Draw rows, all anew or with some features held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(D,)`` or ``(num_samples, D)``: values to be held, NaN where free. Free ones come
            from Metropolis-within-Gibbs (Mattei & Frellsen 2018), which converges to their
            conditional distribution.
        num_steps
            Of that chain.

        Returns
        -------
        Tensor
            ``(num_samples, D)``.
        """
        if given is not None:
            held = read_given(
                self.coded("x", given), num_samples, (self.num_features,), self._anchor
            )
            return self._impute(held, num_steps)
        return self.row(self.sample_prior(num_samples)).sample().to(self.dtype)

    def sample_prior(self, num_samples: int) -> Tensor:
        """Draw z from the prior, ``(num_samples, num_latents)``."""
        return self.prior_distribution().expand([num_samples]).sample()

    def _impute(self, held: Tensor, num_steps: int) -> Tensor:
        """Metropolis-within-Gibbs imputation of the features of ``held (n, D)`` that are NaN.

        Rezende et al. (2014) alternate z ~ guide(z | x) and x ~ p(x | z), which is right only if
        the guide is the posterior. Mattei & Frellsen (2018), Leveraging the exact likelihood of
        deep latent variable models, https://arxiv.org/abs/1802.04826, take z of the guide as the
        proposal of an independence Metropolis step, so that the chain's distribution is
        p(x_missing | x_known) itself.
        """
        free = held.isnan()
        self.likelihood.check(torch.where(free, torch.zeros_like(held), held))
        x = torch.where(free, self.sample(len(held)), held)
        z = self.guess(x)
        for _ in range(num_steps):
            proposed = self.guess(x)
            gain = self.log_joint(x, proposed) - self.log_joint(x, z)
            ratio = gain + self.log_guess(x, z) - self.log_guess(x, proposed)
            accepted = torch.rand_like(ratio).log() < ratio
            z = torch.where(accepted[:, None], proposed, z)
            x = torch.where(free, self.row(z).sample().to(x), held)
        return x

    def _read_rows(self, x: Array) -> Tensor:
        """Read and check all rows of a query, ``(n, D)``."""
        return self.checked_rows(x).all()[0]

    def _read_latents(self, z: Array) -> Tensor:
        """Read latents ``(..., num_latents)``, in dtype and on the device of the model."""
        z = torch.as_tensor(z).to(self.device, self.dtype)
        if z.ndim == 0 or z.shape[-1] != self.num_latents:
            raise DataError(f"z: got {tuple(z.shape)}, expected (..., {self.num_latents})")
        return z


def _check_options(
    num_features: int, num_latents: int, hidden: Sequence[int], network: str, activation: str
) -> None:
    for name, value in (("num_features", num_features), ("num_latents", num_latents)):
        if value < 1:
            raise DataError(f"{name}: got {value}, expected 1 or more")
    if any(width < 1 for width in hidden):
        raise DataError(f"hidden: got {list(hidden)}, expected widths of 1 or more")
    if network not in ("mlp", "conv"):
        raise DataError(f"network: got {network!r}, expected 'mlp' or 'conv'")
    check_activation(activation)
