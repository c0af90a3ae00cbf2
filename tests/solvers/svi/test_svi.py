"""SVI: unbiased minibatches, chains, every ELBO, every optimizer, resuming, Ctrl-C."""

import functools
import signal

import numpy as np
import pyro.infer
import pytest
import torch
from tiny_models import Chain, Factor, Groups, Mean, Switch, binary, line, real

import ppl_zoo as zoo
from ppl_zoo.core.random import set_seed
from ppl_zoo.core.rows import Rows
from ppl_zoo.solvers.elbos import estimate_and_differentiate, make_elbo
from ppl_zoo.solvers.guides import make_pair
from ppl_zoo.solvers.svi.engines import Minibatches


def gradients(model, pair, data, total, seed):
    parameters = [p for m in (model, pair.guide) for p in getattr(m, "parameters", list)()]
    for p in parameters:
        p.grad = None
    set_seed(seed, torch.device("cpu"))
    with model.scaled_to(total):
        elbo = make_elbo("auto", pair, 1)
        estimate_and_differentiate(elbo, pair, data, parameters)
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    )


@pytest.mark.parametrize("size", [8, 9])  # batches of 9 straddle two passes over 24 rows
def test_minibatch_gradients_are_unbiased(size):
    # a deterministic objective, so that the average has no noise to hide behind
    x = binary(24, 3)
    model = Chain()
    torch.nn.init.normal_(model.weight)
    pair = make_pair(model, None, Rows(x), size)
    full = gradients(model, pair, (x,), 24, 0)
    batches = Minibatches(3, size, 24)
    steps = 72 // size  # whole passes, in which every row comes equally often
    index = [batches.rows(0, step) for step in range(steps)]
    assert torch.cat(index).bincount().tolist() == [3] * 24
    assert {len(i) for i in index} == {size}
    assert len({tuple(i.tolist()) for i in index}) == steps  # passes are shuffled anew
    parts = [gradients(model, pair, (x[i],), 24, 0) for i in index]
    assert torch.allclose(torch.stack(parts).mean(0), full, rtol=1e-4)


def test_minibatches_are_a_function_of_seed_chain_and_step():
    one, other = Minibatches(3, 5, 24), Minibatches(3, 5, 24)
    forward = [one.rows(1, step).tolist() for step in range(12)]
    assert other.rows(1, 11).tolist() == forward[11]  # as after resuming
    assert Minibatches(4, 5, 24).rows(1, 11).tolist() != forward[11]
    assert one.rows(0, 11).tolist() != forward[11]


def test_minibatch_elbo_with_global_latents_is_unbiased():
    x = line(20)
    model = Mean()
    pair = make_pair(model, None, Rows(x), None)
    elbo = make_elbo("trace", pair, 1)

    def value(data):
        set_seed(1, torch.device("cpu"))
        with model.scaled_to(20), torch.no_grad():
            return elbo.loss(pair.model, pair.guide, *data)

    batches = [value((x[i : i + 5],)) for i in range(0, 20, 5)]
    assert np.mean(batches) == pytest.approx(value((x,)), rel=1e-5)  # the prior is not scaled


def test_fitting_by_minibatches_reaches_the_full_fit():
    x = binary(400, 3)
    full = zoo.fit(Chain(), x, progress=False)
    small = zoo.fit(Chain(), x, zoo.SVI(batch_size=50), progress=False)
    gap = full.model.log_prob(x).sum() - small.model.log_prob(x).sum()
    assert 0 <= gap.item() + 1e-3 < 0.5


def test_chains_do_not_depend_on_how_many_run_beside_them():
    x = line(10)
    one = zoo.fit(Groups(), x, zoo.SVI(steps=20), progress=False)
    three = zoo.fit(Groups(), x, zoo.SVI(steps=20, restarts=3), progress=False)
    assert three.history["objective"].shape == (3, 20)
    assert np.array_equal(one.history["objective"][0], three.history["objective"][0])
    starts = three.solution.parameters["guide.locs.mu_unconstrained"]
    assert len(set(starts.flatten().tolist())) == 3


