"""Discrete latents that were summed out come back as exact draws given the others."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from tiny_models import Switch, line

import ppl_zoo as zoo
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.core.tracing import describe, draw, draw_discrete, trace_program


class HiddenMarkov(zoo.Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("stay", torch.tensor([[0.8, 0.2], [0.3, 0.7]]))
        self.register_buffer("one", torch.tensor(1.0))

    def model(self, x):
        gap = pyro.sample("gap", dist.LogNormal(0.0, self.one))
        z = 0
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Categorical(self.stay[z]))
            pyro.sample(f"x_{t}", dist.Normal(gap * (2.0 * z - 1.0), self.one), obs=x[t])


def sides(gap, x):
    return torch.stack([dist.Normal(-gap, 1.0).log_prob(x), dist.Normal(gap, 1.0).log_prob(x)])


def test_assignments_of_a_mixture_have_their_conditional_probabilities():
    model, x, num = Switch(), line(20), 4000
    gap = torch.tensor([0.2, 1.0]).repeat_interleave(num)
    z = draw_discrete(model, (x,), {"gap": gap}, ("z",), model.find_data_plate((x,)))["z"]
    for part, value in zip(z.split(num), (0.2, 1.0), strict=True):
        exact = (model.weights.log()[:, None] + sides(value, x)).softmax(0)[1]
        error = (part.float().mean(0) - exact) / (exact * (1 - exact) / num).sqrt()
        assert error.abs().max() < 4  # standard errors, of 20 rows


def test_paths_of_a_hidden_markov_model_have_their_probabilities():
    model, x, num, gap = HiddenMarkov(), line(3), 300, 0.7
    names = [f"z_{t}" for t in range(3)]
    drawn = draw_discrete(model, (x,), {"gap": torch.full((num,), gap)}, names)
    paths = torch.stack([drawn[n] for n in names], -1)
    exact = {}
    for path in itertools.product((0, 1), repeat=3):
        steps = zip((0, *path), path, strict=False)
        chance = sum(model.stay[a, b].log() for a, b in steps)
        exact[path] = chance + sum(sides(gap, x)[z, t] for t, z in enumerate(path))
    shares = torch.stack(list(exact.values())).softmax(0)
    counts = torch.tensor([(paths == torch.tensor(p)).all(-1).sum().item() for p in exact])
    assert counts.sum() == num
    assert ((counts - num * shares).square() / (num * shares)).sum() < 24.3  # chi-square, 1e-3


@pytest.mark.slow
def test_fits_give_them_on_request():
    x = line(20)
    fit = zoo.fit(Switch(), x, zoo.SVI(steps=50, restarts=2, compile=False), progress=False)
    assert "z" not in fit.posterior(7)
    found = fit.posterior(7, discrete=True)
    assert found["z"].shape == (2, 7, 20) and found["gap"].shape == (2, 7)
    assert set(found["z"].unique().tolist()) <= {0, 1}
    assert torch.equal(found["z"], fit.posterior(7, discrete=True)["z"])
    nuts = zoo.NUTS(20, 50, num_chains=2, target_accept=0.95)
    sampled = zoo.fit(Switch(), x, nuts, progress=False)
    assert sampled.posterior(discrete=True)["z"].shape == (2, 20, 20)


X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(20, generator=torch.Generator().manual_seed(1))


def product(y):
    b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(X.matmul(b), 1.0), obs=y)


def bounded(y):
    p = pyro.sample("p", dist.Beta(2.0, 3.0))
    u = pyro.sample("u", dist.Uniform(-1.0, 1.0))
    d = pyro.sample("d", dist.Dirichlet(torch.ones(3)))
    angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(u + d[0] + angle, p), obs=y)


def indexed(y):
    locs = pyro.sample("locs", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(locs[torch.arange(20) % 4], scale), obs=y)


def enumerated(y):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(locs[z], 1.0), obs=y)


def kalman(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    one = torch.eye(1)
    normal = dist.MultivariateNormal(torch.zeros(1), one)
    noise = dist.MultivariateNormal(torch.zeros(1), one * scale)
    hmm = dist.GaussianHMM(normal, 0.9 * one, noise, one, normal, duration=20)
    pyro.sample("y", hmm, obs=y[:, None])


def intervened(y):
    return pyro.poutine.do(product, data={"b": torch.ones(3)})(y)


@pytest.mark.parametrize("program", [product, bounded, indexed, enumerated, kalman, intervened])
def test_draws_in_one_run_score_as_each_does_alone(program, monkeypatch):
    model = FunctionModel(program)
    data = model.as_rows(ROWS).all()
    sites = describe(trace_program(model, data)).values()
    names = [s.name for s in sites if s.kind == "latent" and not s.discrete]

    def prior(*data):
        hidden = {"hide_fn": lambda site: site["type"] == "sample" and site["name"] not in names}
        return poutine.block(model, **hidden)(*data)

    torch.manual_seed(0)
    together = draw(model, prior, data, 7, "rows")
    latents = {name: together.values[name] for name in names}
    scored = draw(model, prior, data, 7, "rows", latents=latents)
    monkeypatch.setattr("ppl_zoo.core.tracing.vectorize.vmapped", lambda *_: None)
    alone = draw(model, prior, data, 7, "rows", latents=latents)
    torch.testing.assert_close(scored.log_joint, alone.log_joint, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.log_joint, alone.log_joint, rtol=1e-4, atol=1e-4)
    if alone.log_joint_rows is not None:
        rows, each = scored.log_joint_rows, alone.log_joint_rows
        torch.testing.assert_close(rows, each, rtol=1e-3, atol=1e-3)
    assert scored.log_likelihood.keys() == alone.log_likelihood.keys()
