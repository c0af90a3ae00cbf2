"""Potential energy of a model over an unconstrained vector.

Each continuous latent is a slice of the vector, mapped by ``biject_to`` of its own support; the
Jacobians are part of the density. Finite discrete latents are summed out. Supports may depend on
other latents, since the transforms are made while the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.infer.traceenum_elbo import _compute_model_factors
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Distribution

from ppl_zoo.core.errors import DataError
from ppl_zoo.core.model import Model
from ppl_zoo.core.rows import Rows
from ppl_zoo.core.tracing import describe, first_run, with_summed_out

__all__ = ["Forward", "OtherRowsError", "Places", "Unconstrained", "location_scale_sites"]

#: ``{site: (start, stop, shape)}``: a latent's slice of the vector, and its unconstrained shape
Places = Mapping[str, tuple[int, int, tuple[int, ...]]]
#: families that a location and a scale make out of one of their own
LOCATION_SCALE = (dist.Normal, dist.LogNormal, dist.StudentT, dist.Laplace, dist.Cauchy)


class Unconstrained:
    """The potential energy of a model over an unconstrained vector.

    Parameters
    ----------
    model
        The model; its parameters stay as they are.
    rows
        The data.

    Attributes
    ----------
    size
        Length of the vector.
    places
        ``{site: (start, stop, shape)}`` of each continuous latent: its slice of the vector, and
        its shape on the unconstrained scale.
    shapes
        ``{site: shape}`` of the continuous latents and the deterministic sites.
    summed_out
        Names of the finite discrete latents.
    recentred
        Latents of a location or a scale that is latent as well, in the order of ``centring``.
    varying
        Whether the support of a latent depends on another one.

    Raises
    ------
    DataError
        If the model has no continuous latents, or discrete ones without finite support, or a
        support without a transform from the reals.
    """

    def __init__(self, model: Model, rows: Rows) -> None:
        self.model, self.data = model, rows.all()
        name = model.model_name
        trace = first_run(model, self.data)
        for place, node in trace.nodes.items():
            fn = node.get("fn")
            if type(fn).__name__ == "_Subsample" and fn.subsample_size not in (None, fn.size):
                raise DataError(
                    f"{name}: got the plate {place!r}, which subsamples {fn.subsample_size} of "
                    f"{fn.size} rows, expected all of them: the density would be noise (leave "
                    "subsample_size out, or use zoo.SVI)"
                )
        sites = describe(trace)
        latent = [s for s in sites.values() if s.kind == "latent"]
        self.summed_out = tuple(s.name for s in latent if s.discrete)
        continuous = [s for s in latent if not s.discrete]
        for site in continuous:
            if trace.nodes[site.name]["fn"].support.is_discrete:
                raise DataError(
                    f"{name}: got the discrete latent {site.name!r} "
                    f"({_family(trace.nodes[site.name]['fn'])}) without finite support, expected "
                    "continuous latents, or discrete ones that can be summed out"
                )
        if not continuous:
            hint = " (the discrete ones are summed out)" if self.summed_out else ""
            raise DataError(f"{name}: got no continuous latent{hint}, expected one to draw")
        self.places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        start = 0
        for site in continuous:
            fn = trace.nodes[site.name]["fn"]
            try:
                shape = tuple(torch.distributions.biject_to(fn.support).inverse_shape(site.shape))
            except NotImplementedError as error:
                raise DataError(
                    f"{name}: got the latent {site.name!r} with support {fn.support}, "
                    "expected one that a transform leads to"
                ) from error
            size = torch.Size(shape).numel()
            self.places[site.name] = (start, start + size, shape)
            start += size
        self.size = start
        self.program = with_summed_out(model, self.summed_out)
        plates = [-dim for s in sites.values() for _, dim, _ in s.plates]
        self.nesting = max(plates, default=0)
        names = {*self.places, *(s.name for s in sites.values() if s.kind == "deterministic")}
        shapes = {s.name: s.shape for s in sites.values() if s.name in names}
        with poutine.block(), torch.enable_grad():
            point = torch.zeros(start, dtype=model.dtype, requires_grad=True)
            zero = self._run(point, self.data)[0]
            self.recentred, self.varying = location_scale_sites(zero, self.places)
        # a deterministic site may depend on a latent that is summed out: it has no single value
        self.shapes = {
            k: shape
            for k, shape in shapes.items()
            if tuple(torch.as_tensor(zero.nodes[k]["value"]).shape) == shape
        }

    def energy(self, z: Tensor, *data: Tensor, centring: Tensor | None = None) -> Tensor:
        """Minus the log density of the vector ``z (size,)``, a scalar, in nats.

        ``centring`` has an entry for each of ``recentred``: 1 for the latent as it is written, 0
        for the non-centred one; by default all are as written.
        """
        with poutine.block():
            trace, log_det = self._run(z, data, centring)
            return -(self._log_joint(trace) + log_det)

    def values(
        self, z: Tensor, *data: Tensor, centring: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return latents and deterministic sites on the model's own scale."""
        with poutine.block():
            trace, _ = self._run(z, data, centring)
        return {name: torch.as_tensor(trace.nodes[name]["value"]) for name in self.shapes}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the vector ``(size,)`` at which the latents have these values.

        Raises
        ------
        DataError
            If a latent is missing or of another shape.
        """
        for name in self.places:
            found = tuple(values[name].shape) if name in values else None
            if found != tuple(self.shapes[name]):
                raise DataError(
                    f"init: got {'no ' if found is None else ''}{name!r}"
                    f"{'' if found is None else f' of shape {found}'}, "
                    f"expected shape {tuple(self.shapes[name])}"
                )
        inverse = _Inverse({k: values[k] for k in self.places})
        with torch.no_grad(), poutine.block():
            poutine.trace(inverse(self.model)).get_trace(*self.data)
        return torch.cat([inverse.found[name].flatten() for name in self.places])

    @torch.no_grad()
    def recentre(self, z: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return the vector that stands at another centring for the same latents.

        ``before`` and ``after`` are centrings as :meth:`energy` takes them.
        """
        with poutine.block():
            trace, _ = self._run(z, self.data, before)
            values = {name: trace.nodes[name]["value"] for name in self.places}
            inverse = _Inverse(values, dict(zip(self.recentred, after, strict=True)))
            poutine.trace(inverse(self.model)).get_trace(*self.data)
        return torch.cat([inverse.found[name].flatten() for name in self.places])

    def refuse_noise(self) -> None:
        """Refuse a program that draws outside of its sample sites: its density is noise.

        Raises
        ------
        DataError
            If two runs at one point give two densities.
        """
        z = torch.zeros(self.size, dtype=self.model.dtype, device=self.model.device)
        with torch.no_grad():
            first, second = (self.energy(z, *self.data) for _ in range(2))
        if not torch.equal(first, second) and not (first.isnan() or second.isnan()):
            raise DataError(
                f"{self.model.model_name}: got the log densities {-first.item():.6g} and "
                f"{-second.item():.6g} at one point, expected one: the program draws outside of "
                "its sample sites, and a sampler would follow that noise (make the draw a "
                "pyro.sample site, or use zoo.SVI)"
            )

    def parameters(self) -> list[str]:
        """Name the model's parameters that the density depends on."""
        named = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        if not named:
            return []
        with torch.enable_grad():
            energy = self.energy(torch.zeros(self.size, dtype=self.model.dtype), *self.data)
            if not energy.requires_grad:
                return []
            grads = torch.autograd.grad(energy, list(named.values()), allow_unused=True)
        return [k for k, g in zip(named, grads, strict=True) if g is not None]

    def _run(
        self, z: Tensor, data: tuple[Tensor, ...], centring: Tensor | None = None
    ) -> tuple[Trace, Tensor]:
        """Trace the program at ``z``; the log determinant of the Jacobian beside it."""
        names = () if centring is None else self.recentred
        forward = Forward(z, self.places, dict(zip(names, names and centring, strict=True)))
        program = forward(self.program)
        if self.summed_out:
            program = poutine.enum(program, first_available_dim=-1 - self.nesting)
        trace = poutine.trace(program).get_trace(*data)
        missing = self.places.keys() - forward.log_dets.keys()
        if missing:
            raise DataError(
                f"{self.model.model_name}: the latents {sorted(missing)} come and go from run "
                "to run, expected the same latents in every run"
            )
        return trace, sum(ld.sum() for ld in forward.log_dets.values())

    def _log_joint(self, trace: Trace) -> Tensor:
        """Log joint density of a trace, discrete latents summed out."""
        if not self.summed_out:
            return trace.log_prob_sum()
        guide = poutine.trace(lambda: None).get_trace()
        trace.compute_log_prob()
        trace.pack_tensors()
        guide.pack_tensors(trace.plate_to_symbol)
        costs, factors, _, sum_dims, scale = _compute_model_factors(trace, guide)
        total: Tensor | float = 0.0
        for terms in costs.values():
            total = total + sum(term.sum() for term in terms)
        if len(factors) == 1 and len(sum_dims) == 1:
            # one discrete latent, everything in its plate: one logsumexp, no tensor contraction
            (terms,) = factors.values()
            terms = packed.broadcast_all(*terms)
            dims = terms[0]._pyro_dims
            joint = torch.logsumexp(sum(terms), dims.index(next(iter(sum_dims))))
            joint._pyro_dims = "".join(d for d in dims if d not in sum_dims)
            total = total + packed.scale_and_mask(joint, scale=scale).sum()
        elif factors:
            for terms in contract_tensor_tree(factors, sum_dims).values():
                for term in terms:
                    total = total + packed.scale_and_mask(term, scale=scale).sum()
        return total


