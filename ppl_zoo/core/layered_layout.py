"""Layered layout of a directed graph, after Sugiyama: parents above children, groups in boxes.

Sugiyama, Tagawa & Toda 1981, Methods for visual understanding of hierarchical system
structures, https://doi.org/10.1109/TSMC.1981.4308636: layers, dummy nodes where an edge passes a
layer, an order with few crossings, places. The places are a least-squares problem: edges upright,
nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = ["Box", "Layout", "layered_layout", "text_size"]

#: trial orders of a layout, which bounds its time
MAX_TRIALS = 4000
#: nodes and dummies up to which the order is improved by trials, and places are least squares
MAX_IMPROVED, MAX_SQUARES = 120, 160
#: width of the lane of an edge that passes a layer, in units of the gap between nodes
LANE = 0.5


class Box(NamedTuple):
    """Box around members of a group; x to the right, y up."""

    group: str
    left: float
    bottom: float
    right: float
    top: float
    label_left: bool


@dataclass(frozen=True)
class Layout:
    """Places of a graph's nodes, x to the right, y up, in the units of their sizes.

    Attributes
    ----------
    places
        ``{node: (x, y)}``, the centres.
    boxes
        Boxes of the groups, the outer ones first; a group whose members cannot be in one box
        without others has several.
    routes
        ``{(parent, child): [(x, y), ...]}`` points that an edge passes: where it enters and leaves
        each layer between the two.
    sizes
        Width and height of each node.
    extent
        ``(left, bottom, right, top)`` of it all.
    """

    places: dict[str, tuple[float, float]]
    boxes: list[Box] = field(default_factory=list)
    routes: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    extent: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    sizes: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def curve(self, parent: str, child: str, spread: float = 0.4) -> np.ndarray:
        """Cubic Bezier curve of an edge, which crosses no node.

        Parameters
        ----------
        parent, child
            The edge.
        spread
            Part of the parent's width, from 0 to 1, that its edges may leave from.

        Returns
        -------
        numpy.ndarray
            ``(1 + 3 * pieces, 2)``: the first point, then two controls and the end of each piece.
        """
        down = self.places[child][1] < self.places[parent][1]
        beside = self.places[child][1] == self.places[parent][1]
        passed = self.routes.get((parent, child), [])
        ends = []
        for node, other, leaves in ((parent, child, True), (child, parent, False)):
            towards = (passed[0] if leaves else passed[-1]) if passed else self.places[other]
            (x, y), (width, height) = self.places[node], self.sizes[node]
            room = (spread if leaves else 0.4) * width / 2
            x += float(np.clip(0.25 * (towards[0] - x), -room, room))
            below = beside or leaves == down
            ends.append((x, y - height / 2 if below else y + height / 2))
        points = [ends[0], *passed, ends[1]]
        found = [points[0]]
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            if beside:
                bend = abs(x1 - x0) / 4
                found += [(x0, y0 - bend), (x1, y1 - bend), (x1, y1)]
            else:
                middle = (y0 + y1) / 2
                found += [(x0, middle), (x1, middle), (x1, y1)]
        return np.array(found)


def text_size(text: str, points: float) -> tuple[float, float]:
    """Width and height of lines of text, in points, as matplotlib draws them."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=points)
    widths = [
        text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
        for line in text.split("\n")
    ]
    return max(widths), 1.25 * points * len(widths)


