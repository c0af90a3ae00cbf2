"""Five models with proper priors, and inputs of theirs, for simulation-based calibration."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

NUM_ROWS = 40
X = torch.linspace(-1.5, 1.5, NUM_ROWS)
X = torch.stack([X, torch.cos(3.0 * X)], 1)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])  # of the eight schools


def linear_regression(x, y):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(intercept + x @ slopes, sigma), obs=y)


def logistic_regression(x, y):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 1.5))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 1.5).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=intercept + x @ slopes), obs=y)


def overdispersed_counts(x, y):
    """Negative binomial: a Poisson whose rate varies from row to row."""
    intercept = pyro.sample("intercept", dist.Normal(1.0, 0.5))
    slopes = pyro.sample("slopes", dist.Normal(torch.zeros(2), 0.5).to_event(1))
    size = pyro.sample("size", dist.Gamma(2.0, 0.5))
    with pyro.plate("rows", len(y)):
        logits = intercept + x @ slopes - size.log()
        pyro.sample("y", dist.NegativeBinomial(size, logits=logits), obs=y)


def heavy_tails(y):
    """Six rows say little of their scale, whose posterior is skewed."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.StudentT(4.0, mu, sigma), obs=y)


def heavy_tails_scale(y, sigma):
    """Probability, by quadrature, that the scale of `heavy_tails` is below values of it."""
    mu = torch.linspace(-30.0, 30.0, 1201).double()[:, None]
    log_sigma = torch.linspace(-5.0, 5.0, 601).double()
    log_p = -0.5 * (mu / 2.0).square() - 0.5 * log_sigma.square()
    for value in y.double():
        z = (value - mu) / log_sigma.exp()
        log_p = log_p - 2.5 * torch.log1p(z.square() / 4.0) - log_sigma
    cumulative = log_p.flatten().softmax(0).reshape(log_p.shape).sum(0).cumsum(0)
    return np.interp(torch.as_tensor(sigma).double().log(), log_sigma, cumulative)


def centred_schools(errors, y):
    """Eight schools with effects below their mean and spread: a funnel."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(10.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, errors), obs=y)


#: program, and arguments whose observed ones are simulated anew
MODELS = {
    "linear regression": (linear_regression, (X, torch.ones(NUM_ROWS))),
    "logistic regression": (logistic_regression, (X, torch.ones(NUM_ROWS))),
    "overdispersed counts": (overdispersed_counts, (X, torch.ones(NUM_ROWS))),
    "heavy tails": (heavy_tails, (torch.ones(6),)),
    "eight schools, centred": (centred_schools, (ERRORS, torch.ones(8))),
}
