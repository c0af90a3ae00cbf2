"""Ten programs the compiler has not seen: the interpreter's numbers, or a message."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_capture import check_agreement
from tiny_models import line, real
from torch import nn

import ppl_zoo as zoo


class Hierarchical(zoo.Model):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("groups", 3):
            theta = pyro.sample("theta", dist.StudentT(4.0, mu, tau))
        sd = pyro.sample("sd", dist.Gamma(2.0, 2.0))
        group = torch.arange(len(x)) % 3
        with self.observations("rows", x):
            pyro.sample("x", dist.Normal(theta[group], sd), obs=x)


class RandomWalk(zoo.Model):
    def model(self, x):
        drift = pyro.sample("drift", dist.LogNormal(0.0, 0.5))
        z = torch.zeros(())
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Normal(z, drift))
            pyro.sample(f"x_{t}", dist.Normal(z, 0.5), obs=x[t])


class Correlated(zoo.Model):
    def model(self, x):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0).expand([3]).to_event(1))
        factor = pyro.sample("factor", dist.LKJCholesky(3, 2.0))
        tril = scale[:, None] * factor
        with self.observations("rows", x):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(3), scale_tril=tril), obs=x)


class Horseshoe(zoo.Model):
    def model(self, x):
        tau = pyro.sample("tau", dist.HalfCauchy(0.1))
        with pyro.plate("features", 2):
            lam = pyro.sample("lam", dist.HalfCauchy(1.0))
            beta = pyro.sample("beta", dist.Normal(0.0, tau * lam))
        with self.observations("rows", x):
            pyro.sample("y", dist.Normal(x[:, :2] @ beta, 1.0), obs=x[:, 2])


class Censored(zoo.Model):
    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        sd = pyro.sample("sd", dist.Exponential(1.0))
        base = dist.Normal(mu, sd)
        with self.observations("rows", x):
            seen = x < 1.5
            density = torch.where(seen, base.log_prob(x), torch.log1p(-base.cdf(x.clamp(max=1.5))))
            pyro.factor("x", density - torch.log1p(-base.cdf(torch.tensor(-4.0))))


class Counts(zoo.Model):
    def model(self, x):
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        gate = pyro.sample("gate", dist.Beta(1.0, 3.0))
        rate = (x[:, :2] @ weights).exp()
        with self.observations("rows", x):
            zeros = dist.ZeroInflatedPoisson(rate, gate=gate)
            pyro.sample("y", zeros, obs=x[:, 2].abs().round())


class Ordinal(zoo.Model):
    def model(self, x):
        cuts = pyro.sample(
            "cuts",
            dist.TransformedDistribution(
                dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()
            ),
        )
        slope = pyro.sample("slope", dist.Laplace(0.0, 1.0))
        with self.observations("rows", x):
            grade = (x[:, 1] * 2 + 2).round().clamp(0, 3).long()
            pyro.sample("grade", dist.OrderedLogistic(slope * x[:, 0], cuts), obs=grade)


class Regressions(zoo.Model):
    def model(self, x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("components", 2):
            slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
            sd = pyro.sample("sd", dist.InverseGamma(3.0, 1.0))
        with self.observations("rows", x):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(slope[z] * x[:, 0], sd[z]), obs=x[:, 1])


class HiddenMarkov(zoo.Model):
    def model(self, x):
        stay = pyro.sample("stay", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
        loc = pyro.sample("loc", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
        z = torch.tensor(0)
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Categorical(stay[z]))
            pyro.sample(f"x_{t}", dist.Normal(loc[z], 1.0), obs=x[t])


class Network(zoo.Model):
    def __init__(self):
        super().__init__()
        self.skip = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.GELU(), nn.Linear(3, 1))

    def model(self, x):
        first = pyro.sample("first", dist.Normal(torch.zeros(2, 4), 1.0).to_event(2))
        second = pyro.sample("second", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        loc = torch.tanh(x[:, :2] @ first) @ second + self.skip(x[:, :2]).squeeze(-1)
        with self.observations("rows", x):
            pyro.sample("y", dist.StudentT(4.0, loc, 0.3), obs=x[:, 2])


STRANGERS = [
    (Hierarchical, lambda: line(9)),
    (RandomWalk, lambda: line(4)),
    (Correlated, lambda: real(8)),
    (Horseshoe, lambda: real(8)),
    (Censored, lambda: line(12)),
    (Counts, lambda: real(8)),
    (Ordinal, lambda: real(8)),
    (Regressions, lambda: real(8)),
    (HiddenMarkov, lambda: line(4)),
    (Network, lambda: real(8)),
]


QUICK = (Horseshoe, Censored, Counts)
CASES = [
    pytest.param(m, d, id=m.__name__, marks=[] if m in QUICK else [pytest.mark.slow])
    for m, d in STRANGERS
]


@pytest.mark.parametrize(("model", "data"), CASES)
def test_a_stranger_compiles_to_the_interpreters_numbers(model, data, monkeypatch):
    check_agreement(model().double(), (data().double(),), monkeypatch)


class Branches(zoo.Model):
    """A guide that branches on a value has no static graph."""

    def model(self, x):
        angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
        with self.observations("rows", x):
            pyro.sample("x", dist.VonMises(angle, 2.0), obs=x)

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def guide(self, x):
        pyro.sample("angle", dist.VonMises(self.loc if self.loc < 9 else 0.0, 1.0))


def test_a_stranger_without_a_graph_says_so():
    with pytest.warns(UserWarning, match=r"test_user_programs.py:\d+: `pyro.sample\(.angle"):
        fit = zoo.fit(Branches(), line(5), zoo.SVI(steps=3, compile="xla"), progress=False)
    assert fit.solution.engine == "interpreted"
