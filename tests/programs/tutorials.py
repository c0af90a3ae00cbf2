"""Pyro's introductory tutorials."""

import pyro
import pyro.distributions as dist
import torch
from published import published
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions.testing.fakes import NonreparameterizedBeta
from pyro.infer import TraceGraph_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, init_to_mean
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints


def line_data(size_in, rows=20):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, size_in, generator=generator)
    noise = 0.3 * torch.randn(rows, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5])[:size_in] + noise


@published("coin", "pyro.ai/examples/svi_part_i.html")
def coin():
    def model(data):
        f = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
        for i in pyro.plate("tosses", len(data)):
            pyro.sample(f"obs_{i}", dist.Bernoulli(f), obs=data[i])

    def guide(data):
        positive = constraints.positive
        alpha = pyro.param("alpha_q", torch.tensor(15.0), constraint=positive)
        beta = pyro.param("beta_q", torch.tensor(15.0), constraint=positive)
        pyro.sample("latent_fairness", dist.Beta(alpha, beta))

    return model, guide, (torch.tensor([1.0] * 6 + [0.0] * 4),)


@published("coin in mini-batches", "pyro.ai/examples/svi_part_ii.html")
def coin_in_mini_batches():
    def model(data):
        f = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
        with pyro.plate("tosses", len(data), subsample_size=5) as rows:
            pyro.sample("obs", dist.Bernoulli(f), obs=data[rows])

    def guide(data):
        positive = constraints.positive
        alpha = pyro.param("alpha_q", torch.tensor(15.0), constraint=positive)
        beta = pyro.param("beta_q", torch.tensor(15.0), constraint=positive)
        pyro.sample("latent_fairness", dist.Beta(alpha, beta))

    return model, guide, (torch.tensor([1.0] * 12 + [0.0] * 8),)


@published("bias of each coin in mini-batches", "pyro.ai/examples/svi_part_ii.html")
def coins_in_mini_batches():
    def model(tosses):
        with pyro.plate("coins", len(tosses), subsample_size=4) as rows:
            fairness = pyro.sample("fairness", dist.Beta(2.0, 2.0))
            with pyro.plate("tosses", tosses.shape[1]):
                pyro.sample("obs", dist.Bernoulli(fairness), obs=tosses[rows].T)

    def guide(tosses):
        start = torch.full((len(tosses),), 3.0)
        alpha = pyro.param("alpha", start, constraint=constraints.positive)
        beta = pyro.param("beta", start, constraint=constraints.positive)
        with pyro.plate("coins", len(tosses), subsample_size=4) as rows:
            pyro.sample("fairness", dist.Beta(alpha[rows], beta[rows]))

    generator = torch.Generator().manual_seed(0)
    bias = torch.linspace(0.1, 0.9, 10)[:, None].expand(10, 6)
    return model, guide, (torch.bernoulli(bias, generator=generator),)


@published(
    "coin with a baseline",
    "pyro.ai/examples/svi_part_iii.html",
    elbo=TraceGraph_ELBO,
)
def coin_with_baseline():
    baseline = nn.Sequential(nn.Linear(10, 2), nn.Tanh(), nn.Linear(2, 1))

    def model(data):
        f = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
        with pyro.plate("tosses", len(data)):
            pyro.sample("obs", dist.Bernoulli(f), obs=data)

    def guide(data):
        positive = constraints.positive
        alpha = pyro.param("alpha_q", torch.tensor(15.0), constraint=positive)
        beta = pyro.param("beta_q", torch.tensor(14.0), constraint=positive)
        pyro.module("baseline", baseline)
        options = {
            "nn_baseline": lambda tosses: baseline(tosses).squeeze(-1),
            "nn_baseline_input": data,
        }
        draw = NonreparameterizedBeta(alpha, beta)
        pyro.sample("latent_fairness", draw, infer={"baseline": options})

    return model, guide, (torch.tensor([1.0] * 6 + [0.0] * 4),)


class Line(PyroModule):
    """A linear map whose noise scale is a parameter."""

    def __init__(self, size_in):
        super().__init__()
        self.linear = PyroModule[nn.Linear](size_in, 1)
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x, y):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.scale), obs=y)


@published("maximum likelihood by PyroParam", "pyro.ai/examples/modules.html", exports=False)
def maximum_likelihood():
    def guide(x, y):
        pass

    return Line(2), guide, line_data(2)


class BayesianLine(PyroModule):
    """Parameters of a module within a module drawn, and one prior that depends on another draw."""

    def __init__(self, size_in):
        super().__init__()
        self.linear = PyroModule[nn.Linear](size_in, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, size_in]).to_event(2))
        self.level = PyroSample(dist.Normal(-1.0, 1.0))
        self.scale = PyroSample(lambda self: dist.LogNormal(self.level, 0.5))

    def forward(self, x, y):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, self.scale), obs=y)


@published("a prior that depends on another", "pyro.ai/examples/modules.html")
def dependent_prior():
    return BayesianLine(2), None, line_data(2)


