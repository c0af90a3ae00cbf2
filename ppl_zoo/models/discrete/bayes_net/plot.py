"""Plot of a Bayesian network in layers, after Sugiyama: parents above children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ppl_zoo.models.discrete.bayes_net.graph import Graph

__all__ = ["plot_network"]


def plot_network(
    graph: Graph,
    states: Mapping[str, Sequence[str]],
    *,
    observed: Sequence[int],
    marginals: Mapping[str, Tensor] | None,
    axes: Any,
) -> Any:
    """Plot a network with matplotlib.

    Parameters
    ----------
    graph
        Nodes and arrows.
    states
        Names of the states of each node, the nodes in the order of ``observed``.
    observed
        State of each node, -1 where unobserved; observed nodes are shaded.
    marginals
        Posterior probabilities ``(1, states)`` of each node, to be written below its name.
    axes
        Matplotlib axes; None for a new figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    places = _layered_layout(graph)
    xs, ys = zip(*places.values(), strict=True)
    if axes is None:
        width, height = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
        figure = Figure(
            figsize=(min(1.5 * width + 1, 40), min(1.3 * height + 1, 40)), layout="constrained"
        )
        axes = figure.add_subplot()
    patches = {}
    for node, state in zip(states, observed, strict=True):
        label = node
        if state >= 0:
            label += f"\n= {states[node][state]}"
        elif marginals is not None:
            probabilities = zip(states[node], marginals[node][0].tolist(), strict=True)
            label += "".join(f"\n{name} {p:.3f}" for name, p in probabilities)
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#d9e6f2" if state >= 0 else "white",
            "edgecolor": "#35506b",
        }
        patches[node] = axes.text(
            *places[node], label, ha="center", va="center", fontsize=8, bbox=box, zorder=2
        )
    for node, above in graph.parents.items():
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
                zorder=3,  # after the boxes, whose place a draw finds anew
            )
    axes.set_xlim(min(xs) - 0.8, max(xs) + 0.8)
    axes.set_ylim(min(ys) - 0.6, max(ys) + 0.6)
    axes.axis("off")
    return axes.figure


def _layered_layout(graph: Graph, sweeps: int = 20) -> dict[str, tuple[float, float]]:
    """Layered layout: a node one layer below its lowest parent, near its neighbours' mean.

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
