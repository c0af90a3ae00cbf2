"""Neural autoregressive distribution estimator: hidden units shared by all conditionals."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ppl_zoo.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.nade_function import nade_conditionals
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["NADE"]


class NADE(AutoregressiveModel):
    """Neural autoregressive distribution estimator.

    For each variable i, in order::

        h[i] = sigmoid(hidden_bias + sum over j before i of input_weights[j] x[j])
        x[i] ~ Bernoulli(sigmoid(bias[i] + output_weights[i] . h[i]))

    The hidden layers share their weights, so that each is the one before and a rank-1 update:
    all conditionals take O(D H), as the sampling does. Gradients have a function of their own,
    which keeps no hidden layer.

    Parameters
    ----------
    num_features
        D, or the shape of an image.
    num_hidden
        H, hidden units.
    order
        None (natural), "random", or a permutation; with ``seed`` for a random one.
    output, num_values
        "bernoulli", or "categorical" of ``num_values`` values 0, 1, ...; real data: `RNADE`.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.

    Attributes
    ----------
    input_weights, hidden_bias
        ``(D, I, H)`` and ``(H,)``, with I numbers that the net sees of a variable (1, or a
        one-hot vector).
    output_weights, bias
        ``(D, P, H)`` and ``(D, P)``, with P parameters of a conditional.

    References
    ----------
    Larochelle & Murray (2011), The neural autoregressive distribution estimator, AISTATS,
    https://proceedings.mlr.press/v15/larochelle11a.html. Uria, Cote, Gregor, Murray & Larochelle
    (2016), Neural autoregressive distribution estimation, JMLR 17,
    https://arxiv.org/abs/1605.02226.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = zoo.data.load("digits", binarize=True).train
    >>> net = zoo.NADE(num_features=64, num_hidden=50)
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20, batch_size=100), progress=False)
    >>> net.log_prob(x).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([1297]), torch.Size([5, 64]), torch.Size([1297, 50]))
    """

    compiles = False  # the walk has gradients of its own

    def __init__(
        self,
        num_features: Any,
        num_hidden: int,
        order: Any = None,
        *,
        output: str = "bernoulli",
        num_values: int | None = None,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        made = make_output(output, 1, num_values, 1e-3)
        if made.num_values is None:
            raise DataError(f"output: got {output!r}, expected 'bernoulli' or 'categorical'")
        super().__init__(num_features, made, order, missing, seed=seed)
        size, num_inputs, num_parameters = self.num_features, made.num_inputs, made.num_parameters
        spread = 1.0 / math.sqrt(size)
        self.input_weights = nn.Parameter(spread * torch.randn(size, num_inputs, num_hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(num_hidden))
        # small, so that a fit starts near independent variables
        self.output_weights = nn.Parameter(0.01 * torch.randn(size, num_parameters, num_hidden))
        self.bias = nn.Parameter(torch.zeros(size, num_parameters))

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Logits of all variables, ``(n, D, P)``."""
        W, V, b = self.input_weights, self.output_weights, self.bias
        if self.natural:
            return nade_conditionals(self.output.features(x), W, self.hidden_bias, V, b)
        order = self.orders[0]
        f = self.output.features(x[:, order])
        W, V, b = (weights.index_select(0, order) for weights in (W, V, b))
        return nade_conditionals(f, W, self.hidden_bias, V, b).index_select(1, self.places[0])

    def start(self, marginal: Tensor) -> None:
        """Give the outputs biases for these margins."""
        self.bias.copy_(marginal)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden layer that has seen all variables, ``(n, H)``."""
        seen = torch.einsum("nji,jih->nh", self.output.features(x), self.input_weights)
        return torch.sigmoid(self.hidden_bias + seen)

    def walk(self, num_rows: int, member: int = 0) -> _Walk:
        """Start with the hidden biases."""
        return _Walk(self, num_rows)


class _Walk:
    """Keeps the activations of the hidden layer and the layer, ``(n, H)``."""

    def __init__(self, model: NADE, num_rows: int) -> None:
        order = model.orders[0]
        self.W, self.features = model.input_weights[order].unbind(0), model.output.features
        self.V, self.b = model.output_weights[order].mT.unbind(0), model.bias[order].unbind(0)
        self.sums = model.hidden_bias.repeat(num_rows, 1)
        self.h = self.sums.sigmoid()

    def parameters(self, place: int) -> Tensor:
        return torch.addmm(self.b[place], self.h, self.V[place])

    def observe(self, place: int, value: Tensor) -> None:
        features = self.features(value)
        if value.is_cpu and features.shape[1] == 1:  # on a GPU, looking would cost more
            rows = value.nonzero()[:, 0]  # those with a 0 stay as they are
            if 4 * len(rows) < len(value):
                sums = self.sums.index_select(0, rows).add_(self.W[place])
                self.sums.index_copy_(0, rows, sums)
                self.h.index_copy_(0, rows, sums.sigmoid_())
                return
        self.sums.addmm_(features, self.W[place])
        torch.sigmoid(self.sums, out=self.h)

    def select(self, rows: Tensor) -> None:
        self.sums, self.h = self.sums[rows], self.h[rows]
