"""Variational autoencoder: a net decodes latents into a row, another guesses them back."""

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
from ppl_zoo.models.latent.likelihoods import make_likelihood
from ppl_zoo.models.latent.networks import (
    ACTIVATIONS,
    Conv,
    Deconv,
    image_shape,
    mean_and_sd,
    mlp,
    start_output,
)
from ppl_zoo.models.latent.priors import VampPrior, make_prior

__all__ = ["VAE", "complete"]

#: numbers held at once while densities are estimated, and as many as a CPU's cache holds
MAX_ELEMENTS, CACHED_ELEMENTS = 2**25, 2**20


class VAE(Model):
    """Variational autoencoder.

    For each row n::

        z[n] ~ Normal(0, 1)                       num_latents of them; other priors are at hand
        x[n] ~ Likelihood(decoder(z[n]))

    and the guide, amortised by an encoder::

        z[n] ~ Normal(mean(x[n]), sd(x[n]))

    Encoder and decoder are fitted together by stochastic gradients of the evidence lower bound,
    reparametrised.

    Parameters
    ----------
    num_features
        D, numbers of a row.
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
        _check(num_features, num_latents, hidden, network, activation)
        self.num_features, self.num_latents = num_features, num_latents
        self.likelihood = make_likelihood(likelihood, num_features, num_states)
        self.prior = make_prior(prior, num_features, num_latents, num_components)
        per_feature = self.likelihood.per_feature
        if network == "conv":
            image = image_shape(shape, num_features)
            self.encoder: nn.Module = Conv(image, 2 * num_latents)
            self.decoder: nn.Module = Deconv(num_latents, image, per_feature)
            self.image_pixels = image[1] * image[2]
        else:
            self.encoder = mlp([num_features, *hidden, 2 * num_latents], activation)
            self.decoder = mlp(
                [num_latents, *reversed(list(hidden)), num_features * per_feature], activation
            )
            self.image_pixels = num_features

    # ---- the pair ---------------------------------------------------------------------------

    def model(self, x: Tensor) -> None:
        """Tell the story; ``x (n, num_features)``."""
        with self.observations("observations", x):
            z = pyro.sample("z", self.prior_distribution())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """Guess z from x."""
        with self.observations("observations", x):
            pyro.sample("z", dist.Normal(*self.posterior(x)).to_event(1))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sd of the guide's z for each row, ``(..., num_latents)`` both."""
        return mean_and_sd(self.encoder(x))

    def prior_distribution(self) -> Distribution:
        """Return the distribution of z, over ``(num_latents,)``."""
        if isinstance(self.prior, VampPrior):
            return self.prior(self.posterior)
        return self.prior()

    # ---- the fit ----------------------------------------------------------------------------

    def initialize(self, rows: Rows) -> None:
        """Start with the mean of the data at the decoder's outputs."""
        (x,) = rows.spread(2000)
        with self.defaults():
            values = self.likelihood.start(x).to(self.dtype)
        per_feature = self.likelihood.per_feature
        start_output(self.decoder, values.flatten(), per_feature, self.image_pixels)
        if isinstance(self.prior, VampPrior):
            self.prior.start(x)

    def check_data(self, rows: Rows) -> None:
        """Refuse rows of another width, and values that the likelihood has no density for."""
        sizes = rows.sizes()
        if len(sizes) != 1 or len(sizes[0]) != 2 or sizes[0][1] != self.num_features:
            raise DataError(f"x: got {sizes[0]}, expected (n, {self.num_features})")
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
        rows = self._rows(x)
        out, held = [], CACHED_ELEMENTS if self.device.type == "cpu" else MAX_ELEMENTS
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

    def row(self, z: Tensor) -> Distribution:
        """Return the distribution of x given z, over ``(..., D)``."""
        return self.likelihood(self.decoder(z))

    @torch.no_grad()
    def elbo(self, x: Array, num_samples: int = 1) -> Float[Tensor, " n"]:
        """Evidence lower bound of each row, in nats, ``(n,)``."""
        rows = self._rows(x)
        parts = [self.log_weights(part, num_samples).mean(0) for part in rows.split(1024)]
        return torch.cat(parts)

    @torch.no_grad()
    def encode(self, x: Array, *, full: bool = False) -> Any:
        """Mean of the guide's z, ``(n, num_latents)``; with ``full`` its mean and sd."""
        loc, scale = self.posterior(self._rows(x))
        return (loc, scale) if full else loc

    @torch.no_grad()
    def decode(self, z: Array) -> Tensor:
        """Mean of x at given latents ``(..., num_latents)``, ``(..., num_features)``."""
        z = torch.as_tensor(z).to(self.device, self.dtype)
        if z.ndim == 0 or z.shape[-1] != self.num_latents:
            raise DataError(f"z: got {tuple(z.shape)}, expected (..., {self.num_latents})")
        return self.likelihood.mean(self.decoder(z))

    def reconstruct(self, x: Array) -> Tensor:
        """Mean of x at the encoder's mean: there and back, ``(n, num_features)``."""
        with torch.no_grad():
            return self.likelihood.mean(self.decoder(self.posterior(self._rows(x))[0]))

    def interpolate(self, a: Array, b: Array, steps: int = 9) -> Tensor:
        """Means of x along the line between the latents of two rows, ``(steps, features)``."""
        ends = self.encode(torch.stack([torch.as_tensor(a), torch.as_tensor(b)]))
        along = torch.linspace(0.0, 1.0, steps, dtype=ends.dtype, device=ends.device)[:, None]
        return self.decode(ends[0] * (1 - along) + ends[1] * along)

    @torch.no_grad()
    def sample(
        self, num_samples: int, given: Any = None, *, num_steps: int = 100
    ) -> Float[Tensor, "n d"]:
        """Draw rows, all anew or with some features held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``(D,)`` or ``(num_samples, D)``: values to be held, NaN where free. Free ones come
            from Metropolis-within-Gibbs (Mattei & Frellsen 2018), which has the right
            distribution after many steps.
        num_steps
            Of that chain.

        Returns
        -------
        Tensor
            ``(num_samples, D)``.
        """
        if given is not None:
            return complete(self, given, num_samples, num_steps)
        return self.row(self.imagine(num_samples)).sample().to(self.dtype)

    def imagine(self, num_samples: int) -> Tensor:
        """Draw z from the prior, ``(num_samples, num_latents)``."""
        return self.prior_distribution().expand([num_samples]).sample()

    def _rows(self, x: Array) -> Tensor:
        rows = self.as_rows((x,))
        self.check_data(rows)
        return rows.all()[0]