@pytest.mark.slow
@pytest.mark.parametrize("elbo", ["mean-field", "auto", "trace", "graph", "importance"])
def test_every_elbo_finds_the_posterior(elbo):
    x = line(10)
    svi = zoo.SVI(steps=600, elbo=elbo, num_particles=2)
    fit = zoo.fit(Mean(), x, svi, progress=False)
    mean, sd = (t.item() for t in fit.model.posterior(x))
    draws = fit.posterior(4000)["mu"]
    assert draws.mean().item() == pytest.approx(mean, abs=0.25 * sd)
    assert draws.std().item() == pytest.approx(sd, rel=0.25)


def test_elbo_objects_of_pyro_are_taken():
    x = line(10)
    elbo = pyro.infer.TraceMeanField_ELBO(num_particles=3)
    assert zoo.fit(Mean(), x, zoo.SVI(steps=30, elbo=elbo), progress=False).objective < 0
    fit = zoo.fit(
        Switch(),
        x,
        zoo.SVI(steps=30, elbo=pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)),
        progress=False,
    )
    assert np.isfinite(fit.objective)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adam,
        torch.optim.SGD,
        torch.optim.RMSprop,
        functools.partial(torch.optim.AdamW, lr=0.05, weight_decay=0.0),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    ],
)
def test_any_torch_optimizer(optimizer):
    x = binary(100, 3)
    svi = zoo.SVI(steps=60, optimizer=optimizer, learning_rate=1e-3)
    history = zoo.fit(Chain(), x, svi, progress=False).history["objective"][0]
    assert history[-1] > history[0] + 1.0


@pytest.mark.slow
def test_any_torch_schedule():
    x = line(10)

    def schedule(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=300)

    fit = zoo.fit(Mean(), x, zoo.SVI(steps=300, schedule=schedule), progress=False)
    assert fit.posterior(2000)["mu"].mean().item() == pytest.approx(
        fit.model.posterior(x)[0].item(), abs=0.2
    )


def test_gradient_clipping_bounds_a_step():
    x = 1e4 * line(10)
    svi = zoo.SVI(steps=1, optimizer=torch.optim.SGD, learning_rate=1.0, clip_norm=0.5)
    model = Mean()
    before = zoo.fit(model, x, zoo.SVI(steps=1, learning_rate=1e-12), progress=False)
    after = zoo.fit(Mean(), x, svi, progress=False)
    moved = [
        (after.solution.parameters[k] - before.solution.parameters[k]).square().sum()
        for k in after.solution.parameters
        if k.startswith("guide.")
    ]
    assert sum(moved).sqrt().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("guide", ["normal", "multivariate-normal", "low-rank", "delta"])
def test_guides_by_name(guide):
    fit = zoo.fit(Groups(), line(6), zoo.SVI(steps=40, guide=guide), progress=False)
    assert fit.posterior(7)["z"].shape == (1, 7, 6)


def test_guides_as_classes_and_programs():
    import pyro.distributions as dist

    x = line(10)
    partial = functools.partial(pyro.infer.autoguide.AutoNormal, init_scale=0.01)
    zoo.fit(Mean(), x, zoo.SVI(steps=5, guide=partial, restarts=2), progress=False)

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            pyro.sample("mu", dist.Normal(self.loc, 0.1))

    fit = zoo.fit(Mean(), x, zoo.SVI(guide=Program(), restarts=2), progress=False)
    assert fit.guide.loc.item() == pytest.approx(fit.model.posterior(x)[0].item(), abs=0.05)


def test_local_latents_in_minibatches_need_an_amortised_guide():
    with pytest.raises(zoo.DataError, match="amortised"):
        zoo.fit(Groups(), line(20), zoo.SVI(batch_size=5), progress=False)
    fit = zoo.fit(Factor(), real(20), zoo.SVI(steps=10, batch_size=5), progress=False)
    assert fit.solution.steps == (10,)


