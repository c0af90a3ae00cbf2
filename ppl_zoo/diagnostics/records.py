"""One chain as it is read from a fit, and how much is read at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["BLOCK", "KHAT_DRAWS", "ChainRecord"]

#: draws that k-hat is estimated from, at least; with fewer it moves by 0.2
KHAT_DRAWS = 4000
#: bound on what the model holds at once; it may need many times that inside
BLOCK = 2**20


@dataclass
class ChainRecord:
    """One chain: posterior ``{site: (draw, ...)}`` with local sites of the ``local`` rows."""

    posterior: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    replicates: dict[str, Tensor] = field(default_factory=dict)
    khat: float = float("nan")
