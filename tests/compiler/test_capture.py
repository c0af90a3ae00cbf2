"""Captured and interpreted fits: same noise, same numbers; and what has no graph."""

import functools
import signal
import time
import warnings

import jax
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from agreement import check_agreement, program
from tiny_models import KINDS, Chain, Coins, Factor, Groups, Mean, Switch, binary, line, real
from torch import nn

import ppl_zoo as zoo
from ppl_zoo.compiler import CaptureError, capture
from ppl_zoo.compiler.xla.lowering import lower, to_jax
from ppl_zoo.core.rows import Rows

GUIDES = [None, "multivariate-normal", "low-rank", "delta"]


def schools():
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return y, torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def regression():
    x = real(20, 2)
    return x, x.sum(1) + 0.1 * line(20)


ZOO = {
    **{name: (make, lambda data=data: (data(),)) for name, (make, data) in KINDS.items()},
    "linear regression": (lambda: zoo.LinearRegression(2), regression),
    "eight schools": (zoo.EightSchools, schools),
    "eight schools, centered": (lambda: zoo.EightSchools("centered"), schools),
    "gaussian mixture": (lambda: zoo.GaussianMixture(2, 2), lambda: (real(20, 2),)),
}
OWN = ("no latents", "local discrete", "gaussian mixture")  # guides by name have no more to do
#: each model with its own guide, and two guides by name with one model, every time
QUICK = {("eight schools", "low-rank"), ("eight schools", "delta")} | {
    (name, None) for name in ZOO
}
CASES = [
    pytest.param(name, guide, marks=[] if (name, guide) in QUICK else [pytest.mark.slow])
    for name in ZOO
    for guide in GUIDES
    if guide is None or name not in OWN
]


@pytest.mark.parametrize(("name", "guide"), CASES)
def test_captured_and_interpreted_agree(name, guide, monkeypatch):
    make, data = ZOO[name]
    data = tuple(d.double() for d in data())
    model = make()
    with torch.no_grad():
        floats = tuple(d.float() for d in data)
        model.initialize(Rows(floats if len(floats) > 1 else floats[0]))
    check_agreement(model.double(), data, monkeypatch, guide)


@pytest.mark.parametrize("name", ["local continuous, amortised", "eight schools"])
def test_agreement_in_single_precision(name, monkeypatch):
    make, data = ZOO[name]
    check_agreement(make(), data(), monkeypatch)


@pytest.mark.parametrize("elbo", ["trace", "mean-field", "graph", "importance"])
def test_every_elbo_agrees(elbo, monkeypatch):
    check_agreement(Mean().double(), (line(6).double(),), monkeypatch, None, elbo, 2)


# ---- what has no graph ------------------------------------------------------------------------


class Branches(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        if mu > 1:  # the line that is named
            mu = mu * 1.0
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)


class Items(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        level = x.mean().item()  # the line that is named
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu + level, self.noise), obs=x)


class Shapes(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        pyro.factor("low", -x[x > 1.0].sum() * mu)  # the line that is named
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)


class Reads(Mean):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        level = float(np.mean(x.tolist()))  # the line that is named
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu + level, self.noise), obs=x)


class Remembers(Mean):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        self.seen.add_(1.0)  # the line that is named
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)


class Anneals(Mean):
    def model(self, x):
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, self.noise * (1 + 1 / self.calls)), obs=x)


def line_of(cls):
    import inspect

    lines, start = inspect.getsourcelines(cls)
    return start + next(i for i, text in enumerate(lines) if "the line that is named" in text)


