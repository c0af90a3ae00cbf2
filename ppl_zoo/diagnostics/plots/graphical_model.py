"""Picture of a graphical model: plates as boxes, observed nodes shaded, on a light or dark ground.

Sizes are in points, and those of the labels are measured, so that nothing overlaps.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from ppl_zoo.core.layered_layout import Layout, layered_layout, text_size

if TYPE_CHECKING:
    from ppl_zoo.diagnostics.graphical_model import GraphicalModel, Node

__all__ = ["draw_graph", "figure_svg", "write_figure"]

#: font sizes, points: names, formulas and plates, the title
NAME, SMALL, TITLE = 10.0, 7.5, 11.0
#: characters of a name and of a formula that are shown
MAX_NAME, MAX_FORMULA = 30, 34
#: distances, points
GAP, PAD, MARGIN, DOT = 20.0, 9.0, 14.0, 3.2
#: two graphs up to this width stand side by side
MAX_SIDE_BY_SIDE = 760.0


class _Colours(NamedTuple):
    ground: str
    ink: str
    faint: str
    line: str
    plate: str
    latent: str
    observed: str
    parameter: str


LIGHT = _Colours(
    "#ffffff", "#1f2933", "#52606d", "#616e7c", "#9aa5b1", "#ffffff", "#d3dce6", "#0072B2"
)
DARK = _Colours(
    "#14181d", "#eef1f4", "#b8c2cc", "#a3aeb9", "#65717d", "#1f262e", "#3f4e61", "#56B4E9"
)


@dataclass(frozen=True)
class _Label:
    """Lines of a node's label: its name, and what stands below it in small type."""

    name: str
    below: str
    width: float
    height: float


def draw_graph(graph: GraphicalModel, *, dark: bool = False) -> Figure:
    """Draw a graph, and that of its guide beside or below it.

    Parameters
    ----------
    graph
        The graph; what repeats in it is drawn once.
    dark
        Light lines on a dark ground.

    Returns
    -------
    matplotlib.figure.Figure
    """
    graphs = [graph.collapsed()]
    if graph.guide is not None:
        graphs.append(graph.guide.collapsed())
    panels = [_Panel(g) for g in graphs]
    beside = sum(p.width for p in panels) <= MAX_SIDE_BY_SIDE
    if beside:
        width, height = sum(p.width for p in panels), max(p.height for p in panels)
    else:
        width, height = max(p.width for p in panels), sum(p.height for p in panels)
    colours = DARK if dark else LIGHT
    figure = Figure(figsize=(width / 72, height / 72), facecolor=colours.ground)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    x, y = 0.0, height
    for panel in panels:
        panel.draw(axes, x, y, colours)
        if beside:
            x += panel.width
        else:
            y -= panel.height
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a picture in its own colours; the suffix says how."""
    options = {} if path.suffix.lower() == ".svg" else {"dpi": 160}
    dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with mpl.rc_context({"svg.hashsalt": "ppl_zoo"}):
        figure.savefig(
            path,
            facecolor=figure.get_facecolor(),
            metadata=dated.get(path.suffix.lower()),
            **options,
        )


def figure_svg(figure: Figure) -> str:
    """Return a picture as SVG without its XML head."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ppl_zoo"}):
        figure.savefig(
            stream, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None}
        )
    text = stream.getvalue()
    return text[text.index("<svg") :]


