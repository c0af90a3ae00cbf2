"""Eight posteriors that variational inference is measured on, with long reference runs.

Seven of posteriordb (https://github.com/stan-dev/posteriordb) and the German credit regression of
the Inference Gym, written as plain models. Data and references are read below ``$PPL_ZOO_DATA``.
"""

import json
import math
import os
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints

import ppl_zoo as zoo


class Regression(zoo.Model):
    """``y ~ Normal(x beta, sigma)``; flat priors unless a scale is given."""

    def __init__(self, sigma, beta_scale=None):
        super().__init__()
        self.__dict__.update(sigma=sigma, beta_scale=beta_scale)

    def model(self, x, y):
        # masked: a density of 1 everywhere, which can be drawn from to find shapes
        prior = dist.Normal(0.0, 1.0).mask(False) if self.beta_scale is None else None
        prior = prior or dist.Normal(0.0, self.beta_scale)
        beta = pyro.sample("beta", prior.expand([x.shape[-1]]).to_event(1))
        sigma = pyro.sample("sigma", self.sigma)
        with self.observations("rows", x):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), sigma), obs=y)


class GaussianMixture(zoo.Model):
    """Two components in order, summed out by hand as Stan does."""

    def model(self, y):
        zeros = y.new_zeros(2)
        # the density of two normals over ordered pairs; not normalised, as in Stan
        prior = Ordered(dist.Normal(zeros, 2.0).to_event(1))
        mu = pyro.sample("mu", prior)
        sigma = pyro.sample("sigma", dist.HalfNormal(zeros + 2.0).to_event(1))
        theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
        with self.observations("rows", y):
            weights = torch.stack([theta.log(), (-theta).log1p()], -1)
            parts = dist.Normal(mu, sigma).log_prob(y[:, None])
            pyro.factor("y", (weights + parts).logsumexp(-1))


class Ordered(dist.TorchDistribution):
    """A density over vectors, held to those in increasing order."""

    support = constraints.ordered_vector
    arg_constraints = {}

    def __init__(self, base):
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.base.sample(sample_shape).sort(-1).values

    def log_prob(self, value):
        return self.base.log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return Ordered(self.base.expand(batch_shape))


class EightSchools(zoo.Model):
    """Non-centred."""

    def model(self, y, sigma):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with self.observations("schools", y):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * z, event_dim=0)
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)


class Logistic(zoo.Model):
    def model(self, x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1))
        with self.observations("rows", x):
            pyro.sample("y", dist.Bernoulli(logits=(x * w).sum(-1)), obs=y)


@dataclass
class Posterior:
    """A model, its data, and what is known of its posterior.

    Attributes
    ----------
    mean, sd
        Of the reference, ``{site: array}``.
    optimum
        ELBO of mean field and full rank at their best, in nats, with the normalising constants
        of the priors that this model has.
    """

    model: Any
    data: tuple
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    optimum: tuple[float, float]

    def errors(self, draws):
        """Largest error of a mean and of an sd, in units of the reference's sd, signed."""
        means, sds = [], []
        for site, sd in self.sd.items():
            flat = np.asarray(draws[site], np.float64).reshape(-1, *sd.shape)
            means.append(((flat.mean(0) - self.mean[site]) / sd).ravel())
            sds.append((flat.std(0) / sd - 1).ravel())
        means, sds = np.concatenate(means), np.concatenate(sds)
        return float(np.abs(means).max()), float(sds[np.abs(sds).argmax()])


def folder():
    """Return the place of the data; None where there is none."""
    place = Path(os.environ.get("PPL_ZOO_DATA", ""))
    return place if (place / "posteriordb").is_dir() else None


