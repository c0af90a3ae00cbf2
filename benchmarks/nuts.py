"""Effective draws a gradient and a second of zoo.NUTS, beside NumPyro's own NUTS.

Two tables. The posteriors of posteriordb (`tests/posteriordb.py`): zoo.NUTS with defaults, and
NumPyro's NUTS with its own (diagonal mass matrix, uniform starts) on the same captured potential,
so that a gradient costs both the same. Effective draws are the least bulk ESS of the scalars of
all sites; gradients are those after the warm-up, or all of them. And models with twins written by
hand in NumPyro: draws and leapfrog steps a second.

Both in one run, one thread each, four chains, the same warm-up. Seconds are CPU seconds of
sampling, warm-up included and compiling not, so that a busy machine changes them little; the time
of a leapfrog step is given beside it.

    PPL_ZOO_DATA=... python benchmarks/nuts.py            # writes benchmarks/results/nuts.json
    PPL_ZOO_DATA=... python benchmarks/nuts.py --only seeds   # renews these rows alone
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import json
import logging
import platform
import sys
import time
import warnings
from functools import partial
from importlib.metadata import version
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as dist
import torch
from numpyro.infer import NUTS as NumPyroNUTS
from numpyro.infer.hmc import HMCState, hmc
from numpyro.util import fori_collect

import ppl_zoo as zoo
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.solvers.unconstrained import Unconstrained

RESULTS = Path(__file__).parent / "results" / "nuts.json"
CHAINS, WARMUP = 4, 500
#: of the posteriors, the defaults of zoo.NUTS
DRAWS, LONG_WARMUP = 1000, 1000
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from posteriordb import posteriors  # noqa: E402  (a module of the tests)

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
    solver, begun = zoo.NUTS(num, WARMUP, num_chains=CHAINS), time.process_time()
    rows = model.as_rows(data)
    with model.defaults():
        problem = Unconstrained(model, rows)
        engine = solver._make_engine(problem, seed, "numpyro")
        assert engine.name == "xla"
        engine.start(solver._find_start(problem, engine, seed))
        while engine.iteration < WARMUP:
            engine.advance(WARMUP - engine.iteration)
        engine.constrain(np.zeros((CHAINS, num, problem.size), engine.dtype))
        warm = time.process_time()
        blocks = []
        while engine.iteration < WARMUP + num:
            blocks.append(engine.advance(WARMUP + num - engine.iteration))
        engine.constrain(np.concatenate([b["z"] for b in blocks], 1))
        seconds = time.process_time() - warm
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
        begun = time.process_time()
        state = self.start._replace(rng_key=jax.random.split(jax.random.key(seed), CHAINS))
        state, *_ = self.run(state, WARMUP)
        if not self.compiled:
            jax.block_until_ready(self.run(state, num))
            self.compiled = True
        warm = time.process_time()
        _, _, steps = jax.block_until_ready(self.run(state, num))
        seconds = time.process_time() - warm
        return num / seconds, seconds / leapfrogs(np.asarray(steps).T), warm - begun


# ---- posteriors ------------------------------------------------------------------------------


def least_ess(draws):
    """Least bulk ESS of the scalars of all sites, and their largest R-hat."""
    data = az.convert_to_dataset({k: np.asarray(v) for k, v in draws.items()})
    # a site that is the same in every draw has none
    ess = [np.asarray(v) for v in az.ess(data).values()]
    rhat = [np.asarray(v) for v in az.rhat(data).values()]
    return float(min(np.nanmin(v) for v in ess)), float(max(np.nanmax(v) for v in rhat))


def problem_of(posterior):
    """Density of a posterior on the unconstrained scale, as zoo.fit has it."""
    model = FunctionModel(posterior.model)
    rows = model.as_rows(posterior.data)
    with model.defaults():
        model.find_data_plate(rows)
        return Unconstrained(model, rows)


def run_ours(problem, posterior, seed):
    """zoo.NUTS with its defaults; its engine beside the figures."""
    solver = zoo.NUTS(DRAWS, LONG_WARMUP, num_chains=CHAINS)
    with problem.model.defaults():
        engine = solver._make_engine(problem, seed, "numpyro")
        assert engine.name == "xla"
        engine.start(solver._find_start(problem, engine, seed))
        for state, root in zip(
            engine.states, engine._roots(engine.adaptation.matrix), strict=True
        ):
            engine._run(state, 1, root, True)  # compiled, and thrown away
        begun, blocks = time.process_time(), []
        solver._find_start(problem, engine, seed)
        while engine.iteration < LONG_WARMUP + DRAWS:
            blocks.append(solver._advance(engine))
        seconds = time.process_time() - begun
        found = {k: np.concatenate([b[k] for b in blocks], 1) for k in blocks[0]}
        draws = engine.constrain(found["z"][:, LONG_WARMUP:])
    return engine, figures(draws, posterior, found, seconds)


def run_numpyro(engine, posterior, seed):
    """NumPyro's NUTS with its defaults on the engine's potential, chains side by side."""
    captured, data = engine.captured, engine.captured.data
    with captured.scope():
        init, sample = hmc(lambda z: captured.potential(z, *data))

        def begin(z, key):
            return init(z, num_warmup=LONG_WARMUP, trajectory_length=None, rng_key=key)

        state = jax.vmap(begin)(*numpyro_starts(engine, seed))
        state = state._replace(i=state.i[0])
        axes = HMCState(*[None if f == "i" else 0 for f in HMCState._fields])
        step = jax.vmap(sample, in_axes=(axes,), out_axes=axes)

        def run(state):
            return fori_collect(
                0,
                DRAWS,
                step,
                state,
                transform=lambda s: {"z": s.z, "n_steps": s.num_steps, "diverging": s.diverging},
                return_last_val=True,
                progbar=False,
            )

        compiled = jax.jit(run, compiler_options=captured.compiler_options).lower(state).compile()
        begun = time.process_time()
        warm, state = compiled(state)
        kept, _ = jax.block_until_ready(compiled(state))
        seconds = time.process_time() - begun
        found = {k: np.concatenate([warm[k], kept[k]]).swapaxes(0, 1) for k in kept}
    draws = engine.constrain(found["z"][:, LONG_WARMUP:])
    return figures(draws, posterior, found, seconds)


def numpyro_starts(engine, seed):
    """Uniform within 2 of 0, as NumPyro's, the first of a finite density; and keys."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(-2, 2, (CHAINS, 100, engine.problem.size))
    values, gradients = engine.evaluate(starts)
    good = np.isfinite(values) & np.isfinite(gradients).all(-1)
    z = starts[np.arange(CHAINS), good.argmax(1)].astype(engine.dtype)
    return jnp.asarray(z), jax.random.split(jax.random.key(seed), CHAINS)


