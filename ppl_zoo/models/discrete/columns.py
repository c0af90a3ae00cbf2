"""Which column of a row is of what kind: read from a model's arguments, checked, and scored.

Bernoulli and categorical columns have tables, counts of a row share one table, numbers are
normal. ``feature_kinds`` has the kinds; ``ClassRows`` is the distribution of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.sparse import multiply, pick, weighted_logs

__all__ = ["KINDS", "SCORES", "TABLES", "Block", "ClassRows", "Features", "log_factorial"]


class Features:
    """Which column of a row is of what kind.

    Parameters
    ----------
    num_features
        Number of columns.
    kind
        One of `KINDS`, or one for each column.
    num_states
        Number of states of the categorical columns, or one for each of them.
    """

    def __init__(self, num_features: int, kind: Any, num_states: Any = None) -> None:
        if num_features < 1:
            raise DataError(f"num_features: got {num_features}, expected 1 or more")
        kinds = [kind] * num_features if isinstance(kind, str) else list(kind)
        unknown = [k for k in dict.fromkeys(kinds) if k not in KINDS]
        if unknown or len(kinds) != num_features:
            given = f"{unknown[0]!r}" if unknown else f"{len(kinds)} kinds"
            raise DataError(
                f"kind: got {given}, expected one of {', '.join(KINDS)}, or one for each of "
                f"{num_features} columns"
            )
        self.num_features = num_features
        states = self._states(kinds, num_states)
        groups: dict[tuple[str, int], list[int]] = {}
        for column, pair in enumerate(zip(kinds, states, strict=True)):
            groups.setdefault(pair, []).append(column)
        many = sum(k == "categorical" for k, _ in groups) > 1
        self.blocks = tuple(
            Block(
                k,
                TABLES.get(k, "numbers") + (f"_{n}" if many and k == "categorical" else ""),
                slice(None) if len(columns) == num_features else columns,
                len(columns),
                n,
            )
            for (k, n), columns in groups.items()
        )

    @staticmethod
    def _states(kinds: Sequence[str], num_states: Any) -> list[int]:
        wanted = kinds.count("categorical")
        if wanted and num_states is None:
            raise DataError("num_states: got None, expected the number of states of each column")
        many = [] if num_states is None else torch.as_tensor(num_states).flatten().tolist()
        many = many * wanted if len(many) == 1 else many
        if wanted and (len(many) != wanted or min(many) < 2):
            raise DataError(
                f"num_states: got {num_states}, expected 2 or more, or one for each of "
                f"{wanted} categorical columns"
            )
        own = iter(many)
        fixed = {"bernoulli": 2, "multinomial": 0, "gaussian": 0}
        return [int(next(own)) if k == "categorical" else fixed[k] for k in kinds]

    @property
    def counted(self) -> tuple[Block, ...]:
        """Blocks that have a table."""
        return tuple(b for b in self.blocks if b.kind != "gaussian")

    def block(self, kind: str) -> Block | None:
        """Return the first block of a kind."""
        return next((b for b in self.blocks if b.kind == kind), None)

    def scores(self, parts: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Log density of rows under every class.

        Parameters
        ----------
        parts
            Tables ``(..., C, d, K)`` and ``(..., C, d)``, and naturals, by name.
        x
            ``(..., num_features)``, NaN where missing; or sparse ``(n, num_features)``.

        Returns
        -------
        Tensor
            ``(..., C)``.
        """
        total: Any = 0.0
        for block in self.blocks:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            total = total + self.score(block, parts, own)
        return total

    def score(self, block: Block, parts: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Log density of the columns of one block, ``(..., C)``."""
        return SCORES[block.kind](x, parts, block)

    def log_repeats(self, x: Tensor) -> Tensor | None:
        """Sum of log x! over counts: the part of the density that no class changes, ``(...,)``."""
        block = self.block("multinomial")
        if block is None:
            return None
        if x.layout == torch.strided:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            return log_factorial(own).sum(-1)
        logs = torch.sparse_csr_tensor(
            x.crow_indices(), x.col_indices(), log_factorial(x.values()), x.shape
        )
        return logs @ torch.ones(x.shape[1], dtype=x.dtype, device=x.device)

    def check(self, x: Tensor) -> None:
        """Refuse values that a column cannot have.

        Raises
        ------
        DataError
            At the first one, with its place.
        """
        if x.layout != torch.strided:
            if len(self.blocks) > 1 or self.blocks[0].kind not in ("bernoulli", "multinomial"):
                raise DataError(
                    "x: got a sparse matrix, expected bernoulli or multinomial columns only"
                )
            self._demand(x.values(), self.blocks[0], None)
            return
        for block in self.blocks:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            self._demand(own, block, list(range(self.num_features)))

    def _demand(self, x: Tensor, block: Block, places: list[int] | None) -> None:
        if x.numel() == 0:
            return
        low, high = (float(v) for v in x.aminmax())  # NaN if there is one
        most = block.num_states - 1 if block.num_states else math.inf
        whole = not block.num_states or not x.is_floating_point() or bool((x == x.floor()).all())
        if block.kind != "gaussian" and low >= 0 and high <= most and high < math.inf and whole:
            return
        x = x if x.is_floating_point() else x.double()
        known = ~x.isnan()
        if block.num_states:
            states = (x == x.floor()) & (x >= 0) & (x < block.num_states)
            bad, wanted = known & ~states, f"0 to {block.num_states - 1}, or NaN if missing"
        elif block.kind == "multinomial":
            bad, wanted = ~known | x.isinf() | (x < 0), "counts of 0 or more, none missing"
        else:
            bad, wanted = x.isinf(), "finite numbers, or NaN if missing"
        if bool(bad.any()):
            where, value = bad.nonzero()[0].tolist(), x[bad][0].item()
            at = ""
            if places is not None:
                columns = places[block.columns] if isinstance(block.columns, slice) else None
                column = (columns or block.columns)[where[-1]]
                at = f" in row {where[0]}, column {column}"
            raise DataError(f"x: got {value:g}{at}, expected {wanted}")


# ---- The four kinds of columns, and how each scores rows under every class.

KINDS = ("bernoulli", "categorical", "multinomial", "gaussian")
#: how the table of a kind is called; numbers have none
TABLES = {"bernoulli": "rates", "categorical": "state_rates", "multinomial": "word_rates"}


@dataclass(frozen=True)
class Block:
    """Columns of one kind.

    Attributes
    ----------
    kind, table
        Its kind, and the name of its table (of its numbers' statistics).
    columns
        Where they are in a row.
    num_states
        States of each column; 0 for counts and numbers.
    """

    kind: str
    table: str
    columns: Any
    size: int
    num_states: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table of one class."""
        return (self.size, self.num_states) if self.num_states else (self.size,)


def _binary(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    table = parts[block.table]
    no, yes = table[..., 0], table[..., 1]
    if x.layout != torch.strided:
        # zeros are left out: all columns are "no" but for those that are stored
        ones = torch.ones(x.shape[1], dtype=table.dtype, device=x.device)
        return multiply(x, _log(yes) - _log(no)) + multiply(ones, _log(no))
    known = ~x.isnan()
    x = torch.where(known, x, 0.0).to(table.dtype)
    return weighted_logs(x, yes) + weighted_logs(known.to(x.dtype) - x, no)


def _states(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    known = ~x.isnan() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    chosen = pick(parts[block.table], torch.where(known, x, 0).long().unsqueeze(-2))
    return torch.where(known.unsqueeze(-2), chosen, 1.0).log().sum(-1)


def _counts(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    # a row's length is Poisson, so that the words are independent Poisson counts
    means = parts[block.table] * parts["log_length"].exp()
    return weighted_logs(x.to(means.dtype), means) + parts["minus_length"]


def _numbers(x: Tensor, parts: Mapping[str, Tensor], block: Block) -> Tensor:
    known = ~x.isnan()
    y = (torch.where(known, x, 0.0) - parts["centre"]) / parts["spread"]
    y = torch.where(known, y, 0.0).double()  # the squares of three terms cancel
    out = multiply(y, parts["linear"].double()) + multiply(
        -0.5 * y * y, parts["precisions"].double()
    )
    out = out + multiply(known.double(), parts["constant"].double())
    unit = (known * (parts["spread"].log() + 0.5 * math.log(2.0 * math.pi))).sum(-1)
    return (out - unit.unsqueeze(-1)).to(x.dtype)


def log_factorial(x: Tensor) -> Tensor:
    """Log x!, from a table where x are small whole numbers: lgamma is slow."""
    whole = x.int()
    if x.numel() > 1000 and bool((whole == x).all()) and (most := int(whole.max())) < 1000:
        table = torch.arange(1, most + 2, dtype=x.dtype, device=x.device).lgamma()
        return table[whole]
    return (x + 1.0).lgamma()


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


#: log density of the columns of one block under every class, ``(..., C)``
SCORES = {
    "bernoulli": _binary,
    "categorical": _states,
    "multinomial": _counts,
    "gaussian": _numbers,
}


# ---- A row whose columns are independent given its class: its density and its draws.


class ClassRows(TorchDistribution):
    """A row whose columns are independent given its class.

    Parameters
    ----------
    features
        What the columns are.
    parts
        Tables and naturals of all classes, as for ``Features.scores``.
    z
        The class of each row; None where there is one class only.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(
        self, features: Features, parts: Mapping[str, Tensor], z: Tensor | None = None
    ) -> None:
        self.features, self.parts, self.z = features, parts, z
        batch = [() if z is None else z.shape]
        for block in features.blocks:
            some = parts["linear" if block.kind == "gaussian" else block.table]
            batch.append(some.shape[: -2 - bool(block.num_states)])
        shape = torch.broadcast_shapes(*batch)
        super().__init__(shape, torch.Size([features.num_features]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClassRows:
        """Expand to a larger batch."""
        z = torch.zeros((), dtype=torch.long, device=self._device()) if self.z is None else self.z
        out = ClassRows(self.features, self.parts, z.expand(batch_shape))
        return out

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of rows ``(..., num_features)``."""
        scores = self.features.scores(self.parts, value)
        repeats = self.features.log_repeats(value)
        if repeats is not None:
            scores = scores - repeats.unsqueeze(-1)
        if self.z is None:
            return scores[..., 0]
        shape = torch.broadcast_shapes(scores.shape[:-1], self.z.shape)
        scores = scores.expand(*shape, scores.shape[-1])
        return scores.gather(-1, self.z.expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            z = torch.zeros(shape, dtype=torch.long, device=self._device())
            z = z if self.z is None else self.z.expand(shape)
            first = next(iter(self.parts.values()))
            x = first.new_empty(*shape, self.features.num_features)
            for block in self.features.blocks:
                x[..., block.columns] = _DRAWS[block.kind](self.parts, block, z).to(x.dtype)
            return x

    def _device(self) -> torch.device:
        return next(iter(self.parts.values())).device


def _of_class(table: Tensor, z: Tensor, ndim: int) -> Tensor:
    """Rows of a table ``(..., C, *)`` at classes z ``(...)``; ``ndim`` dimensions stay right."""
    shape, right = z.shape, table.shape[table.ndim - ndim :]
    table = table.expand(*shape, *table.shape[table.ndim - ndim - 1 :])
    index = z.reshape(*shape, 1, *[1] * ndim).expand(*shape, 1, *right)
    return table.gather(len(shape), index).squeeze(len(shape))


def _draw_states(parts: Mapping[str, Tensor], block: Block, z: Tensor) -> Tensor:
    p = _of_class(parts[block.table], z, 2)
    # inverse of the cumulative sum, for all at once
    u = torch.rand(*p.shape[:-1], 1, dtype=p.dtype, device=p.device)
    return (u * p.sum(-1, keepdim=True) >= p.cumsum(-1)).sum(-1).clamp_max(p.shape[-1] - 1)


def _draw_counts(parts: Mapping[str, Tensor], block: Block, z: Tensor) -> Tensor:
    return torch.poisson(_of_class(parts[block.table], z, 1) * parts["log_length"].exp())


def _draw_numbers(parts: Mapping[str, Tensor], block: Block, z: Tensor) -> Tensor:
    precision = _of_class(parts["precisions"], z, 1)
    mean = _of_class(parts["linear"], z, 1) / precision
    y = mean + torch.randn_like(mean) / precision.sqrt()
    return parts["centre"] + parts["spread"] * y


_DRAWS = {
    "bernoulli": _draw_states,
    "categorical": _draw_states,
    "multinomial": _draw_counts,
    "gaussian": _draw_numbers,
}
