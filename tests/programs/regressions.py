"""Regressions and hierarchical models of Pyro's examples: rates, effects, kernels, captures."""

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from published import published
from pyro import poutine
from pyro.distributions.transforms import OrderedTransform
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, init_to_mean, init_to_value
from pyro.infer.reparam import StudentTReparam
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn

positive = dist.constraints.positive
BASEBALL = "pyro.ai/examples/baseball.html"
at_bats = torch.full((8,), 45.0)
hits = torch.tensor([18.0, 16.0, 15.0, 14.0, 12.0, 11.0, 9.0, 7.0])


@published("baseball, fully pooled", BASEBALL)
def baseball_fully_pooled():
    def model(at_bats, hits):
        phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        with pyro.plate("players", len(at_bats)):
            return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    return model, None, (at_bats, hits)


@published("baseball, not pooled", BASEBALL)
def baseball_not_pooled():
    def model(at_bats, hits):
        with pyro.plate("players", len(at_bats)):
            phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
            return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    return model, None, (at_bats, hits)


@published("baseball, partially pooled", BASEBALL)
def baseball_partially_pooled():
    def model(at_bats, hits):
        m = pyro.sample("m", dist.Uniform(0.0, 1.0))
        kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
        with pyro.plate("players", len(at_bats)):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    return model, None, (at_bats, hits)


@published("baseball, partially pooled by logits", BASEBALL)
def baseball_by_logits():
    def model(at_bats, hits):
        loc = pyro.sample("loc", dist.Normal(-1.0, 1.0))
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("players", len(at_bats)):
            alpha = pyro.sample("alpha", dist.Normal(loc, scale))
            return pyro.sample("obs", dist.Binomial(at_bats, logits=alpha), obs=hits)

    return model, None, (at_bats, hits)


@published("eight schools, a guide by hand", "examples/eight_schools/svi.py")
def eight_schools():
    effects = torch.tensor([[28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]]).T
    errors = torch.tensor([[15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]]).T
    cells = torch.cat([effects, errors], 1)

    def model(cells):
        y, sigma = cells[:, 0], cells[:, 1]
        eta = pyro.sample("eta", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
        mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 10.0).to_event(1))
        tau = pyro.sample("tau", dist.HalfCauchy(scale=25.0 * torch.ones(1)).to_event(1))
        pyro.sample("obs", dist.Normal(mu + tau * eta, sigma).to_event(1), obs=y)

    def guide(cells):
        loc_eta = pyro.param("loc_eta", torch.zeros(len(cells), 1))
        scale_eta = pyro.param("scale_eta", 0.1 * torch.ones(len(cells), 1), positive)
        loc_mu = pyro.param("loc_mu", torch.zeros(1))
        scale_mu = pyro.param("scale_mu", 0.1 * torch.ones(1), positive)
        loc_log_tau = pyro.param("loc_log_tau", torch.zeros(1))
        scale_log_tau = pyro.param("scale_log_tau", 0.1 * torch.ones(1), positive)
        # a log-normal, spelt as the transform of a normal
        log_tau = dist.Normal(loc_log_tau, scale_log_tau).to_event(1)
        to_tau = dist.transforms.ExpTransform()
        pyro.sample("eta", dist.Normal(loc_eta[:, 0], scale_eta[:, 0]).to_event(1))
        pyro.sample("mu", dist.Normal(loc_mu, scale_mu).to_event(1))
        pyro.sample("tau", dist.TransformedDistribution(log_tau, to_tau))

    return model, guide, (cells,)


def covariates(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@published("logistic regression", "pyro.ai/examples/bayesian_regression_ii.html")
def logistic_regression():
    def model(x, y):
        coefs = pyro.sample("beta", dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1))
        intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Bernoulli(logits=(coefs * x).sum(-1) + intercept), obs=y)

    x = covariates(24, 3)
    return model, AutoDiagonalNormal(model, init_loc_fn=init_to_mean), (x, (x[:, 0] > 0).float())