def figures(draws, posterior, found, seconds):
    """Summarise one run, from arrays ``(chain, iteration)`` with the warm-up."""
    draws = {k: v.numpy() for k, v in draws.items()}
    ess, rhat = least_ess(draws)
    steps = found["n_steps"]
    gradients, every = int(steps[:, LONG_WARMUP:].sum()), int(steps.sum())
    return {
        "ess": ess,
        "gradients": gradients,
        "warmup_gradients": every - gradients,
        "ess_a_gradient": ess / gradients,
        "ess_a_gradient_with_warmup": ess / every,
        "ess_a_second": ess / seconds,
        "seconds": seconds,
        "gradient_us": seconds / every * 1e6,
        "divergences": int(found["diverging"][:, LONG_WARMUP:].sum()),
        "rhat": rhat,
        "mean_error": max(abs(float(m)) for m, _ in posterior.errors(draws).values()),
    }


def compare(posterior, seed):
    """Both samplers on one posterior."""
    engine, ours = run_ours(problem_of(posterior), posterior, seed)
    theirs = run_numpyro(engine, posterior, seed)
    ratios = {
        f"{k}_ratio": ours[k] / theirs[k]
        for k in ("ess_a_gradient", "ess_a_gradient_with_warmup", "ess_a_second")
    }
    row = {
        "linear": posterior.linear,
        "latents": engine.problem.size,
        "chain_method": "vectorized" if isinstance(engine.groups[0], slice) else "parallel",
        "numbers_a_gradient": engine.captured.num_numbers,
        "zoo": ours,
        "numpyro": theirs,
    }
    return row | ratios


def shown(name, row):
    """One line of a row."""
    ours, theirs = row["zoo"], row["numpyro"]
    return (
        f"{name[:34]:34} ESS/1000 gradients {1e3 * ours['ess_a_gradient']:7.1f} and "
        f"{1e3 * theirs['ess_a_gradient']:7.1f}: {row['ess_a_gradient_ratio']:6.2f} x, with "
        f"warm-up {row['ess_a_gradient_with_warmup_ratio']:6.2f} x, a second "
        f"{row['ess_a_second_ratio']:6.2f} x   divergences {ours['divergences']}, "
        f"{theirs['divergences']}   R-hat {ours['rhat']:.2f}, {theirs['rhat']:.2f}   us a "
        f"gradient {ours['gradient_us']:.0f}, {theirs['gradient_us']:.0f}"
    )


def main(only=""):
    """Measure the rows whose name contains ``only``, and renew them in the record."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    record = json.loads(RESULTS.read_text())
    for name, posterior in posteriors().items():
        if only not in name:
            continue
        row = record.setdefault("posteriors", {})[name] = compare(posterior, seed=0)
        print(shown(name, row), flush=True)
        write(record)
    for name, twin in MODELS.items():
        if only in name:
            row = record["twins"][name] = compare_twins(name, *twin)
            write(record)
    ratios = [row["ess_a_gradient_ratio"] for row in record["posteriors"].values()]
    print(
        f"effective draws a gradient, zoo.NUTS over NumPyro's: median {np.median(ratios):.2f}, "
        f"least {min(ratios):.2f}, of {len(ratios)} posteriors"
    )


def write(record):
    """Write the record, with what it was made by."""
    ratios = [row["ess_a_gradient_ratio"] for row in record["posteriors"].values()]
    record["median_ratio"], record["least_ratio"] = float(np.median(ratios)), min(ratios)
    record["setting"] = {"chains": CHAINS, "warmup": LONG_WARMUP, "draws_a_chain": DRAWS}
    record["versions"] = {n: version(n) for n in ("torch", "pyro-ppl", "numpyro", "jax")}
    record["machine"] = {"architecture": platform.machine(), "threads": 1}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def compare_twins(name, make, twin, data, num=5000, turns=3):
    """Draws and leapfrog steps a second of a model and its twin."""
    model, by_hand, ours, theirs = make(), Twin(twin, data), [], []
    for seed in range(turns):  # in turn, so that a machine that slows down slows both
        theirs.append(by_hand.time(num, seed))
        ours.append(time_ours(model, data, num, seed))
    a, b = np.median(ours, 0), np.median(theirs, 0)
    row = {
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
        f"{name:20} ours {row['ours_draws_per_second']:9.0f}/s   NumPyro "
        f"{row['numpyro_draws_per_second']:9.0f}/s   NumPyro/ours {row['numpyro_over_ours']:.2f}"
        f"   leapfrog {row['ours_leapfrog_us']:.2f} and {row['numpyro_leapfrog_us']:.2f} us   "
        f"warm after {row['ours_until_warm_s']:.1f} s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a row's name; renews these alone")
    main(**vars(parser.parse_args()))
