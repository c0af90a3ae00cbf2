"""Layered layouts: nothing overlaps, boxes hold their members and no others, edges miss nodes."""

import itertools
import random

import numpy as np
import pytest

from ppl_zoo.core.layered_layout import layered_layout

GAP, PAD, LABEL = 20.0, 9.0, 10.0


def random_graph(seed, num):
    """Nodes of unlike sizes, some in nested and some in crossed groups, some edges long."""
    rng = random.Random(seed)
    nodes = [f"n{i}" for i in range(num)]
    parents = {
        n: rng.sample(nodes[:i], min(i, rng.randint(0, 3))) if i else []
        for i, n in enumerate(nodes)
    }
    sizes = {n: (rng.uniform(20, 120), rng.uniform(15, 40)) for n in nodes}
    outer = set(rng.sample(nodes, num // 2))
    inner = set(rng.sample(sorted(outer), max(1, len(outer) // 2)))
    crossed = set(rng.sample(nodes, num // 3))
    return parents, sizes, {"outer": outer, "inner": inner, "crossed": crossed}


def rectangle(layout, node):
    (x, y), (width, height) = layout.places[node], layout.sizes[node]
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def apart(one, other):
    return (
        one[2] <= other[0] + 1e-6
        or other[2] <= one[0] + 1e-6
        or one[3] <= other[1] + 1e-6
        or other[3] <= one[1] + 1e-6
    )


def inside(one, other):
    return (
        other[0] <= one[0] + 1e-6
        and other[1] <= one[1] + 1e-6
        and one[2] <= other[2] + 1e-6
        and one[3] <= other[3] + 1e-6
    )


def points_of(curve, count=12):
    """Points on the pieces of a cubic Bezier curve."""
    t = np.linspace(0, 1, count)[:, None]
    for i in range(0, len(curve) - 1, 3):
        a, b, c, d = curve[i : i + 4]
        yield (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d


@pytest.mark.parametrize("seed", range(4))
def test_nothing_overlaps(seed):
    parents, sizes, groups = random_graph(seed, 6 + 2 * seed)
    layout = layered_layout(parents, sizes, groups, gap=GAP, pad=PAD, label=LABEL)
    assert layout.places.keys() == parents.keys()
    for a, b in itertools.combinations(parents, 2):
        assert apart(rectangle(layout, a), rectangle(layout, b)), (a, b)
    held = {name: set() for name in groups}
    for box in layout.boxes:
        sides = (box.left, box.bottom, box.right, box.top)
        for node in parents:
            if node in groups[box.group] and inside(rectangle(layout, node), sides):
                held[box.group].add(node)
            elif node not in groups[box.group]:
                assert apart(rectangle(layout, node), sides), (box, node)
    assert held == groups
    for child, above in parents.items():
        for parent in above:
            assert layout.places[parent][1] > layout.places[child][1]
            for piece in points_of(layout.curve(parent, child)):
                for node in parents.keys() - {parent, child}:
                    left, bottom, right, top = rectangle(layout, node)
                    x, y = piece.T
                    hit = (left < x) & (x < right) & (bottom + 1e-6 < y) & (y < top - 1e-6)
                    assert not hit.any(), (parent, child, node)


def test_nested_groups_have_one_box_each_and_crossed_ones_share_their_members():
    parents = {"mu": [], "a": ["mu"], "b": ["mu"], "y": ["a", "b"]}
    layout = layered_layout(parents, groups={"rows": {"a", "y"}, "columns": {"b", "y"}})
    assert sorted(box.group for box in layout.boxes) == ["columns", "rows"]
    parents = {"mu": [], "c": ["mu"], "z": ["c"], "y": ["z"]}
    layout = layered_layout(parents, groups={"out": {"c", "z", "y"}, "in": {"z", "y"}})
    outer, inner = layout.boxes
    assert (outer.group, inner.group) == ("out", "in")
    assert inside(inner[1:5], outer[1:5]) and outer.bottom < inner.bottom


def test_circles_and_empty_graphs_are_laid_out():
    assert layered_layout({}).places == {}
    layout = layered_layout({"a": ["b"], "b": ["a"], "c": ["c"]})
    assert len(set(layout.places.values())) == 3
    assert len(layout.curve("b", "a")) == len(layout.curve("a", "b")) == 4


def test_layout_is_repeatable_and_few_edges_cross():
    parents = {f"x{i}": [f"x{i - 1}"] if i else [] for i in range(5)}
    parents |= {f"y{i}": [f"x{i}"] for i in range(5)}
    one, other = layered_layout(parents), layered_layout(parents)
    assert one.places == other.places
    tree = layered_layout({"r": [], "a": ["r"], "b": ["r"], "c": ["a"], "d": ["b"], "e": ["a"]})
    x = {n: p[0] for n, p in tree.places.items()}
    assert (max(x["c"], x["e"]) < x["d"]) == (x["a"] < x["b"])
