"""What is asked of naive Bayes: the class of a row, and new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ppl_zoo.errors import QueryError
from ppl_zoo.models.discrete import labels
from ppl_zoo.models.discrete.class_rows import ClassRows
from ppl_zoo.models.discrete.features import Features
from ppl_zoo.models.discrete.normal_gamma import NormalGamma

__all__ = ["ClassQueries"]


class ClassQueries:
    """Queries of a model with classes, answered by Bayes' rule, a chunk of rows at a time."""

    features: Features
    numbers: NormalGamma | None
    num_classes: int
    log_joint: Callable[..., Tensor]
    point_parts: Callable[[], Mapping[str, Tensor]]

    @torch.no_grad()
    def predict_proba(self, x: Any, *, uncertainty: bool = False) -> Float[Tensor, "n c"]:
        """Probability of each class given the features, by Bayes' rule.

        Parameters
        ----------
        x
            ``(n, num_features)``, dense or sparse.
        uncertainty
            Whether to integrate over the posterior of the parameters, in closed form, instead of
            using one value of them.

        Returns
        -------
        Tensor
            ``(n, C)``.

        Raises
        ------
        QueryError
            If ``uncertainty`` is asked of a model without ``bayesian=True``.
        """
        if uncertainty and not self.bayesian:
            raise QueryError(
                "predict_proba(uncertainty=True): got a model of point parameters, expected one "
                "made with bayesian=True"
            )
        rows = self.as_rows((x,))
        self.check_data(rows)
        parts, out = self.point_parts(), []
        for (chunk,) in rows.chunks(65536 if rows.is_sparse else 4096):
            joint = self._predictive(chunk) if uncertainty else self.log_joint(parts, chunk)
            out.append(labels.bayes_rule(joint, parts["class_rates"]))
        return torch.cat(out)

    def _predictive(self, x: Tensor) -> Tensor:
        """Log predictive density of rows and classes, parameters integrated out, ``(n, C)``."""
        joint = self.table("class_rates").log().expand(x.shape[0], -1)
        for block in self.features.blocks:
            own = x if isinstance(block.columns, slice) else x[..., block.columns]
            if block.kind == "gaussian":
                joint = joint + self.numbers.student(own)
            elif block.kind == "multinomial":
                joint = joint + labels.dirichlet_multinomial(
                    own, self.posterior_concentration(block.table)
                )
            else:  # a cell is used once in a row: its mean is all that counts
                joint = joint + self.features.score(block, self.tables(), own)
        return joint

    def predict(self, x: Any) -> Int[Tensor, " n"]:
        """Return the most probable class of each row, ``(n,)``."""
        return self.predict_proba(x).argmax(-1)

    def encode(self, x: Any, y: Any = None) -> Float[Tensor, "n c"]:
        """Return the posterior probability of each class, ``(n, C)``."""
        return self.predict_proba(x)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Any:
        """Draw rows; some columns, or the class, may be held.

        Parameters
        ----------
        num_samples
            Number of rows.
        given
            ``{"y": class}``, ``{"x": row}`` or both; a row ``(num_features,)`` or
            ``(num_samples, num_features)`` has NaN where free (counts cannot be held).

        Returns
        -------
        Tensor or dict
            ``(num_samples, num_features)``; ``{"x": ..., "y": ...}`` if the fit had labels.
        """
        held = labels.given(given, num_samples, self.num_features, self.num_classes)
        x, y = (None if v is None else v.to(self.device) for v in held)
        parts = self.point_parts()
        joint = parts["class_rates"].log().expand(num_samples, -1)
        if x is not None:
            labels.no_counts(self.features)
            x = x.to(self.dtype)
            self.features.check(x)
            joint = self.log_joint(parts, x)
        z = torch.multinomial(joint.softmax(-1), 1)[:, 0] if y is None else y
        drawn = ClassRows(self.features, parts, z).sample()
        drawn = drawn if x is None else torch.where(x.isnan(), drawn, x)
        if self._example is not None and len(self._example) > 1:
            return {"x": drawn, "y": z.to(self._example[1][0].dtype)}
        return drawn
