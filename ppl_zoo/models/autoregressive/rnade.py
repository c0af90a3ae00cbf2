"""RNADE: neural autoregressive estimation of real vectors, by mixture density outputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["RNADE"]


class RNADE(AutoregressiveModel):
    """Real-valued neural autoregressive density estimator.

    For each variable i, in order, with hidden weights that all conditionals share::

        h[i] = relu(rescale[i] (hidden_bias + sum over j before i of input_weights[j] x[j]))
        x[i] ~ sum over k of weight[i, k] Normal(mean[i, k], scale[i, k])

    where weights, means and scales are linear in h[i], the former through a softmax, the scales
    above ``min_scale``: they differ from row to row (heteroscedastic). Standardise the data.

    Parameters
    ----------
    num_features
        D, or the shape of a row.
    num_components
        K, components of each conditional.
    num_hidden
        H, hidden units.
    order
        None (natural), "random", or a permutation; with ``seed`` for a random one.
    output
        "normal", "laplace" or "logistic" components.
    min_scale
        Smallest scale, in units of x: data with ties have no bounded density without it.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.

    References
    ----------
    Uria, Murray & Larochelle (2013), RNADE: the real-valued neural autoregressive
    density-estimator, NeurIPS 26, https://arxiv.org/abs/1306.0186.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(200, 1) + 0.1 * torch.randn(200, 4)  # four noisy looks at one number
    >>> net = zoo.RNADE(num_features=4, num_components=2, num_hidden=20)
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20), progress=False)
    >>> net.log_prob(x).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([200]), torch.Size([5, 4]), torch.Size([200, 20]))
    """

    def __init__(
        self,
        num_features: Any,
        num_components: int = 10,
        num_hidden: int = 50,
        order: Any = None,
        *,
        output: str = "normal",
        min_scale: float = 1e-2,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        made = make_output(output, num_components, None, min_scale)
        if made.num_parameters != 3 * num_components:
            raise DataError(f"output: got {output!r}, expected 'normal', 'laplace' or 'logistic'")
        super().__init__(num_features, made, order, missing, seed=seed)
        size = self.num_features
        spread = 1.0 / math.sqrt(size)
        self.input_weights = nn.Parameter(spread * torch.randn(size, num_hidden))
        self.hidden_bias = nn.Parameter(0.1 * torch.randn(num_hidden))
        # activations add up along the order: their scale is undone for each place
        self.rescale = nn.Parameter(1.0 / torch.arange(1.0, size + 1.0).sqrt()[:, None])
        self.output_weights = nn.Parameter(
            0.01 * torch.randn(size, 3 * num_components, num_hidden)
        )
        self.bias = nn.Parameter(torch.zeros(size, 3 * num_components))

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Parameters of all mixtures, ``(n, D, 3 K)``."""
        order = self.orders[0]
        own = x[:, order, None] * self.input_weights[order]
        before = F.pad(own[:, :-1].cumsum(1), (0, 0, 1, 0))
        h = torch.relu(self.rescale * (self.hidden_bias + before))
        out = torch.einsum("njh,jph->njp", h, self.output_weights[order]) + self.bias[order]
        return out[:, self.places[0]]

    def start(self, marginal: Tensor) -> None:
        """Give the outputs biases for these margins."""
        self.bias.copy_(marginal)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden layer that has seen all variables, ``(n, H)``."""
        seen = (x[..., None] * self.input_weights).sum(-2)
        return torch.relu(self.rescale[-1] * (self.hidden_bias + seen))

    def walk(self, num_rows: int, member: int = 0) -> _Walk:
        """Start with the hidden biases."""
        return _Walk(self, num_rows)


class _Walk:
    """Keeps the sums of the hidden layer, ``(n, H)``."""

    def __init__(self, model: RNADE, num_rows: int) -> None:
        order = model.orders[0]
        self.W, self.rescale = model.input_weights[order], model.rescale
        self.V, self.b = model.output_weights[order], model.bias[order]
        self.sums = model.hidden_bias.repeat(num_rows, 1)

    def parameters(self, place: int) -> Tensor:
        h = torch.relu(self.rescale[place] * self.sums)
        return torch.addmm(self.b[place], h, self.V[place].T)

    def observe(self, place: int, value: Tensor) -> None:
        self.sums.addr_(value, self.W[place])

    def select(self, rows: Tensor) -> None:
        self.sums = self.sums[rows]
