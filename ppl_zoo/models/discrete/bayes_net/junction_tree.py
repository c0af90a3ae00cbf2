"""Junction tree: sum-product and max-product for many rows of evidence at once.

Beliefs are laid out ``(cells, rows)``: the rows are contiguous in memory, so that each operation
runs over all of them. All shapes are computed once, in `_plan_cliques`, and no tensor is permuted
in a pass: a clique lists the nodes that it shares with its parent clique first and in the order
they have there, so that a message is a plain sum over a block, and multiplying one in is a
broadcast.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_zoo.core.errors import QueryError
from ppl_zoo.models.discrete.bayes_net.triangulation import CliqueTree, clique_tree

__all__ = ["Collected", "JunctionTree", "refuse_too_large"]

#: cells of all cliques together, for the rows of one chunk: what fits in a CPU's cache, and in a
#: GPU's memory; by device type
MAX_CELLS_PER_CHUNK = {"cpu": 2**20, "cuda": 2**27}
DEFAULT_CELLS_PER_CHUNK = 2**24
#: copies of the cliques' cells that a query holds: potentials, beliefs of both passes, a product
COPIES_PER_QUERY = 4
#: below this nobody asks how much memory is at hand
SMALL_BYTES = 2**27
SHARE_OF_MEMORY = 0.8
DEFAULT_BYTES = 2**33  # where the system does not say


class Collected(NamedTuple):
    """Beliefs after the collect pass, towards the root."""

    beliefs: list[Tensor]  # (cells, rows), messages of the child cliques multiplied in
    sums: list[Tensor]  # (separator, rows), beliefs marginalised to the separator
    log_evidence: Tensor  # (rows,)


class JunctionTree:
    """Junction tree with belief-update message passing.

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
        self.cliques = _plan_cliques(tree, self.sizes)
        order = sorted(range(len(self.cliques)), key=lambda c: self.cliques[c].cells)
        self.family_cliques: list[int] = []  # the smallest clique that holds a family
        self.node_layouts: list[_NodeLayout] = []  # in the smallest clique that holds a node
        for node, own in enumerate(self.parents):
            family = {node, *own}
            self.family_cliques.append(next(c for c in order if family <= tree.cliques[c]))
            clique = next(c for c in order if node in tree.cliques[c])
            self.node_layouts.append(_layout_node(node, clique, self.cliques, self.sizes))

    @property
    def num_cells(self) -> int:
        """Cells of all cliques together, for one row of evidence."""
        return sum(clique.cells for clique in self.cliques)

    def chunk_rows(self, device: torch.device) -> int:
        """Rows of a chunk, so that memory stays bounded."""
        cells = MAX_CELLS_PER_CHUNK.get(device.type, DEFAULT_CELLS_PER_CHUNK)
        return max(1, cells // self.num_cells)

    # ---- message passing --------------------------------------------------------------------

    def potentials(self, tables: Sequence[Tensor]) -> list[Tensor]:
        """Clique potentials, products of tables: ``(cells, 1)`` each; gradients pass through.

        Parameters
        ----------
        tables
            Table of each node, ``(states of its parents..., states)`` or flat.

        Raises
        ------
        QueryError
            If the cliques do not fit in the memory at hand; nothing is allocated then.
        """
        self._refuse_too_large(tables[0])
        products: list[Tensor | None] = [None] * len(self.cliques)
        for node, (clique, table) in enumerate(zip(self.family_cliques, tables, strict=True)):
            nodes = self.cliques[clique].nodes
            family = (*self.parents[node], node)
            factor = table.reshape([self.sizes[n] for n in family])
            factor = factor.permute([family.index(n) for n in nodes if n in family])
            factor = factor.reshape([self.sizes[n] if n in family else 1 for n in nodes])
            product = products[clique]
            products[clique] = factor if product is None else product * factor
        one = tables[0].new_ones(())
        return [
            (one if product is None else product)
            .expand([self.sizes[n] for n in clique.nodes])
            .reshape(-1, 1)
            for clique, product in zip(self.cliques, products, strict=True)
        ]

    def _refuse_too_large(self, like: Tensor) -> None:
        """Refuse cliques that do not fit in the memory at hand."""
        largest = max(self.cliques, key=lambda clique: clique.cells)
        size = f"{len(largest.nodes)} nodes and {float(largest.cells):.3g} cells"
        told = f"the largest clique found has {size}"
        refuse_too_large("exact inference", told, self.num_cells, like)

    def collect(
        self, potentials: Sequence[Tensor], likelihoods: Mapping[int, Tensor]
    ) -> Collected:
        """Collect: pass messages to the root, summing out the nodes outside the separators.

        Parameters
        ----------
        potentials
            As `potentials` makes them.
        likelihoods
            Likelihood of each node with evidence, ``(states, rows)``. Cliques that no evidence
            has reached keep a single column for all rows.
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
                message = (sums[index] / _nonzero(total)).view(*clique.message_shape, -1)
                beliefs.multiply(clique.parent, clique.parent_shape, message)
        return Collected(beliefs.cells, sums, log_evidence)

    def distribute(self, collected: Collected) -> list[Tensor]:
        """Distribute: pass messages from the root; beliefs ``(cells, rows)`` that sum to one."""
        beliefs = list(collected.beliefs)
        beliefs[0] = beliefs[0] / _nonzero(collected.sums[0])
        for index, clique in enumerate(self.cliques[1:], 1):
            parent = beliefs[clique.parent]
            marginal = parent.view(*clique.parent_shape, parent.shape[-1])
            marginal = _sum_out(marginal, clique.summed_dims)
            # 0 / 0 = 0: what the child ruled out is ruled out in its parent as well
            factor = marginal.reshape(clique.separator, 1, -1) / _nonzero(
                collected.sums[index].unsqueeze(1)
            )
            belief = beliefs[index].view(clique.separator, -1, beliefs[index].shape[-1])
            product = belief * factor
            beliefs[index] = product.view(clique.cells, -1)
        return beliefs

    def node_marginal(self, beliefs: Sequence[Tensor], node: int) -> Tensor:
        """Posterior marginal of one node from calibrated beliefs, ``(states, rows)``."""
        clique, shape = self.node_layouts[node]
        cells = beliefs[clique].view(*shape, -1)
        return _sum_out(cells, (0, 2)).reshape(shape[1], -1)

    # ---- joint assignments ------------------------------------------------------------------

    def most_probable(
        self, potentials: Sequence[Tensor], likelihoods: Mapping[int, Tensor], num_rows: int
    ) -> Tensor:
        """Max-product: the most probable joint state, ``(nodes, rows)``."""
        beliefs = _Beliefs(self, potentials, likelihoods)
        choices: list[Tensor] = [potentials[0]] * len(beliefs.cells)
        for index in range(len(choices) - 1, -1, -1):
            clique, belief = self.cliques[index], beliefs.cells[index]
            best, choices[index] = belief.view(clique.separator, -1, belief.shape[-1]).max(1)
            if index:
                message = (best / _nonzero(best.amax(0))).view(*clique.message_shape, -1)
                beliefs.multiply(clique.parent, clique.parent_shape, message)

        def choose(index: int, shared: Tensor, column: Tensor) -> Tensor:
            return choices[index][shared, column if choices[index].shape[-1] > 1 else 0]

        return self._descend(choose, torch.arange(num_rows, device=potentials[0].device))

    def sample(self, collected: Collected, columns: Tensor) -> Tensor:
        """Draw states of all nodes from their joint posterior.

        Parameters
        ----------
        collected
            Beliefs after the collect pass.
        columns
            Index of the row of evidence that each draw is conditioned on, ``(draws,)``.

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
        """From the root down, let ``choose`` pick the states of a clique outside its separator."""
        states = columns.new_zeros((len(self.sizes), len(columns)))
        for index, clique in enumerate(self.cliques):
            shared, size = torch.zeros_like(columns), 1
            for node in clique.nodes:
                if size == clique.separator:
                    break
                shared, size = shared * self.sizes[node] + states[node], size * self.sizes[node]
            picked, size = choose(index, shared, columns), 1
            for node in reversed(clique.nodes):
                if size == clique.cells // clique.separator:
                    break
                states[node], picked = picked % self.sizes[node], picked // self.sizes[node]
                size *= self.sizes[node]
        return states


class _Beliefs:
    """Beliefs of the collect pass, updated in place where no other reference holds them."""

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
            clique, shape = tree.node_layouts[node]
            self.multiply(clique, shape, likelihood.view(shape[1], 1, -1))

    def multiply(self, index: int, shape: tuple[int, ...], factor: Tensor) -> None:
        """Multiply a factor into a clique; its cells, viewed in ``shape``, broadcast with it."""
        belief = self.cells[index]
        view = belief.view(*shape, belief.shape[-1])
        if self.in_place and self.owned[index] and belief.shape[-1] >= factor.shape[-1]:
            view.mul_(factor)
            return
        product = view * factor
        self.cells[index] = product.view(-1, product.shape[-1])
        self.owned[index] = True


def _sum_out(cells: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum over some dimensions; the last one, of the rows, is kept."""
    dims = tuple(d for d in dims if cells.shape[d] > 1)
    if cells.shape[-1] == 1 or len(dims) < 2:
        return cells.sum(dims) if dims else cells
    # one dimension at a time runs along the rows; several at once do not, ten times slower
    for dim in dims:
        cells = cells.sum(dim, keepdim=True)
    return cells


def _nonzero(t: Tensor) -> Tensor:
    """Clamp to the smallest normal number, to divide by."""
    return t.clamp_min(torch.finfo(t.dtype).tiny)


class _Clique(NamedTuple):
    """Layout of a clique: its nodes in order, those of the separator first, and its shapes."""

    nodes: tuple[int, ...]
    parent: int
    separator: int  # number of joint states of the separator to the parent
    cells: int
    message_shape: tuple[int, ...]  # shape in which its message broadcasts with the parent's ...
    parent_shape: tuple[int, ...]  # ... cells in this shape, neighbouring dimensions merged
    summed_dims: tuple[int, ...]  # dimensions of ``parent_shape`` that the message has not


class _NodeLayout(NamedTuple):
    """Layout of a clique around one of its nodes: cells ``(before, states, after)``."""

    clique: int
    shape: tuple[int, int, int]


def _plan_cliques(tree: CliqueTree, sizes: Sequence[int]) -> list[_Clique]:
    """Order the nodes of each clique, and compute the shapes of its messages."""
    incoming: dict[int, list[frozenset[int]]] = {i: [] for i in range(len(tree.cliques))}
    for parent, shared in zip(tree.parents, tree.separators, strict=True):
        if parent >= 0:
            incoming[parent].append(shared)
    cliques: list[_Clique] = []
    for index, members in enumerate(tree.cliques):
        shared, parent = tree.separators[index], tree.parents[index]
        outer = cliques[parent].nodes if parent >= 0 else ()
        first = [n for n in outer if n in shared]
        # nodes that the same messages hold are neighbours, so that dimensions merge
        large = sorted(incoming[index], key=lambda s: -math.prod(sizes[n] for n in s))
        rest = sorted(members - shared, key=lambda n: ([n not in s for s in large], n))
        nodes = (*first, *rest)
        message_shape, parent_shape = _message_shapes(outer, shared, sizes)
        cliques.append(
            _Clique(
                nodes=nodes,
                parent=parent,
                separator=math.prod(sizes[n] for n in first),
                cells=math.prod(sizes[n] for n in nodes),
                message_shape=message_shape,
                parent_shape=parent_shape,
                summed_dims=tuple(
                    i
                    for i, (m, p) in enumerate(zip(message_shape, parent_shape, strict=True))
                    if m != p
                ),
            )
        )
    return cliques


def _message_shapes(
    nodes: Sequence[int], shared: frozenset[int], sizes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a message and its parent, neighbouring (un)shared dimensions merged."""
    message: list[int] = []
    parent: list[int] = []
    before: bool | None = None
    for node in nodes:
        held, size = node in shared, sizes[node]
        if held is before:
            parent[-1] *= size
            message[-1] *= size if held else 1
        else:
            parent.append(size)
            message.append(size if held else 1)
        before = held
    return tuple(message), tuple(parent)


def _layout_node(
    node: int, clique: int, cliques: Sequence[_Clique], sizes: Sequence[int]
) -> _NodeLayout:
    """Layout of the cells of a clique around one of its nodes."""
    nodes = cliques[clique].nodes
    at = nodes.index(node)
    before = math.prod(sizes[n] for n in nodes[:at])
    after = math.prod(sizes[n] for n in nodes[at + 1 :])
    return _NodeLayout(clique, (before, sizes[node], after))


def refuse_too_large(query: str, told: str, cells: int, like: Tensor) -> None:
    """Refuse a query whose tables do not fit in the memory at hand, before they are computed.

    Parameters
    ----------
    query, told
        The query, and its size in words.
    cells
        Cells of all tables together.
    like
        A tensor of their dtype and device.

    Raises
    ------
    QueryError
        Says what a query takes, what is at hand, and what else can be done.
    """
    wanted = COPIES_PER_QUERY * like.element_size() * cells
    if wanted <= SMALL_BYTES:
        return
    at_hand = _available_bytes(like.device)
    if wanted > SHARE_OF_MEMORY * at_hand:
        raise QueryError(
            f"{query} does not fit: {told}, so that it takes {_in_words(wanted)}, and "
            f"{_in_words(at_hand)} are at hand; marginals(..., method='loopy') or "
            "method='likelihood-weighting' are approximate and estimate their error, or give the "
            "net fewer arrows or states"
        )


def _available_bytes(device: torch.device) -> int:
    """Memory at hand on a device: free, and within the limit of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        found.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        found.append(limit - int((folder / "memory.current").read_text(encoding="ascii")))
    return max(0, min(found)) if found else DEFAULT_BYTES


def _in_words(size: int) -> str:
    """Size in GiB, or the unit that fits."""
    units = ("MiB", "GiB", "TiB", "PiB")
    power = min(max(int(math.log2(max(size, 1)) // 10), 2), 5)
    return f"{size / 2 ** (10 * power):.3g} {units[power - 2]}"
