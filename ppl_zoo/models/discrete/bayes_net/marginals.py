"""Marginals: posterior probabilities of the states of every node, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ppl_zoo.core.display import MAX_LENGTH, html_table

__all__ = ["Marginals"]

#: nodes of a table, and rows of evidence of a cell, that a notebook shows
MAX_NODES, MAX_ROWS = 20, 3


class Marginals(dict[str, Tensor]):
    """Posterior probabilities ``{node: (rows, states)}``.

    Attributes
    ----------
    states
        Names of the states of each node; empty where they are not known.
    """

    def __init__(
        self, marginals: Mapping[str, Tensor], states: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(marginals)
        self.states = dict(states or {})

    def __repr__(self) -> str:
        """Write the probabilities of the first row of evidence, of the first nodes."""
        text = f"{type(self).__name__}({len(self)} nodes, {self._num_rows} rows"
        for node, values in self.items():
            part = f"; {node}: {self._row(node, values[0])}"
            if len(text) + len(part) > MAX_LENGTH:
                return f"{text}; ...)"
            text += part
        return f"{text})"

    def _repr_html_(self) -> str:
        """Show a node a line, with the probabilities of its states under each row of evidence."""
        rows = {
            node: "; ".join(self._row(node, row) for row in values[:MAX_ROWS])
            for node, values in list(self.items())[:MAX_NODES]
        }
        return html_table(
            f"{type(self).__name__} ({len(self)} nodes, {self._num_rows} rows)", rows
        )

    @property
    def _num_rows(self) -> int:
        return len(next(iter(self.values()), ()))

    def _row(self, node: str, probabilities: Tensor) -> str:
        values = probabilities.tolist()
        names = self.states.get(node) or tuple(map(str, range(len(values))))
        return ", ".join(f"{name} {p:.3g}" for name, p in zip(names, values, strict=True))
