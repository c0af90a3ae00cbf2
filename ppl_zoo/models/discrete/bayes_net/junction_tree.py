"""Exact inference in a tree of cliques, for many rows of evidence at once.

Everything is laid out ``(cells, rows)``: the rows lie side by side in memory, so that each
operation runs over all of them. All shapes are worked out once, in ``clique_plan``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_zoo.models.discrete.bayes_net.triangulation import CliqueTree, clique_tree

__all__ = ["Clique", "Collected", "JunctionTree", "Place", "place_node", "plan_cliques"]

#: cells that a chunk of rows has in all cliques together: what stays in a CPU's cache, and what
#: a GPU has room for
CHUNK_CELLS = {"cpu": 2**20, "cuda": 2**27}


class Collected(NamedTuple):
    """The tree after the pass towards the root."""

    beliefs: list[Tensor]  # (cells, rows), messages of the cliques below multiplied in
    sums: list[Tensor]  # (separator, rows), beliefs summed for the clique above
    log_evidence: Tensor  # (rows,)


class JunctionTree:
    """Sum-product and max-product in a junction tree, by belief update.

    Parameters
    ----------
    parents
        Parents of each node, by index, in the order of the dimensions of its table.
    sizes
        Number of states of each node.
    restarts, seed
        Of the triangulation.

    References
    ----------
    Jensen, Lauritzen & Olesen 1990, Bayesian updating in causal probabilistic networks by local
    computations; Koller & Friedman 2009, Probabilistic Graphical Models, chapter 10.
    """

    def __init__(
        self,
        parents: Sequence[Sequence[int]],
        sizes: Sequence[int],
        restarts: int = 8,
        seed: int = 0,
    ) -> None:
        self.parents, self.sizes = [tuple(p) for p in parents], tuple(sizes)
        tree = clique_tree(parents, sizes, restarts, seed)
        self.cliques = plan_cliques(tree, self.sizes)
        order = sorted(range(len(self.cliques)), key=lambda c: self.cliques[c].cells)
        self.homes: list[int] = []  # the smallest clique that holds a family
        self.places: list[Place] = []  # the smallest clique that holds a node
        for node, above in enumerate(self.parents):
            family = {node, *above}
            self.homes.append(next(c for c in order if family <= tree.cliques[c]))
            clique = next(c for c in order if node in tree.cliques[c])
            self.places.append(place_node(node, clique, self.cliques, self.sizes))

    @property
    def num_cells(self) -> int:
        """Cells of all cliques: what one row of evidence takes."""
        return sum(clique.cells for clique in self.cliques)

    def chunk_rows(self, device: torch.device) -> int:
        """Rows to take at once, so that memory stays bounded."""
        return max(1, CHUNK_CELLS.get(device.type, 2**24) // self.num_cells)

    # ---- the passes -------------------------------------------------------------------------

    def potentials(self, tables: Sequence[Tensor]) -> list[Tensor]:
        """Multiply the tables of each clique: ``(cells, 1)`` each; gradients pass through.

        Parameters
        ----------
        tables
            Table of each node, ``(states of its parents..., states)`` or flat.
        """
        products: list[Tensor | None] = [None] * len(self.cliques)
        for node, (home, table) in enumerate(zip(self.homes, tables, strict=True)):
            nodes = self.cliques[home].nodes
            family = (*self.parents[node], node)
            factor = table.reshape([self.sizes[n] for n in family])
            factor = factor.permute([family.index(n) for n in nodes if n in family])
            factor = factor.reshape([self.sizes[n] if n in family else 1 for n in nodes])
            products[home] = factor if products[home] is None else products[home] * factor
        one = tables[0].new_ones(())
        return [
            (one if product is None else product)
            .expand([self.sizes[n] for n in clique.nodes])
            .reshape(-1, 1)
            for clique, product in zip(self.cliques, products, strict=True)
        ]

    def collect(
        self, potentials: Sequence[Tensor], likelihoods: Mapping[int, Tensor]
    ) -> Collected:
        """Pass messages to the root, summing out what a clique has for itself.

        Parameters
        ----------
        potentials
            As `potentials` makes them.
        likelihoods
            What the evidence says of a node, ``(states, rows)``; nodes without are left out.
            Cliques that no evidence has reached keep a single column for all rows.
        """
        beliefs = _Beliefs(self, potentials, likelihoods)
        sums: list[Tensor] = [potentials[0]] * len(beliefs.cells)
        log_evidence: Any = 0.0
        for index in range(len(sums) - 1, -1, -1):
            clique, belief = self.cliques[index], beliefs.cells[index]
            sums[index] = belief.view(clique.separator, -1, belief.shape[-1]).sum(1)
            total = sums[index].sum(0)
            log_evidence = log_evidence + total.log()
            if index:
                message = (sums[index] / _nonzero(total)).view(*clique.message, -1)
                beliefs.multiply(clique.parent, clique.meeting, message)
        return Collected(beliefs.cells, sums, log_evidence)

    def distribute(self, collected: Collected) -> list[Tensor]:
        """Pass messages from the root; beliefs ``(cells, rows)``, each row sums to one."""
        beliefs = list(collected.beliefs)
        beliefs[0] = beliefs[0] / _nonzero(collected.sums[0])
        for index, clique in enumerate(self.cliques[1:], 1):
            above = beliefs[clique.parent]
            marginal = above.view(*clique.meeting, above.shape[-1])
            marginal = _sum_out(marginal, clique.summed)
            # 0 / 0 = 0: what the clique below ruled out is ruled out above as well
            factor = marginal.reshape(clique.separator, 1, -1) / _nonzero(
                collected.sums[index].unsqueeze(1)
            )
            belief = beliefs[index].view(clique.separator, -1, beliefs[index].shape[-1])
            product = belief * factor
            beliefs[index] = product.view(clique.cells, -1)
        return beliefs

    def node_marginal(self, beliefs: Sequence[Tensor], node: int) -> Tensor:
        """Posterior of one node from the beliefs of both passes, ``(states, rows)``."""
        clique, shape = self.places[node]
        cells = beliefs[clique].view(*shape, -1)
        return _sum_out(cells, (0, 2)).reshape(shape[1], -1)

    # ---- whole assignments ------------------------------------------------------------------

    def most_probable(
        self, potentials: Sequence[Tensor], likelihoods: Mapping[int, Tensor], num_rows: int
    ) -> Tensor:
        """Max-product: the most probable states of all nodes at once, ``(nodes, rows)``."""
        beliefs = _Beliefs(self, potentials, likelihoods)
        choices: list[Tensor] = [potentials[0]] * len(beliefs.cells)
        for index in range(len(choices) - 1, -1, -1):
            clique, belief = self.cliques[index], beliefs.cells[index]
            best, choices[index] = belief.view(clique.separator, -1, belief.shape[-1]).max(1)
            if index:
                message = (best / _nonzero(best.amax(0))).view(*clique.message, -1)
                beliefs.multiply(clique.parent, clique.meeting, message)

        def choose(index: int, shared: Tensor, column: Tensor) -> Tensor:
            return choices[index][shared, column if choices[index].shape[-1] > 1 else 0]

        return self._descend(choose, torch.arange(num_rows, device=potentials[0].device))

    def draw(self, collected: Collected, columns: Tensor) -> Tensor:
        """Draw states of all nodes from their joint posterior.

        Parameters
        ----------
        collected
            The tree after the pass towards the root.
        columns
            Row of evidence that each draw is conditioned on, ``(draws,)``.

        Returns
        -------
        Tensor
            ``(nodes, draws)``.
        """

        def choose(index: int, shared: Tensor, column: Tensor) -> Tensor:
            belief = collected.beliefs[index]
            cells = belief.view(self.cliques[index].separator, -1, belief.shape[-1])
            weights = cells[shared, :, column if belief.shape[-1] > 1 else 0].cumsum(-1)
            # 1 - rand lies in (0, 1]: a state of probability 0 is never drawn
            level = weights[:, -1:] * (1.0 - torch.rand_like(weights[:, :1]))
            return torch.searchsorted(weights, level)[:, 0]

        return self._descend(choose, columns)

    def _descend(self, choose: Callable[[int, Tensor, Tensor], Tensor], columns: Tensor) -> Tensor:
        """From the root down, let ``choose`` pick what a clique has beyond its separator."""
        states = columns.new_zeros((len(self.sizes), len(columns)))
        for index, clique in enumerate(self.cliques):
            shared, size = torch.zeros_like(columns), 1
            for node in clique.nodes:
                if size == clique.separator:
                    break
                shared, size = shared * self.sizes[node] + states[node], size * self.sizes[node]
            picked, left = choose(index, shared, columns), 1
            for node in reversed(clique.nodes):
                if left == clique.cells // clique.separator:
                    break
                states[node], picked = picked % self.sizes[node], picked // self.sizes[node]
                left *= self.sizes[node]
        return states


class _Beliefs:
    """Cells of all cliques on the way to the root, overwritten where nobody else holds them."""

    def __init__(
        self,
        tree: JunctionTree,
        potentials: Sequence[Tensor],
        likelihoods: Mapping[int, Tensor],
    ) -> None:
        self.cells = list(potentials)
        self.owned = [False] * len(self.cells)
        given = (*potentials, *likelihoods.values())
        self.in_place = not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        for node, likelihood in likelihoods.items():
            clique, shape = tree.places[node]
            self.multiply(clique, shape, likelihood.view(shape[1], 1, -1))

    def multiply(self, index: int, shape: tuple[int, ...], factor: Tensor) -> None:
        """Multiply a factor into a clique, whose cells it meets in a shape."""
        belief = self.cells[index]
        view = belief.view(*shape, belief.shape[-1])
        if self.in_place and self.owned[index] and belief.shape[-1] >= factor.shape[-1]:
            view.mul_(factor)
            return
        product = view * factor
        self.cells[index] = product.view(-1, product.shape[-1])
        self.owned[index] = True


def _sum_out(cells: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum over some dimensions, of which the last is the rows'."""
    dims = tuple(d for d in dims if cells.shape[d] > 1)
    if cells.shape[-1] == 1 or len(dims) < 2:
        return cells.sum(dims) if dims else cells
    # one dimension at a time runs along the rows; several at once do not, ten times slower
    for dim in dims:
        cells = cells.sum(dim, keepdim=True)
    return cells


