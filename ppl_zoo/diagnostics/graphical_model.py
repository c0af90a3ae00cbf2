"""Graphical model of a program: nodes, edges and plates, as text, Graphviz source and picture.

The edges are what the program's data flow says: see :mod:`ppl_zoo.core.tracing.dependencies`.
"""

from __future__ import annotations

import base64
import copy
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.functions import FunctionModel, GuideProgram, module_of
from ppl_zoo.core.model import Model
from ppl_zoo.core.one_at_a_time import one_at_a_time
from ppl_zoo.core.parameters import unescape
from ppl_zoo.core.posterior import FittedModel
from ppl_zoo.core.random import fork_generators, set_seed
from ppl_zoo.core.tracing.dependencies import (
    DependencyTrace,
    Source,
    TracedArgument,
    TracedSite,
    trace_dependencies,
    without_wrappers,
)
from ppl_zoo.core.tracing.sites import base_of, first_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Argument", "GraphicalModel", "Node", "Plate", "render"]

#: sites of one numbered name that are shown one by one; of more the first few
MAX_NUMBERED, SHOWN_OF_NUMBERED = 6, 3
#: parameters outside of modules that are shown one by one
MAX_PARAMETERS = 8
#: sources that an argument names
MAX_NAMED = 3

#: rows that a program of any rows is run on
MAX_ROWS = 61

#: suffixes of :meth:`GraphicalModel.save`
FORMATS = (".svg", ".png", ".pdf", ".dot")


@dataclass(frozen=True)
class Argument:
    """Argument of a distribution.

    Attributes
    ----------
    name
        As the distribution calls it: "loc", "scale".
    sources
        Nodes that it is computed from.
    exact
        Whether it is the value of its only source, unchanged.
    value
        Its value where it is one number and has no sources; else None.
    """

    name: str
    sources: tuple[str, ...] = ()
    exact: bool = False
    value: float | None = None

    def text(self, shown: Mapping[str, str]) -> str:
        """Write it down; ``shown`` says which node stands for each source."""
        if self.value is not None:
            return f"{self.value:.4g}"
        names = list(dict.fromkeys(shown.get(s, s) for s in self.sources))
        if not names:
            return "..."
        if self.exact and names[0] == self.sources[0]:
            return names[0]
        more = ", ..." if len(names) > MAX_NAMED else ""
        return f"f({', '.join(names[:MAX_NAMED])}{more})"


@dataclass(frozen=True)
class Node:
    """Node of a graphical model.

    Attributes
    ----------
    name
        Name of the site, parameter or argument.
    kind
        "latent", "observed", "deterministic", "factor", "parameter" or "input" (an argument of
        the program that distributions are computed from).
    distribution
        Class of the distribution; empty for parameters and inputs.
    arguments
        Of the distribution.
    plates
        Names of the plates that it lies in, the outermost first.
    shape
        Of its value, plates and event.
    event_shape
        The event's part of it.
    support
        Where its values lie, in words; of a parameter its constraint.
    members
        Names of the nodes that it stands for; empty where it stands for itself.
    """

    name: str
    kind: str
    distribution: str = ""
    arguments: tuple[Argument, ...] = ()
    plates: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    event_shape: tuple[int, ...] = ()
    support: str = ""
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plate:
    """Plate: conditional independence of repeated statements.

    Attributes
    ----------
    name
        Name of the plate.
    size
        Rows that it stands for.
    subsample
        Rows of a minibatch; equal to ``size`` where it takes all.
    dim
        Batch dimension, counted from the right; None for a sequential plate, a loop.
    """

    name: str
    size: int
    subsample: int
    dim: int | None

    @property
    def label(self) -> str:
        """Name and size."""
        part = f"{self.subsample:,} of " if self.subsample != self.size else ""
        return f"{self.name}: {part}{self.size:,}"


