"""VAE: its pair, its bounds and gradients, its queries; LinearVAE against closed forms."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import ppl_zoo as zoo

KINDS = {
    "plain": {},
    "mixture prior": {"prior": "mixture", "num_components": 3},
    "vamp prior": {"prior": "vamp", "num_components": 3},
    "flow prior": {"prior": "flow"},
    "gaussian": {"likelihood": "gaussian"},
    "per pixel": {"likelihood": "gaussian-per-pixel"},
    "categorical": {"likelihood": "categorical", "num_states": 3},
    "convolutions": {"network": "conv", "shape": (4, 4)},
}


def made(kind, num_latents=2):
    return zoo.VAE(16, num_latents, [8], **KINDS[kind])


def rows(kind, n=40):
    g = torch.Generator().manual_seed(0)
    likelihood = KINDS[kind].get("likelihood", "bernoulli")
    if likelihood == "categorical":
        return torch.randint(0, 3, (n, 16), generator=g).float()
    z = torch.randn(n, 1, generator=g)
    x = z * torch.linspace(-1, 1, 16) + 0.5 * torch.randn(n, 16, generator=g)
    return (x > 0).float() if likelihood == "bernoulli" else x


LONG = [pytest.param(k, marks=pytest.mark.slow) for k in ("vamp prior", "convolutions")]


@pytest.mark.parametrize("kind", ["plain", *LONG, "categorical"])
def test_contract(kind):
    solver = zoo.SVI(steps=30, batch_size=20, learning_rate=1e-3, compile=False)
    passed = zoo.testing.check_model(lambda: made(kind), lambda: rows(kind), solver=solver)
    assert passed == tuple(zoo.testing.CLAUSES)


@pytest.mark.parametrize("kind", ["gaussian", "per pixel", "mixture prior", "flow prior"])
def test_fits_and_answers(kind):
    x, model = rows(kind), made(kind)
    before = model.elbo(x, 50).mean()
    zoo.fit(model, x, zoo.SVI(steps=100, learning_rate=5e-3, compile=False), progress=False)
    assert model.elbo(x, 50).mean() > before + 0.5
    assert (model.log_prob(x, 500) > model.elbo(x, 50) - 1.0).all()
    assert model.sample(3).shape == (3, 16)


@pytest.mark.parametrize("kind", ["plain", "mixture prior", "vamp prior", "categorical"])
def test_all_states_sum_to_one(kind):
    model = zoo.VAE(4, 1, [4], **KINDS[kind]).double()
    states = KINDS[kind].get("num_states", 2)
    x = torch.tensor(list(itertools.product(range(states), repeat=4))).double()
    total = model.log_prob(x, num_samples=20_000).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=0.02)


def estimate(elbo, model, x, repeats=1):
    """Mean loss, and mean gradient of all parameters."""
    losses, gradients = [], []
    parameters = list(model.parameters())
    for _ in range(repeats):
        loss = elbo.differentiable_loss(model.model, model.guide, x)
        losses.append(loss.detach())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(losses), torch.stack(gradients)


@pytest.fixture
def small():
    torch.manual_seed(1)
    return zoo.VAE(6, 2, [4]).double(), torch.bernoulli(torch.full((3, 6), 0.4)).double()


def test_analytic_kl_changes_the_noise_not_the_value(small):
    model, x = small
    from pyro import infer

    ours, _ = estimate(zoo.LocalELBO(500), model, x, 4)
    pyros = infer.TraceMeanField_ELBO(
        num_particles=500, vectorize_particles=True, max_plate_nesting=1
    )
    theirs = torch.stack([pyros.differentiable_loss(model.model, model.guide, x) for _ in "1234"])
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=0.1)
    assert -ours.mean().item() == pytest.approx(model.elbo(x, 5000).sum().item(), abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "gradient"),
    [
        ({"num_particles": 4, "bound": "iwae"}, "doubly-reparametrised"),
        ({"num_particles": 1}, "sticking-the-landing"),
    ],
)
def test_gradients_without_the_score_have_the_same_mean(small, options, gradient):
    model, x = small
    _, plain = estimate(zoo.LocalELBO(**options), model, x, 400)
    _, other = estimate(zoo.LocalELBO(**options, gradient=gradient), model, x, 400)
    error = ((plain.var(0) + other.var(0)) / 400).sqrt() + 1e-12
    z = (plain.mean(0) - other.mean(0)) / error
    assert z.abs().max() < 5
    assert z.square().mean() < 1.5


@pytest.mark.slow
def test_doubly_reparametrised_gradients_are_quieter_near_the_optimum():
    torch.manual_seed(0)
    x = torch.randn(30, 4) @ torch.randn(4, 4)
    model = zoo.LinearVAE(4, 2)
    solver = zoo.SVI(steps=500, learning_rate=0.05, compile=False, elbo=zoo.LocalELBO(4))
    zoo.fit(model, x, solver, progress=False)
    encoder = sum(p.numel() for n, p in model.named_parameters() if n.startswith("encoder"))
    names = [n for n, _ in model.named_parameters()]
    start = sum(
        p.numel()
        for n, p in itertools.islice(model.named_parameters(), names.index("encoder.weight"))
    )
    part = slice(start, start + encoder)
    noise = {}
    for gradient in ("standard", "doubly-reparametrised"):
        elbo = zoo.LocalELBO(16, bound="iwae", gradient=gradient)
        noise[gradient] = estimate(elbo, model, x, 60)[1][:, part].var(0).mean()
    assert noise["doubly-reparametrised"] < 0.5 * noise["standard"]


def test_bound_of_more_particles_is_higher(small):
    model, x = small
    values = [
        -estimate(zoo.LocalELBO(k, bound="iwae"), model, x, 300 // k)[0].mean() for k in (1, 5, 50)
    ]
    assert values[0] < values[1] < values[2]
    assert values[2] <= model.log_prob(x, 20_000).sum() + 0.02


def test_beta_and_free_bits(small):
    model, x = small
    loss = {
        beta: estimate(zoo.LocalELBO(2000, beta=beta), model, x)[0].item()
        for beta in (0.0, 1.0, 2.0)
    }
    assert loss[1.0] - loss[0.0] == pytest.approx(loss[2.0] - loss[1.0], rel=0.2)
    use = zoo.evaluation.latent_use(model, x)
    assert loss[1.0] - loss[0.0] == pytest.approx(3 * use.kl.sum().item(), rel=0.2)
    high = 10.0  # more than any latent has: the KL is then the constant 2 latents * 3 rows * 10
    free = estimate(zoo.LocalELBO(2000, free_bits=high), model, x)[0].item()
    assert free - loss[0.0] == pytest.approx(60.0, rel=0.02)


def test_pixels_can_be_made_black_and_white_anew_in_each_step(small):
    model, _ = small
    grey = torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]]).double()
    fresh = zoo.LocalELBO(50, augment=torch.bernoulli)
    found, _ = estimate(fresh, model, grey, 400)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).double()
    share = torch.where(states == 1, grey, 1 - grey).prod(-1)
    expected = -(share * model.elbo(states, 5000)).sum()
    assert found.mean().item() == pytest.approx(
        expected.item(), abs=5 * found.std().item() / 400**0.5
    )
    # within one step guide and model see the same pixels: black ones would cost far more
    sure, _ = estimate(fresh, model, grey.round(), 50)
    assert sure.std() < found.std()


def test_a_bound_survives_the_disk(tmp_path):
    elbo = zoo.LocalELBO(3, bound="iwae", gradient="doubly-reparametrised")
    solver = zoo.SVI(steps=5, compile=False, elbo=elbo)
    zoo.fit(made("plain"), rows("plain"), solver, progress=False).save(tmp_path / "run")
    again = zoo.load(tmp_path / "run").solver.elbo
    assert again.options == elbo.options


def test_a_bound_with_a_function_is_told_anew_when_a_run_goes_on(tmp_path):
    x = rows("plain")
    solver = zoo.SVI(steps=5, compile=False, elbo=zoo.LocalELBO(beta=lambda step: 0.5))
    zoo.fit(made("plain"), x, solver, progress=False, checkpoint=tmp_path / "run")
    with pytest.raises(zoo.DataError, match="elbo.*were not saved: pass solver="):
        zoo.fit(made("plain"), x, resume=tmp_path / "run", progress=False)
    longer = dataclasses.replace(solver, steps=8)
    again = zoo.fit(made("plain"), x, longer, progress=False, resume=tmp_path / "run")
    assert again.solution.steps == (8,)


def test_an_annealed_kl_goes_by_the_step_and_says_that_it_runs_interpreted():
    x, seen = rows("plain"), []

    def beta(step):
        seen.append(step)
        return min(1.0, step / 10)

    solver = zoo.SVI(steps=15, compile="xla", elbo=zoo.LocalELBO(beta=beta))
    with pytest.warns(UserWarning, match="beta changes from step to step"):
        fit = zoo.fit(made("plain"), x, solver, progress=False)
    assert seen[-15:] == list(range(15)) and fit.solution.engine == "interpreted"


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="bound"):
        zoo.LocalELBO(bound="elbow")
    with pytest.raises(ValueError, match="gradient"):
        zoo.LocalELBO(gradient="doubly-reparametrised")
    with pytest.raises(ValueError, match="beta and free_bits"):
        zoo.LocalELBO(5, bound="iwae", free_bits=0.1)


def test_linear_vae_arrives_at_probabilistic_pca():
    torch.manual_seed(0)
    x = torch.randn(400, 2) @ torch.randn(2, 6) + 0.3 * torch.randn(400, 6) + 1.0
    model = zoo.LinearVAE(6, 2)
    zoo.fit(model, x, zoo.SVI(steps=8000, learning_rate=0.02, elbo="mean-field"), progress=False)
    centred = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    basis, _ = torch.linalg.qr(model.loadings.detach().double())
    assert torch.linalg.svdvals(basis.T @ vectors[:, -2:]).min() > 0.9999
    noise = values[:4].mean()
    loadings = vectors[:, -2:] * (values[-2:] - noise).sqrt()
    covariance = loadings @ loadings.T + noise * torch.eye(6)
    best = torch.distributions.MultivariateNormal(x.mean(0).double(), covariance).log_prob(
        x.double()
    )
    assert model.exact_log_prob(x).sum().item() == pytest.approx(best.sum().item(), abs=0.2)
    # at the optimum the loadings are orthogonal, so that the factorised guide is exact
    _, covariance = model.exact_posterior(x)
    _, scale = model.encode(x, full=True)
    assert torch.allclose(scale[0].double() ** 2, covariance.diagonal(), rtol=0.1)
    assert (model.exact_log_prob(x).mean() - model.elbo(x, 200).mean()).abs() < 0.02


@pytest.mark.slow
def test_variational_em_takes_turns_and_arrives():
    torch.manual_seed(0)
    x = torch.randn(200, 1) @ torch.tensor([[1.0, -1.0, 0.5]]) + 0.5 * torch.randn(200, 3)
    model = zoo.LinearVAE(3, 1)
    before = {k: v.clone() for k, v in model.named_parameters()}
    start = {"initialize": False, "learning_rate": 0.02, "elbo": "mean-field"}
    zoo.fit(model, x, zoo.SVI(steps=3, alternate=(3, 2), **start), progress=False)
    moved = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {"encoder.weight", "encoder.bias", "log_spread"}
    zoo.fit(model, x, zoo.SVI(steps=1000, alternate=(2, 1), **start), progress=False)
    centred = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    cosine = torch.nn.functional.cosine_similarity(
        model.loadings.detach()[:, 0].double(), vectors[:, -1], dim=0
    )
    assert cosine.abs() > 0.999
    assert model.noise.item() ** 2 == pytest.approx(values[:2].mean().item(), rel=0.05)


def test_turns_need_two_sides():
    with pytest.raises(ValueError, match="alternate"):
        zoo.SVI(alternate=(0, 1))
    with pytest.raises(zoo.DataError, match="the model has no parameters"):
        solver = zoo.SVI(steps=5, alternate=(1, 1))
        zoo.fit(zoo.EightSchools(), zoo.data.load("eight-schools"), solver, progress=False)


def test_held_features_stay_and_free_ones_follow_them():
    torch.manual_seed(0)
    model = zoo.LinearVAE(3, 1).double()
    with torch.no_grad():
        model.decoder[-1].weight.copy_(torch.tensor([[2.0], [2.0], [-2.0]]))
        model.decoder[-1].bias.zero_()
        model.likelihood.log_scale.fill_(-0.7)
    # an encoder that knows nothing: the chain has to be right all the same
    given = torch.tensor([1.5, float("nan"), float("nan")]).double()
    drawn = model.sample(4000, given, num_steps=60)
    assert (drawn[:, 0] == 1.5).all()
    covariance = 4 * torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]).double()
    covariance += model.noise.detach() ** 2 * torch.eye(3)
    mean = covariance[1:, 0] / covariance[0, 0] * 1.5
    left = (
        covariance[1:, 1:] - torch.outer(covariance[1:, 0], covariance[0, 1:]) / covariance[0, 0]
    )
    assert torch.allclose(drawn[:, 1:].mean(0), mean, atol=0.06)
    assert torch.allclose(drawn[:, 1:].T.cov(), left, atol=0.12)


def test_shapes_of_the_queries():
    x = rows("plain")
    model = made("plain")
    zoo.fit(model, x, zoo.SVI(steps=5, batch_size=20), progress=False)
    assert model.encode(x).shape == (40, 2)
    loc, scale = model.encode(x, full=True)
    assert (loc.shape, scale.shape) == ((40, 2), (40, 2)) and (scale > 0).all()
    assert model.decode(torch.zeros(3, 2)).shape == (3, 16)
    path = model.interpolate(x[0], x[1], steps=5)
    assert torch.allclose(path[0], model.reconstruct(x[:1])[0], atol=1e-6)
    assert torch.allclose(path[-1], model.reconstruct(x[1:2])[0], atol=1e-6)
    with pytest.raises(zoo.DataError, match="grey"):
        model.log_prob(x * 0.5)
    with pytest.raises(zoo.DataError, match="expected"):
        model.log_prob(x[:, :3])
    with pytest.raises(zoo.DataError, match="z: got"):
        model.decode(torch.zeros(3))
    with pytest.raises(zoo.DataError, match="given"):
        model.sample(3, torch.zeros(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": 0}, "num_latents"),
        ({"likelihood": "poisson"}, "likelihood"),
        ({"likelihood": "categorical"}, "num_states"),
        ({"prior": "beta"}, "prior"),
        ({"network": "resnet"}, "network"),
        ({"network": "conv", "shape": (3, 5)}, "shape"),
        ({"activation": "sine"}, "activation"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(zoo.DataError, match=message):
        zoo.VAE(**({"num_features": 16, "num_latents": 2} | options))


@pytest.mark.slow
def test_collapse_is_flagged_and_free_bits_mend_it():
    x = torch.bernoulli(torch.full((1000, 8), 0.5))
    solver = {"steps": 300, "learning_rate": 3e-3, "batch_size": 100, "compile": False}
    found = {}
    # a KL of fourfold weight leaves no latent in use
    for name, options in {"heavy": {"beta": 4.0}, "free": {"free_bits": 0.3}}.items():
        elbo = zoo.LocalELBO(**options)
        fit = zoo.fit(zoo.VAE(8, 3, [8]), x, zoo.SVI(**solver, elbo=elbo), progress=False)
        found[name] = fit.check(num_samples=200)
    assert any("collapsed" in t and "free_bits" in t for t in found["heavy"].verdict)
    assert not any("collapsed" in text for text in found["free"].verdict)
    # some rows are looked at, not all
    assert len(found["free"].lines) == 3 * 30


@pytest.mark.slow
def test_posterior_of_chosen_rows_by_guide_and_by_nuts():
    model = zoo.LinearVAE(3, 1)
    x = torch.randn(200, 1) @ torch.tensor([[1.0, -1.0, 0.5]]) + 0.5 * torch.randn(200, 3)
    zoo.fit(model, x, zoo.SVI(steps=3000, learning_rate=0.02), progress=False)
    chosen = x[:3]
    mean, covariance = model.exact_posterior(chosen)
    solver = zoo.NUTS(num_warmup=200, num_samples=500, num_chains=2)
    nuts = zoo.fit(model, chosen, solver, progress=False)
    drawn = nuts.posterior(500)["z"]
    assert torch.allclose(drawn.mean((0, 1))[:, 0].double(), mean[:, 0], atol=0.1)
    assert torch.allclose(model.encode(chosen)[:, 0].double(), mean[:, 0], atol=0.1)
    assert drawn.std((0, 1)).mean().item() == pytest.approx(covariance.sqrt().item(), rel=0.15)


def dice(steps):
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((100, 8), 0.3))
    solver = zoo.SVI(steps=steps, batch_size=20, learning_rate=1e-3, compile=False, window=50)
    return zoo.VAE(8, 2, [8]), x, solver


PROGRAM = """
import sys, torch, ppl_zoo as zoo
torch.manual_seed(0)
x = torch.bernoulli(torch.full((100, 8), 0.3))
solver = zoo.SVI(steps=100_000, batch_size=20, learning_rate=1e-3, compile=False, window=50)
zoo.fit(zoo.VAE(8, 2, [8]), x, solver, progress=False, checkpoint=sys.argv[1],
        checkpoint_seconds=0.05)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_loss(tmp_path):
    run = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, run])
    while not (run / "fit.json").exists():
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(zoo.load(run).solution.steps[0])
    model, x, solver = dice(reached + 50)
    whole = zoo.fit(model, x, solver, progress=False)
    model, x, solver = dice(reached + 50)
    again = zoo.fit(model, x, solver, progress=False, resume=run)
    assert (again.history["objective"] == whole.history["objective"]).all()
