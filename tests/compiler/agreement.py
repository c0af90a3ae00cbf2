"""Loss and gradients of one program, interpreted, captured and lowered, compared."""

import jax
import numpy as np
import torch
from torch import nn

from ppl_zoo.compiler import capture
from ppl_zoo.compiler.xla.lowering import lower, to_jax
from ppl_zoo.compiler.xla.ops.random import RANDOM
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.elbos import differentiable_loss, make_elbo
from ppl_zoo.solvers.guides import make_pair


def program(model, data, guide=None, elbo="auto", particles=1):
    """Return objective, modules and data as the solver captures them."""
    rows = Rows(data if len(data) > 1 else data[0], dtype=model.dtype)
    with model.defaults():
        pair = make_pair(model, guide, rows, None)
    bound = make_elbo(elbo, pair, particles)

    def objective(*data):
        with model.scaled_to(len(rows)), model.defaults():
            return differentiable_loss(bound, pair, data)

    return objective, [m for m in (model, pair.guide) if isinstance(m, nn.Module)], rows.all()


def interpreted(objective, captured, data, seed):
    torch.manual_seed(seed)
    loss = objective(*data)
    gradients = torch.autograd.grad(loss, captured.parameters, allow_unused=True)
    zeros = map(torch.zeros_like, captured.parameters)
    return [loss.detach(), *(z if g is None else g for g, z in zip(gradients, zeros, strict=True))]


class Recorded(torch.fx.Interpreter):
    """Runs a graph in torch and keeps what its random operations return."""

    def __init__(self, graph):
        super().__init__(graph)
        self.noise = []

    def call_function(self, target, args, kwargs):
        result = super().call_function(target, args, kwargs)
        if getattr(target, "overloadpacket", target).__name__ in RANDOM:
            self.noise.append(result.detach().clone())
        return result


def check_agreement(model, data, monkeypatch, guide=None, elbo="auto", particles=1):
    """Loss and gradients: interpreted, captured in torch, and lowered, for the same noise."""
    # as it is captured, so that one seed gives the same Bernoulli draws
    monkeypatch.setattr(torch, "bernoulli", lambda p: (torch.rand_like(p) < p).to(p.dtype))
    objective, modules, data = program(model, data, guide, elbo, particles)
    captured = capture(objective, modules, data)
    wide = model.dtype == torch.float64
    tol = 1e-10 if wide else 1e-5
    for seed in range(2):
        expected = interpreted(objective, captured, data, seed)
        recorder = Recorded(captured.graph)
        torch.manual_seed(seed)
        with torch.no_grad(), model.defaults():
            found = recorder.run(*captured.parameters, *data, enable_io_processing=False)
        with jax.enable_x64(wide):
            given = [to_jax(t) for t in (*captured.parameters, *data)]
            function = lower_once(captured, recorder.noise, monkeypatch)
            lowered = function(jax.random.key(0), *given)
        for what in (found, lowered):
            for one, other in zip(what, expected, strict=True):
                one, other = np.asarray(one), other.numpy()
                assert one.dtype == other.dtype
                np.testing.assert_allclose(one, other, rtol=tol, atol=tol * np.abs(other).max())
        with torch.no_grad():
            for p in captured.parameters:
                p.add_(0.05 * torch.randn_like(p))


def lower_once(captured, noise, monkeypatch):
    """Lower a graph whose random operations return ``noise``, at every trace from its start."""
    queue = []

    def draw(*args, **kwargs):
        if not queue:
            queue.extend(noise)
        return to_jax(queue.pop(0))

    for name in RANDOM:
        monkeypatch.setitem(RANDOM, name, draw)
    return jax.jit(lower(captured))
