"""Potential energy of a program as Pyro computes it, at a point of the zoo's vector."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.mcmc.util import initialize_model
from torch.distributions import biject_to


def by_potential_fn(program, args, kwargs, problem, z):
    """Pyro's ``potential_fn``: ``(energy, gradient)``, for programs without enumeration."""
    potential = initialize_model(program, args, kwargs)[1]
    leaf = z.detach().clone().requires_grad_()
    places = problem.places.items()
    energy = potential({k: leaf[start:stop].reshape(s) for k, (start, stop, s) in places})
    return energy.item(), torch.autograd.grad(energy, leaf)[0]


def by_enumeration(program, args, kwargs, problem, z):
    """Pyro's enumerated bound at a guide that holds the continuous latents."""
    leaf = z.detach().clone().requires_grad_()
    log_det = []

    class Hold(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["name"] in problem.places:
                start, stop, shape = problem.places[msg["name"]]
                transform = biject_to(msg["fn"].support)
                u = leaf[start:stop].reshape(shape)
                msg["value"], msg["is_observed"] = transform(u), True
                log_det.append(transform.log_abs_det_jacobian(u, msg["value"]).sum())

    elbo = TraceEnum_ELBO(
        max_plate_nesting=max(problem.nesting, 2), strict_enumeration_warning=False
    )
    enumerated = pyro.infer.config_enumerate(program)
    programs = (Hold()(enumerated), lambda *_, **__: None)
    try:
        loss = elbo.differentiable_loss(*programs, *args, **kwargs)
    except ValueError as error:
        if "cannot be differentiated" not in str(error):
            raise
        log_det.clear()  # all that depends on the latents is masked
        loss = torch.tensor(elbo.loss(*programs, *args, **kwargs), dtype=leaf.dtype)
    loss = loss - sum(log_det) + 0 * leaf.sum()
    return loss.item(), torch.autograd.grad(loss, leaf)[0]
