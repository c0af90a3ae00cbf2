"""Simulation-based calibration of `zoo.Auto`, the solver that picks solvers.

Five models (`tests/simulated.py`), each fitted by `zoo.Auto()` to data sets drawn from its own
prior; the ranks of the true values among 99 posterior draws are uniform where the answers are
right. For each scalar: the p-value of chi-square in ten bins, that of symmetry about the middle,
and the largest distance of the ranks' distribution function from the uniform one, over the band
that holds 95 % of all scalars' curves of a model together. CPU seconds of one thread.

    python benchmarks/auto_calibration.py    # writes benchmarks/results/auto_calibration.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy import stats

import ppl_zoo as zoo
from ppl_zoo.core.functions import FunctionModel
from ppl_zoo.fitting import calibration

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "auto_calibration.json"
sys.path.insert(0, str(ROOT / "tests"))

from simulated import MODELS, heavy_tails_scale  # noqa: E402  (a module of the tests)

NUM_BINS = 10


def main(simulations: int = 120, quick: bool = False, only: str = "") -> None:
    """Calibrate Auto on each model."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, (program, data) in MODELS.items():
        if only not in name:
            continue
        begun = time.process_time()
        rungs: Counter[str] = Counter()
        found = calibrated(program, data, simulations, rungs)
        scalars = {scalar: measured(found, scalar) for scalar in found.ranks}
        row = {
            "simulations": simulations,
            "failed": found.failed,
            "refused": found.refused,
            "rungs": dict(rungs),
            "verdict": list(found.verdict),
            "scalars": scalars,
            "cpu_seconds": round(time.process_time() - begun),
        }
        if name == "heavy tails":
            row["exact sigma"] = measured(exact_scale(simulations, len(scalars)), "sigma")
        print(f"{name}: {found}\n  rungs {dict(rungs)}", flush=True)
        for scalar, values in scalars.items():
            print(f"  {scalar}: {values}", flush=True)
        if "exact sigma" in row:
            print(f"  sigma by its exact posterior: {row['exact sigma']}", flush=True)
        if not quick:
            record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": {}}
            record["models"][name] = row
            names = ("torch", "pyro-ppl", "numpyro", "jax")
            record["versions"] = {n: version(n) for n in names}
            RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def measured(found, scalar):
    """Measure how far the ranks of a scalar are from uniform."""
    # bins of as many ranks each: 100 values in ten
    bins = found.ranks[scalar] * NUM_BINS // (found.num_draws + 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    band = found.band(1 - calibration.LEVEL / len(found.ranks))
    return {
        "chi_square_p": round(float(stats.chisquare(counts).pvalue), 3),
        "symmetry_p": round(found.symmetry(scalar), 3),
        "of_band": round(float(np.abs(found.ecdf_difference(scalar)[1] / band).max()), 3),
    }


def exact_scale(simulations, num_scalars):
    """Rank the true scales of `heavy tails` by their exact posterior, by quadrature."""
    program, data = MODELS["heavy tails"]
    model = FunctionModel(program)
    ranks = []
    for number in range(simulations):
        truth = calibration._simulated(model, model.as_rows(data).all(), 0, number)
        ranks.append(min(int(100 * heavy_tails_scale(truth["y"], truth["sigma"])), 99))
    # as many scalars as the calibration beside it has, for the same band
    return calibration.Calibration(
        {name: np.array(ranks) for name in ["sigma", *range(num_scalars - 1)]}, 99
    )


def calibrated(program, data, simulations, rungs):
    """Calibrate one model, and count the rungs that answered."""

    def counted(*arguments, **options):
        fits = fit_many(*arguments, **options)
        rungs.update(fit.ladder[-1].name for fit in fits if fit is not None)
        return fits

    fit_many = calibration.fit_many
    with mock.patch.object(calibration, "fit_many", counted):
        return zoo.calibrate(FunctionModel(program), data, zoo.Auto(), simulations, progress=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=120)
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--quick", action="store_true", help="writes nothing")
    main(**vars(parser.parse_args()))
