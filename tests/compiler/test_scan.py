"""Recursions: `zoo.scan` is the loop, its gradient is torch's, and compiled cost is linear."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_zoo as zoo
from ppl_zoo.compiler.capture import capture
from ppl_zoo.compiler.xla.lowering import LoweredGraph, compiler_options, lower, to_jax
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.solvers.fixed_draws.potential import BatchedPotential


def looped(step, init, xs=None, length=None):
    """The definition of a scan."""
    carry, ys = init, []
    for t in range(length if xs is None else len(xs["y"] if isinstance(xs, dict) else xs)):
        x = {k: v[t] for k, v in xs.items()} if isinstance(xs, dict) else xs[t]
        carry, y = step(carry, x)
        ys.append(y)
    if isinstance(ys[0], tuple):
        return carry, tuple(torch.stack(column) for column in zip(*ys, strict=True))
    return carry, None if ys[0] is None else torch.stack(ys)


def leaky(scan):
    """A recursion with a counter, a detached part, entries by name and two results."""

    def program(y, gain):
        phi = pyro.sample("phi", dist.Normal(0.5, 0.3))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5).expand([2]).to_event(1))

        def step(carry, x):
            state, count = carry
            new = phi * state + x["gain"] * torch.tanh(scale) - 0.1 * state.detach().pow(2)
            return (new, count + 1), (new.sum(), x["y"] * phi)

        start = (torch.zeros(2, dtype=y.dtype), torch.tensor(0))
        (last, count), (locs, others) = scan(step, start, {"y": y, "gain": gain})
        locs = locs + 0.1 * others + last.sum() / (count + 1)
        with pyro.plate("rows", len(y)):
            pyro.sample("obs", dist.Normal(locs, 1.0), obs=y)

    return program


def arma(scan):
    """Vasishth's autoregressive moving average, as posteriordb writes it."""

    def program(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
        theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))

        def step(error, pair):
            error = pair[1] - (mu + phi * pair[0] + theta * error)
            return error, error

        first = y[0] - (mu + phi * mu)
        _, errors = scan(step, first, torch.stack([y[:-1], y[1:]], 1))
        with pyro.plate("time", len(y)):
            errors = torch.cat([first[None], errors])
            pyro.sample("error", dist.Normal(errors, sigma), obs=torch.zeros_like(y))

    return program


def series(length, seed=0):
    noise = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    y = [noise[0]]
    for t in range(1, length):
        y.append(0.1 + 0.8 * y[-1] + 0.3 * noise[t - 1] + noise[t])
    return torch.stack(y)


def potential(program, data, compiled=True):
    model = FunctionModel(program)
    with model.defaults():
        return BatchedPotential(model, model.as_rows(data), compiled)