def unzip(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


@cache
def references(name, sites):
    """Means and sds of sites from reference draws; Stan's names are ``site[1]``, ..."""
    chains = unzip(folder() / "posteriordb" / "draws" / f"{name}.json.zip")
    mean, sd = {}, {}
    for site in sites:
        columns = [k for k in chains[0] if k == site or k.startswith(f"{site}[")]
        draws = np.array([np.concatenate([c[k] for c in chains]) for k in columns])
        shape = () if columns == [site] else (len(columns),)
        mean[site], sd[site] = draws.mean(1).reshape(shape), draws.std(1).reshape(shape)
    return mean, sd


def read(name):
    data = unzip(folder() / "posteriordb" / "data" / f"{name}.json.zip")
    return {k: np.array(v, np.float64) for k, v in data.items()}


def columns(*parts):
    return np.stack(np.broadcast_arrays(*parts), 1)


# Normalising constants that the recorded optima leave out, as Stan does: of HalfCauchy(2.5), of a
# HalfNormal against a Normal, and of Beta(5, 5).
HALF_CAUCHY = math.log(2 / (math.pi * 2.5))
HALF = math.log(2)
BETA = math.lgamma(10) - 2 * math.lgamma(5)


def eight_schools():
    d = read("eight_schools")
    found = references("eight_schools-eight_schools_noncentered", ("theta", "mu", "tau"))
    constant = HALF_CAUCHY - HALF  # of HalfCauchy(5)
    return Posterior(
        EightSchools(), (d["y"], d["sigma"]), *found, (-29.53 + constant, -29.49 + constant)
    )


def kidiq():
    d = read("kidiq")
    hs, iq = d["mom_hs"], d["mom_iq"]
    found = references("kidiq-kidscore_interaction", ("beta", "sigma"))
    return Posterior(
        Regression(dist.HalfCauchy(2.5)),
        (columns(1.0, hs, iq, hs * iq), d["kid_score"]),
        *found,
        (-1877.03 + HALF_CAUCHY, -1871.45 + HALF_CAUCHY),
    )


def earnings():
    d = read("earnings")
    height, male = d["height"], d["male"]
    found = references("earnings-logearn_interaction", ("beta", "sigma"))
    return Posterior(
        Regression(dist.HalfCauchy(1.0).mask(False)),
        (columns(1.0, height, male, height * male), np.log(d["earn"])),
        *found,
        (-1560.34, -1553.36),
    )


def sblrc():
    d = read("sblrc")
    found = references("sblrc-blr", ("beta", "sigma"))
    return Posterior(
        Regression(dist.HalfNormal(10.0), 10.0),
        (d["X"], d["y"]),
        *found,
        (-196.67 + HALF, -195.69 + HALF),
    )


def mesquite():
    d = read("mesquite")
    wide, long, high = d["diam1"], d["diam2"], d["canopy_height"]
    x = columns(
        1.0,
        np.log(wide * long * high),
        np.log(wide * long),
        np.log(wide / long),
        np.log(d["total_height"]),
        d["group"],
    )
    found = references("mesquite-logmesquite_logvash", ("beta", "sigma"))
    return Posterior(
        Regression(dist.HalfCauchy(1.0).mask(False)),
        (x, np.log(d["weight"])),
        *found,
        (-24.89, -20.52),
    )


def low_dim_gauss_mix():
    d = read("low_dim_gauss_mix")
    found = references("low_dim_gauss_mix-low_dim_gauss_mix", ("mu", "sigma", "theta"))
    return Posterior(
        GaussianMixture(),
        (d["y"],),
        *found,
        (-2123.76 + BETA + 2 * HALF, -2123.52 + BETA + 2 * HALF),
    )


def ark():
    d = read("arK")
    y, lags = d["y"], int(d["K"])
    x = columns(1.0, *(y[lags - k : len(y) - k] for k in range(1, lags + 1)))
    mean, sd = references("arK-arK", ("alpha", "beta", "sigma"))
    for part in (mean, sd):
        part["beta"] = np.concatenate([part.pop("alpha")[None], part["beta"]])
    return Posterior(
        Regression(dist.HalfCauchy(2.5), 10.0),
        (x, y[lags:]),
        mean,
        sd,
        (55.33 + HALF_CAUCHY, 59.94 + HALF_CAUCHY),
    )


def german_credit():
    place = folder() / "inference_gym"
    table = np.loadtxt(place / "german.data-numeric")
    x = table[:, :-1]
    x = np.concatenate([(x - x.mean(0)) / x.std(0), np.ones((len(x), 1))], 1)
    known = json.loads((place / "german_credit_numeric_logistic_regression.json").read_text())
    return Posterior(
        Logistic(),
        (x, (table[:, -1] == 2).astype(np.float64)),
        {"w": np.array(known["IDENTITY_MEAN"])},
        {"w": np.array(known["IDENTITY_STANDARD_DEVIATION"])},
        (-531.74, -529.36),
    )


POSTERIORS = {
    "eight schools": eight_schools,
    "kidiq interaction": kidiq,
    "earnings log interaction": earnings,
    "sblrc": sblrc,
    "mesquite": mesquite,
    "low_dim_gauss_mix": low_dim_gauss_mix,
    "arK": ark,
    "German credit": german_credit,
}
