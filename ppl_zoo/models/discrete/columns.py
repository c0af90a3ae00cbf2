"""Features of a row by column type, and their class-conditional distribution.

The column types are those of naive Bayes: Bernoulli and categorical columns have a probability
table each, the counts of a multinomial share one table, Gaussian columns have a mean and a
precision. Given the class, the columns are independent.
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

__all__ = ["ClassConditional", "Features"]

COLUMN_TYPES = ("bernoulli", "categorical", "multinomial", "gaussian")
#: name of the probability table of a column type; Gaussian columns have none
TABLE_NAMES = {"bernoulli": "rates", "categorical": "state_rates", "multinomial": "word_rates"}

MAX_TABULATED_COUNT = 1000  # log x! of smaller counts is read from a table


@dataclass(frozen=True)
class ColumnBlock:
    """Columns of one type.

    Attributes
    ----------
    column_type
        One of `COLUMN_TYPES`.
    table
        Name of its probability table; empty where it is Gaussian.
    columns
        Indices of the columns in a row.
    size
        Number of columns.
    num_states
        States of each column; 0 for counts and Gaussian columns.
    """

    column_type: str
    table: str
    columns: slice | list[int]
    size: int
    num_states: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the table of one class."""
        return (self.size, self.num_states) if self.num_states else (self.size,)


