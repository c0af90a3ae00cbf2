"""Autoregressive models: probabilities add up, nobody looks ahead, and short cuts are exact."""

import itertools
import math

import numpy as np
import pytest
import torch
from autoregressive_models import DISCRETE, REAL, shaken, some_rows, state_index, states
from scipy import integrate, stats

import ppl_zoo as zoo
from ppl_zoo.models.autoregressive.outputs import make_output
from ppl_zoo.models.autoregressive.sampling import draw

ALL = {**DISCRETE, **REAL}


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_of_all_states_add_up_to_one(name):
    model = shaken(DISCRETE[name])
    assert float(model.log_prob(states(model)).exp().sum()) == pytest.approx(1.0, abs=1e-9)
    for member in range(model.num_members):  # every order and mask by itself
        with torch.no_grad():
            each = model.score_member(states(model).flatten(1), member)
        assert float(each.exp().sum()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_nobody_looks_ahead(name):
    model = shaken(ALL[name])
    x = some_rows(model).flatten(1)
    for member in range(model.num_members):
        x = x.detach().requires_grad_()
        place = model.places[member]
        for i in range(model.num_features):
            out = model.conditionals(x, member)[:, i].sin().sum()
            (gradient,) = torch.autograd.grad(out, x, allow_unused=True)
            seen = torch.zeros(model.num_features) if gradient is None else gradient.abs().sum(0)
            assert not seen[place >= place[i]].any(), (i, seen)
        with torch.no_grad():  # one-hot vectors have no gradient: change values, too
            before = model.conditionals(x, member)
            for j in range(model.num_features):
                other = x.clone()
                other[:, j] = (other[:, j] + 1) % (model.output.num_values or 100)
                change = (model.conditionals(other, member) - before).abs()
                moved = (change > 1e-12).any(-1).any(0)
                assert not moved[place <= place[j]].any()
                if not name.startswith(("PixelCNN", "MADE", "RNADE")):  # dead units, short reach
                    assert moved[place > place[j]].all()


@pytest.mark.parametrize("name", ALL)
def test_cached_sampling_is_naive_sampling(name):
    model = shaken(ALL[name])
    output, size = model.output, model.num_features
    for member in range(model.num_members):
        noise = torch.rand(size, output.num_noise, 40, dtype=torch.float64)
        with torch.no_grad():
            cached, evidence = draw(model, 40, member, noise=noise)
            x, prepared = torch.zeros(40, size, dtype=torch.float64), output.prepare(noise)
            for place, i in enumerate(model.orders[member].tolist()):
                x[:, i] = output.draw(model.conditionals(x, member)[:, i], prepared[place])
        assert torch.allclose(cached, x, atol=1e-9)
        assert not evidence.any()


@pytest.mark.parametrize("name", DISCRETE)
def test_samples_have_their_frequencies(name):
    model = shaken(DISCRETE[name])
    count = 8000
    found = torch.bincount(state_index(model, model.sample(count)), minlength=len(states(model)))
    expected = count * model.log_prob(states(model)).exp()
    order = expected.argsort()  # rare states are counted together
    rare = order[: int((expected[order].cumsum(0) < 20).sum())]
    kept = order[len(rare) :]
    found = torch.cat([found[rare].sum()[None], found[kept]]).double().numpy()
    expected = torch.cat([expected[rare].sum()[None], expected[kept]]).numpy()
    found, expected = found[expected > 0], expected[expected > 0]
    assert stats.chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize(
    "name", ["FVSBN, order", "NADE, categories", "MADE", "MADE, masks", "PixelCNN, levels"]
)
def test_samples_given_the_first_variables_are_exact(name):
    model = shaken(DISCRETE[name])
    order = model.orders[0]
    given = torch.full((model.num_features,), torch.nan, dtype=torch.float64)
    given[order[:2]] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    count = 10_000
    drawn = model.sample(count, given.reshape(model.event_shape))
    assert (drawn.flatten(1)[:, order[:2]] == given[order[:2]]).all()
    check_conditional(model, drawn, given)


@pytest.mark.parametrize("name", ["FVSBN", "NADE, order", "MADE, orders", "TransformerAR"])
def test_samples_given_any_variables_by_resampling(name):
    model = shaken(DISCRETE[name])
    given = torch.full((model.num_features,), torch.nan, dtype=torch.float64)
    given[[1, model.num_features - 1]] = 1.0
    drawn = model.sample(1000, given.reshape(model.event_shape), num_particles=50)
    check_conditional(model, drawn, given, slack=0.02)


@pytest.mark.parametrize(
    "name",
    ["FVSBN, order", "MADE, orders", pytest.param("OrderEnsemble", marks=pytest.mark.slow)],
)
def test_samples_given_any_variables_by_gibbs(name):
    """One particle a row is far from the conditional distribution; sweeps converge to it."""
    model = shaken(DISCRETE[name], 1.0)
    given = torch.full((model.num_features,), torch.nan, dtype=torch.float64)
    given[model.orders[0, -2:]] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    ask = {"given": given.reshape(model.event_shape), "num_particles": 1}
    with pytest.raises(AssertionError):
        check_conditional(model, model.sample(4000, **ask), given)
    drawn = model.sample(4000, num_sweeps=15, **ask)
    check_conditional(model, drawn, given)
    assert (drawn.flatten(1) == given)[:, ~given.isnan()].all()


def test_an_ensemble_is_the_mean_of_its_nets():
    nets = [shaken(lambda seed=seed: zoo.NADE(6, 5, "random", seed=seed)) for seed in range(3)]
    ensemble = zoo.OrderEnsemble.of(nets)
    x = states(ensemble)
    mean = torch.stack([net.log_prob(x).exp() for net in nets]).mean(0)
    assert torch.allclose(ensemble.log_prob(x).exp(), mean, rtol=1e-10, atol=0)
    with torch.enable_grad():
        mean = torch.stack([net.log_prob(x) for net in nets]).mean(0)
        assert torch.allclose(ensemble.score(x), mean)


def check_conditional(model, drawn, given, slack=0.0):
    """Compare margins of draws with the conditional distribution, by listing all states."""
    every = states(model).flatten(1)
    known = ~given.isnan()
    weight = model.log_prob(states(model)).exp()
    weight = weight * (every[:, known] == given[known]).all(-1)
    weight = weight / weight.sum()
    mean = (weight[:, None] * every).sum(0)
    spread = ((weight[:, None] * every**2).sum(0) - mean**2).clamp(min=0).sqrt()
    error = (drawn.flatten(1).mean(0) - mean).abs()
    assert (error <= 4.5 * spread / math.sqrt(len(drawn)) + slack + 1e-9).all(), error


def test_order_agnostic_net_conditions_on_anything():
    """Given variables come first in the order, whichever they are."""
    model = shaken(DISCRETE["DeepNADE"])
    given = torch.full((6,), torch.nan, dtype=torch.float64)
    given[[1, 5]] = 1.0
    drawn = model.sample(8000, given)
    free = [0, 2, 3, 4]
    with torch.no_grad():  # p(x_0 | x_1, x_5) from the net, and p(x_2 | x_0, x_1, x_5)
        known = torch.tensor([0.0, 1, 0, 0, 0, 1], dtype=torch.float64)
        x = torch.where(given.isnan(), 0.0, given)
        first = model._outputs(model._features(model._inputs(x[None], known)))[0, 0].sigmoid()
    assert drawn[:, free[0]].mean() == pytest.approx(float(first), abs=0.025)
    assert (drawn[:, [1, 5]] == 1).all()


def test_order_agnostic_training_is_unbiased():
    model = shaken(lambda: zoo.DeepNADE(3, (6,), "random", num_orders=1))
    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    exact = []
    for order in map(torch.tensor, itertools.permutations(range(3))):
        model.orders[0], model.places[0] = order, order.argsort()
        exact.append(float(model.log_prob(x)))
    estimates = model.score(x.expand(20_000, 3)).detach()
    error = float(estimates.std()) / math.sqrt(20_000)
    assert float(estimates.mean()) == pytest.approx(np.mean(exact), abs=5 * error)


@pytest.mark.parametrize("name", REAL)
def test_densities_of_real_rows_integrate_to_one(name):
    model = shaken(REAL[name], 0.3)
    x = some_rows(model, 1).flatten(1)
    i = int(model.orders[0, 2])
    grid = torch.linspace(-40, 40, 40_001, dtype=torch.float64)
    with torch.no_grad():
        parameters = model.conditionals(x)[:, i]
        density = model.output.log_prob(parameters, grid).exp()
    assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", ["normal", "laplace", "logistic"])
def test_mixtures_meet_scipy(kind):
    output = make_output(kind, 2, None, 0.01)
    parameters = torch.tensor([0.3, -0.5, 1.0, -2.0, 0.2, -1.0], dtype=torch.float64)
    (w, loc, scale) = (t.numpy() for t in output.split(parameters))
    w = np.exp(w) / np.exp(w).sum()
    family = {"normal": stats.norm, "laplace": stats.laplace, "logistic": stats.logistic}[kind]
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    expected = np.log(sum(w[k] * family(loc[k], scale[k]).pdf(x.numpy()) for k in range(2)))
    assert output.log_prob(parameters, x).numpy() == pytest.approx(expected, abs=1e-12)
    noise = output.prepare(torch.rand(2, 4000, dtype=torch.float64))
    drawn = output.draw(parameters.expand(4000, 6), noise).numpy()
    test = stats.kstest(
        drawn, lambda v: sum(w[k] * family(loc[k], scale[k]).cdf(v) for k in range(2))
    )
    assert test.pvalue > 1e-4


def test_scales_are_clamped_and_ties_are_harmless():
    """A column that hardly varies drives scales down; neither loss nor gradient overflows."""
    x = torch.randint(3, (200, 4)).float()
    x[:, 1] = 0.0
    model = zoo.RNADE(4, 5, 20, min_scale=1e-2)
    fit = zoo.fit(model, x, zoo.SVI(steps=60, learning_rate=0.3, compile=False), progress=False)
    assert np.isfinite(fit.history["objective"]).all()
    assert model.log_prob(x).isfinite().all()
    with torch.no_grad():
        assert float(model.output.split(model.conditionals(x))[2].min()) >= 0.999e-2


def test_extreme_levels_keep_their_digits():
    """Discretised logistics far from a level give a finite log probability, and sum to one."""
    output = make_output("logistic", 1, 256, 1e-3)
    x = torch.arange(256.0)
    far = torch.tensor([0.0, -0.9, -30.0])
    log_prob = output.log_prob(far, x)
    assert log_prob.isfinite().all()
    assert float(log_prob.double().exp().sum()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["FVSBN, order", "NADE", "MADE", "TransformerAR", "PixelCNN"])
def test_missing_variables_at_the_end_are_integrated_out(name):
    make = {
        "FVSBN, order": lambda: zoo.FVSBN(6, [3, 1, 5, 0, 2, 4], missing=True),
        "NADE": lambda: zoo.NADE(6, 7, missing=True),
        "MADE": lambda: zoo.MADE(6, (9,), missing=True),
        "TransformerAR": lambda: zoo.TransformerAR(6, 8, num_heads=2, missing=True),
        "PixelCNN": lambda: zoo.PixelCNN((2, 3), 3, 2, missing=True),
    }[name]
    model = shaken(make)
    order = model.orders[0]
    x = states(model)[20].clone().flatten()
    x[order[4:]] = torch.nan
    every = states(model).flatten(1)
    same = (every[:, order[:4]] == x[order[:4]]).all(-1)
    expected = model.log_prob(states(model))[same].logsumexp(0)
    got = model.log_prob(x.reshape(1, *model.event_shape))
    assert float(got) == pytest.approx(float(expected), abs=1e-9)
    x[order[5]] = 1.0
    with pytest.raises(zoo.DataError, match="last of the order"):
        model.log_prob(x.reshape(1, *model.event_shape))


def test_data_outside_of_the_support_are_refused():
    for x, message in (
        (torch.full((5, 4), 0.5), "expected integers from 0 to 1"),
        (torch.ones(5, 3), r"expected \(n, 4\)"),
        (torch.full((5, 4), torch.nan), "got nan"),
        (torch.full((5, 4), 2), "expected integers from 0 to 1"),
    ):
        with pytest.raises(zoo.DataError, match=message):
            zoo.FVSBN(4).log_prob(x)
    with pytest.raises(zoo.DataError, match="from 0 to 2"):
        zoo.NADE(4, 3, output="categorical", num_values=3).log_prob(torch.full((2, 4), 3.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zoo.FVSBN(4, [0, 1, 2, 2]), "no permutation"),
        (lambda: zoo.FVSBN(4, "sideways"), "expected None, 'random'"),
        (lambda: zoo.FVSBN(0), "expected a positive number"),
        (lambda: zoo.NADE(4, 3, output="normal"), "expected 'bernoulli' or 'categorical'"),
        (lambda: zoo.RNADE(4, 3, 5, output="bernoulli"), "expected 'normal'"),
        (lambda: zoo.MADE(4, (0,)), "expected positive numbers"),
        (lambda: zoo.MADE(4, (5,), output="categorical"), "num_values: got None"),
        (lambda: zoo.RecurrentAR(4, 5, "elman"), "expected 'lstm' or 'gru'"),
        (lambda: zoo.RecurrentAR(4, 5, block=3), "a divisor of 4"),
        (lambda: zoo.TransformerAR(4, 10, num_heads=4), "a multiple of num_heads"),
        (lambda: zoo.PixelCNN(16), r"expected \(height, width\)"),
        (lambda: zoo.PixelCNN((4, 4), kernel_size=4), "an odd number"),
        (lambda: zoo.OrderEnsemble("ICA", [{}]), "expected one or more of DeepNADE"),
        (lambda: zoo.OrderEnsemble("FVSBN", [{"num_features": n} for n in (3, 4)]), "one shape"),
        (lambda: zoo.OrderEnsemble.of([zoo.FVSBN(3), zoo.NADE(3, 2)]), "nets of one class"),
        (lambda: zoo.FVSBN(4).sample(2, torch.ones(3)), "expected"),
        (lambda: zoo.FVSBN(4).sample(2, torch.full((4,), 0.5)), "NaN where free"),
        (lambda: zoo.FVSBN(4).sample(2, torch.ones(4), num_sweeps=-1), "expected 0 or more"),
        (lambda: zoo.RNADE(4, 2, 3).sample(2, torch.ones(4), num_sweeps=1), "0 of real"),
    ],
)
def test_bad_arguments_say_what_was_expected(make, message):
    with pytest.raises(zoo.DataError, match=message):
        make()