@published("Poisson regression, over-dispersed", "forum.pyro.ai")
def poisson_regression():
    def model(x, counts):
        rates = nn.functional.softplus
        weights = pyro.sample("weights", dist.Laplace(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("rows", len(x)):
            extra = pyro.sample("extra", dist.Gamma(2.0, 2.0))
            pyro.sample("counts", dist.Poisson(extra * rates(x @ weights)), obs=counts)

    x = covariates(16, 2)
    return model, None, (x, (2 * x[:, 0].abs()).round())


def quadratic_kernel(x, z, eta1, eta2, c):
    products = x @ z.T
    squares = 0.5 * eta2**2 * (1.0 + products) ** 2 - 0.5 * eta2**2 * (x**2 @ (z**2).T)
    return squares + (eta1**2 - eta2**2) * products + c**2 - 0.5 * eta2**2


@published("sparse regression", "examples/sparse_regression.py")
def sparse_regression():
    def model(x, y, hypers, jitter=1.0e-4):
        n, p = x.shape
        sigma = pyro.sample("sigma", dist.HalfNormal(hypers["alpha3"]))
        phi = sigma * (hypers["expected_sparsity"] / n**0.5) / (p - hypers["expected_sparsity"])
        eta1 = pyro.sample("eta1", dist.HalfCauchy(phi))
        msq = pyro.sample("msq", dist.InverseGamma(hypers["alpha1"], hypers["beta1"]))
        xisq = pyro.sample("xisq", dist.InverseGamma(hypers["alpha2"], hypers["beta2"]))
        eta2 = eta1.pow(2.0) * xisq.sqrt() / msq
        lam = pyro.sample("lambda", dist.HalfCauchy(torch.ones(p)).to_event(1))
        kappa = (msq * lam.pow(2.0) / (msq + (eta1 * lam).pow(2.0))).sqrt()
        scaled = kappa * x
        k = quadratic_kernel(scaled, scaled, eta1, eta2, hypers["c"])
        k = k + (sigma**2 + jitter) * torch.eye(n)
        root = torch.linalg.cholesky(k)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(n), scale_tril=root), obs=y)

    shapes = {"alpha1": 3.0, "beta1": 1.0, "alpha2": 3.0, "beta2": 1.0, "alpha3": 1.0, "c": 1.0}
    starts = {"sigma": 0.5, "eta1": 0.2, "msq": 0.5, "xisq": 0.5}
    starts = {name: torch.tensor(v) for name, v in starts.items()} | {"lambda": torch.ones(5)}
    guide = AutoDiagonalNormal(model, init_loc_fn=init_to_value(values=starts))
    x = covariates(12, 5)
    return model, guide, (x, x[:, 0] - x[:, 1], shapes | {"expected_sparsity": 2.0})


GAUSSIAN_PROCESS = "pyro.ai/examples/gp.html"


def process():
    x = torch.linspace(0.0, 4.0, 12)
    kernel = gp.kernels.RBF(1, variance=torch.tensor(5.0), lengthscale=torch.tensor(2.0))
    return gp.models.GPRegression(x, torch.sin(3 * x), kernel, noise=torch.tensor(0.5))


@published("Gaussian process", GAUSSIAN_PROCESS, exports=False)
def gaussian_process():
    regression = process()
    return regression.model, regression.guide, ()


@published("Gaussian process, priors on its kernel", GAUSSIAN_PROCESS)
def gaussian_process_with_priors():
    regression = process()
    regression.kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 1.0))
    regression.kernel.variance = PyroSample(dist.LogNormal(0.0, 1.0))
    return regression.model, regression.guide, ()


@published("Gaussian process, sparse", GAUSSIAN_PROCESS, exports=False)
def sparse_gaussian_process():
    dense = process()
    inducing = torch.linspace(0.0, 4.0, 4)
    options = {"Xu": inducing, "jitter": 1.0e-4, "approx": "VFE"}
    sparse = gp.models.SparseGPRegression(dense.X, dense.y, dense.kernel, **options)
    return sparse.model, sparse.guide, ()


@published("Gaussian process, variational", GAUSSIAN_PROCESS)
def variational_gaussian_process():
    dense = process()
    inducing = torch.linspace(0.0, 4.0, 4)
    options = {"likelihood": gp.likelihoods.Binary(), "whiten": True, "jitter": 1.0e-4}
    labels = (dense.y > 0).float()
    process_of_labels = gp.models.VariationalSparseGP(
        dense.X, labels, dense.kernel, inducing, **options
    )
    return process_of_labels.model, process_of_labels.guide, ()


@published("Bayesian neural network", "docs.pyro.ai/en/stable/nn.html")
def bayesian_network():
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1))
    to_pyro_module_(net)
    for module in net.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            prior = dist.Normal(0.0, 1.0).expand(value.shape).to_event(value.dim())
            setattr(module, name, PyroSample(prior=prior))

    def model(x, y):
        precision = pyro.sample("precision", dist.Gamma(4.0, 1.0))
        mean = pyro.deterministic("mean", net(x).squeeze(-1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, precision.rsqrt()), obs=y)

    x = torch.linspace(-1.0, 1.0, 12)[:, None]
    return model, None, (x, torch.sin(2 * x[:, 0]))


@published("a prior on correlations", "examples/lkj.py")
def correlations():
    def model(y):
        d = y.shape[1]
        theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(d)).to_event(1))
        root = pyro.sample("root", dist.LKJCholesky(d, torch.ones(())))
        scale_tril = torch.mm(torch.diag(theta.sqrt()), root)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(d), scale_tril=scale_tril), obs=y)

    return model, None, (covariates(10, 3),)