class Blocks(EasyGuide):
    """The global latents as one normal, the scale at its mode, the local ones by hand."""

    def init(self, site):
        return init_to_mean(site)

    def guide(self, y):
        self.map_estimate("scale")
        shared = self.group(match="slope|intercept")
        loc = pyro.param("shared_loc", torch.zeros(shared.event_shape))
        size = shared.event_shape[0]
        root = pyro.param(
            "shared_root", 0.1 * torch.eye(size), constraint=constraints.lower_cholesky
        )
        shared.sample("shared", dist.MultivariateNormal(loc, scale_tril=root))
        with self.plate("groups", y.shape[1]):
            centre = pyro.param("local_loc", torch.zeros(y.shape[1]), event_dim=0)
            pyro.sample("local", dist.Normal(centre, 0.2))


@published("a guide of blocks by EasyGuide", "docs.pyro.ai/en/stable/contrib.easyguide.html")
def blocks():
    def model(y):
        intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        time = torch.linspace(-1.0, 1.0, len(y))[:, None]
        with pyro.plate("groups", y.shape[1]):
            local = pyro.sample("local", dist.Normal(0.0, 1.0))
            mean = intercept + local + slope[0] * time + slope[1] * time**2
            with pyro.plate("times", len(y)):
                pyro.sample("y", dist.Normal(mean, scale), obs=y)

    y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    return model, Blocks(model), (y,)


effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


REPARAM = "docs.pyro.ai/en/stable/infer.reparam.html"


@published("eight schools, non-centred by a handler", REPARAM)
def schools_non_centred():
    model = poutine.reparam(schools, config={"theta": LocScaleReparam(centered=0.0)})
    return model, None, (effects, errors)


@published("eight schools, as centred as is best", REPARAM)
def schools_partly_centred():
    def model(y, sigma):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.LogNormal(1.0, 1.0))
        with pyro.plate("schools", len(y)):
            with poutine.reparam(config={"theta": LocScaleReparam()}):
                theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return model, None, (effects, errors)


def rugged(is_africa, ruggedness, log_gdp):
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    slopes = ("b_africa", "b_rugged", "b_both")
    b_africa, b_rugged, b_both = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in slopes)
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
    mean = a + b_africa * is_africa + b_rugged * ruggedness + b_both * is_africa * ruggedness
    with pyro.plate("nations", len(is_africa)):
        return pyro.sample("obs", dist.Normal(mean, sigma), obs=log_gdp)


def rugged_data():
    generator = torch.Generator().manual_seed(0)
    is_africa = torch.arange(24) % 2.0
    ruggedness = 3.0 * torch.rand(24, generator=generator)
    log_gdp = 9.0 - 2.0 * is_africa + 0.3 * torch.randn(24, generator=generator)
    return is_africa, ruggedness, log_gdp


@published("terrain and income by a diagonal normal", "pyro.ai/examples/intro_long.html")
def rugged_diagonal():
    return rugged, AutoDiagonalNormal(rugged, init_loc_fn=init_to_mean), rugged_data()


@published("terrain and income by a full normal", "pyro.ai/examples/intro_long.html")
def rugged_full():
    return rugged, AutoMultivariateNormal(rugged, init_loc_fn=init_to_mean), rugged_data()


@published("rows of unlike lengths under a mask", "pyro.ai/examples/tensor_shapes.html")
def masked_rows():
    def model(y, lengths):
        scale = pyro.sample("scale", dist.HalfNormal(2.0))
        with pyro.plate("series", len(y), dim=-2):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            steps = torch.arange(y.shape[1])
            with pyro.plate("steps", y.shape[1], dim=-1):
                with poutine.mask(mask=steps < lengths[:, None]):
                    pyro.sample("y", dist.Normal(level, scale), obs=y)

    y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    return model, None, (y, torch.tensor([4, 2, 3, 1, 4]))


@published("arguments by name, a mapping, a flag and None", "pyro.ai/examples/tensor_shapes.html")
def named_arguments():
    def model(*, table, degree, offset=None, robust=False):
        x, y = table["x"], table["y"]
        powers = torch.stack([x**k for k in range(degree + 1)], -1)
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([degree + 1]).to_event(1))
        mean = powers @ weights + (0.0 if offset is None else offset)
        noise = dist.StudentT(4.0, mean, 0.5) if robust else dist.Normal(mean, 0.5)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", noise, obs=y)

    x = torch.linspace(-1.0, 1.0, 15)
    table = {"x": x, "y": x**2 - 0.5 * x}
    return model, None, {"table": table, "degree": 2, "offset": None, "robust": True}


class BayesianRegression(PyroModule):
    def __init__(self, num_features):
        super().__init__()
        self.linear = PyroModule[nn.Linear](num_features, 1)
        self.linear.weight = PyroSample(
            dist.Normal(0.0, 1.0).expand([1, num_features]).to_event(2)
        )
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


@published("Bayesian regression by PyroSample", "pyro.ai/examples/bayesian_regression.html")
def bayesian_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3 * torch.randn(60, generator=generator)
    return BayesianRegression(3), None, (x, y)
