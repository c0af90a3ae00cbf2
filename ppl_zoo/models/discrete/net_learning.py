"""How the structure of a Bayes net is learned from data, and its tables with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_zoo.errors import DataError
from ppl_zoo.models.discrete.evidence import Alphabet
from ppl_zoo.models.discrete.net_building import NetBuilding
from ppl_zoo.models.discrete.structure import chow_liu_tree, search_structure

__all__ = ["NetLearning"]


class NetLearning(NetBuilding):
    """Structures from complete data, by class methods that return a net with its tables."""

    @classmethod
    def chow_liu(cls, data: Any, states: Any = None, **options: Any) -> Any:
        """Learn the tree of the highest likelihood, and its tables.

        Parameters
        ----------
        data
            Rows ``(n, nodes)`` of whole numbers, or a data frame or mapping of columns.
        states
            ``{node: names of its states}``; read off the data where left out.
        **options
            Of the model.

        References
        ----------
        Chow & Liu 1968, Approximating discrete probability distributions with dependence trees,
        https://doi.org/10.1109/TIT.1968.1054142
        """
        x, states = _learnable(data, states)
        sizes = [len(names) for names in states.values()]
        return cls._learned(chow_liu_tree(x, sizes), x, states, options)

    @classmethod
    def search(
        cls,
        data: Any,
        states: Any = None,
        *,
        score: str = "bic",
        max_parents: int = 4,
        tabu: int = 10,
        patience: int = 20,
        max_steps: int = 10_000,
        equivalent_sample_size: float = 1.0,
        **options: Any,
    ) -> Any:
        """Learn a structure by the best of single changes to arrows, and its tables.

        Parameters
        ----------
        data, states
            As for `chow_liu`.
        score
            "bic" or "bdeu".
        max_parents
            Most parents of a node.
        tabu, patience
            Changes that may not be undone, and steps without a better net before the search ends.
        max_steps
            Most changes.
        equivalent_sample_size
            Of BDeu's prior.
        **options
            Of the model.

        References
        ----------
        Heckerman, Geiger & Chickering 1995, Learning Bayesian networks,
        https://doi.org/10.1007/BF00994016
        """
        x, states = _learnable(data, states)
        sizes = [len(names) for names in states.values()]
        found = search_structure(
            x,
            sizes,
            score=score,
            max_parents=max_parents,
            tabu=tabu,
            patience=patience,
            max_steps=max_steps,
            equivalent_sample_size=equivalent_sample_size,
        )
        return cls._learned(found, x, states, options)

    @classmethod
    def _learned(cls, parents: list[list[int]], x: Tensor, states: Any, options: Any) -> Any:
        nodes = list(states)
        named = {nodes[i]: [nodes[p] for p in above] for i, above in enumerate(parents)}
        return cls(named, states, **options).learn(x)


def _learnable(data: Any, states: Any) -> tuple[Tensor, dict[str, tuple[str, ...]]]:
    """Rows and states of data whose structure is to be learned."""
    if states is None and (isinstance(data, Mapping) or hasattr(data, "columns")):
        states = {}
        for name in data:
            values = sorted(
                set(data[name].tolist() if hasattr(data[name], "tolist") else data[name])
            )
            whole = all(isinstance(v, (int, float)) and v == int(v) for v in values)
            states[str(name)] = int(max(values)) + 1 if whole else values
    elif states is None:
        x = torch.as_tensor(data)
        if x.ndim != 2 or not len(x):
            raise DataError(f"data: got shape {tuple(x.shape)}, expected (n, nodes)")
        width = len(str(x.shape[1] - 1))
        states = {f"x{i:0{width}d}": int(m) + 1 for i, m in enumerate(x.amax(0).tolist())}
    states = NetBuilding.read_states(dict.fromkeys(states), states)
    alphabet = Alphabet(states)
    x = torch.as_tensor(alphabet.rows(data)).long()
    alphabet.check(x)
    if bool((x < 0).any()):
        raise DataError("data: got missing values, expected complete rows to learn a structure")
    return x, alphabet.states
