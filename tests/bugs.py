"""Posteriors of the BUGS examples as plain Pyro programs, with reference means and sds.

Written after https://github.com/stan-dev/example-models (BUGS examples, volumes 1 and 2), as a
user of Pyro would: hierarchies centred, flat priors as ``ImproperUniform``. They set no constant
of the package but one, the share of effective draws below which a normal guide gives way, which
the dugongs raised. Data and references lie in `bugs.json`: four chains of 5,000 draws of NUTS, of
the non-centred program where there is a hierarchy (``centred`` names its sites), R-hat below 1.01
and 2,400 effective draws or more; those of the dugongs by quadrature.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
from posteriordb import Posterior, flat
from pyro.distributions import constraints

HELD = json.loads((Path(__file__).parent / "bugs.json").read_text())


def surgical(r, n):
    mu = pyro.sample("mu", dist.Normal(0.0, 1000.0))
    sigmasq = pyro.sample("sigmasq", dist.InverseGamma(1e-3, 1e-3))
    sigma = pyro.deterministic("sigma", sigmasq**0.5)
    with pyro.plate("hospitals", len(r)):
        b = pyro.sample("b", dist.Normal(mu, sigma))
        pyro.sample("r", dist.Binomial(n, logits=b), obs=r)


def rats(x, y):
    mu_alpha = pyro.sample("mu_alpha", flat())
    mu_beta = pyro.sample("mu_beta", flat())
    sigma_y, sigma_alpha, sigma_beta = (
        pyro.deterministic(
            f"sigma_{k}", pyro.sample(f"sigmasq_{k}", dist.InverseGamma(1e-3, 1e-3)) ** 0.5
        )
        for k in ("y", "alpha", "beta")
    )
    with pyro.plate("rats", len(y), dim=-2):
        alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        beta = pyro.sample("beta", dist.Normal(mu_beta, sigma_beta))
        with pyro.plate("times", len(x), dim=-1):
            pyro.sample("y", dist.Normal(alpha + beta * (x - x.mean()), sigma_y), obs=y)


def dogs(avoided, shocked, shock):
    """Log-linear: probability of a shock ``exp(alpha avoided + beta shocked)``."""
    alpha = pyro.sample("alpha", flat(constraints.less_than(-1e-5)))
    beta = pyro.sample("beta", flat(constraints.less_than(-1e-5)))
    with pyro.plate("trials", len(shock)):
        pyro.sample("shock", dist.Bernoulli((alpha * avoided + beta * shocked).exp()), obs=shock)


def pump(t, x):
    alpha = pyro.sample("alpha", dist.Exponential(1.0))
    beta = pyro.sample("beta", dist.Gamma(0.1, 1.0))
    with pyro.plate("pumps", len(x)):
        theta = pyro.sample("theta", dist.Gamma(alpha, beta))
        pyro.sample("x", dist.Poisson(theta * t), obs=x)


def epil(base, treated, both, age, fourth, y):
    a0 = pyro.sample("a0", dist.Normal(0.0, 100.0))
    a_base, a_trt, a_bt, a_age, a_v4 = (
        pyro.sample(f"alpha_{k}", dist.Normal(0.0, 100.0))
        for k in ("Base", "Trt", "BT", "Age", "V4")
    )
    sigmasq_b1 = pyro.sample("sigmasq_b1", dist.InverseGamma(1e-3, 1e-3))
    sigmasq_b = pyro.sample("sigmasq_b", dist.InverseGamma(1e-3, 1e-3))
    sigma_b1 = pyro.deterministic("sigma_b1", sigmasq_b1**0.5)
    sigma_b = pyro.deterministic("sigma_b", sigmasq_b**0.5)
    fixed = a0 + a_base * base + a_trt * treated + a_bt * both + a_age * age
    with pyro.plate("patients", len(y), dim=-2):
        b1 = pyro.sample("b1", dist.Normal(0.0, sigma_b1))
        with pyro.plate("visits", 4, dim=-1):
            b = pyro.sample("b", dist.Normal(0.0, sigma_b))
            rate = (fixed[:, None] + a_v4 * fourth + b1 + b).exp()
            pyro.sample("y", dist.Poisson(rate), obs=y)


def salm(x, y):
    """Salmonella plates, overdispersed Poisson; the dose ``x`` in thousands."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 100.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 100.0))
    gamma = pyro.sample("gamma", dist.Normal(0.0, 1e5))
    tau = pyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    sigma = pyro.deterministic("sigma", tau**-0.5)
    mean = alpha + beta * (1000 * x + 10).log() + gamma * x
    with pyro.plate("plates", len(y)):
        lam = pyro.sample("lambda", dist.Normal(0.0, sigma))
        pyro.sample("y", dist.Poisson((mean + lam).exp()), obs=y)


