"""Microseconds of one SVI step: Pyro, this library's compiled loop, and NumPyro twins by hand.

All three in one run, one thread each, the same model, guide and optimizer (Adam). A step's time is
the slope between a short and a long fit, so that compiling and setting up do not count; what
each cost is in the columns beside it.

    python benchmarks/svi.py            # writes benchmarks/results/svi.json
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
from jax.example_libraries import stax
from numpyro.infer import SVI as NumPyroSVI
from numpyro.infer import Trace_ELBO as NumPyroELBO
from numpyro.infer import autoguide as nguide
from pyro.infer.autoguide import AutoNormal

import ppl_zoo as zoo

RESULTS = Path(__file__).parent / "results" / "svi.json"
RATE = 0.001
SEED = 0


# ---- eight schools, non-centred ---------------------------------------------------------------

schools = zoo.data.load("eight-schools").train


def numpyro_schools(y, sigma):
    mu = numpyro.sample("mu", ndist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", ndist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        eta = numpyro.sample("eta", ndist.Normal(0.0, 1.0))
        numpyro.sample("y", ndist.Normal(mu + tau * eta, sigma), obs=y)


# ---- a mixture with its assignments summed out -----------------------------------------------

rng = np.random.default_rng(0)
points = (rng.normal(size=(300, 2)) + 4.0 * rng.integers(0, 3, (300, 1))).astype(np.float32)


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


def numpyro_mixture(x):
    w = numpyro.sample("w", ndist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", ndist.Normal(jnp.zeros(2), 10.0).to_event(1))
        sd = numpyro.sample("sd", ndist.LogNormal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("observations", len(x)):
        # the marginal written by hand: what summing out does, at its fastest
        joint = jnp.log(w) + ndist.Normal(mu, sd).to_event(1).log_prob(x[:, None])
        numpyro.factor("x", jax.nn.logsumexp(joint, -1))


# ---- a variational autoencoder, 784-400-50 -----------------------------------------------------

images = (rng.random((10_000, 784)) < 0.3).astype(np.float32)


class Autoencoder(zoo.Model):
    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.Softplus(), nn.Linear(400, 100))
        self.decoder = nn.Sequential(nn.Linear(50, 400), nn.Softplus(), nn.Linear(400, 784))
        self.register_buffer("zero", torch.zeros(50))

    def model(self, x):
        with self.observations("observations", x):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        loc, log_sd = self.encoder(x).chunk(2, -1)
        with self.observations("observations", x):
            pyro.sample("z", dist.Normal(loc, log_sd.exp()).to_event(1))


init_encoder, encoder = stax.serial(stax.Dense(400), stax.Softplus, stax.Dense(100))
init_decoder, decoder = stax.serial(stax.Dense(400), stax.Softplus, stax.Dense(784))


def numpyro_vae(x):
    decode = numpyro.module("decoder", (init_decoder, decoder), (128, 50))
    with numpyro.plate("observations", 10_000, subsample_size=128):
        z = numpyro.sample("z", ndist.Normal(jnp.zeros(50), 1.0).to_event(1))
        numpyro.sample("x", ndist.Bernoulli(logits=decode(z)).to_event(1), obs=x)


def numpyro_vae_guide(x):
    encode = numpyro.module("encoder", (init_encoder, encoder), (128, 784))
    loc, log_sd = jnp.split(encode(x), 2, -1)
    with numpyro.plate("observations", 10_000, subsample_size=128):
        numpyro.sample("z", ndist.Normal(loc, jnp.exp(log_sd)).to_event(1))


# ---- timing ------------------------------------------------------------------------------------


def time_pyro(name, model, guide, data, steps):
    """Pyro interpreted, with torch's Adam: a little faster than pyro.infer.SVI."""
    elbo = (
        pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
        if "mixture" in name
        else pyro.infer.Trace_ELBO()
    )
    guide(*data)
    modules = [m for m in (model, guide) if isinstance(m, torch.nn.Module)]
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)

    def step():
        optimizer.zero_grad()
        elbo.differentiable_loss(model, guide, *data).backward()
        optimizer.step()

    for _ in range(5):
        step()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - begun) / steps