@published("varying intercepts and slopes", "fehiepsi.github.io/rethinking-pyro")
def varying_slopes():
    def model(cafe, afternoon, wait):
        root = pyro.sample("root", dist.LKJCholesky(2, concentration=torch.tensor(2.0)))
        spread = pyro.sample("spread", dist.Exponential(torch.ones(2)).to_event(1))
        centre = pyro.sample("centre", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        sigma = pyro.sample("sigma", dist.Exponential(1.0))
        scale_tril = spread.diag_embed() @ root
        with pyro.plate("cafes", 4):
            line = pyro.sample("line", dist.MultivariateNormal(centre, scale_tril=scale_tril))
        mean = line[cafe, 0] + line[cafe, 1] * afternoon
        with pyro.plate("visits", len(cafe)):
            pyro.sample("wait", dist.Normal(mean, sigma), obs=wait)

    cafe, afternoon = torch.arange(16) % 4, (torch.arange(16) // 4) % 2.0
    wait = 3.0 + 0.5 * cafe - afternoon + 0.2 * covariates(16, 1)[:, 0]
    return model, None, (cafe, afternoon, wait)


@published("ordinal regression", "docs.pyro.ai/en/stable/distributions.html")
def ordinal_regression():
    def model(x, grade):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        free = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        cuts = pyro.sample("cuts", dist.TransformedDistribution(free, OrderedTransform()))
        with pyro.plate("rows", len(x)):
            pyro.sample("grade", dist.OrderedLogistic(slope * x, cuts), obs=grade)

    x = torch.linspace(-2.0, 2.0, 16)
    return model, None, (x, torch.arange(16) // 4)


@published("robust regression", "docs.pyro.ai/en/stable/infer.reparam.html")
def robust_regression():
    def model(x, y):
        df = pyro.sample("df", dist.Gamma(2.0, 0.1))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.StudentT(df, slope * x, scale), obs=y)

    x = torch.linspace(-1.0, 1.0, 12)
    y = 2.0 * x
    y[3] = 8.0
    return model, None, (x, y)


@published("robust regression by auxiliary gammas", "docs.pyro.ai/en/stable/infer.reparam.html")
def robust_regression_by_gammas():
    @poutine.reparam(config={"y": StudentTReparam()})
    def model(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.StudentT(4.0, slope * x, 0.5), obs=y)

    x = torch.linspace(-1.0, 1.0, 12)
    return model, AutoDelta(model, init_loc_fn=init_to_mean), (x, 2.0 * x)


CAPTURES = "pyro.ai/examples/capture_recapture.html"


def capture_history(animals=10, seasons=4):
    seen = torch.rand(animals, seasons, generator=torch.Generator().manual_seed(0)) < 0.6
    seen[:, 0] |= ~seen.any(1)  # each animal is caught at least once
    return seen.float()


def enumerated_captures():
    return TraceEnum_ELBO(max_plate_nesting=1)


@published("captures, one rate of survival", CAPTURES, elbo=enumerated_captures)
def captures():
    def model(history):
        n, seasons = history.shape
        phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        with pyro.plate("animals", n, dim=-1):
            z = torch.ones(n)
            caught = torch.zeros(n).bool()
            for t in pyro.markov(range(seasons)):
                with poutine.mask(mask=caught):
                    alive = caught.float() * phi * z + (1 - caught.float())
                    infer = {"enumerate": "parallel"}
                    z = pyro.sample(f"z_{t}", dist.Bernoulli(alive), infer=infer)
                    pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=history[:, t])
                caught |= history[:, t].bool()

    globals_only = poutine.block(model, expose=["phi", "rho"])
    return model, AutoDiagonalNormal(globals_only, init_loc_fn=init_to_mean), (capture_history(),)


@published("captures, a rate of survival each season", CAPTURES, elbo=enumerated_captures)
def captures_by_season():
    def model(history):
        n, seasons = history.shape
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        z = torch.ones(n)
        caught = torch.zeros(n).bool()
        animals = pyro.plate("animals", n, dim=-1)
        for t in pyro.markov(range(seasons)):
            phi_t = pyro.sample(f"phi_{t}", dist.Uniform(0.0, 1.0)) if t > 0 else 1.0
            with animals, poutine.mask(mask=caught):
                alive = caught.float() * phi_t * z + (1 - caught.float())
                z = pyro.sample(f"z_{t}", dist.Bernoulli(alive), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=history[:, t])
            caught = caught | history[:, t].bool()

    shared = ("rho", "phi_1", "phi_2", "phi_3")
    globals_only = poutine.block(model, expose=list(shared))
    return model, AutoDiagonalNormal(globals_only, init_loc_fn=init_to_mean), (capture_history(),)
