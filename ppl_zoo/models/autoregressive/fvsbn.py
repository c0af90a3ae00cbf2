"""Fully visible sigmoid belief network: a logistic regression for each variable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import BernoulliOutput

__all__ = ["FVSBN"]


class FVSBN(AutoregressiveModel):
    """Fully visible sigmoid belief network (logistic autoregressive model).

    Generative model, for each variable i in order::

        x[i] ~ Bernoulli(sigmoid(bias[i] + sum over j before i of weights[i, j] x[j]))

    The log likelihood is concave: one optimum, whatever the start. All conditionals are one
    masked matrix product; sampling keeps the D sums and adds a column to them after each draw.

    Parameters
    ----------
    num_features
        D binary variables, or the shape of an image.
    order
        None (natural), "random", or a permutation; with ``seed`` for a random one.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.

    Attributes
    ----------
    weights
        ``(D, D)``; only those of earlier variables are used.
    bias
        ``(D,)``, log odds.

    References
    ----------
    Neal (1992), Connectionist learning of belief networks, Artificial Intelligence 56,
    https://doi.org/10.1016/0004-3702(92)90065-6. Frey, Hinton & Dayan (1996), Does the wake-sleep
    algorithm produce good density estimators?, NeurIPS 8.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = (torch.rand(500, 3) < 0.5).float()
    >>> x[:, 2] = x[:, 0]  # the last repeats the first
    >>> net = zoo.FVSBN(num_features=3)
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=300, learning_rate=0.1), progress=False)
    >>> (net.sample(100)[:, 2] == net.sample(100)[:, 0]).float().mean() > 0.4
    tensor(True)
    >>> net.log_prob(x).shape
    torch.Size([500])
    """

    def __init__(
        self,
        num_features: int | Sequence[int],
        order: Order = None,
        *,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(num_features, BernoulliOutput(), order, missing, seed=seed)
        size = self.num_features
        self.weights = nn.Parameter(torch.zeros(size, size))
        self.bias = nn.Parameter(torch.zeros(size))

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Logits of all variables, ``(n, D, 1)``."""
        return F.linear(x, self._earlier_weights(), self.bias).unsqueeze(-1)

    def _earlier_weights(self) -> Tensor:
        """Weights of earlier variables, ``(D, D)``; the others are 0."""
        if self.natural:
            return self.weights.tril(-1)
        place = self.places[0]
        return self.weights * (place[:, None] > place).to(self.weights.dtype)

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Make the variables independent, with given log odds."""
        self.weights.zero_()
        self.bias.copy_(marginal[:, 0])

    def hidden(self, x: Tensor) -> Tensor:
        """Probabilities of the conditionals, ``(n, D)``: the net has no hidden layer."""
        return self.conditionals(x)[..., 0].sigmoid()

    def sampler(self, num_rows: int, member: int = 0) -> _FVSBNSampler:
        """Sampler that starts with the biases as sums."""
        return _FVSBNSampler(self, num_rows)


class _FVSBNSampler:
    """Sampler that caches the logits so far of every variable, ``(D, n)`` by place."""

    def __init__(self, model: FVSBN, num_rows: int) -> None:
        order = model.orders[0]
        self.columns = model._earlier_weights()[order][:, order].T.contiguous()
        self.sums = model.bias[order, None].repeat(1, num_rows)

    def parameters(self, place: int) -> Tensor:
        return self.sums[place].unsqueeze(-1)

    def observe(self, place: int, value: Tensor) -> None:
        self.sums[place + 1 :].addr_(self.columns[place, place + 1 :], value)

    def select(self, rows: Tensor) -> None:
        self.sums = self.sums[:, rows]