class Features:
    """Columns of a row, in blocks of one type.

    Parameters
    ----------
    num_features
        Number of columns.
    column_type
        One of `COLUMN_TYPES`, or one for each column.
    num_states
        Number of states of the categorical columns, or one for each of them.
    """

    def __init__(
        self, num_features: int, column_type: str | Sequence[str], num_states: Any = None
    ) -> None:
        if num_features < 1:
            raise DataError(f"num_features: got {num_features}, expected 1 or more")
        single = isinstance(column_type, str)
        types = [column_type] * num_features if single else list(column_type)
        unknown = [t for t in dict.fromkeys(types) if t not in COLUMN_TYPES]
        if unknown or len(types) != num_features:
            given = f"{unknown[0]!r}" if unknown else f"{len(types)} kinds"
            raise DataError(
                f"kind: got {given}, expected one of {', '.join(COLUMN_TYPES)}, or one for each "
                f"of {num_features} columns"
            )
        self.num_features = num_features
        states = self._read_states(types, num_states)
        groups: dict[tuple[str, int], list[int]] = {}
        for column, pair in enumerate(zip(types, states, strict=True)):
            groups.setdefault(pair, []).append(column)
        several = sum(t == "categorical" for t, _ in groups) > 1
        self.blocks = tuple(
            ColumnBlock(
                t,
                f"state_rates_{n}" if several and t == "categorical" else TABLE_NAMES.get(t, ""),
                slice(None) if len(columns) == num_features else columns,
                len(columns),
                n,
            )
            for (t, n), columns in groups.items()
        )

    @staticmethod
    def _read_states(types: Sequence[str], num_states: Any) -> list[int]:
        """Read the number of states of each column, 0 where it has none."""
        wanted = types.count("categorical")
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
        return [int(next(own)) if t == "categorical" else fixed[t] for t in types]

    @property
    def num_states(self) -> list[int]:
        """States of each column; 0 for counts and numbers."""
        out = torch.zeros(self.num_features, dtype=torch.int64)
        for block in self.blocks:
            out[block.columns] = block.num_states
        return out.tolist()

    @property
    def table_blocks(self) -> tuple[ColumnBlock, ...]:
        """Blocks that have a probability table."""
        return tuple(b for b in self.blocks if b.column_type != "gaussian")

    def block(self, column_type: str) -> ColumnBlock | None:
        """Return the first block of a type."""
        return next((b for b in self.blocks if b.column_type == column_type), None)

    def log_densities(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Log density of rows under every class, but for the factorials of counts.

        Parameters
        ----------
        parameters
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
            total = total + self.block_log_densities(block, parameters, own)
        return total

    def block_log_densities(
        self, block: ColumnBlock, parameters: Mapping[str, Tensor], x: Tensor
    ) -> Tensor:
        """Log density of the columns of one block under every class, ``(..., C)``."""
        return _LOG_DENSITIES[block.column_type](x, parameters, block)

    def log_factorials(self, x: Tensor) -> Tensor | None:
        """Sum of log x! over counts: the part of the density that no class changes, ``(...,)``."""
        block = self.block("multinomial")
        if block is None:
            return None
        if x.layout == torch.strided:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            return _log_factorial(own).sum(-1)
        logs = torch.sparse_csr_tensor(
            x.crow_indices(), x.col_indices(), _log_factorial(x.values()), x.shape
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
            first = self.blocks[0]
            if len(self.blocks) > 1 or first.column_type not in ("bernoulli", "multinomial"):
                raise DataError(
                    "x: got a sparse matrix, expected bernoulli or multinomial columns only"
                )
            self._check_block(x.values(), first, None)
            return
        for block in self.blocks:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            self._check_block(own, block, list(range(self.num_features)))

    def _check_block(self, x: Tensor, block: ColumnBlock, positions: list[int] | None) -> None:
        """Check one block; ``positions`` are the columns of a row, None for a sparse one's."""
        if x.numel() == 0:
            return
        low, high = (float(v) for v in x.aminmax())  # NaN if there is one
        most = block.num_states - 1 if block.num_states else math.inf
        integer = not block.num_states or not x.is_floating_point() or bool((x == x.floor()).all())
        discrete = block.column_type != "gaussian"
        if discrete and low >= 0 and high <= most and high < math.inf and integer:
            return
        x = x if x.is_floating_point() else x.double()
        known = ~x.isnan()
        if block.num_states:
            states = (x == x.floor()) & (x >= 0) & (x < block.num_states)
            bad, wanted = known & ~states, f"0 to {block.num_states - 1}, or NaN if missing"
        elif block.column_type == "multinomial":
            bad, wanted = ~known | x.isinf() | (x < 0), "counts of 0 or more, none missing"
        else:
            bad, wanted = x.isinf(), "finite numbers, or NaN if missing"
        if bool(bad.any()):
            where, value = bad.nonzero()[0].tolist(), x[bad][0].item()
            at = ""
            if positions is not None:
                columns = positions[block.columns] if isinstance(block.columns, slice) else None
                column = (columns or block.columns)[where[-1]]
                at = f" in row {where[0]}, column {column}"
            raise DataError(f"x: got {value:g}{at}, expected {wanted}")


class ClassConditional(TorchDistribution):
    """Class-conditional distribution of rows: columns are independent given the class.

    Parameters
    ----------
    features
        Types of the columns.
    parameters
        Tables and naturals of all classes, as for ``Features.log_densities``.
    z
        The class of each row; None where there is one class only.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(
        self, features: Features, parameters: Mapping[str, Tensor], z: Tensor | None = None
    ) -> None:
        self.features, self.parameters, self.z = features, parameters, z
        batch = [() if z is None else z.shape]
        for block in features.blocks:
            some = parameters["linear" if block.column_type == "gaussian" else block.table]
            batch.append(some.shape[: -2 - bool(block.num_states)])
        shape = torch.broadcast_shapes(*batch)
        super().__init__(shape, torch.Size([features.num_features]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ClassConditional:
        """Expand to a larger batch."""
        z = torch.zeros((), dtype=torch.long, device=self._device()) if self.z is None else self.z
        return ClassConditional(self.features, self.parameters, z.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of rows ``(..., num_features)``."""
        by_class = self.features.log_densities(self.parameters, value)
        factorials = self.features.log_factorials(value)
        if factorials is not None:
            by_class = by_class - factorials.unsqueeze(-1)
        if self.z is None:
            return by_class[..., 0]
        shape = torch.broadcast_shapes(by_class.shape[:-1], self.z.shape)
        by_class = by_class.expand(*shape, by_class.shape[-1])
        return by_class.gather(-1, self.z.expand(shape).unsqueeze(-1)).squeeze(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw rows."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.batch_shape
            z = torch.zeros(shape, dtype=torch.long, device=self._device())
            z = z if self.z is None else self.z.expand(shape)
            first = next(iter(self.parameters.values()))
            x = first.new_empty(*shape, self.features.num_features)
            for block in self.features.blocks:
                x[..., block.columns] = _SAMPLERS[block.column_type](self.parameters, block, z).to(
                    x.dtype
                )
            return x

    def _device(self) -> torch.device:
        return next(iter(self.parameters.values())).device


# ---- densities of the column types -------------------------------------------------------------


def _bernoulli(x: Tensor, parameters: Mapping[str, Tensor], block: ColumnBlock) -> Tensor:
    """Log density of binary columns, which may be sparse."""
    table = parameters[block.table]
    no, yes = table[..., 0], table[..., 1]
    if x.layout != torch.strided:
        # zeros are not stored: the density of "no" everywhere, corrected where "yes" is stored
        ones = torch.ones(x.shape[1], dtype=table.dtype, device=x.device)
        return multiply(x, _log(yes) - _log(no)) + multiply(ones, _log(no))
    known = ~x.isnan()
    x = torch.where(known, x, 0.0).to(table.dtype)
    return weighted_logs(x, yes) + weighted_logs(known.to(x.dtype) - x, no)


def _categorical(x: Tensor, parameters: Mapping[str, Tensor], block: ColumnBlock) -> Tensor:
    """Log density of categorical columns."""
    known = ~x.isnan() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)
    chosen = pick(parameters[block.table], torch.where(known, x, 0).long().unsqueeze(-2))
    return torch.where(known.unsqueeze(-2), chosen, 1.0).log().sum(-1)


def _multinomial(x: Tensor, parameters: Mapping[str, Tensor], block: ColumnBlock) -> Tensor:
    """Log density of counts: a row's length is Poisson, hence each count is, independently."""
    means = parameters[block.table] * parameters["log_length"].exp()
    return weighted_logs(x.to(means.dtype), means) + parameters["minus_length"]


def _gaussian(x: Tensor, parameters: Mapping[str, Tensor], block: ColumnBlock) -> Tensor:
    """Log density of Gaussian columns, from natural parameters in standardised units."""
    known = ~x.isnan()
    y = (torch.where(known, x, 0.0) - parameters["centre"]) / parameters["spread"]
    y = torch.where(known, y, 0.0).double()  # the squares of three terms cancel
    out = multiply(y, parameters["linear"].double()) + multiply(
        -0.5 * y * y, parameters["precisions"].double()
    )
    out = out + multiply(known.double(), parameters["constant"].double())
    unit = (known * (parameters["spread"].log() + 0.5 * math.log(2.0 * math.pi))).sum(-1)
    return (out - unit.unsqueeze(-1)).to(x.dtype)


def _log_factorial(x: Tensor) -> Tensor:
    """Log x!, from a table where x are small integers: lgamma is slow."""
    integers = x.int()
    # a table pays where there are more values than it has cells
    small = x.numel() > MAX_TABULATED_COUNT and bool((integers == x).all())
    if small and (most := int(integers.max())) < MAX_TABULATED_COUNT:
        table = torch.arange(1, most + 2, dtype=x.dtype, device=x.device).lgamma()
        return table[integers]
    return (x + 1.0).lgamma()


def _log(p: Tensor) -> Tensor:
    """Logarithm, finite at 0."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


#: log density of the columns of one block under every class, ``(..., C)``
_LOG_DENSITIES = {
    "bernoulli": _bernoulli,
    "categorical": _categorical,
    "multinomial": _multinomial,
    "gaussian": _gaussian,
}


# ---- draws of the column types -----------------------------------------------------------------


def _of_class(table: Tensor, z: Tensor, ndim: int) -> Tensor:
    """Select classes z ``(...)`` of a table ``(..., C, *)``; ``ndim`` dimensions follow C."""
    shape, right = z.shape, table.shape[table.ndim - ndim :]
    table = table.expand(*shape, *table.shape[table.ndim - ndim - 1 :])
    index = z.reshape(*shape, 1, *[1] * ndim).expand(*shape, 1, *right)
    return table.gather(len(shape), index).squeeze(len(shape))


def _sample_states(parameters: Mapping[str, Tensor], block: ColumnBlock, z: Tensor) -> Tensor:
    """Draw categorical columns, by the inverse of the cumulative sum, all at once."""
    p = _of_class(parameters[block.table], z, 2)
    u = torch.rand(*p.shape[:-1], 1, dtype=p.dtype, device=p.device)
    return (u * p.sum(-1, keepdim=True) >= p.cumsum(-1)).sum(-1).clamp_max(p.shape[-1] - 1)


def _sample_counts(parameters: Mapping[str, Tensor], block: ColumnBlock, z: Tensor) -> Tensor:
    """Draw counts."""
    return torch.poisson(_of_class(parameters[block.table], z, 1) * parameters["log_length"].exp())


def _sample_gaussian(parameters: Mapping[str, Tensor], block: ColumnBlock, z: Tensor) -> Tensor:
    """Draw Gaussian columns."""
    precision = _of_class(parameters["precisions"], z, 1)
    mean = _of_class(parameters["linear"], z, 1) / precision
    y = mean + torch.randn_like(mean) / precision.sqrt()
    return parameters["centre"] + parameters["spread"] * y


_SAMPLERS = {
    "bernoulli": _sample_states,
    "categorical": _sample_states,
    "multinomial": _sample_counts,
    "gaussian": _sample_gaussian,
}
