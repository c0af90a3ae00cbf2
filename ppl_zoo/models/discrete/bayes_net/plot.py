"""Plot of a Bayesian network in layers: parents above children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ppl_zoo.core.layered_layout import layered_layout, text_size
from ppl_zoo.models.discrete.bayes_net.graph import Graph

__all__ = ["plot_network"]

#: font size of labels, points, and the largest side of a new figure; larger nets have smaller type
FONT, MAX_INCHES = 8.0, 40.0


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
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    labels = {}
    for node, state in zip(states, observed, strict=True):
        labels[node] = node
        if state >= 0:
            labels[node] += f"\n= {states[node][state]}"
        elif marginals is not None:
            probabilities = zip(states[node], marginals[node][0].tolist(), strict=True)
            labels[node] += "".join(f"\n{name} {p:.3f}" for name, p in probabilities)
    sizes = {}
    for node, label in labels.items():
        width, height = text_size(label, FONT)
        sizes[node] = width + 0.7 * FONT, height + 0.7 * FONT
    layout = layered_layout({n: graph.parents[n] for n in graph.order}, sizes, gap=1.5 * FONT)
    left, bottom, right, top = layout.extent
    width, height = right - left + 2 * FONT, top - bottom + 2 * FONT
    font = FONT
    if axes is None:
        scale = min(1.0, MAX_INCHES * 72 / max(width, height))
        font *= scale
        figure = Figure(figsize=(scale * width / 72, scale * height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
    for node, state in zip(states, observed, strict=True):
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#d9e6f2" if state >= 0 else "white",
            "edgecolor": "#35506b",
        }
        x, y = layout.places[node]
        axes.text(
            x,
            y,
            labels[node],
            ha="center",
            va="center",
            fontsize=font,
            bbox=box,
            zorder=2,
            parse_math=False,
        )
    for node, above in graph.parents.items():
        for parent in above:
            points = layout.curve(parent, node)
            axes.add_patch(
                FancyArrowPatch(
                    path=Path(points, [1] + [4] * (len(points) - 1)),
                    arrowstyle="-|>",
                    color="#7a8894",
                    mutation_scale=font,
                    zorder=1,
                )
            )
    axes.set_xlim(left - FONT, right + FONT)
    axes.set_ylim(bottom - FONT, top + FONT)
    axes.axis("off")
    return axes.figure
