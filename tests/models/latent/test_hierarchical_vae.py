"""Layers of latents: the pair, the bound with its KLs, queries against sums and closed forms."""

import itertools

import pyro
import pytest
import torch
from pyro import infer

import ppl_zoo as zoo
from ppl_zoo import evaluation


def small(**options):
    return zoo.HierarchicalVAE(16, [3, 2], [[8], [6]], **options)


def rows(n=40):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 1, generator=g)
    x = z * torch.linspace(-1, 1, 16) + 0.5 * torch.randn(n, 16, generator=g)
    return (x > 0).float()


@pytest.mark.slow
def test_contract():
    elbo = zoo.LocalELBO(3)
    solver = zoo.SVI(steps=30, batch_size=20, learning_rate=1e-3, compile=False, elbo=elbo)
    passed = zoo.testing.check_model(small, rows, solver=solver)
    assert passed == tuple(zoo.testing.CLAUSES)


@pytest.mark.parametrize("sizes", [[2], [2, 1], [2, 2, 1]])
def test_all_states_sum_to_one(sizes):
    torch.manual_seed(0)
    model = zoo.HierarchicalVAE(4, sizes, [[4]] * len(sizes)).double()
    with torch.no_grad():  # a guide that is wide enough to weigh by
        for net in (model.encoder, *model.encoders_above):
            net[-1].weight.mul_(0.3)
            net[-1].bias.add_(0.3)
    x = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double()
    assert model.log_prob(x, num_samples=20_000).exp().sum().item() == pytest.approx(1.0, abs=0.02)


@pytest.fixture
def model():
    """A pair in which each layer of the guide leans on the one below."""
    torch.manual_seed(1)
    model = zoo.HierarchicalVAE(6, [2, 1], [[4], [4]]).double()
    with torch.no_grad():
        for net in (model.encoder, *model.encoders_above, *model.decoders_above):
            half = len(net[-1].bias) // 2
            net[-1].weight[:half].mul_(1.5)  # means
            net[-1].weight[half:].zero_()  # logarithms of sds
            net[-1].bias[half:].fill_(-0.2)
    return model


def test_the_bound_has_only_kls_that_may_be_closed(model):
    """Closing the lower layer's KL as if the upper one did not follow from it would be wrong."""
    x = torch.bernoulli(torch.full((3, 6), 0.4)).double()
    pyros = infer.Trace_ELBO(num_particles=20_000, vectorize_particles=True, max_plate_nesting=1)
    exact = -pyros.differentiable_loss(model.model, model.guide, x).item()
    ours = -zoo.LocalELBO(20_000).differentiable_loss(model.model, model.guide, x).item()
    assert ours == pytest.approx(exact, abs=0.05)
    assert model.elbo(x, 20_000).sum().item() == pytest.approx(exact, abs=0.05)
    wrong = infer.TraceMeanField_ELBO(
        num_particles=5000, vectorize_particles=True, max_plate_nesting=1
    )
    with pytest.warns(UserWarning):
        naive = -wrong.differentiable_loss(model.model, model.guide, x).item()
    assert naive == pytest.approx(exact, abs=0.5) and abs(naive - exact) > 0.1


def test_queries_agree_with_the_program(model):
    x = torch.bernoulli(torch.full((5, 6), 0.4)).double()
    model.remember(model.as_rows(x))
    found = evaluation.importance_sampling(model, x, num_samples=20_000)
    assert torch.allclose(model.log_prob(x, 20_000).mean(), found.value.mean(), atol=0.05)
    drawn = model.guess(x, (3,))
    layers = dict(zip(("z1", "z2"), drawn.split((2, 1), -1), strict=True))
    for program, told in ((model.model, model.log_joint), (model.guide, model.log_guess)):
        with pyro.plate("_draw", 3, dim=-2):
            trace = pyro.poutine.trace(pyro.poutine.condition(program, layers)).get_trace(x)
        assert told(x, drawn).sum().item() == pytest.approx(trace.log_prob_sum().item())
    bounds = [
        evaluation.iwae_bound(model, x, num_particles=k, num_repeats=2000).mean[0]
        for k in (1, 5, 50)
    ]
    assert bounds == sorted(bounds) and bounds[-1] <= found.mean[0] + 0.01
    told = zoo.Model.sample(model, 4000).mean(0)
    assert torch.allclose(model.sample(4000).mean(0), told, atol=0.05)


