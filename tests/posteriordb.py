"""Posteriors of posteriordb as plain Pyro programs, with reference means and sds.

Written after the Stan programs of https://github.com/stan-dev/posteriordb (Magnusson et al. 2024,
https://arxiv.org/abs/2407.04967), as a user of Pyro would write them: flat priors are
``ImproperUniform``, discrete parameters are summed out by hand as Stan does. Data and references
are read below ``$PPL_ZOO_DATA``: draws of posteriordb, or where it has none, summaries of a long
run of NUTS.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from posteriors import folder, read, unzip
from pyro.distributions import constraints


def flat(support=constraints.real, shape=()):
    return dist.ImproperUniform(support, (), shape)


POSITIVE = constraints.positive


def regression(sigma, prior=None):
    """``y ~ Normal(x beta, sigma)``, flat in beta unless a prior is given; both are functions."""

    def model(x, y):
        shape = (x.shape[1],)
        beta = pyro.sample("beta", prior(shape) if prior else flat(constraints.real_vector, shape))
        sd = pyro.sample("sigma", sigma())
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, sd), obs=y)

    return model


def eight_schools_noncentered(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_centered(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def kilpisjarvi(x, y, alpha_mean, alpha_sd, beta_mean, beta_sd):
    alpha = pyro.sample("alpha", dist.Normal(alpha_mean, alpha_sd))
    beta = pyro.sample("beta", dist.Normal(beta_mean, beta_sd))
    sigma = pyro.sample("sigma", flat(POSITIVE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


def glmm_poisson(year, count):
    alpha = pyro.sample("alpha", dist.Uniform(-20.0, 20.0))
    beta = [pyro.sample(f"beta_{k}", dist.Uniform(-10.0, 10.0)) for k in (1, 2, 3)]
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 5.0))
    with pyro.plate("years", len(year)):
        eps = pyro.sample("eps", dist.Normal(0.0, sigma))
        trend = alpha + beta[0] * year + beta[1] * year**2 + beta[2] * year**3
        pyro.sample("count", dist.Poisson((trend + eps).exp()), obs=count)


def arma11(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    errors = [y[0] - (mu + phi * mu)]
    for t in range(1, len(y)):
        errors.append(y[t] - (mu + phi * y[t - 1] + theta * errors[-1]))
    pyro.factor("errors", dist.Normal(0.0, sigma).log_prob(torch.stack(errors)).sum())


def garch11(y, sigma1):
    mu = pyro.sample("mu", flat())
    alpha0 = pyro.sample("alpha0", flat(POSITIVE))
    alpha1 = pyro.sample("alpha1", dist.Uniform(0.0, 1.0))
    beta1 = pyro.sample("beta1", flat(constraints.interval(0.0, 1.0 - alpha1)))
    variances = [sigma1**2]
    for t in range(1, len(y)):
        variances.append(alpha0 + alpha1 * (y[t - 1] - mu) ** 2 + beta1 * variances[-1])
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.Normal(mu, torch.stack(variances).sqrt()), obs=y)


def gp_pois_regr(x, count):
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    apart = (x[:, None] - x) ** 2
    cov = alpha**2 * torch.exp(-0.5 * apart / rho**2) + 1e-10 * torch.eye(len(x))
    with pyro.plate("rows", len(x)):
        f_tilde = pyro.sample("f_tilde", dist.Normal(0.0, 1.0))
        f = pyro.deterministic("f", torch.linalg.cholesky(cov) @ f_tilde)
        pyro.sample("count", dist.Poisson(f.exp()), obs=count)


def irt_2pl(y):
    items, persons = y.shape
    item, person = pyro.plate("items", items, dim=-2), pyro.plate("persons", persons, dim=-1)
    sigma_theta = pyro.sample("sigma_theta", dist.HalfCauchy(2.0))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(2.0))
    with person:
        theta = pyro.sample("theta", dist.Normal(0.0, sigma_theta))
    with item:
        a = pyro.sample("a", dist.LogNormal(0.0, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    with item, person:
        pyro.sample("y", dist.Bernoulli(logits=a * (theta - b)), obs=y)


def mixture(ordered):
    """Two normals, summed out; ``ordered`` as in the one posterior and not in the other."""

    def model(y):
        support = constraints.ordered_vector if ordered else constraints.real_vector
        mu = pyro.sample("mu", flat(support, (2,)))
        pyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
        theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
        with pyro.plate("rows", len(y)):
            weights = torch.stack([theta.log(), (-theta).log1p()])
            parts = dist.Normal(mu, sigma).log_prob(y[:, None])
            pyro.factor("y", (weights + parts).logsumexp(-1))

    return model


def pilots(y, group, scenario):
    mu_a = pyro.sample("mu_a", dist.Normal(0.0, 1.0))
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 1.0))
    sigma_a = pyro.sample("sigma_a", dist.Uniform(0.0, 100.0))
    sigma_b = pyro.sample("sigma_b", dist.Uniform(0.0, 100.0))
    sigma_y = pyro.sample("sigma_y", dist.Uniform(0.0, 100.0))
    with pyro.plate("groups", 5):
        a = pyro.sample("a", dist.Normal(10 * mu_a, sigma_a))
    with pyro.plate("scenarios", 8):
        b = pyro.sample("b", dist.Normal(10 * mu_b, sigma_b))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a[group] + b[scenario], sigma_y), obs=y)


def radon(county, uranium, floor, log_radon):
    sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma_y = pyro.sample("sigma_y", dist.HalfNormal(1.0))
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    beta_u = pyro.sample("beta_u", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
    with pyro.plate("counties", 85):
        raw = pyro.sample("alpha_raw", dist.Normal(0.0, 1.0))
        alpha = pyro.deterministic("alpha", mu_alpha + sigma_alpha * raw)
    with pyro.plate("rows", len(log_radon)):
        mean = alpha[county] + uranium * beta_u + floor * beta
        pyro.sample("log_radon", dist.Normal(mean, sigma_y), obs=log_radon)


def seeds(x1, x2, total, count):
    names = ("alpha0", "alpha1", "alpha2", "alpha12")
    a0, a1, a2, a12 = (pyro.sample(name, dist.Normal(0.0, 1e3)) for name in names)
    tau = pyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    sigma = pyro.deterministic("sigma", tau**-0.5)
    with pyro.plate("plates", len(x1)):
        b = pyro.sample("b", dist.Normal(0.0, sigma))
        logits = a0 + a1 * x1 + a2 * x2 + a12 * x1 * x2 + b
        pyro.sample("count", dist.Binomial(total, logits=logits), obs=count)


#: references that `make_references.py` made
OWN = json.loads((Path(__file__).parent / "references.json").read_text())


@dataclass(frozen=True)
class Posterior:
    """A program, its data, and the reference's mean and sd of each scalar by Stan's name.

    ``linear`` tells a linear regression.
    """

    name: str
    model: Callable[..., Any]
    data: tuple
    linear: bool = False

    def reference(self):
        """``{scalar: (mean, sd)}``; of our own long run where that of posteriordb is rough."""
        if self.name in OWN:
            return {k: (v["mean"], v["sd"]) for k, v in OWN[self.name]["parameters"].items()}
        place = folder() / "posteriordb"
        path = place / "draws" / f"{self.name}.json.zip"
        if path.exists():
            chains = unzip(path)
            draws = {k: np.concatenate([c[k] for c in chains]) for k in chains[0]}
            return {k: (v.mean(), v.std()) for k, v in draws.items()}
        found = json.loads((place / "long_nuts" / f"{self.name}.json").read_text())
        return {k: (v["mean"], v["sd"]) for k, v in found["parameters"].items()}

    def errors(self, draws):
        """``{scalar: (error of the mean in reference sds, relative error of the sd)}``.

        ``draws`` are ``{site: (chain, draw, ...)}``; scalars that only one side has are left out.
        """
        out = {}
        for name, (mean, sd) in self.reference().items():
            site, _, index = name.partition("[")
            if site not in draws or sd == 0:
                continue
            values = np.asarray(draws[site], np.float64)
            values = values.reshape(values.shape[0] * values.shape[1], -1)
            place = int(index[:-1]) - 1 if index else 0
            column = values[:, place]
            out[name] = (column.mean() - mean) / sd, column.std() / sd - 1.0
        return out


def posteriors():
    """All whose data lie in the folder, ``{name: Posterior}``."""

    def columns(*parts):
        return np.stack(np.broadcast_arrays(*parts), 1)

    def lags(y, count):
        return columns(1.0, *(y[count - k : len(y) - k] for k in range(1, count + 1)))

    kid, earn = read("kidiq"), read("earnings")
    mesquite, blr, ark = read("mesquite"), read("sblrc"), read("arK")
    schools = read("eight_schools")
    schools = (schools["y"], schools["sigma"])
    trend, poisson, gp = read("kilpisjarvi_mod"), read("GLMM_Poisson_data"), read("gp_pois_regr")
    garch, flight, homes = read("garch"), read("pilots"), read("radon_mn")
    plants = read("seeds_data")
    wide, long, high = mesquite["diam1"], mesquite["diam2"], mesquite["canopy_height"]

    def half_cauchy():
        return dist.HalfCauchy(2.5)

    def free():
        return flat(POSITIVE)

    def normal(shape):
        return dist.Normal(0.0, 10.0).expand(shape).to_event(1)

    hs, iq = kid["mom_hs"], kid["mom_iq"]
    height, male = earn["height"], earn["male"]
    every = [
        Posterior(
            "kidiq-kidscore_momhsiq",
            regression(half_cauchy),
            (columns(1.0, hs, iq), kid["kid_score"]),
            linear=True,
        ),
        Posterior(
            "kidiq-kidscore_interaction",
            regression(half_cauchy),
            (columns(1.0, hs, iq, hs * iq), kid["kid_score"]),
            linear=True,
        ),
        Posterior(
            "earnings-earn_height",
            regression(free),
            (columns(1.0, height), earn["earn"]),
            linear=True,
        ),
        Posterior(
            "earnings-logearn_interaction",
            regression(free),
            (columns(1.0, height, male, height * male), np.log(earn["earn"])),
            linear=True,
        ),
        Posterior(
            "mesquite-logmesquite_logvash",
            regression(free),
            (
                columns(
                    1.0,
                    np.log(wide * long * high),
                    np.log(wide * long),
                    np.log(wide / long),
                    np.log(mesquite["total_height"]),
                    mesquite["group"],
                ),
                np.log(mesquite["weight"]),
            ),
            linear=True,
        ),
        Posterior(
            "sblrc-blr",
            regression(lambda: dist.HalfNormal(10.0), normal),
            (blr["X"], blr["y"]),
            linear=True,
        ),
        Posterior(
            "kilpisjarvi_mod-kilpisjarvi",
            kilpisjarvi,
            tuple(trend[k] for k in ("x", "y", "pmualpha", "psalpha", "pmubeta", "psbeta")),
            linear=True,
        ),
        Posterior(
            "arK-arK",
            autoregression,
            (lags(ark["y"], 5)[:, 1:], ark["y"][5:]),
            linear=True,
        ),
        Posterior("eight_schools-eight_schools_noncentered", eight_schools_noncentered, schools),
        Posterior("arma-arma11", arma11, (read("arma")["y"],)),
        Posterior("garch-garch11", garch11, (garch["y"], garch["sigma1"])),
        Posterior("gp_pois_regr-gp_pois_regr", gp_pois_regr, (gp["x"], gp["k"])),
        Posterior(
            "low_dim_gauss_mix-low_dim_gauss_mix",
            mixture(True),
            (read("low_dim_gauss_mix")["y"],),
        ),
        Posterior(
            "low_dim_gauss_mix_collapse-low_dim_gauss_mix_collapse",
            mixture(False),
            (read("low_dim_gauss_mix_collapse")["y"],),
        ),
        Posterior(
            "GLMM_Poisson_data-GLMM_Poisson_model", glmm_poisson, (poisson["year"], poisson["C"])
        ),
        Posterior("irt_2pl-irt_2pl", irt_2pl, (read("irt_2pl")["y"],)),
        Posterior(
            "pilots-pilots",
            pilots,
            (
                flight["y"],
                flight["group_id"].astype(np.int64) - 1,
                flight["scenario_id"].astype(np.int64) - 1,
            ),
        ),
        Posterior(
            "radon_mn-radon_hierarchical_intercept_noncentered",
            radon,
            (
                homes["county_idx"].astype(np.int64) - 1,
                *(homes[k] for k in ("log_uppm", "floor_measure", "log_radon")),
            ),
        ),
        Posterior(
            "seeds_data-seeds_model", seeds, tuple(plants[k] for k in ("x1", "x2", "N", "n"))
        ),
    ]
    return {p.name: p for p in every}


def autoregression(x, y):
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.Normal(alpha + x @ beta, sigma), obs=y)
