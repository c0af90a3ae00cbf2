"""Conversion of Bayesian networks from and to files and networkx graphs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.bif import BIFReader, read_bif, write_bif
from ppl_zoo.models.discrete.bayes_net.graph import Graph
from ppl_zoo.models.discrete.bayes_net.hugin import HuginReader, write_hugin
from ppl_zoo.models.discrete.bayes_net.network_file import NetworkFile, decode, read_bytes
from ppl_zoo.models.discrete.bayes_net.uai import UAIReader, write_uai
from ppl_zoo.models.discrete.bayes_net.xmlbif import XMLBIFReader, write_xmlbif

__all__ = ["NetworkFiles"]

Network = TypeVar("Network", bound="NetworkFiles")

WRITERS = {"bif": write_bif, "xmlbif": write_xmlbif, "net": write_hugin, "uai": write_uai}
#: formats by the ends of file names; the text itself tells them first
FORMATS = {
    **{".bif": "bif", ".xml": "xmlbif", ".xmlbif": "xmlbif", ".bifxml": "xmlbif"},
    **{".xbif": "xmlbif", ".net": "net", ".hugin": "net", ".oobn": "net", ".uai": "uai"},
}
#: how the text of a format begins, after comments; the last ones are named, and not read
BEGINNINGS = {
    "xmlbif": r"<(?!smile|OpenMarkov|ProbModelXML)",
    "uai": r"(BAYES|MARKOV)\b",
    "bif": r"(network|variable|probability)\b",
    "net": r"(net\s*\{|class\b|node\b|(discrete|continuous|decision|utility)\s|potential\b)",
    "GeNIe's XDSL": r"<smile",
    "OpenMarkov's ProbModelXML": r"<(OpenMarkov|ProbModelXML)",
    "Netica's DNE": r"(bnet\b|// ~->)",
    "MSBN's DSC": r"belief\s+network\b",
}
SPACE_OR_COMMENT = re.compile(
    r"(\s+|//(?! ~->)[^\n]*|/\*.*?\*/|%[^\n]*|\#[^\n]*"
    r"|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(\[.*?\])?\s*>)+",
    re.S | re.I,
)


class NetworkFiles:
    """Import and export of a Bayesian network, a base class of `BayesNet`."""

    # of BayesNet, which is made as cls(parents, states, **options)
    graph: Graph
    nodes: tuple[str, ...]
    states: dict[str, tuple[str, ...]]
    cpt: Callable[[str], Tensor]

    @classmethod
    def from_file(
        cls: type[Network],
        source: Any,
        *,
        format: str | None = None,
        normalize: bool = False,
        **options: Any,
    ) -> Network:
        """Read a network from a file: BIF, XMLBIF, Hugin's NET or UAI, a .gz of one too.

        Parameters
        ----------
        source
            A path, or the text itself (something with a line break in it).
        format
            "bif", "xmlbif", "net" or "uai"; told by the text, or the end of the file's name,
            where left out.
        normalize
            Whether rows that do not sum to one (to a thousandth) are divided by their sum, with
            a warning that says which; they are refused otherwise.
        **options
            Of the model.

        Raises
        ------
        DataError
            If the file is malformed, too large, or of another format: its name, the line, what
            was found and what expected. Noisy-or and its kin are refused by name.
        """
        if isinstance(source, str) and "\n" in source:
            name, text, raw = "<text>", source, source.removeprefix("\ufeff")
        else:
            name, raw = str(source), read_bytes(source)
            text = decode(raw)
        format = _tell_format(text, name) if format is None else format
        if format not in WRITERS:
            raise DataError(f"{name}: got the format {format}, expected one of {list(WRITERS)}")
        if format == "bif":
            file = BIFReader(text, name, normalize).read()
        elif format == "net":
            file = HuginReader(text, name, normalize).read()
        elif format == "uai":
            file = UAIReader(text, name, normalize).read()
        else:
            file = XMLBIFReader(name, normalize).read(raw)
        return cls._of_file(file, name, options)

    @classmethod
    def from_bif(
        cls: type[Network], source: Any, *, normalize: bool = False, **options: Any
    ) -> Network:
        """Read a network from a BIF file.

        Parameters
        ----------
        source
            A path, of a .gz too, or the text itself. Any state names; rows are normalised.
        normalize
            As for `from_file`, which reads other formats too.
        **options
            Of the model.

        Raises
        ------
        DataError
            If the file is malformed: its name, the line, what was found and what expected.
        """
        return cls._of_file(read_bif(source, normalize=normalize), str(source)[:200], options)

    @classmethod
    def _of_file(
        cls: type[Network], file: NetworkFile, name: str, options: dict[str, Any]
    ) -> Network:
        """Build the network of a file; say which rows were normalised."""
        if file.normalized:
            rows, least, most = zip(*file.normalized.values(), strict=True)
            nodes = ", ".join(list(file.normalized)[:10])
            warnings.warn(
                f"{name}: normalised {sum(rows)} rows whose sums were {min(least):.6g} to "
                f"{max(most):.6g}, in the tables of {len(rows)} nodes: {nodes}",
                stacklevel=3,
            )
        options.setdefault("tables", file.tables)
        return cls(file.parents, file.states, **options)

    @classmethod
    def from_networkx(cls: type[Network], graph: Any, **options: Any) -> Network:
        """Convert a ``networkx.DiGraph``.

        Parameters
        ----------
        graph
            Its nodes have an attribute ``states`` (names or number), and perhaps ``table``
            ``(states of its parents..., states)`` and ``parents``, their order where the order of
            the edges is not that of the table.
        **options
            Of the model; ``states`` and ``tables`` too.

        Raises
        ------
        DataError
            If the graph is not directed, has a cycle, or a node has no states.
        """
        if not graph.is_directed():
            raise DataError("graph: got an undirected graph, expected a networkx.DiGraph")
        data = {str(node): dict(graph.nodes[node]) for node in graph}
        parents = {}
        for node in graph:
            edges = [str(p) for p in graph.predecessors(node)]
            order = [str(p) for p in data[str(node)].get("parents", edges)]
            if sorted(order) != sorted(edges):
                raise DataError(f"parents of {str(node)!r}: got {order}, but edges from {edges}")
            parents[str(node)] = order
        states = {n: d["states"] for n, d in data.items() if "states" in d}
        tables = {n: d["table"] for n, d in data.items() if "table" in d}
        return cls(parents, **{"states": states, "tables": tables, **options})

    def to_bif(self, path: str | Path | None = None) -> str:
        """Write the network as BIF; returns the text, and writes it to ``path`` if given."""
        return self.to_file(path, "bif")

    def to_file(self, path: str | Path | None = None, format: str | None = None) -> str:
        """Write the network as BIF, XMLBIF, Hugin's NET or UAI (which keeps no names).

        Parameters
        ----------
        path
            Where to write; nowhere if left out.
        format
            "bif", "xmlbif", "net" or "uai"; told by the end of the path where left out.

        Returns
        -------
        str
            The text.

        Raises
        ------
        DataError
            If the format is unknown, or cannot hold a name.
        """
        ending = Path(path).suffix.lower() if path is not None else ""
        format = FORMATS.get(ending) if format is None else format
        if format not in WRITERS:
            raise DataError(f"format: got {format or ending!r}, expected one of {list(WRITERS)}")
        tables = {node: self.cpt(node) for node in self.nodes}
        file = NetworkFile("unknown", dict(self.states), dict(self.graph.parents), tables)
        text = WRITERS[format](file)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_networkx(self) -> Any:
        """Return a ``networkx.DiGraph`` whose nodes have ``states``, ``parents`` and ``table``."""
        import networkx

        graph = networkx.DiGraph()
        for node, parents in self.graph.parents.items():
            table = self.cpt(node).cpu().numpy()
            graph.add_node(node, states=self.states[node], parents=parents, table=table)
        graph.add_edges_from((p, n) for n, above in self.graph.parents.items() for p in above)
        return graph


def _tell_format(text: str, name: str) -> str:
    """Tell the format of a network file by its text, or else by the end of its name."""
    start = SPACE_OR_COMMENT.match(text.removeprefix("\ufeff"))
    rest = text.removeprefix("\ufeff")[start.end() if start else 0 :]
    for format, beginning in BEGINNINGS.items():
        if re.match(beginning, rest, re.I):
            return format
    ending = Path(name.lower().removesuffix(".gz")).suffix
    if ending not in FORMATS:
        raise DataError(f"{name}: got {rest[:30]!r}, expected one of {list(WRITERS)}")
    return FORMATS[ending]