def dugongs(x, y):
    """Growth; priors of sd 10 where BUGS has 1000, whose far tail (mass 1e-5) rules the sds."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
    lam = pyro.sample("lambda", dist.Uniform(0.5, 1.0))
    tau = pyro.sample("tau", dist.Gamma(1e-4, 1e-4))
    sigma = pyro.deterministic("sigma", tau**-0.5)
    with pyro.plate("animals", len(y)):
        pyro.sample("y", dist.Normal(alpha - beta * lam**x, sigma), obs=y)


def orange(x, y):
    """Logistic growth of trees; ``x`` in thousands of days. Weak priors on the scales."""
    mu = [pyro.sample(f"mu_{k}", dist.Normal(0.0, 10.0)) for k in (1, 2, 3)]
    sigma = [pyro.sample(f"sigma_{k}", dist.HalfNormal(1.0)) for k in (1, 2, 3)]
    sigma_c = pyro.sample("sigma_C", dist.HalfNormal(20.0))
    with pyro.plate("trees", len(y), dim=-2):
        a, b, c = (
            pyro.sample(f"theta_{k}", dist.Normal(mu[k - 1], sigma[k - 1])) for k in (1, 2, 3)
        )
        with pyro.plate("ages", len(x), dim=-1):
            mean = a.exp() / (1 + (b.exp() - 1) * (-c.exp() * x).exp())
            pyro.sample("y", dist.Normal(mean, sigma_c), obs=y)


def blocker(nt, rt, nc, rc):
    d = pyro.sample("d", dist.Normal(0.0, 1000.0))
    sigmasq = pyro.sample("sigmasq_delta", dist.InverseGamma(1e-3, 1e-3))
    sigma = pyro.deterministic("sigma_delta", sigmasq**0.5)
    with pyro.plate("trials", len(nt)):
        mu = pyro.sample("mu", flat())
        delta = pyro.sample("delta", dist.StudentT(4.0, d, sigma))
        pyro.sample("rt", dist.Binomial(nt, logits=mu + delta), obs=rt)
        pyro.sample("rc", dist.Binomial(nc, logits=mu), obs=rc)


def kidney(t, event, age, sex, disease, patient):
    """Weibull times with censoring and a frailty of each patient; ``age`` centred, in decades."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 100.0))
    b_age = pyro.sample("beta_age", dist.Normal(0.0, 100.0))
    b_sex = pyro.sample("beta_sex", dist.Normal(0.0, 100.0))
    with pyro.plate("diseases", 3):
        b_disease = pyro.sample("beta_disease", dist.Normal(0.0, 100.0))
    r = pyro.sample("r", dist.Gamma(1.0, 1e-3))
    tau = pyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    sigma = pyro.deterministic("sigma", tau**-0.5)
    with pyro.plate("patients", 38):
        b = pyro.sample("b", dist.Normal(0.0, sigma))
    eta = alpha + b_age * age + b_sex * sex + disease @ b_disease + b[patient]
    hazard = r.log() + (r - 1) * t.log() + eta
    pyro.factor("t", (event * hazard - (r * t.log() + eta).exp()).sum())


def equiv(treatment, period, y):
    mu = pyro.sample("mu", flat())
    phi = pyro.sample("phi", flat())
    pi = pyro.sample("pi", flat())
    sigmasq1 = pyro.sample("sigmasq1", dist.InverseGamma(1e-3, 1e-3))
    sigmasq2 = pyro.sample("sigmasq2", dist.InverseGamma(1e-3, 1e-3))
    sigma1 = pyro.deterministic("sigma1", sigmasq1**0.5)
    sigma2 = pyro.deterministic("sigma2", sigmasq2**0.5)
    with pyro.plate("people", len(y), dim=-2):
        delta = pyro.sample("delta", dist.Normal(0.0, sigma2))
        with pyro.plate("periods", 2, dim=-1):
            mean = mu + treatment * phi / 2 + period * pi / 2 + delta
            pyro.sample("y", dist.Normal(mean, sigma1), obs=y)


