"""CPU seconds of simulation-based calibration: data sets fitted together, and one by one.

Eight schools simulated from its own prior, fitted by what `zoo.calibrate` calls and, in the same
run, by `zoo.fit` alone. One thread; programs are compiled before the clock starts.

    python benchmarks/calibration.py    # writes benchmarks/results/calibration.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import json
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import ppl_zoo as zoo
from ppl_zoo.core.tracing import simulate
from ppl_zoo.fitting.run import fit_many

RESULTS = Path(__file__).parent / "results" / "calibration.json"
SOLVERS = {
    "SVI, fixed draws": zoo.SVI(),
    "SVI, stochastic, 5,000 steps": zoo.SVI(objective="stochastic", steps=5000),
    "NUTS, one chain, 200 + 200": zoo.NUTS(num_samples=200, num_warmup=200, num_chains=1),
}


def timed(run: Callable[[], object]) -> float:
    """CPU seconds of a run."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def main(simulations: int = 50, quick: bool = False) -> None:
    """Fit so many data sets in both ways."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="NUTS: .* diverged")
    model = zoo.EightSchools()
    rows = model.as_rows(zoo.data.load("eight-schools").train).all()
    torch.manual_seed(0)
    tables = [(simulate(model, rows)["y"], rows[1]) for _ in range(simulations)]
    results = {}
    for name, solver in SOLVERS.items():

        def together(solver: object = solver) -> None:
            fit_many(model, tables, solver)

        def alone(solver: object = solver) -> None:
            for table in tables:
                zoo.fit(model.fresh(), table, solver, progress=False, device="cpu")

        fit_many(model, tables, solver)
        zoo.fit(model.fresh(), tables[0], solver, progress=False, device="cpu")
        seconds = {"together": timed(together), "alone": timed(alone)}
        results[name] = seconds | {"ratio": seconds["alone"] / seconds["together"]}
        print(name, {k: round(v, 2) for k, v in results[name].items()}, flush=True)
    if not quick:
        versions = {n: version(n) for n in ("torch", "pyro-ppl", "numpyro", "jax")}
        record = {"simulations": simulations, "cpu_seconds": results, "versions": versions}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="writes nothing")
    main(**vars(parser.parse_args()))
