"""Autoregressive recurrent net: an LSTM or GRU over pixels or rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.masks import degree_mask, masked_linear
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["RecurrentAR"]


class RecurrentAR(AutoregressiveModel):
    """Autoregressive recurrent net.

    Generative model, for each block t of variables in order, and each variable i of the block::

        h[t]  = cell(h[t - 1], x of block t - 1)                 h[0] from zeros
        x[i] ~ Output(parameters = linear_i(h[t]) + linear_i(x before i in block t))

    The variables are read ``block`` at a time (1: pixels; the width of an image: rows).

    Parameters
    ----------
    num_features
        D, or the shape of an image.
    num_hidden
        H, units of each layer.
    cell
        "lstm" or "gru".
    num_layers
        Layers of the recurrent net.
    block
        Variables that are read at a time; divides D.
    order
        None (natural), "random", or a permutation; with ``seed`` for a random one.
    output, num_values, num_components, min_scale
        As for `MADE`.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.

    References
    ----------
    Graves (2013), Generating sequences with recurrent neural networks,
    https://arxiv.org/abs/1308.0850. van den Oord, Kalchbrenner & Kavukcuoglu (2016), Pixel
    recurrent neural networks, https://arxiv.org/abs/1601.06759.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = zoo.data.load("digits", binarize=True).train
    >>> net = zoo.RecurrentAR(num_features=64, num_hidden=50, block=8)
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20, batch_size=100), progress=False)
    >>> net.log_prob(x).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([1297]), torch.Size([5, 64]), torch.Size([1297, 50]))
    """

    compiles = False  # torch's recurrent kernels are one operation; a graph would unroll them

    def __init__(
        self,
        num_features: int | Sequence[int],
        num_hidden: int = 128,
        cell: str = "lstm",
        *,
        num_layers: int = 1,
        block: int = 1,
        order: Order = None,
        output: str = "bernoulli",
        num_values: int | None = None,
        num_components: int = 1,
        min_scale: float = 1e-2,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        made = make_output(output, num_components, num_values, min_scale)
        super().__init__(num_features, made, order, missing, seed=seed)
        cells = {"lstm": nn.LSTM, "gru": nn.GRU}
        if cell not in cells:
            raise DataError(f"cell: got {cell!r}, expected 'lstm' or 'gru'")
        if block < 1 or self.num_features % block:
            raise DataError(f"block: got {block}, expected a divisor of {self.num_features}")
        self.block = block
        inputs, outputs = block * made.num_inputs, block * made.num_parameters
        self.cell = cells[cell](inputs, num_hidden, num_layers, batch_first=True)
        self.head = nn.Linear(num_hidden, outputs, bias=False)
        self.within = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(self.num_features, made.num_parameters))
        place = torch.arange(block)
        mask = degree_mask(
            place.repeat_interleave(made.num_parameters),
            place.repeat_interleave(made.num_inputs),
            strict=True,
        )
        self.register_buffer("mask", mask, persistent=False)

    def _blocks(self, x: Tensor) -> Tensor:
        """Features by block of variables, ``(n, D / block, block * I)``, in order."""
        features = self.output.features(x if self.natural else x[:, self.orders[0]])
        return features.unflatten(1, (-1, self.block)).flatten(2)

    def _states(self, blocks: Tensor) -> Tensor:
        """States after each block, ``(n, D / block, H)``."""
        # in mixed precision too: many CPUs have no recurrent cell in a lower one
        with torch.autocast("cpu", enabled=False):
            return self.cell(blocks)[0]

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Parameters of all conditionals, ``(n, D, P)``."""
        blocks = self._blocks(x)
        before = torch.cat([torch.zeros_like(blocks[:, :1]), blocks[:, :-1]], 1)
        h = self._states(before)
        out = self.head(h) + masked_linear(blocks, self.within, self.mask)
        out = out.unflatten(-1, (self.block, -1)).flatten(1, 2)
        if not self.natural:
            out = out[:, self.places[0]]
        return out + self.bias

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at biases for these marginals, and small weights."""
        self.bias.copy_(marginal)
        self.head.weight.mul_(0.1)

    def hidden(self, x: Tensor) -> Tensor:
        """State after all variables, ``(n, H)``."""
        return self._states(self._blocks(x))[:, -1]

    def sampler(self, num_rows: int, member: int = 0) -> _RecurrentSampler:
        """Sampler that starts with a block of zeros."""
        return _RecurrentSampler(self, num_rows)


class _RecurrentSampler:
    """Sampler that caches the state of the recurrent net and the block that is being drawn."""

    def __init__(self, model: RecurrentAR, num_rows: int) -> None:
        self.model, self.state = model, None
        self.own = model.bias[model.orders[0]]
        self.weights = model.within * model.mask
        self.block_inputs = model.bias.new_zeros(num_rows, self.weights.shape[1])
        self.out = self.block_inputs

    def parameters(self, place: int) -> Tensor:
        model, at = self.model, place % self.model.block
        if at == 0:
            h, self.state = model.cell(self.block_inputs.unsqueeze(1), self.state)
            self.out = model.head(h[:, 0])
            self.block_inputs = torch.zeros_like(self.block_inputs)
        per = model.output.num_parameters
        rows = slice(at * per, (at + 1) * per)
        out = self.out[:, rows] + self.own[place]
        return out if at == 0 else torch.addmm(out, self.block_inputs, self.weights[rows].T)

    def observe(self, place: int, value: Tensor) -> None:
        at, per = place % self.model.block, self.model.output.num_inputs
        self.block_inputs[:, at * per : (at + 1) * per] = self.model.output.features(value)

    def select(self, rows: Tensor) -> None:
        self.block_inputs, self.out = self.block_inputs[rows], self.out[rows]
        if isinstance(self.state, tuple):
            self.state = tuple(s[:, rows] for s in self.state)
        else:
            self.state = self.state[:, rows]