@dataclass(frozen=True)
class BugsPosterior(Posterior):
    """``sites`` are the scalars compared; ``centred`` those the reference takes non-centred."""

    sites: tuple = ()
    centred: tuple = ()

    def reference(self):
        found = HELD[self.name]["reference"]
        return {k: tuple(found[k]) for k in self.sites}


def posteriors():
    """All of them, ``{name: BugsPosterior}``."""
    d = {name: held["data"] for name, held in HELD.items()}

    def get(name, *keys):
        return tuple(np.array(d[name][k], np.float64) for k in keys)

    def names(scalars, **vectors):
        return (
            *scalars.split(),
            *(f"{k}[{i + 1}]" for k, n in vectors.items() for i in range(n)),
        )

    (avoid,) = get("dogs", "Y")
    before = np.cumsum(avoid, 1) - avoid
    failed = np.arange(avoid.shape[1]) - before
    dog = tuple(a[:, 1:].ravel() for a in (before, failed, 1 - avoid))

    base, trt, both, age, fourth, seizures = get(
        "epil", "log_Base4", "Trt", "BT", "log_Age", "V4", "y"
    )
    fits = (*(a - a.mean() for a in (base, trt, both, age, fourth)), seizures)

    dose, plates = get("salm", "x", "y")
    grown = (np.repeat(dose, plates.shape[1]) / 1000, plates.ravel())

    trees, grew = get("orange", "x", "Y")

    k = d["kidney"]
    time, years, sex, disease, patient = (
        np.array(k[f"{key}_uc"] + k[f"{key}_rc"], np.float64)
        for key in ("t", "age", "sex", "disease", "patient")
    )
    event = np.repeat([1.0, 0.0], [len(k["t_uc"]), len(k["t_rc"])])
    infected = (
        time,
        event,
        (years - years.mean()) / 10,
        sex,
        (disease[:, None] == [2, 3, 4]).astype(np.float64),
        patient.astype(np.int64) - 1,
    )

    group, bio = get("equiv", "group", "Y")
    periods = np.array([1.0, -1.0])
    cross = (group[:, None] * periods, periods, bio)

    every = [
        BugsPosterior(
            "surgical",
            surgical,
            get("surgical", "r", "n"),
            sites=names("mu sigma", b=12),
            centred=("b",),
        ),
        BugsPosterior(
            "rats",
            rats,
            get("rats", "x", "y"),
            sites=names("mu_alpha mu_beta sigma_y sigma_alpha sigma_beta", alpha=30, beta=30),
            centred=("alpha", "beta"),
        ),
        BugsPosterior("dogs", dogs, dog, sites=("alpha", "beta")),
        BugsPosterior("pump", pump, get("pump", "t", "x"), sites=names("alpha beta", theta=10)),
        BugsPosterior(
            "epil",
            epil,
            fits,
            sites=names(
                "a0 alpha_Base alpha_Trt alpha_BT alpha_Age alpha_V4 sigma_b sigma_b1",
                b1=59,
                b=236,
            ),
            centred=("b1", "b"),
        ),
        BugsPosterior(
            "salm",
            salm,
            grown,
            sites=names("alpha beta gamma sigma", **{"lambda": 18}),
            centred=("lambda",),
        ),
        BugsPosterior(
            "dugongs",
            dugongs,
            get("dugongs", "x", "Y"),
            sites=names("alpha beta lambda tau sigma"),
        ),
        BugsPosterior(
            "orange",
            orange,
            (trees / 1000, grew),
            sites=names(
                "mu_1 mu_2 mu_3 sigma_1 sigma_2 sigma_3 sigma_C", theta_1=5, theta_2=5, theta_3=5
            ),
            centred=("theta_1", "theta_2", "theta_3"),
        ),
        BugsPosterior(
            "blocker",
            blocker,
            get("blocker", "nt", "rt", "nc", "rc"),
            sites=names("d sigma_delta", mu=22, delta=22),
            centred=("delta",),
        ),
        BugsPosterior(
            "kidney",
            kidney,
            infected,
            sites=names("alpha beta_age beta_sex r sigma", beta_disease=3, b=38),
            centred=("b",),
        ),
        BugsPosterior(
            "equiv",
            equiv,
            cross,
            sites=names("mu phi pi sigma1 sigma2", delta=10),
            centred=("delta",),
        ),
    ]
    return {p.name: p for p in every}