@pytest.mark.parametrize("make", [leaky, arma])
def test_a_scan_is_its_loop(make):
    data = (series(12), torch.linspace(0, 1, 12)) if make is leaky else (series(12),)
    by_scan, by_loop = (potential(make(scan), data) for scan in (zoo.scan, looped))
    assert by_scan.engine == by_loop.engine == "xla"
    points = np.random.default_rng(0).normal(size=(5, by_scan.size)) * 0.5
    for ours, theirs in zip(by_scan(points), by_loop(points), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    # and so it is where no graph is recorded
    plain = potential(make(zoo.scan), data, compiled=False)
    for ours, theirs in zip(plain(points), by_loop(points), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_graph_does_not_grow_with_the_sequence():
    sizes = []
    for length in (10, 1000):
        phi, y = torch.nn.Parameter(torch.tensor(0.5)), torch.randn(length)

        class Holder(torch.nn.Module):
            def __init__(self, phi):
                super().__init__()
                self.phi = phi

        def loss(y, holder):
            _, ys = zoo.scan(lambda c, x: (holder.phi * c + x, c), torch.tensor(0.0), y)
            return (ys**2).sum()

        holder = Holder(phi)
        captured = capture(lambda y, holder=holder: loss(y, holder), [holder], (y,))
        value, gradient = lower(captured)(None, to_jax(phi), to_jax(y))
        expected = loss(y, holder)
        (slope,) = torch.autograd.grad(expected, phi)
        assert float(value) == pytest.approx(expected.item(), rel=1e-4)
        assert float(gradient) == pytest.approx(slope.item(), rel=1e-3)
        assert isinstance(lower(captured), LoweredGraph)
        sizes.append(captured.num_operations)
    assert sizes[0] == sizes[1] < 30


@pytest.mark.slow
def test_a_long_series_is_fitted_and_drawn():
    y = series(400)
    fit = zoo.fit(arma(zoo.scan), y, progress=False)
    assert fit.solution.engine == "xla"
    draws = fit.posterior(1000)
    assert draws["phi"].mean().item() == pytest.approx(0.8, abs=0.15)
    assert draws["theta"].mean().item() == pytest.approx(0.3, abs=0.15)
    assert fit.check(num_samples=1000).inference.passed
    assert fit.to_arviz(20)["posterior"].sizes["draw"] == 20


@pytest.mark.slow
def test_steps_of_svi_and_nuts_run_it():
    y = series(30)
    svi = zoo.SVI(steps=10, objective="stochastic", compile="xla")
    fit = zoo.fit(arma(zoo.scan), y, svi, progress=False)
    assert fit.solution.engine == "xla"
    plain = zoo.SVI(steps=10, objective="stochastic", compile=False)
    ours, theirs = (zoo.fit(arma(s), y, plain, progress=False) for s in (zoo.scan, looped))
    np.testing.assert_allclose(ours.history["objective"], theirs.history["objective"], rtol=1e-4)
    sampled = zoo.fit(
        arma(zoo.scan), y, zoo.NUTS(50, 100, num_chains=1, target_accept=0.95), progress=False
    )
    assert sampled.solution.engine == "xla"
    assert torch.isfinite(sampled.posterior()["phi"]).all()


def test_a_step_may_write_into_what_it_makes():
    def program(scan):
        def model(y):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))

            def step(carry, x):
                new = torch.zeros(3, dtype=y.dtype)
                new[0] = a * carry[1] + x
                new[1:] = carry[:2]
                return new, new[0]

            _, ys = scan(step, torch.zeros(3, dtype=y.dtype), y)
            with pyro.plate("rows", len(y)):
                pyro.sample("y", dist.Normal(ys, 1.0), obs=y)

        return model

    points = np.array([[0.3], [-1.0]])
    found = [potential(program(scan), (series(7),))(points) for scan in (zoo.scan, looped)]
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_integers_computed_from_data_are_no_constants():
    """A graph is used again for other data of the same shapes."""

    def program(scan):
        def model(y, codes):
            a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1)).to(y.dtype)
            shifted = (codes + 1) % 3

            def step(carry, x):
                new = 0.5 * carry + a[shifted[:2]].sum() + x
                return new, new

            _, ys = scan(step, torch.zeros((), dtype=y.dtype), y)
            with pyro.plate("rows", len(y)):
                pyro.sample("y", dist.Normal(ys, 1.0), obs=y)

        return model

    points = np.random.default_rng(0).normal(size=(2, 3))
    first, second = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 0, 1, 1])
    found = []
    for scan in (zoo.scan, looped):
        model = FunctionModel(program(scan))
        with model.defaults():
            there = BatchedPotential(model, model.as_rows((series(5), first)))
            found.append(there.on(model.as_rows((series(5), second)))(points))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_without_inputs_and_without_results():
    def step(carry, _):
        return carry * 2.0, None

    last, ys = zoo.scan(step, torch.tensor(1.0), length=5)
    assert last.item() == 32.0 and ys is None

    def program(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        last, _ = zoo.scan(lambda c, _: (0.5 * c + a, None), torch.tensor(0.0), length=6)
        pyro.sample("y", dist.Normal(last, 1.0), obs=y)

    def by_hand(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(a * sum(0.5**k for k in range(6)), 1.0), obs=y)

    points = np.array([[0.3], [-1.0]])
    data = (torch.tensor(1.5),)
    for ours, theirs in zip(
        potential(program, data)(points), potential(by_hand, data)(points), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_number_grows_to_the_shape_of_the_first_step():
    def program(y):
        with pyro.plate("groups", 3):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        last, _ = zoo.scan(lambda c, x: (0.5 * c + a * x, None), torch.tensor(0.0), y)
        with pyro.plate("more", 3):
            pyro.sample("y", dist.Normal(last, 1.0), obs=torch.ones(3, dtype=y.dtype))

    found = potential(program, (series(5),))
    assert found.engine == "xla" and np.isfinite(found(np.zeros((1, 3)))[0]).all()


def test_a_number_grows_without_a_graph_too():
    """A column of a frame, ``(n, 1)``, against a carry that begins as a number."""
    last, ys = zoo.scan(lambda c, x: (0.5 * c + x, c), torch.tensor(2.0), torch.ones(4, 1))
    assert last.shape == (1,) and ys.shape == (4, 1) and ys[:2, 0].tolist() == [2.0, 2.0]


def test_what_a_scan_cannot_run():
    y = torch.zeros(4)
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        zoo.scan(lambda c, x: (c, None), y[0], (y, y[:3]))
    with pytest.raises(ValueError, match="expected one, positive"):
        zoo.scan(lambda c, x: (c, None), y[0])
    with pytest.raises(ValueError, match="expected one, positive"):
        zoo.scan(lambda c, x: (c, None), y[0], y[:0])
    with pytest.raises(ValueError, match="xs holds a float"):
        zoo.scan(lambda c, x: (c, None), y[0], 1.0)
    with pytest.raises(ValueError, match="no sequence"):
        zoo.scan(lambda c, x: (c, None), y[0], y[0])
    with pytest.raises(ValueError, match="returns a carry like"):
        zoo.scan(lambda c, x: ((c, c), None), y[0], y)

    def draws(carry, x):
        return carry + pyro.sample("z", dist.Normal(0.0, 1.0)), None

    with pytest.raises(ValueError, match="the step draws 'z'; draw it before"):
        zoo.scan(draws, y[0], y)

    def growing(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        last, _ = zoo.scan(lambda c, x: (torch.cat([c, a[None]]), None), y[:1], y)
        pyro.sample("y", dist.Normal(last.sum(), 1.0), obs=y[0])

    with pytest.raises(zoo.compiler.CaptureError, match="returns a carry of shape"):
        potential(growing, (y,))

    def noisy(y):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        last, _ = zoo.scan(lambda c, x: (a + torch.randn(()), None), y[0], y)
        pyro.sample("y", dist.Normal(last, 1.0), obs=y[0])

    with pytest.raises(zoo.compiler.CaptureError, match="draws random numbers"):
        potential(noisy, (y,))


def predators(steps):
    """Lotka and Volterra by Runge and Kutta, as a loop over numbers."""

    def program(y):
        rates = pyro.sample("rates", dist.LogNormal(torch.zeros(4), 0.3).to_event(1))
        a, b, c, d = rates.to(y.dtype).unbind(-1)

        def slope(u, v):
            return (a - b * v) * u, (d * u - c) * v

        h, (u, v) = 0.05, (torch.ones((), dtype=y.dtype),) * 2
        for _ in range(steps):
            k1 = slope(u, v)
            k2 = slope(u + h / 2 * k1[0], v + h / 2 * k1[1])
            k3 = slope(u + h / 2 * k2[0], v + h / 2 * k2[1])
            k4 = slope(u + h * k3[0], v + h * k3[1])
            u = u + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
            v = v + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
        pyro.sample("y", dist.Normal(torch.stack([u, v]), 0.1).to_event(1), obs=y)

    return program


def test_cost_of_a_loop_is_linear():
    """Each use of an expression was written out: 2 ms a call at 3 steps, minutes at 8."""
    data = (torch.tensor([1.1, 0.9]),)
    found = potential(predators(8), data)
    points = np.random.default_rng(0).normal(size=(4, 4)) * 0.2
    plain = potential(predators(8), data, compiled=False)
    for ours, theirs in zip(found(points), plain(points), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_only_long_recursions_need_options():
    a, y = torch.nn.Parameter(torch.tensor(0.5)), torch.randn(3)
    holder = torch.nn.Module()
    holder.a = a
    short = capture(lambda y: ((holder.a * y).exp() - y).square().sum(), [holder], (y,))
    assert compiler_options(short.graph) is None

    def deep(y):
        for _ in range(40):
            y = holder.a * y - y * y
        return y.sum()

    long = capture(deep, [holder], (y,))
    assert compiler_options(long.graph) == {"xla_disable_hlo_passes": "fusion"}
