"""Draws per second of zoo.NUTS and of NumPyro's NUTS on twins written by hand.

Both in one run, one thread each, four vectorised chains, the same warm-up, draws brought back to
the model's scale. Capturing, compiling and warm-up do not count (they are in a column of their
own). The length of trajectories varies between runs, since step sizes adapt; the time of a
leapfrog step of all chains is given beside it.

    python benchmarks/nuts.py            # writes benchmarks/results/nuts.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import json
import platform
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as dist
import torch
from numpyro.infer import NUTS as NumPyroNUTS
from numpyro.util import fori_collect

import ppl_zoo as zoo
from ppl_zoo.solvers.unconstrained import Unconstrained

RESULTS = Path(__file__).parent / "results" / "nuts.json"
CHAINS, WARMUP = 4, 500
rng = np.random.default_rng(0)

# ---- eight schools, non-centred ---------------------------------------------------------------

schools = zoo.data.load("eight-schools").train


def schools_twin(y, sigma):
    mu = numpyro.sample("mu", ndist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", ndist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        eta = numpyro.sample("eta", ndist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", ndist.Normal(theta, sigma), obs=y)


# ---- a mixture with its assignments summed out -----------------------------------------------

which = rng.choice(3, 300, p=[0.2, 0.3, 0.5])
points = (rng.normal(size=(300, 2)) + 4.0 * which[:, None]).astype(np.float32)


class Mixture(zoo.Model):
    def __init__(self):
        super().__init__()
        self.register_buffer("ones", torch.ones(3))
        self.register_buffer("zeros", torch.zeros(2))

    def model(self, x):
        w = pyro.sample("w", dist.Dirichlet(self.ones))
        with pyro.plate("components", 3):
            mu = pyro.sample("mu", dist.Normal(self.zeros, 10.0).to_event(1))
            sd = pyro.sample("sd", dist.LogNormal(self.zeros, 1.0).to_event(1))
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(mu[z], sd[z]).to_event(1), obs=x)


def mixture_twin(x):
    w = numpyro.sample("w", ndist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", ndist.Normal(jnp.zeros(2), 10.0).to_event(1))
        sd = numpyro.sample("sd", ndist.LogNormal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("observations", len(x)):
        # the marginal written by hand: what summing out does, at its fastest
        joint = jnp.log(w) + ndist.Normal(mu, sd).to_event(1).log_prob(x[:, None])
        numpyro.factor("x", jax.nn.logsumexp(joint, -1))


# ---- linear regression -------------------------------------------------------------------------

inputs = rng.normal(size=(200, 5)).astype(np.float32)
outputs = (1.0 + inputs @ np.arange(5.0) + rng.normal(size=200)).astype(np.float32)


def regression_twin(x, y):
    variance = numpyro.sample("variance", ndist.InverseGamma(1.0, 1.0))
    sd = jnp.sqrt(variance)
    intercept = numpyro.sample("intercept", ndist.Normal(0.0, 100.0 * sd))
    weights = numpyro.sample("weights", ndist.Normal(0.0, 100.0 * sd).expand([5]).to_event(1))
    with numpyro.plate("observations", len(y)):
        numpyro.sample("y", ndist.Normal(intercept + x @ weights, sd), obs=y)


# ---- counts, partially pooled -----------------------------------------------------------------

site = np.arange(500) % 20
counts = rng.poisson(np.exp(1.0 + 0.5 * rng.normal(size=20))[site]).astype(np.float32)


class Counts(zoo.Model):
    def model(self, y, site):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        sd = pyro.sample("sd", dist.HalfNormal(1.0))
        with pyro.plate("sites", 20):
            effect = pyro.sample("effect", dist.Normal(mu, sd))
        with self.observations("visits", y):
            pyro.sample("y", dist.Poisson(effect[site].exp()), obs=y)


def counts_twin(y, site):
    mu = numpyro.sample("mu", ndist.Normal(0.0, 3.0))
    sd = numpyro.sample("sd", ndist.HalfNormal(1.0))
    with numpyro.plate("sites", 20):
        effect = numpyro.sample("effect", ndist.Normal(mu, sd))
    with numpyro.plate("visits", len(y)):
        numpyro.sample("y", ndist.Poisson(jnp.exp(effect[site])), obs=y)


MODELS = {
    "eight schools": (zoo.EightSchools, schools_twin, schools),
    "mixture K=3, N=300": (Mixture, mixture_twin, (torch.from_numpy(points),)),
    "linear regression": (
        lambda: zoo.LinearRegression(5),
        regression_twin,
        (torch.from_numpy(inputs), torch.from_numpy(outputs)),
    ),
    "Poisson, 20 sites": (
        Counts,
        counts_twin,
        (torch.from_numpy(counts), torch.from_numpy(site)),
    ),
}


# ---- timing ------------------------------------------------------------------------------------


def leapfrogs(n_steps):
    """Count the steps that vectorised chains take: all wait for the longest."""
    return n_steps.max(0).sum()


def time_ours(model, data, num, seed):
    """Time the sampler of zoo.fit, block by block, and the way back to the model's scale."""
    solver, begun = zoo.NUTS(num, WARMUP, num_chains=CHAINS), time.perf_counter()
    rows = model.as_rows(data)
    with model.defaults():
        problem = Unconstrained(model, rows)
        engine = solver._make_engine(problem, seed, "numpyro")
        assert engine.name == "xla"
        engine.start(solver._find_start(problem, engine, seed))
        while engine.iteration < WARMUP:
            engine.advance(WARMUP - engine.iteration)
        engine.constrain(np.zeros((CHAINS, num, problem.size), np.float32))
        warm = time.perf_counter()
        blocks = []
        while engine.iteration < WARMUP + num:
            blocks.append(engine.advance(WARMUP + num - engine.iteration))
        engine.constrain(np.concatenate([b["z"] for b in blocks], 1))
        seconds = time.perf_counter() - warm
    steps = np.concatenate([b["n_steps"] for b in blocks], 1)
    return num / seconds, seconds / leapfrogs(steps), warm - begun


