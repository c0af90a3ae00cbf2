"""State space of a Bayesian network: names of nodes and states, and their integer codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_zoo.core.errors import DataError

__all__ = ["StateSpace", "read_states"]


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
        self._codes = {n: {s: i for i, s in enumerate(v)} for n, v in self.states.items()}
        self.offsets = [sum(self.sizes[:i]) for i in range(len(self.sizes) + 1)]

    def column(self, node: str) -> int:
        """Return the column of a node.

        Raises
        ------
        DataError
            If there is no such node.
        """
        if node not in self.index:
            known = ", ".join(self.nodes[:20])
            raise DataError(f"node: got {node!r}, expected one of: {known}")
        return self.index[node]

    def code(self, node: str, state: Any) -> int:
        """Return the code of a state that is given by its name or code; -1 for None.

        Raises
        ------
        DataError
            If the node has no such state.
        """
        codes, size = self._codes[self.nodes[self.column(node)]], len(self.states[node])
        if isinstance(state, str) and state in codes:
            return codes[state]
        if state is None or (isinstance(state, float) and state != state):
            return -1
        if not isinstance(state, str):
            try:
                number = int(state)
            except (TypeError, ValueError, OverflowError):
                number = size
            if -1 <= number < size and number == state:
                return number
        raise DataError(f"{node}: got state {state!r}, expected one of {list(codes)}")

    def codes(self, node: str, values: Any) -> Tensor:
        """Encode a column of names or integers, ``(rows,)``."""
        self.column(node)
        array = values if isinstance(values, Tensor) else np.asarray(values)
        if isinstance(array, np.ndarray) and array.dtype.kind not in "fiub":
            unique = {v: self.code(node, v) for v in dict.fromkeys(array.reshape(-1).tolist())}
            return torch.tensor([unique[v] for v in array.reshape(-1).tolist()])
        return self._integers(torch.as_tensor(array).reshape(-1), node)

    def rows(self, data: Any) -> Any:
        """Encode rows: columns by name (a mapping or data frame), or an array of integers.

        Returns
        -------
        Tensor or array
            ``(rows, nodes)``, integers; -1 where a value is missing (NaN, None, or a node
            that is not among the columns).
        """
        if isinstance(data, tuple) and len(data) == 1:
            data = data[0]
        if isinstance(data, Mapping) and set(data) == {"x"} and "x" not in self.index:
            data = data["x"]
        if isinstance(data, Mapping) or hasattr(data, "columns"):
            columns = {str(name): self.codes(str(name), data[name]) for name in data}
            length = max((len(c) for c in columns.values()), default=0)
            if any(len(c) != length for c in columns.values()):
                sizes = {name: len(c) for name, c in columns.items()}
                raise DataError(f"x: got columns of lengths {sizes}, expected one length")
            unobserved = torch.full((length,), -1)
            return torch.stack([columns.get(node, unobserved) for node in self.nodes], 1)
        if isinstance(data, Tensor) or (isinstance(data, np.ndarray) and data.dtype.kind == "f"):
            tensor = torch.as_tensor(data)
            return self._integers(tensor, "x") if tensor.is_floating_point() else tensor
        return data

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
        """Encode evidence, ``(rows, nodes)``: a mapping ``{node: state}``, or rows of integers."""
        if given is None:
            given = {}
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
            if x.is_floating_point() or x.dtype == torch.bool:
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
    read = {}
    for node in parents:
        own = states[node]
        names = [str(i) for i in range(own)] if isinstance(own, int) else list(map(str, own))
        if not names or len(set(names)) < len(names):
            raise DataError(f"states of {node!r}: got {own}, expected one or more, each once")
        read[node] = tuple(names)
    return read