def layered_layout(
    parents: Mapping[str, Sequence[str]],
    sizes: Mapping[str, tuple[float, float]] | None = None,
    groups: Mapping[str, Collection[str]] | None = None,
    *,
    gap: float = 0.2,
    pad: float = 0.2,
    label: float = 0.2,
    label_widths: Mapping[str, float] | None = None,
) -> Layout:
    """Lay out a directed graph in layers.

    Parameters
    ----------
    parents
        ``{node: its parents}``, nodes in the order of the program; of a circle the edges that go
        back in this order do not count for the layers.
    sizes
        Width and height of each node; 0.8 by 0.5 by default.
    groups
        ``{group: its nodes}``, each to be in a box of its own; they may be nested or crossed.
    gap
        Least distance of two nodes, and half of that of two layers.
    pad, label
        Distance of a box from what is in it, and the height of its label.
    label_widths
        Widths of the labels.

    Returns
    -------
    Layout

    Examples
    --------
    >>> layout = layered_layout({"rain": [], "wet": ["rain"]})
    >>> layout.places["rain"][1] > layout.places["wet"][1]
    True
    """
    order = {node: i for i, node in enumerate(parents)}
    if not order:
        return Layout({})
    sizes = sizes or dict.fromkeys(parents, (0.8, 0.5))
    known = {name: set(nodes) & order.keys() for name, nodes in (groups or {}).items()}
    known = {name: nodes for name, nodes in known.items() if nodes}
    edges = [(p, n) for n, above in parents.items() for p in above if p != n]
    layer = _layers(order, edges)
    graph = _Layered(order, layer, edges, known)
    ranks = graph.ordered()
    boxes = _boxes(graph, ranks, known)
    x, sides = _columns(graph, ranks, boxes, sizes, gap, pad, label_widths or {})
    y, edges_of_layers = _heights(graph, boxes, sizes, gap, pad, label)
    places = {n: (x[n], y[layer[n]]) for n in order}
    shown = []
    for number, box in enumerate(boxes):
        left, right = sides[number]
        above, below = edges_of_layers[box.first][0], edges_of_layers[box.last][1]
        bottom = below - box.level * (pad + label)
        crossed_right = any(
            other is not box
            and box.members & other.members
            and not (box.members <= other.members or other.members <= box.members)
            and sides[i][1] > right
            for i, other in enumerate(boxes)
        )
        shown.append(Box(box.group, left, bottom, right, above + box.level * pad, crossed_right))
    shown.sort(key=lambda b: (b.left - b.right) * (b.top - b.bottom))
    routes = {}
    for (a, b), lane in graph.lanes.items():
        points = [(x[d], side) for d in lane for side in edges_of_layers[graph.layer[d]]]
        if layer[b] < layer[a]:  # an edge that goes up
            points = [(x[d], s) for d in lane for s in edges_of_layers[graph.layer[d]][::-1]]
        routes[a, b] = points
    lefts = [x[n] - sizes[n][0] / 2 for n in order] + [b.left for b in shown]
    rights = [x[n] + sizes[n][0] / 2 for n in order] + [b.right for b in shown]
    for lane in routes.values():
        lefts += [point[0] for point in lane]
        rights += [point[0] for point in lane]
    tops = [edges_of_layers[0][0], *(b.top for b in shown)]
    bottoms = [edges_of_layers[-1][1], *(b.bottom for b in shown)]
    extent = (min(lefts), min(bottoms), max(rights), max(tops))
    return Layout(places, shown, routes, extent, dict(sizes))