@pytest.mark.slow
def test_annealing_and_its_two_sides(model):
    x = torch.bernoulli(torch.full((5, 6), 0.4)).double()
    model.remember(model.as_rows(x))
    best = evaluation.importance_sampling(model, x, num_samples=20_000).mean[0]
    value, error = evaluation.annealed(model, x, num_particles=128, num_steps=10).mean
    assert value == pytest.approx(best, abs=4 * error + 0.02)
    assert 0 <= evaluation.sandwich(model, 5, num_particles=64, num_steps=10).gap < 0.2


def test_use_of_latents_takes_noise_of_lower_layers_for_no_signal(model):
    x = torch.bernoulli(torch.full((2000, 6), 0.5)).double()
    model.remember(model.as_rows(x))
    with torch.no_grad():  # the lower layer knows nothing of x, the upper one follows the lower
        for parameter in model.encoder.parameters():
            parameter.zero_()
    use = evaluation.latent_use(model, x)
    assert use.variance.abs().max() < 0.1 and not use.active[:2].any()
    model.encoder[-1].bias.data.fill_(0.3)  # the terms of the bound add up
    terms = evaluation.latent_use(model, x).kl.sum().item()
    elbo = model.elbo(x, 20).mean().item()
    z = model.guess(x, (20,))
    told = model.row(z).log_prob(x).mean().item()
    assert told - terms == pytest.approx(elbo, abs=0.15)


def test_held_features_stay_and_free_ones_have_the_right_distribution():
    torch.manual_seed(2)
    model = zoo.HierarchicalVAE(3, [2, 1], [[4], [4]]).double()
    with torch.no_grad():
        model.decoder[-1].weight.mul_(6.0)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3))).double()
    joint = model.log_prob(states, 20_000).exp()
    given = torch.tensor([1.0, torch.nan, torch.nan]).double()
    drawn = model.sample(4000, given, num_steps=60)
    assert (drawn[:, 0] == 1).all()
    share = joint[4:] / joint[4:].sum()
    code = (drawn[:, 1] * 2 + drawn[:, 2]).long()
    assert torch.allclose(torch.bincount(code, minlength=4).double() / 4000, share, atol=0.04)


@pytest.mark.slow
def test_it_learns_and_its_layers_go_to_arviz():
    x, model = rows(200), small()
    before = model.elbo(x, 20).mean()
    solver = zoo.SVI(
        steps=1000, batch_size=50, learning_rate=1e-2, compile="xla", elbo=zoo.LocalELBO()
    )
    fit = zoo.fit(model, x, solver, progress=False)
    assert fit.solution.engine == "xla"
    assert model.elbo(x, 20).mean() > before + 2.0
    posterior = zoo.diagnostics.get_group(fit.to_arviz(20), "posterior")
    assert posterior["z1"].dims == ("chain", "draw", "observations", "latent1")
    assert posterior["z2"].shape == (1, 20, 6, 2)
    loc, scale = model.encode(x, full=True)
    assert loc.shape == scale.shape == (200, 2) and (scale > 0).all()
    assert model.decode(loc).shape == model.reconstruct(x).shape == x.shape
    assert model.interpolate(x[0], x[1], 5).shape == (5, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": []}, "num_latents"),
        ({"num_latents": [2, 0], "hidden": [[4], [4]]}, "num_latents"),
        ({"num_latents": [2], "hidden": [[4], [4]]}, "hidden"),
        ({"activation": "sine"}, "activation"),
        ({"likelihood": "poisson"}, "likelihood"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.HierarchicalVAE(**({"num_features": 16} | options))