class Twin:
    """NumPyro's kernel on a twin, the whole loop and the way back inside one jit."""

    def __init__(self, twin, data):
        data = tuple(jnp.asarray(d.numpy()) for d in data)
        kernel = NumPyroNUTS(twin)
        self.start = kernel.init(jax.random.split(jax.random.key(0), CHAINS), WARMUP, None, data)
        back = kernel.postprocess_fn(data, {})

        @partial(jax.jit, static_argnums=1)
        def run(state, count):
            (z, steps), state = fori_collect(
                0,
                count,
                lambda state: kernel.sample(state, data, {}),
                state,
                transform=lambda state: (state.z, state.num_steps),
                return_last_val=True,
                progbar=False,
            )
            return state, jax.vmap(jax.vmap(back))(z), steps

        self.run, self.compiled = run, False

    def time(self, num, seed):
        begun = time.perf_counter()
        state = self.start._replace(rng_key=jax.random.split(jax.random.key(seed), CHAINS))
        state, *_ = self.run(state, WARMUP)
        if not self.compiled:
            jax.block_until_ready(self.run(state, num))
            self.compiled = True
        warm = time.perf_counter()
        _, _, steps = jax.block_until_ready(self.run(state, num))
        seconds = time.perf_counter() - warm
        return num / seconds, seconds / leapfrogs(np.asarray(steps).T), warm - begun


def main(quick=False, only=""):
    torch.set_num_threads(1)
    num, turns = (1000, 1) if quick else (5000, 3)
    results = {}
    for name, (make, twin, data) in MODELS.items():
        if only not in name:
            continue
        model, by_hand, ours, theirs = make(), Twin(twin, data), [], []
        for seed in range(turns):  # in turn, so that a machine that slows down slows both
            theirs.append(by_hand.time(num, seed))
            ours.append(time_ours(model, data, num, seed))
        a, b = np.median(ours, 0), np.median(theirs, 0)
        results[name] = r = {
            "ours_draws_per_second": CHAINS * a[0],
            "numpyro_draws_per_second": CHAINS * b[0],
            "numpyro_over_ours": b[0] / a[0],
            "ours_leapfrog_us": a[1] * 1e6,
            "numpyro_leapfrog_us": b[1] * 1e6,
            "leapfrog_ours_over_numpyro": a[1] / b[1],
            "ours_until_warm_s": ours[0][2],
            "ratios_by_turn": [t[0] / o[0] for t, o in zip(theirs, ours, strict=True)],
        }
        print(
            f"{name:20} ours {r['ours_draws_per_second']:9.0f}/s   NumPyro "
            f"{r['numpyro_draws_per_second']:9.0f}/s   NumPyro/ours {r['numpyro_over_ours']:.2f}"
            f"   leapfrog {r['ours_leapfrog_us']:.2f} and {r['numpyro_leapfrog_us']:.2f} us   "
            f"warm after {r['ours_until_warm_s']:.1f} s",
            flush=True,
        )
    if not quick and not only:
        versions = {n: version(n) for n in ("torch", "pyro-ppl", "numpyro", "jax")}
        machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "threads": 1}
        setting = {"chains": CHAINS, "warmup": WARMUP, "draws_a_chain": num, "turns": turns}
        record = {"rows": results, "setting": setting, "versions": versions, "machine": machine}
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs; writes nothing")
    parser.add_argument("--only", default="", help="part of a row's name; writes nothing")
    main(**vars(parser.parse_args()))
