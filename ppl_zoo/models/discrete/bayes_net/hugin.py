"""Hugin's NET language, the files named .net: reader and writer of discrete networks."""

from __future__ import annotations

import re

import numpy as np

from ppl_zoo.core.errors import DataError
from ppl_zoo.models.discrete.bayes_net.network_file import NetworkFile, TokenStream

__all__ = ["HuginReader", "write_hugin"]

#: words before the name of a node that has a probability table
CHANCE = (["node"], ["discrete", "node"], ["discrete", "chance", "node"])
IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.A)


class HuginReader(TokenStream):
    """Recursive-descent parser of NET: nodes and potentials, also within one class.

    In the ``data`` of a potential the states of the node itself change fastest, then those of
    the last parent. Nodes bear their identifiers, not their labels.
    """

    pattern = re.compile(
        r'(?P<space>\s+|%[^\n]*|//[^\n]*)|"(?P<quoted>(?:[^"\\]|\\.)*)"'
        r"|(?P<mark>[{}()|;=,])|(?P<word>[^\s{}()|;=,\"%]+)",
        re.S,
    )

    def read(self) -> NetworkFile:
        """Read the whole file."""
        potentials = []  # they may come before their nodes
        depth = 0
        while not self.sees("end of file"):
            if depth and self.sees("}"):
                self.take("}")
                depth -= 1
                continue
            line, words = self.line, self.words()
            if words[0] == "class" and not depth:
                self.take("{")
                depth = 1
            elif words == ["net"]:
                self._attributes()
            elif words[-2:-1] == ["node"]:
                if words[:-1] not in CHANCE:
                    self.fail(f"got {' '.join(words)!r}, expected a discrete node", line)
                self._node(words[-1], line)
            elif words == ["potential"]:
                potentials.append(self.at)
                self.skip_to("{")
                self.skip_to("}")
            elif depth and self.sees("="):
                self.skip_to(";")
            else:
                self.fail(f"got {' '.join(words)!r}, expected net, node or potential", line)
        end = self.at
        for self.at in potentials:
            self._potential()
        self.at = end
        return self.finish()

    def _attributes(self) -> dict[str, tuple[list[str], int]]:
        """Take a block ``{ name = value; ... }``: the words of each value, and its line."""
        found = {}
        self.take("{")
        while not self.sees("}"):
            line, name = self.line, self.take()
            self.take("=")
            words = []
            while not self.sees(";"):
                if self.sees("end of file") or self.sees("}"):
                    self.fail(f"got {self.tokens[self.at].text!r}, expected ';'")
                token = self.tokens[self.at]
                if not token.mark:
                    words.append(token.text)
                self.at += 1
            self.take(";")
            found[name] = words, line
        self.take("}")
        return found

    def _node(self, node: str, line: int) -> None:
        """Block of a node."""
        states, at = self._attributes().get("states", ([], line))
        self.declare(node, states, at)

    def _potential(self) -> None:
        """Block ``( node | parents ) { data = (...); }``."""
        line = self.line
        self.take("(")
        names = self.words()
        if len(names) > 1:
            self.fail(f"got a joint potential of {names}, expected that of one node", line)
        node, parents = names[0], []
        if self.take("|", ")") == "|":
            parents = [] if self.sees(")") else self.words()
            self.take(")")
        sizes = self.family(node, parents, line)
        block = self._attributes()
        if "data" not in block:
            model, at = block.get("model_data", ([], line))
            self.fail_noisy(node, " ".join(model), at)
            got = f"the model {' '.join(model)[:60]!r}" if model else "no data"
            self.fail(f"{node!r}: got {got}, expected a table of probabilities", at)
        words, at = block["data"]
        if len(words) != np.prod(sizes):
            self.fail(f"{node!r}: got {len(words)} numbers, expected {np.prod(sizes)}", at)
        table = np.reshape([self.probability(word, at) for word in words], sizes)
        # Hugin normalises potentials: ones, its default, are how it writes that nothing is known
        table[(table == 1.0).all(-1)] = 1.0 / sizes[-1]
        self.set_table(node, parents, table, at)


def write_hugin(net: NetworkFile) -> str:
    """Write a network in the NET language; numbers keep all their digits.

    Raises
    ------
    DataError
        If the name of a node is none in NET: letters, digits and underscores.
    """
    lines = ["net", "{", "}"]
    for node, states in net.states.items():
        if not IDENTIFIER.fullmatch(node):
            raise DataError(
                f"node: got {node!r}, expected letters, digits and underscores for NET"
            )
        names = " ".join('"' + s.replace("\\", "\\\\").replace('"', '\\"') + '"' for s in states)
        lines += [f"node {node}", "{", f"  states = ({names});", "}"]
    for node, parents in net.parents.items():
        head = f"{node} | {' '.join(parents)}" if parents else node
        data = _nested(net.tables[node].tolist())
        lines += [f"potential ({head})", "{", f"  data = {data};", "}"]
    return "\n".join(lines) + "\n"


def _nested(table: list | float) -> str:
    """Numbers in brackets, a level for each dimension."""
    if isinstance(table, float):
        return repr(table)
    return "(" + " ".join(_nested(part) for part in table) + ")"