def _nonzero(t: Tensor) -> Tensor:
    return t.clamp_min(torch.finfo(t.dtype).tiny)


# ---- The shapes of a tree of cliques, worked out once: no tensor is permuted in a pass.
#
# A clique lists the nodes that it shares with the clique above first and in the order they have
# there. A message is then a plain sum over a block, and multiplying one in is a broadcast.


class Clique(NamedTuple):
    """A clique: its nodes in order, those of the separator first, and its shapes."""

    nodes: tuple[int, ...]
    parent: int
    separator: int  # number of states that the clique shares with the one above
    cells: int
    message: tuple[int, ...]  # shape of its message where it meets the parent's cells ...
    meeting: tuple[int, ...]  # ... in this shape, neighbours merged
    summed: tuple[int, ...]  # dimensions of ``meeting`` that the message has not


class Place(NamedTuple):
    """A node in its clique: the cells are ``(before, states, after)``."""

    clique: int
    shape: tuple[int, int, int]


def plan_cliques(tree: CliqueTree, sizes: Sequence[int]) -> list[Clique]:
    """Order the nodes of each clique, and work out the shapes of its messages."""
    below: dict[int, list[frozenset[int]]] = {i: [] for i in range(len(tree.cliques))}
    for parent, shared in zip(tree.parents, tree.separators, strict=True):
        if parent >= 0:
            below[parent].append(shared)
    cliques: list[Clique] = []
    for index, members in enumerate(tree.cliques):
        shared, parent = tree.separators[index], tree.parents[index]
        above = cliques[parent].nodes if parent >= 0 else ()
        first = [n for n in above if n in shared]
        # nodes that the same messages hold stand together, so that dimensions merge
        large = sorted(below[index], key=lambda s: -math.prod(sizes[n] for n in s))
        rest = sorted(members - shared, key=lambda n: ([n not in s for s in large], n))
        nodes = (*first, *rest)
        message, meeting = _meet(above, shared, sizes)
        cliques.append(
            Clique(
                nodes=nodes,
                parent=parent,
                separator=math.prod(sizes[n] for n in first),
                cells=math.prod(sizes[n] for n in nodes),
                message=message,
                meeting=meeting,
                summed=tuple(
                    i for i, (m, b) in enumerate(zip(message, meeting, strict=True)) if m != b
                ),
            )
        )
    return cliques


def _meet(
    nodes: Sequence[int], shared: frozenset[int], sizes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Merge neighbouring dimensions that a message has, and those that it has not."""
    message: list[int] = []
    meeting: list[int] = []
    before: bool | None = None
    for node in nodes:
        held, size = node in shared, sizes[node]
        if held is before:
            meeting[-1] *= size
            message[-1] *= size if held else 1
        else:
            meeting.append(size)
            message.append(size if held else 1)
        before = held
    return tuple(message), tuple(meeting)


def place_node(node: int, clique: int, cliques: Sequence[Clique], sizes: Sequence[int]) -> Place:
    """Tell how the cells of a clique are laid out around one of its nodes."""
    nodes = cliques[clique].nodes
    at = nodes.index(node)
    before = math.prod(sizes[n] for n in nodes[:at])
    after = math.prod(sizes[n] for n in nodes[at + 1 :])
    return Place(clique, (before, sizes[node], after))
