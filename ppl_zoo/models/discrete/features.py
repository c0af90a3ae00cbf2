"""Which column of a row is of what kind: read from a model's arguments, checked, and scored.

Bernoulli and categorical columns have tables, counts of a row share one table, numbers are
normal. ``feature_kinds`` has the kinds; ``ClassRows`` is the distribution of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete.feature_kinds import KINDS, SCORES, TABLES, Block, log_factorial

__all__ = ["Features"]


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
