"""One tiny model of each kind that the core has to carry, with what can be known about it."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch.distributions import constraints

import ppl_zoo as zoo

EXACT = {"log_prob": "exact", "sample": "exact", "encode": "none"}


class Chain(zoo.Model):
    """No latent variables: p(x) = p(x_1) p(x_2 | x_1) p(x_3 | x_2), logits linear."""

    queries = EXACT

    def __init__(self, num_features=3):
        super().__init__()
        self.num_features = num_features
        self.bias = torch.nn.Parameter(torch.zeros(num_features))
        self.weight = torch.nn.Parameter(torch.zeros(num_features))

    def logits(self, x):
        before = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1)
        return self.bias + self.weight * before

    def model(self, x):
        with self.observations("observations", x):
            pyro.sample("x", dist.Bernoulli(logits=self.logits(x)).to_event(1), obs=x)

    def log_prob(self, x):
        return dist.Bernoulli(logits=self.logits(x)).log_prob(x).sum(-1)

    def sample(self, num_samples, given=None):
        x = torch.zeros(num_samples, self.num_features, dtype=self.dtype)
        for i in range(self.num_features):
            x[:, i] = torch.bernoulli(self.logits(x)[:, i].sigmoid())
        return x


class Coins(zoo.Model):
    """Local discrete latents: a mixture of Bernoulli vectors, with EM and an exact guide."""

    queries = {"log_prob": "exact", "sample": "exact", "encode": "exact"}
    default_solver = ("EM", {})

    def __init__(self, num_components=2, num_features=4):
        super().__init__()
        self.weights = PyroParam(
            torch.full((num_components,), 1 / num_components), constraints.simplex
        )
        rates = 0.3 + 0.4 * torch.rand(num_components, num_features)
        self.rates = PyroParam(rates, constraints.unit_interval)

    def model(self, x):
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Categorical(self.weights))
            pyro.sample("x", dist.Bernoulli(self.rates[z]).to_event(1), obs=x)

    def guide(self, x):
        with self.observations("observations", x):
            pyro.sample("z", dist.Categorical(logits=self.joint(x)))

    def joint(self, x):
        likelihood = dist.Bernoulli(self.rates).to_event(1).log_prob(x[:, None])
        return self.weights.log() + likelihood

    def log_prob(self, x):
        return self.joint(x).logsumexp(-1).detach()

    def encode(self, x):
        return self.joint(x).softmax(-1).detach()

    def initialize(self, rows):
        with torch.no_grad():
            self.rates = 0.3 + 0.4 * torch.rand_like(self.rates)

    def expected_statistics(self, x):
        r = self.encode(x).double()
        return {
            "log_likelihood": self.log_prob(x).double().sum(),
            "counts": r.sum(0),
            "sums": r.T @ x.double(),
        }

    def maximize(self, statistics):
        counts = statistics["counts"]
        self.weights = (counts / counts.sum()).to(self.dtype)
        rates = (statistics["sums"] / counts[:, None]).clamp(1e-6, 1 - 1e-6)
        self.rates = rates.to(self.dtype)


class Factor(zoo.Model):
    """Local continuous latents with an amortised guide; the marginal is Gaussian."""

    def __init__(self, num_features=3):
        super().__init__()
        self.loading = torch.nn.Parameter(0.1 * torch.randn(num_features))
        self.noise = PyroParam(torch.tensor(1.0), constraints.positive)
        self.encoder = torch.nn.Linear(num_features, 1)
        self.spread = PyroParam(torch.tensor(1.0), constraints.positive)

    def model(self, x):
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Normal(0.0, torch.ones_like(self.noise)))
            loc = z[..., None] * self.loading
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    def guide(self, x):
        with self.observations("observations", x):
            pyro.sample("z", dist.Normal(self.encoder(x).squeeze(-1), self.spread))

    def exact_log_prob(self, x):
        noise = self.noise.detach() ** 2 * torch.eye(len(self.loading))
        covariance = torch.outer(self.loading, self.loading).detach() + noise
        return dist.MultivariateNormal(torch.zeros(len(self.loading)), covariance).log_prob(x)


class Mean(zoo.Model):
    """Global latents only; the posterior is Normal."""

    queries = {"log_prob": "estimate", "sample": "exact", "encode": "none"}

    def __init__(self, prior=2.0, noise=0.5):
        super().__init__()
        self.register_buffer("prior", torch.tensor(prior))
        self.register_buffer("noise", torch.tensor(noise))

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.prior))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(mu, self.noise), obs=x)

    def posterior(self, x):
        precision = 1 / self.prior**2 + len(x) / self.noise**2
        return x.sum() / self.noise**2 / precision, precision.rsqrt()


class Groups(zoo.Model):
    """Global and local latents."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.tensor(1.0))

    def model(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, self.one))
        with self.observations("groups", x):
            z = pyro.sample("z", dist.Normal(mu, self.one))
            pyro.sample("x", dist.Normal(z, self.one), obs=x)

    @staticmethod
    def posterior_mean(x):
        # x_i ~ N(mu, 2), mu ~ N(0, 1); then z_i halfway between mu and x_i
        mu = (x.sum() / 2) / (1 + len(x) / 2)
        return mu, (mu + x) / 2


class Switch(zoo.Model):
    """Discrete latents summed out below a global one, with the default guide."""

    queries = {"log_prob": "estimate", "sample": "exact", "encode": "none"}

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.tensor([0.3, 0.7]))
        self.register_buffer("one", torch.tensor(1.0))

    def model(self, x):
        gap = pyro.sample("gap", dist.LogNormal(0.0, self.one))
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Categorical(self.weights))
            pyro.sample("x", dist.Normal(gap * (2.0 * z - 1.0), self.one), obs=x)

    def row_density(self, gap, x):
        sides = torch.stack(
            [dist.Normal(-gap, 1.0).log_prob(x), dist.Normal(gap, 1.0).log_prob(x)]
        )
        return (self.weights.log()[:, None] + sides).logsumexp(0)


class Correlated(zoo.Model):
    """Two means of which the data see the sum: correlation -0.98, so mean field is too narrow."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.tensor(1.0))

    def model(self, x):
        a = pyro.sample("a", dist.Normal(0.0, self.one))
        b = pyro.sample("b", dist.Normal(0.0, self.one))
        with self.observations("observations", x):
            pyro.sample("x", dist.Normal(a + b, self.one), obs=x)


def binary(num_rows=60, num_features=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    rates = torch.tensor([[0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.9, 0.7]])[:, :num_features]
    side = (torch.rand(num_rows, generator=g) < 0.4).long()
    return (torch.rand(num_rows, num_features, generator=g) < rates[side]).float()


def real(num_rows=40, num_features=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(num_rows, 1, generator=g)
    loading = torch.linspace(1.0, -1.0, num_features)
    return z * loading + 0.5 * torch.randn(num_rows, num_features, generator=g)


def line(num_rows=30, seed=0):
    return 1.0 + torch.randn(num_rows, generator=torch.Generator().manual_seed(seed))


KINDS = {
    "no latents": (Chain, lambda: binary(num_features=3)),
    "local discrete": (Coins, binary),
    "local continuous, amortised": (Factor, real),
    "global": (Mean, line),
    "global and local": (Groups, line),
    "discrete summed out": (Switch, line),
}
LOG_2PI = math.log(2 * math.pi)
