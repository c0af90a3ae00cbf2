"""XMLBIF 0.3, the XML form of the Bayesian interchange format: reader and writer.

The parser is expat's, which builds no tree. Declarations of entities are refused, so that nothing
is expanded and nothing outside the file is read; the document type that most files carry is not
used.
"""

from __future__ import annotations

import re
from xml.parsers import expat
from xml.sax.saxutils import escape

import numpy as np

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.network_file import NetworkFile, NetworkReader

__all__ = ["XMLBIFReader", "write_xmlbif"]

#: elements whose text counts, and those that hold them
BLOCKS = {"VARIABLE": "variable", "DEFINITION": "definition", "PROBABILITY": "definition"}
#: characters that XML 1.0 has not, escaped or not
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TEXTS = {"NAME", "OUTCOME", "VALUE", "FOR", "GIVEN", "TABLE", "PROPERTY"}


class XMLBIFReader(NetworkReader):
    """Reader of XMLBIF: elements VARIABLE and DEFINITION, in any order.

    In a TABLE the states of the variable itself change fastest, then those of the last parent.
    """

    def __init__(self, file: str, normalize: bool = False) -> None:
        super().__init__(file, normalize)
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity
        self.parser.ExternalEntityRefHandler = lambda *_: self.fail("got an external entity")
        self.depth = 0
        self.block: dict[str, list[str]] | None = None  # texts of the block that is read
        self.block_line, self.in_definition = 1, False
        self.text: list[str] | None = None
        self.definitions: list[tuple[dict[str, list[str]], int]] = []

    @property
    def line(self) -> int:
        """Line that is being read."""
        return self.parser.CurrentLineNumber

    def read(self, source: bytes | str) -> NetworkFile:
        """Read the whole file."""
        self.length = len(source)
        try:
            self.parser.Parse(source, True)
        except expat.ExpatError as error:
            self.fail(f"got no well-formed XML: {error}")
        except (UnicodeError, LookupError) as error:
            self.fail(f"got an encoding that cannot be read: {error}")
        for block, line in self.definitions:
            self._definition(block, line)
        return self.finish()

    def _entity(self, name: str, *_: object) -> None:
        self.fail(
            f"got a declaration of entity {name!r}, expected none: entities are not expanded"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag, self.depth = name.rpartition(":")[2].upper(), self.depth + 1
        if self.depth == 1 and tag != "BIF":
            self.fail(f"got the element {name!r}, expected BIF")
        if tag in BLOCKS:
            if self.block is not None:
                self.fail(f"got {tag} within another block, expected its end")
            self.block, self.block_line = {}, self.line
            self.in_definition = tag != "VARIABLE"
            kind = next((v for k, v in attributes.items() if k.upper() == "TYPE"), "nature")
            if tag == "VARIABLE" and kind.lower() not in ("nature", "discrete"):
                self.fail(f"got a variable of type {kind!r}, expected 'nature'")
            if tag != "VARIABLE":
                self.fail_noisy("a definition", kind)
        elif tag in TEXTS:
            self.text = []
        elif self.block is not None and self.in_definition:
            self.fail(f"got the element {name!r}, expected one of {sorted(TEXTS)}")

    def _text(self, text: str) -> None:
        if self.text is not None:
            self.text.append(text)

    def _end(self, name: str) -> None:
        tag, self.depth = name.rpartition(":")[2].upper(), self.depth - 1
        if tag in BLOCKS and self.block is not None:
            block, self.block = self.block, None
            if BLOCKS[tag] == "definition":
                self.definitions.append((block, self.block_line))
            else:
                states = block.get("OUTCOME", []) + block.get("VALUE", [])
                self.declare(self._one(block, "NAME", self.block_line), states, self.block_line)
        elif tag in TEXTS and self.text is not None:
            text, self.text = "".join(self.text).strip(), None
            if self.block is not None:
                self.block.setdefault(tag, []).append(text)
            elif tag == "NAME":
                self.net.name = text

    def _one(self, block: dict[str, list[str]], tag: str, line: int) -> str:
        """Text of the one element of its kind."""
        texts = block.get(tag, [])
        if len(texts) != 1:
            self.fail(f"got {len(texts)} elements {tag} {texts[:3]}, expected one", line)
        return texts[0]

    def _definition(self, block: dict[str, list[str]], line: int) -> None:
        """Set the table of a DEFINITION."""
        node, parents = self._one(block, "FOR", line), block.get("GIVEN", [])
        if "TABLE" not in block:
            self.fail_noisy(node, " ".join(block.get("PROPERTY", [])), line)
        words = self._one(block, "TABLE", line).replace(",", " ").split()
        sizes = self.family(node, parents, line)
        if len(words) != np.prod(sizes):
            self.fail_noisy(node, " ".join(block.get("PROPERTY", [])), line)
            self.fail(f"{node!r}: got {len(words)} numbers, expected {np.prod(sizes)}", line)
        values = [self.probability(word, line) for word in words]
        self.set_table(node, parents, np.reshape(values, sizes), line)


def write_xmlbif(net: NetworkFile) -> str:
    """Write a network as XMLBIF 0.3; numbers keep all their digits.

    Raises
    ------
    DataError
        If a name cannot stand in XML: control characters, or blanks around it.
    """
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<BIF VERSION="0.3">', "<NETWORK>"]
    lines.append(f"<NAME>{_escape(net.name)}</NAME>")
    for node, states in net.states.items():
        lines += ['<VARIABLE TYPE="nature">', f"  <NAME>{_escape(node)}</NAME>"]
        lines += [f"  <OUTCOME>{_escape(state)}</OUTCOME>" for state in states]
        lines.append("</VARIABLE>")
    for node, parents in net.parents.items():
        lines += ["<DEFINITION>", f"  <FOR>{_escape(node)}</FOR>"]
        lines += [f"  <GIVEN>{_escape(parent)}</GIVEN>" for parent in parents]
        numbers = " ".join(repr(value) for value in net.tables[node].flatten().tolist())
        lines += [f"  <TABLE>{numbers}</TABLE>", "</DEFINITION>"]
    return "\n".join([*lines, "</NETWORK>", "</BIF>"]) + "\n"


def _escape(name: str) -> str:
    """Escape what XML would read as markup, and a carriage return, which it would drop."""
    if NO_XML.search(name) or name != name.strip():
        raise DataError(f"got the name {name!r}, expected one that XML can hold")
    return escape(name, {"\r": "&#13;"})
