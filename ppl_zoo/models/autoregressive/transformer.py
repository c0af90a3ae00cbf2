"""Autoregressive transformer: causal attention over the variables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["TransformerAR"]


class TransformerAR(AutoregressiveModel):
    """Autoregressive transformer.

    Generative model, for each place p of the order::

        h[p]  = decoder(embed(x at place q - 1) + position[q]   for each q up to p)
        x at place p ~ Output(parameters = linear(h[p]) + bias[p])

    Place p reads the variable at place p - 1 (nothing, at the first) and attends to the places up
    to its own. Layers are pre-normalised. Sampling caches keys and values of all layers, so that
    a variable takes one token's pass and not D.

    Parameters
    ----------
    num_features
        D, or the shape of an image.
    width
        Dimension of a token; divisible by ``num_heads``.
    num_heads, num_layers
        Heads of attention and layers.
    order
        None (natural), "random", or a permutation; with ``seed`` for a random one.
    output, num_values, num_components, min_scale
        As for `MADE`.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, NeurIPS 30,
    https://arxiv.org/abs/1706.03762. Parmar et al. (2018), Image transformer, ICML,
    https://arxiv.org/abs/1802.05751.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = zoo.data.load("digits", binarize=True).train
    >>> net = zoo.TransformerAR(num_features=64, width=16, num_heads=2, num_layers=1)
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20, batch_size=100), progress=False)
    >>> net.log_prob(x).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([1297]), torch.Size([5, 64]), torch.Size([1297, 16]))
    """

    def __init__(
        self,
        num_features: int | Sequence[int],
        width: int = 64,
        *,
        num_heads: int = 4,
        num_layers: int = 3,
        order: Order = None,
        output: str = "bernoulli",
        num_values: int | None = None,
        num_components: int = 1,
        min_scale: float = 1e-2,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        if num_heads < 1 or width < num_heads or width % num_heads:
            raise DataError(f"width: got {width}, expected a multiple of num_heads={num_heads}")
        made = make_output(output, num_components, num_values, min_scale)
        super().__init__(num_features, made, order, missing, seed=seed)
        size = self.num_features
        self.embed = nn.Linear(made.num_inputs, width)
        self.position = nn.Parameter(0.1 * torch.randn(size, width))
        self.blocks = nn.ModuleList(_Block(width, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, made.num_parameters, bias=False)
        self.bias = nn.Parameter(torch.zeros(size, made.num_parameters))

    def _tokens(self, x: Tensor) -> Tensor:
        """Hidden states of all places, ``(n, D, width)``."""
        placed = x if self.natural else x[:, self.orders[0]]
        values = self.embed(self.output.features(placed[:, :-1]))
        h = F.pad(values, (0, 0, 1, 0)) + self.position
        for block in self.blocks:
            h = block(h)
        return self.norm(h)

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Parameters of all conditionals, ``(n, D, P)``."""
        out = self.head(self._tokens(x))
        if not self.natural:
            out = out[:, self.places[0]]
        return out + self.bias

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at biases for these marginals, and small weights."""
        self.bias.copy_(marginal)
        self.head.weight.mul_(0.1)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden states, the mean over all places, ``(n, width)``."""
        return self._tokens(x).mean(1)

    def sampler(self, num_rows: int, member: int = 0) -> _TransformerSampler:
        """Sampler that starts with empty caches."""
        return _TransformerSampler(self, num_rows)


class _Block(nn.Module):
    """Pre-normalised transformer block: causal self-attention and a feed-forward net."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def heads(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make queries, keys and values, ``(n, heads, tokens, width / heads)`` each."""
        split = self.qkv(self.first(h)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        return q, k, v

    def finish(self, h: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output, then the feed-forward net's, to the residual stream."""
        h = h + self.out(attended.transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.second(h))))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.heads(h)
        return self.finish(h, F.scaled_dot_product_attention(q, k, v, is_causal=True))


class _TransformerSampler:
    """Sampler that caches keys and values of every layer, ``(n, heads, D, width / heads)``."""

    def __init__(self, model: TransformerAR, num_rows: int) -> None:
        self.model = model
        self.own = model.bias[model.orders[0]]
        width, size = model.position.shape[1], model.num_features
        self.value = model.position.new_zeros(num_rows, 1, width)
        self.cache = [
            model.position.new_zeros(2, num_rows, block.num_heads, size, width // block.num_heads)
            for block in model.blocks
        ]

    def parameters(self, place: int) -> Tensor:
        h = self.value + self.model.position[place]
        for block, cache in zip(self.model.blocks, self.cache, strict=True):
            q, k, v = block.heads(h)
            cache[:, :, :, place] = torch.stack([k[:, :, 0], v[:, :, 0]])
            keys, values = cache[:, :, :, : place + 1]
            h = block.finish(h, F.scaled_dot_product_attention(q, keys, values))
        return self.model.head(self.model.norm(h))[:, 0] + self.own[place]

    def observe(self, place: int, value: Tensor) -> None:
        self.value = self.model.embed(self.model.output.features(value)).unsqueeze(1)

    def select(self, rows: Tensor) -> None:
        self.value = self.value[rows]
        self.cache = [cache[:, rows] for cache in self.cache]