@pytest.mark.parametrize("model", [Branches, Items, Shapes, Reads, Remembers])
@pytest.mark.parametrize("mode", ["auto", "xla"])
def test_no_graph_is_told_once_with_the_line(model, mode, monkeypatch):
    monkeypatch.setattr("ppl_zoo.solvers.svi.engines.COMPILE_FROM", 0)
    x = line(10)
    plain = zoo.fit(model(), x, zoo.SVI(steps=20, window=10, compile=False), progress=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit = zoo.fit(model(), x, zoo.SVI(steps=20, window=10, compile=mode), progress=False)
    assert len(told) == 1
    assert f"test_capture.py:{line_of(model)}" in str(told[0].message)
    assert fit.solution.engine == "interpreted"
    assert np.array_equal(fit.history["objective"], plain.history["objective"])


def test_what_changes_from_run_to_run_has_no_graph():
    with pytest.warns(UserWarning, match=r"the program changes Anneals.calls \(\d to \d\)"):
        fit = zoo.fit(Anneals(), line(), zoo.SVI(steps=5, compile="xla"), progress=False)
    assert fit.solution.engine == "interpreted"


def test_chains_that_differ_in_buffers_have_no_common_graph():
    class Starts(Mean):
        def initialize(self, rows):
            self.prior.copy_(1 + torch.rand(()))

    with pytest.warns(UserWarning, match="differ in more than their parameters"):
        zoo.fit(Starts(), line(), zoo.SVI(steps=5, restarts=2, compile="xla"), progress=False)


def test_an_unknown_operation_is_named_with_its_line(monkeypatch):
    class Unknown(Mean):
        def model(self, x):
            mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
            pyro.factor("f", x.cummax(0).values.sum() * mu)  # the line that is named
            with self.observations("observations", x):
                pyro.sample("x", dist.Normal(mu, self.noise), obs=x)

    place = rf"aten.cummax.default, called at .*test_capture.py:{line_of(Unknown)}"
    with pytest.raises(ValueError, match=place):
        zoo.fit(Unknown(), line(), zoo.SVI(steps=5, compile="xla"), progress=False)
    monkeypatch.setattr("ppl_zoo.solvers.svi.engines.COMPILE_FROM", 0)
    with pytest.warns(UserWarning, match=place):
        fit = zoo.fit(Unknown(), line(), zoo.SVI(steps=5), progress=False)
    assert fit.solution.engine == "interpreted"


@pytest.mark.parametrize("model", [Mean, Branches, Remembers])
def test_the_state_outside_is_left_as_found(model):
    import pyro.util

    def state():
        return (
            torch.distributions.Distribution._validate_args,
            pyro.distributions.Distribution.__dict__.get("_validate_args"),
            pyro.settings.get("validate_infer"),
            pyro.util.torch_isnan,
            torch.distributions.dirichlet._Dirichlet.apply,
            torch.get_default_dtype(),
            jax.config.jax_enable_x64,
            torch.is_grad_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
        )

    built = model().double()
    objective, modules, data = program(built, (line(5).double(),))
    before, noise = state(), torch.get_rng_state()
    kept = {k: v.clone() for k, v in built.state_dict().items()}
    try:
        lower(capture(objective, modules, data))
    except CaptureError:
        assert model is not Mean
    assert state() == before
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(torch.equal(v, kept[k]) for k, v in built.state_dict().items())


# ---- compiled fits ----------------------------------------------------------------------------


def compiled(model, data, **options):
    options = {"steps": 60, "window": 20, "compile": "xla", **options}
    fit = zoo.fit(model, data, zoo.SVI(**options), progress=False)
    assert fit.solution.engine == "xla"
    return fit


@pytest.mark.slow
def test_seeds_repeat_and_chains_do_not_depend_on_others():
    one, again = compiled(Groups(), line(6)), compiled(Groups(), line(6))
    assert np.array_equal(one.history["objective"], again.history["objective"])
    three = compiled(Groups(), line(6), restarts=3)
    np.testing.assert_allclose(
        three.history["objective"][0], one.history["objective"][0], rtol=1e-5
    )
    assert len({tuple(h) for h in three.history["objective"]}) == 3


RESUMED = [
    pytest.param(Groups, lambda: line(6), {"restarts": 2}, marks=pytest.mark.slow),
    (Chain, lambda: binary(30, 3), {"batch_size": 8}),
    (Mean, lambda: line(6), {"clip_norm": 0.5}),
]


@pytest.mark.parametrize(("model", "data", "options"), RESUMED, ids=["chains", "batches", "clip"])
def test_resuming_equals_never_stopping(model, data, options, tmp_path):
    options = {"window": 20, "compile": "xla", **options}
    whole_svi, part_svi = zoo.SVI(steps=60, **options), zoo.SVI(steps=20, **options)
    torch.manual_seed(3)
    whole = zoo.fit(model(), data(), whole_svi, progress=False)
    torch.manual_seed(3)
    part = zoo.fit(model(), data(), part_svi, progress=False)
    part = zoo.load(part.save(tmp_path / "run"), model=model)
    resumed = zoo.fit(part.model, data(), whole_svi, resume=part, progress=False)
    assert np.array_equal(whole.history["objective"], resumed.history["objective"])
    for name, value in whole.solution.parameters.items():
        assert torch.equal(value, resumed.solution.parameters[name]), name


def one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=60)


