"""A picture of a net: layers from parents to children, few crossings."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_zoo.models.discrete.bayes_net.graph import Graph

__all__ = ["draw_net", "layered"]


def layered(graph: Graph, sweeps: int = 20) -> dict[str, tuple[float, float]]:
    """Place the nodes: a layer below the lowest parent, in it near the neighbours' middle.

    Sugiyama, Tagawa & Toda 1981, Methods for visual understanding of hierarchical system
    structures, without its dummy nodes.

    Returns
    -------
    dict
        ``{node: (x, y)}``, nodes of a layer at least 1 apart, layers 1 apart, roots on top.
    """
    depth: dict[str, int] = {}
    for node in graph.order:
        depth[node] = max((depth[p] + 1 for p in graph.parents[node]), default=0)
    layers = [[n for n in graph.order if depth[n] == d] for d in range(max(depth.values()) + 1)]
    x = {n: i - (len(layer) - 1) / 2 for layer in layers for i, n in enumerate(layer)}
    for sweep in range(sweeps):
        down = sweep % 2 == 0
        for layer in layers if down else layers[::-1]:
            for node in layer:
                near = graph.parents[node] if down else graph.children[node]
                if near:
                    x[node] = float(np.mean([x[n] for n in near]))
            layer.sort(key=x.__getitem__)
            wanted = np.array([x[n] for n in layer])
            placed = wanted.copy()
            for i in range(1, len(layer)):
                placed[i] = max(placed[i], placed[i - 1] + 1.0)
            placed -= (placed - wanted).mean()  # pushed apart to both sides
            x |= dict(zip(layer, placed.tolist(), strict=True))
    return {node: (x[node], -float(depth[node])) for node in graph.order}


def draw_net(net: Any, evidence: Any, *, marginals: bool, axes: Any) -> Any:
    """See `BayesNet.draw`."""
    from matplotlib.figure import Figure

    places = layered(net.graph)
    xs, ys = zip(*places.values(), strict=True)
    if axes is None:
        width, height = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
        figure = Figure(
            figsize=(min(1.5 * width + 1, 40), min(1.3 * height + 1, 40)), layout="constrained"
        )
        axes = figure.add_subplot()
    known = net.alphabet.evidence(evidence, net.device)[0].tolist()
    found = net.marginals(evidence) if marginals else None
    patches = {}
    for index, node in enumerate(net.nodes):
        label, state = node, known[index]
        if state >= 0:
            label += f"\n= {net.states[node][state]}"
        elif found is not None:
            bars = zip(net.states[node], found[node][0].tolist(), strict=True)
            label += "".join(f"\n{name} {p:.3f}" for name, p in bars)
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#d9e6f2" if state >= 0 else "white",
            "edgecolor": "#35506b",
        }
        patches[node] = axes.text(
            *places[node], label, ha="center", va="center", fontsize=8, bbox=box, zorder=2
        )
    for node, above in net.graph.parents.items():
        for parent in above:
            axes.annotate(
                "",
                xy=places[node],
                xytext=places[parent],
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#7a8894",
                    "patchA": patches[parent].get_bbox_patch(),
                    "patchB": patches[node].get_bbox_patch(),
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
                zorder=1,
            )
    axes.set_xlim(min(xs) - 0.8, max(xs) + 0.8)
    axes.set_ylim(min(ys) - 0.6, max(ys) + 0.6)
    axes.axis("off")
    return axes.figure
