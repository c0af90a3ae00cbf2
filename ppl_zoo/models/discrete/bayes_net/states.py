"""State space of a Bayesian network: names of nodes and states, and their integer codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.categories import Categories, named_columns, read_state_names
from ppl_zoo.core.errors import DataError
from ppl_zoo.core.options import did_you_mean

__all__ = ["StateSpace", "as_array", "read_states"]


class StateSpace:
    """State space of named nodes; reads rows and evidence as integers, -1 where unobserved.

    Parameters
    ----------
    states
        ``{node: names of its states}``, in the order of the columns.
    """

    def __init__(self, states: Mapping[str, Sequence[str]]) -> None:
        self.states = {node: tuple(names) for node, names in states.items()}
        self.nodes = tuple(self.states)
        self.sizes = tuple(len(names) for names in self.states.values())
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.categories = {n: Categories(n, names) for n, names in self.states.items()}
        self.offsets = [sum(self.sizes[:i]) for i in range(len(self.sizes) + 1)]

    def as_given(self) -> dict[str, int | list[str]]:
        """States of each node as names, or as their number where names are codes."""
        return {
            node: len(names) if self.categories[node].are_codes else list(names)
            for node, names in self.states.items()
        }

    def column(self, node: str) -> int:
        """Return the column of a node.

        Raises
        ------
        DataError
            If there is no such node.
        """
        if node not in self.index:
            known = ", ".join(self.nodes[:20])
            raise DataError(
                f"node: got {node!r}{did_you_mean(node, self.nodes)}, expected one of: {known}"
            )
        return self.index[node]

    def code(self, node: str, state: Any) -> int:
        """Return the code of a state that is given by its name; -1 for a missing value.

        Raises
        ------
        DataError
            If the node has no such state.
        """
        return self.categories[self.nodes[self.column(node)]].code(state)

    def codes(self, node: str, values: Any) -> Tensor:
        """Encode a column of a node's states, given by their names, ``(rows,)``."""
        return self.categories[self.nodes[self.column(node)]].codes(values)

    def rows(self, data: Any) -> Any:
        """Encode rows: columns by name (a mapping or data frame), or an array.

        Values in columns with names are matched to the states by name. A tensor of integers has
        codes, as samples have; so has an array, but for nodes whose states are themselves numbers
        or truth values: there it has these.

        Returns
        -------
        Tensor or array
            ``(rows, nodes)``, integers; -1 where a value is missing (None, NaN, NA, or a node
            that is not among the columns).
        """
        if isinstance(data, tuple) and len(data) == 1:
            data = data[0]
        if isinstance(data, Mapping) and set(data) == {"x"} and "x" not in self.index:
            data = data["x"]
        named = named_columns(data)
        if named is not None:
            columns = {name: self.codes(name, column) for name, column in named.items()}
            length = max((len(c) for c in columns.values()), default=0)
            if any(len(c) != length for c in columns.values()):
                sizes = {name: len(c) for name, c in columns.items()}
                raise DataError(f"x: got columns of lengths {sizes}, expected one length")
            unobserved = torch.full((length,), -1)
            return torch.stack([columns.get(node, unobserved) for node in self.nodes], 1)
        if isinstance(data, list) and not any(isinstance(r, Tensor | np.ndarray) for r in data):
            data = as_array("x", data)
        if isinstance(data, Tensor) and data.dtype == torch.bool:
            data = data.cpu().numpy()
        if isinstance(data, np.ndarray) and data.dtype.kind in "OUSb":
            return self._by_column(data)
        if isinstance(data, np.ndarray) and any(c.are_values for c in self.categories.values()):
            return self._by_column(data)
        if isinstance(data, Tensor) or (isinstance(data, np.ndarray) and data.dtype.kind == "f"):
            tensor = torch.as_tensor(data)
            return self._integers(tensor, "x") if tensor.is_floating_point() else tensor
        return data

    def _by_column(self, x: np.ndarray) -> Tensor:
        """Encode an array ``(rows, nodes)`` without names, a column at a time."""
        one, x = x.ndim == 1, np.atleast_2d(x)
        if x.ndim != 2 or x.shape[1] != len(self.nodes):
            raise DataError(f"x: got shape {x.shape}, expected (n, {len(self.nodes)})")
        columns = []
        for column, node in zip(x.T, self.nodes, strict=True):
            if column.dtype.kind in "iuf":
                if not self.categories[node].are_values:
                    columns.append(self._integers(torch.as_tensor(column.copy()), node))
                    continue
                if "-1" not in self.states[node]:
                    column = np.where(column == -1, np.nan, column)
            columns.append(self.codes(node, column))
        codes = torch.stack(columns, 1)
        return codes[0] if one else codes

    def check(self, x: Tensor, first: int = 0) -> bool:
        """Refuse rows of another shape, or with codes that are no states.

        Returns
        -------
        bool
            Whether no value is missing.

        Raises
        ------
        DataError
            Says which row and node.
        """
        if x.ndim != 2 or x.shape[1] != len(self.nodes):
            raise DataError(f"x: got shape {tuple(x.shape)}, expected (n, {len(self.nodes)})")
        sizes = torch.tensor(self.sizes, device=x.device)
        least = int(x.min()) if len(x) else 0
        if not len(x) or (least >= -1 and not bool((x >= sizes).any())):
            return least >= 0
        row, column = ((x < -1) | (x >= sizes)).nonzero()[0].tolist()
        raise DataError(
            f"x: got {int(x[row, column])} at row {first + row}, node {self.nodes[column]!r}, "
            f"expected 0 to {self.sizes[column] - 1}, or -1 where missing"
        )

    def evidence(self, given: Any, device: torch.device) -> Tensor:
        """Encode evidence, ``(rows, nodes)``: a mapping ``{node: state}``, or rows."""
        if given is None:
            given = {}
        if hasattr(given, "to_dict") and hasattr(given, "index") and not hasattr(given, "columns"):
            given = given.to_dict()  # a row of a data frame
        if isinstance(given, Mapping):
            columns = {
                node: self.codes(node, [state] if np.ndim(state) == 0 else state)
                for node, state in given.items()
            }
            length = max((len(c) for c in columns.values()), default=1)
            x = torch.full((length, len(self.nodes)), -1)
            for node, column in columns.items():
                if len(column) not in (1, length):
                    raise DataError(
                        f"{node}: got {len(column)} states, expected 1 or {length} of them"
                    )
                x[:, self.index[node]] = column
        else:
            x = torch.as_tensor(self.rows(given))
            x = x[None] if x.ndim == 1 else x
            if x.is_floating_point():
                x = self._integers(x, "evidence")
        self.check(x)
        return x.to(device, torch.int64)

    def soft_evidence(self, given: Mapping[str, Any] | None, like: Tensor) -> dict[int, Tensor]:
        """Read soft evidence ``{node: likelihood of each state}``, ``(states, rows)`` each."""
        vectors = {}
        for node, values in (given or {}).items():
            column = self.column(node)
            vector = torch.as_tensor(values, dtype=like.dtype, device=like.device)
            vector = vector[None] if vector.ndim == 1 else vector
            good = vector.ndim == 2 and vector.shape[1] == self.sizes[column] and len(vector)
            if not good or not bool((vector.isfinite() & (vector >= 0)).all()):
                raise DataError(
                    f"likelihood of {node!r}: got {tuple(vector.shape)} {values!r}, expected "
                    f"({self.sizes[column]},) or (rows, {self.sizes[column]}) numbers, 0 or more"
                )
            vectors[column] = vector.T.contiguous()
        return vectors

    def names(self, x: Tensor) -> list[dict[str, str]]:
        """Decode rows of integers into names of states; missing ones are left out."""
        return [
            {n: self.states[n][c] for n, c in zip(self.nodes, row, strict=True) if c >= 0}
            for row in x.tolist()
        ]

    @staticmethod
    def _integers(values: Tensor, name: str) -> Tensor:
        """Convert to int64, NaN to -1; refuse fractions."""
        if not values.is_floating_point():
            return values.long()
        known = torch.where(values.isnan(), -1.0, values)
        if not bool((known == known.round()).all() & known.isfinite().all()):
            bad = known[(known != known.round()) | ~known.isfinite()][0].item()
            raise DataError(f"{name}: got {bad}, expected integers (NaN where missing)")
        return known.long()


def read_states(parents: Mapping[str, Any], states: Any) -> dict[str, tuple[str, ...]]:
    """Read the names of every node's states, or their number.

    Raises
    ------
    DataError
        If the nodes are others than those of ``parents``, or a name stands twice.
    """
    if not isinstance(states, Mapping) or set(states) != set(parents):
        given = sorted(states) if isinstance(states, Mapping) else states
        raise DataError(f"states: got {given}, expected those of {sorted(parents)}")
    return {node: read_state_names(node, states[node]) for node in parents}


def as_array(name: str, rows: Any) -> np.ndarray:
    """Convert rows, as lists, to an array.

    Raises
    ------
    DataError
        If they are of unequal length.
    """
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise DataError(f"{name}: got rows of unequal length: {error}") from error
