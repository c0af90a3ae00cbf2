"""Densities and samplers that do not look at values are those of torch and Pyro."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_zoo as zoo
from ppl_zoo.compiler.capture import capture
from ppl_zoo.compiler.xla.lowering import lower, to_jax
from ppl_zoo.compiler.xla.svi_steps import AdamOptions, Stepper
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.tracing.traceable import traceable
from ppl_zoo.solvers.svi.objective import choose_objective


@pytest.mark.parametrize("concentration", [0.3, 4.0])
def test_von_mises_by_a_fixed_number_of_proposals(concentration):
    kappa, loc = torch.tensor(concentration).double(), torch.tensor(1.0).double()
    with traceable():
        drawn = dist.VonMises(loc, kappa).sample((200_000,))
    ratio = torch.special.i1(kappa) / torch.special.i0(kappa)
    assert (drawn - loc).cos().mean().item() == pytest.approx(ratio.item(), abs=0.006)
    assert (drawn - loc).sin().mean().item() == pytest.approx(0.0, abs=0.006)
    assert drawn.abs().max() <= torch.pi


@pytest.mark.parametrize("coords", ["S", "S0"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stable_density_and_gradient(coords, dtype):
    """Near an alpha of one and values of zero, where Pyro interpolates, and away from them."""
    rng = torch.Generator().manual_seed(0)
    alpha = 0.1 + 1.9 * torch.rand(400, generator=rng, dtype=dtype)
    alpha[:60] = 1 + 0.09 * (torch.rand(60, generator=rng, dtype=dtype) - 0.5)
    beta = 2 * torch.rand(400, generator=rng, dtype=dtype) - 1
    value = 2 * torch.randn(400, generator=rng, dtype=dtype)
    value[50:90] *= 1e-3
    leaves = [alpha.requires_grad_(), beta.requires_grad_()]
    one = torch.ones((), dtype=dtype)
    stable = dist.Stable(*leaves, one, 0 * one, coords=coords)
    theirs = stable.log_prob(value)
    expected = torch.autograd.grad(theirs.sum(), leaves)
    with traceable():
        ours = stable.log_prob(value)
        found = torch.autograd.grad(ours.sum(), leaves)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_what_a_program_computes_in_float64_stays_so():
    """Stable densities are integrated in float64: in float32 their gradients were NaN."""
    y, holder = torch.randn(30), nn.Module()
    holder.loc = nn.Parameter(torch.tensor(0.1))

    def loss(y):
        far = 1e9 + (y - holder.loc).double()  # in float32 the rest would be lost
        return (far - 1e9).square().sum().float()

    captured = capture(loss, [holder], (y,))
    stepper = Stepper(captured, (y,), (True,), AdamOptions(), 0)
    assert stepper.wide
    expected = loss(y)
    (slope,) = torch.autograd.grad(expected, captured.parameters)
    with stepper._scope():
        value, gradient = lower(captured)(None, *map(to_jax, captured.parameters), to_jax(y))
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    assert float(gradient) == pytest.approx(slope.item(), rel=1e-5)


@pytest.mark.slow
def test_a_stable_model_is_compiled():
    y = dist.Stable(1.5, 0.0, 1.0, 2.0).sample((20,))

    def program(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(y)):
            alpha, beta = torch.tensor(1.5), torch.tensor(0.0)
            pyro.sample("y", dist.StableWithLogProb(alpha, beta, torch.tensor(1.0), loc), obs=y)

    losses = []
    for compiled in ("xla", False):
        svi = zoo.SVI(20, guide="delta", compile=compiled, objective="stochastic")
        fit = zoo.fit(program, y, svi, progress=False)
        assert fit.solution.engine == ("xla" if compiled else "interpreted")
        losses.append(fit.history["objective"])
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_a_density_that_costs_too_much_takes_gradients():
    """Fixed draws evaluate a density at some hundred points in each iteration."""
    y = dist.Stable(1.5, 0.0, 1.0, 2.0).sample((200,))

    def program(y):
        loc = pyro.sample("loc", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(y)):
            alpha, beta = torch.tensor(1.5), torch.tensor(0.0)
            pyro.sample("y", dist.StableWithLogProb(alpha, beta, torch.tensor(1.0), loc), obs=y)

    model = FunctionModel(program)
    choice = choose_objective(zoo.SVI(), model, model.as_rows((y,)), 0)
    assert choice.potential is None and "numbers, more than" in choice.reason
