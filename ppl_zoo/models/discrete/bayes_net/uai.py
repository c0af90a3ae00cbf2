"""UAI's format of the inference competitions, for Bayesian networks: reader and writer.

A file has no names: the nodes of a file are x0, x1 ... and their states 0, 1 ...
"""

from __future__ import annotations

import numpy as np

from ppl_zoo.models.discrete.bayes_net.network_file import NetworkFile, NetworkReader

__all__ = ["UAIReader", "write_uai"]


class UAIReader(NetworkReader):
    """Reader of UAI: numbers between blanks, after the word BAYES.

    The last variable of a factor is the node, those before it are its parents; the last one
    changes fastest in its table.
    """

    def __init__(self, text: str, file: str, normalize: bool = False) -> None:
        super().__init__(file, normalize, len(text))
        lines = text.removeprefix("\ufeff").split("\n")
        self.words = [
            (word, number)
            for number, line in enumerate(lines, 1)
            for word in line.partition("#")[0].split()
        ]
        #: lines with a comment, which the format has not
        self.commented = {number for number, line in enumerate(lines, 1) if "#" in line}
        self.at = 0

    @property
    def line(self) -> int:
        """Line of the next number."""
        at = min(self.at, len(self.words) - 1)
        return self.words[at][1] if self.words else 1

    def read(self) -> NetworkFile:
        """Read the whole file."""
        head = self._word()
        if head.upper() == "MARKOV":
            self.fail("got a Markov network, expected BAYES: its factors are no probabilities")
        if head.upper() != "BAYES":
            self.fail(f"got {head!r}, expected BAYES", 1)
        count = self._integer(1, len(self.words))
        width = len(str(count - 1))
        nodes = [f"x{i:0{width}d}" for i in range(count)]
        left = len(self.words)  # each node has a table, no smaller than it has states
        for node in nodes:
            size = self._integer(1, left)
            left -= size
            self.declare(node, [str(state) for state in range(size)], self.line)
        factors = self._integer(0, len(self.words))
        if factors != count:
            self.fail(f"got {factors} factors, expected {count}, one for each variable")
        scopes = []
        for _ in range(factors):
            line, length = self.line, self._integer(1, count)
            if length > 2 and line in self.commented:
                self.fail(
                    "got a scope with a comment, as pyAgrum writes it, whose tables list the "
                    "parents in the opposite order to UAI's; expected a file of another kind, "
                    "such as BIF, or the comments removed where the order is UAI's",
                    line,
                )
            scopes.append(([nodes[self._integer(0, count - 1)] for _ in range(length)], line))
        for (*parents, node), line in scopes:
            sizes = self.family(node, parents, line)
            cells = int(np.prod(sizes))
            at, length = self.line, self._integer(0, 10**12)
            if length != cells:
                self.fail(f"{node!r}: got a table of {length} numbers, expected {cells}", at)
            values = [self.probability(self._word(), at) for _ in range(cells)]
            self.set_table(node, parents, np.reshape(values, sizes), at)
        if self.at < len(self.words):
            self.fail(f"got {self.words[self.at][0]!r}, expected the end of the file")
        return self.finish()

    def _word(self) -> str:
        if self.at >= len(self.words):
            self.fail("got the end of the file, expected more numbers")
        self.at += 1
        return self.words[self.at - 1][0]

    def _integer(self, least: int, most: int) -> int:
        """Take an integer within bounds."""
        line, word = self.line, self._word()
        if not (word.isascii() and word.isdigit() and len(word) < 16):
            self.fail(f"got {word!r}, expected an integer", line)
        if not least <= int(word) <= most:
            self.fail(f"got {word}, expected an integer from {least} to {most}", line)
        return int(word)


def write_uai(net: NetworkFile) -> str:
    """Write a network in UAI's format, without its names; numbers keep all their digits."""
    index = {node: str(i) for i, node in enumerate(net.states)}
    lines = ["BAYES", str(len(index)), " ".join(str(len(s)) for s in net.states.values())]
    lines.append(str(len(index)))
    for node, parents in net.parents.items():
        lines.append(" ".join([str(len(parents) + 1), *(index[n] for n in (*parents, node))]))
    for node in net.parents:
        values = net.tables[node].flatten().tolist()
        lines += ["", str(len(values)), " ".join(repr(value) for value in values)]
    return "\n".join(lines) + "\n"