def step_down(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)


OPTIONS = {
    "Adam": {},
    "batches": {"batch_size": 7},
    "clip": {"clip_norm": 0.3},
    "decay": {"optimizer": functools.partial(torch.optim.Adam, lr=0.05, weight_decay=0.3)},
    "betas": {"optimizer": functools.partial(torch.optim.Adam, betas=(0.5, 0.9), eps=1e-3)},
    "step": {"schedule": step_down},
    "one cycle": {"schedule": one_cycle},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_without_noise_both_engines_take_the_same_steps(name):
    def run(mode):
        torch.manual_seed(1)
        svi = zoo.SVI(**{"steps": 60, "window": 20, "compile": mode, **OPTIONS[name]})
        fit = zoo.fit(Chain().double(), binary(30, 3).double(), svi, progress=False)
        return fit.history["objective"], fit.solution.parameters

    (one, values), (other, others) = run(False), run("xla")
    np.testing.assert_allclose(other, one, rtol=1e-9)
    for key, value in values.items():
        torch.testing.assert_close(others[key], value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("option", ["amsgrad", "maximize", "decoupled_weight_decay"])
def test_options_of_adam_that_the_loop_lacks_are_refused(option):
    optimizer = functools.partial(torch.optim.Adam, **{option: True})
    with pytest.raises(ValueError, match=option):
        compiled(Mean(), line(5), optimizer=optimizer)


class Overflows(Mean):
    """A draw in some twelve overflows."""

    share = 1.4

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0))
        with self.observations("observations", x):
            far = mu + torch.where(noise > self.share, torch.inf, 0.0)
            pyro.sample("x", dist.Normal(far, self.noise, validate_args=False), obs=x)

    def guide(self, x):
        pyro.sample("mu", dist.Normal(self.loc, 0.1))
        pyro.sample("noise", dist.Normal(0.0, 1.0))

    def __init__(self, share=1.4):
        super().__init__()
        self.share = share
        self.loc = nn.Parameter(torch.zeros(()))


def test_steps_that_are_not_finite_are_left_out_and_a_run_of_them_is_an_error():
    fit = compiled(Overflows(), line(5), steps=200)
    assert np.isfinite(fit.history["objective"]).all()
    assert fit.model.loc.isfinite() and fit.model.loc.item() > 0.2
    moves = fit.history["objective"][0]
    assert (np.diff(moves) == 0).sum() > 3  # a step left out repeats the objective before
    with pytest.raises(zoo.ConvergenceError, match="not finite"):
        compiled(Overflows(share=-9.0), line(5))