RESUMED = [
    (Groups, line, zoo.SVI(steps=120, restarts=2, window=20)),
    (Chain, lambda: binary(30, 3), zoo.SVI(steps=60, batch_size=8, window=10)),
    (Mean, line, zoo.SVI(steps=60, optimizer=torch.optim.SGD, learning_rate=1e-3)),
]


@pytest.mark.parametrize(("model", "data", "svi"), RESUMED, ids=["chains", "batches", "SGD"])
@pytest.mark.parametrize("through_disk", [pytest.param(False, marks=pytest.mark.slow), True])
def test_resuming_equals_never_stopping(model, data, svi, through_disk, tmp_path):
    import dataclasses

    torch.manual_seed(3)
    whole = zoo.fit(model(), data(), svi, progress=False)
    torch.manual_seed(3)
    part = zoo.fit(model(), data(), dataclasses.replace(svi, steps=svi.steps // 3), progress=False)
    if through_disk:
        part = zoo.load(part.save(tmp_path / "run"), model=model)
    resumed = zoo.fit(part.model, data(), svi, resume=part, progress=False)
    assert np.array_equal(whole.history["objective"], resumed.history["objective"], equal_nan=True)
    for name, value in whole.solution.parameters.items():
        assert torch.equal(value, resumed.solution.parameters[name]), name


class PressesCtrlC(Mean):
    after = 12

    def model(self, x):
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        if self.calls == self.after:
            signal.raise_signal(signal.SIGINT)
        return super().model(x)


def test_ctrl_c_returns_the_fit_so_far_and_it_can_go_on():
    x = line(10)
    fit = zoo.fit(PressesCtrlC(), x, zoo.SVI(steps=100), progress=False)
    assert fit.stopped == "interrupted"
    assert 0 < fit.solution.steps[0] < 15
    resumed = zoo.fit(fit.model, x, resume=fit, progress=False)
    whole = zoo.fit(Mean(), x, zoo.SVI(steps=100), progress=False)
    assert np.array_equal(resumed.history["objective"], whole.history["objective"])


def test_nan_never_passes_quietly():
    import pyro.distributions as dist

    class Overflow(Mean):
        def model(self, x):
            mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
            with self.observations("observations", x):
                far = mu + torch.where(mu.abs() < 1e9, torch.inf, 0.0)
                pyro.sample("x", dist.Normal(far, self.noise, validate_args=False), obs=x)

    with pytest.raises(zoo.ConvergenceError, match=r"\['x'\] is not finite"):
        zoo.fit(Overflow(), line(5), zoo.SVI(steps=100), progress=False)


def test_an_error_keeps_what_was_reached():
    import pyro.distributions as dist

    class Breaks(Mean):
        def model(self, x):
            self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
            scale = float("nan") if self.calls > 20 else 1.0
            mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
            with self.observations("observations", x):
                pyro.sample("x", dist.Normal(mu * scale, 1.0, validate_args=False), obs=x)

    with pytest.raises(zoo.ConvergenceError) as caught:
        zoo.fit(Breaks(), line(5), zoo.SVI(steps=100), progress=False)
    kept = caught.value.fit
    assert kept.solution.steps[0] > 10
    assert all(v.isfinite().all() for v in kept.solution.parameters.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"elbo": "jit"}, "expected one of"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "float16"}, "precision='float16'"),
        ({"precision": "bfloat16", "compile": "xla"}, "mixed precision is interpreted"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.SVI(**options)


def test_unknown_guide():
    with pytest.raises(ValueError, match="multivariate-normal"):
        zoo.fit(Mean(), line(), zoo.SVI(guide="full"), progress=False)


@pytest.mark.gpu
def test_cuda(cuda):
    fit = zoo.fit(Mean(), line(), zoo.SVI(steps=200), device="cuda", progress=False)
    assert fit.model.device.type == "cuda"
    assert fit.posterior(10)["mu"].is_cuda
