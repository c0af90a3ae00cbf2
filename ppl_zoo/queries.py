"""The three queries that any generative model answers: density, sampling, representation.

What stands here needs nothing but the program and its guide; a model with exact answers
overrides it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pyro.nn import PyroModule
from torch import Tensor

from ppl_zoo.data.rows import Rows
from ppl_zoo.errors import QueryError
from ppl_zoo.tracing import describe, draw, predict, trace_program

__all__ = ["ANSWERS", "Queries", "no_latents"]

#: what a query may say of itself; "exact" is a promise that `zoo.testing.check_model` tests
ANSWERS = ("exact", "bound", "estimate", "none")


class Queries(PyroModule):
    """Answers of a model by importance sampling and ancestral sampling; see `Model`."""

    queries: ClassVar[Mapping[str, str]] = {
        "log_prob": "bound",
        "sample": "exact",
        "encode": "estimate",
    }
    representation: ClassVar[str | None] = None
    guide: Any = None

    def proposal(self) -> Any:
        """Return the guide that queries draw from: the model's own, or the fitted one."""
        if self._fitted_guide is not None:
            return self._fitted_guide
        if self.guide is not None:
            return self.guide
        if self._example is not None:
            return no_latents
        raise QueryError(
            f"{type(self).__name__} has not been fitted: call zoo.fit(model, data) first"
        )

    @torch.no_grad()
    def log_prob(self, *data: Any, num_samples: int = 1000) -> Float[Tensor, " n"]:
        """Log density of each row, in nats.

        The base class averages importance weights with the guide as proposal, which is a lower
        bound in expectation (Burda et al. 2016, https://arxiv.org/abs/1509.00519). Global
        latents are integrated over the fitted posterior (the posterior predictive density).

        Parameters
        ----------
        *data
            As for ``model``, ``(n, ...)``.
        num_samples
            Number of importance samples.

        Returns
        -------
        Tensor
            ``(n,)``.

        Raises
        ------
        QueryError
            If the model has not been fitted, or its rows do not factorise.
        """
        rows = self.as_rows(data)
        self.check_data(rows)
        guide = self.proposal()
        if hasattr(guide, "for_new_rows"):
            guide = guide.for_new_rows()  # draws of a sampler say nothing of their own density
        with self.defaults():
            draws = draw(self, guide, rows.all(), num_samples, self.find_rows(rows))
        name = type(self).__name__
        if draws.log_joint_rows is None:
            raise QueryError(
                f"{name}: no density by row, since the rows share a discrete latent or the model "
                "has no plate over the data; open it with self.observations(name, x)"
            )
        log_weight = draws.log_joint_rows
        if draws.log_guide_rows is not None:
            log_weight = log_weight - draws.log_guide_rows
        elif self._local_latents(rows, draws.values):
            raise QueryError(
                f"{name}: no density by row under a guide that ties the rows' latents together; "
                "fit with guide='normal' or an amortised guide"
            )
        return log_weight.logsumexp(0) - math.log(num_samples)

    @torch.no_grad()
    def sample(self, num_samples: int, given: Any = None) -> Any:
        """Draw new rows from the posterior predictive distribution.

        Parameters
        ----------
        num_samples
            Number of rows; each has its own draw of the global latents.
        given
            ``{argument: values}``: the inputs of a supervised model, or ``{site: value}`` for
            latents to be held fixed.

        Returns
        -------
        Tensor or dict
            ``(num_samples, ...)``; for inputs of ``m > 1`` rows ``(num_samples, m, ...)``. A
            dict by site if the model observes more than one.

        Raises
        ------
        QueryError
            If the model has not been fitted or an input is missing.
        """
        if self._example is None:
            raise QueryError(
                f"{type(self).__name__} does not know the shape of its data yet: fit it first"
            )
        given = dict(given or {})
        data, observed = self._template(given)
        fixed = {k: v for k, v in given.items() if k not in self.argument_names}
        fixed = {k: torch.as_tensor(v).to(self.device) for k, v in fixed.items()}
        with self.defaults():
            plate = self.find_rows(data)
            values = predict(self, self.proposal(), data, num_samples, plate, fixed=fixed)
        single = data[0].shape[0] == 1
        out = {k: v[:, 0] if single and v.ndim > 1 else v for k, v in values.items()}
        out = {k: v for k, v in out.items() if k in observed}
        return next(iter(out.values())) if len(out) == 1 else out

    @torch.no_grad()
    def encode(self, *data: Any, num_samples: int = 1000) -> Any:
        """Posterior mean of the local latent variables of each row, under the guide.

        Returns
        -------
        Tensor or dict
            ``(n, ...)``; a dict by site if there are several.

        Raises
        ------
        QueryError
            If the model has no continuous local latents.
        """
        rows = self.as_rows(data)
        self.check_data(rows)
        with self.defaults():
            plate = self.find_rows(rows)
            wanted = self.representation
            local = [wanted] if wanted else self._local_latents(rows)
            if not local:
                raise QueryError(f"{type(self).__name__} has no latent variables of single rows")
            guide = self.proposal()
            if not getattr(guide, "knows", lambda *data: True)(*rows.all()):
                raise QueryError(
                    f"{type(self).__name__} was sampled at other rows: their latents are known "
                    "at the rows of the fit only; fit with SVI for new ones"
                )
            draws = draw(self, guide, rows.all(), num_samples, plate)
        means = {k: draws.values[k].to(self.dtype).mean(0) for k in local if k in draws.values}
        return next(iter(means.values())) if len(means) == 1 else means

    def observed_arguments(self, *data: Any) -> dict[str, str]:
        """Map each argument that a site observes to that site."""
        with self.defaults():
            trace = trace_program(self, data)
        out = {}
        for name, given in zip(self.argument_names, data, strict=False):
            for site in describe(trace):
                if isinstance(given, Tensor) and _same_memory(given, trace.nodes[site]["value"]):
                    out[name] = site
        return out

    def input_names(self, *data: Any) -> tuple[str, ...]:
        """Names of the arguments that no site observes: inputs, not outputs."""
        observed = self.observed_arguments(*data)
        names = self.argument_names[: len(data)]
        pairs = zip(names, data, strict=True)
        return tuple(n for n, v in pairs if isinstance(v, Tensor) and n not in observed)

    def _local_latents(self, rows: Rows, among: Any = None) -> list[str]:
        plate = self.find_rows(rows)
        sites = self.sites(*rows.all()).values()
        names = [s.name for s in sites if s.kind == "latent" and s.is_local(plate)]
        return [name for name in names if among is None or name in among]

    def _template(self, given: dict) -> tuple[tuple, set[str]]:
        """Arguments to run the model on: the inputs that were given, and one row for the rest."""
        names = self.argument_names
        example = tuple(t for t, _ in self._example)
        observed = {s.name for s in self.sites(*example).values() if s.kind == "observed"}
        inputs = self.input_names(*example)
        num = max((len(torch.as_tensor(given[n])) for n in names if n in given), default=1)
        data = []
        for name, (one, per_row) in zip(names, self._example, strict=False):
            if name in given:
                data.append(torch.as_tensor(given[name]).to(one.device, one.dtype))
                continue
            if not per_row:
                data.append(one)
                continue
            if name in inputs:
                raise QueryError(
                    f"{type(self).__name__}: got no {name!r}, expected given={{{name!r}: ...}}, "
                    "the inputs at which to draw"
                )
            data.append(one.expand(num, *one.shape[1:]))
        return tuple(data), observed


def no_latents(*data: Any) -> None:
    """Guide of a model without latent variables."""


def _same_memory(a: Tensor, b: Any) -> bool:
    return (
        isinstance(b, Tensor)
        and a.data_ptr() == b.data_ptr()
        and (a.shape, a.stride()) == (b.shape, b.stride())
    )