def test_ctrl_c_between_blocks_keeps_what_stands_and_can_go_on(monkeypatch):
    from ppl_zoo.compiler.xla import svi_steps

    plain, calls = svi_steps.Stepper.run, []

    def run(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(svi_steps.Stepper, "run", run)
    svi = zoo.SVI(steps=100, window=20, compile="xla")
    fit = zoo.fit(Mean(), line(6), svi, progress=False)
    assert fit.stopped == "interrupted" and fit.solution.steps == (2,)  # by blocks of one
    resumed = zoo.fit(fit.model, line(6), svi, resume=fit, progress=False)
    whole = zoo.fit(Mean(), line(6), svi, progress=False)
    assert np.array_equal(resumed.history["objective"], whole.history["objective"])


def test_double_precision_stays_double():
    fit = compiled(Factor().double(), real(12).double())
    assert all(
        v.dtype == torch.float64 for v in fit.solution.parameters.values() if v.is_floating_point()
    )
    assert jax.config.jax_enable_x64 is False


@pytest.mark.slow
@pytest.mark.parametrize("model", [Switch, Coins])
def test_discrete_latents_fit_alike(model):
    x = line(30) if model is Switch else binary()
    results = []
    for mode in (False, "xla"):
        torch.manual_seed(0)
        svi = zoo.SVI(steps=400, window=100, compile=mode)
        results.append(zoo.fit(model(), x, svi, progress=False).objective)
    assert results[0] == pytest.approx(results[1], abs=1.0)


def test_rounding_near_a_singular_matrix_is_no_change_of_the_program():
    """The graph of a noiseless Gaussian process differs from its program in float32."""
    x = torch.linspace(0, 1, 30)
    holder = torch.nn.Module()
    holder.scale = torch.nn.Parameter(torch.tensor(1.0))
    shift = {"by": 0.0}

    def loss(y):
        kernel = holder.scale * torch.exp(-((x[:, None] - x) ** 2) / 0.05)
        solved = torch.linalg.solve(kernel + 3e-6 * torch.eye(30), y)
        return (1 + shift["by"]) * y @ solved

    y = x.sin() + 0.1 * (-1.0) ** torch.arange(30)
    captured = capture(loss, [holder], (y,))
    rounded = captured.graph

    class Otherwise(torch.nn.Module):
        """The same graph in another order of operations."""

        def forward(self, scale, y):
            return rounded(scale * (1 + 2e-7), y * (1 - 1e-7))

    captured.graph = Otherwise()
    values = [f(holder.scale.detach(), y)[0].item() for f in (captured.program, Otherwise())]
    assert values[0] != pytest.approx(values[1], rel=1e-3)
    assert captured.outdated([holder.scale], (y,)) == ""
    shift["by"] = 1.0
    assert "another result" in captured.outdated([holder.scale], (y,))


def test_a_mask_that_depends_on_values_may_place_what_it_selects():
    """As splines do outside of their interval; a sum of what it selects has no graph."""
    holder = torch.nn.Module()
    holder.scale = torch.nn.Parameter(torch.tensor(1.5))
    known = torch.tensor([True, False, True, True, False])

    def loss(x):
        moved = holder.scale * x
        inside = moved.abs() < 1
        out = moved.pow(3)
        out[inside] = moved[inside]
        out[~inside & (moved > 2)] = 0.0
        return out.sum() + out[known].exp().sum()

    captured = capture(loss, [holder], (torch.linspace(-2, 2, 5),))
    for x in (torch.linspace(-2, 2, 5), torch.tensor([0.1, 3.0, -0.4, 1.0, 0.6])):
        expected = loss(x)
        (slope,) = torch.autograd.grad(expected, holder.scale)
        value, gradient = captured.graph(holder.scale.detach(), x)
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(gradient, slope)
        lowered = lower(captured)(None, to_jax(holder.scale), to_jax(x))
        assert float(lowered[1]) == pytest.approx(slope.item(), rel=1e-5)
    for use in (torch.sum, lambda v: v.sum(), lambda v: 2 * v, len, lambda v: torch.cat([v, v])):

        def refused(x, use=use):
            return torch.as_tensor(use(x[holder.scale * x > 0])).sum() * holder.scale

        with pytest.raises(CaptureError, match="the shape of a tensor depends on values"):
            capture(refused, [holder], (torch.linspace(-2, 2, 5),))


def test_blocks_last_as_long_as_asked_and_change_nothing(monkeypatch):
    from ppl_zoo.compiler.xla import svi_steps
    from ppl_zoo.solvers.loop import Pace
    from ppl_zoo.solvers.svi import engines

    plain, lengths = svi_steps.Stepper.run, []

    def run(self, steps, rates, *args):
        lengths.append(len(rates))
        time.sleep(0.02 * len(rates))  # a slow step
        return plain(self, steps, rates, *args)

    svi = zoo.SVI(steps=60, window=20, compile="xla")
    whole = zoo.fit(Mean(), line(6), svi, progress=False)
    monkeypatch.setattr(svi_steps.Stepper, "run", run)
    monkeypatch.setattr(engines, "Pace", lambda: Pace(0.1))
    fit = zoo.fit(Mean(), line(6), svi, progress=False)
    assert sum(lengths) == 60 and max(lengths) <= 5
    assert np.array_equal(fit.history["objective"], whole.history["objective"])
