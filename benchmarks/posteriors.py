"""Do variational fits arrive: eight posteriors, mean field and full rank, ours beside Pyro's.

Ours is ``zoo.fit`` with defaults. Beside it Pyro as it is usually run: the same guides,
``ClippedAdam`` of 0.02 decayed to a tenth, 5,000 steps of one draw. Errors are those of means
and sds on the constrained scale, in units of the reference posterior's sd, from 20,000 draws (of
Pyro's guide 2,000).
Seconds are CPU seconds of one thread, compiling included.

    PPL_ZOO_DATA=... python benchmarks/posteriors.py     # writes results/posteriors.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pyro
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.optim import ClippedAdam

import ppl_zoo as zoo

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from posteriors import POSTERIORS, folder  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "posteriors.json"
SEED, STEPS, DRAWS = 0, 5_000, 20_000
GUIDES = {"normal": AutoNormal, "multivariate-normal": AutoMultivariateNormal}


def ours(posterior, guide):
    model = posterior.model.fresh()
    begun = time.process_time()
    fit = zoo.fit(model, posterior.data, zoo.SVI(guide=guide), seed=SEED, progress=False)
    seconds = time.process_time() - begun
    draws = {k: v[0].numpy() for k, v in fit.posterior(DRAWS).items()}
    mean, sd = posterior.errors(draws)
    return {
        "elbo": fit.objective,
        "elbo_error": float(fit.solution.objective_error[0]),
        "mean_error": mean,
        "sd_error": sd,
        "khat": float(fit.khat()[0]),
        "iterations": fit.solution.steps[0],
        "cpu_seconds": seconds,
        "reason": fit.solution.reason,
    }


def pyros(posterior, guide):
    model = posterior.model.fresh()
    data = model.as_rows(posterior.data).all()
    pyro.set_rng_seed(SEED)
    pyro.clear_param_store()
    guide = GUIDES[guide](model)
    optimizer = ClippedAdam({"lr": 0.02, "lrd": 0.1 ** (1 / STEPS)})
    svi = pyro.infer.SVI(model, guide, optimizer, pyro.infer.Trace_ELBO())
    begun = time.process_time()
    for _ in range(STEPS):
        svi.step(*data)
    seconds = time.process_time() - begun
    with torch.no_grad():
        elbo = -sum(svi.evaluate_loss(*data) for _ in range(300)) / 300
        predictive = pyro.infer.Predictive(model, guide=guide, num_samples=2_000)
        draws = predictive(*data)
    mean, sd = posterior.errors({k: v.numpy() for k, v in draws.items()})
    return {"elbo": elbo, "mean_error": mean, "sd_error": sd, "cpu_seconds": seconds}


def record(rows):
    versions = {n: version(n) for n in ("torch", "pyro-ppl", "numpyro", "jax")}
    machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "threads": 1}
    found = {"rows": rows, "seed": SEED, "versions": versions, "machine": machine}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def main(only=""):
    if folder() is None:
        sys.exit("set PPL_ZOO_DATA to the folder that holds posteriordb/ and inference_gym/")
    torch.set_num_threads(1)
    rows = {}
    for name, make in POSTERIORS.items():
        if only not in name:
            continue
        posterior = make()
        for guide, optimum in zip(GUIDES, posterior.optimum, strict=True):
            row = {
                "optimum": optimum,
                "ppl_zoo": ours(posterior, guide),
                "pyro": pyros(posterior, guide),
            }
            rows[f"{name}, {guide}"] = row
            a, b = row["ppl_zoo"], row["pyro"]
            print(
                f"{name:25} {guide:20} optimum {optimum:10.2f} | ours {a['elbo']:10.2f} "
                f"mean {a['mean_error']:.3f} sd {a['sd_error']:+.2f} {a['cpu_seconds']:5.1f} s | "
                f"Pyro {b['elbo']:10.2f} mean {b['mean_error']:.2f} sd {b['sd_error']:+.2f} "
                f"{b['cpu_seconds']:5.1f} s",
                flush=True,
            )
            if not only:
                record(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a posterior's name")
    main(parser.parse_args().only)