def _layers(order: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Layer of each node: one below its lowest parent; a root just above its highest child."""
    forward = [(a, b) for a, b in edges if order[a] < order[b]]
    above: dict[str, list[str]] = {n: [] for n in order}
    below: dict[str, list[str]] = {n: [] for n in order}
    for a, b in forward:
        above[b].append(a)
        below[a].append(b)
    layer: dict[str, int] = {}
    for node in order:
        layer[node] = max((layer[p] + 1 for p in above[node]), default=0)
    for node in reversed(list(order)):
        if not above[node] and below[node]:
            layer[node] = min(layer[c] for c in below[node]) - 1
    return layer


class _Group(NamedTuple):
    """Members of a group that one box holds, with the layers that it spans."""

    group: str
    members: frozenset[str]
    first: int
    last: int
    level: int


class _Layered:
    """Nodes in layers, edges that pass layers replaced by lanes of dummy nodes."""

    def __init__(
        self,
        order: Mapping[str, int],
        layer: Mapping[str, int],
        edges: Sequence[tuple[str, str]],
        groups: Mapping[str, set[str]],
    ) -> None:
        self.nodes = list(order)
        self.layer = dict(layer)
        self.groups = groups
        self.strangers = {name: self._strangers(name) for name in groups}
        self.lanes: dict[tuple[str, str], list[str]] = {}
        self.segments: list[tuple[str, str]] = []
        spans = sum(max(abs(layer[b] - layer[a]) - 1, 0) for a, b in edges)
        with_lanes = len(order) + spans <= 4 * MAX_IMPROVED
        for a, b in edges:
            down = layer[b] > layer[a]
            steps = range(min(layer[a], layer[b]) + 1, max(layer[a], layer[b]))
            lane = [f"{a}\0{b}\0{k}" for k in steps] if with_lanes else []
            self.layer |= dict(zip(lane, steps, strict=False))
            self.lanes[a, b] = lane if down else lane[::-1]
            chain = [a if down else b, *lane, b if down else a]
            self.segments += zip(chain, chain[1:], strict=False)
        self.items = list(self.layer)
        self.depth = max(layer.values()) + 1

    def _strangers(self, name: str) -> set[str]:
        """Nodes that may not stand between the members of a group: others in its layers.

        Members of a group beside it too, whatever their layer, so that left of has no circle.
        """

        def span(nodes: set[str]) -> tuple[int, int]:
            own = [self.layer[n] for n in nodes]
            return min(own), max(own)

        members = self.groups[name]
        first, last = span(members)
        found = {n for n in self.nodes if first <= self.layer[n] <= last}
        for other in self.groups.values():
            start, end = span(other)
            if not other & members and start <= last and first <= end:
                found |= other
        return found - members

    def in_layer(self, number: int, ranks: Mapping[str, float]) -> list[str]:
        """Items of a layer from left to right."""
        return sorted((n for n in self.items if self.layer[n] == number), key=ranks.__getitem__)

    def ordered(self) -> dict[str, float]:
        """Rank of each item from left to right, with few crossings and few parted groups."""
        items = self._by_neighbours()
        if len(items) <= MAX_IMPROVED:
            items = self._improved(items)
        return {item: float(i) for i, item in enumerate(items)}

    def _by_neighbours(self) -> list[str]:
        """Order items by the mean of their neighbours, members of a group side by side."""
        place = {item: float(i) for i, item in enumerate(self.items)}
        near: dict[str, list[str]] = {item: [] for item in self.items}
        for a, b in self.segments:
            near[a].append(b)
            near[b].append(a)
        largest = sorted(self.groups, key=lambda g: -len(self.groups[g]))
        of = {n: next((g for g in largest if n in self.groups[g]), None) for n in self.items}
        items = self.items
        for _ in range(20):
            wanted = {
                n: np.mean([place[m] for m in near[n]]) if near[n] else place[n] for n in items
            }
            centre = {g: np.mean([wanted[n] for n in self.groups[g]]) for g in largest}
            middle = {n: wanted[n] if of[n] is None else centre[of[n]] for n in items}
            items = sorted(items, key=lambda n: (middle[n], of[n] or "", wanted[n]))
            place = {item: float(i) for i, item in enumerate(items)}
        return items

    def _improved(self, items: list[str]) -> list[str]:
        """Move items and groups to where they lower the number of crossings and parted groups."""
        number = {item: i for i, item in enumerate(self.items)}
        blocks = [[item] for item in self.items]
        blocks += [sorted(nodes, key=number.__getitem__) for nodes in self.groups.values()]
        cost = self._cost_function(number)
        best, trials = cost(items), 0
        improved = True
        while improved and trials < MAX_TRIALS:
            improved = False
            for block in blocks:
                held = set(block)
                rest = [n for n in items if n not in held]
                moved = [n for n in items if n in held]
                for at in range(len(rest) + 1):
                    trial = [*rest[:at], *moved, *rest[at:]]
                    trials += 1
                    value = cost(trial)
                    if value < best - 1e-9:
                        best, items, improved = value, trial, True
                if trials >= MAX_TRIALS:
                    break
        return items

    def _cost_function(self, number: Mapping[str, int]) -> Callable[[list[str]], float]:
        """Crossings, parted groups, lanes through boxes, and a little for length."""
        pairs = []
        for k in range(self.depth):
            own = [(a, b) for a, b in self.segments if self.layer[a] == k]
            if len(own) > 1:
                pairs.append(np.array([[number[a], number[b]] for a, b in own]).T)
        ends = np.array([[number[a], number[b]] for a, b in self.segments]).reshape(-1, 2).T
        layers = np.array([self.layer[n] for n in self.items])
        dummy = np.array(["\0" in n for n in self.items])
        spans = []
        for name, nodes in self.groups.items():
            own = [self.layer[n] for n in nodes]
            member = np.array([n in nodes for n in self.items])
            inside = member | np.array([n in self.strangers[name] for n in self.items])
            within = (layers >= min(own)) & (layers <= max(own)) & dummy
            spans.append((inside, member, within))

        def cost(items: list[str]) -> float:
            sequence = np.array([number[n] for n in items])
            rank = np.empty(len(items))
            rank[sequence] = np.arange(len(items))
            total = 1e-3 * float(np.abs(rank[ends[0]] - rank[ends[1]]).sum())
            for upper, lower in pairs:
                a, b = rank[upper], rank[lower]
                total += float(((a[:, None] - a) * (b[:, None] - b) < 0).sum() / 2)
            for inside, member, within in spans:
                chosen = member[sequence[inside[sequence]]]
                parts = int(chosen[0]) + int((np.diff(chosen.astype(int)) > 0).sum())
                total += 100.0 * (parts - 1)
                own = rank[member]
                lanes = rank[within]
                total += 0.5 * float(((lanes > own.min()) & (lanes < own.max())).sum())
            return total

        return cost


def _boxes(
    graph: _Layered, ranks: Mapping[str, float], groups: Mapping[str, set[str]]
) -> list[_Group]:
    """Part groups where others stand between their members."""
    found: list[tuple[str, frozenset[str], int, int]] = []
    for name, nodes in groups.items():
        waiting = [sorted(nodes, key=ranks.__getitem__)]
        while waiting:
            members = waiting.pop()
            first = min(graph.layer[n] for n in members)
            last = max(graph.layer[n] for n in members)
            between = [
                n
                for n in graph.strangers[name]
                if ranks[members[0]] < ranks[n] < ranks[members[-1]]
            ]
            if between:
                cut = min(ranks[n] for n in between)
                waiting += [
                    [n for n in members if ranks[n] < cut],
                    [n for n in members if ranks[n] > cut],
                ]
            else:
                found.append((name, frozenset(members), first, last))
    # the more is inside, the further out; of equals and of crossed ones the later
    by_size = sorted(range(len(found)), key=lambda i: len(found[i][1]))
    level = dict.fromkeys(range(len(found)), 1)
    for place, i in enumerate(by_size):
        inner = [level[j] for j in by_size[:place] if found[j][1] & found[i][1]]
        level[i] = 1 + max(inner, default=0)
    return [_Group(*group, level[i]) for i, group in enumerate(found)]


def _columns(
    graph: _Layered,
    ranks: Mapping[str, float],
    boxes: Sequence[_Group],
    sizes: Mapping[str, tuple[float, float]],
    gap: float,
    pad: float,
    label_widths: Mapping[str, float],
) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """Place items and the sides of boxes from left to right."""
    index = {item: i for i, item in enumerate(graph.items)}
    num = len(index)
    width = {n: sizes[n][0] if n in sizes else LANE * gap for n in graph.items}
    rules: list[tuple[int, int, float]] = []  # x[j] - x[i] >= distance
    for k in range(graph.depth):
        row = graph.in_layer(k, ranks)
        for a, b in zip(row, row[1:], strict=False):
            rules.append((index[a], index[b], (width[a] + width[b]) / 2 + gap))
    for i, box in enumerate(boxes):
        left, right = num + 2 * i, num + 2 * i + 1
        rules.append((left, right, label_widths.get(box.group, 0.0) + 2 * pad))
        ranked = [ranks[n] for n in box.members]
        for n in graph.nodes:
            inside = box.first <= graph.layer[n] <= box.last
            half = width[n] / 2 + pad
            if n in box.members:
                rules += [(left, index[n], half), (index[n], right, half)]
            elif inside and ranks[n] < min(ranked):
                rules.append((index[n], left, half))
            elif inside:
                rules.append((right, index[n], half))
        for j, other in enumerate(boxes):
            own, theirs = (left, right), (num + 2 * j, num + 2 * j + 1)
            if box.members & other.members:
                if box.level > other.level and box.members >= other.members:
                    rules += [(own[0], theirs[0], pad), (theirs[1], own[1], pad)]
            elif box.first <= other.last and other.first <= box.last:
                if max(ranked) < min(ranks[n] for n in other.members):
                    rules.append((own[1], theirs[0], pad))
    pulls = [(index[a], index[b], 1.0) for a, b in graph.segments]
    straight = [(index[a], index[b], 4.0) for a, b in graph.segments if "\0" in a and "\0" in b]
    pulls += straight
    pulls += [(num + 2 * i, num + 2 * i + 1, 0.05) for i in range(len(boxes))]
    size = num + 2 * len(boxes)
    if size <= MAX_SQUARES:
        x = _least_squares(size, pulls, rules)
    else:
        x = _pushed(size, pulls, rules)
    sides = [(x[num + 2 * i], x[num + 2 * i + 1]) for i in range(len(boxes))]
    return {item: float(x[i]) for item, i in index.items()}, sides


def _least_squares(
    size: int, pulls: Sequence[tuple[int, int, float]], rules: Sequence[tuple[int, int, float]]
) -> np.ndarray:
    """Minimise squared lengths under least distances: by non-negative least squares.

    Lawson & Hanson 1974, Solving Least Squares Problems, chapter 23 (least distance programming).
    """
    from scipy.optimize import nnls

    quadratic = 1e-3 * np.eye(size)
    for i, j, weight in pulls:
        quadratic[[i, j], [i, j]] += weight
        quadratic[i, j] -= weight
        quadratic[j, i] -= weight
    if not rules:
        return np.zeros(size)
    lower = np.linalg.cholesky(quadratic)
    matrix = np.zeros((len(rules), size))
    distances = np.array([distance for _, _, distance in rules])
    for row, (i, j, _) in enumerate(rules):
        matrix[row, [i, j]] = -1.0, 1.0
    unit = distances.max()
    scaled = np.linalg.solve(lower, matrix.T)
    stacked = np.vstack([scaled, distances[None] / unit])
    target = np.zeros(size + 1)
    target[-1] = 1.0
    weights, _ = nnls(stacked, target, maxiter=50 * len(rules))
    residual = stacked @ weights - target
    x = np.linalg.solve(lower.T, -residual[:-1] / residual[-1]) * unit
    return _settled(x, rules)


def _pushed(
    size: int, pulls: Sequence[tuple[int, int, float]], rules: Sequence[tuple[int, int, float]]
) -> np.ndarray:
    """Settle large graphs: each item to its neighbours' mean, then apart; a few sweeps."""
    near: list[list[int]] = [[] for _ in range(size)]
    for i, j, _ in pulls:
        near[i].append(j)
        near[j].append(i)
    x = _settled(np.zeros(size), rules)
    for _ in range(10):
        wanted = np.array([x[n].mean() if n else x[i] for i, n in enumerate(near)])
        x = _settled((x + wanted) / 2, rules)
    return x


def _settled(x: np.ndarray, rules: Sequence[tuple[int, int, float]]) -> np.ndarray:
    """Keep every least distance exactly, by pushing to the right; the rules have no circle."""
    x = x.copy()
    after: dict[int, list[tuple[int, float]]] = {}
    waits = np.zeros(len(x), dtype=int)
    for i, j, distance in rules:
        after.setdefault(i, []).append((j, distance))
        waits[j] += 1
    ready = [i for i in range(len(x)) if not waits[i]]
    while ready:
        i = ready.pop()
        for j, distance in after.get(i, ()):
            x[j] = max(x[j], x[i] + distance)
            waits[j] -= 1
            if not waits[j]:
                ready.append(j)
    return x


def _heights(
    graph: _Layered,
    boxes: Sequence[_Group],
    sizes: Mapping[str, tuple[float, float]],
    gap: float,
    pad: float,
    label: float,
) -> tuple[list[float], list[tuple[float, float]]]:
    """Height of each layer's centre, and of its top and bottom."""
    tall = [
        max((sizes[n][1] for n in graph.nodes if graph.layer[n] == k), default=0.0)
        for k in range(graph.depth)
    ]
    centres: list[float] = []
    sides: list[tuple[float, float]] = []
    top = 0.0
    for k in range(graph.depth):
        centres.append(top - tall[k] / 2)
        sides.append((top, top - tall[k]))
        ending = max((b.level for b in boxes if b.last == k), default=0)
        starting = max((b.level for b in boxes if b.first == k + 1), default=0)
        top -= tall[k] + 2 * gap + ending * (pad + label) + starting * pad
    return centres, sides