class _Panel:
    """One graph with its title, notes and margins."""

    def __init__(self, graph: GraphicalModel) -> None:
        self.graph = graph
        self.labels = {name: _label(graph, node) for name, node in graph.nodes.items()}
        plates = {
            name: [n.name for n in graph.nodes.values() if name in n.plates]
            for name in graph.plates
        }
        self.layout: Layout = layered_layout(
            {name: graph.parents(name) for name in graph.nodes},
            {name: (label.width, label.height) for name, label in self.labels.items()},
            plates,
            gap=GAP,
            pad=PAD,
            label=SMALL + 3,
            label_widths={n: text_size(p.label, SMALL)[0] for n, p in graph.plates.items()},
        )
        self.notes = []
        if graph.possible:
            self.notes = ["dashed: possible, by a value", "that is read in Python"]
        left, bottom, right, top = self.layout.extent
        texts = [text_size(graph.name, TITLE)[0], *(text_size(n, SMALL)[0] for n in self.notes)]
        self.inner = right - left
        self.width = max(self.inner, *texts) + 2 * MARGIN
        self.head = 1.25 * TITLE + 10
        self.height = top - bottom + self.head + 2 * MARGIN + len(self.notes) * 1.4 * SMALL

    def draw(self, axes: Axes, x: float, y: float, colours: _Colours) -> None:
        """Draw it with its left upper corner at a place."""
        left, _, _, top = self.layout.extent
        dx = x + (self.width - self.inner) / 2 - left
        dy = y - MARGIN - self.head - top
        axes.text(
            x + self.width / 2,
            y - MARGIN,
            self.graph.name,
            ha="center",
            va="top",
            fontsize=TITLE,
            color=colours.ink,
            parse_math=False,
        )
        for number, box in enumerate(self.layout.boxes):
            axes.add_patch(
                FancyBboxPatch(
                    (box.left + dx, box.bottom + dy),
                    box.right - box.left,
                    box.top - box.bottom,
                    boxstyle="round,pad=0,rounding_size=6",
                    facecolor="none",
                    edgecolor=colours.plate,
                    linewidth=1,
                    zorder=1 + 0.01 * number,
                )
            )
            axes.text(
                (box.left + PAD if box.label_left else box.right - PAD) + dx,
                box.bottom + 4 + dy,
                self.graph.plates[box.group].label,
                ha="left" if box.label_left else "right",
                va="bottom",
                fontsize=SMALL,
                color=colours.faint,
                parse_math=False,
                zorder=4,
            )
        for a, b in self.graph.edges:
            self._draw_edge(axes, a, b, dx, dy, colours)
        for node in self.graph.nodes.values():
            self._draw_node(axes, node, dx, dy, colours)
        for line, note in enumerate(reversed(self.notes)):
            axes.text(
                x + self.width / 2,
                y - self.height + MARGIN / 2 + line * 1.4 * SMALL,
                note,
                ha="center",
                va="bottom",
                fontsize=SMALL,
                color=colours.faint,
            )

    def _draw_edge(
        self, axes: Axes, a: str, b: str, dx: float, dy: float, colours: _Colours
    ) -> None:
        if a == b:
            (x, y), label = self.layout.places[a], self.labels[a]
            side = x + label.width / 2 - LOOP
            points = [(side, y + 5), (side + LOOP + 4, y + 9), (side + LOOP + 4, y - 9)]
            curve = Curve(
                [(px + dx, py + dy) for px, py in [*points, (side, y - 5)]], [1, 4, 4, 4]
            )
        else:
            dot = self.graph.nodes[a].kind == "parameter"
            points = self.layout.curve(a, b, spread=0.0 if dot else 0.4)
            curve = Curve(points + (dx, dy), [1] + [4] * (len(points) - 1))
        axes.add_patch(
            FancyArrowPatch(
                path=curve,
                arrowstyle="-|>,head_length=5,head_width=2.4",
                linestyle=(0, (3, 2)) if (a, b) in self.graph.possible else "solid",
                color=colours.line,
                linewidth=1,
                joinstyle="miter",
                zorder=2,
            )
        )

    def _draw_node(self, axes: Axes, node: Node, dx: float, dy: float, colours: _Colours) -> None:
        (x, y), label = self.layout.places[node.name], self.labels[node.name]
        x, y = x + dx, y + dy
        width = label.width - (LOOP if (node.name, node.name) in self.graph.edges else 0)
        if width < label.width:
            x -= LOOP / 2
        text, small = colours.ink, colours.faint
        if node.kind == "parameter":
            # the dot is below its label, where the edges begin
            dot = y - label.height / 2 + DOT
            axes.add_patch(Circle((x, dot), DOT, color=colours.parameter, zorder=3))
            y += DOT + 1
        else:
            pill = node.kind in ("latent", "observed", "deterministic")
            fill = {
                "observed": colours.observed,
                "input": colours.observed,
                "factor": colours.ink,
            }.get(node.kind, colours.latent)
            if node.kind == "factor":
                text = small = colours.ground
            round_by = label.height / 2 if pill else 2
            axes.add_patch(
                FancyBboxPatch(
                    (x - width / 2, y - label.height / 2),
                    width,
                    label.height,
                    boxstyle=f"round,pad=0,rounding_size={round_by}",
                    facecolor=fill,
                    edgecolor=colours.ink,
                    linewidth=1.1,
                    linestyle=(0, (3, 2)) if node.kind == "deterministic" else "solid",
                    zorder=3,
                )
            )
        block = 1.25 * (NAME + (SMALL if label.below else 0))
        options = {"ha": "center", "va": "center", "parse_math": False, "zorder": 4}
        axes.text(
            x, y + block / 2 - 0.625 * NAME, label.name, fontsize=NAME, color=text, **options
        )
        if label.below:
            axes.text(
                x,
                y - block / 2 + 0.625 * SMALL,
                label.below,
                fontsize=SMALL,
                color=small,
                **options,
            )


#: width that the loop of an edge from a node to itself takes at its right, points
LOOP = 14.0


def _label(graph: GraphicalModel, node: Node) -> _Label:
    """Label of a node, and the size of its outline with it."""
    name = _shortened(node.name, MAX_NAME)
    shape = " x ".join(f"{s:,}" for s in node.shape)
    below = ""
    if node.kind in ("latent", "observed", "deterministic"):
        below = graph.formula(node)
        if len(below) > MAX_FORMULA:
            below = _shorter_formula(graph, node)
    elif node.members:
        below = f"{len(node.members)} parameters"
    elif node.kind == "parameter" and node.support not in ("", "real"):
        below = f"{node.support}, {shape}" if shape else node.support
    elif node.kind in ("parameter", "input"):
        below = shape
    sizes = [text_size(name, NAME), *([text_size(below, SMALL)] if below else [])]
    width, height = max(w for w, _ in sizes), sum(h for _, h in sizes)
    if node.kind == "parameter":
        return _Label(name, below, width + 4, height + 2 * DOT + 2)
    if node.kind in ("input", "factor"):
        return _Label(name, below, width + 12, height + 7)
    height += 8
    loop = LOOP if (node.name, node.name) in graph.edges else 0
    return _Label(name, below, width + 0.75 * height + loop, height)


def _shorter_formula(graph: GraphicalModel, node: Node) -> str:
    if node.kind == "deterministic":
        return _shortened(graph.formula(node), MAX_FORMULA)
    return f"{_shortened(node.distribution, MAX_FORMULA - 2)}"


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"
