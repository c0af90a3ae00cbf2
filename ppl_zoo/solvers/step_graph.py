"""The graph of one step of SVI, the same for all chains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ppl_zoo.compiler import Captured, CaptureError, capture
from ppl_zoo.solvers.elbos import differentiable_loss
from ppl_zoo.solvers.engine_interpreted import Interpreted
from ppl_zoo.solvers.svi_chain import SVIChain

__all__ = ["graph_of"]


def graph_of(chains: Sequence[SVIChain], interpreted: Interpreted) -> tuple[Captured, list[int]]:
    """Capture the programs, and number the graph's parameters as the chains do.

    Raises
    ------
    CaptureError
        If they have no static graph, or chains have different ones.
    """

    def look(chain: SVIChain) -> Captured:
        def objective(*data: Tensor) -> Tensor:
            with chain.model.scaled_to(len(interpreted.rows)), chain.model.defaults():
                return differentiable_loss(chain.elbo, chain.pair, data)

        modules = [m for m in (chain.model, chain.guide) if isinstance(m, nn.Module)]
        return capture(objective, modules, interpreted.data(chain, 0))

    captured = look(chains[0])
    order, identity = _order(chains[0], captured), captured.fingerprint()
    # a second look: at another chain, or at the one again
    other = chains[-1]
    again = look(other)
    shapes = [[p.shape for p in chain.parameters] for chain in chains]
    same = _order(other, again) == order and again.fingerprint() == identity
    if not same or any(own != shapes[0] for own in shapes):
        what = (
            "differ in more than their parameters"
            if chains[1:]
            else "change from one run to the next by something that is not a tensor"
        )
        raise CaptureError(f"{type(other.model).__name__}: its programs {what}")
    return captured, order


def _order(chain: SVIChain, captured: Captured) -> list[int]:
    places = {id(p): i for i, p in enumerate(chain.parameters)}
    return [places[id(p)] for p in captured.parameters]
