"""Real-valued NADE: neural autoregressive density estimation with mixture outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["RNADE"]


class RNADE(AutoregressiveModel):
    """Real-valued neural autoregressive density estimator.

    Generative model, for each variable i in order::

        h[i] = relu(rescale[i] (hidden_bias + sum over j before i of input_weights[j] x[j]))
        x[i] ~ sum over k of weight[i, k] Normal(mean[i, k], scale[i, k])

    All conditionals share the hidden weights; weights, means and scales of the components are
    linear in h[i], the former through a softmax, the scales above ``min_scale``, so that they
    differ from row to row (heteroscedastic). x is in units of the mean and sd of the data.
    With ``num_orders`` above 1 the model is the mixture, in equal parts, of as many such nets,
    each with its own order if these are random; a fit maximises the mean of their log
    likelihoods, a lower bound, so that each is fitted by itself.

    Parameters
    ----------
    num_features
        D, or the shape of a row.
    num_components
        K, components of each conditional.
    num_hidden
        H, hidden units.
    order
        None (natural), "random", or a permutation; with ``seed`` for random ones.
    num_orders
        Nets of the ensemble.
    output
        "normal", "laplace" or "logistic" components.
    min_scale
        Smallest scale, in units of the sd of x: data with ties have no bounded density without it.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.

    References
    ----------
    Uria, Murray & Larochelle (2013), RNADE: the real-valued neural autoregressive
    density-estimator, NeurIPS 26, https://arxiv.org/abs/1306.0186.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = torch.randn(200, 1) + 0.1 * torch.randn(200, 4)  # one number, measured four times
    >>> net = zoo.RNADE(num_features=4, num_components=2, num_hidden=20)
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20), progress=False)
    >>> net.log_prob(x).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([200]), torch.Size([5, 4]), torch.Size([200, 20]))
    """

    def __init__(
        self,
        num_features: int | Sequence[int],
        num_components: int = 10,
        num_hidden: int = 50,
        order: Order = None,
        *,
        num_orders: int = 1,
        output: str = "normal",
        min_scale: float = 1e-2,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        made = make_output(output, num_components, None, min_scale)
        if made.num_parameters != 3 * num_components:
            raise DataError(f"output: got {output!r}, expected 'normal', 'laplace' or 'logistic'")
        if num_orders < 1:
            raise DataError(f"num_orders: got {num_orders}, expected 1 or more")
        super().__init__(num_features, made, order, missing, num_orders, seed)
        size, nets = self.num_features, num_orders
        spread = 1.0 / math.sqrt(size)
        self.input_weights = nn.Parameter(spread * torch.randn(nets, size, num_hidden))
        self.hidden_bias = nn.Parameter(0.1 * torch.randn(nets, 1, num_hidden))
        # activations grow along the order: their scale is undone for each place
        rescale = 1.0 / torch.arange(1.0, size + 1.0).sqrt()[:, None]
        self.rescale = nn.Parameter(rescale.repeat(nets, 1, 1))
        self.output_weights = nn.Parameter(
            0.01 * torch.randn(nets, size, num_hidden, 3 * num_components)
        )
        self.bias = nn.Parameter(torch.zeros(nets, size, 1, 3 * num_components))

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Parameters of all mixtures of one net, ``(n, D, 3 K)``."""
        return self._net_parameters(x, slice(member, member + 1))[0]

    def _net_parameters(self, x: Tensor, nets: slice) -> Tensor:
        """Parameters of all mixtures of some nets, ``(nets, n, D, 3 K)``, in one pass.

        Everything is computed place by place, ``(nets, D, n, ...)``, and then put back.
        """
        orders, places = self.orders[nets], self.places[nets]
        which = torch.arange(len(orders), device=x.device)[:, None]
        W, V, b = (
            p[nets][which, orders] for p in (self.input_weights, self.output_weights, self.bias)
        )
        own = x.T[orders].unsqueeze(-1) * W.unsqueeze(2)
        before = F.pad(own[:, :-1].cumsum(1), (0, 0, 0, 0, 1, 0))
        h = torch.relu(
            self.rescale[nets].unsqueeze(2) * (self.hidden_bias[nets].unsqueeze(1) + before)
        )
        return (h @ V + b)[which, places].transpose(1, 2)

    def score(self, x: Tensor) -> Tensor:
        """Log probability of each row, in nats; where gradients are taken, the nets' mean."""
        if self.num_members == 1 or not torch.is_grad_enabled():
            return super().score(x)
        flat = self.standardise(x.reshape(-1, self.num_features))
        parameters = self._net_parameters(self.fill_missing(flat), slice(None))
        each = self.total_log_prob(parameters, flat)
        return each.mean(0).reshape(x.shape[: x.ndim - len(self.event_shape)])

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at biases for these marginals."""
        self.bias.copy_(marginal.unsqueeze(1))

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden layer of the first net given all variables, ``(n, H)``."""
        sums = (x[..., None] * self.input_weights[0]).sum(-2)
        return torch.relu(self.rescale[0, -1] * (self.hidden_bias[0] + sums))

    def sampler(self, num_rows: int, member: int = 0) -> _RNADESampler:
        """Sampler that starts with the hidden biases."""
        return _RNADESampler(self, num_rows, member)


class _RNADESampler:
    """Sampler that caches the sums of the hidden layer, ``(n, H)``."""

    def __init__(self, model: RNADE, num_rows: int, member: int) -> None:
        order = model.orders[member]
        self.W, self.rescale = model.input_weights[member, order], model.rescale[member]
        self.V, self.b = model.output_weights[member, order], model.bias[member, order, 0]
        self.sums = model.hidden_bias[member].repeat(num_rows, 1)

    def parameters(self, place: int) -> Tensor:
        h = torch.relu(self.rescale[place] * self.sums)
        return torch.addmm(self.b[place], h, self.V[place])

    def observe(self, place: int, value: Tensor) -> None:
        self.sums.addr_(value, self.W[place])

    def select(self, rows: Tensor) -> None:
        self.sums = self.sums[rows]