class OtherRowsError(Exception):
    """A program is run on other rows than those that its latents belong to."""


class Forward(Messenger):
    """Set the latents to the slices of a vector.

    Parameters
    ----------
    z, places
        The vector ``(size,)``, and each latent's slice of it.
    centring
        ``{site: c}``: the slice ``u`` of a latent of location ``m`` and scale ``s`` stands for
        ``m + s^(1 - c) (u - c m)``, whose prior has location ``c m`` and scale ``s^c``
        (Papaspiliopoulos, Roberts & Skold 2007, https://doi.org/10.1214/088342307000000014;
        Gorinova, Moore & Hoffman 2020, https://arxiv.org/abs/1906.03028).

    Attributes
    ----------
    log_dets
        ``{site: log determinant of the Jacobian}``, of the batch shape of the site.

    Raises
    ------
    OtherRowsError
        If a latent has another shape than its slice.
    """

    def __init__(
        self, z: Tensor, places: Places, centring: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.z, self.places, self.centring = z, places, centring or {}
        self.log_dets: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.places:
            return
        start, stop, shape = self.places[name]
        transform = torch.distributions.biject_to(fn.support)
        try:
            torch.broadcast_shapes(fn.shape(), transform.forward_shape(torch.Size(shape)))
        except RuntimeError as error:
            raise OtherRowsError(name) from error
        u = self.z[start:stop].reshape(shape)
        moved: Tensor | float = 0.0
        if name in self.centring:
            c, of = self.centring[name], _location_scale(fn)
            log_scale = (1.0 - c) * of.scale.log()
            u = of.loc + log_scale.exp() * (u - c * of.loc)
            moved = log_scale.expand(u.shape)
        value = transform(u)
        if value.shape != transform.forward_shape(u.shape):
            raise DataError(
                f"site {name!r}: got the support {fn.support}, which depends on a discrete "
                "latent that is summed out, expected one that does not"
            )
        log_det = transform.log_abs_det_jacobian(u, value)
        log_det = sum_rightmost(log_det, log_det.dim() - value.dim() + fn.event_dim)
        if isinstance(moved, Tensor):
            log_det = log_det + sum_rightmost(moved, fn.event_dim)
        self.log_dets[name] = log_det
        msg["value"], msg["is_observed"] = value, True


def location_scale_sites(trace: Trace, places: Places) -> tuple[tuple[str, ...], bool]:
    """Name latents of a latent location or scale; tell whether a support depends on a latent.

    ``trace`` is one at a vector that requires gradients.
    """
    found, varying = [], False
    for name, (_, _, shape) in places.items():
        fn = trace.nodes[name]["fn"]
        bounds = (getattr(fn.support, f"{end}_bound", None) for end in ("lower", "upper"))
        varying |= any(isinstance(b, Tensor) and b.requires_grad for b in bounds)
        of = _location_scale(fn)
        if of is None or not (of.loc.requires_grad or of.scale.requires_grad):
            continue
        if torch.broadcast_shapes(of.loc.shape, of.scale.shape, shape) == torch.Size(shape):
            found.append(name)
    return tuple(found), varying


def _location_scale(fn: Distribution) -> Distribution | None:
    """Return the distribution with a location and a scale below expansions, masks and events."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn if isinstance(fn, LOCATION_SCALE) else None


class _Inverse(Messenger):
    """Hold the latents at values and collect their unconstrained coordinates."""

    def __init__(
        self, values: Mapping[str, Tensor], centring: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.values, self.centring = values, centring or {}
        self.found: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.values:
            return
        value = self.values[msg["name"]]
        u = torch.distributions.biject_to(msg["fn"].support).inv(value)
        if msg["name"] in self.centring:
            c, of = self.centring[msg["name"]], _location_scale(msg["fn"])
            u = c * of.loc + (u - of.loc) * of.scale ** (c - 1.0)
        self.found[msg["name"]] = u
        msg["value"], msg["is_observed"] = value, True


def _family(fn: torch.distributions.Distribution) -> str:
    """Name of a distribution inside its wrappers."""
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        fn = fn.base_dist
    return type(fn).__name__