@dataclass(frozen=True)
class GraphicalModel:
    """Graphical model of a program; made by :func:`ppl_zoo.render`.

    ``print`` it for a line a node; a notebook shows the picture.

    Attributes
    ----------
    name
        Of the model.
    nodes
        By name, in the order of the program.
    edges
        ``(parent, child)``: the child's distribution is computed from the parent's value.
    plates
        By name.
    possible
        Edges that a value read in Python may stand for: what the program reads decides on all that
        comes after. They are among ``edges``, and drawn dashed.
    notes
        What a reader has to know: where values are read in Python.
    guide
        Graphical model of the guide, where it was asked for.
    """

    name: str
    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    plates: Mapping[str, Plate] = field(default_factory=dict)
    possible: frozenset[tuple[str, str]] = frozenset()
    notes: tuple[str, ...] = ()
    guide: GraphicalModel | None = None

    def parents(self, name: str) -> tuple[str, ...]:
        """Names of the nodes that a node's distribution is computed from."""
        return tuple(a for a, b in self.edges if b == name)

    def children(self, name: str) -> tuple[str, ...]:
        """Names of the nodes whose distributions are computed from a node's value."""
        return tuple(b for a, b in self.edges if a == name)

    # ---- as text ------------------------------------------------------------------------------

    def text(self) -> str:
        """Write a line a node: its distribution, plates, shape and parents."""
        small = self.collapsed()
        width = max((len(n) for n in small.nodes), default=0)
        lines = [self.name]
        lines += [f"  {small._line(node, width)}" for node in small.nodes.values()]
        lines += [f"  note: {note}" for note in small.notes]
        if self.guide is not None:
            lines += ["", self.guide.text()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return (
            f"GraphicalModel({self.name}, {len(self.nodes)} nodes, {len(self.edges)} edges, "
            f"{len(self.plates)} plates)"
        )

    def formula(self, node: Node) -> str:
        """Write the distribution of a node with its arguments."""
        shown = {member: n.name for n in self.nodes.values() for member in n.members}
        parts = [a.text(shown) for a in node.arguments]
        if node.kind in ("deterministic", "factor"):
            return parts[0] if parts else "..."
        return f"{node.distribution}({', '.join(parts)})"

    def _line(self, node: Node, width: int) -> str:
        parts = [node.name.ljust(width)]
        if node.kind == "parameter":
            parts += [":", describe_parameter(node)]
        elif node.kind == "input":
            parts += [":", "data"]
        elif node.kind == "deterministic":
            parts += ["=", self.formula(node)]
        elif node.kind == "factor":
            parts += ["factor", self.formula(node)]
        else:
            parts += ["~", self.formula(node)]
        if node.plates:
            parts.append(f"[{', '.join(self.plates[p].label for p in node.plates)}]")
        size = node.shape if node.kind in ("parameter", "input") else node.event_shape
        if size and not (node.kind == "parameter" and node.members):
            parts.append(f"shape {' x '.join(f'{s:,}' for s in size)}")
        if node.kind == "observed":
            parts.append("observed")
        parents = [
            f"{p}?" if (p, node.name) in self.possible else p for p in self.parents(node.name)
        ]
        if parents:
            parts.append(f"<- {', '.join(parents)}")
        return " ".join(parts)

    # ---- as a smaller graph -------------------------------------------------------------------

    def collapsed(self) -> GraphicalModel:
        """Return the graph as it is shown: what repeats is one node.

        The parameters of a module are one node, so are the statements of a sequential plate; of
        more than six statements with numbered names (``x_0`` to ``x_999``) the first three stay.
        """
        stands: dict[str, str] = {}
        merged: dict[str, Node] = {}

        def merge(name: str, members: Sequence[str], **changes: Any) -> None:
            first = self.nodes[members[0]]
            merged[name] = replace(first, name=name, members=tuple(members), **changes)
            stands.update(dict.fromkeys(members, name))

        groups: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.kind == "parameter":
                owner = re.split(r"\$\$\$|\.", node.name, maxsplit=1)
                groups.setdefault(owner[0] if len(owner) > 1 else "", []).append(node.name)
        alone = groups.pop("", [])
        for owner, members in groups.items():
            if len(members) > 1:
                merge(owner if owner not in self.nodes else f"{owner}.*", members)
        if len(alone) > MAX_PARAMETERS:
            alike: dict[tuple[str, ...], list[str]] = {}
            for name in alone:
                alike.setdefault(self.children(name), []).append(name)
            for members in alike.values():
                if len(members) > SHOWN_OF_NUMBERED:
                    merge(f"{members[0]} ... {members[-1]}", members)
        families: dict[tuple, list[str]] = {}
        for node in self.nodes.values():
            if node.name not in stands and re.search(r"\d", node.name):
                loops = tuple(p for p in node.plates if self.plates[p].dim is None)
                key = (re.sub(r"\d+", "#", node.name), node.kind, node.distribution, node.plates)
                families.setdefault((*key, loops), []).append(node.name)
        edges = set(self.edges)
        for (template, *_, loops), members in families.items():
            inner = any((a, b) in edges for a in members for b in members) if loops else True
            if loops and not inner and len(members) > 1:
                letters = iter("ijklmn")
                name = re.sub("#", lambda _, n=letters: next(n, "i"), template)
                merge(name if name not in self.nodes else template, members)
            elif len(members) > MAX_NUMBERED:
                rest = members[SHOWN_OF_NUMBERED:]
                merge(f"{rest[0]} ... {rest[-1]}", rest)
        if not merged:
            return self
        nodes: dict[str, Node] = {}
        for node in self.nodes.values():
            name = stands.get(node.name, node.name)
            nodes.setdefault(name, merged.get(name, node))
        found: dict[tuple[str, str], bool] = {}
        for a, b in self.edges:
            edge = stands.get(a, a), stands.get(b, b)
            if edge[0] != edge[1] or a == b:
                found[edge] = found.get(edge, True) and (a, b) in self.possible
        possible = frozenset(edge for edge, only in found.items() if only)
        return replace(self, nodes=nodes, edges=tuple(found), possible=possible)

    # ---- as a picture -------------------------------------------------------------------------

    def plot(self, *, dark: bool = False) -> Figure:
        """Draw the graph: observed nodes shaded, deterministic ones dashed, parameters as dots.

        Parameters
        ----------
        dark
            Light lines on a dark ground.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from ppl_zoo.diagnostics.plots.graphical_model import draw_graph

        return draw_graph(self, dark=dark)

    def save(self, path: str | Path, *, dark: bool = False) -> Path:
        """Write the picture (``.svg``, ``.png``, ``.pdf``) or Graphviz source (``.dot``).

        Raises
        ------
        DataError
            If the suffix is none of these.
        """
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise DataError(f"path: got {path.name!r}, expected one of {', '.join(FORMATS)}")
        if path.suffix.lower() == ".dot":
            path.write_text(self.to_dot(), encoding="utf-8")
        else:
            from ppl_zoo.diagnostics.plots.graphical_model import write_figure

            write_figure(self.plot(dark=dark), path)
        return path

    def _repr_svg_(self, dark: bool = False) -> str:
        """Return the picture for a notebook."""
        from ppl_zoo.diagnostics.plots.graphical_model import figure_svg

        return figure_svg(self.plot(dark=dark))

    def _repr_html_(self) -> str:
        """Return the picture for a page that is light or dark, as its reader has chosen."""
        light, dark = (
            "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
            for svg in (self._repr_svg_(), self._repr_svg_(dark=True))
        )
        return (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" style="max-width: 100%" alt="{html.escape(self.text())}">'
            "</picture>"
        )

    def to_dot(self) -> str:
        """Write Graphviz source: plates are clusters, as far as they are nested.

        Of plates that cross a node can lie in one only; its label names the others.
        """
        small = self.collapsed()
        lines = [f"digraph {_quoted(self.name)} {{", "  node [fontname=Helvetica];"]
        tree = _cluster_tree(small)
        number = iter(range(len(tree) + 1))

        def write(cluster: tuple[str, ...], indent: str) -> None:
            for node in small.nodes.values():
                if _cluster_of(node, tree) == cluster:
                    outside = [p for p in node.plates if p not in cluster]
                    lines.append(f"{indent}{small._dot_node(node, outside)}")
            for inner in tree:
                if inner[:-1] == cluster:
                    lines.append(f"{indent}subgraph cluster_{next(number)} {{")
                    label = small.plates[inner[-1]].label
                    lines.append(f"{indent}  label={_quoted(label)}; style=rounded; labeljust=r;")
                    write(inner, f"{indent}  ")
                    lines.append(f"{indent}}}")

        write((), "  ")
        for a, b in small.edges:
            style = " [style=dashed]" if (a, b) in small.possible else ""
            lines.append(f"  {_quoted(a)} -> {_quoted(b)}{style};")
        return "\n".join([*lines, "}", ""])

    def _dot_node(self, node: Node, outside: Sequence[str]) -> str:
        label = node.name
        if node.kind in ("latent", "observed"):
            label += f"\n{self.formula(node)}"
        elif node.kind == "parameter":
            label += f"\n{describe_parameter(node)}"
        label += "".join(f"\n[{self.plates[p].label}]" for p in outside)
        options = {
            "observed": "shape=ellipse, style=filled, fillcolor=lightgrey",
            "deterministic": "shape=ellipse, style=dashed",
            "factor": "shape=box, style=filled, fillcolor=black, fontcolor=white",
            "parameter": "shape=plaintext",
            "input": "shape=box, style=filled, fillcolor=lightgrey",
        }.get(node.kind, "shape=ellipse")
        return f"{_quoted(node.name)} [label={_quoted(label)}, {options}];"


def describe_parameter(node: Node) -> str:
    """Say what a parameter node stands for."""
    if node.members:
        return f"{len(node.members)} parameters"
    return "parameter" if node.support in ("", "real") else f"parameter, {node.support}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _cluster_tree(graph: GraphicalModel) -> list[tuple[str, ...]]:
    """Paths of nested plates; a plate has one place, below the plate that it lies in most."""
    found: dict[str, tuple[str, ...]] = {}
    for node in sorted(graph.nodes.values(), key=lambda n: len(n.plates)):
        path: tuple[str, ...] = ()
        for plate in node.plates:
            if plate not in found:
                found[plate] = (*path, plate)
            if found[plate][:-1] == path:
                path = found[plate]
    return list(found.values())


def _cluster_of(node: Node, tree: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the innermost path whose plates all hold the node."""
    fitting = [path for path in tree if set(path) <= set(node.plates)]
    return max(fitting, key=len, default=())


# From a program to its graph.


@one_at_a_time
def render(
    model: Any,
    data: Any = None,
    *,
    guide: Any = None,
    inputs: bool = True,
    parameters: bool = True,
) -> GraphicalModel:
    """Draw the graphical model of a program: plates, distributions, and what depends on what.

    The program is run once, and each edge is found in the operations that it runs: from the value
    of a site, a parameter or an argument to the distribution of another site, however it gets
    there (indices, transforms, expansions, masks, factors). An edge is direct: of
    ``mu -> theta -> y`` there is no edge from ``mu`` to ``y``, if ``theta`` is a statement of the
    program whose value is used. A value that is read in Python (``if z > 0``) decides what comes
    next in ways that no operation shows: then all later sites depend on it, marked "?" and dashed,
    and a note names the line.

    Parameters
    ----------
    model
        A :class:`~ppl_zoo.Model`, a fit, or a plain Pyro function. It is left as it is.
    data
        As for :func:`ppl_zoo.fit`; of a fit, and of a model that was fitted, its own by default.
    guide
        True for the model's own guide, or that of the fit; or a guide program or autoguide class.
        It is drawn below the model.
    inputs, parameters
        Whether arguments that distributions are computed from, and learnt parameters, are nodes.

    Returns
    -------
    GraphicalModel
        ``.nodes``, ``.edges``, ``.plates``; ``print`` it, ``.plot()`` it, ``.save("model.svg")``.

    Raises
    ------
    DataError
        If the model cannot take the data, or there is no guide to draw.

    Examples
    --------
    >>> import ppl_zoo as zoo
    >>> print(zoo.render(zoo.EightSchools(), zoo.data.load("eight-schools")))
    EightSchools
      sigma : data shape 8
      mu    ~ Normal(0, 5)
      tau   ~ HalfCauchy(5)
      eta   ~ Normal(0, 1) [schools: 8]
      theta = f(mu, tau, eta) [schools: 8] <- mu, tau, eta
      y     ~ Normal(theta, sigma) [schools: 8] observed <- sigma, theta
    """
    fitted = model if isinstance(model, FittedModel) else None
    if fitted is not None:
        own: Any = fitted.model
        if data is None and fitted.rows is not None:
            data = fitted.data()
        guide = fitted.guide if guide is True else guide
    elif isinstance(model, Model):
        own = copy.deepcopy(model) if model.example is None else model
    elif callable(model) and not isinstance(model, type):
        own = FunctionModel(model)
    else:
        raise DataError(
            f"model: got {model!r}, expected a zoo.Model, a fit or a function with pyro.sample"
        )
    if data is None and own.example is not None:
        data = tuple(tensor for tensor, _ in own.example)
    if data is None and not isinstance(own, FunctionModel):
        raise DataError(
            f"{own.model_name}: got no data, expected those of a fit, render(model, x)"
        )
    data = () if data is None else getattr(data, "train", data)
    if own.example is None:
        own.learn_names(data)
        own.adopt_dtype(data)
    rows = own.as_rows(data)
    own.check_data(rows)
    with fork_generators(own.device), own.defaults():
        set_seed(0, own.device)
        own.find_data_plate(rows)
        few = own.any_rows and own.data_plate is not None and len(rows) > MAX_ROWS
        tensors = rows.head(MAX_ROWS) if few else rows.all()
        first_run(own, tensors)  # declares the parameters
        whole = {own.data_plate: len(rows)} if few else {}
        options = {"inputs": inputs, "parameters": parameters, "whole": whole}
        graph = _graph_of(own, own, tensors, own.model_name, **options)
        if guide is not None and guide is not False:
            program = _guide_program(own, guide)
            first_run(program, tensors)
            name = f"guide of {own.model_name}"
            graph = replace(graph, guide=_graph_of(program, own, tensors, name, **options))
    return graph


def _guide_program(model: Model, guide: Any) -> Callable[..., Any]:
    """Return the guide as a program of the model's arguments."""
    if guide is True:
        guide = model.guide if model.guide is not None else model.fitted_guide
    if guide is None or not callable(guide):
        raise DataError(
            f"guide: got {guide!r}, expected a program, an autoguide class, or True for a model "
            "that has one"
        )
    if isinstance(guide, type):
        guide = guide(model)
    held = (model.guide, model.fitted_guide)
    if isinstance(guide, GuideProgram) or any(guide is h for h in held if h is not None):
        return guide
    return GuideProgram(guide, model)


def _graph_of(
    program: Callable[..., Any],
    model: Model,
    tensors: tuple[Tensor, ...],
    name: str,
    *,
    inputs: bool,
    parameters: bool,
    whole: Mapping[str, int],
) -> GraphicalModel:
    """Trace a program, and make nodes, edges and plates of what is found."""
    held = dict(model.named_parameters())
    if program is not model and (module := module_of(program)) is not None:
        held |= dict(module.named_parameters())
    learnt = {_parameter_name(k): p for k, p in held.items() if p.requires_grad}
    arguments = dict(zip(model.argument_names, tensors, strict=False))
    trace = trace_dependencies(program, tensors, inputs=arguments, parameters=learnt)
    renamed = _node_names(trace)
    wanted = {"site", *(["input"] if inputs else []), *(["parameter"] if parameters else [])}
    edges: dict[tuple[str, str], bool] = {}
    for site in trace.sites.values():
        for source in _in_order(site.sources, renamed):
            if source.kind in wanted and (source.kind == "site" or renamed[source] != site.name):
                edge = renamed[source], site.name
                edges[edge] = edges.get(edge, True) and source in site.by_python
            elif source.kind == "input" and inputs:  # entries of what the site itself observes
                edges[site.name, site.name] = False
    nodes: dict[str, Node] = {}
    used = {source for site in trace.sites.values() for source in site.sources}
    for source, label in renamed.items():
        if source not in used or source.kind not in wanted or label in nodes:
            continue
        if source.kind == "input" and label not in trace.sites:
            shape = tuple(arguments[source.name].shape)
            if whole and shape[:1] == (MAX_ROWS,):
                shape = (*whole.values(), *shape[1:])
            nodes[label] = Node(label, "input", shape=shape)
        elif source.kind == "parameter":
            shape, constraint = trace.parameters[source.name]
            nodes[label] = Node(label, "parameter", shape=shape, support=_words(constraint))
    plates: dict[str, Plate] = {}
    for site in trace.sites.values():
        for frame in site.plates:
            full = whole.get(frame.name, frame.full_size)
            taken = full if frame.name in whole else frame.size
            plates[frame.name] = Plate(frame.name, full, taken, frame.dim)
        nodes[site.name] = _site_node(site, renamed, whole)
    notes = tuple(
        f"{', '.join(sorted(renamed[s] for s in sources))} read in Python at {line}: all that "
        "comes after may depend on it"
        for line, sources in trace.reads.items()
    )
    possible = frozenset(edge for edge, only in edges.items() if only)
    return GraphicalModel(name, nodes, tuple(edges), plates, possible, notes)


def _parameter_name(key: str) -> str:
    """Return Pyro's name of a parameter that a module holds."""
    return unescape(key.removeprefix("_declared.").removesuffix("_unconstrained"))


def _node_names(trace: DependencyTrace) -> dict[Source, str]:
    """Name the nodes; an argument that one site alone observes is that site."""
    observing: dict[Source, list[str]] = {}
    for site in trace.sites.values():
        if site.observes is not None and not site.deterministic:
            observing.setdefault(site.observes, []).append(site.name)
    found: dict[Source, str] = {}
    sources = {s for site in trace.sites.values() for s in site.sources}
    order = {name: i for i, name in enumerate(trace.parameters)}
    for source in sorted(sources, key=lambda s: (s.kind, order.get(s.name, 0), s.name)):
        label = source.name
        if source.kind == "input" and len(observing.get(source, ())) == 1:
            label = observing[source][0]
        elif source.name in trace.sites:
            label += " (parameter)" if source.kind == "parameter" else " (data)"
        if source.kind != "site":
            found[source] = label
    return found | {Source("site", name): name for name in trace.sites}


def _in_order(sources: Iterable[Source], renamed: Mapping[Source, str]) -> list[Source]:
    order = {source: i for i, source in enumerate(renamed)}
    return sorted(sources, key=order.__getitem__)


def _site_node(site: TracedSite, renamed: Mapping[Source, str], whole: Mapping[str, int]) -> Node:
    """Make the node of a site."""
    fn = site.fn
    if site.deterministic:
        kind = "deterministic"
    elif isinstance(base_of(fn), dist.Unit):
        kind = "factor"
    else:
        kind = "observed" if site.observed else "latent"
    shape = list(site.value.shape)
    event = tuple(fn.event_shape)
    dims = {f.dim for f in site.plates if f.dim is not None}
    if site.deterministic:  # Pyro's default takes all dimensions for the event
        event = tuple(shape[max(map(abs, dims), default=0) :]) if dims else tuple(shape)
    for frame in site.plates:
        at = len(shape) - len(event) + (frame.dim or 0)
        if frame.name in whole and frame.dim is not None and 0 <= at < len(shape):
            shape[at] = whole[frame.name]
    name, arguments = _distribution(site, renamed)
    support = "" if kind in ("deterministic", "factor") else _words(_support(fn))
    plates = tuple(f.name for f in site.plates)
    return Node(site.name, kind, name, arguments, plates, tuple(shape), event, support)


def _support(fn: Any) -> Any:
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def _distribution(
    site: TracedSite, renamed: Mapping[Source, str]
) -> tuple[str, tuple[Argument, ...]]:
    """Name of the distribution, without masks and expansions, and its arguments."""
    name = type(without_wrappers(site.fn)).__name__
    found = [_argument(key, held, site, renamed) for key, held in site.arguments.items()]
    if not found:  # transforms, mixtures: what they hold, at a glance
        sources = [s for s in _in_order(site.sources, renamed) if s not in site.by_python]
        names = tuple(dict.fromkeys(renamed[s] for s in sources))
        found = [Argument("", names)] if names else []
    return name, tuple(found)


def _argument(
    name: str, held: TracedArgument, site: TracedSite, renamed: Mapping[Source, str]
) -> Argument:
    if held.same is not None:
        return Argument(name, (renamed[held.same],), exact=True)
    if held.sources:
        own = _in_order(held.sources & site.sources, renamed)
        return Argument(name, tuple(dict.fromkeys(renamed[s] for s in own)))
    if held.value.numel():
        first = held.value.flatten()[0]
        if bool((held.value == first).all()):
            return Argument(name, value=float(first))
    return Argument(name)


def _words(constraint: Any) -> str:
    """Write a constraint in words."""
    if constraint is None:
        return ""
    if isinstance(constraint, constraints.independent):
        return _words(constraint.base_constraint)
    if isinstance(constraint, constraints.interval):
        ends = constraint.lower_bound, constraint.upper_bound
        if all(not isinstance(e, Tensor) or e.numel() == 1 for e in ends):
            return f"interval ({float(ends[0]):g}, {float(ends[1]):g})"
        return "interval"
    for lower in ("greater_than", "greater_than_eq"):
        if type(constraint) is getattr(constraints, lower):
            bound = constraint.lower_bound
            if isinstance(bound, Tensor) and bound.numel() != 1:
                return "bounded below"
            return "positive" if float(bound) == 0 else f"above {float(bound):g}"
    return re.sub(r"\(.*", "", str(constraint)).strip("_").replace("_", " ").lower()
