"""Memory of a long process: models of ever new shapes, fitted one after the other.

Compiled programs are kept for shapes that come again; here none does. NUTS, stochastic SVI and SVI
with fixed draws take turns. Resident memory is read every 20 fits, the first time after one fit of
each. One thread; nothing is read from programs on disk.

    python benchmarks/memory.py    # writes benchmarks/results/memory.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["PPL_ZOO_XLA_CACHE"] = "off"

import argparse
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

import ppl_zoo as zoo
from ppl_zoo.compiler.xla.cache import MAX_PROGRAMS, PROGRAMS

RESULTS = Path(__file__).parent / "results" / "memory.json"
SOLVERS = {
    "NUTS": zoo.NUTS(num_samples=5, num_warmup=5, num_chains=2),
    "SVI, stochastic": zoo.SVI(objective="stochastic", steps=20, compile="xla"),
    "SVI, fixed draws": zoo.SVI(objective="fixed-draws", steps=20),
}


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def fit(index: int) -> None:
    """Fit eight schools to so many schools as no fit before had."""
    noise = torch.Generator().manual_seed(index)
    y, sigma = torch.randn(2, 10 + index, generator=noise)
    solver = list(SOLVERS.values())[index % len(SOLVERS)]
    zoo.fit(zoo.EightSchools(), (y, sigma.exp()), solver, progress=False, device="cpu")


def main(fits: int = 200, every: int = 20, quick: bool = False) -> dict[str, float]:
    """Fit so many models and read the memory between."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # so few draws and steps do not converge
    found: dict[str, float] = {}
    for index in range(fits):
        fit(index)
        done = index + 1
        if done == len(SOLVERS) or done % every == 0:
            found[str(done)] = round(resident())
            print(
                f"{done:4d} fits: {found[str(done)]:5.0f} MB, {len(PROGRAMS)} programs", flush=True
            )
    if not quick:
        versions = {n: version(n) for n in ("torch", "pyro-ppl", "numpyro", "jax")}
        record = {"max_programs": MAX_PROGRAMS, "resident_mb": found, "versions": versions}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="writes nothing")
    main(**vars(parser.parse_args()))