def time_numpyro(model, guide, data, steps, batch=None):
    """Time a twin by hand, the whole loop inside one jit."""
    svi = NumPyroSVI(model, guide, numpyro.optim.Adam(RATE), NumPyroELBO())
    x = jnp.asarray(data[0])
    first = (x[:batch],) if batch else tuple(jnp.asarray(d) for d in data)
    state = svi.init(jax.random.key(SEED), *first)

    @partial(jax.jit, static_argnums=1)
    def run(state, count):
        def step(i, carry):
            state, _ = carry
            if batch:
                key = jax.random.fold_in(jax.random.key(1), i)
                rows = jax.random.randint(key, (batch,), 0, len(x))
                return svi.update(state, x[rows])
            return svi.update(state, *first)

        return jax.lax.fori_loop(0, count, step, (state, jnp.zeros(())))

    begun = time.perf_counter()
    jax.block_until_ready(run(state, steps))
    compiling = time.perf_counter() - begun
    begun = time.perf_counter()
    jax.block_until_ready(run(state, steps))
    seconds = time.perf_counter() - begun
    return seconds / steps, compiling - seconds


def time_ours(make, data, steps, batch=None):
    """zoo.fit as a user calls it; the slope between a short and a long fit."""

    def fit(count):
        torch.manual_seed(SEED)
        svi = zoo.SVI(
            steps=count,
            guide=None if batch else "normal",  # as the twins have
            compile="xla",
            batch_size=batch,
            schedule="constant",
            learning_rate=RATE,
            window=300 if batch else 1000,  # what the long fit has by itself; compiled once
            parameter_tol=0.0,
        )
        begun = time.perf_counter()
        done = zoo.fit(make(), data, svi, progress=False, device="cpu")
        assert done.solution.engine == "xla"
        assert done.solution.steps == (count,)
        return time.perf_counter() - begun

    cold = fit(steps)
    # the least of several, since fits vary by the capture, the same in both
    count = 1 if batch else 3
    short, long = (min(fit(n) for _ in range(count)) for n in (steps, 5 * steps))
    return (long - short) / (4 * steps), cold


def main(quick=False, only=""):
    torch.set_num_threads(1)
    scale = 20 if quick else 1
    rows = {
        "eight schools": (
            zoo.EightSchools,
            numpyro_schools,
            None,
            schools,
            40_000 // scale,
            300 // scale,
            None,
        ),
        "mixture K=3, N=300": (
            Mixture,
            numpyro_mixture,
            None,
            (torch.from_numpy(points),),
            40_000 // scale,
            200 // scale,
            None,
        ),
        "VAE 784-400-50": (
            Autoencoder,
            numpyro_vae,
            numpyro_vae_guide,
            (torch.from_numpy(images),),
            1200 // scale,
            100 // scale,
            128,
        ),
    }
    results = {}
    rows = {name: row for name, row in rows.items() if only in name}
    for name, (make, twin, twin_guide, data, steps, pyro_steps, batch) in rows.items():
        model = make()
        hidden = pyro.poutine.block(model, hide=["z"]) if make is Mixture else model
        if make is Autoencoder:
            guide = model.guide
            pyro_data = (data[0][:batch],)
        else:
            guide, pyro_data = AutoNormal(hidden), data
        program = pyro.infer.config_enumerate(model) if make is Mixture else model
        pyro_seconds = time_pyro(name, program, guide, pyro_data, pyro_steps)
        numpy_data = tuple(d.numpy() for d in data)
        twin_guide = twin_guide or nguide.AutoNormal(twin)
        alternating = []
        for _ in range(5):  # in turn, so that a machine that slows down slows both
            twin_seconds, twin_compile = time_numpyro(twin, twin_guide, numpy_data, steps, batch)
            ours_seconds, ours_cold = time_ours(make, data, steps, batch)
            alternating.append((ours_seconds / twin_seconds, ours_seconds, twin_seconds))
        ratio, ours_seconds, twin_seconds = sorted(alternating)[2]
        results[name] = {
            "pyro_us": pyro_seconds * 1e6,
            "numpyro_us": twin_seconds * 1e6,
            "ours_us": ours_seconds * 1e6,
            "ours_over_numpyro": ratio,
            "pyro_over_ours": pyro_seconds / ours_seconds,
            "numpyro_compile_s": twin_compile,
            "ours_first_fit_s": ours_cold,
        }
        r = results[name]
        print(
            f"{name:20} Pyro {r['pyro_us']:9.1f} us   NumPyro {r['numpyro_us']:8.2f} us   "
            f"ours {r['ours_us']:8.2f} us   ours/NumPyro {ratio:.2f}   "
            f"Pyro/ours {r['pyro_over_ours']:.0f}",
            flush=True,
        )
    if not quick:
        if only:  # the other rows stay as they were
            results = json.loads(RESULTS.read_text())["rows"] | results
        versions = {n: version(n) for n in ("torch", "pyro-ppl", "numpyro", "jax")}
        machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "threads": 1}
        record = {"rows": results, "versions": versions, "machine": machine}
        RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short runs; writes nothing")
    parser.add_argument("--only", default="", help="part of a row's name; renews that row")
    main(**vars(parser.parse_args()))
