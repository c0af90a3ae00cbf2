"""Order-agnostic deep NADE: one net for the conditionals of every order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import make_output
from ppl_zoo.models.autoregressive.sampling import draw_in_order

__all__ = ["DeepNADE"]

#: activations of a layer that scoring holds at once
MAX_ACTIVATIONS_PER_CHUNK = 2**24


class DeepNADE(AutoregressiveModel):
    """Order-agnostic deep neural autoregressive density estimator (EoNADE).

    Generative model, for each variable i, given those that are known before it::

        x[i] ~ Output(parameters = net_i(x * known, known))

    One net is given some of the variables and their mask, and predicts the others, so that it
    holds a model for each of the D! orders. A step of a fit draws for each row a number d and d
    variables to know, and scores the D - d others, times D / (D - d): on average the log
    likelihood under a random order. Density and samples are those of the mixture of ``num_orders``
    fixed orders, exactly; scoring takes D passes for each.

    With ``given``, sampling takes an order that begins with what is held: a draw from the net's
    own conditional distribution, whatever is missing.

    Parameters
    ----------
    num_features
        D, or the shape of an image.
    hidden
        Units of each hidden layer.
    order
        None (natural), "random", or a permutation.
    num_orders
        Orders of the ensemble (random ones are then asked for).
    output, num_values, num_components, min_scale
        As for `MADE`.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.
    seed
        Of random orders.

    References
    ----------
    Uria, Murray & Larochelle (2014), A deep and tractable density estimator, ICML,
    https://arxiv.org/abs/1310.1757.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = zoo.data.load("digits", binarize=True).train
    >>> net = zoo.DeepNADE(num_features=64, hidden=[50])
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20, batch_size=100), progress=False)
    >>> net.log_prob(x[:10]).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([10]), torch.Size([5, 64]), torch.Size([1297, 50]))
    """

    def __init__(
        self,
        num_features: int | Sequence[int],
        hidden: Sequence[int] = (500,),
        order: Order = None,
        *,
        num_orders: int = 1,
        output: str = "bernoulli",
        num_values: int | None = None,
        num_components: int = 1,
        min_scale: float = 1e-2,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        made = make_output(output, num_components, num_values, min_scale)
        super().__init__(num_features, made, order, missing, num_orders, seed)
        size, outputs = self.num_features, made.num_parameters
        widths = [size * (made.num_inputs + 1), *hidden]
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        spread = 0.1 / math.sqrt(widths[-1])
        self.last = nn.Parameter(spread * torch.randn(size, outputs, widths[-1]))
        self.bias = nn.Parameter(torch.zeros(size, outputs))

    # ---- the net ----------------------------------------------------------------------------

    def _inputs(self, x: Tensor, known: Tensor) -> Tensor:
        """Return known variables and their mask, ``(..., D * (I + 1))``."""
        features = self.output.features(x) * known.unsqueeze(-1)
        return torch.cat([features.flatten(-2), known.expand(features.shape[:-1])], -1)

    def _features(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = F.relu(layer(inputs))
        return inputs

    def _outputs(self, h: Tensor) -> Tensor:
        return F.linear(h, self.last.flatten(0, 1), self.bias.flatten()).unflatten(
            -1, self.bias.shape
        )

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Parameters of all conditionals of one order, ``(n, D, P)``; D passes in one batch."""
        place = self.places[member]
        known = (place[:, None] > place).to(x.dtype)  # (variable, what it is given)
        h = self._features(self._inputs(x.unsqueeze(1), known))
        return torch.einsum("njh,jph->njp", h, self.last) + self.bias

    # ---- scoring ----------------------------------------------------------------------------

    def score(self, x: Tensor) -> Tensor:
        """Log probability of each row, in nats; where gradients are taken, an estimate of it."""
        flat = x.reshape(-1, self.num_features)
        if torch.is_grad_enabled():
            out = self._estimate(self.standardise(flat))
        else:
            widest = self.num_features * max(layer.in_features for layer in self.layers)
            chunks = flat.split(max(1, MAX_ACTIVATIONS_PER_CHUNK // widest))
            parts = (chunk.reshape(-1, *self.event_shape) for chunk in chunks)
            out = torch.cat([super(DeepNADE, self).score(part) for part in parts])
        return out.reshape(x.shape[: x.ndim - len(self.event_shape)])

    def _estimate(self, x: Tensor) -> Tensor:
        """Estimate the mean over orders of log p(x), without bias, from one pass."""
        size = self.num_features
        rank = torch.rand_like(x).argsort(-1)
        count = torch.randint(size, (x.shape[0], 1), device=x.device)
        known = (rank < count).to(x.dtype)
        if self.allow_missing:
            observed = ~x.isnan()
            known = known * observed
            x = torch.where(observed, x, torch.zeros_like(x))
        parameters = self._outputs(self._features(self._inputs(x, known)))
        terms = self.log_probs(parameters, x) * (rank >= count)
        if self.allow_missing:
            terms = terms * observed
        return terms.sum(-1) * (size / (size - count[:, 0]))

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at biases for these marginals."""
        self.bias.copy_(marginal)

    def hidden(self, x: Tensor) -> Tensor:
        """Last hidden layer when all variables are known, ``(n, H)``."""
        return self._features(self._inputs(x, torch.ones_like(x)))

    # ---- sampling ---------------------------------------------------------------------------

    def sampler(
        self, num_rows: int, member: int = 0, order: Tensor | None = None
    ) -> _DeepNADESampler:
        """Sampler that starts with nothing known, in a member's order or any other."""
        return _DeepNADESampler(self, num_rows, self.orders[member] if order is None else order)

    def _sample_given(self, held: Tensor, particles: int) -> Tensor:
        """Draw the free variables of ``held (n, D)``, in an order that begins with the others."""
        held = self.standardise(held)
        out = torch.empty_like(held)
        patterns, index = held.isnan().unique(dim=0, return_inverse=True)
        for k, free in enumerate(patterns):
            rows = (index == k).nonzero()[:, 0]
            order = self.orders[0]
            order = torch.cat([order[~free[order]], order[free[order]]])
            shape = (self.num_features, self.output.num_noise, len(rows))
            noise = torch.rand(shape, dtype=held.dtype, device=held.device)
            sampler = self.sampler(len(rows), order=order)
            out[rows] = draw_in_order(sampler, self.output, order, noise, held[rows])[0]
        return self.restore(out)


class _DeepNADESampler:
    """Sampler that caches the sums of the first hidden layer, ``(n, H)``."""

    def __init__(self, model: DeepNADE, num_rows: int, order: Tensor) -> None:
        self.model, self.order = model, order.tolist()
        first = model.layers[0]
        inputs = model.output.num_inputs * model.num_features
        self.W = first.weight[:, :inputs].T.unflatten(0, (model.num_features, -1))
        self.mask = first.weight[:, inputs:].T
        self.sums = first.bias.repeat(num_rows, 1)

    def parameters(self, place: int) -> Tensor:
        h = self.sums.relu()
        for layer in self.model.layers[1:]:
            h = F.relu(layer(h))
        i = self.order[place]
        return torch.addmm(self.model.bias[i], h, self.model.last[i].T)

    def observe(self, place: int, value: Tensor) -> None:
        i = self.order[place]
        self.sums += torch.addmm(self.mask[i], self.model.output.features(value), self.W[i])

    def select(self, rows: Tensor) -> None:
        self.sums = self.sums[rows]
