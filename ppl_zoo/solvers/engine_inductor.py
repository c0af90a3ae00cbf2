"""A step at a time, by a graph that Inductor compiled."""

from __future__ import annotations

from collections.abc import Sequence

from ppl_zoo.solvers.engine_interpreted import Interpreted
from ppl_zoo.solvers.step_graph import graph_of
from ppl_zoo.solvers.svi_chain import SVIChain

__all__ = ["Inducted"]


class Inducted(Interpreted):
    """One step at a time, loss and gradients by a graph that Inductor compiled.

    Noise, optimizer and stopping are the interpreter's own, and so are the results.

    Raises
    ------
    CaptureError
        If the programs have no static graph.
    ValueError
        If Inductor cannot compile here; says why.
    """

    name = "inductor"

    def __init__(self, chains: Sequence[SVIChain], interpreted: Interpreted) -> None:
        from ppl_zoo.compiler import inductor

        vars(self).update(vars(interpreted))
        missing = inductor.lacks(self.rows.device)
        if missing:
            raise ValueError(missing)
        captured, order = graph_of(chains, interpreted)
        run = inductor.compile_graph(captured, self.rows.device)
        for chain in chains:
            chain.graph = (run, order)
