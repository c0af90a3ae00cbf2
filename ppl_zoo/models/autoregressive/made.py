"""Masked autoencoder for distribution estimation (MADE)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.masks import degree_mask, masked_linear
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["MADE"]


class MADE(AutoregressiveModel):
    """Masked autoencoder for distribution estimation.

    Generative model, for each variable i in order::

        x[i] ~ Output(parameters = net_i(x[j] for j before i))

    in one pass of a masked net: every hidden unit has a degree, the number of variables that it
    may depend on, and sees only units of its own degree or less. With ``num_masks`` above 1 one
    net holds as many members of different degrees (and orders, if these are random). The model is
    then their mixture in equal parts: density and samples are those of the mixture, exactly. A
    step of a fit scores one member, drawn anew: a lower bound in expectation, as in the paper.

    Parameters
    ----------
    num_features
        D, or the shape of an image.
    hidden
        Units of each hidden layer; none makes a linear net.
    order
        None (natural), "random", or a permutation.
    output, num_values, num_components, min_scale
        "bernoulli"; "categorical" of ``num_values``; for real data a mixture of
        ``num_components`` "normal", "laplace" or "logistic", scales above ``min_scale``;
        "logistic" with ``num_values`` for levels 0, 1, ....
    num_masks
        Members of the ensemble.
    direct
        Whether outputs see earlier variables directly, too.
    missing
        Whether NaN in x means "not observed"; such variables have to be the last of the order.
    seed
        Of random orders and degrees.

    References
    ----------
    Germain, Gregor, Murray & Larochelle (2015), MADE: masked autoencoder for distribution
    estimation, ICML, https://arxiv.org/abs/1502.03509.

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = zoo.data.load("digits", binarize=True).train
    >>> net = zoo.MADE(num_features=64, hidden=[100])
    >>> fit = zoo.fit(net, x, zoo.SVI(steps=20, batch_size=100), progress=False)
    >>> net.log_prob(x).shape, net.sample(5).shape, net.encode(x).shape
    (torch.Size([1297]), torch.Size([5, 64]), torch.Size([1297, 100]))
    """

    def __init__(
        self,
        num_features: int | Sequence[int],
        hidden: Sequence[int] = (500,),
        order: Order = None,
        *,
        output: str = "bernoulli",
        num_values: int | None = None,
        num_components: int = 1,
        min_scale: float = 1e-2,
        num_masks: int = 1,
        direct: bool = True,
        missing: bool = False,
        seed: int = 0,
    ) -> None:
        if num_masks < 1 or not all(width > 0 for width in hidden):
            raise DataError(
                f"MADE: got hidden={hidden}, num_masks={num_masks}, expected positive numbers"
            )
        made = make_output(output, num_components, num_values, min_scale)
        super().__init__(num_features, made, order, missing, num_masks, seed)
        inputs, outputs = made.num_inputs * self.num_features, made.num_parameters
        widths = [inputs, *hidden]
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )
        # small, so that a fit starts near independent variables
        self.last = nn.Parameter(
            0.1 / math.sqrt(widths[-1]) * torch.randn(self.num_features * outputs, widths[-1])
        )
        self.bias = nn.Parameter(torch.zeros(self.num_features * outputs))
        self.direct = (
            nn.Parameter(torch.zeros(self.num_features * outputs, inputs))
            if direct and hidden
            else None
        )
        generator = torch.Generator().manual_seed(seed)
        for index, width in enumerate(hidden):
            degrees = [self._degrees(width, k, generator) for k in range(num_masks)]
            self.register_buffer(f"degrees_{index}", torch.stack(degrees), persistent=False)

    def _degrees(self, width: int, member: int, generator: torch.Generator) -> Tensor:
        """Spread the degrees 1, ..., D - 1 evenly over a layer; the first member's are sorted."""
        most = max(1, self.num_features - 1)
        degrees = 1 + torch.arange(width) * most // width
        return degrees if member == 0 else degrees[torch.randperm(width, generator=generator)]

    def _all_degrees(self, member: int | Tensor) -> tuple[list[Tensor], Tensor]:
        """Degrees of inputs and hidden layers, and of outputs, of one member."""
        own = _take(self.places, member) + 1
        inputs = own.repeat_interleave(self.output.num_inputs)
        tables = [getattr(self, f"degrees_{i}") for i in range(len(self.layers))]
        hidden = [_take(table, member) for table in tables]
        return [inputs, *hidden], own.repeat_interleave(self.output.num_parameters)

    @torch.no_grad()
    def prune(self) -> None:
        """Set weights to 0 that are masked in all members: nothing depends on them."""
        weights = [*(layer.weight for layer in self.layers), self.last]
        weights += [] if self.direct is None else [self.direct]
        used = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
        for member in range(self.num_members):
            degrees, outputs = self._all_degrees(member)
            masks = [
                degree_mask(own, before) for before, own in zip(degrees, degrees[1:], strict=False)
            ]
            masks += [
                degree_mask(outputs, before, strict=True) for before in (degrees[-1], degrees[0])
            ]
            used = [a | b for a, b in zip(used, masks, strict=False)]  # the last: direct
        for weight, mask in zip(weights, used, strict=True):
            weight.masked_fill_(~mask, 0.0)

    # ---- scoring ----------------------------------------------------------------------------

    def score(self, x: Tensor) -> Tensor:
        """Log probability of each row, in nats; where gradients are taken, of a random member."""
        if self.num_members == 1 or not torch.is_grad_enabled():
            return super().score(x)
        member = torch.randint(self.num_members, (), device=x.device)
        flat = x.reshape(-1, self.num_features)
        return self.score_member(flat, member).reshape(x.shape[: x.ndim - len(self.event_shape)])

    def conditionals(self, x: Tensor, member: int | Tensor = 0) -> Tensor:
        """Parameters of all conditionals of one member, ``(n, D, P)``."""
        degrees, outputs = self._all_degrees(member)
        features = self.output.features(x).flatten(1)
        h = self._features(features, degrees)
        mask = degree_mask(outputs, degrees[-1], strict=True)
        out = masked_linear(h, self.last, mask, self.bias)
        if self.direct is not None:
            mask = degree_mask(outputs, degrees[0], strict=True)
            out = out + masked_linear(features, self.direct, mask)
        return out.unflatten(-1, (self.num_features, self.output.num_parameters))

    def _features(self, h: Tensor, degrees: list[Tensor]) -> Tensor:
        for layer, before, own in zip(self.layers, degrees, degrees[1:], strict=False):
            h = F.relu(masked_linear(h, layer.weight, degree_mask(own, before), layer.bias))
        return h

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at biases for these marginals."""
        self.bias.copy_(marginal.flatten())

    def hidden(self, x: Tensor) -> Tensor:
        """Last hidden layer ``(n, H)``, of the first member."""
        return self._features(self.output.features(x).flatten(1), self._all_degrees(0)[0])

    def sampler(self, num_rows: int, member: int = 0) -> _MADESampler:
        """Sampler that starts with the biases only."""
        return _MADESampler(self, num_rows, member)


def _take(table: Tensor, index: int | Tensor) -> Tensor:
    """Take a row by a number, or by a tensor without reading its value (a GPU would wait)."""
    if not isinstance(index, Tensor):
        return table[index]
    return table.index_select(0, index.reshape(1))[0]


class _MADESampler:
    """Sampler that caches all layers, ``(units, n)`` by degree; each unit is computed once.

    A unit of degree d can be computed when d variables are known; at that time those it may not
    see are still 0, so that the masks need not be applied.
    """

    def __init__(self, model: MADE, num_rows: int, member: int) -> None:
        degrees, outputs = model._all_degrees(member)
        # stable: the inputs of one variable, and the outputs, keep their order
        sort = [d.argsort(stable=True) for d in degrees]
        last = outputs.argsort(stable=True)
        self.per, self.num_inputs = model.output.num_parameters, model.output.num_inputs
        self.features = model.output.features
        self.weights = [
            layer.weight[own][:, before]
            for layer, before, own in zip(model.layers, sort, sort[1:], strict=False)
        ]
        self.biases = [
            layer.bias[own, None] for layer, own in zip(model.layers, sort[1:], strict=True)
        ]
        self.last, self.bias = model.last[last][:, sort[-1]], model.bias[last, None]
        self.direct = None if model.direct is None else model.direct[last][:, sort[0]]
        places = torch.arange(model.num_features + 2, device=model.device)
        self.ends = [torch.searchsorted(d.sort().values, places).tolist() for d in degrees]
        self.units = [model.bias.new_zeros(len(d), num_rows) for d in degrees]

    def parameters(self, place: int) -> Tensor:
        rows = slice(place * self.per, (place + 1) * self.per)
        known = self.ends[-1][place + 1]
        out = torch.addmm(self.bias[rows], self.last[rows, :known], self.units[-1][:known])
        if self.direct is not None and place:
            known = self.ends[0][place + 1]
            out.addmm_(self.direct[rows, :known], self.units[0][:known])
        return out.T

    def observe(self, place: int, value: Tensor) -> None:
        degree = place + 1
        start = place * self.num_inputs
        self.units[0][start : start + self.num_inputs] = self.features(value).T
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), 1):
            first, end = self.ends[layer][degree], self.ends[layer][degree + 1]
            if first == end:
                continue
            known = self.ends[layer - 1][degree + 1]
            sums = torch.addmm(
                bias[first:end], weight[first:end, :known], self.units[layer - 1][:known]
            )
            torch.relu_(sums)
            self.units[layer][first:end] = sums

    def select(self, rows: Tensor) -> None:
        self.units = [unit[:, rows] for unit in self.units]
