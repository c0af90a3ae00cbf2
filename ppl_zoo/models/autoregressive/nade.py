"""Neural autoregressive distribution estimator: hidden units shared by all conditionals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.order import Order
from ppl_zoo.models.autoregressive.outputs import make_output

__all__ = ["NADE", "nade_conditionals"]

#: rows that share their products: the states of a block should stay in a core's cache
ROWS_PER_PRODUCT = 128
#: variables of a block: more of them waste arithmetic, fewer make thin matrices
VARIABLES_PER_BLOCK = 14
#: the number of states of a block is padded to a multiple of this
STATES_PER_PAD = 64
#: activations of hidden layers that are kept for the gradient; others are computed again
MAX_KEPT_ACTIVATIONS = 2**26


class NADE(AutoregressiveModel):
    """Neural autoregressive distribution estimator.

    Generative model, for each variable i in order::

        h[i] = sigmoid(hidden_bias + sum over j before i of input_weights[j] x[j])
        x[i] ~ Bernoulli(sigmoid(bias[i] + output_weights[i] . h[i]))

    The hidden layers share their weights, so that each is the one before and a rank-1 update:
    all conditionals take O(D H), as the sampling does. Gradients have an autograd function of
    their own, which does not keep D hidden layers.

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

    compiles = False  # the recursion has gradients of its own

    # below the others' rate a strong weight decay, where its path begins, holds both layers at 0
    default_solver = ("SVI", AutoregressiveModel.default_solver[1] | {"learning_rate": 5e-3})

    def __init__(
        self,
        num_features: int | Sequence[int],
        num_hidden: int,
        order: Order = None,
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

    def initialize_marginals(self, marginal: Tensor) -> None:
        """Start at biases for these marginals."""
        self.bias.copy_(marginal)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden layer given all variables, ``(n, H)``."""
        sums = torch.einsum("nji,jih->nh", self.output.features(x), self.input_weights)
        return torch.sigmoid(self.hidden_bias + sums)

    def sampler(self, num_rows: int, member: int = 0) -> _NADESampler:
        """Sampler that starts with the hidden biases."""
        return _NADESampler(self, num_rows)


class _NADESampler:
    """Sampler that caches the hidden layer and its activations, ``(n, H)``."""

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
        if value.is_cpu and features.shape[1] == 1:  # on a GPU, reading values would cost more
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


# ---- conditionals of NADE without D copies of the hidden layer ------------------------------
#
# The activation of hidden unit h before variable i is ``a_i = c + sum_{j < i} W_j f(x_j)``. It
# differs from the one before only where ``f(x_j)`` is not 0: a row of a binary image has a hidden
# layer, a state, for each of its white pixels and not for all pixels. The variables are taken a
# block at a time; within one, the states of all rows, however many each has, are the rows of one
# matrix, so that all that is done are products of matrices. Autograd on the definition would keep
# all D activations: gigabytes. In mixed precision the products are in the lower one, the sums
# over variables are not.


def nade_conditionals(f: Tensor, W: Tensor, c: Tensor, V: Tensor, b: Tensor) -> Tensor:
    """Parameters of every conditional, ``(n, D, P)``.

    Parameters
    ----------
    f
        Features of each variable, ``(n, D, I)``.
    W, c
        Input weights ``(D, I, H)`` and biases ``(H,)`` of the hidden units.
    V, b
        Output weights ``(D, P, H)`` and biases ``(D, P)``.
    """
    if f.requires_grad or _is_traced():
        return _autograd_conditionals(f, W, c, V, b)
    kind = f.device.type
    low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else f.dtype
    return _NADEFunction.apply(f, W, c, V, b, low)


def _is_traced() -> bool:
    """Whether make_fx traces the operations: shapes must then not depend on values."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def _autograd_conditionals(f: Tensor, W: Tensor, c: Tensor, V: Tensor, b: Tensor) -> Tensor:
    """Conditionals by plain differentiable operations, a block of variables at a time."""
    parts, a = [], c.expand(f.shape[0], -1)
    for first, end in _blocks(f.shape[1], f.dtype):
        own = torch.einsum("nji,jih->njh", f[:, first:end], W[first:end])
        before = F.pad(own[:, :-1].cumsum(1), (0, 0, 1, 0))
        h = torch.sigmoid(a.unsqueeze(1) + before)
        parts.append(torch.einsum("njh,jph->njp", h, V[first:end]) + b[first:end])
        a = a + own.sum(1)
    return torch.cat(parts, 1)


def _blocks(size: int, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Blocks of variables ``(first, end)``, twice as wide in a low precision."""
    width = VARIABLES_PER_BLOCK if dtype.itemsize > 2 else 2 * VARIABLES_PER_BLOCK
    return [(first, min(first + width, size)) for first in range(0, size, width)]


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    if out.dtype == left.dtype:
        out.addmm_(left, right)
    else:
        out.add_(left @ right)


class _States(NamedTuple):
    """Distinct hidden layers (states) of n rows in a block of B variables, S in all, by row."""

    row: Tensor  # (S,) row of a state
    starts: Tensor  # (n,) the first state of each row
    features: Tensor  # (S, B I) features of the block before a state
    place: Tensor  # (n B,) state times B plus variable, for each variable of each row

    @classmethod
    def of(cls, f: Tensor) -> _States:
        """States of ``f (n, B, I)``: a new one after each variable that is not 0."""
        width = f.shape[1]
        on = (f != 0).any(-1)
        before = on.cumsum(1) - on.long()  # changes of the hidden layer before a variable
        counts = before[:, -1] + 1
        starts = counts.cumsum(0) - counts
        row = torch.repeat_interleave(counts)
        age = torch.arange(len(row), device=f.device) - starts[row]
        # unused states: libraries prepare a product anew for each new shape
        row, age = (F.pad(t, (0, -len(row) % STATES_PER_PAD)) for t in (row, age))
        features = f[row] * (before[row] < age.unsqueeze(-1)).unsqueeze(-1)
        place = (starts.unsqueeze(-1) + before) * width + torch.arange(width, device=f.device)
        return cls(row, starts, features.flatten(1), place.flatten())


class _BlockRecursion(NamedTuple):
    """Forward and backward recursion over blocks of variables, of the activations of n rows."""

    f: Tensor
    W: Tensor
    V: Tensor
    steps: list[tuple[_States, Tensor]]  # states and their hidden layers (S, H), block by block

    @classmethod
    def forward(
        cls, f: Tensor, W: Tensor, c: Tensor, V: Tensor, out: Tensor | None = None
    ) -> _BlockRecursion:
        """Compute the states of all blocks; fill ``out (n, D, P)`` where it is given."""
        steps, a, low = [], c.expand(f.shape[0], -1), W.dtype
        for first, end in _blocks(f.shape[1], low):
            states = _States.of(f[:, first:end])
            w, v = W[first:end].flatten(0, 1), V[first:end].flatten(0, 1)
            h = a.to(low).index_select(0, states.row).addmm_(states.features, w).sigmoid_()
            if out is not None:
                every = (h @ v.T).view(-1, V.shape[1])
                part = out[:, first:end]
                part.copy_(every.index_select(0, states.place).view_as(part))
            steps.append((states, h))
            a = a + f[:, first:end].flatten(1) @ w
        return cls(f, W, V, steps)

    def backward(self, grad: Tensor, dW: Tensor, dV: Tensor) -> Tensor:
        """Add to ``dW`` and ``dV``; return the gradient of the first activations, ``(n, H)``."""
        f, W, V = self.f, self.W, self.V
        later = dW.new_zeros(f.shape[0], W.shape[2])  # gradient from later blocks
        blocks = _blocks(f.shape[1], f.dtype)
        for (first, end), (states, h) in zip(blocks[::-1], self.steps[::-1], strict=True):
            g = h.new_zeros(len(h) * (end - first), V.shape[1])
            g[states.place] = grad[:, first:end].flatten(0, 1).to(h.dtype)
            g = g.view(len(h), -1)
            _add_product(dV[first:end].flatten(0, 1), g.T, h)
            da = torch.ops.aten.sigmoid_backward(g @ V[first:end].flatten(0, 1), h)
            own = dW[first:end].flatten(0, 1)
            _add_product(own, states.features.T, da)
            _add_product(own, f[:, first:end].flatten(1).T, later.to(h.dtype))
            index = torch.arange(len(h), device=h.device)
            later += F.embedding_bag(index, da, states.starts, mode="sum")
        return later


class _NADEFunction(torch.autograd.Function):
    """Conditionals of NADE by the block recursion, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, f: Tensor, W: Tensor, c: Tensor, V: Tensor, b: Tensor, low: torch.dtype
    ) -> Tensor:
        out = f.new_empty(*f.shape[:2], V.shape[1])
        ctx.save_for_backward(f, W, c, V)
        ctx.low, ctx.recursions = low, []
        room = MAX_KEPT_ACTIVATIONS if any(ctx.needs_input_grad) else 0
        with torch.autocast(f.device.type, enabled=False):
            f, W, V = f.to(low), W.to(low), V.to(low)
            for rows, own in zip(
                f.split(ROWS_PER_PRODUCT), out.split(ROWS_PER_PRODUCT), strict=True
            ):
                recursion = _BlockRecursion.forward(rows, W, c, V, own)
                ctx.recursions.append(recursion if room > 0 else None)
                room -= sum(h.numel() for _, h in recursion.steps)
        return out.add_(b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        f, W, c, V = ctx.saved_tensors
        dW, dV, dc = torch.zeros_like(W), torch.zeros_like(V), torch.zeros_like(c)
        with torch.autocast(f.device.type, enabled=False):
            f, W, V = f.to(ctx.low), W.to(ctx.low), V.to(ctx.low)
            for rows, g, kept in zip(
                f.split(ROWS_PER_PRODUCT),
                grad.split(ROWS_PER_PRODUCT),
                ctx.recursions,
                strict=True,
            ):
                dc += (kept or _BlockRecursion.forward(rows, W, c, V)).backward(g, dW, dV).sum(0)
        return None, dW, dc, dV, grad.sum(0), None
