"""A Gaussian mixture learns from a stream of batches: online EM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.model import Array
from ppl_zoo.models.mixtures.coordinates import Coordinates
from ppl_zoo.models.mixtures.gaussian_prior import Prior

__all__ = ["OnlineEM"]


class OnlineEM:
    """What a mixture with an E-step and an M-step does with one batch after the other."""

    prior: Prior
    coordinates: Coordinates
    num_seen: Tensor
    num_updates: Tensor
    as_rows: Callable[[Any], Rows]
    initialize: Callable[..., None]
    expected_statistics: Callable[..., dict[str, Tensor]]
    maximize: Callable[[Mapping[str, Tensor]], None]

    def partial_fit(self, x: Array, sample_weight: Array | None = None) -> Any:
        """Learn from one batch of a stream: a step of online EM.

        The statistics of all batches so far are averaged with weight ``(t + 2)^-0.6`` on the
        newest (Cappe & Moulines 2009, On-line EM for latent data models, JRSS B 71). The first
        batch chooses the start, unless the model has been fitted.

        Parameters
        ----------
        x
            Rows ``(n, D)``; at least K in the first batch.
        sample_weight
            What a row counts, ``(n,)``.

        Returns
        -------
        GaussianMixture
            This model.

        Raises
        ------
        DataError
            As ``zoo.fit`` does.
        """
        rows = self.as_rows((x,) if sample_weight is None else (x, sample_weight))
        first = not self.num_seen > 0
        self.check_data(rows) if first else self._check_rows(rows)
        if first:
            self.initialize(rows)
        chunks = [self.expected_statistics(*chunk) for chunk in rows.chunks(65536)]
        new = {name: sum(chunk[name] for chunk in chunks) for name in chunks[0]}
        seen, step = self.num_seen + new["num_rows"], 1.0
        if not first:
            step = float((self.num_updates + 2.0) ** -0.6)
            old = self.prior.statistics(
                self.num_seen, self.logits, *self._inside(), self.coordinates
            )
            new = {
                name: (1 - step) * old[name] / self.num_seen + step * new[name] / new["num_rows"]
                for name in old
            }
            new = {name: value * seen for name, value in new.items()}
        self.maximize(new)
        self.num_seen.copy_(seen)
        self.num_updates += 1
        return self