def _check(
    num_features: int, num_latents: int, hidden: Sequence[int], network: str, activation: str
) -> None:
    for name, value in (("num_features", num_features), ("num_latents", num_latents)):
        if value < 1:
            raise DataError(f"{name}: got {value}, expected 1 or more")
    if any(width < 1 for width in hidden):
        raise DataError(f"hidden: got {list(hidden)}, expected widths of 1 or more")
    if network not in ("mlp", "conv"):
        raise DataError(f"network: got {network!r}, expected 'mlp' or 'conv'")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise DataError(f"activation: got {activation!r}, expected one of {known}")


# ---- Rows of which only some features are known: the others drawn by Metropolis within Gibbs.
#
# Rezende et al. (2014) alternate z ~ guide(z | x) and x ~ p(x | z), which is right only if the
# guide is. Mattei & Frellsen (2018, https://arxiv.org/abs/1802.04826) accept or refuse z as an
# independent
# Metropolis proposal, which makes the chain's distribution p(x_missing | x_known) itself.


def complete(model: Any, given: Any, num_samples: int, num_steps: int) -> Tensor:
    """Draw the free features, ``(num_samples, D)``; ``model`` is a VAE."""
    held = torch.as_tensor(given).to(model.device, model.dtype)
    if held.shape not in ((model.num_features,), (num_samples, model.num_features)):
        raise DataError(
            f"given: got {tuple(held.shape)}, expected ({model.num_features},) or "
            f"({num_samples}, {model.num_features}), NaN where free"
        )
    held = held.expand(num_samples, -1)
    free = held.isnan()
    model.likelihood.check(torch.where(free, torch.zeros_like(held), held))
    x = torch.where(free, model.sample(num_samples), held)
    z = model.guess(x)
    for _ in range(num_steps):
        proposed = model.guess(x)
        gain = model.log_joint(x, proposed) - model.log_joint(x, z)
        ratio = gain + model.log_guess(x, z) - model.log_guess(x, proposed)
        accepted = torch.rand_like(ratio).log() < ratio
        z = torch.where(accepted[:, None], proposed, z)
        drawn = model.row(z).sample().to(x)
        x = torch.where(free, drawn, held)
    return x
