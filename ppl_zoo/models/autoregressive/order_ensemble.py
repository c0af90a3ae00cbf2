"""Ensemble of autoregressive nets over orders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.rows import Rows
from ppl_zoo.models.autoregressive.base import AutoregressiveModel
from ppl_zoo.models.autoregressive.sampling import SequentialSampler

__all__ = ["OrderEnsemble"]


class OrderEnsemble(AutoregressiveModel):
    """Ensemble of nets, in equal parts.

    Generative model::

        k ~ Uniform(1, ..., K)
        x ~ net_k

    so that the probability of a row is the mean of the nets', and its logarithm never below the
    mean of theirs. Nets of different orders err on different rows and gain the most. A step
    of a fit scores every net by itself. Density and samples are those of the mixture, exactly.

    Parameters
    ----------
    kind
        Class of the nets, by name: "FVSBN", "NADE", "MADE", ....
    members
        Arguments of each net; all of one shape, output and treatment of missing values.

    References
    ----------
    Uria, Murray & Larochelle (2014), A deep and tractable density estimator, ICML,
    https://arxiv.org/abs/1310.1757 (section 3.1, ensembles over orders).

    Examples
    --------
    >>> import torch, ppl_zoo as zoo
    >>> x = zoo.data.load("digits", binarize=True).train
    >>> nets = [{"num_features": 64, "order": "random", "seed": k} for k in range(3)]
    >>> ensemble = zoo.OrderEnsemble("FVSBN", nets)
    >>> fit = zoo.fit(ensemble, x, zoo.SVI(steps=20, batch_size=100), progress=False)
    >>> ensemble.log_prob(x).shape, ensemble.sample(5).shape
    (torch.Size([1297]), torch.Size([5, 64]))
    """

    def __init__(self, kind: str, members: Sequence[Mapping[str, Any]]) -> None:
        known = {cls.__name__: cls for cls in AutoregressiveModel.__subclasses__()}
        if kind not in known or known[kind] is OrderEnsemble or not members:
            raise DataError(
                f"OrderEnsemble: got {kind!r} and {len(members)} members, expected one or more "
                f"of {', '.join(sorted(set(known) - {'OrderEnsemble'}))}"
            )
        nets = [known[kind](**arguments) for arguments in members]
        first = nets[0]
        for net in nets:
            if net.num_members > 1 or _signature(net) != _signature(first):
                raise DataError(
                    "members: expected nets of one order each, all of one shape, output and "
                    "treatment of missing values"
                )
        super().__init__(first.event_shape, first.output, None, first.allow_missing, len(nets))
        self.nets = nn.ModuleList(nets)
        self.orders.copy_(torch.cat([net.orders for net in nets]))
        self.places.copy_(torch.cat([net.places for net in nets]))
        self.natural = False
        self.units = None  # those of the nets count
        self.compiles = all(net.compiles for net in nets)

    @classmethod
    def of(cls, nets: Sequence[AutoregressiveModel]) -> OrderEnsemble:
        """Join nets of one class that are fitted; their parameters are copied.

        Raises
        ------
        DataError
            If they are of several classes or do not fit together.
        """
        kinds = {type(net).__name__ for net in nets}
        if len(kinds) != 1:
            raise DataError(f"nets: got {sorted(kinds) or 'none'}, expected nets of one class")
        ensemble = cls(kinds.pop(), [dict(net.config) for net in nets])
        ensemble.to(nets[0].device, nets[0].dtype)
        for own, net in zip(ensemble.nets, nets, strict=True):
            own.load_state_dict(net.state_dict())
            if own.units is not None and not own.units.equals(ensemble.nets[0].units):
                raise DataError(
                    "nets: got nets fitted to data of several units, expected the same"
                )
        return ensemble

    def score(self, x: Tensor) -> Tensor:
        """Log probability of each row, in nats; where gradients are taken, the nets' mean."""
        each = torch.stack([net.score(x) for net in self.nets])
        if torch.is_grad_enabled():
            return each.mean(0)
        return each.logsumexp(0) - math.log(len(each))

    def conditionals(self, x: Tensor, member: int = 0) -> Tensor:
        """Parameters of all conditionals of one net, ``(n, D, P)``."""
        return self.nets[member].conditionals(x)

    def initialize(self, rows: Rows) -> None:
        """Start every net at independent variables with the marginals of the data."""
        for net in self.nets:
            net.initialize(rows)

    def standardise(self, x: Tensor) -> Tensor:
        """Rows as the nets see them, which share their units."""
        return self.nets[0].standardise(x)

    def restore(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`standardise`."""
        return self.nets[0].restore(x)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden layer ``(n, H)``, of the first net."""
        return self.nets[0].hidden(x)

    def sampler(self, num_rows: int, member: int = 0) -> SequentialSampler:
        """Sampler of one net."""
        return self.nets[member].sampler(num_rows)


def _signature(net: AutoregressiveModel) -> tuple[object, ...]:
    """Shape, output and treatment of missing values: what the nets have to agree in."""
    output = net.output
    of_output = (type(output), output.num_values, output.num_parameters, output.num_inputs)
    return net.event_shape, of_output, net.allow_missing
